"""BEiT."""

from case import REMOVED, Case, Pixels

CONFIG = dict(
    vocab_size=20,
    image_size=16,
    patch_size=4,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
)
LABELS = dict(num_labels=3)
# The three kinds of positions: of a patch, of two patches for each layer or for all layers.
ABSOLUTE = dict(use_absolute_position_embeddings=True)
RELATIVE = dict(use_relative_position_bias=True)
SHARED = dict(use_shared_relative_position_bias=True)
SEGMENTATION = (
    CONFIG
    | LABELS
    | RELATIVE
    | dict(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=4,
        out_indices=[1, 2, 3, 4],
        auxiliary_channels=6,
        pool_scales=[1, 2, 3],
    )
)
PIXELS = Pixels(16, 16)
# Tables and scales that are seen.
STDS = {"relative_position_bias_table": 0.8, "lambda_": (0.7, 0.2)}


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "BeitModel", CONFIG | RELATIVE, layers=True),
    case(
        "masked-image-modeling",
        "BeitForMaskedImageModeling",
        CONFIG | SHARED | dict(use_mask_token=True),
        Pixels(16, 16, masked=16),
    ),
    case("image-classification", "BeitForImageClassification", CONFIG | RELATIVE | LABELS),
    case("semantic-segmentation", "BeitForSemanticSegmentation", SEGMENTATION),
    case("model-absolute", "BeitModel", CONFIG | ABSOLUTE),
    case("model-shared", "BeitModel", CONFIG | SHARED),
    case("model-no-positions", "BeitModel", CONFIG),
    case("model-all-positions", "BeitModel", CONFIG | ABSOLUTE | RELATIVE | SHARED),
    # The first token in place of the mean of the patches, and a norm before it.
    case("model-first-token", "BeitModel", CONFIG | RELATIVE | dict(use_mean_pooling=False)),
    case(
        "image-classification-first-token",
        "BeitForImageClassification",
        CONFIG | ABSOLUTE | LABELS | dict(use_mean_pooling=False),
    ),
    # Other sizes than the tables were made for.
    case("model-larger", "BeitModel", CONFIG | RELATIVE, Pixels(20, 20, 1)),
    case("model-not-square", "BeitModel", CONFIG | RELATIVE, Pixels(12, 24, 1)),
    case("model-absolute-not-square", "BeitModel", CONFIG | ABSOLUTE, Pixels(12, 24, 1)),
    case("model-absolute-wide", "BeitModel", CONFIG | ABSOLUTE, Pixels(8, 32, 1)),
    case("model-shared-smaller", "BeitModel", CONFIG | SHARED, Pixels(13, 10, 1)),
    case("model-no-layer-scale", "BeitModel", CONFIG | RELATIVE | dict(layer_scale_init_value=0.0)),
    case(
        "masked-image-modeling-no-mask",
        "BeitForMaskedImageModeling",
        # With a norm of its own (`use_mean_pooling=False`), Python loads the two norms in each other's place.
        CONFIG | ABSOLUTE | dict(use_mask_token=True),
    ),
    case("model-eps", "BeitModel", CONFIG | RELATIVE | dict(layer_norm_eps=1e-3)),
    case(
        "semantic-segmentation-not-square",
        "BeitForSemanticSegmentation",
        SEGMENTATION | dict(pool_scales=[1, 2, 3, 6]),
        Pixels(12, 20, 1),
    ),
    # Some of the layers only.
    case(
        "semantic-segmentation-indices",
        "BeitForSemanticSegmentation",
        SEGMENTATION | dict(num_hidden_layers=5, out_indices=[1, 2, 4, 5], use_auxiliary_head=False),
        Pixels(16, 16, 1),
    ),
    case(
        "semantic-segmentation-auxiliary-head",
        "BeitForSemanticSegmentation",
        SEGMENTATION | dict(auxiliary_num_convs=2, auxiliary_concat_input=True),
        Pixels(16, 16, 1),
    ),
    case(
        "image-classification-odd-sizes",
        "BeitForImageClassification",
        CONFIG
        | RELATIVE
        | dict(image_size=15, patch_size=5, hidden_size=21, num_attention_heads=3, intermediate_size=25, num_labels=5),
        Pixels(15, 15, 1),
        layers=True,
    ),
    # Keys as in config.json of microsoft/beit-base-patch16-224.
    case(
        "image-classification-hub-config",
        "BeitForImageClassification",
        CONFIG | RELATIVE | LABELS,
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            auxiliary_channels=256,
            auxiliary_concat_input=False,
            auxiliary_loss_weight=0.4,
            auxiliary_num_convs=1,
            drop_path_rate=0.1,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            layer_scale_init_value=0.1,
            num_channels=3,
            out_features=REMOVED,
            out_indices=[1, 2],
            pool_scales=[1, 2, 3, 6],
            semantic_loss_ignore_index=255,
            stage_names=REMOVED,
            transformers_version="4.11.0.dev0",
            use_absolute_position_embeddings=False,
            use_auxiliary_head=True,
            use_mask_token=False,
            use_mean_pooling=True,
            use_relative_position_bias=True,
            use_shared_relative_position_bias=False,
        ),
    ),
    case("image-classification-bf16", "BeitForImageClassification", CONFIG | RELATIVE | LABELS, dtype="bf16"),
]
