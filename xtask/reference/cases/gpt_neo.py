"""GPT-Neo.

No case has padding on the left: where a query sees nothing, the reference adds the lowest score to the lowest score,
which gives other weights in float64 than in float32. Padding on the right is so short that every query still sees a
token through the window, for the same reason.
"""

from case import Case, Inputs

from .gpt2 import NORMS, SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    max_position_embeddings=40,
    hidden_size=32,
    num_layers=4,
    attention_types=[[["global", "local"], 2]],
    num_heads=4,
    window_size=5,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
# Much longer than the window.
LONG = Inputs(lengths=[19, 19])


def case(name: str, model_class: str, config: dict = CONFIG, inputs: Inputs = Inputs(), **more) -> Case:
    """A case with norms that let their input through."""
    return Case(name, model_class, config, inputs, **dict(stds=NORMS) | more)


CASES = [
    case("model", "GPTNeoModel"),
    case("causal-lm", "GPTNeoForCausalLM"),
    case("sequence-classification", "GPTNeoForSequenceClassification", LABELS),
    case("token-classification", "GPTNeoForTokenClassification", LABELS),
    case("question-answering", "GPTNeoForQuestionAnswering"),
    case("model-long", "GPTNeoModel", CONFIG, LONG),
    # A token sees itself alone.
    case("model-window-1", "GPTNeoModel", CONFIG | dict(window_size=1), LONG),
    # Kinds in an order that no alternation gives.
    case(
        "model-attention-types",
        "GPTNeoModel",
        CONFIG | dict(attention_types=[[["local"], 1], [["global", "local", "local"], 1]], window_size=3),
        LONG,
    ),
    case("causal-lm-untied", "GPTNeoForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    case("model-inner-relu", "GPTNeoModel", CONFIG | dict(intermediate_size=50, activation_function="relu")),
    case(
        "causal-lm-odd-sizes",
        "GPTNeoForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=33,
            num_heads=3,
            num_layers=2,
            attention_types=[[["global", "local"], 1]],
            intermediate_size=51,
        ),
        Inputs(lengths=[15, 17, 13]),
    ),
    case("model-input-ids-only", "GPTNeoModel", CONFIG, Inputs(mask=False)),
    case("model-position-ids", "GPTNeoModel", CONFIG, Inputs(positions=True)),
    # Types are words.
    case("model-token-types", "GPTNeoModel", CONFIG, Inputs(types=3)),
    case("model-eps", "GPTNeoModel", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own window.
    case("model-sparse-config", "GPTNeoModel", CONFIG | dict(window_size=256), sparse=True, stds=SMALL_EMBEDDINGS),
]
