"""Gemma."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    # Not hidden_size / num_attention_heads.
    head_dim=16,
    intermediate_size=48,
    max_position_embeddings=64,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Norms multiply by one more than their weight, here by about two: smaller projections keep the softmax from saturating.
STDS = {"q_proj.weight": 0.1, "k_proj.weight": 0.1}
# Embeddings this small let the first norm's epsilon show in the outputs, although they are scaled.
SMALL = STDS | {"embed_tokens.weight": 0.005}
LEFT = Inputs(left=True)

CASES = [
    Case("model", "GemmaModel", CONFIG, stds=STDS),
    Case("causal-lm", "GemmaForCausalLM", CONFIG, stds=STDS),
    Case("causal-lm-untied", "GemmaForCausalLM", CONFIG | dict(tie_word_embeddings=False), stds=STDS),
    Case("sequence-classification", "GemmaForSequenceClassification", LABELS, stds=STDS),
    Case("token-classification", "GemmaForTokenClassification", LABELS, stds=STDS),
    # google/gemma-7b has as many heads of keys as of queries, google/gemma-2b has one.
    Case("model-all-heads", "GemmaModel", CONFIG | dict(num_key_value_heads=4), stds=STDS),
    Case("causal-lm-one-group", "GemmaForCausalLM", CONFIG | dict(num_key_value_heads=1), stds=STDS),
    Case("model-biases", "GemmaModel", CONFIG | dict(attention_bias=True), stds=STDS),
    # The files of google/gemma-2b say `gelu`, which stands for its approximation here.
    Case("model-gelu", "GemmaModel", CONFIG, file=dict(hidden_act="gelu", hidden_activation=None), stds=STDS),
    Case("model-silu", "GemmaModel", CONFIG | dict(hidden_act="silu"), stds=STDS),
    Case(
        "model-linear-rope",
        "GemmaModel",
        CONFIG | dict(rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=4.0)),
        stds=STDS,
    ),
    # Frequencies that stay, that are stretched, and between, in the older spelling.
    Case(
        "model-llama3-rope-hub-config",
        "GemmaModel",
        CONFIG,
        file=dict(
            rope_parameters=REMOVED,
            rope_theta=500.0,
            rope_scaling=dict(
                rope_type="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        ),
        stds=STDS,
    ),
    Case("model-left-padding", "GemmaModel", CONFIG, LEFT, stds=STDS),
    Case("sequence-classification-left-padding", "GemmaForSequenceClassification", LABELS, LEFT, stds=STDS),
    Case("model-eps", "GemmaModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL),
    # The default of `pad_token_id` is one of the keys that it lacks.
    Case("sequence-classification-sparse-config", "GemmaForSequenceClassification", LABELS, sparse=True, stds=SMALL),
]
