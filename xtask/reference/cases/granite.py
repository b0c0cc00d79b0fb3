"""Granite."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    embedding_multiplier=6.0,
    attention_multiplier=0.2,
    residual_multiplier=0.4,
    logits_scaling=4.0,
    pad_token_id=0,
)
FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
# The class's defaults: all factors are one.
PLAIN = {key: value for key, value in CONFIG.items() if key not in FACTORS}

CASES = [
    Case("model", "GraniteModel", CONFIG),
    Case("causal-lm", "GraniteForCausalLM", CONFIG),
    Case("causal-lm-tied", "GraniteForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-biases", "GraniteModel", CONFIG | dict(attention_bias=True, mlp_bias=True)),
    Case("model-head-dim", "GraniteModel", CONFIG | dict(head_dim=12)),
    Case("model-one-key-value-head", "GraniteModel", CONFIG | dict(num_key_value_heads=1)),
    Case("model-all-key-value-heads", "GraniteModel", CONFIG | dict(num_key_value_heads=4)),
    Case("model-gelu", "GraniteModel", CONFIG | dict(hidden_act="gelu")),
    Case("causal-lm-left-padding", "GraniteForCausalLM", CONFIG, Inputs(lengths=[13, 8], left=True)),
    Case("model-position-ids", "GraniteModel", CONFIG, Inputs(positions=True)),
    Case(
        "model-rope-linear",
        "GraniteModel",
        CONFIG | dict(rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=4.0)),
    ),
    Case(
        "model-rope-yarn",
        "GraniteModel",
        CONFIG | dict(num_attention_heads=2, num_key_value_heads=1),
        file=dict(
            rope_parameters=REMOVED,
            rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=32),
            rope_theta=100.0,
        ),
    ),
    Case(
        "model-eps",
        "GraniteModel",
        CONFIG | dict(rms_norm_eps=1e-3, embedding_multiplier=1.0),
        stds=SMALL_EMBEDDINGS,
    ),
    Case(
        "causal-lm-sparse-config",
        "GraniteForCausalLM",
        PLAIN | dict(num_key_value_heads=None),
        sparse=True,
        file=dict(num_key_value_heads=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of ibm-granite/granite-3.3-2b-instruct holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "GraniteForCausalLM",
        CONFIG | dict(tie_word_embeddings=True),
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            attention_multiplier=0.015625,
            bos_token_id=1,
            embedding_multiplier=12.0,
            eos_token_id=2,
            hidden_act="silu",
            initializer_range=0.02,
            logits_scaling=8,
            mlp_bias=False,
            residual_multiplier=0.22,
            rms_norm_eps=1e-05,
            rope_parameters=REMOVED,
            rope_scaling=None,
            rope_theta=10000000.0,
            tie_word_embeddings=True,
            transformers_version="4.49.0",
            use_cache=True,
        ),
    ),
]
