"""SigLIP."""

from case import REMOVED, Case, Inputs, Pixels, Together

TEXT = dict(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=20,
    projection_size=20,
    pad_token_id=1,
    bos_token_id=2,
    eos_token_id=1,
)
VISION = dict(
    hidden_size=20,
    intermediate_size=28,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=12,
    patch_size=4,
)
CONFIG = dict(text_config=TEXT, vision_config=VISION)
LONG = [13, 9, 5]
# Texts are padded to one length and padding counts: the last token stands for the text.
WORDS = Inputs(lengths=LONG, mask=False, pad_token_id=1)
PIXELS = Pixels(12, 12)
BOTH = Together((WORDS, PIXELS))
# Another size than the table of positions was made for.
LARGER = dict(interpolate_pos_encoding=True)
# A parameter of one number is seen if it is not near zero.
STDS = {
    "logit_scale": (1.5, 0.3),
    "logit_bias": (-1.0, 0.3),
    "head.probe": 0.8,
    "position_embedding.weight": 0.8,
    "token_embedding.weight": 0.8,
}


def case(name: str, model_class: str, config: dict, inputs, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


def whole(part: dict) -> dict:
    """What turns the configuration of one tower into that of both."""
    return dict(sparse=True, file={key: REMOVED for key in part} | dict(model_type="siglip") | CONFIG)


CASES = [
    case("model", "SiglipModel", CONFIG, BOTH),
    case("text-model", "SiglipTextModel", TEXT, WORDS, layers=True),
    case("vision-model", "SiglipVisionModel", VISION, PIXELS, layers=True),
    case("image-classification", "SiglipForImageClassification", CONFIG | dict(num_labels=3), PIXELS),
    case("text-model-mask", "SiglipTextModel", TEXT, Inputs(lengths=LONG, pad_token_id=1)),
    case("text-model-left-padding", "SiglipTextModel", TEXT, Inputs(lengths=LONG, left=True, pad_token_id=1)),
    case("text-model-position-ids", "SiglipTextModel", TEXT, Inputs(lengths=LONG, positions=True, pad_token_id=1)),
    case("model-larger", "SiglipModel", CONFIG, Together((WORDS, Pixels(20, 20))), arguments=LARGER),
    case("vision-model-not-square", "SiglipVisionModel", VISION, Pixels(8, 20), arguments=LARGER),
    case("vision-model-odd-pixels", "SiglipVisionModel", VISION, Pixels(15, 14), arguments=LARGER),
    # What does not fill a patch is not seen, as in the pictures of 384 pixels with patches of 14.
    case("vision-model-rest", "SiglipVisionModel", VISION | dict(image_size=14), Pixels(14, 14)),
    case("vision-model-no-head", "SiglipVisionModel", VISION | dict(vision_use_head=False), PIXELS),
    case("vision-model-gray", "SiglipVisionModel", VISION | dict(num_channels=1), Pixels(12, 12, 2, 1)),
    case("vision-model-eps", "SiglipVisionModel", VISION | dict(layer_norm_eps=1e-3), PIXELS),
    case("vision-model-gelu", "SiglipVisionModel", VISION | dict(hidden_act="gelu"), PIXELS),
    case(
        "text-model-no-projection-size",
        "SiglipTextModel",
        {key: value for key, value in TEXT.items() if key != "projection_size"},
        WORDS,
        sparse=True,
        file=dict(projection_size=REMOVED),
    ),
    case("model-one-pair", "SiglipModel", CONFIG, Together((Inputs(lengths=[6], mask=False), Pixels(12, 12, 1)))),
    case(
        "model-odd-sizes",
        "SiglipModel",
        dict(
            text_config=TEXT
            | dict(
                hidden_size=15,
                num_attention_heads=3,
                intermediate_size=17,
                num_hidden_layers=1,
                projection_size=22,
            ),
            vision_config=VISION | dict(hidden_size=22, num_attention_heads=1, intermediate_size=19, patch_size=3),
        ),
        BOTH,
    ),
    # One tower under the name that it has in files with both, and with the configuration of both.
    case("text-model-whole-config", "SiglipTextModel", TEXT, WORDS, names={"^": "text_model."}, **whole(TEXT)),
    case(
        "vision-model-whole-config",
        "SiglipVisionModel",
        VISION,
        PIXELS,
        names={"^": "vision_model."},
        **whole(VISION),
    ),
    # Keys as in config.json of google/siglip-base-patch16-224.
    case(
        "model-hub-config",
        "SiglipModel",
        CONFIG,
        BOTH,
        sparse=True,
        file=dict(
            initializer_factor=1.0,
            text_config=TEXT | dict(model_type="siglip_text_model"),
            transformers_version="4.37.0.dev0",
            vision_config=VISION | dict(model_type="siglip_vision_model"),
        ),
    ),
    case("model-bf16", "SiglipModel", CONFIG, BOTH, dtype="bf16"),
]
