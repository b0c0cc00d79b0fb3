"""GPT-NeoX."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=96,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)

# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = {"embed_in.weight": 0.04}

# All of these pairs turn visibly over a short text.
THETA = 100.0


def rope(rope_type: str, **parameters) -> dict:
    """The config with half of each head rotated, as transformers 5 writes it."""
    parameters = dict(rope_type=rope_type, rope_theta=THETA, partial_rotary_factor=0.5) | parameters
    return CONFIG | dict(rope_parameters=parameters)


CASES = [
    Case("model", "GPTNeoXModel", CONFIG),
    Case("causal-lm", "GPTNeoXForCausalLM", CONFIG),
    Case("sequence-classification", "GPTNeoXForSequenceClassification", LABELS),
    Case("token-classification", "GPTNeoXForTokenClassification", LABELS),
    Case("question-answering", "GPTNeoXForQuestionAnswering", CONFIG),
    Case("model-serial", "GPTNeoXModel", CONFIG | dict(use_parallel_residual=False)),
    Case("model-no-attention-bias", "GPTNeoXModel", CONFIG | dict(attention_bias=False)),
    Case("causal-lm-tied", "GPTNeoXForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("model-gelu-fast", "GPTNeoXModel", CONFIG | dict(hidden_act="gelu_fast")),
    Case("model-relu", "GPTNeoXModel", CONFIG | dict(hidden_act="relu")),
    Case(
        "causal-lm-odd-sizes",
        "GPTNeoXForCausalLM",
        CONFIG | dict(vocab_size=101, hidden_size=48, num_attention_heads=3, num_hidden_layers=3, intermediate_size=51),
        Inputs(lengths=[5, 17, 9]),
    ),
    Case("model-left-padding", "GPTNeoXModel", CONFIG, LEFT),
    Case("sequence-classification-left-padding", "GPTNeoXForSequenceClassification", LABELS, LEFT),
    Case("model-input-ids-only", "GPTNeoXModel", CONFIG, Inputs(mask=False)),
    Case("model-position-ids", "GPTNeoXModel", CONFIG, Inputs(positions=True)),
    Case("model-rope-all", "GPTNeoXModel", rope("default", partial_rotary_factor=1.0)),
    Case("model-rope-linear", "GPTNeoXModel", rope("linear", factor=2.0)),
    # Longer than the model was trained for: the base grows.
    Case("model-rope-dynamic", "GPTNeoXModel", rope("dynamic", factor=2.0) | dict(max_position_embeddings=8)),
    Case("model-rope-yarn", "GPTNeoXModel", rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    # What older files hold, EleutherAI/pythia-160m among them.
    Case(
        "model-rope-old",
        "GPTNeoXModel",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rotary_pct=0.5, rotary_emb_base=100),
    ),
    Case(
        "model-rope-linear-old",
        "GPTNeoXModel",
        CONFIG,
        file=dict(
            rope_parameters=REMOVED,
            rotary_pct=0.5,
            rotary_emb_base=100,
            rope_scaling=dict(type="linear", factor=2.0),
        ),
    ),
    Case("model-eps", "GPTNeoXModel", CONFIG | dict(layer_norm_eps=1e-3), stds=SMALL_EMBEDDINGS),
    Case(
        "model-sparse-config",
        "GPTNeoXModel",
        CONFIG,
        sparse=True,
        file=dict(rope_parameters=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
]
