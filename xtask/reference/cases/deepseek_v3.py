"""DeepSeek-V3."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    intermediate_size=48,
    moe_intermediate_size=20,
    first_k_dense_replace=1,
    n_routed_experts=8,
    n_shared_experts=1,
    num_experts_per_tok=3,
    n_group=4,
    topk_group=2,
    kv_lora_rank=16,
    q_lora_rank=24,
    qk_nope_head_dim=12,
    qk_rope_head_dim=8,
    v_head_dim=10,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)
THETA = 100.0

CASES = [
    Case("model", "DeepseekV3Model", CONFIG),
    Case("causal-lm", "DeepseekV3ForCausalLM", CONFIG),
    Case("sequence-classification", "DeepseekV3ForSequenceClassification", LABELS),
    Case("token-classification", "DeepseekV3ForTokenClassification", LABELS),
    Case("causal-lm-tied-bf16", "DeepseekV3ForCausalLM", CONFIG | dict(tie_word_embeddings=True), dtype="bf16"),
    # As deepseek-ai/DeepSeek-V3 has them, in smaller blocks, which few sizes are multiples of.
    Case(
        "causal-lm-fp8",
        "DeepseekV3ForCausalLM",
        CONFIG,
        dtype="bf16",
        packed={"mlp.gate.": None, "self_attn.": "fp8", "mlp.": "fp8-exponents"},
        file=dict(
            quantization_config=dict(
                activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[8, 16]
            )
        ),
    ),
    Case("model-direct-queries", "DeepseekV3Model", CONFIG | dict(q_lora_rank=None)),
    Case("model-biases", "DeepseekV3Model", CONFIG | dict(attention_bias=True)),
    Case("model-halves", "DeepseekV3Model", CONFIG | dict(rope_interleave=False)),
    # The weights of the experts as they are, but for another factor.
    Case("model-not-normalized", "DeepseekV3Model", CONFIG | dict(norm_topk_prob=False, routed_scaling_factor=0.7)),
    Case("model-one-group", "DeepseekV3Model", CONFIG | dict(n_group=1, topk_group=1, n_routed_experts=7)),
    Case("model-shared-experts", "DeepseekV3Model", CONFIG | dict(n_shared_experts=3)),
    Case("model-all-sparse", "DeepseekV3Model", CONFIG | dict(num_hidden_layers=2, first_k_dense_replace=0)),
    Case("model-left-padding", "DeepseekV3Model", CONFIG, LEFT),
    Case(
        "causal-lm-odd-sizes",
        "DeepseekV3ForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=43,
            num_attention_heads=3,
            num_key_value_heads=3,
            moe_intermediate_size=17,
            n_routed_experts=9,
            hidden_act="gelu",
            n_group=3,
            kv_lora_rank=15,
            q_lora_rank=21,
            qk_nope_head_dim=7,
            qk_rope_head_dim=6,
            v_head_dim=9,
        ),
        Inputs(lengths=[5, 17, 9]),
    ),
    # The temperature of the scores, and another one of what is rotated.
    Case(
        "model-rope-yarn",
        "DeepseekV3Model",
        CONFIG
        | dict(
            rope_parameters=dict(
                rope_type="yarn",
                rope_theta=THETA,
                factor=4.0,
                original_max_position_embeddings=32,
                mscale=1.0,
                mscale_all_dim=0.7,
            )
        ),
    ),
    Case(
        "model-rope-linear-old",
        "DeepseekV3Model",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rope_theta=THETA, rope_scaling=dict(type="linear", factor=4.0)),
    ),
    # The norms of the latent vectors have an epsilon of their own.
    Case("model-eps", "DeepseekV3Model", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    Case(
        "model-latent-eps",
        "DeepseekV3Model",
        CONFIG,
        stds={"q_a_proj.weight": 0.0005, "kv_a_proj_with_mqa.weight": 0.0005},
    ),
    # The class's own eight experts for each token, groups, layers without experts and width of the heads.
    Case(
        "model-sparse-config",
        "DeepseekV3Model",
        CONFIG
        | dict(
            num_hidden_layers=4,
            first_k_dense_replace=3,
            n_routed_experts=24,
            n_group=8,
            topk_group=4,
            num_experts_per_tok=8,
            qk_nope_head_dim=128,
            qk_rope_head_dim=64,
            v_head_dim=128,
        ),
        sparse=True,
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of deepseek-ai/DeepSeek-V3 holds besides the sizes and the packing of the weights.
    Case(
        "causal-lm-hub-config",
        "DeepseekV3ForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            ep_size=1,
            hidden_act="silu",
            initializer_range=0.02,
            moe_layer_freq=1,
            norm_topk_prob=True,
            num_nextn_predict_layers=1,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_scaling=dict(
                beta_fast=32,
                beta_slow=1,
                factor=40,
                mscale=1.0,
                mscale_all_dim=1.0,
                original_max_position_embeddings=32,
                type="yarn",
            ),
            rope_theta=100,
            routed_scaling_factor=2.5,
            scoring_func="sigmoid",
            tie_word_embeddings=False,
            topk_method="noaux_tc",
            transformers_version="4.33.1",
            use_cache=True,
        ),
    ),
]
