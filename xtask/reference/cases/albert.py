"""ALBERT."""

from case import SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    embedding_size=20,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)
LABELS = CONFIG | dict(num_labels=3)
PAIR = Inputs(types=2)
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]], types=2)

CASES = [
    Case("model", "AlbertModel", CONFIG, PAIR),
    Case("masked-lm", "AlbertForMaskedLM", CONFIG, PAIR),
    Case("sequence-classification", "AlbertForSequenceClassification", LABELS, PAIR),
    Case("token-classification", "AlbertForTokenClassification", LABELS, PAIR),
    Case("question-answering", "AlbertForQuestionAnswering", CONFIG, PAIR),
    Case("multiple-choice", "AlbertForMultipleChoice", CONFIG, CHOICES),
    Case("model-two-groups", "AlbertModel", CONFIG | dict(num_hidden_layers=4, num_hidden_groups=2), PAIR),
    # Layers do not divide evenly: groups 0, 0, 1.
    Case("model-uneven-groups", "AlbertModel", CONFIG | dict(num_hidden_groups=2), PAIR),
    Case("model-inner-group", "AlbertModel", CONFIG | dict(num_hidden_layers=2, inner_group_num=2), PAIR),
    Case("model-equal-sizes", "AlbertModel", CONFIG | dict(embedding_size=32), PAIR),
    Case("masked-lm-gelu", "AlbertForMaskedLM", CONFIG | dict(hidden_act="gelu"), PAIR),
    Case("model-left-padding", "AlbertModel", CONFIG, Inputs(left=True, types=2)),
    Case("model-eps", "AlbertModel", CONFIG | dict(layer_norm_eps=1e-5), PAIR, stds=SMALL_EMBEDDINGS),
    Case("model-sparse-config", "AlbertModel", CONFIG, PAIR, sparse=True, stds=SMALL_EMBEDDINGS),
]
