"""Gemma 3, its text part."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    # Not hidden_size / num_attention_heads.
    head_dim=16,
    # Queries and keys are normalised to about twice the root of head_dim: this keeps the softmax from saturating.
    query_pre_attn_scalar=100,
    intermediate_size=48,
    max_position_embeddings=64,
    sliding_window=6,
    layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Embeddings this small let the first norm's epsilon show in the outputs, although they are scaled.
SMALL = {"embed_tokens.weight": 0.005}
# Longer than the window of the sliding layers, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])

CASES = [
    Case("model", "Gemma3TextModel", CONFIG, LONG),
    Case("causal-lm", "Gemma3ForCausalLM", CONFIG, LONG),
    Case("causal-lm-untied", "Gemma3ForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    # The cap of the scores is read and never used.
    Case(
        "causal-lm-caps",
        "Gemma3ForCausalLM",
        CONFIG | dict(attn_logit_softcapping=1.0, final_logit_softcapping=3.0),
    ),
    Case("sequence-classification", "Gemma3TextForSequenceClassification", LABELS, LONG),
    Case("model-all-heads", "Gemma3TextModel", CONFIG | dict(num_key_value_heads=4)),
    Case("model-one-group", "Gemma3TextModel", CONFIG | dict(num_key_value_heads=1)),
    Case("model-biases", "Gemma3TextModel", CONFIG | dict(attention_bias=True)),
    Case("model-silu", "Gemma3TextModel", CONFIG | dict(hidden_activation="silu")),
    # google/embeddinggemma-300m; the window is of both sides.
    Case(
        "model-bidirectional",
        "Gemma3TextModel",
        CONFIG | dict(use_bidirectional_attention=True, sliding_window=8),
        LONG,
    ),
    Case(
        "model-bidirectional-left-padding",
        "Gemma3TextModel",
        CONFIG | dict(use_bidirectional_attention=True, sliding_window=8),
        Inputs(lengths=[19, 11], left=True),
    ),
    Case(
        "model-rope-by-kind",
        "Gemma3TextModel",
        CONFIG
        | dict(
            rope_parameters=dict(
                full_attention=dict(rope_type="linear", rope_theta=1000.0, factor=8.0),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            ),
        ),
        LONG,
    ),
    # What google/gemma-3-1b-pt writes in place of `layer_types` and `rope_parameters`; as in the larger ones, positions
    # are stretched in full layers alone.
    Case(
        "causal-lm-hub-config",
        "Gemma3ForCausalLM",
        CONFIG,
        LONG,
        file=dict(
            layer_types=REMOVED,
            rope_parameters=REMOVED,
            sliding_window_pattern=2,
            rope_theta=1000.0,
            rope_local_base_freq=100.0,
            rope_scaling=dict(rope_type="linear", factor=8.0),
        ),
    ),
    Case("model-left-padding", "Gemma3TextModel", CONFIG, Inputs(lengths=[19, 11], left=True)),
    Case("model-eps", "Gemma3TextModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL),
    # Five sliding layers, a full one and again a sliding one.
    Case(
        "sequence-classification-sparse-config",
        "Gemma3TextForSequenceClassification",
        LABELS
        | dict(num_hidden_layers=7, layer_types=[*5 * ["sliding_attention"], "full_attention", "sliding_attention"]),
        LONG,
        sparse=True,
        file=dict(layer_types=REMOVED),
        stds=SMALL,
    ),
]
