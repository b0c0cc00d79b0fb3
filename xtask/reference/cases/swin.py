"""Swin Transformer."""

from case import REMOVED, Case, Pixels

# Windows of 4 by 4 patches: four of them in the first stage, shifted in its second block; one in the second stage.
CONFIG = dict(
    image_size=16,
    patch_size=2,
    embed_dim=8,
    depths=[2, 2],
    num_heads=[2, 4],
    window_size=4,
    mlp_ratio=2.0,
    encoder_stride=4,
)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(16, 16)
# Tables that are seen.
STDS = {"relative_position_bias_table": 0.8}
# Another size than the table of positions was made for.
LARGER = dict(interpolate_pos_encoding=True)


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "SwinModel", CONFIG, Pixels(16, 16, 1), layers=True),
    case("masked-image-modeling", "SwinForMaskedImageModeling", CONFIG, Pixels(16, 16, masked=64)),
    case("image-classification", "SwinForImageClassification", LABELS),
    # Sizes that are not whole windows, and odd where a stage ends.
    case("model-padded", "SwinModel", CONFIG, Pixels(20, 26, 1)),
    case("model-odd", "SwinModel", CONFIG, Pixels(18, 22, 1)),
    case("model-small-windows", "SwinModel", CONFIG | dict(window_size=2), Pixels(14, 10, 1), layers=True),
    # Pixels that do not fill a patch are padded.
    case("image-classification-odd-pixels", "SwinForImageClassification", LABELS, Pixels(17, 21, 1)),
    case("image-classification-not-square", "SwinForImageClassification", LABELS, Pixels(16, 32, 1)),
    # Windows with a middle.
    case("model-odd-window", "SwinModel", CONFIG | dict(window_size=3), Pixels(18, 24, 1)),
    case(
        "model-three-stages",
        "SwinModel",
        CONFIG | dict(embed_dim=6, depths=[1, 2, 1], num_heads=[1, 2, 3], window_size=2),
        Pixels(16, 16, 1),
        layers=True,
    ),
    case("model-absolute", "SwinModel", CONFIG | dict(use_absolute_embeddings=True)),
    case(
        "model-absolute-larger",
        "SwinModel",
        CONFIG | dict(use_absolute_embeddings=True),
        Pixels(24, 20, 1),
        arguments=LARGER,
    ),
    case("model-no-query-key-value-bias", "SwinModel", CONFIG | dict(qkv_bias=False)),
    case(
        "image-classification-gray",
        "SwinForImageClassification",
        LABELS | dict(num_channels=1),
        Pixels(16, 16, 2, 1),
    ),
    case("masked-image-modeling-no-mask", "SwinForMaskedImageModeling", CONFIG),
    case("model-eps", "SwinModel", CONFIG | dict(layer_norm_eps=1e-2)),
    case("model-relu", "SwinModel", CONFIG | dict(hidden_act="relu", mlp_ratio=1.5)),
    case(
        "image-classification-sparse-config",
        "SwinForImageClassification",
        {key: value for key, value in LABELS.items() if key not in ("encoder_stride", "mlp_ratio")},
        sparse=True,
        file=dict(
            hidden_size=REMOVED,
            num_layers=REMOVED,
            out_features=REMOVED,
            out_indices=REMOVED,
            stage_names=REMOVED,
        ),
    ),
    # Keys as in config.json of microsoft/swin-tiny-patch4-window7-224.
    case(
        "image-classification-hub-config",
        "SwinForImageClassification",
        LABELS,
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            drop_path_rate=0.1,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            hidden_size=16,
            initializer_range=0.02,
            layer_norm_eps=1e-05,
            num_channels=3,
            num_layers=2,
            out_features=REMOVED,
            out_indices=REMOVED,
            path_norm=True,
            qkv_bias=True,
            stage_names=REMOVED,
            transformers_version="4.16.0.dev0",
            use_absolute_embeddings=False,
        ),
    ),
    case("image-classification-bf16", "SwinForImageClassification", LABELS, dtype="bf16"),
]
