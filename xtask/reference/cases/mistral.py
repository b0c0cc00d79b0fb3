"""Mistral."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    sliding_window=5,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "MistralModel", CONFIG, LONG),
    Case("causal-lm", "MistralForCausalLM", CONFIG, LONG),
    Case("sequence-classification", "MistralForSequenceClassification", LABELS, LONG),
    Case("token-classification", "MistralForTokenClassification", LABELS),
    Case("question-answering", "MistralForQuestionAnswering", CONFIG),
    Case("causal-lm-tied", "MistralForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-no-window", "MistralModel", CONFIG | dict(sliding_window=None), LONG),
    # A token sees itself alone.
    Case("model-window-1", "MistralModel", CONFIG | dict(sliding_window=1)),
    Case("model-head-dim", "MistralModel", CONFIG | dict(head_dim=12)),
    Case("model-one-key-value-head", "MistralModel", CONFIG | dict(num_key_value_heads=1)),
    Case("model-all-key-value-heads", "MistralModel", CONFIG | dict(num_key_value_heads=4)),
    Case("model-gelu", "MistralModel", CONFIG | dict(hidden_act="gelu")),
    Case("model-left-padding", "MistralModel", CONFIG, LEFT),
    Case("sequence-classification-left-padding", "MistralForSequenceClassification", LABELS, LEFT),
    Case("model-position-ids", "MistralModel", CONFIG, Inputs(positions=True)),
    Case(
        "model-rope-yarn",
        "MistralModel",
        CONFIG
        | dict(
            num_attention_heads=2,
            num_key_value_heads=1,
            rope_parameters=dict(
                rope_type="yarn", rope_theta=100.0, factor=2.0, original_max_position_embeddings=32
            ),
        ),
    ),
    Case("model-eps", "MistralModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own eight heads of keys and values, and its window.
    Case(
        "model-sparse-config",
        "MistralModel",
        CONFIG | dict(hidden_size=64, num_attention_heads=16, num_key_value_heads=8, sliding_window=4096),
        sparse=True,
        file=dict(head_dim=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of mistralai/Mistral-7B-Instruct-v0.3 holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "MistralForCausalLM",
        CONFIG | dict(sliding_window=None),
        LONG,
        sparse=True,
        file=dict(
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            head_dim=REMOVED,
            hidden_act="silu",
            initializer_range=0.02,
            rms_norm_eps=1e-05,
            rope_parameters=REMOVED,
            rope_theta=1000000.0,
            tie_word_embeddings=False,
            transformers_version="4.42.0.dev0",
            use_cache=True,
        ),
    ),
]
