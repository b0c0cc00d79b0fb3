"""Whisper."""

from case import REMOVED, Case, Inputs, Spectrogram, Together

CONFIG = dict(
    vocab_size=60,
    num_mel_bins=8,
    d_model=16,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_layers=2,
    decoder_attention_heads=2,
    decoder_ffn_dim=24,
    max_source_positions=14,
    max_target_positions=20,
    classifier_proj_size=10,
    pad_token_id=1,
    bos_token_id=2,
    eos_token_id=2,
    decoder_start_token_id=3,
)
LABELS = CONFIG | dict(num_labels=3)
# Two frames for each position of the encoder.
SOUND = Spectrogram((2, 8, 28))
TEXT = Inputs(lengths=[7, 7], mask=False, prefix="decoder_")
BOTH = Together((SOUND, TEXT))
# What the encoder of another model heard.
HEARD = Spectrogram((2, 14, 16), name="encoder_outputs")
# Vectors near one, and weights of layers that differ visibly.
STDS = {"embed_positions.weight": 0.8, "embed_tokens.weight": 0.8, "proj_out.weight": 0.3, "layer_weights": 1.0}


def case(name: str, model_class: str, config: dict, inputs=BOTH, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "WhisperModel", CONFIG, layers=True),
    case("conditional-generation", "WhisperForConditionalGeneration", CONFIG),
    case("audio-classification", "WhisperForAudioClassification", LABELS, SOUND),
    case(
        "audio-classification-weighted-layers",
        "WhisperForAudioClassification",
        LABELS | dict(use_weighted_layer_sum=True),
        SOUND,
        layers=True,
    ),
    case("conditional-generation-untied", "WhisperForConditionalGeneration", CONFIG | dict(tie_word_embeddings=False)),
    case(
        "conditional-generation-decoder-mask",
        "WhisperForConditionalGeneration",
        CONFIG,
        Together((SOUND, Inputs(lengths=[7, 4], pad_token_id=1, prefix="decoder_"))),
    ),
    case(
        "model-decoder-left-padding",
        "WhisperModel",
        CONFIG,
        Together((SOUND, Inputs(lengths=[7, 4], left=True, pad_token_id=1, prefix="decoder_"))),
    ),
    case(
        "model-decoder-position-ids",
        "WhisperModel",
        CONFIG,
        Together((SOUND, Inputs(lengths=[7, 7], mask=False, positions=True, prefix="decoder_"))),
    ),
    case(
        "conditional-generation-one-token",
        "WhisperForConditionalGeneration",
        CONFIG,
        Together((SOUND, Inputs(lengths=[1, 1], mask=False, prefix="decoder_"))),
    ),
    case(
        "conditional-generation-layers",
        "WhisperForConditionalGeneration",
        CONFIG | dict(decoder_layers=1),
        layers=True,
    ),
    case(
        "causal-lm",
        "WhisperForCausalLM",
        CONFIG,
        Together((HEARD, Inputs(lengths=[7, 7], mask=False))),
        layers=True,
    ),
    case(
        "causal-lm-mask",
        "WhisperForCausalLM",
        CONFIG,
        Together((HEARD, Inputs(lengths=[7, 4], pad_token_id=1))),
    ),
    case(
        "causal-lm-position-ids",
        "WhisperForCausalLM",
        CONFIG,
        Together((HEARD, Inputs(lengths=[7, 7], mask=False, positions=True))),
    ),
    case(
        "causal-lm-untied",
        "WhisperForCausalLM",
        CONFIG | dict(tie_word_embeddings=False, decoder_layers=1),
        Together((HEARD, Inputs(lengths=[9, 9], mask=False))),
    ),
    case("model-relu", "WhisperModel", CONFIG | dict(activation_function="relu")),
    # The scale was never applied to the embeddings.
    case("model-scale-embedding", "WhisperModel", CONFIG | dict(scale_embedding=True)),
    case(
        "conditional-generation-odd-sizes",
        "WhisperForConditionalGeneration",
        CONFIG
        | dict(
            vocab_size=51,
            num_mel_bins=7,
            d_model=18,
            encoder_layers=3,
            encoder_attention_heads=3,
            encoder_ffn_dim=25,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=19,
            max_source_positions=9,
        ),
        Together((Spectrogram((1, 7, 18)), Inputs(lengths=[11], mask=False, prefix="decoder_"))),
    ),
    case("conditional-generation-sparse-config", "WhisperForConditionalGeneration", CONFIG, sparse=True),
    # Keys as in config.json of openai/whisper-tiny.
    case(
        "conditional-generation-hub-config",
        "WhisperForConditionalGeneration",
        CONFIG,
        sparse=True,
        file=dict(
            _name_or_path="openai/whisper-tiny",
            activation_dropout=0.0,
            activation_function="gelu",
            attention_dropout=0.0,
            begin_suppress_tokens=[22, 2],
            decoder_layerdrop=0.0,
            dropout=0.0,
            dtype=REMOVED,
            encoder_layerdrop=0.0,
            forced_decoder_ids=[[1, 55], [2, 56], [3, 57]],
            init_std=0.02,
            is_encoder_decoder=True,
            num_hidden_layers=2,
            scale_embedding=False,
            suppress_tokens=[10, 12, 17],
            torch_dtype="float32",
            transformers_version="4.27.0.dev0",
            use_cache=True,
        ),
    ),
    case("conditional-generation-bf16", "WhisperForConditionalGeneration", CONFIG, dtype="bf16"),
    case("conditional-generation-f16", "WhisperForConditionalGeneration", CONFIG, dtype="f16"),
]
