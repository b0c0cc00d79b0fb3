"""Gemma 2."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    # Not hidden_size / num_attention_heads.
    head_dim=16,
    # Not head_dim.
    query_pre_attn_scalar=24,
    intermediate_size=48,
    max_position_embeddings=64,
    sliding_window=6,
    bos_token_id=2,
    eos_token_id=1,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Norms multiply by one more than their weight, here by about two: smaller projections keep the softmax from saturating.
STDS = {"q_proj.weight": 0.1, "k_proj.weight": 0.1}
# Embeddings this small let the first norm's epsilon show in the outputs, although they are scaled.
SMALL = STDS | {"embed_tokens.weight": 0.005}
# Longer than the window of the sliding layers, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])

CASES = [
    Case("model", "Gemma2Model", CONFIG, LONG, stds=STDS),
    Case("causal-lm", "Gemma2ForCausalLM", CONFIG, LONG, stds=STDS),
    Case("causal-lm-untied", "Gemma2ForCausalLM", CONFIG | dict(tie_word_embeddings=False), stds=STDS),
    Case(
        "causal-lm-tight-caps",
        "Gemma2ForCausalLM",
        CONFIG | dict(attn_logit_softcapping=1.5, final_logit_softcapping=3.0),
        stds=STDS,
    ),
    # Null is not the default.
    Case(
        "causal-lm-no-caps",
        "Gemma2ForCausalLM",
        CONFIG | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
        stds=STDS,
    ),
    Case("sequence-classification", "Gemma2ForSequenceClassification", LABELS, LONG, stds=STDS),
    Case("token-classification", "Gemma2ForTokenClassification", LABELS, stds=STDS),
    Case("model-all-heads", "Gemma2Model", CONFIG | dict(num_key_value_heads=4), stds=STDS),
    Case("model-one-group", "Gemma2Model", CONFIG | dict(num_key_value_heads=1), stds=STDS),
    Case("model-biases", "Gemma2Model", CONFIG | dict(attention_bias=True), stds=STDS),
    Case("model-silu", "Gemma2Model", CONFIG | dict(hidden_activation="silu"), stds=STDS),
    # An order that no rule gives, and a window of one more token.
    Case(
        "model-layer-types",
        "Gemma2Model",
        CONFIG
        | dict(
            layer_types=["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            sliding_window=7,
        ),
        LONG,
        stds=STDS,
    ),
    Case(
        "model-yarn-rope",
        "Gemma2Model",
        CONFIG
        | dict(
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=100.0,
                factor=4.0,
                original_max_position_embeddings=16,
                beta_fast=4.0,
                beta_slow=1.0,
            ),
        ),
        LONG,
        stds=STDS,
    ),
    # As in google/gemma-2-2b, kinds of layers and rotation are left to the rules, and `hidden_act` and
    # `sliding_window_size` have no effect.
    Case(
        "causal-lm-hub-config",
        "Gemma2ForCausalLM",
        CONFIG,
        LONG,
        file=dict(
            layer_types=REMOVED,
            rope_parameters=REMOVED,
            rope_theta=500.0,
            hidden_act="relu",
            sliding_window_size=9,
        ),
        stds=STDS,
    ),
    Case("model-left-padding", "Gemma2Model", CONFIG, Inputs(lengths=[19, 11], left=True), stds=STDS),
    Case("model-eps", "Gemma2Model", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL),
    # The defaults of the caps and of `pad_token_id` are among the keys that it lacks.
    Case(
        "sequence-classification-sparse-config",
        "Gemma2ForSequenceClassification",
        LABELS,
        sparse=True,
        file=dict(layer_types=REMOVED),
        stds=SMALL,
    ),
]
