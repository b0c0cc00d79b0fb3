"""SmolLM3."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    no_rope_layer_interval=2,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# The layers without positions see a window.
SLIDING = CONFIG | dict(use_sliding_window=True, sliding_window=5)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "SmolLM3Model", CONFIG),
    Case("causal-lm", "SmolLM3ForCausalLM", CONFIG),
    Case("sequence-classification", "SmolLM3ForSequenceClassification", LABELS),
    Case("token-classification", "SmolLM3ForTokenClassification", LABELS),
    Case("question-answering", "SmolLM3ForQuestionAnswering", CONFIG),
    Case("causal-lm-untied", "SmolLM3ForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    Case("model-biases", "SmolLM3Model", CONFIG | dict(attention_bias=True, mlp_bias=True)),
    # 1 rotates. The list may be longer than there are layers.
    Case("model-no-rope-layers", "SmolLM3Model", CONFIG | dict(no_rope_layers=[0, 1, 0, 1, 0])),
    Case("model-windows", "SmolLM3Model", SLIDING, LONG),
    Case("causal-lm-windows-left-padding", "SmolLM3ForCausalLM", SLIDING, LEFT),
    # Windows where there are positions, which the other keys cannot give.
    Case(
        "model-layer-types",
        "SmolLM3Model",
        SLIDING | dict(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
        LONG,
    ),
    # `layer_types` needs no leave of `use_sliding_window`.
    Case("model-layer-types-alone", "SmolLM3Model", SLIDING, LONG, file=dict(use_sliding_window=False)),
    # Both lists made of the other keys.
    Case("model-no-lists", "SmolLM3Model", SLIDING, LONG, file=dict(layer_types=REMOVED, no_rope_layers=REMOVED)),
    Case(
        "model-unused-window",
        "SmolLM3Model",
        CONFIG,
        LONG,
        file=dict(layer_types=REMOVED, no_rope_layers=REMOVED, sliding_window=4),
    ),
    Case("model-head-dim", "SmolLM3Model", CONFIG | dict(head_dim=12)),
    Case("model-one-key-value-head", "SmolLM3Model", CONFIG | dict(num_key_value_heads=1)),
    # Null is a head for each of queries, where the class's default is 4.
    Case(
        "model-all-key-value-heads",
        "SmolLM3Model",
        CONFIG | dict(num_attention_heads=2, num_key_value_heads=2),
        file=dict(num_key_value_heads=None),
    ),
    Case("model-gelu", "SmolLM3Model", CONFIG | dict(hidden_act="gelu")),
    Case("sequence-classification-left-padding", "SmolLM3ForSequenceClassification", LABELS, Inputs(left=True)),
    Case("model-position-ids", "SmolLM3Model", CONFIG, Inputs(positions=True)),
    # With the class's own base, which is not the one of others.
    Case(
        "model-rope-linear",
        "SmolLM3Model",
        CONFIG | dict(num_attention_heads=2),
        file=dict(rope_parameters=REMOVED, rope_scaling=dict(type="linear", factor=2.0)),
    ),
    Case("model-eps", "SmolLM3Model", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own interval and heads of keys and values.
    Case(
        "causal-lm-sparse-config",
        "SmolLM3ForCausalLM",
        CONFIG | dict(num_hidden_layers=4, num_key_value_heads=4, no_rope_layer_interval=4),
        sparse=True,
        file=dict(layer_types=REMOVED, no_rope_layers=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of HuggingFaceTB/SmolLM3-3B holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "SmolLM3ForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=28,
            mlp_bias=False,
            pretraining_tp=2,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_scaling=None,
            rope_theta=5000000.0,
            sliding_window=None,
            transformers_version="4.54.0.dev0",
            use_cache=False,
            use_sliding_window=False,
        ),
    ),
]
