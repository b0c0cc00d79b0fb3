"""ViT."""

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
    case("model", "ViTModel", CONFIG, layers=True),
    case("masked-image-modeling", "ViTForMaskedImageModeling", CONFIG, Pixels(16, 16, masked=16)),
    case("image-classification", "ViTForImageClassification", LABELS),
    # Without a mask nothing is replaced.
    case("masked-image-modeling-no-mask", "ViTForMaskedImageModeling", CONFIG),
    case("model-larger", "ViTModel", CONFIG, Pixels(24, 24), arguments=LARGER),
    case("model-smaller", "ViTModel", CONFIG, Pixels(12, 8), arguments=LARGER),
    case("image-classification-not-square", "ViTForImageClassification", LABELS, Pixels(16, 24), arguments=LARGER),
    # As many patches as the table has positions, in another shape.
    case("model-wide", "ViTModel", CONFIG, Pixels(8, 32), arguments=LARGER),
    # What does not fill a patch is not seen.
    case("model-odd-pixels", "ViTModel", CONFIG, Pixels(19, 22), arguments=LARGER),
    case("model-no-query-key-value-bias", "ViTModel", CONFIG | dict(qkv_bias=False)),
    case("image-classification-gray", "ViTForImageClassification", LABELS | dict(num_channels=1), Pixels(16, 16, 2, 1)),
    case("model-gelu-new", "ViTModel", CONFIG | dict(hidden_act="gelu_new")),
    case("model-eps", "ViTModel", CONFIG | dict(layer_norm_eps=1e-3)),
    case("model-pooler", "ViTModel", CONFIG | dict(pooler_output_size=20, pooler_act="relu")),
    # A table of positions, and patches, that are not square.
    case("model-not-square", "ViTModel", CONFIG | dict(image_size=[12, 20], patch_size=[4, 5]), Pixels(12, 20)),
    case(
        "image-classification-odd-sizes",
        "ViTForImageClassification",
        LABELS
        | dict(image_size=15, patch_size=5, hidden_size=21, num_attention_heads=3, intermediate_size=25, num_labels=5),
        Pixels(15, 15, 1),
        layers=True,
    ),
    case("image-classification-one-label", "ViTForImageClassification", LABELS | dict(num_labels=1)),
    case(
        "image-classification-sparse-config",
        "ViTForImageClassification",
        {key: value for key, value in LABELS.items() if key != "encoder_stride"},
        sparse=True,
        file=dict(pooler_output_size=REMOVED),
    ),
    # Keys as in config.json of google/vit-base-patch16-224.
    case(
        "image-classification-hub-config",
        "ViTForImageClassification",
        LABELS
        | dict(
            id2label={0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 2: "great white shark"},
            label2id={"tench, Tinca tinca": 0, "goldfish, Carassius auratus": 1, "great white shark": 2},
        ),
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            num_channels=3,
            pooler_output_size=REMOVED,
            qkv_bias=True,
            transformers_version="4.13.0.dev0",
        ),
    ),
    case("image-classification-bf16", "ViTForImageClassification", LABELS, dtype="bf16"),
    case("image-classification-f16", "ViTForImageClassification", LABELS, dtype="f16"),
]
