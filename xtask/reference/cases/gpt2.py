"""GPT-2."""

from case import Case, Inputs

CONFIG = dict(
    vocab_size=120,
    n_positions=40,
    n_embd=32,
    n_layer=3,
    n_head=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)

# The names of these norms do not say that they are norms: they would scale down to next to nothing.
NORMS = {"ln_1.weight": 0.7, "ln_2.weight": 0.7, "ln_f.weight": 0.7}
# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = NORMS | {"wte.weight": 0.04, "wpe.weight": 0.04}


def case(name: str, model_class: str, config: dict = CONFIG, inputs: Inputs = Inputs(), **more) -> Case:
    """A case with norms that let their input through."""
    return Case(name, model_class, config, inputs, **dict(stds=NORMS) | more)


CASES = [
    case("model", "GPT2Model"),
    case("causal-lm", "GPT2LMHeadModel"),
    case("sequence-classification", "GPT2ForSequenceClassification", LABELS),
    case("token-classification", "GPT2ForTokenClassification", LABELS),
    case("question-answering", "GPT2ForQuestionAnswering"),
    case("causal-lm-untied", "GPT2LMHeadModel", CONFIG | dict(tie_word_embeddings=False)),
    case("model-inner-relu", "GPT2Model", CONFIG | dict(n_inner=50, activation_function="relu")),
    case("model-not-scaled", "GPT2Model", CONFIG | dict(scale_attn_weights=False)),
    case("model-scaled-by-layer", "GPT2Model", CONFIG | dict(scale_attn_by_inverse_layer_idx=True)),
    case(
        "causal-lm-odd-sizes",
        "GPT2LMHeadModel",
        CONFIG | dict(vocab_size=101, n_embd=33, n_head=3, n_layer=2, n_inner=51),
        Inputs(lengths=[5, 17, 9]),
    ),
    case("model-left-padding", "GPT2Model", CONFIG, LEFT),
    case("sequence-classification-left-padding", "GPT2ForSequenceClassification", LABELS, LEFT),
    case("model-input-ids-only", "GPT2Model", CONFIG, Inputs(mask=False)),
    case("model-position-ids", "GPT2Model", CONFIG, Inputs(positions=True)),
    # Types are words.
    case("model-token-types", "GPT2Model", CONFIG, Inputs(types=3)),
    case("model-eps", "GPT2Model", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    case("model-sparse-config", "GPT2Model", CONFIG, sparse=True, stds=SMALL_EMBEDDINGS),
    # What config.json of openai-community/gpt2 holds besides the sizes.
    case(
        "causal-lm-hub-config",
        "GPT2LMHeadModel",
        CONFIG,
        sparse=True,
        file=dict(
            activation_function="gelu_new",
            attn_pdrop=0.1,
            embd_pdrop=0.1,
            initializer_range=0.02,
            layer_norm_epsilon=1e-05,
            n_ctx=40,
            resid_pdrop=0.1,
            summary_activation=None,
            summary_first_dropout=0.1,
            summary_proj_to_labels=True,
            summary_type="cls_index",
            summary_use_proj=True,
            task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}},
        ),
    ),
    case("causal-lm-bf16", "GPT2LMHeadModel", CONFIG, dtype="bf16"),
]
