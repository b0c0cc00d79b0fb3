"""YOLOS."""

from case import Case, Pixels

CONFIG = dict(
    image_size=[12, 20],
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    num_detection_tokens=4,
)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(12, 20)


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, **rest)


CASES = [
    case("model", "YolosModel", CONFIG, Pixels(12, 20, 1), layers=True),
    case("object-detection", "YolosForObjectDetection", LABELS),
    # Other sizes than the tables of positions were made for.
    case("model-larger", "YolosModel", CONFIG, Pixels(20, 28, 1)),
    case("object-detection-smaller", "YolosForObjectDetection", LABELS, Pixels(13, 10, 1)),
    case("model-no-mid-positions", "YolosModel", CONFIG | dict(use_mid_position_embeddings=False)),
    case(
        "object-detection-no-mid-positions",
        "YolosForObjectDetection",
        LABELS | dict(use_mid_position_embeddings=False),
        Pixels(16, 20, 1),
    ),
    case("model-no-query-key-value-bias", "YolosModel", CONFIG | dict(qkv_bias=False)),
    case("model-eps", "YolosModel", CONFIG | dict(layer_norm_eps=1e-3)),
    case("object-detection-auxiliary-loss", "YolosForObjectDetection", LABELS | dict(auxiliary_loss=True)),
    case(
        "object-detection-odd-sizes",
        "YolosForObjectDetection",
        LABELS
        | dict(
            image_size=[15, 10],
            patch_size=5,
            hidden_size=21,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=25,
            num_detection_tokens=7,
            num_labels=1,
        ),
        Pixels(15, 10, 1),
        layers=True,
    ),
    case("object-detection-sparse-config", "YolosForObjectDetection", LABELS, sparse=True),
    # Keys as in config.json of hustvl/yolos-small.
    case(
        "object-detection-hub-config",
        "YolosForObjectDetection",
        LABELS,
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            auxiliary_loss=False,
            bbox_cost=5,
            bbox_loss_coefficient=5,
            class_cost=1,
            eos_coefficient=0.1,
            giou_cost=2,
            giou_loss_coefficient=2,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            num_channels=3,
            qkv_bias=True,
            transformers_version="4.19.0.dev0",
            use_mid_position_embeddings=True,
        ),
    ),
    case("object-detection-bf16", "YolosForObjectDetection", LABELS, dtype="bf16"),
]
