"""StarCoder2."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=64,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# Embeddings this small let the first LayerNorm's epsilon show in the outputs.
SMALL = {"embed_tokens.weight": 0.03}
# Longer than the window, and than the length that the rotations were made for.
LONG = Inputs(lengths=[19, 11])

CASES = [
    Case("model", "Starcoder2Model", CONFIG),
    Case("causal-lm", "Starcoder2ForCausalLM", CONFIG),
    Case("causal-lm-untied", "Starcoder2ForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    Case("sequence-classification", "Starcoder2ForSequenceClassification", LABELS),
    Case("token-classification", "Starcoder2ForTokenClassification", LABELS),
    Case("model-no-biases", "Starcoder2Model", CONFIG | dict(use_bias=False)),
    Case("causal-lm-window", "Starcoder2ForCausalLM", CONFIG | dict(sliding_window=6), LONG),
    Case(
        "model-window-left-padding",
        "Starcoder2Model",
        CONFIG | dict(sliding_window=6),
        Inputs(lengths=[19, 11], left=True),
    ),
    Case("model-relu", "Starcoder2Model", CONFIG | dict(hidden_act="relu")),
    Case("model-all-heads", "Starcoder2Model", CONFIG | dict(num_key_value_heads=4)),
    Case("model-one-group", "Starcoder2Model", CONFIG | dict(num_key_value_heads=1)),
    Case("model-head-dim", "Starcoder2Model", CONFIG | dict(head_dim=16)),
    Case(
        "model-longrope",
        "Starcoder2Model",
        CONFIG
        | dict(
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=1000.0,
                original_max_position_embeddings=16,
                short_factor=[1.0, 1.1, 1.25, 1.5],
                long_factor=[1.0, 2.0, 4.5, 6.0],
            ),
        ),
        LONG,
    ),
    Case(
        "model-yarn-rope-hub-config",
        "Starcoder2Model",
        CONFIG,
        LONG,
        file=dict(
            rope_parameters=REMOVED,
            rope_theta=100.0,
            rope_scaling=dict(
                type="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, attention_factor=1.25
            ),
        ),
    ),
    Case("model-position-ids", "Starcoder2Model", CONFIG, Inputs(positions=True)),
    Case("model-eps", "Starcoder2Model", CONFIG | dict(norm_epsilon=1e-3), stds=SMALL),
    Case("model-sparse-config", "Starcoder2Model", CONFIG, sparse=True, stds=SMALL),
]
