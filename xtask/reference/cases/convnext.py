"""ConvNeXT."""

from case import REMOVED, Case, Pixels

CONFIG = dict(num_stages=3, hidden_sizes=[8, 12, 16], depths=[1, 2, 1], patch_size=2)
LABELS = CONFIG | dict(num_labels=3)
PIXELS = Pixels(16, 24)
# Scales that are seen.
STDS = {"layer_scale_parameter": (0.7, 0.2)}


def case(name: str, model_class: str, config: dict, inputs: Pixels = PIXELS, layers: bool = False, **rest) -> Case:
    """A case, without hidden states unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "ConvNextModel", CONFIG, layers=True),
    case("image-classification", "ConvNextForImageClassification", LABELS),
    case("model-no-layer-scale", "ConvNextModel", CONFIG | dict(layer_scale_init_value=0.0)),
    # Stages of one width are still made smaller.
    case("model-same-channels", "ConvNextModel", CONFIG | dict(hidden_sizes=[8, 8, 8])),
    case("model-odd-pixels", "ConvNextModel", CONFIG, Pixels(19, 15)),
    case("model-gelu-new", "ConvNextModel", CONFIG | dict(hidden_act="gelu_new")),
    # The last norm alone heeds it.
    case("model-eps", "ConvNextModel", CONFIG | dict(layer_norm_eps=1e-2)),
    case(
        "image-classification-gray",
        "ConvNextForImageClassification",
        LABELS | dict(num_channels=1),
        Pixels(16, 16, 2, 1),
    ),
    case(
        "image-classification-four-stages",
        "ConvNextForImageClassification",
        LABELS | dict(num_stages=4, hidden_sizes=[6, 8, 10, 14], depths=[1, 1, 1, 1], patch_size=4),
        Pixels(32, 37, 1),
        layers=True,
    ),
    case(
        "image-classification-sparse-config",
        "ConvNextForImageClassification",
        LABELS,
        sparse=True,
        file=dict(out_features=REMOVED, out_indices=REMOVED, stage_names=REMOVED),
    ),
    # Keys as in config.json of facebook/convnext-tiny-224.
    case(
        "image-classification-hub-config",
        "ConvNextForImageClassification",
        LABELS,
        sparse=True,
        file=dict(
            drop_path_rate=0.0,
            hidden_act="gelu",
            image_size=224,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            layer_scale_init_value=1e-06,
            num_channels=3,
            out_features=REMOVED,
            out_indices=REMOVED,
            stage_names=REMOVED,
            transformers_version="4.17.0.dev0",
        ),
    ),
    case("image-classification-bf16", "ConvNextForImageClassification", LABELS, dtype="bf16"),
]
