"""Phi-3."""

from case import REMOVED, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    max_position_embeddings=64,
    original_max_position_embeddings=16,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LABELS = CONFIG | dict(num_labels=3)
# One divisor for each pair of a head.
FACTORS = dict(short_factor=[1.0, 1.1, 1.25, 1.5], long_factor=[1.0, 2.0, 4.5, 6.0])
# Embeddings this small let the first norm's epsilon show in the outputs.
SMALL = {"embed_tokens.weight": 0.03}
# Longer than the windows, and than `original_max_position_embeddings`.
LONG = Inputs(lengths=[19, 11])


def longrope() -> dict:
    """The rotation of the 128k checkpoints."""
    return dict(rope_type="longrope", rope_theta=1000.0, **FACTORS)


CASES = [
    Case("model", "Phi3Model", CONFIG),
    Case("causal-lm", "Phi3ForCausalLM", CONFIG),
    Case("causal-lm-tied", "Phi3ForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    Case("sequence-classification", "Phi3ForSequenceClassification", LABELS),
    Case("token-classification", "Phi3ForTokenClassification", LABELS),
    Case("model-all-heads", "Phi3Model", CONFIG | dict(num_key_value_heads=4), file=dict(num_key_value_heads=REMOVED)),
    Case("model-one-group", "Phi3Model", CONFIG | dict(num_key_value_heads=1)),
    Case("causal-lm-window", "Phi3ForCausalLM", CONFIG | dict(sliding_window=6), LONG),
    Case("model-gelu", "Phi3Model", CONFIG | dict(hidden_act="gelu")),
    Case("model-longrope-short", "Phi3Model", CONFIG | dict(rope_parameters=longrope())),
    Case("model-longrope-long", "Phi3Model", CONFIG | dict(rope_parameters=longrope()), LONG),
    # What microsoft/Phi-3-mini-128k-instruct writes.
    Case(
        "causal-lm-longrope-hub-config",
        "Phi3ForCausalLM",
        CONFIG,
        LONG,
        file=dict(rope_parameters=REMOVED, rope_theta=1000.0, rope_scaling=dict(type="longrope", **FACTORS)),
    ),
    # An older name of the same.
    Case(
        "model-longrope-named-yarn",
        "Phi3Model",
        CONFIG,
        LONG,
        file=dict(rope_parameters=REMOVED, rope_theta=1000.0, rope_scaling=dict(type="yarn", **FACTORS)),
    ),
    Case(
        "model-partial",
        "Phi3Model",
        CONFIG | dict(rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.5)),
    ),
    # What microsoft/Phi-4-mini-instruct writes.
    Case(
        "model-partial-longrope-hub-config",
        "Phi3Model",
        CONFIG,
        LONG,
        file=dict(
            rope_parameters=REMOVED,
            rope_theta=1000.0,
            partial_rotary_factor=0.75,
            rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.5], long_factor=[1.0, 2.0, 6.0]),
        ),
    ),
    Case("model-left-padding", "Phi3Model", CONFIG, Inputs(left=True)),
    Case("model-eps", "Phi3Model", CONFIG | dict(rms_norm_eps=1e-3), stds=SMALL),
    Case("model-sparse-config", "Phi3Model", CONFIG, sparse=True, stds=SMALL),
]
