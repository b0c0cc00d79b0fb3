"""MobileNetV2."""

from case import Case, Pixels

# The seventeen blocks are always there; these are their narrowest.
CONFIG = dict(depth_multiplier=0.1, depth_divisible_by=4, min_depth=4, expand_ratio=2.0, finegrained_output=False)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(32, 32)


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, **rest)


CASES = [
    case("model", "MobileNetV2Model", CONFIG, Pixels(33, 40, 1), layers=True),
    case("image-classification", "MobileNetV2ForImageClassification", LABELS, Pixels(32, 24)),
    case(
        "semantic-segmentation",
        "MobileNetV2ForSemanticSegmentation",
        LABELS | dict(output_stride=8),
        Pixels(32, 40, 1),
    ),
    # Padding as PyTorch does it: the same on all sides.
    case(
        "model-symmetric-padding",
        "MobileNetV2Model",
        CONFIG | dict(tf_padding=False),
        Pixels(31, 40, 1),
        layers=True,
    ),
    case(
        "semantic-segmentation-stride-16",
        "MobileNetV2ForSemanticSegmentation",
        LABELS | dict(output_stride=16, tf_padding=False),
        Pixels(35, 32, 1),
    ),
    # Convolutions that reach further, with the padding of TensorFlow.
    case("model-stride-4", "MobileNetV2Model", CONFIG | dict(output_stride=4), Pixels(16, 21, 1), layers=True),
    case("model-expansion-first", "MobileNetV2Model", CONFIG | dict(first_layer_is_expansion=False), Pixels(32, 32, 1)),
    # The last layer keeps its width where the others are narrower.
    case("model-wide-output", "MobileNetV2Model", CONFIG | dict(finegrained_output=True), Pixels(32, 24, 1)),
    # The rounding of widths, at both of its ends.
    case(
        "model-depth-multiplier",
        "MobileNetV2Model",
        dict(depth_multiplier=0.35, depth_divisible_by=8, min_depth=8, expand_ratio=2.5, finegrained_output=False),
        Pixels(32, 24, 1),
    ),
    case(
        "image-classification-gray",
        "MobileNetV2ForImageClassification",
        LABELS | dict(num_channels=1),
        Pixels(32, 32, 2, 1),
    ),
    case("model-relu", "MobileNetV2Model", CONFIG | dict(hidden_act="relu"), Pixels(32, 24, 1)),
    case("model-eps", "MobileNetV2Model", CONFIG | dict(layer_norm_eps=0.1), Pixels(32, 24, 1)),
    # Keys as in config.json of google/mobilenet_v2_1.0_224.
    case(
        "image-classification-hub-config",
        "MobileNetV2ForImageClassification",
        LABELS,
        Pixels(32, 24, 1),
        sparse=True,
        file=dict(
            classifier_dropout_prob=0.8,
            first_layer_is_expansion=True,
            hidden_act="relu6",
            image_size=224,
            initializer_range=0.02,
            layer_norm_eps=0.001,
            num_channels=3,
            output_stride=32,
            semantic_loss_ignore_index=255,
            tf_padding=True,
            transformers_version="4.25.0.dev0",
        ),
    ),
    case("image-classification-f16", "MobileNetV2ForImageClassification", LABELS, Pixels(32, 24, 1), dtype="f16"),
]
