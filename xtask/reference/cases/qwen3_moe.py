"""Qwen3-MoE."""

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
    moe_intermediate_size=20,
    num_experts=6,
    num_experts_per_tok=3,
    max_position_embeddings=64,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
SLIDING = CONFIG | dict(use_sliding_window=True, sliding_window=5)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "Qwen3MoeModel", CONFIG),
    Case("causal-lm", "Qwen3MoeForCausalLM", CONFIG),
    Case("sequence-classification", "Qwen3MoeForSequenceClassification", LABELS),
    Case("token-classification", "Qwen3MoeForTokenClassification", LABELS),
    Case("question-answering", "Qwen3MoeForQuestionAnswering", CONFIG),
    Case("causal-lm-tied", "Qwen3MoeForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-normalized", "Qwen3MoeModel", CONFIG | dict(norm_topk_prob=True)),
    Case("model-biases", "Qwen3MoeModel", CONFIG | dict(attention_bias=True)),
    Case("model-mlp-only-layers", "Qwen3MoeModel", CONFIG | dict(num_hidden_layers=3, mlp_only_layers=[0, 2])),
    Case("model-sparse-step", "Qwen3MoeModel", CONFIG | dict(num_hidden_layers=4, decoder_sparse_step=2)),
    Case("model-window", "Qwen3MoeModel", SLIDING, LONG),
    # Without `use_sliding_window` the other key means nothing.
    Case("model-unused-window", "Qwen3MoeModel", CONFIG, LONG, file=dict(sliding_window=4)),
    Case("model-window-left-padding", "Qwen3MoeModel", SLIDING, LEFT),
    Case(
        "causal-lm-odd-sizes",
        "Qwen3MoeForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=43,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=3,
            head_dim=10,
            moe_intermediate_size=17,
            num_experts=7,
            hidden_act="gelu",
        ),
        Inputs(lengths=[5, 17, 9]),
    ),
    Case(
        "model-rope-yarn-old",
        "Qwen3MoeModel",
        CONFIG,
        file=dict(
            rope_parameters=REMOVED,
            rope_theta=100.0,
            rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
        ),
    ),
    Case("model-eps", "Qwen3MoeModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own eight experts for each token and four heads of keys and values; no width of the heads.
    Case(
        "model-sparse-config",
        "Qwen3MoeModel",
        {key: value for key, value in CONFIG.items() if key != "head_dim"}
        | dict(hidden_size=64, num_attention_heads=8, num_key_value_heads=4, num_experts=9, num_experts_per_tok=8),
        sparse=True,
        file=dict(sliding_window=REMOVED, mlp_only_layers=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of Qwen/Qwen3-30B-A3B holds besides the sizes, with a theta that a short text shows.
    Case(
        "causal-lm-hub-config",
        "Qwen3MoeForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            bos_token_id=1,
            decoder_sparse_step=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            max_window_layers=2,
            mlp_only_layers=[],
            norm_topk_prob=True,
            num_experts=6,
            num_local_experts=REMOVED,
            output_router_logits=False,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_scaling=None,
            rope_theta=500.0,
            router_aux_loss_coef=0.001,
            sliding_window=None,
            tie_word_embeddings=False,
            transformers_version="4.51.0",
            use_cache=True,
            use_sliding_window=False,
        ),
    ),
]
