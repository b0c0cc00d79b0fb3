"""DETR.

The cases with a backbone of the package timm are recorded with timm 1.0.31 and torchvision 0.29.2 on PYTHONPATH.
requirements.txt leaves the two out, because transformers' image processors are others where torchvision is there.
"""

from case import REMOVED, Case, Pixels


def backbone(*sizes: int, **changes) -> dict:
    """A ResNet with a stage for each number of channels."""
    stages = [f"stage{index + 1}" for index in range(len(sizes))]
    settings = dict(embedding_size=6, depths=[1] * len(sizes), layer_type="basic", out_features=stages)
    return dict(backbone_config=dict(model_type="resnet", hidden_sizes=list(sizes)) | settings | changes)


CONFIG = backbone(8, 12) | dict(
    use_timm_backbone=False,
    num_queries=5,
    d_model=16,
    encoder_layers=2,
    encoder_ffn_dim=24,
    encoder_attention_heads=2,
    decoder_layers=2,
    decoder_ffn_dim=24,
    decoder_attention_heads=2,
    num_labels=3,
)
# The channels of the head are 16, 8, 4 and 2, and those that it starts from a multiple of eight.
MASKS = CONFIG | dict(d_model=32, encoder_attention_heads=8, num_queries=3)
# What old files say of their backbone.
TIMM = {key: value for key, value in CONFIG.items() if key not in ("backbone_config", "use_timm_backbone")}
PIXELS = Pixels(32, 24, 1)
# Two pictures of different sizes in one batch.
PADDED = Pixels(24, 24, sizes=[(24, 14), (13, 24)])
STDS = {
    "query_position_embeddings": 0.8,
    "input_projection.weight": 0.12,
    **{f"gn{index}.weight": (1.0, 0.15) for index in range(1, 6)},
}


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


def timm(name: str, model_class: str, network: str, inputs: Pixels, config: dict = TIMM, **rest) -> Case:
    """A case with a backbone of the package timm, at its full width."""
    file = dict(backbone_config=REMOVED, backbone=network, use_timm_backbone=True, dtype="float32")
    return case(name, model_class, config | dict(backbone=network), inputs, file=file, needs="timm", **rest)


CASES = [
    case("model", "DetrModel", CONFIG, layers=True),
    case("object-detection", "DetrForObjectDetection", CONFIG),
    case("segmentation", "DetrForSegmentation", MASKS | backbone(8, 12, 16)),
    case("object-detection-mask", "DetrForObjectDetection", CONFIG, PADDED),
    case("segmentation-mask", "DetrForSegmentation", MASKS | backbone(8, 12, 16), PADDED),
    case("segmentation-four-stages", "DetrForSegmentation", MASKS | backbone(8, 12, 16, 20), Pixels(40, 33, 1)),
    case("object-detection-bottleneck", "DetrForObjectDetection", CONFIG | backbone(8, 12, layer_type="bottleneck")),
    # Only the last map leaves the backbone.
    case("model-last-stage", "DetrModel", CONFIG | backbone(8, 12, out_features=["stage2"])),
    case("model-odd-pixels", "DetrModel", CONFIG, Pixels(37, 21, 1)),
    case("model-learned-positions", "DetrModel", CONFIG | dict(position_embedding_type="learned")),
    case("model-gelu", "DetrModel", CONFIG | dict(activation_function="gelu")),
    # The norm behind the decoder stands behind each of its layers then.
    case("object-detection-auxiliary-loss", "DetrForObjectDetection", CONFIG | dict(auxiliary_loss=True)),
    case(
        "object-detection-odd-sizes",
        "DetrForObjectDetection",
        CONFIG
        | dict(
            num_queries=7,
            d_model=20,
            encoder_layers=1,
            encoder_ffn_dim=17,
            encoder_attention_heads=5,
            decoder_layers=3,
            decoder_ffn_dim=19,
            decoder_attention_heads=1,
            num_labels=1,
        ),
        PIXELS,
        layers=True,
    ),
    case("object-detection-sparse-config", "DetrForObjectDetection", CONFIG, sparse=True),
    case("object-detection-bf16", "DetrForObjectDetection", CONFIG, dtype="bf16"),
    timm("object-detection-resnet18", "DetrForObjectDetection", "resnet18", Pixels(33, 64, 1)),
    timm("object-detection-resnet50", "DetrForObjectDetection", "resnet50", Pixels(33, 64, 1)),
    # Without the last step to a half, the convolutions behind it reach further instead.
    timm(
        "object-detection-resnet50-dilation",
        "DetrForObjectDetection",
        "resnet50",
        Pixels(32, 48, 1),
        TIMM | dict(dilation=True),
    ),
    timm(
        "segmentation-resnet18",
        "DetrForSegmentation",
        "resnet18",
        Pixels(40, 33, 1),
        {key: value for key, value in MASKS.items() if key in TIMM},
    ),
]
