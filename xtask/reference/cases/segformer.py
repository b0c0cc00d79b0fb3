"""SegFormer."""

from case import Case, Pixels

CONFIG = dict(
    num_encoder_blocks=3,
    depths=[1, 2, 1],
    sr_ratios=[4, 2, 1],
    hidden_sizes=[8, 12, 16],
    patch_sizes=[7, 3, 3],
    strides=[4, 2, 2],
    num_attention_heads=[1, 2, 4],
    mlp_ratios=[2, 2, 2],
    decoder_hidden_size=10,
)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(32, 32, 1)


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, **rest)


CASES = [
    case("model", "SegformerModel", CONFIG, layers=True),
    case("image-classification", "SegformerForImageClassification", LABELS, Pixels(24, 32)),
    case("semantic-segmentation", "SegformerForSemanticSegmentation", LABELS),
    case("semantic-segmentation-not-square", "SegformerForSemanticSegmentation", LABELS, Pixels(16, 40)),
    # Sizes that no stage divides.
    case(
        "semantic-segmentation-odd-pixels",
        "SegformerForSemanticSegmentation",
        LABELS,
        Pixels(29, 35, 1),
        layers=True,
    ),
    case("model-no-reduction", "SegformerModel", CONFIG | dict(sr_ratios=[1, 1, 1])),
    # The last stage stays a sequence.
    case("model-last-stage-flat", "SegformerModel", CONFIG | dict(reshape_last_stage=False)),
    case(
        "image-classification-last-stage-flat",
        "SegformerForImageClassification",
        LABELS | dict(reshape_last_stage=False),
        Pixels(24, 32),
    ),
    # The head makes a square of the sequence; Python takes the root of its width, not of its length, for the side.
    case(
        "semantic-segmentation-last-stage-flat",
        "SegformerForSemanticSegmentation",
        LABELS | dict(reshape_last_stage=False, hidden_sizes=[8, 12, 4]),
    ),
    case("model-relu", "SegformerModel", CONFIG | dict(hidden_act="relu", mlp_ratios=[1, 2, 3])),
    case(
        "image-classification-gray",
        "SegformerForImageClassification",
        LABELS | dict(num_channels=1),
        Pixels(32, 32, 1, 1),
    ),
    case(
        "semantic-segmentation-four-stages",
        "SegformerForSemanticSegmentation",
        LABELS
        | dict(
            num_encoder_blocks=4,
            depths=[1, 1, 1, 1],
            sr_ratios=[8, 4, 2, 1],
            hidden_sizes=[8, 10, 15, 18],
            patch_sizes=[7, 3, 3, 3],
            strides=[4, 2, 2, 2],
            num_attention_heads=[1, 2, 5, 3],
            mlp_ratios=[2, 2, 2, 2],
            num_labels=2,
        ),
        Pixels(33, 64, 1),
    ),
    case("semantic-segmentation-sparse-config", "SegformerForSemanticSegmentation", LABELS, sparse=True),
    # Keys as in config.json of nvidia/segformer-b0-finetuned-ade-512-512.
    case(
        "semantic-segmentation-hub-config",
        "SegformerForSemanticSegmentation",
        LABELS,
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            classifier_dropout_prob=0.1,
            downsampling_rates=[1, 4, 8],
            drop_path_rate=0.1,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            image_size=224,
            initializer_range=0.02,
            layer_norm_eps=1e-06,
            num_channels=3,
            reshape_last_stage=True,
            semantic_loss_ignore_index=255,
            transformers_version="4.12.0.dev0",
        ),
    ),
    case("semantic-segmentation-bf16", "SegformerForSemanticSegmentation", LABELS, dtype="bf16"),
]
