"""DeBERTa-v2 and v3."""

from case import REMOVED, SMALL_EMBEDDINGS, Case, Inputs

# The class's defaults: absolute positions, no relative attention.
PLAIN = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=40,
)
# The shape of microsoft/deberta-v3-*, with few enough buckets that a short text fills them.
V3 = PLAIN | dict(
    relative_attention=True,
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
    share_att_key=True,
    position_buckets=8,
    max_relative_positions=-1,
    norm_rel_ebd="layer_norm",
)
OWN_KEYS = V3 | dict(share_att_key=False)
LABELS = V3 | dict(num_labels=3)
# As the Hub's config.json spell it.
HUB = dict(pos_att_type="p2c|c2p", pooler_dropout=0, pooler_hidden_size=REMOVED)
LONG = Inputs(lengths=[23, 15])
CHOICES = Inputs(lengths=[[9, 7, 8], [5, 9, 6]])

CASES = [
    # token_type_ids come from the tokenizer even where the model has no table for them.
    Case("model", "DebertaV2Model", V3, Inputs(lengths=[23, 15], types=2), file=HUB),
    Case("masked-lm", "DebertaV2ForMaskedLM", V3),
    Case("masked-lm-not-legacy", "DebertaV2ForMaskedLM", V3 | dict(legacy=False)),
    Case("sequence-classification", "DebertaV2ForSequenceClassification", LABELS),
    Case("token-classification", "DebertaV2ForTokenClassification", LABELS),
    Case("question-answering", "DebertaV2ForQuestionAnswering", V3),
    Case("multiple-choice", "DebertaV2ForMultipleChoice", V3, CHOICES),
    Case("model-own-position-keys", "DebertaV2Model", OWN_KEYS, LONG),
    Case("model-c2p", "DebertaV2Model", OWN_KEYS | dict(pos_att_type=["c2p"]), LONG),
    Case("model-p2c", "DebertaV2Model", OWN_KEYS | dict(pos_att_type=["p2c"]), LONG),
    # Distances reach beyond the last bucket and are clamped.
    Case("model-clamped-buckets", "DebertaV2Model", V3 | dict(max_relative_positions=16), LONG),
    # Distances themselves index the table, and are clamped at its ends.
    Case(
        "model-no-buckets",
        "DebertaV2Model",
        V3 | dict(position_buckets=-1, max_relative_positions=12, norm_rel_ebd="none"),
        LONG,
    ),
    # The shape of microsoft/deberta-v2-xlarge.
    Case(
        "model-convolution",
        "DebertaV2Model",
        V3 | dict(conv_kernel_size=3, conv_act="gelu"),
        LONG,
    ),
    Case("model-convolution-groups", "DebertaV2Model", V3 | dict(conv_kernel_size=5, conv_groups=4), LONG),
    Case("model-no-relative-attention", "DebertaV2Model", PLAIN),
    # pos_att_type counts for the scale even where there is no relative attention.
    Case("model-unused-pos-att-type", "DebertaV2Model", PLAIN | dict(pos_att_type=["p2c", "c2p"])),
    Case("model-absolute-and-relative", "DebertaV2Model", V3 | dict(position_biased_input=True), LONG),
    Case("model-two-types", "DebertaV2Model", V3 | dict(type_vocab_size=2), Inputs(types=2)),
    Case(
        "masked-lm-embedding-size",
        "DebertaV2ForMaskedLM",
        V3 | dict(embedding_size=20, position_biased_input=True, type_vocab_size=2),
        Inputs(types=2),
    ),
    Case(
        "sequence-classification-pooler-tanh",
        "DebertaV2ForSequenceClassification",
        LABELS | dict(pooler_hidden_act="tanh"),
    ),
    Case("model-left-padding", "DebertaV2Model", V3, Inputs(left=True)),
    Case("model-input-ids-only", "DebertaV2Model", V3, Inputs(mask=False)),
    Case("model-eps", "DebertaV2Model", V3 | dict(layer_norm_eps=1e-5), stds=SMALL_EMBEDDINGS),
    Case("model-sparse-config", "DebertaV2Model", PLAIN, sparse=True, stds=SMALL_EMBEDDINGS),
]
