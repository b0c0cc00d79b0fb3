"""ResNet."""

from case import Case, Pixels

CONFIG = dict(embedding_size=6, hidden_sizes=[8, 12, 16], depths=[2, 2, 1])
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(24, 16)
BASIC = dict(layer_type="basic")


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, **rest)


CASES = [
    case("model", "ResNetModel", CONFIG, layers=True),
    case("image-classification", "ResNetForImageClassification", LABELS),
    case("model-basic", "ResNetModel", CONFIG | BASIC, layers=True),
    case("image-classification-basic", "ResNetForImageClassification", LABELS | BASIC),
    case("model-downsample-first-stage", "ResNetModel", CONFIG | dict(downsample_in_first_stage=True)),
    case("model-basic-downsample-first-stage", "ResNetModel", CONFIG | BASIC | dict(downsample_in_first_stage=True)),
    case("model-downsample-in-bottleneck", "ResNetModel", CONFIG | dict(downsample_in_bottleneck=True)),
    # A first stage that changes neither the size nor the number of channels has no shortcut of its own.
    case("model-basic-same-channels", "ResNetModel", CONFIG | BASIC | dict(embedding_size=8)),
    case("model-odd-pixels", "ResNetModel", CONFIG, Pixels(29, 19)),
    case(
        "image-classification-gray",
        "ResNetForImageClassification",
        LABELS | dict(num_channels=1),
        Pixels(24, 24, 2, 1),
    ),
    case("model-gelu", "ResNetModel", CONFIG | dict(hidden_act="gelu")),
    case(
        "image-classification-four-stages",
        "ResNetForImageClassification",
        LABELS | dict(hidden_sizes=[8, 8, 20, 24], depths=[1, 2, 1, 1]),
        Pixels(40, 33, 1),
        layers=True,
    ),
    case("image-classification-sparse-config", "ResNetForImageClassification", LABELS, sparse=True),
    # Keys as in config.json of microsoft/resnet-50.
    case(
        "image-classification-hub-config",
        "ResNetForImageClassification",
        LABELS
        | dict(
            id2label={0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 2: "great white shark"},
            label2id={"tench, Tinca tinca": 0, "goldfish, Carassius auratus": 1, "great white shark": 2},
        ),
        sparse=True,
        file=dict(
            downsample_in_bottleneck=False,
            downsample_in_first_stage=False,
            dtype="float32",
            hidden_act="relu",
            layer_type="bottleneck",
            num_channels=3,
            out_features=None,
            stage_names=["stem", "stage1", "stage2", "stage3"],
            transformers_version="4.18.0.dev0",
        ),
    ),
    case("image-classification-bf16", "ResNetForImageClassification", LABELS, dtype="bf16"),
]
