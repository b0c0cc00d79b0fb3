"""LLaMA, and every kind of rotation that it and its relatives know."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)

# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = {"embed_tokens.weight": 0.04}

# Eight pairs to a head, all of which turn visibly over a short text.
ROPE = CONFIG | dict(num_attention_heads=2, num_key_value_heads=1)
THETA = 100.0
SHORT_FACTOR = [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.8, 2.0]
LONG_FACTOR = [1.0, 1.3, 1.8, 2.5, 3.5, 5.0, 7.0, 9.0]


def rope(rope_type: str, **parameters) -> dict:
    """The config with rotations as transformers 5 writes them."""
    return ROPE | dict(rope_parameters=dict(rope_type=rope_type, rope_theta=THETA, **parameters))


def old_rope(**scaling) -> dict:
    """The same as older files have them, to be put into config.json."""
    return dict(rope_parameters=REMOVED, rope_theta=THETA, rope_scaling=scaling)


CASES = [
    Case("model", "LlamaModel", CONFIG),
    Case("causal-lm", "LlamaForCausalLM", CONFIG),
    Case("sequence-classification", "LlamaForSequenceClassification", LABELS),
    Case("token-classification", "LlamaForTokenClassification", LABELS),
    Case("question-answering", "LlamaForQuestionAnswering", CONFIG),
    Case("causal-lm-tied", "LlamaForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("causal-lm-bf16", "LlamaForCausalLM", CONFIG, dtype="bf16"),
    Case("model-biases", "LlamaModel", CONFIG | dict(attention_bias=True, mlp_bias=True)),
    Case("model-head-dim", "LlamaModel", CONFIG | dict(head_dim=12)),
    Case("model-one-key-value-head", "LlamaModel", CONFIG | dict(num_key_value_heads=1)),
    Case("model-all-key-value-heads", "LlamaModel", CONFIG | dict(num_key_value_heads=4)),
    Case("model-gelu", "LlamaModel", CONFIG | dict(hidden_act="gelu")),
    Case(
        "causal-lm-odd-sizes",
        "LlamaForCausalLM",
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
    Case("model-left-padding", "LlamaModel", CONFIG, LEFT),
    Case("sequence-classification-left-padding", "LlamaForSequenceClassification", LABELS, LEFT),
    Case("model-input-ids-only", "LlamaModel", CONFIG, Inputs(mask=False)),
    Case("model-position-ids", "LlamaModel", CONFIG, Inputs(positions=True)),
    Case("model-rope-theta", "LlamaModel", ROPE, file=dict(rope_parameters=REMOVED, rope_theta=THETA)),
    Case("model-rope-linear", "LlamaModel", rope("linear", factor=4.0)),
    Case("model-rope-linear-old", "LlamaModel", ROPE, file=old_rope(type="linear", factor=4.0)),
    # What versions between the old and the new spelling wrote.
    Case(
        "model-rope-linear-both-spellings",
        "LlamaModel",
        ROPE,
        file=old_rope(type="linear", rope_type="linear", factor=4.0),
    ),
    # Longer than the model was trained for: the base grows.
    Case("model-rope-dynamic", "LlamaModel", rope("dynamic", factor=2.0) | dict(max_position_embeddings=8)),
    Case("model-rope-dynamic-short", "LlamaModel", ROPE, file=old_rope(type="dynamic", factor=2.0)),
    # The ramp begins at the first pair and ends between two.
    Case(
        "model-rope-yarn",
        "LlamaModel",
        rope("yarn", factor=4.0, original_max_position_embeddings=32) | dict(max_position_embeddings=128),
    ),
    Case(
        "model-rope-yarn-not-truncated",
        "LlamaModel",
        rope("yarn", factor=4.0, original_max_position_embeddings=32, attention_factor=1.3, truncate=False)
        | dict(max_position_embeddings=128),
    ),
    Case(
        "model-rope-yarn-old",
        "LlamaModel",
        ROPE,
        file=old_rope(
            type="yarn",
            factor=4.0,
            original_max_position_embeddings=32,
            beta_fast=2,
            beta_slow=0.5,
            mscale=1.0,
            mscale_all_dim=0.5,
        ),
    ),
    Case(
        "model-rope-llama3",
        "LlamaModel",
        rope(
            "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
        )
        | dict(max_position_embeddings=128),
    ),
    # What config.json of meta-llama/Llama-3.2-1B holds besides the sizes: pairs below, within and above the band.
    Case(
        "causal-lm-rope-llama3-hub-config",
        "LlamaForCausalLM",
        ROPE | dict(tie_word_embeddings=True),
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            head_dim=16,
            hidden_act="silu",
            initializer_range=0.02,
            mlp_bias=False,
            pretraining_tp=1,
            rope_parameters=REMOVED,
            rope_scaling=dict(
                factor=32.0,
                high_freq_factor=4.0,
                low_freq_factor=1.0,
                original_max_position_embeddings=32,
                rope_type="llama3",
            ),
            rope_theta=500.0,
            transformers_version="4.45.0.dev0",
            use_cache=True,
        ),
    ),
    # The divisors for texts up to the original length, and those for longer ones. With and without a factor.
    Case(
        "model-rope-longrope-short",
        "LlamaModel",
        rope(
            "longrope",
            factor=4.0,
            original_max_position_embeddings=16,
            short_factor=SHORT_FACTOR,
            long_factor=LONG_FACTOR,
        ),
    ),
    Case(
        "model-rope-longrope-old",
        "LlamaModel",
        ROPE,
        file=old_rope(
            type="longrope",
            original_max_position_embeddings=8,
            short_factor=SHORT_FACTOR,
            long_factor=LONG_FACTOR,
        ),
    ),
    Case("model-eps", "LlamaModel", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    Case(
        "model-sparse-config",
        "LlamaModel",
        CONFIG | dict(num_key_value_heads=None),
        sparse=True,
        file=dict(head_dim=REMOVED, num_key_value_heads=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of meta-llama/Llama-2-7b-hf holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "LlamaForCausalLM",
        CONFIG | dict(num_key_value_heads=4),
        sparse=True,
        file=dict(
            bos_token_id=1,
            eos_token_id=2,
            head_dim=REMOVED,
            hidden_act="silu",
            initializer_range=0.02,
            pretraining_tp=1,
            rms_norm_eps=1e-05,
            rope_scaling=None,
            tie_word_embeddings=False,
            transformers_version="4.31.0.dev0",
            use_cache=True,
        ),
    ),
]
