"""DINOv2 with registers."""

from case import Case, Pixels

CONFIG = dict(
    image_size=16,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_ratio=2,
    num_register_tokens=3,
)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(16, 16)
# Scales that are seen.
STDS = {"lambda1": (0.7, 0.2)}


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "Dinov2WithRegistersModel", CONFIG, layers=True),
    case("image-classification", "Dinov2WithRegistersForImageClassification", LABELS),
    case("model-masked", "Dinov2WithRegistersModel", CONFIG, Pixels(16, 16, masked=16)),
    case("model-swiglu", "Dinov2WithRegistersModel", CONFIG | dict(use_swiglu_ffn=True)),
    case("model-one-register", "Dinov2WithRegistersModel", CONFIG | dict(num_register_tokens=1, qkv_bias=False)),
    # Other sizes than the table of positions was made for.
    case("model-larger", "Dinov2WithRegistersModel", CONFIG, Pixels(24, 24, 1)),
    case("image-classification-not-square", "Dinov2WithRegistersForImageClassification", LABELS, Pixels(12, 24, 1)),
    case("image-classification-f16", "Dinov2WithRegistersForImageClassification", LABELS, dtype="f16"),
]
