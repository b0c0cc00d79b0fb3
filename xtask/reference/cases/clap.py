"""CLAP."""

from case import REMOVED, Case, Inputs, Spectrogram, Together

TEXT = dict(
    vocab_size=60,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=20,
    projection_dim=12,
)
# 64 frames of 16 bands are folded to a square of 32, of which the patches are 8 by 8.
AUDIO = dict(
    window_size=4,
    num_mel_bins=16,
    spec_size=32,
    patch_size=4,
    patch_stride=[4, 4],
    hidden_size=16,
    projection_dim=12,
    depths=[2, 2],
    num_attention_heads=[2, 4],
    patch_embeds_hidden_size=8,
    mlp_ratio=2.0,
    num_hidden_layers=2,
)
# A quarter of it.
FUSION = AUDIO | dict(
    window_size=2,
    num_mel_bins=8,
    spec_size=16,
    enable_fusion=True,
    fusion_type="aff_2d",
    aff_block_r=2,
)
CONFIG = dict(text_config=TEXT, audio_config=AUDIO, projection_dim=12)
FUSED = dict(text_config=TEXT, audio_config=FUSION, projection_dim=12)
LONG = [13, 9, 5]
WORDS = Inputs(lengths=LONG, pad_token_id=1)
SOUND = Spectrogram((2, 1, 64, 16))
# Whole sounds made short, and three parts of each; only those that were longer are put together.
PARTS = Spectrogram((2, 4, 32, 8), longer=[False, True])
BOTH = Together((WORDS, SOUND))
# A parameter of one number is seen if it is not near zero.
STDS = {"logit_scale_a": (1.5, 0.3), "logit_scale_t": (1.5, 0.3), "relative_position_bias_table": 0.8}


def case(name: str, model_class: str, config: dict, inputs, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


def whole(part: dict, both: dict) -> dict:
    """What turns the configuration of one tower into that of both."""
    return dict(sparse=True, file={key: REMOVED for key in part} | dict(model_type="clap") | both)


CASES = [
    case("model", "ClapModel", CONFIG, BOTH),
    case("model-fused", "ClapModel", FUSED, Together((WORDS, PARTS))),
    case("text-model", "ClapTextModel", TEXT, WORDS, layers=True),
    case("audio-model", "ClapAudioModel", AUDIO, Spectrogram((1, 1, 64, 16)), layers=True),
    case("text-model-with-projection", "ClapTextModelWithProjection", TEXT, WORDS),
    case("audio-model-with-projection", "ClapAudioModelWithProjection", AUDIO, SOUND),
    case("audio-model-fused", "ClapAudioModel", FUSION, PARTS),
    case(
        "audio-model-with-projection-fused",
        "ClapAudioModelWithProjection",
        FUSION | dict(aff_block_r=4),
        Spectrogram((2, 4, 32, 8), longer=[True, True]),
    ),
    case("audio-model-fused-all-short", "ClapAudioModel", FUSION, Spectrogram((2, 4, 32, 8), longer=[False, False])),
    # A longer sound without its parts, as the extractor of a model without fusion gives it.
    case("audio-model-fused-one-view", "ClapAudioModel", FUSION, Spectrogram((2, 1, 32, 8), longer=[True, False])),
    # Fewer frames than the square holds are stretched.
    case("audio-model-stretched", "ClapAudioModel", AUDIO, Spectrogram((2, 1, 57, 16))),
    case("audio-model-fused-stretched", "ClapAudioModel", FUSION, Spectrogram((2, 4, 29, 8), longer=[True, False])),
    # Folded four times, with patches that overlap.
    case(
        "audio-model-overlap",
        "ClapAudioModel",
        AUDIO | dict(num_mel_bins=8, patch_size=6),
        Spectrogram((1, 1, 128, 8)),
    ),
    case("audio-model-no-query-key-value-bias", "ClapAudioModel", AUDIO | dict(qkv_bias=False), SOUND),
    case("audio-model-no-patch-norm", "ClapAudioModel", AUDIO | dict(enable_patch_layer_norm=False), SOUND),
    case("audio-model-eps", "ClapAudioModel", AUDIO | dict(layer_norm_eps=1e-2), SOUND),
    case(
        "audio-model-three-stages",
        "ClapAudioModel",
        AUDIO
        | dict(
            window_size=2,
            hidden_size=24,
            depths=[1, 2, 1],
            num_attention_heads=[1, 2, 3],
            patch_embeds_hidden_size=6,
            num_hidden_layers=3,
        ),
        Spectrogram((1, 1, 64, 16)),
        layers=True,
    ),
    case("model-gelu-projection", "ClapModel", CONFIG | dict(projection_hidden_act="gelu"), BOTH),
    case("text-model-position-ids", "ClapTextModel", TEXT, Inputs(lengths=LONG, positions=True, pad_token_id=1)),
    case("text-model-left-padding", "ClapTextModel", TEXT, Inputs(lengths=LONG, left=True, pad_token_id=1)),
    case("text-model-no-mask", "ClapTextModel", TEXT, Inputs(lengths=LONG, mask=False, pad_token_id=1)),
    # One tower under the name that it has in files with both, and with the configuration of both.
    case(
        "text-model-with-projection-whole-config",
        "ClapTextModelWithProjection",
        TEXT,
        WORDS,
        **whole(TEXT, CONFIG),
    ),
    case(
        "audio-model-with-projection-whole-config",
        "ClapAudioModelWithProjection",
        FUSION,
        PARTS,
        **whole(FUSION, FUSED),
    ),
    case(
        "model-sparse-config",
        "ClapModel",
        CONFIG,
        BOTH,
        sparse=True,
        file=dict(hidden_size=REMOVED, num_hidden_layers=REMOVED, text_config=TEXT, audio_config=AUDIO),
    ),
    case("model-bf16", "ClapModel", CONFIG, BOTH, dtype="bf16"),
]
