"""BERT."""

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
PAIR = Inputs(types=2)
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]], types=2)

CASES = [
    Case("model", "BertModel", CONFIG, PAIR),
    Case("masked-lm", "BertForMaskedLM", CONFIG, PAIR),
    Case("sequence-classification", "BertForSequenceClassification", LABELS, PAIR),
    Case("token-classification", "BertForTokenClassification", LABELS, PAIR),
    Case("question-answering", "BertForQuestionAnswering", CONFIG, PAIR),
    Case("multiple-choice", "BertForMultipleChoice", CONFIG, CHOICES),
    Case("next-sentence", "BertForNextSentencePrediction", CONFIG, PAIR),
    Case("model-gelu-new", "BertModel", CONFIG | dict(hidden_act="gelu_new"), PAIR),
    Case("masked-lm-relu", "BertForMaskedLM", CONFIG | dict(hidden_act="relu"), PAIR),
    Case("model-three-types", "BertModel", CONFIG | dict(type_vocab_size=3), Inputs(lengths=[7, 13, 1], types=3)),
    Case("model-eps", "BertModel", CONFIG | dict(layer_norm_eps=1e-5), PAIR, stds=SMALL_EMBEDDINGS),
    Case("model-left-padding", "BertModel", CONFIG, Inputs(left=True, types=2)),
    Case("model-input-ids-only", "BertModel", CONFIG, Inputs(mask=False)),
    Case("model-position-ids", "BertModel", CONFIG, Inputs(types=2, positions=True)),
    Case(
        "masked-lm-odd-sizes",
        "BertForMaskedLM",
        CONFIG | dict(vocab_size=101, hidden_size=33, num_attention_heads=3, intermediate_size=50, num_hidden_layers=3),
        Inputs(lengths=[5, 17, 9], types=2),
    ),
    Case(
        "sequence-classification-multi-label",
        "BertForSequenceClassification",
        CONFIG
        | dict(
            problem_type="multi_label_classification",
            id2label={0: "joy", 1: "anger", 2: "fear", 3: "surprise"},
            label2id={"joy": 0, "anger": 1, "fear": 2, "surprise": 3},
        ),
        PAIR,
    ),
    Case("sequence-classification-one-label", "BertForSequenceClassification", CONFIG | dict(num_labels=1), PAIR),
    Case("model-sparse-config", "BertModel", CONFIG, PAIR, sparse=True, stds=SMALL_EMBEDDINGS),
    # What config.json of google-bert/bert-base-uncased holds besides the sizes.
    Case(
        "masked-lm-hub-config",
        "BertForMaskedLM",
        CONFIG,
        PAIR,
        sparse=True,
        file=dict(
            attention_probs_dropout_prob=0.1,
            gradient_checkpointing=False,
            hidden_act="gelu",
            hidden_dropout_prob=0.1,
            initializer_range=0.02,
            layer_norm_eps=1e-12,
            pad_token_id=0,
            position_embedding_type="absolute",
            transformers_version="4.6.0.dev0",
            type_vocab_size=2,
            use_cache=True,
        ),
    ),
    Case("masked-lm-bf16", "BertForMaskedLM", CONFIG, PAIR, dtype="bf16"),
    Case("sequence-classification-f16", "BertForSequenceClassification", LABELS, PAIR, dtype="f16"),
]
