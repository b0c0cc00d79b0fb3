"""MPT.

No case has padding on the left: where a query sees nothing, the reference's weights are not numbers in float64.
"""

from case import Case, Inputs

CONFIG = dict(
    vocab_size=120,
    d_model=32,
    n_heads=4,
    n_layers=2,
    max_seq_len=40,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)

# As `case.SMALL_EMBEDDINGS`, for the first norm of a decoder; they are an output here, and must vary.
SMALL_EMBEDDINGS = {"wte.weight": 0.04}

CASES = [
    Case("model", "MptModel", CONFIG),
    Case("causal-lm", "MptForCausalLM", CONFIG),
    Case("sequence-classification", "MptForSequenceClassification", LABELS),
    Case("token-classification", "MptForTokenClassification", LABELS),
    Case("question-answering", "MptForQuestionAnswering", CONFIG),
    Case("causal-lm-untied", "MptForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    # The slopes of four heads, then two of those between.
    Case("model-six-heads", "MptModel", CONFIG | dict(d_model=48, n_heads=6)),
    # Slopes that are no powers of two; far enough for the steepest to matter.
    Case(
        "model-sixteen-heads",
        "MptModel",
        CONFIG | dict(d_model=64, n_heads=16, n_layers=1),
        Inputs(lengths=[29, 23]),
    ),
    # As long as the reference goes.
    Case("model-long", "MptModel", CONFIG | dict(max_seq_len=13), Inputs(lengths=[13, 9])),
    Case("model-clipped", "MptModel", CONFIG | dict(attn_config=dict(clip_qkv=0.5))),
    Case("model-softmax-scale", "MptModel", CONFIG | dict(attn_config=dict(softmax_scale=0.2))),
    # The reference does none of this.
    Case(
        "model-ignored-keys",
        "MptModel",
        CONFIG | dict(expansion_ratio=2, no_bias=False, attn_config=dict(alibi=False, alibi_bias_max=16)),
    ),
    Case(
        "causal-lm-odd-sizes",
        "MptForCausalLM",
        CONFIG | dict(vocab_size=101, d_model=33, n_heads=3, n_layers=3),
        Inputs(lengths=[5, 17, 9]),
    ),
    Case("model-input-ids-only", "MptModel", CONFIG, Inputs(mask=False)),
    Case("model-eps", "MptModel", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    Case("model-sparse-config", "MptModel", CONFIG, sparse=True, stds=SMALL_EMBEDDINGS),
    # What config.json of mosaicml/mpt-7b holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "MptForCausalLM",
        CONFIG,
        file=dict(
            attn_config=dict(
                alibi=True,
                alibi_bias_max=8,
                attn_impl="torch",
                attn_pdrop=0,
                attn_type="multihead_attention",
                attn_uses_sequence_id=False,
                clip_qkv=None,
                prefix_lm=False,
                qk_ln=False,
                softmax_scale=None,
            ),
            emb_pdrop=0,
            embedding_fraction=1.0,
            expansion_ratio=4,
            init_device="cpu",
            learned_pos_emb=True,
            logit_scale=None,
            no_bias=True,
            norm_type="low_precision_layernorm",
            resid_pdrop=0,
            verbose=0,
        ),
    ),
]
