"""DINOv2."""

from case import REMOVED, Case, Pixels

CONFIG = dict(
    image_size=16,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    mlp_ratio=2,
)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(16, 16)
# Scales that are seen.
STDS = {"lambda1": (0.7, 0.2)}


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "Dinov2Model", CONFIG, layers=True),
    case("image-classification", "Dinov2ForImageClassification", LABELS),
    case("model-masked", "Dinov2Model", CONFIG, Pixels(16, 16, masked=16)),
    case("model-no-mask-token", "Dinov2Model", CONFIG | dict(use_mask_token=False)),
    case("model-swiglu", "Dinov2Model", CONFIG | dict(use_swiglu_ffn=True)),
    case(
        "image-classification-swiglu",
        "Dinov2ForImageClassification",
        LABELS | dict(use_swiglu_ffn=True, mlp_ratio=4),
    ),
    # Other sizes than the table of positions was made for.
    case("model-larger", "Dinov2Model", CONFIG, Pixels(24, 24, 1)),
    case("image-classification-not-square", "Dinov2ForImageClassification", LABELS, Pixels(12, 24, 1)),
    case("model-wide", "Dinov2Model", CONFIG, Pixels(8, 32, 1)),
    case("model-odd-pixels", "Dinov2Model", CONFIG, Pixels(15, 10, 1)),
    case("model-no-query-key-value-bias", "Dinov2Model", CONFIG | dict(qkv_bias=False)),
    case(
        "image-classification-gray",
        "Dinov2ForImageClassification",
        LABELS | dict(num_channels=1),
        Pixels(16, 16, 2, 1),
    ),
    case("model-eps", "Dinov2Model", CONFIG | dict(layer_norm_eps=1e-3)),
    case(
        "image-classification-odd-sizes",
        "Dinov2ForImageClassification",
        LABELS | dict(image_size=15, patch_size=5, hidden_size=21, num_attention_heads=3, mlp_ratio=3, num_labels=5),
        Pixels(15, 15, 1),
        layers=True,
    ),
    # Keys as in config.json of facebook/dinov2-base.
    case(
        "model-hub-config",
        "Dinov2Model",
        CONFIG,
        sparse=True,
        file=dict(
            apply_layernorm=True,
            attention_probs_dropout_prob=0.0,
            drop_path_rate=0.0,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            initializer_range=0.02,
            layer_norm_eps=1e-06,
            layerscale_value=1.0,
            num_channels=3,
            out_features=["stage2"],
            out_indices=[2],
            qkv_bias=True,
            reshape_hidden_states=True,
            stage_names=["stem", "stage1", "stage2"],
            transformers_version="4.32.0.dev0",
            use_swiglu_ffn=False,
        ),
    ),
    case(
        "image-classification-sparse-config",
        "Dinov2ForImageClassification",
        LABELS,
        sparse=True,
        file=dict(out_features=REMOVED, out_indices=REMOVED, stage_names=REMOVED),
    ),
    case("image-classification-f16", "Dinov2ForImageClassification", LABELS, dtype="f16"),
]
