"""RoBERTa, XLM-RoBERTa and CamemBERT: one graph under three names."""

from case import SMALL_EMBEDDINGS, Case, Inputs

# What the files on the Hub say; the classes' own defaults for the last two keys are 2 and 1e-12.
CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
    type_vocab_size=1,
    layer_norm_eps=1e-5,
)
LABELS = CONFIG | dict(num_labels=3)
DEFAULTS = {key: value for key, value in CONFIG.items() if key not in ("type_vocab_size", "layer_norm_eps")}
PADDED = Inputs(pad_token_id=1)
LEFT = Inputs(pad_token_id=1, left=True)
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]], pad_token_id=1)


def heads(prefix: str) -> list[Case]:
    """The cases that each of the three has."""
    return [
        Case("model", f"{prefix}Model", CONFIG, PADDED),
        Case("masked-lm", f"{prefix}ForMaskedLM", CONFIG, PADDED),
        Case("sequence-classification", f"{prefix}ForSequenceClassification", LABELS, PADDED),
        Case("token-classification", f"{prefix}ForTokenClassification", LABELS, PADDED),
        Case("question-answering", f"{prefix}ForQuestionAnswering", CONFIG, PADDED),
        Case("multiple-choice", f"{prefix}ForMultipleChoice", CONFIG, CHOICES),
        Case("model-left-padding", f"{prefix}Model", CONFIG, LEFT),
        Case("model-sparse-config", f"{prefix}Model", DEFAULTS, PADDED, sparse=True, stds=SMALL_EMBEDDINGS),
    ]


CASES = {
    "roberta": [
        *heads("Roberta"),
        Case("model-eps", "RobertaModel", CONFIG, PADDED, stds=SMALL_EMBEDDINGS),
        Case("model-two-types", "RobertaModel", CONFIG | dict(type_vocab_size=2), Inputs(pad_token_id=1, types=2)),
        # Without a mask padding is attended to, but still does not count for positions.
        Case("model-input-ids-only", "RobertaModel", CONFIG, Inputs(pad_token_id=1, mask=False)),
        # Positions hang on the padding id of the config.
        Case("model-pad-token-3", "RobertaModel", CONFIG | dict(pad_token_id=3), Inputs(pad_token_id=3)),
        # hidden_act rules the layers; the head's activation is always erf gelu.
        Case("masked-lm-relu", "RobertaForMaskedLM", CONFIG | dict(hidden_act="relu"), PADDED),
        Case("sequence-classification-left-padding", "RobertaForSequenceClassification", LABELS, LEFT),
    ],
    "xlm-roberta": [
        *heads("XLMRoberta"),
        # As rerankers are: one score per pair.
        Case(
            "sequence-classification-one-label",
            "XLMRobertaForSequenceClassification",
            CONFIG | dict(num_labels=1),
            PADDED,
        ),
    ],
    "camembert": heads("Camembert"),
}
