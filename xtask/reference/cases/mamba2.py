"""Mamba-2."""

from case import REMOVED, SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    state_size=8,
    num_hidden_layers=3,
    num_heads=8,
    head_dim=8,
    n_groups=2,
    chunk_size=8,
    pad_token_id=0,
    # The output has no field for the states then.
    use_cache=False,
)
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)
# Some heads forget within a token, others last as long as the text.
STDS = {"A_log": 0.8, "mixer.D": 0.8, "dt_bias": 0.8}


def case(name: str, model_class: str, config: dict, inputs: Inputs = LONG, stds: dict | None = None, **rest) -> Case:
    """A case with the deviations of this architecture."""
    return Case(name, model_class, config, inputs, stds=STDS | (stds or {}), **rest)


CASES = [
    case("model", "Mamba2Model", CONFIG),
    case("causal-lm", "Mamba2ForCausalLM", CONFIG),
    case("causal-lm-tied", "Mamba2ForCausalLM", CONFIG | dict(tie_word_embeddings=True)),
    case("causal-lm-bf16", "Mamba2ForCausalLM", CONFIG, dtype="bf16"),
    # With biases the convolution sees that of `in_proj` where there is padding before the text, but not without it.
    case("model-biases", "Mamba2Model", CONFIG | dict(use_bias=True)),
    case("model-biases-left-padding", "Mamba2Model", CONFIG | dict(use_bias=True), LEFT),
    case("model-no-conv-bias", "Mamba2Model", CONFIG | dict(use_conv_bias=False)),
    case("model-gelu", "Mamba2Model", CONFIG | dict(hidden_act="gelu")),
    case("model-one-group", "Mamba2Model", CONFIG | dict(n_groups=1)),
    case("model-group-per-head", "Mamba2Model", CONFIG | dict(n_groups=8)),
    case("model-one-head", "Mamba2Model", CONFIG | dict(num_heads=1, head_dim=64, n_groups=1)),
    case("model-kernel-2", "Mamba2Model", CONFIG | dict(conv_kernel=2)),
    # A kernel that is longer than a text.
    case("model-kernel-7", "Mamba2Model", CONFIG | dict(conv_kernel=7), Inputs(lengths=[9, 4])),
    # Limits that most time steps meet.
    case("model-time-step-limit", "Mamba2Model", CONFIG | dict(time_step_limit=[0.5, 0.9])),
    case("model-time-step-lower-limit", "Mamba2Model", CONFIG | dict(time_step_limit=[0.6, float("inf")])),
    case("model-left-padding", "Mamba2Model", CONFIG, LEFT),
    case("model-input-ids-only", "Mamba2Model", CONFIG, Inputs(mask=False)),
    case("model-one-token", "Mamba2Model", CONFIG, Inputs(lengths=[1])),
    # The size of chunks changes nothing.
    case(
        "model-long",
        "Mamba2Model",
        CONFIG | dict(num_hidden_layers=2, chunk_size=256),
        Inputs(lengths=[75, 40]),
    ),
    case(
        "causal-lm-odd-sizes",
        "Mamba2ForCausalLM",
        CONFIG
        | dict(
            vocab_size=101,
            hidden_size=30,
            state_size=5,
            expand=3,
            num_heads=6,
            head_dim=15,
            n_groups=3,
            conv_kernel=3,
            chunk_size=7,
        ),
        Inputs(lengths=[5, 17, 9]),
    ),
    case("model-eps", "Mamba2Model", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    # The class's own state, width of the heads, groups and time steps.
    case(
        "model-sparse-config",
        "Mamba2Model",
        dict(vocab_size=120, hidden_size=256, num_hidden_layers=2, num_heads=8, use_cache=False),
        Inputs(pad_token_id=1),
        sparse=True,
        file=dict(time_step_limit=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of mistralai/Mamba-Codestral-7B-v0.1 holds besides the sizes; infinity is bare there.
    case(
        "causal-lm-hub-config",
        "Mamba2ForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            bos_token_id=0,
            chunk_size=256,
            conv_kernel=4,
            eos_token_id=0,
            expand=2,
            hidden_act="silu",
            initializer_range=0.1,
            intermediate_size=64,
            layer_norm_epsilon=1e-05,
            norm_before_gate=True,
            rescale_prenorm_residual=False,
            residual_in_fp32=True,
            rms_norm=True,
            tie_word_embeddings=False,
            time_step_floor=0.0001,
            time_step_init_scheme="random",
            time_step_limit=[0.0, float("inf")],
            time_step_max=0.1,
            time_step_min=0.001,
            time_step_rank=2,
            time_step_scale=1.0,
            use_bias=False,
            use_conv_bias=True,
        ),
    ),
]
