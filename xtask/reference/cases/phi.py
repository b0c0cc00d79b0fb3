"""Phi."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)

# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = {"embed_tokens.weight": 0.04}

# All of these pairs turn visibly over a short text.
THETA = 100.0


def rope(rope_type: str, **parameters) -> dict:
    """The config with rotations as transformers 5 writes them."""
    parameters = dict(rope_type=rope_type, rope_theta=THETA, partial_rotary_factor=0.5) | parameters
    return CONFIG | dict(rope_parameters=parameters)


CASES = [
    Case("model", "PhiModel", CONFIG),
    Case("causal-lm", "PhiForCausalLM", CONFIG),
    Case("sequence-classification", "PhiForSequenceClassification", LABELS),
    Case("token-classification", "PhiForTokenClassification", LABELS),
    Case("causal-lm-tied", "PhiForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-qk-layernorm", "PhiModel", CONFIG | dict(qk_layernorm=True)),
    Case("model-one-key-value-head", "PhiModel", CONFIG | dict(num_key_value_heads=1)),
    Case("model-two-key-value-heads", "PhiModel", CONFIG | dict(num_key_value_heads=2, qk_layernorm=True)),
    Case("model-relu", "PhiModel", CONFIG | dict(hidden_act="relu")),
    Case(
        "causal-lm-odd-sizes",
        "PhiForCausalLM",
        CONFIG | dict(vocab_size=101, hidden_size=60, num_attention_heads=3, num_hidden_layers=3, intermediate_size=51),
        Inputs(lengths=[5, 17, 9]),
    ),
    Case("model-left-padding", "PhiModel", CONFIG, LEFT),
    Case("sequence-classification-left-padding", "PhiForSequenceClassification", LABELS, LEFT),
    Case("model-input-ids-only", "PhiModel", CONFIG, Inputs(mask=False)),
    Case("model-position-ids", "PhiModel", CONFIG, Inputs(positions=True)),
    Case("model-rope-all", "PhiModel", rope("default", partial_rotary_factor=1.0)),
    Case("model-rope-linear", "PhiModel", rope("linear", factor=2.0)),
    Case(
        "model-rope-longrope",
        "PhiModel",
        rope(
            "longrope",
            factor=8.0,
            original_max_position_embeddings=8,
            short_factor=[1.0, 1.1, 1.3, 1.5],
            long_factor=[1.0, 1.8, 3.0, 6.0],
        ),
    ),
    # What older files hold, microsoft/phi-1_5 among them.
    Case(
        "model-rope-old",
        "PhiModel",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rope_theta=THETA, rope_scaling=None, partial_rotary_factor=0.25),
    ),
    Case(
        "model-rope-linear-old",
        "PhiModel",
        CONFIG,
        file=dict(
            rope_parameters=REMOVED,
            rope_theta=THETA,
            rope_scaling=dict(type="linear", factor=2.0),
            partial_rotary_factor=0.25,
        ),
    ),
    Case("model-eps", "PhiModel", CONFIG | dict(layer_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    Case(
        "model-sparse-config",
        "PhiModel",
        CONFIG,
        sparse=True,
        file=dict(rope_parameters=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
]
