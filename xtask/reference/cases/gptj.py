"""GPT-J."""

from case import Case, Inputs

from .gpt2 import NORMS, SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    n_positions=40,
    n_embd=32,
    n_layer=2,
    n_head=4,
    rotary_dim=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)


def case(name: str, model_class: str, config: dict = CONFIG, inputs: Inputs = Inputs(), **more) -> Case:
    """A case with norms that let their input through."""
    return Case(name, model_class, config, inputs, **dict(stds=NORMS) | more)


CASES = [
    case("model", "GPTJModel"),
    case("causal-lm", "GPTJForCausalLM"),
    case("sequence-classification", "GPTJForSequenceClassification", LABELS),
    case("question-answering", "GPTJForQuestionAnswering"),
    case("causal-lm-tied", "GPTJForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    case("model-rotary-all", "GPTJModel", CONFIG | dict(rotary_dim=8)),
    case("model-rotary-one-pair", "GPTJModel", CONFIG | dict(rotary_dim=2)),
    case("model-inner-relu", "GPTJModel", CONFIG | dict(n_inner=50, activation_function="relu")),
    case(
        "causal-lm-odd-sizes",
        "GPTJForCausalLM",
        CONFIG | dict(vocab_size=101, n_embd=33, n_head=3, n_layer=3, rotary_dim=6, n_inner=51),
        Inputs(lengths=[5, 17, 9]),
    ),
    case("model-left-padding", "GPTJModel", CONFIG, LEFT),
    case("sequence-classification-left-padding", "GPTJForSequenceClassification", LABELS, LEFT),
    case("model-input-ids-only", "GPTJModel", CONFIG, Inputs(mask=False)),
    case("model-position-ids", "GPTJModel", CONFIG, Inputs(positions=True)),
    # Types are words.
    case("model-token-types", "GPTJModel", CONFIG, Inputs(types=3)),
    case("model-eps", "GPTJModel", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own rotation, which is wider than the heads of the other cases.
    case(
        "model-sparse-config",
        "GPTJModel",
        CONFIG | dict(n_embd=128, n_head=2, n_layer=1, n_inner=32, rotary_dim=64),
        sparse=True,
        stds=SMALL_EMBEDDINGS,
    ),
]
