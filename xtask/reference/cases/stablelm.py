"""StableLM."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    # Heads of 16 elements, of which four are rotated.
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Embeddings this small let the first LayerNorm's epsilon show in the outputs.
SMALL = {"embed_tokens.weight": 0.03}
LEFT = Inputs(left=True)

CASES = [
    Case("model", "StableLmModel", CONFIG),
    Case("causal-lm", "StableLmForCausalLM", CONFIG),
    Case("causal-lm-tied", "StableLmForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("sequence-classification", "StableLmForSequenceClassification", LABELS),
    Case("token-classification", "StableLmForTokenClassification", LABELS),
    # stabilityai/stablelm-2-1_6b
    Case("model-biases", "StableLmModel", CONFIG | dict(use_qkv_bias=True, num_key_value_heads=4)),
    Case("model-qk-layernorm", "StableLmModel", CONFIG | dict(qk_layernorm=True)),
    Case("model-parallel", "StableLmModel", CONFIG | dict(use_parallel_residual=True)),
    # stabilityai/stablelm-2-12b
    Case(
        "causal-lm-parallel-qk-layernorm",
        "StableLmForCausalLM",
        CONFIG | dict(use_parallel_residual=True, qk_layernorm=True),
    ),
    Case("model-one-group", "StableLmModel", CONFIG | dict(num_key_value_heads=1)),
    Case("model-gelu", "StableLmModel", CONFIG | dict(hidden_act="gelu")),
    Case(
        "model-whole-heads",
        "StableLmModel",
        CONFIG | dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=1.0)),
    ),
    # What stabilityai/stablelm-3b-4e1t writes, with another part.
    Case(
        "causal-lm-hub-config",
        "StableLmForCausalLM",
        CONFIG,
        file=dict(
            rope_parameters=REMOVED,
            rope_theta=1000,
            rope_pct=0.75,
            rotary_scaling_factor=1.0,
            partial_rotary_factor=0.5,
        ),
    ),
    Case(
        "model-linear-rope-hub-config",
        "StableLmModel",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rope_theta=1000.0, rope_scaling=dict(type="linear", factor=4.0)),
    ),
    # A sequence longer than `max_position_embeddings`, from where on the base grows.
    Case(
        "model-dynamic-rope",
        "StableLmModel",
        CONFIG
        | dict(max_position_embeddings=8, rope_parameters=dict(rope_type="dynamic", rope_theta=1000.0, factor=2.0)),
    ),
    Case("model-left-padding", "StableLmModel", CONFIG, LEFT),
    Case("model-eps", "StableLmModel", CONFIG | dict(layer_norm_eps=1e-3), stds=SMALL),
    # The default of `partial_rotary_factor` is one of the keys that it lacks.
    Case("model-sparse-config", "StableLmModel", CONFIG, sparse=True, stds=SMALL),
]
