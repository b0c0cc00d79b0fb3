//! State space models: a convolution over the past, and recurrences whose decay follows from the input.
//!
//! Recurrences are computed in f32, whatever the activations are: their errors add up over the tokens.

use burn::tensor::{DType, Int, Tensor, activation};

use crate::Pointwise;
#[cfg(feature = "flex")]
use crate::cpu;

/// Tokens that the reference bodies take at once: few operations for many tokens, and memory for these alone.
const CHUNK: usize = 64;

/// `act(Σₖ weight[k] · x[t − (kernel − 1) + k] + bias)` for each channel by itself, and what the next tokens need.
///
/// # Shapes
/// - x, first output: `[batch, channels, seq]`
/// - state, second output: `[batch, channels, kernel - 1]`, the inputs before the first; zeros if `None`
/// - weight: `[channels, kernel]`, a kernel of at least two
/// - bias: `[channels]`
pub fn causal_conv1d(
    x: Tensor<3>,
    state: Option<Tensor<3>>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    act: Option<Pointwise>,
) -> (Tensor<3>, Tensor<3>) {
    #[cfg(feature = "flex")]
    if let Some(result) = cpu::ssm::causal_conv1d(&x, state.as_ref(), &weight, bias.as_ref(), act) {
        return result;
    }
    let [batch, channels, seq] = x.dims();
    let [_, kernel] = weight.dims();
    let zeros = || Tensor::zeros([batch, channels, kernel - 1], (&x.device(), x.dtype()));
    let before = state.unwrap_or_else(zeros);
    let x = Tensor::cat(vec![before, x], 2); // [batch, channels, kernel - 1 + seq]
    let weight = weight.reshape([1, channels, kernel]);
    let tap = |k: usize| x.clone().narrow(2, k, seq) * weight.clone().narrow(2, k, 1);
    let mut y = tap(0);
    for k in 1..kernel {
        y = y + tap(k);
    }
    let y = match bias {
        Some(bias) => y + bias.reshape([1, channels, 1]),
        None => y,
    };
    let y = match act {
        Some(act) => act.forward(y),
        None => y,
    };
    (y, x.narrow(2, seq, kernel - 1))
}

/// The recurrence of Mamba, for each channel by itself, and its last state. Gu & Dao, 2023 (arXiv:2312.00752),
/// algorithm 2:
///
/// ```text
/// Δ = softplus(dt),   A = −exp(a_log)
/// h[t] = exp(Δ[t] · A) · h[t − 1] + Δ[t] · x[t] · b[t]
/// y[t] = c[t] · h[t] + d · x[t]
/// ```
///
/// # Shapes
/// - x, dt, first output: `[batch, seq, channels]`
/// - b, c: `[batch, seq, state]`
/// - a_log: `[channels, state]`, of any float dtype
/// - d: `[channels]`
/// - state, second output: `[batch, 1, state, channels]` of f32; zeros if `None`
pub fn selective_scan(
    x: Tensor<3>,
    dt: Tensor<3>,
    b: Tensor<3>,
    c: Tensor<3>,
    a_log: Tensor<2>,
    d: Tensor<1>,
    state: Option<Tensor<4>>,
) -> (Tensor<3>, Tensor<4>) {
    // A matrix, which may have the checkpoint's dtype.
    let a_log = a_log.cast(DType::F32);
    #[cfg(feature = "flex")]
    if let Some(result) = cpu::ssm::selective_scan(&x, &dt, &b, &c, &a_log, &d, state.as_ref()) {
        return result;
    }
    let [batch, seq, channels] = x.dims();
    let [_, size] = a_log.dims();
    let dtype = x.dtype();
    let (x, b, c) = (x.cast(DType::F32), b.cast(DType::F32), c.cast(DType::F32));
    let dt = activation::softplus(dt.cast(DType::F32), 1.0);
    let a = a_log.exp().neg().transpose().reshape([1, 1, size, channels]);
    let zeros = || Tensor::zeros([batch, 1, size, channels], (&x.device(), DType::F32));
    let mut state = state.unwrap_or_else(zeros);
    let mut outputs = Vec::with_capacity(seq.div_ceil(CHUNK));
    for start in (0..seq).step_by(CHUNK) {
        let length = CHUNK.min(seq - start);
        let chunk = |x: &Tensor<3>| x.clone().narrow(1, start, length);
        let (x, dt, b, c) = (chunk(&x), chunk(&dt), chunk(&b), chunk(&c));
        let decay = (dt.clone().unsqueeze_dim::<4>(2) * a.clone()).exp(); // [batch, length, state, channels]
        let input = (dt * x).unsqueeze_dim::<4>(2) * b.unsqueeze_dim::<4>(3);
        let states = scan(decay, input, state);
        state = states.clone().narrow(1, length - 1, 1);
        outputs.push((states * c.unsqueeze_dim::<4>(3)).sum_dim(2).squeeze_dim::<3>(2));
    }
    let y = Tensor::cat(outputs, 1) + x * d.cast(DType::F32).reshape([1, 1, channels]);
    (y.cast(dtype), state)
}

/// `h[t] = decay[t] · h[t − 1] + input[t]` for all tokens, in `log₂ seq` steps. Hillis & Steele, 1986.
///
/// # Shapes
/// - decay, input, output: `[batch, seq, state, channels]`
/// - state: `[batch, 1, state, channels]`, from before the first token
fn scan(decay: Tensor<4>, input: Tensor<4>, state: Tensor<4>) -> Tensor<4> {
    let seq = decay.dims()[1];
    let (mut decay, mut h) = (decay, input);
    let mut distance = 1;
    while distance < seq {
        // Every token knows its last `distance` tokens, and takes over what the one before these knows.
        let rest = seq - distance;
        let later = decay.clone().narrow(1, distance, rest);
        let known = h.clone().narrow(1, distance, rest) + later.clone() * h.clone().narrow(1, 0, rest);
        h = Tensor::cat(vec![h.narrow(1, 0, distance), known], 1);
        let known = later * decay.clone().narrow(1, 0, rest);
        decay = Tensor::cat(vec![decay.narrow(1, 0, distance), known], 1);
        distance *= 2;
    }
    h + decay * state
}

/// The parameters of [`ssd_scan`].
#[derive(Debug, Clone)]
pub struct SsdParameters {
    /// Logarithms of the rates of decay: `[heads]`.
    pub a_log: Tensor<1>,
    /// How much of the input goes to the output as it is: `[heads]`.
    pub d: Tensor<1>,
    /// Added to the time steps before softplus: `[heads]`.
    pub dt_bias: Tensor<1>,
    /// The lowest and the highest time step.
    pub dt_limit: (f64, f64),
}

/// The recurrence of Mamba-2, whose heads each have one rate of decay, and its last state. Dao & Gu, 2024
/// (arXiv:2405.21060), section 6:
///
/// ```text
/// Δ = clamp(softplus(dt + dt_bias)),   A = −exp(a_log)
/// h[t] = exp(Δ[t] · A) · h[t − 1] + Δ[t] · b[t] ⊗ x[t]
/// y[t] = c[t] · h[t] + d · x[t]
/// ```
///
/// Heads that follow one another share `b` and `c`, as many as there are for each group.
///
/// # Shapes
/// - x, first output: `[batch, seq, heads, head_dim]`
/// - dt: `[batch, seq, heads]`
/// - b, c: `[batch, seq, groups, state]`, where `groups` divides `heads`
/// - state, second output: `[batch, heads, state, head_dim]` of f32; zeros if `None`
pub fn ssd_scan(
    x: Tensor<4>,
    dt: Tensor<3>,
    b: Tensor<4>,
    c: Tensor<4>,
    parameters: &SsdParameters,
    state: Option<Tensor<4>>,
) -> (Tensor<4>, Tensor<4>) {
    #[cfg(feature = "flex")]
    if let Some(result) = cpu::ssm::ssd_scan(&x, &dt, &b, &c, parameters, state.as_ref()) {
        return result;
    }
    let [batch, seq, heads, dim] = x.dims();
    let [_, _, _, size] = b.dims();
    let (dtype, device) = (x.dtype(), x.device());
    let (x, b, c) = (x.cast(DType::F32), b.cast(DType::F32), c.cast(DType::F32));
    let of_heads = |x: &Tensor<1>| x.clone().cast(DType::F32).reshape([1, 1, heads]);
    let dt = activation::softplus(dt.cast(DType::F32) + of_heads(&parameters.dt_bias), 1.0);
    // Infinity is no limit, and not every device has it.
    let (low, high) = parameters.dt_limit;
    let dt = if low > 0.0 { dt.clamp_min(low) } else { dt };
    let dt = if high.is_finite() { dt.clamp_max(high) } else { dt };
    let log_decay = dt.clone() * of_heads(&parameters.a_log).exp().neg();
    let mut state = state.unwrap_or_else(|| Tensor::zeros([batch, heads, size, dim], (&device, DType::F32)));
    let mut outputs = Vec::with_capacity(seq.div_ceil(CHUNK));
    for start in (0..seq).step_by(CHUNK) {
        let length = CHUNK.min(seq - start);
        let chunk = |x: &Tensor<4>| x.clone().narrow(1, start, length);
        let (b, c) = (by_heads(chunk(&b), heads), by_heads(chunk(&c), heads)); // [batch, heads, length, state]
        let steps = |x: &Tensor<3>| x.clone().narrow(1, start, length).swap_dims(1, 2); // [batch, heads, length]
        let input = chunk(&x).swap_dims(1, 2) * steps(&dt).unsqueeze_dim::<4>(3);
        // The logarithm of what is left after each token of what was there before the chunk.
        let left = steps(&log_decay).cumsum(2);

        // What the tokens of the chunk give to later ones: attention without a softmax.
        let between = left.clone().unsqueeze_dim::<4>(3) - left.clone().unsqueeze_dim::<4>(2);
        let position = Tensor::<1, Int>::arange(0..length as i64, &device);
        let distance = position.clone().unsqueeze_dim::<2>(0) - position.unsqueeze_dim::<2>(1);
        let later = distance.greater_elem(0).unsqueeze_dims::<4>(&[0, 1]).expand(between.shape());
        let between = between.mask_fill(later, f32::NEG_INFINITY).exp();
        let scores = c.clone().matmul(b.clone().swap_dims(2, 3)) * between; // [batch, heads, length, length]
        let y = scores.matmul(input.clone());

        // What is left of the state, for each token and at the end.
        let y = y + c.matmul(state.clone()) * left.clone().exp().unsqueeze_dim::<4>(3);
        let last = left.clone().narrow(2, length - 1, 1);
        let input = input * (last.clone() - left).exp().unsqueeze_dim::<4>(3);
        state = state * last.exp().unsqueeze_dim::<4>(3) + b.swap_dims(2, 3).matmul(input);
        outputs.push(y);
    }
    let d = parameters.d.clone().cast(DType::F32).reshape([1, 1, heads, 1]);
    let y = Tensor::cat(outputs, 2).swap_dims(1, 2) + x * d;
    (y.cast(dtype), state)
}

/// Each group as often as heads share it.
///
/// # Shapes
/// - x: `[batch, seq, groups, state]`
/// - output: `[batch, heads, seq, state]`
fn by_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, seq, groups, size] = x.dims();
    let x = x.unsqueeze_dim::<5>(3).expand([batch, seq, groups, heads / groups, size]);
    x.reshape([batch, seq, heads, size]).swap_dims(1, 2)
}
