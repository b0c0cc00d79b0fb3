"""Qwen1.5-MoE and Qwen2-MoE."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    moe_intermediate_size=20,
    shared_expert_intermediate_size=28,
    num_experts=6,
    num_experts_per_tok=2,
    max_position_embeddings=64,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Of the first three layers the first and the third see a window.
SLIDING = CONFIG | dict(num_hidden_layers=4, use_sliding_window=True, sliding_window=5, max_window_layers=3)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)

CASES = [
    Case("model", "Qwen2MoeModel", CONFIG),
    Case("causal-lm", "Qwen2MoeForCausalLM", CONFIG),
    Case("sequence-classification", "Qwen2MoeForSequenceClassification", LABELS),
    Case("token-classification", "Qwen2MoeForTokenClassification", LABELS),
    Case("question-answering", "Qwen2MoeForQuestionAnswering", CONFIG),
    Case("causal-lm-tied", "Qwen2MoeForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-normalized", "Qwen2MoeModel", CONFIG | dict(norm_topk_prob=True)),
    Case("model-no-biases", "Qwen2MoeModel", CONFIG | dict(qkv_bias=False)),
    Case("model-mlp-only-layers", "Qwen2MoeModel", CONFIG | dict(num_hidden_layers=3, mlp_only_layers=[0, 2])),
    Case("model-sparse-step", "Qwen2MoeModel", CONFIG | dict(num_hidden_layers=4, decoder_sparse_step=2)),
    Case("model-no-experts", "Qwen2MoeModel", CONFIG | dict(num_experts=0)),
    Case("model-windows", "Qwen2MoeModel", SLIDING, LONG),
    Case("model-windows-left-padding", "Qwen2MoeModel", SLIDING, LEFT),
    # Files older than `layer_types`.
    Case(
        "model-max-window-layers",
        "Qwen2MoeModel",
        SLIDING,
        LONG,
        file=dict(layer_types=REMOVED, max_window_layers=1),
    ),
    # An order that `max_window_layers` cannot give.
    Case(
        "model-layer-types",
        "Qwen2MoeModel",
        SLIDING | dict(num_hidden_layers=2, layer_types=["full_attention", "sliding_attention"]),
        LONG,
    ),
    Case("model-head-dim", "Qwen2MoeModel", CONFIG | dict(head_dim=12, num_key_value_heads=1)),
    Case(
        "causal-lm-odd-sizes",
        "Qwen2MoeForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=42,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=3,
            moe_intermediate_size=17,
            shared_expert_intermediate_size=23,
            num_experts=7,
            hidden_act="gelu",
            num_experts_per_tok=3,
        ),
        Inputs(lengths=[5, 17, 9]),
    ),
    Case(
        "model-rope-linear-old",
        "Qwen2MoeModel",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rope_theta=100.0, rope_scaling=dict(type="linear", factor=4.0)),
    ),
    Case("model-eps", "Qwen2MoeModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own four experts for each token and sixteen heads of keys and values.
    Case(
        "model-sparse-config",
        "Qwen2MoeModel",
        CONFIG | dict(hidden_size=64, num_attention_heads=16, num_key_value_heads=16, num_experts_per_tok=4),
        sparse=True,
        file=dict(layer_types=REMOVED, sliding_window=REMOVED, mlp_only_layers=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of Qwen/Qwen1.5-MoE-A2.7B holds besides the sizes, with a theta that a short text shows.
    Case(
        "causal-lm-hub-config",
        "Qwen2MoeForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            attention_dropout=0.0,
            bos_token_id=1,
            decoder_sparse_step=1,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            layer_types=REMOVED,
            max_window_layers=1,
            mlp_only_layers=REMOVED,
            norm_topk_prob=False,
            output_router_logits=False,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_theta=500.0,
            router_aux_loss_coef=0.001,
            sliding_window=4,
            tie_word_embeddings=False,
            transformers_version="4.39.0.dev0",
            use_cache=True,
            use_sliding_window=False,
        ),
    ),
]
