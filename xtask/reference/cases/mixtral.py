"""Mixtral."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=40,
    num_local_experts=5,
    num_experts_per_tok=2,
    max_position_embeddings=64,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Longer than the window of the case, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "MixtralModel", CONFIG),
    Case("causal-lm", "MixtralForCausalLM", CONFIG),
    Case("sequence-classification", "MixtralForSequenceClassification", LABELS),
    Case("token-classification", "MixtralForTokenClassification", LABELS),
    Case("question-answering", "MixtralForQuestionAnswering", CONFIG),
    Case("causal-lm-tied-bf16", "MixtralForCausalLM", CONFIG | dict(tie_word_embeddings=True), dtype="bf16"),
    # One expert for each token: its weight is one.
    Case("model-one-expert", "MixtralModel", CONFIG | dict(num_experts_per_tok=1)),
    Case("model-all-experts", "MixtralModel", CONFIG | dict(num_local_experts=3, num_experts_per_tok=3)),
    # A single token, and more experts than tokens.
    Case("model-one-token", "MixtralModel", CONFIG | dict(num_local_experts=8), Inputs(lengths=[1])),
    Case("model-window", "MixtralModel", CONFIG | dict(sliding_window=5), LONG),
    Case("model-head-dim", "MixtralModel", CONFIG | dict(head_dim=12, num_key_value_heads=1)),
    Case("model-all-key-value-heads", "MixtralModel", CONFIG | dict(num_key_value_heads=4, hidden_act="gelu")),
    Case("model-window-left-padding", "MixtralModel", CONFIG | dict(sliding_window=5), LEFT),
    Case(
        "causal-lm-odd-sizes",
        "MixtralForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=42,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            intermediate_size=51,
        ),
        Inputs(lengths=[5, 17, 9]),
    ),
    Case(
        "model-rope-yarn",
        "MixtralModel",
        CONFIG
        | dict(
            head_dim=16,
            rope_parameters=dict(
                rope_type="yarn", rope_theta=100.0, factor=2.0, original_max_position_embeddings=32
            ),
        ),
    ),
    Case("model-eps", "MixtralModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own eight experts and heads of keys and values, and its theta.
    Case(
        "model-sparse-config",
        "MixtralModel",
        CONFIG | dict(hidden_size=64, num_attention_heads=16, num_key_value_heads=8, num_local_experts=8),
        sparse=True,
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of mistralai/Mixtral-8x7B-v0.1 holds besides the sizes, with a theta that a short text shows.
    Case(
        "causal-lm-hub-config",
        "MixtralForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            attention_dropout=0.0,
            bos_token_id=1,
            eos_token_id=2,
            head_dim=REMOVED,
            hidden_act="silu",
            initializer_range=0.02,
            output_router_logits=False,
            rms_norm_eps=1e-05,
            rope_parameters=REMOVED,
            rope_theta=500.0,
            router_aux_loss_coef=0.02,
            sliding_window=None,
            tie_word_embeddings=False,
            transformers_version="4.36.0.dev0",
            use_cache=True,
        ),
    ),
]
