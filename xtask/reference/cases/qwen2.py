"""Qwen2 and Qwen2.5."""

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
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# The first layer sees all, the others a window.
SLIDING = CONFIG | dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=5, max_window_layers=1)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "Qwen2Model", CONFIG),
    Case("causal-lm", "Qwen2ForCausalLM", CONFIG),
    Case("sequence-classification", "Qwen2ForSequenceClassification", LABELS),
    Case("token-classification", "Qwen2ForTokenClassification", LABELS),
    Case("question-answering", "Qwen2ForQuestionAnswering", CONFIG),
    Case("causal-lm-tied", "Qwen2ForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-windows", "Qwen2Model", SLIDING, LONG),
    Case("causal-lm-windows-left-padding", "Qwen2ForCausalLM", SLIDING, LEFT),
    # An order that `max_window_layers` cannot give.
    Case(
        "model-layer-types",
        "Qwen2Model",
        SLIDING | dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        LONG,
    ),
    # Files older than `layer_types`.
    Case("model-max-window-layers", "Qwen2Model", SLIDING, LONG, file=dict(layer_types=REMOVED, max_window_layers=2)),
    # Without `use_sliding_window` the other keys mean nothing.
    Case(
        "model-unused-window",
        "Qwen2Model",
        CONFIG,
        LONG,
        file=dict(layer_types=REMOVED, max_window_layers=0, sliding_window=4),
    ),
    Case(
        "model-null-window",
        "Qwen2Model",
        CONFIG,
        file=dict(layer_types=REMOVED, max_window_layers=0, sliding_window=None, use_sliding_window=True),
    ),
    Case("model-head-dim", "Qwen2Model", CONFIG | dict(head_dim=12)),
    Case("model-one-key-value-head", "Qwen2Model", CONFIG | dict(num_key_value_heads=1)),
    # Null is a head for each of queries, where the class's default is 32.
    Case(
        "model-all-key-value-heads",
        "Qwen2Model",
        CONFIG | dict(num_key_value_heads=4),
        file=dict(num_key_value_heads=None),
    ),
    Case("model-gelu", "Qwen2Model", CONFIG | dict(hidden_act="gelu")),
    Case("sequence-classification-left-padding", "Qwen2ForSequenceClassification", LABELS, Inputs(left=True)),
    Case("model-position-ids", "Qwen2Model", CONFIG, Inputs(positions=True)),
    # As the model cards say to process long texts.
    Case(
        "model-rope-yarn",
        "Qwen2Model",
        CONFIG | dict(num_attention_heads=2, num_key_value_heads=1),
        file=dict(
            rope_parameters=REMOVED,
            rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32),
            rope_theta=100.0,
        ),
    ),
    Case("model-eps", "Qwen2Model", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    Case(
        "model-sparse-config",
        "Qwen2Model",
        CONFIG,
        sparse=True,
        file=dict(layer_types=REMOVED, sliding_window=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of Qwen/Qwen2.5-0.5B-Instruct holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "Qwen2ForCausalLM",
        CONFIG | dict(tie_word_embeddings=True),
        sparse=True,
        file=dict(
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=REMOVED,
            max_window_layers=1,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_theta=1000000.0,
            sliding_window=8,
            tie_word_embeddings=True,
            transformers_version="4.43.1",
            use_cache=True,
            use_sliding_window=False,
        ),
    ),
]
