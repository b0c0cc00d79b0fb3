"""Mamba."""

from case import REMOVED, SMALL_EMBEDDINGS, Case, Inputs

CONFIG = dict(
    vocab_size=120,
    hidden_size=32,
    state_size=8,
    num_hidden_layers=3,
    time_step_rank=3,
    pad_token_id=0,
    # The output has no field for the states then.
    use_cache=False,
)
LONG = Inputs(lengths=[19, 11])
LEFT = Inputs(lengths=[19, 11], left=True)
# Some states forget within a token, others last as long as the text.
STDS = {"A_log": 0.8, "mixer.D": 0.8, "dt_proj.bias": 0.8}


def case(name: str, model_class: str, config: dict, inputs: Inputs = LONG, stds: dict | None = None, **rest) -> Case:
    """A case with the deviations of this architecture."""
    return Case(name, model_class, config, inputs, stds=STDS | (stds or {}), **rest)


CASES = [
    case("model", "MambaModel", CONFIG),
    case("causal-lm", "MambaForCausalLM", CONFIG),
    case("causal-lm-untied", "MambaForCausalLM", CONFIG | dict(tie_word_embeddings=False)),
    case("causal-lm-bf16", "MambaForCausalLM", CONFIG, dtype="bf16"),
    # With biases the convolution sees that of `in_proj` where there is padding before the text, but not without it.
    case("model-biases", "MambaModel", CONFIG | dict(use_bias=True)),
    case("model-biases-left-padding", "MambaModel", CONFIG | dict(use_bias=True), LEFT),
    case("model-no-conv-bias", "MambaModel", CONFIG | dict(use_conv_bias=False)),
    case("model-gelu", "MambaModel", CONFIG | dict(hidden_act="gelu")),
    case("model-tanh", "MambaModel", CONFIG | dict(hidden_act="tanh")),
    case("model-kernel-2", "MambaModel", CONFIG | dict(conv_kernel=2)),
    # A kernel that is longer than a text.
    case("model-kernel-7", "MambaModel", CONFIG | dict(conv_kernel=7), Inputs(lengths=[9, 4])),
    case("model-left-padding", "MambaModel", CONFIG, LEFT),
    case("model-input-ids-only", "MambaModel", CONFIG, Inputs(mask=False)),
    case("model-one-token", "MambaModel", CONFIG, Inputs(lengths=[1])),
    case("model-long", "MambaModel", CONFIG | dict(num_hidden_layers=2), Inputs(lengths=[75, 40])),
    case(
        "causal-lm-odd-sizes",
        "MambaForCausalLM",
        CONFIG | dict(vocab_size=101, hidden_size=37, state_size=5, expand=3, time_step_rank=7, conv_kernel=3),
        Inputs(lengths=[5, 17, 9]),
    ),
    # The key wins over `expand`.
    case("model-intermediate-size", "MambaModel", CONFIG | dict(intermediate_size=40)),
    case(
        "model-time-step-rank-auto",
        "MambaModel",
        CONFIG | dict(hidden_size=40, time_step_rank="auto"),
        file=dict(time_step_rank="auto", intermediate_size=REMOVED),
    ),
    case("model-eps", "MambaModel", CONFIG | dict(layer_norm_epsilon=1e-3), stds=SMALL_EMBEDDINGS),
    case(
        "model-sparse-config",
        "MambaModel",
        {key: value for key, value in CONFIG.items() if key not in ("state_size", "time_step_rank")},
        sparse=True,
        file=dict(intermediate_size=REMOVED, time_step_rank=REMOVED),
        stds=SMALL_EMBEDDINGS,
    ),
    # What config.json of state-spaces/mamba-130m-hf holds besides the sizes.
    case(
        "causal-lm-hub-config",
        "MambaForCausalLM",
        CONFIG,
        sparse=True,
        file=dict(
            bos_token_id=0,
            conv_kernel=4,
            d_inner=64,
            d_model=32,
            eos_token_id=0,
            expand=2,
            fused_add_norm=True,
            hidden_act="silu",
            initializer_range=0.1,
            layer_norm_epsilon=1e-05,
            n_layer=3,
            pad_vocab_size_multiple=8,
            rescale_prenorm_residual=False,
            residual_in_fp32=True,
            rms_norm=True,
            ssm_cfg={},
            time_step_floor=0.0001,
            time_step_init_scheme="random",
            time_step_max=0.1,
            time_step_min=0.001,
            time_step_scale=1.0,
            use_bias=False,
            use_conv_bias=True,
        ),
    ),
]
