"""DeiT."""

from case import REMOVED, Case, Pixels

CONFIG = dict(
    image_size=16,
    patch_size=4,
    encoder_stride=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(16, 16)
# Another size than the table of positions was made for.
LARGER = dict(interpolate_pos_encoding=True)


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, **rest)


CASES = [
    case("model", "DeiTModel", CONFIG, layers=True),
    case("masked-image-modeling", "DeiTForMaskedImageModeling", CONFIG, Pixels(16, 16, masked=16)),
    case("image-classification", "DeiTForImageClassification", LABELS),
    case("image-classification-with-teacher", "DeiTForImageClassificationWithTeacher", LABELS),
    case(
        "image-classification-not-square",
        "DeiTForImageClassificationWithTeacher",
        LABELS,
        Pixels(16, 24),
        arguments=LARGER,
    ),
    case("model-smaller", "DeiTModel", CONFIG, Pixels(13, 11), arguments=LARGER),
    case("model-no-query-key-value-bias", "DeiTModel", CONFIG | dict(qkv_bias=False)),
    case("model-eps", "DeiTModel", CONFIG | dict(layer_norm_eps=1e-3)),
    case("model-pooler", "DeiTModel", CONFIG | dict(pooler_output_size=20, pooler_act="relu")),
    case(
        "image-classification-odd-sizes",
        "DeiTForImageClassificationWithTeacher",
        LABELS
        | dict(image_size=15, patch_size=5, hidden_size=21, num_attention_heads=3, intermediate_size=25, num_labels=5),
        Pixels(15, 15, 1),
        layers=True,
    ),
    # Keys as in config.json of facebook/deit-base-distilled-patch16-224.
    case(
        "image-classification-hub-config",
        "DeiTForImageClassificationWithTeacher",
        {key: value for key, value in LABELS.items() if key != "encoder_stride"},
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            num_channels=3,
            pooler_output_size=REMOVED,
            transformers_version="4.13.0.dev0",
        ),
    ),
    case("image-classification-f16", "DeiTForImageClassificationWithTeacher", LABELS, dtype="f16"),
]
