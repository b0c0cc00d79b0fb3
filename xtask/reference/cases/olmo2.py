"""OLMo 2."""

from case import REMOVED, Case, Inputs

from .llama import SMALL_EMBEDDINGS

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    pad_token_id=1,
    eos_token_id=2,
)
LABELS = CONFIG | dict(num_labels=3)
PADDED = Inputs(pad_token_id=1)
LEFT = Inputs(pad_token_id=1, left=True)

CASES = [
    Case("model", "Olmo2Model", CONFIG, PADDED),
    Case("causal-lm", "Olmo2ForCausalLM", CONFIG, PADDED),
    Case("sequence-classification", "Olmo2ForSequenceClassification", LABELS, PADDED),
    Case("sequence-classification-left-padding", "Olmo2ForSequenceClassification", LABELS, LEFT),
    Case("causal-lm-tied", "Olmo2ForCausalLM", CONFIG | dict(tie_word_embeddings=True), PADDED),
    Case("model-biases", "Olmo2Model", CONFIG | dict(attention_bias=True), PADDED),
    Case("model-head-dim", "Olmo2Model", CONFIG | dict(head_dim=12), PADDED),
    Case("model-one-key-value-head", "Olmo2Model", CONFIG | dict(num_key_value_heads=1), PADDED),
    Case("model-all-key-value-heads", "Olmo2Model", CONFIG | dict(num_key_value_heads=4), PADDED),
    Case("model-gelu", "Olmo2Model", CONFIG | dict(hidden_act="gelu"), PADDED),
    Case("model-left-padding", "Olmo2Model", CONFIG, LEFT),
    Case("model-position-ids", "Olmo2Model", CONFIG, Inputs(pad_token_id=1, positions=True)),
    Case(
        "model-rope-linear",
        "Olmo2Model",
        CONFIG | dict(rope_parameters=dict(rope_type="linear", rope_theta=100.0, factor=4.0)),
        PADDED,
    ),
    # No norm before the layers: the epsilon shows in the queries and keys of the first one.
    Case("model-eps", "Olmo2Model", CONFIG | dict(rms_norm_eps=1e-3), PADDED, stds=SMALL_EMBEDDINGS),
    Case(
        "model-sparse-config",
        "Olmo2Model",
        CONFIG | dict(num_key_value_heads=None),
        PADDED,
        sparse=True,
        file=dict(num_key_value_heads=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of allenai/OLMo-2-0425-1B holds besides the sizes.
    Case(
        "causal-lm-hub-config",
        "Olmo2ForCausalLM",
        CONFIG,
        PADDED,
        sparse=True,
        file=dict(
            attention_bias=False,
            attention_dropout=0.0,
            hidden_act="silu",
            initializer_range=0.02,
            rms_norm_eps=1e-06,
            rope_parameters=REMOVED,
            rope_scaling=None,
            rope_theta=500000,
            tie_word_embeddings=False,
            transformers_version="4.47.0",
            use_cache=True,
        ),
    ),
]
