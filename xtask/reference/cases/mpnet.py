"""MPNet."""

from case import SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)
LABELS = CONFIG | dict(num_labels=3)
PADDED = Inputs(pad_token_id=1)
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]], pad_token_id=1)

CASES = [
    # Distances from 8 on share buckets.
    Case("model", "MPNetModel", CONFIG, Inputs(lengths=[27, 19], pad_token_id=1)),
    Case("masked-lm", "MPNetForMaskedLM", CONFIG, PADDED),
    Case("sequence-classification", "MPNetForSequenceClassification", LABELS, PADDED),
    Case("token-classification", "MPNetForTokenClassification", LABELS, PADDED),
    Case("question-answering", "MPNetForQuestionAnswering", CONFIG, PADDED),
    Case("multiple-choice", "MPNetForMultipleChoice", CONFIG, CHOICES),
    # Reaches the last bucket, which begins short of distance 128, and distances where the logarithm is a whole number.
    Case(
        "model-long",
        "MPNetModel",
        CONFIG
        | dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=32)
        | dict(max_position_embeddings=160),
        Inputs(lengths=[135], pad_token_id=1),
    ),
    Case("masked-lm-relu", "MPNetForMaskedLM", CONFIG | dict(hidden_act="relu"), PADDED),
    Case("model-left-padding", "MPNetModel", CONFIG, Inputs(left=True, pad_token_id=1)),
    Case("model-input-ids-only", "MPNetModel", CONFIG, Inputs(pad_token_id=1, mask=False)),
    Case("model-eps", "MPNetModel", CONFIG | dict(layer_norm_eps=1e-5), PADDED, stds=SMALL_EMBEDDINGS),
    Case("model-sparse-config", "MPNetModel", CONFIG, PADDED, sparse=True, stds=SMALL_EMBEDDINGS),
]
