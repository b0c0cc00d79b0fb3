"""gpt-oss."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=24,
    num_local_experts=5,
    num_experts_per_tok=2,
    sliding_window=5,
    max_position_embeddings=128,
    pad_token_id=0,
    # Pairs that turn visibly over a short text, some of them within the ramp.
    rope_parameters=dict(
        rope_type="yarn",
        rope_theta=100.0,
        factor=4.0,
        beta_fast=32.0,
        beta_slow=1.0,
        truncate=False,
        original_max_position_embeddings=32,
    ),
)
LABELS = CONFIG | dict(num_labels=3)
# Longer than the window, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)
# Matrices of all experts in one tensor look far wider than they are; sinks of this size take a visible part.
STDS = {"experts.gate_up_proj": 0.21, "experts.down_proj": 0.24, "sinks": 1.0}


def case(name: str, model_class: str, config: dict, inputs: Inputs = LONG, stds: dict | None = None, **rest) -> Case:
    """A case with the deviations of this architecture."""
    return Case(name, model_class, config, inputs, stds=STDS | (stds or {}), **rest)


CASES = [
    case("model", "GptOssModel", CONFIG),
    case("causal-lm", "GptOssForCausalLM", CONFIG),
    case("sequence-classification", "GptOssForSequenceClassification", LABELS),
    case("token-classification", "GptOssForTokenClassification", LABELS, Inputs()),
    case("causal-lm-tied", "GptOssForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    case("causal-lm-bf16", "GptOssForCausalLM", CONFIG, dtype="bf16"),
    # As openai/gpt-oss-20b has them.
    case(
        "causal-lm-mxfp4",
        "GptOssForCausalLM",
        CONFIG | dict(hidden_size=64, intermediate_size=32),
        dtype="bf16",
        packed={"experts.": "mxfp4"},
        file=dict(
            quantization_config=dict(
                quant_method="mxfp4",
                modules_to_not_convert=[
                    "model.layers.*.self_attn",
                    "model.layers.*.mlp.router",
                    "model.embed_tokens",
                    "lm_head",
                ],
            )
        ),
    ),
    # Limits that most values meet.
    case("model-limits", "GptOssModel", CONFIG | dict(swiglu_limit=0.5, swiglu_alpha=1.3)),
    case("model-one-token", "GptOssModel", CONFIG, Inputs(lengths=[1])),
    case("model-no-biases", "GptOssModel", CONFIG | dict(attention_bias=False)),
    # An order that no rule gives.
    case(
        "model-layer-types",
        "GptOssModel",
        CONFIG
        | dict(num_hidden_layers=3, layer_types=["full_attention", "full_attention", "sliding_attention"]),
    ),
    case("model-all-key-value-heads", "GptOssModel", CONFIG | dict(num_key_value_heads=4)),
    case("model-left-padding", "GptOssModel", CONFIG, LEFT),
    case(
        "causal-lm-odd-sizes",
        "GptOssForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=43,
            num_hidden_layers=3,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=10,
            intermediate_size=25,
            num_local_experts=7,
            num_experts_per_tok=3,
        ),
        Inputs(lengths=[5, 17, 9]),
    ),
    case(
        "model-rope-theta",
        "GptOssModel",
        {key: value for key, value in CONFIG.items() if key != "rope_parameters"},
        file=dict(rope_parameters=REMOVED, rope_theta=100.0),
    ),
    case(
        "model-rope-default",
        "GptOssModel",
        CONFIG | dict(rope_parameters=dict(rope_type="default", rope_theta=100.0)),
    ),
    case("model-eps", "GptOssModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own four experts for each token, eight heads of keys and values, width of the heads and window.
    case(
        "model-sparse-config",
        "GptOssModel",
        {
            key: value
            for key, value in CONFIG.items()
            if key not in ("head_dim", "num_key_value_heads", "num_experts_per_tok", "rope_parameters")
        }
        | dict(num_attention_heads=8, sliding_window=128),
        sparse=True,
        file=dict(layer_types=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of openai/gpt-oss-20b holds besides the sizes and the packing of the weights.
    case(
        "causal-lm-hub-config",
        "GptOssForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            attention_bias=True,
            attention_dropout=0.0,
            eos_token_id=2,
            experts_per_token=2,
            hidden_act="silu",
            initial_context_length=32,
            initializer_range=0.02,
            output_router_logits=False,
            rms_norm_eps=1e-05,
            rope_parameters=REMOVED,
            rope_scaling=dict(
                beta_fast=32.0,
                beta_slow=1.0,
                factor=32.0,
                original_max_position_embeddings=32,
                rope_type="yarn",
                truncate=False,
            ),
            rope_theta=150.0,
            router_aux_loss_coef=0.9,
            swiglu_limit=7.0,
            tie_word_embeddings=False,
            transformers_version="4.55.0.dev0",
            use_cache=True,
        ),
    ),
]
