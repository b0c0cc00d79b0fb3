"""Chinese CLIP."""

from case import REMOVED, Case, Inputs, Pixels, Together

TEXT = dict(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=20,
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
LONG = [13, 9, 5]
WORDS = Inputs(lengths=LONG, types=2)
PIXELS = Pixels(12, 12)
BOTH = Together((WORDS, PIXELS))
# Another size than the table of positions was made for.
LARGER = dict(interpolate_pos_encoding=True)
# A parameter of one number is seen if it is not near zero.
STDS = {"logit_scale": (1.5, 0.3), "class_embedding": 0.8, "position_embedding.weight": 0.8}


def case(name: str, model_class: str, config: dict, inputs, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


def whole(part: dict) -> dict:
    """What turns the configuration of one tower into that of both."""
    return dict(sparse=True, file={key: REMOVED for key in part} | dict(model_type="chinese_clip") | CONFIG)


CASES = [
    case("model", "ChineseCLIPModel", CONFIG, BOTH),
    case("text-model", "ChineseCLIPTextModel", TEXT, WORDS, layers=True),
    case("vision-model", "ChineseCLIPVisionModel", VISION, PIXELS, layers=True),
    # Of full length, as Python empties the row of the table that padding has, which is seen without a mask.
    case("model-input-ids-only", "ChineseCLIPModel", CONFIG, Together((Inputs(lengths=(13, 13), mask=False), PIXELS))),
    case("text-model-position-ids", "ChineseCLIPTextModel", TEXT, Inputs(lengths=LONG, positions=True)),
    case("text-model-eps", "ChineseCLIPTextModel", TEXT | dict(layer_norm_eps=1e-3), WORDS),
    case("model-larger", "ChineseCLIPModel", CONFIG, Together((WORDS, Pixels(20, 20))), arguments=LARGER),
    case("vision-model-not-square", "ChineseCLIPVisionModel", VISION, Pixels(8, 20), arguments=LARGER),
    case("vision-model-gelu", "ChineseCLIPVisionModel", VISION | dict(hidden_act="gelu"), PIXELS),
    case("vision-model-eps", "ChineseCLIPVisionModel", VISION | dict(layer_norm_eps=1e-3), PIXELS),
    case(
        "model-odd-sizes",
        "ChineseCLIPModel",
        dict(
            text_config=TEXT
            | dict(hidden_size=15, num_attention_heads=3, intermediate_size=17, num_hidden_layers=1, type_vocab_size=3),
            vision_config=VISION | dict(hidden_size=22, num_attention_heads=1, intermediate_size=19, patch_size=3),
            projection_dim=9,
        ),
        Together((Inputs(lengths=LONG, types=3), PIXELS)),
    ),
    # One tower with the configuration of both, and where Python reads it, under the name that it has beside the other.
    case("text-model-whole-config", "ChineseCLIPTextModel", TEXT, WORDS, **whole(TEXT)),
    case(
        "vision-model-whole-config",
        "ChineseCLIPVisionModel",
        VISION,
        PIXELS,
        names={"^": "vision_model."},
        **whole(VISION),
    ),
    # Keys as in config.json of OFA-Sys/chinese-clip-vit-base-patch16.
    case(
        "model-hub-config",
        "ChineseCLIPModel",
        CONFIG,
        BOTH,
        sparse=True,
        file=dict(
            initializer_factor=1.0,
            logit_scale_init_value=2.6592,
            text_config=TEXT
            | dict(
                architectures=["ChineseCLIPTextModel"],
                attention_probs_dropout_prob=0.1,
                bos_token_id=0,
                directionality="bidi",
                eos_token_id=2,
                hidden_act="gelu",
                hidden_dropout_prob=0.1,
                initializer_range=0.02,
                layer_norm_eps=1e-12,
                model_type="chinese_clip_text_model",
                output_past=True,
                pad_token_id=0,
                pooler_fc_size=768,
                pooler_num_attention_heads=12,
                pooler_num_fc_layers=3,
                pooler_size_per_head=128,
                pooler_type="first_token_transform",
                type_vocab_size=2,
            ),
            text_config_dict=None,
            torch_dtype="float32",
            vision_config=VISION | dict(dropout=0.0, model_type="chinese_clip_vision_model"),
            vision_config_dict=None,
        ),
    ),
    case("model-bf16", "ChineseCLIPModel", CONFIG, BOTH, dtype="bf16"),
]
