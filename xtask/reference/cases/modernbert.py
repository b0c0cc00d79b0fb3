"""ModernBERT."""

from case import REMOVED, SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    local_attention=8,
    pad_token_id=3,
    bos_token_id=1,
    cls_token_id=1,
    eos_token_id=2,
    sep_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
BIASES = dict(norm_bias=True, attention_bias=True, mlp_bias=True)
# Longer than the window of the local layers, with padding further from the text than the window reaches.
LONG = Inputs(lengths=[19, 13], pad_token_id=3)
SHORT = Inputs(pad_token_id=3)
LEFT = Inputs(pad_token_id=3, left=True)
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]], pad_token_id=3)

CASES = [
    Case("model", "ModernBertModel", CONFIG, Inputs(lengths=[23, 15], pad_token_id=3)),
    Case("masked-lm", "ModernBertForMaskedLM", CONFIG, SHORT),
    Case("sequence-classification", "ModernBertForSequenceClassification", LABELS, LONG),
    Case(
        "sequence-classification-mean",
        "ModernBertForSequenceClassification",
        LABELS | dict(classifier_pooling="mean"),
        SHORT,
    ),
    Case("token-classification", "ModernBertForTokenClassification", LABELS, SHORT),
    Case("question-answering", "ModernBertForQuestionAnswering", CONFIG, SHORT),
    Case("multiple-choice", "ModernBertForMultipleChoice", CONFIG, CHOICES),
    Case("multiple-choice-mean", "ModernBertForMultipleChoice", CONFIG | dict(classifier_pooling="mean"), CHOICES),
    Case("model-biases", "ModernBertModel", CONFIG | BIASES, SHORT),
    Case(
        "masked-lm-biases",
        "ModernBertForMaskedLM",
        CONFIG | BIASES | dict(classifier_bias=True, classifier_activation="relu", decoder_bias=False),
        SHORT,
    ),
    Case("model-silu", "ModernBertModel", CONFIG | dict(hidden_activation="silu"), SHORT),
    # An odd window: half of it, rounded down, to each side.
    Case("model-odd-window", "ModernBertModel", CONFIG | dict(local_attention=7), LONG),
    # What answerdotai/ModernBERT-base writes in place of `layer_types` and `rope_parameters`.
    Case(
        "model-hub-config",
        "ModernBertModel",
        CONFIG,
        LONG,
        file=dict(
            layer_types=REMOVED,
            rope_parameters=REMOVED,
            global_attn_every_n_layers=2,
            global_rope_theta=500.0,
            local_rope_theta=50.0,
            position_embedding_type="absolute",
            layer_norm_eps=1e-05,
        ),
    ),
    # Local and global layers in an order that no interval gives, each kind with its own theta.
    Case(
        "model-layer-types",
        "ModernBertModel",
        CONFIG
        | dict(
            layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
            rope_parameters=dict(
                full_attention=dict(rope_type="default", rope_theta=1000.0),
                sliding_attention=dict(rope_type="default", rope_theta=100.0),
            ),
        ),
        LONG,
    ),
    Case("model-left-padding", "ModernBertModel", CONFIG, LEFT),
    Case("sequence-classification-left-padding", "ModernBertForSequenceClassification", LABELS, LEFT),
    # Unlike sequence classification, multiple choice looks for the first token that is not padding.
    Case(
        "multiple-choice-left-padding",
        "ModernBertForMultipleChoice",
        CONFIG,
        Inputs(lengths=[[9, 7, 8], [5, 9, 6]], pad_token_id=3, left=True),
    ),
    Case("model-input-ids-only", "ModernBertModel", CONFIG, Inputs(pad_token_id=3, mask=False)),
    Case("model-position-ids", "ModernBertModel", CONFIG, Inputs(pad_token_id=3, positions=True)),
    Case("model-eps", "ModernBertModel", CONFIG | dict(norm_eps=1e-3), SHORT, stds=SMALL_EMBEDDINGS),
    Case(
        "model-sparse-config",
        "ModernBertModel",
        CONFIG,
        SHORT,
        sparse=True,
        file=dict(layer_types=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
]
