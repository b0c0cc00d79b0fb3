"""CLIP."""

from case import REMOVED, Case, Inputs, Pixels, Together

TEXT = dict(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    projection_dim=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=20,
    pad_token_id=1,
    bos_token_id=58,
    eos_token_id=59,
)
VISION = dict(
    hidden_size=20,
    intermediate_size=28,
    projection_dim=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=12,
    patch_size=4,
)
CONFIG = dict(text_config=TEXT, vision_config=VISION, projection_dim=12)
# Settings of OpenAI's files: the end of a text is its highest id then, of which there are more behind it.
ARGMAX = dict(eos_token_id=2, bos_token_id=0, pad_token_id=1)
LONG = [13, 9, 5]
WORDS = Inputs(lengths=LONG, last=59, pad_token_id=59)
PIXELS = Pixels(12, 12)
BOTH = Together((WORDS, PIXELS))
# Another size than the table of positions was made for.
LARGER = dict(interpolate_pos_encoding=True)
# A parameter of one number is seen if it is not near zero.
STDS = {
    "logit_scale": (1.5, 0.3),
    "class_embedding": 0.8,
    "position_embedding.weight": 0.8,
    "token_embedding.weight": 0.8,
}


def case(name: str, model_class: str, config: dict, inputs, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


def text(**changes) -> dict:
    """The whole configuration with other settings for the text."""
    return CONFIG | dict(text_config=TEXT | changes)


def vision(**changes) -> dict:
    """The whole configuration with other settings for the pictures."""
    return CONFIG | dict(vision_config=VISION | changes)


def whole(part: dict) -> dict:
    """What turns the configuration of one tower into that of both."""
    return dict(sparse=True, file={key: REMOVED for key in part} | dict(model_type="clip") | CONFIG)


CASES = [
    case("model", "CLIPModel", CONFIG, BOTH),
    case("text-model", "CLIPTextModel", TEXT, WORDS, layers=True),
    case("vision-model", "CLIPVisionModel", VISION, PIXELS, layers=True),
    case("text-model-with-projection", "CLIPTextModelWithProjection", TEXT, WORDS),
    case("vision-model-with-projection", "CLIPVisionModelWithProjection", VISION, PIXELS),
    case("image-classification", "CLIPForImageClassification", CONFIG | dict(num_labels=3), PIXELS),
    case("model-argmax", "CLIPModel", text(**ARGMAX), BOTH),
    case("text-model-argmax", "CLIPTextModel", TEXT | ARGMAX, Inputs(lengths=LONG, last=59)),
    # Several ends: the first one counts.
    case("text-model-no-mask", "CLIPTextModel", TEXT, Inputs(lengths=LONG, last=59, pad_token_id=59, mask=False)),
    # No end at all: the first token stands for the text.
    case("text-model-no-end", "CLIPTextModel", TEXT | dict(eos_token_id=3), Inputs(lengths=LONG)),
    case("text-model-position-ids", "CLIPTextModel", TEXT, Inputs(lengths=LONG, last=59, positions=True)),
    case("text-model-left-padding", "CLIPTextModel", TEXT, Inputs(lengths=LONG, last=59, left=True)),
    case(
        "model-gelu",
        "CLIPModel",
        dict(
            text_config=TEXT | dict(hidden_act="gelu"),
            vision_config=VISION | dict(hidden_act="gelu"),
            projection_dim=12,
        ),
        BOTH,
    ),
    case("model-larger", "CLIPModel", CONFIG, Together((WORDS, Pixels(20, 20))), arguments=LARGER),
    case("vision-model-not-square", "CLIPVisionModel", VISION, Pixels(8, 20), arguments=LARGER),
    case("vision-model-odd-pixels", "CLIPVisionModel", VISION, Pixels(15, 14), arguments=LARGER),
    case("vision-model-gray", "CLIPVisionModel", VISION | dict(num_channels=1), Pixels(12, 12, 2, 1)),
    case("vision-model-eps", "CLIPVisionModel", VISION | dict(layer_norm_eps=1e-3), PIXELS),
    # One picture against one text.
    case("model-one-pair", "CLIPModel", CONFIG, Together((Inputs(lengths=[6], last=59), Pixels(12, 12, 1)))),
    case(
        "model-odd-sizes",
        "CLIPModel",
        dict(
            text_config=TEXT | dict(hidden_size=15, num_attention_heads=3, intermediate_size=17, num_hidden_layers=1),
            vision_config=VISION | dict(hidden_size=22, num_attention_heads=1, intermediate_size=19, patch_size=3),
            projection_dim=9,
        ),
        BOTH,
    ),
    # One tower under the name that it has in files with both, as in the text encoders of Stable Diffusion.
    case("text-model-hub-names", "CLIPTextModel", TEXT, WORDS, names={"^": "text_model."}),
    case("vision-model-hub-names", "CLIPVisionModel", VISION, PIXELS, names={"^": "vision_model."}),
    # One tower with the configuration of both.
    case("text-model-whole-config", "CLIPTextModel", TEXT, WORDS, names={"^": "text_model."}, **whole(TEXT)),
    case("vision-model-whole-config", "CLIPVisionModel", VISION, PIXELS, names={"^": "vision_model."}, **whole(VISION)),
    case("text-model-with-projection-whole-config", "CLIPTextModelWithProjection", TEXT, WORDS, **whole(TEXT)),
    case("vision-model-with-projection-whole-config", "CLIPVisionModelWithProjection", VISION, PIXELS, **whole(VISION)),
    case(
        "image-classification-eps",
        "CLIPForImageClassification",
        vision(layer_norm_eps=1e-3) | dict(num_labels=5),
        PIXELS,
    ),
    # The parts as most files have them, without what is the class's own.
    case(
        "model-sparse-config",
        "CLIPModel",
        CONFIG,
        BOTH,
        sparse=True,
        file=dict(text_config=TEXT, vision_config=VISION),
    ),
    # Files of the first versions have each part twice; the second one counts, with the class's own where it is silent.
    case(
        "model-config-dicts",
        "CLIPModel",
        CONFIG,
        BOTH,
        file=dict(
            text_config=TEXT | dict(hidden_act="gelu", layer_norm_eps=1e-3),
            text_config_dict=TEXT,
            vision_config=None,
            vision_config_dict=VISION,
        ),
    ),
    # Keys as in config.json of openai/clip-vit-base-patch32.
    case(
        "model-hub-config",
        "CLIPModel",
        text(**ARGMAX),
        BOTH,
        file=dict(
            _commit_hash=None,
            dtype=REMOVED,
            initializer_factor=1.0,
            logit_scale_init_value=2.6592,
            text_config_dict=None,
            torch_dtype="float32",
            transformers_version=None,
            vision_config_dict=None,
        ),
    ),
    case("model-bf16", "CLIPModel", CONFIG, BOTH, dtype="bf16"),
    case("text-model-f16", "CLIPTextModel", TEXT, WORDS, dtype="f16"),
]
