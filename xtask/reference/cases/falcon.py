"""Falcon.

With ALiBi the reference's eager attention adds the bias twice, so these cases are recorded with its default attention,
which gives no attention maps.
"""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
LEFT = Inputs(left=True)
# What tiiuae/falcon-40b, -180B and -11B have.
NEW = CONFIG | dict(new_decoder_architecture=True, num_kv_heads=2)
# What tiiuae/falcon-rw-1b has.
SERIAL = CONFIG | dict(multi_query=False, parallel_attn=False, bias=True)
ALIBI = SERIAL | dict(alibi=True)

# The names of these norms do not say that they are norms: they would scale down to next to nothing.
NORMS = {"ln_attn.weight": 0.7, "ln_mlp.weight": 0.7, "ln_f.weight": 0.7}
# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = NORMS | {"word_embeddings.weight": 0.04}


def case(name: str, model_class: str, config: dict = CONFIG, inputs: Inputs = Inputs(), **more) -> Case:
    """A case with norms that let their input through, and with the attention that is right."""
    attention = "sdpa" if config.get("alibi") else "eager"
    return Case(name, model_class, config, inputs, **dict(stds=NORMS, attention=attention) | more)


CASES = [
    case("model", "FalconModel"),
    case("causal-lm", "FalconForCausalLM"),
    case("sequence-classification", "FalconForSequenceClassification", LABELS),
    case("token-classification", "FalconForTokenClassification", LABELS),
    case("question-answering", "FalconForQuestionAnswering"),
    case("causal-lm-untied", "FalconForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    case("causal-lm-new", "FalconForCausalLM", NEW),
    case("model-new-one-norm", "FalconModel", NEW | dict(num_ln_in_parallel_attn=1)),
    case("model-new-one-key-value-head", "FalconModel", NEW | dict(num_kv_heads=1)),
    case("model-new-all-key-value-heads", "FalconModel", NEW | dict(num_kv_heads=4, bias=True)),
    case("model-all-key-value-heads", "FalconModel", CONFIG | dict(multi_query=False)),
    case("model-serial", "FalconModel", SERIAL),
    case("model-serial-one-key-value-head", "FalconModel", SERIAL | dict(multi_query=True)),
    case("model-inner-relu", "FalconModel", CONFIG | dict(ffn_hidden_size=50, activation="relu")),
    case("model-rope-theta", "FalconModel", CONFIG, file=dict(rope_parameters=REMOVED, rope_theta=100.0)),
    case(
        "model-rope-linear",
        "FalconModel",
        CONFIG | dict(rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=2.0)),
    ),
    case(
        "model-rope-linear-old",
        "FalconModel",
        CONFIG,
        file=dict(rope_parameters=REMOVED, rope_theta=100.0, rope_scaling=dict(type="linear", factor=2.0)),
    ),
    case("causal-lm-alibi", "FalconForCausalLM", ALIBI),
    # Slopes that are no powers of two, and so are rounded.
    case("model-alibi-twelve-heads", "FalconModel", ALIBI | dict(hidden_size=48, num_attention_heads=12)),
    case("model-alibi-parallel", "FalconModel", CONFIG | dict(alibi=True)),
    case("model-alibi-left-padding", "FalconModel", ALIBI, LEFT),
    case("model-alibi-input-ids-only", "FalconModel", ALIBI, Inputs(mask=False)),
    case("model-left-padding", "FalconModel", CONFIG, LEFT),
    case("sequence-classification-left-padding", "FalconForSequenceClassification", LABELS, LEFT),
    case("model-input-ids-only", "FalconModel", CONFIG, Inputs(mask=False)),
    case("model-position-ids", "FalconModel", CONFIG, Inputs(positions=True)),
    case("model-eps", "FalconModel", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    case(
        "model-sparse-config",
        "FalconModel",
        CONFIG,
        sparse=True,
        file=dict(rope_parameters=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of tiiuae/falcon-7b holds besides the sizes.
    case(
        "causal-lm-hub-config",
        "FalconForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            alibi=False,
            apply_residual_connection_post_layernorm=False,
            attention_dropout=0.0,
            bias=False,
            hidden_dropout=0.0,
            initializer_range=0.02,
            layer_norm_epsilon=1e-05,
            multi_query=True,
            new_decoder_architecture=False,
            num_kv_heads=4,
            parallel_attn=True,
            rope_parameters=REMOVED,
        ),
    ),
]
