"""Qwen3."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    intermediate_size=48,
    max_position_embeddings=64,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# The first layer sees all, the others a window.
SLIDING = CONFIG | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=1)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "Qwen3Model", CONFIG),
    Case("causal-lm", "Qwen3ForCausalLM", CONFIG),
    Case("sequence-classification", "Qwen3ForSequenceClassification", LABELS),
    Case("token-classification", "Qwen3ForTokenClassification", LABELS),
    Case("question-answering", "Qwen3ForQuestionAnswering", CONFIG),
    Case("causal-lm-tied", "Qwen3ForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-biases", "Qwen3Model", CONFIG | dict(attention_bias=True)),
    Case("model-windows", "Qwen3Model", SLIDING, LONG),
    Case("causal-lm-windows-left-padding", "Qwen3ForCausalLM", SLIDING, LEFT),
    # An order that `max_window_layers` cannot give.
    Case(
        "model-layer-types",
        "Qwen3Model",
        SLIDING | dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        LONG,
    ),
    # Files older than `layer_types`.
    Case("model-max-window-layers", "Qwen3Model", SLIDING, LONG, file=dict(layer_types=REMOVED, max_window_layers=2)),
    # Without `use_sliding_window` the other keys mean nothing.
    Case(
        "model-unused-window",
        "Qwen3Model",
        CONFIG,
        LONG,
        file=dict(layer_types=REMOVED, max_window_layers=0, sliding_window=4),
    ),
    Case("model-one-key-value-head", "Qwen3Model", CONFIG | dict(num_key_value_heads=1)),
    # Null is a head for each of queries, where the class's default is 32.
    Case(
        "model-all-key-value-heads",
        "Qwen3Model",
        CONFIG | dict(num_key_value_heads=4),
        file=dict(num_key_value_heads=None),
    ),
    Case("model-gelu", "Qwen3Model", CONFIG | dict(hidden_act="gelu")),
    Case("sequence-classification-left-padding", "Qwen3ForSequenceClassification", LABELS, Inputs(left=True)),
    Case("model-position-ids", "Qwen3Model", CONFIG, Inputs(positions=True)),
    # As the model cards say to process long texts.
    Case(
        "model-rope-yarn",
        "Qwen3Model",
        CONFIG | dict(head_dim=16),
        file=dict(
            rope_parameters=REMOVED,
            rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
            rope_theta=100.0,
        ),
    ),
    # The norms of queries and keys have the same epsilon, and see smaller numbers.
    Case(
        "model-eps",
        "Qwen3Model",
        CONFIG | dict(rms_norm_eps=1e-3),
        stds=SMALL_EMBEDDINGS | {"q_proj.weight": 0.02, "k_proj.weight": 0.02},
    ),
    # The class's own width of heads.
    Case(
        "model-sparse-config",
        "Qwen3Model",
        CONFIG | dict(num_attention_heads=2, num_key_value_heads=1, head_dim=128),
        sparse=True,
        file=dict(layer_types=REMOVED, sliding_window=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of Qwen/Qwen3-0.6B holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "Qwen3ForCausalLM",
        CONFIG | dict(tie_word_embeddings=True),
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=REMOVED,
            max_window_layers=1,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_scaling=None,
            rope_theta=1000000,
            sliding_window=None,
            tie_word_embeddings=True,
            transformers_version="4.51.0",
            use_cache=True,
            use_sliding_window=False,
        ),
    ),
]
