"""ELECTRA."""

from case import SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    embedding_size=20,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)
EQUAL = CONFIG | dict(embedding_size=32)
LABELS = CONFIG | dict(num_labels=3)
PAIR = Inputs(types=2)
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]], types=2)

CASES = [
    Case("model", "ElectraModel", CONFIG, PAIR),
    Case("masked-lm", "ElectraForMaskedLM", CONFIG, PAIR),
    Case("pre-training", "ElectraForPreTraining", CONFIG, PAIR),
    Case("sequence-classification", "ElectraForSequenceClassification", LABELS, PAIR),
    Case("token-classification", "ElectraForTokenClassification", LABELS, PAIR),
    Case("question-answering", "ElectraForQuestionAnswering", CONFIG, PAIR),
    Case("multiple-choice", "ElectraForMultipleChoice", CONFIG, CHOICES),
    Case("model-equal-sizes", "ElectraModel", EQUAL, PAIR),
    Case("masked-lm-equal-sizes", "ElectraForMaskedLM", EQUAL, PAIR),
    # hidden_act rules the layers and the discriminator's head, but not the generator's.
    Case("pre-training-relu", "ElectraForPreTraining", EQUAL | dict(hidden_act="relu"), PAIR),
    Case("masked-lm-relu", "ElectraForMaskedLM", CONFIG | dict(hidden_act="relu"), PAIR),
    Case("sequence-classification-relu", "ElectraForSequenceClassification", LABELS | dict(hidden_act="relu"), PAIR),
    Case("model-left-padding", "ElectraModel", CONFIG, Inputs(left=True, types=2)),
    Case("model-eps", "ElectraModel", CONFIG | dict(layer_norm_eps=1e-5), PAIR, stds=SMALL_EMBEDDINGS),
    Case("model-sparse-config", "ElectraModel", CONFIG, PAIR, sparse=True, stds=SMALL_EMBEDDINGS),
]
