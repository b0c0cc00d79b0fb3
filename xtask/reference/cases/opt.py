"""OPT."""

from case import Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    ffn_dim=64,
    max_position_embeddings=40,
    num_attention_heads=4,
)
LABELS = CONFIG | dict(num_labels=3)
# What facebook/opt-350m has.
POST_NORM = dict(do_layer_norm_before=False, word_embed_proj_dim=16)
PADDED = Inputs(pad_token_id=1)
LEFT = Inputs(pad_token_id=1, left=True)

# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = {"embed_tokens.weight": 0.04, "embed_positions.weight": 0.04}

CASES = [
    Case("model", "OPTModel", CONFIG, PADDED),
    Case("causal-lm", "OPTForCausalLM", CONFIG, PADDED),
    Case("sequence-classification", "OPTForSequenceClassification", LABELS, PADDED),
    Case("question-answering", "OPTForQuestionAnswering", CONFIG, PADDED),
    Case("causal-lm-untied", "OPTForCausalLM", CONFIG | dict(tie_word_embeddings=False), PADDED),
    Case("causal-lm-projected", "OPTForCausalLM", CONFIG | dict(word_embed_proj_dim=16), PADDED),
    Case("sequence-classification-projected", "OPTForSequenceClassification", LABELS | POST_NORM, PADDED),
    Case("question-answering-projected", "OPTForQuestionAnswering", CONFIG | dict(word_embed_proj_dim=48), PADDED),
    Case("causal-lm-post-norm", "OPTForCausalLM", CONFIG | POST_NORM, PADDED),
    Case("model-post-norm", "OPTModel", CONFIG | dict(do_layer_norm_before=False), PADDED),
    Case(
        "model-no-final-norm",
        "OPTModel",
        CONFIG | dict(_remove_final_layer_norm=True),
        PADDED,
        file=dict(_remove_final_layer_norm=True),
    ),
    Case("model-no-biases", "OPTModel", CONFIG | dict(enable_bias=False), PADDED),
    Case("model-bare-norms", "OPTModel", CONFIG | dict(layer_norm_elementwise_affine=False), PADDED),
    Case(
        "causal-lm-post-norm-bare-norms",
        "OPTForCausalLM",
        CONFIG | POST_NORM | dict(layer_norm_elementwise_affine=False, enable_bias=False),
        PADDED,
    ),
    Case("model-gelu", "OPTModel", CONFIG | dict(activation_function="gelu"), PADDED),
    Case(
        "causal-lm-odd-sizes",
        "OPTForCausalLM",
        CONFIG | dict(vocab_size=101, hidden_size=33, num_attention_heads=3, num_hidden_layers=3, ffn_dim=51),
        Inputs(lengths=[5, 17, 9], pad_token_id=1),
    ),
    # Positions count tokens alone; padding has a row of its own.
    Case("model-left-padding", "OPTModel", CONFIG, LEFT),
    Case("sequence-classification-left-padding", "OPTForSequenceClassification", LABELS, LEFT),
    Case("model-input-ids-only", "OPTModel", CONFIG, Inputs(pad_token_id=1, mask=False)),
    Case("model-position-ids", "OPTModel", CONFIG, Inputs(pad_token_id=1, positions=True)),
    # The reference's epsilon, for which there is no key.
    Case("model-eps", "OPTModel", CONFIG, PADDED, stds=SMALL_EMBEDDINGS),
    Case("model-sparse-config", "OPTModel", CONFIG, PADDED, sparse=True, stds=SMALL_EMBEDDINGS),
]
