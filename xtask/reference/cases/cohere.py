"""Cohere, Command R."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
# Embeddings this small let the first LayerNorm's epsilon show in the outputs.
SMALL = {"embed_tokens.weight": 0.03}

CASES = [
    Case("model", "CohereModel", CONFIG),
    Case("causal-lm", "CohereForCausalLM", CONFIG),
    Case("causal-lm-untied", "CohereForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    Case("causal-lm-logit-scale", "CohereForCausalLM", CONFIG | dict(logit_scale=0.8333)),
    # CohereLabs/c4ai-command-r-plus; its norms of heads are matrices, which keep the dtype of the file.
    Case("causal-lm-qk-norm", "CohereForCausalLM", CONFIG | dict(use_qk_norm=True)),
    Case("model-qk-norm-bf16", "CohereModel", CONFIG | dict(use_qk_norm=True), dtype="bf16"),
    Case("model-biases", "CohereModel", CONFIG | dict(attention_bias=True)),
    Case("model-gelu", "CohereModel", CONFIG | dict(hidden_act="gelu")),
    # CohereLabs/c4ai-command-r-v01 has as many heads of keys as of queries.
    Case(
        "model-all-heads",
        "CohereModel",
        CONFIG | dict(num_key_value_heads=4),
        file=dict(num_key_value_heads=REMOVED),
    ),
    Case("model-one-group", "CohereModel", CONFIG | dict(num_key_value_heads=1)),
    # A sequence longer than `max_position_embeddings`, from where on the base grows.
    Case(
        "model-dynamic-rope",
        "CohereModel",
        CONFIG
        | dict(max_position_embeddings=8, rope_parameters=dict(rope_type="dynamic", rope_theta=1000.0, factor=2.0)),
    ),
    Case(
        "model-linear-rope-hub-config",
        "CohereModel",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rope_theta=1000.0, rope_scaling=dict(type="linear", factor=4.0)),
    ),
    Case("model-left-padding", "CohereModel", CONFIG, Inputs(left=True)),
    Case("model-input-ids-only", "CohereModel", CONFIG, Inputs(mask=False)),
    Case("model-position-ids", "CohereModel", CONFIG, Inputs(positions=True)),
    Case("model-eps", "CohereModel", CONFIG | dict(layer_norm_eps=1e-3), stds=SMALL),
    # The default of `rope_theta`, 500000, is one of the keys that it lacks.
    Case("model-sparse-config", "CohereModel", CONFIG, sparse=True, stds=SMALL),
]
