"""BLOOM."""

from case import REMOVED, SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    n_layer=3,
    n_head=4,
    pad_token_id=3,
)
LABELS = CONFIG | dict(num_labels=3)
PADDED = Inputs(pad_token_id=3)
LEFT = Inputs(pad_token_id=3, left=True)

# The name of this norm does not say that it is one: it would scale down to next to nothing.
NORMS = {"ln_f.weight": 0.7}


def case(name: str, model_class: str, config: dict = CONFIG, inputs: Inputs = PADDED, **more) -> Case:
    """A case with norms that let their input through."""
    return Case(name, model_class, config, inputs, **dict(stds=NORMS) | more)


CASES = [
    case("model", "BloomModel"),
    case("causal-lm", "BloomForCausalLM"),
    case("sequence-classification", "BloomForSequenceClassification", LABELS),
    case("token-classification", "BloomForTokenClassification", LABELS),
    case("question-answering", "BloomForQuestionAnswering"),
    case("causal-lm-untied", "BloomForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    # The slopes of four heads, then two of those between.
    case("model-six-heads", "BloomModel", CONFIG | dict(hidden_size=48, n_head=6)),
    # Slopes that are no powers of two; far enough for the steepest to matter.
    case(
        "model-sixteen-heads",
        "BloomModel",
        CONFIG | dict(hidden_size=64, n_head=16, n_layer=1),
        Inputs(lengths=[29, 23], pad_token_id=3),
    ),
    case("model-one-head", "BloomModel", CONFIG | dict(n_head=1)),
    case("model-residual-after-norm", "BloomModel", CONFIG | dict(apply_residual_connection_post_layernorm=True)),
    case(
        "causal-lm-odd-sizes",
        "BloomForCausalLM",
        CONFIG | dict(vocab_size=101, hidden_size=33, n_head=3),
        Inputs(lengths=[5, 17, 9], pad_token_id=3),
    ),
    # Positions count tokens alone.
    case("model-left-padding", "BloomModel", CONFIG, LEFT),
    case("sequence-classification-left-padding", "BloomForSequenceClassification", LABELS, LEFT),
    case("model-input-ids-only", "BloomModel", CONFIG, Inputs(pad_token_id=3, mask=False)),
    case("model-eps", "BloomModel", CONFIG | dict(layer_norm_epsilon=1e-3), stds=NORMS | SMALL_EMBEDDINGS),
    case(
        "model-sparse-config",
        "BloomModel",
        CONFIG | dict(hidden_size=64, n_layer=2, n_head=8),
        sparse=True,
        stds=NORMS | SMALL_EMBEDDINGS,
    ),
    # What config.json of bigscience/bloom-560m holds.
    case(
        "causal-lm-hub-config",
        "BloomForCausalLM",
        CONFIG,
        file=dict(
            attention_softmax_in_fp32=True,
            bias_dropout_fusion=True,
            hidden_size=REMOVED,
            masked_softmax_fusion=True,
            n_embed=32,
            n_head=REMOVED,
            n_inner=None,
            num_attention_heads=4,
            offset_alibi=100,
            pretraining_tp=2,
            slow_but_exact=False,
            skip_bias_add=True,
            skip_bias_add_qkv=False,
            unk_token_id=0,
        ),
    ),
]
