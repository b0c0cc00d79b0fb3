"""DistilBERT."""

from case import SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=40)
LABELS = CONFIG | dict(num_labels=3)
RELU = dict(activation="relu")
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]])

CASES = [
    Case("model", "DistilBertModel", CONFIG),
    Case("masked-lm", "DistilBertForMaskedLM", CONFIG),
    Case("sequence-classification", "DistilBertForSequenceClassification", LABELS),
    Case("token-classification", "DistilBertForTokenClassification", LABELS),
    Case("question-answering", "DistilBertForQuestionAnswering", CONFIG),
    Case("multiple-choice", "DistilBertForMultipleChoice", CONFIG, CHOICES),
    Case("model-relu", "DistilBertModel", CONFIG | RELU),
    Case("masked-lm-relu", "DistilBertForMaskedLM", CONFIG | RELU),
    Case("model-left-padding", "DistilBertModel", CONFIG, Inputs(left=True)),
    Case("model-input-ids-only", "DistilBertModel", CONFIG, Inputs(mask=False)),
    Case("model-sparse-config", "DistilBertModel", CONFIG, sparse=True, stds=SMALL_EMBEDDINGS),
    # The key is kept by older files; the table of positions is in the checkpoint either way.
    Case("model-sinusoidal", "DistilBertModel", CONFIG | dict(sinusoidal_pos_embds=True)),
]
