"""Audio Spectrogram Transformer."""

from case import Case, Spectrogram

# Patches that overlap, by another step in each direction.
CONFIG = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    patch_size=4,
    frequency_stride=3,
    time_stride=2,
    max_length=17,
    num_mel_bins=11,
)
LABELS = CONFIG | dict(num_labels=3)
SOUND = Spectrogram((2, 17, 11), "input_values")


def case(name: str, model_class: str, config: dict, inputs: Spectrogram = SOUND, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, **rest)


CASES = [
    case("model", "ASTModel", CONFIG, layers=True),
    case("audio-classification", "ASTForAudioClassification", LABELS),
    # Patches side by side, of which the last rows and columns are not seen.
    case("model-no-overlap", "ASTModel", CONFIG | dict(frequency_stride=4, time_stride=4)),
    case("model-no-query-key-value-bias", "ASTModel", CONFIG | dict(qkv_bias=False)),
    case("model-relu", "ASTModel", CONFIG | dict(hidden_act="relu")),
    case("audio-classification-eps", "ASTForAudioClassification", LABELS | dict(layer_norm_eps=1e-3)),
    case("audio-classification-one-label", "ASTForAudioClassification", LABELS | dict(num_labels=1)),
    case(
        "audio-classification-odd-sizes",
        "ASTForAudioClassification",
        LABELS
        | dict(
            hidden_size=21,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=25,
            patch_size=5,
            frequency_stride=5,
            time_stride=3,
            max_length=20,
            num_mel_bins=13,
            num_labels=5,
        ),
        Spectrogram((1, 20, 13), "input_values"),
        layers=True,
    ),
    case("audio-classification-sparse-config", "ASTForAudioClassification", LABELS, sparse=True),
    # Keys as in config.json of MIT/ast-finetuned-audioset-10-10-0.4593.
    case(
        "audio-classification-hub-config",
        "ASTForAudioClassification",
        LABELS
        | dict(
            id2label={0: "Speech", 1: "Male speech, man speaking", 2: "Conversation"},
            label2id={"Speech": 0, "Male speech, man speaking": 1, "Conversation": 2},
        ),
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.0,
            hidden_act="gelu",
            hidden_dropout_prob=0.0,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            qkv_bias=True,
            transformers_version="4.25.0.dev0",
        ),
    ),
    case("audio-classification-bf16", "ASTForAudioClassification", LABELS, dtype="bf16"),
]
