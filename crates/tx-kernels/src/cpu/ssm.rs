//! State space models: from their tensors to kernels that have channels in the lanes of vectors.
//!
//! A thread takes some channels, or a head, through all tokens, so that their state stays in the nearest caches.

use burn::tensor::Tensor;

use super::product::Out;
use super::rows::{self, exp};
use super::threads::parallel;
use super::{Scratch, View, by_rows, create, floats, slice, view, viewable};
use crate::{Pointwise, SsdParameters};

/// Channels that go through the tokens together, and elements of a head whose results are held in registers.
const LANES: usize = 64;

/// See [`crate::causal_conv1d`]. Inside, the channels of a token lie beside each other.
pub fn causal_conv1d(
    x: &Tensor<3>,
    state: Option<&Tensor<3>>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    act: Option<Pointwise>,
) -> Option<(Tensor<3>, Tensor<3>)> {
    let [batch, channels, seq] = x.dims();
    let [_, kernel] = weight.dims();
    let fits = kernel >= 2
        && channels > 0
        && weight.dims() == [channels, kernel]
        && bias.is_none_or(|bias| bias.dims() == [channels])
        && state.is_none_or(|state| state.dims() == [batch, channels, kernel - 1]);
    if !fits {
        return None;
    }
    let tokens = |x: &Tensor<3>| viewable(&x.clone().swap_dims(1, 2)); // [batch, seq, channels]
    let x = tokens(x)?;
    let state = match state {
        Some(state) => Some(tokens(state)?),
        None => None,
    };
    let bias = match bias {
        Some(bias) => Some(floats(bias)?),
        None => None,
    };
    let weight = floats(&weight.clone().transpose())?; // [kernel, channels]
    let (x, state, weight, bias) = (view(&x), state.as_ref().map(view), slice(&weight), bias.as_ref().map(slice));
    let (before, zeros) = (kernel - 1, vec![0f32; channels]);
    // The inputs of a token, counted from the first one that is kept.
    let inputs = |batch: usize, token: usize| match (token.checked_sub(before), &state) {
        (Some(token), _) => x.row(batch, token, 0, channels),
        (None, Some(state)) => state.row(batch, token, 0, channels),
        (None, None) => &zeros[..],
    };
    let y = by_rows([batch, seq, channels], |i, out| {
        match bias {
            Some(bias) => out.copy_from_slice(bias),
            None => out.fill(0.0),
        }
        for (k, weight) in weight.chunks_exact(channels).enumerate() {
            multiply_add(inputs(i / seq, i % seq + k), weight, out);
        }
        if let Some(act) = act {
            rows::pointwise(act, out);
        }
    });
    let kept = by_rows([batch, before, channels], |i, out| {
        out.copy_from_slice(inputs(i / before, seq + i % before));
    });
    Some((y.swap_dims(1, 2), kept.swap_dims(1, 2)))
}

/// See [`crate::selective_scan`].
pub fn selective_scan(
    x: &Tensor<3>,
    dt: &Tensor<3>,
    b: &Tensor<3>,
    c: &Tensor<3>,
    a_log: &Tensor<2>,
    d: &Tensor<1>,
    state: Option<&Tensor<4>>,
) -> Option<(Tensor<3>, Tensor<4>)> {
    let [batch, seq, channels] = x.dims();
    let [_, size] = a_log.dims();
    let fits = dt.dims() == x.dims()
        && b.dims() == [batch, seq, size]
        && c.dims() == b.dims()
        && a_log.dims() == [channels, size]
        && d.dims() == [channels]
        && state.is_none_or(|state| state.dims() == [batch, 1, size, channels]);
    if !fits || size == 0 {
        return None;
    }
    let (x, dt, b, c) = (viewable(x)?, viewable(dt)?, viewable(b)?, viewable(c)?);
    let (a_log, d) = (floats(a_log)?, floats(d)?);
    let state = match state {
        Some(state) => Some(floats(state)?),
        None => None,
    };
    let scan = SelectiveScan {
        x: view(&x),
        dt: view(&dt),
        b: view(&b),
        c: view(&c),
        a_log: slice(&a_log),
        d: slice(&d),
        state: state.as_ref().map(slice),
        batch,
        seq,
        channels,
        size,
    };
    let mut last = None;
    // SAFETY: the scan writes every token of every channel, and the state of every channel.
    let y = unsafe {
        create([batch, seq, channels], |y| {
            last = Some(create([batch, 1, size, channels], |state| scan.run(y, state)));
        })
    };
    Some((y, last?))
}

/// See [`crate::ssd_scan`].
pub fn ssd_scan(
    x: &Tensor<4>,
    dt: &Tensor<3>,
    b: &Tensor<4>,
    c: &Tensor<4>,
    parameters: &SsdParameters,
    state: Option<&Tensor<4>>,
) -> Option<(Tensor<4>, Tensor<4>)> {
    let [batch, seq, heads, dim] = x.dims();
    let [_, _, groups, size] = b.dims();
    let SsdParameters { a_log, d, dt_bias, dt_limit } = parameters;
    let fits = dt.dims() == [batch, seq, heads]
        && b.dims() == [batch, seq, groups, size]
        && c.dims() == b.dims()
        && [a_log, d, dt_bias].iter().all(|x| x.dims() == [heads])
        && state.is_none_or(|state| state.dims() == [batch, heads, size, dim]);
    if !fits || groups == 0 || !heads.is_multiple_of(groups) {
        return None;
    }
    let (x, dt, b, c) = (viewable(x)?, viewable(dt)?, viewable(b)?, viewable(c)?);
    let (a_log, d, dt_bias) = (floats(a_log)?, floats(d)?, floats(dt_bias)?);
    let state = match state {
        Some(state) => Some(floats(state)?),
        None => None,
    };
    let scan = SsdScan {
        x: view(&x),
        dt: view(&dt),
        b: view(&b),
        c: view(&c),
        a_log: slice(&a_log),
        d: slice(&d),
        dt_bias: slice(&dt_bias),
        dt_limit: (dt_limit.0 as f32, dt_limit.1 as f32),
        state: state.as_ref().map(slice),
        batch,
        seq,
        heads,
        groups,
        dim,
        size,
    };
    let mut last = None;
    // SAFETY: the scan writes every token of every head, and the state of every head.
    let y = unsafe {
        create([batch, seq, heads, dim], |y| {
            last = Some(create([batch, heads, size, dim], |state| scan.run(y, state)));
        })
    };
    Some((y, last?))
}

/// `ln(1 + eˣ)`, as `ln(1 + u) = 2 · artanh(u / (2 + u))` by the series of artanh; relative error below 5e-7.
#[inline(always)]
fn softplus(x: f32) -> f32 {
    let u = exp(-x.abs());
    let s = u / (2.0 + u); // at most 1/3
    let t = s * s;
    let series = (1.0f32 / 15.0)
        .mul_add(t, 1.0 / 13.0)
        .mul_add(t, 1.0 / 11.0)
        .mul_add(t, 1.0 / 9.0)
        .mul_add(t, 1.0 / 7.0)
        .mul_add(t, 1.0 / 5.0)
        .mul_add(t, 1.0 / 3.0)
        .mul_add(t, 1.0);
    // NaN stays.
    let positive = if x < 0.0 { 0.0 } else { x };
    (2.0 * s).mul_add(series, positive)
}

/// The inputs of one token: for some channels, or for a head.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    /// One for each lane.
    x: &'a [f32],
    /// The time step before softplus: one for each lane, or one for the head.
    dt: &'a [f32],
    /// One for each line of the state.
    b: &'a [f32],
    /// As `b`.
    c: &'a [f32],
}

/// What a head has for all tokens.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// The rate of decay, not positive.
    a: f32,
    d: f32,
    dt_bias: f32,
    dt_limit: (f32, f32),
}

multiversion! {
    /// `out + x · weight`, in place.
    fn multiply_add(x: &[f32], weight: &[f32], out: &mut [f32]) {
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x.mul_add(weight, *out);
        }
    }

    /// `−eˣ` of lines `[lanes][state]`, in columns `[state][lanes]`.
    fn rates(a_log: &[f32], lanes: usize, to: &mut [f32]) {
        for (lane, line) in a_log.chunks_exact(to.len() / lanes).enumerate() {
            for (column, &a_log) in to.chunks_exact_mut(lanes).zip(line) {
                column[lane] = a_log;
            }
        }
        for rate in to {
            *rate = -exp(*rate);
        }
    }

    /// Takes the state `[state][lanes]` of some channels past one token, and gives its result.
    fn selective_step(token: Token<'_>, a: &[f32], d: &[f32], state: &mut [f32], out: &mut [f32]) {
        let lanes = out.len();
        let (mut steps, mut inputs) = ([0f32; LANES], [0f32; LANES]);
        let (steps, inputs) = (&mut steps[..lanes], &mut inputs[..lanes]);
        for ((step, input), (&dt, &x)) in steps.iter_mut().zip(inputs.iter_mut()).zip(token.dt.iter().zip(token.x)) {
            *step = softplus(dt);
            *input = *step * x;
        }
        for ((out, &x), &d) in out.iter_mut().zip(token.x).zip(d) {
            *out = d * x;
        }
        let lines = state.chunks_exact_mut(lanes).zip(a.chunks_exact(lanes));
        for ((state, a), (&b, &c)) in lines.zip(token.b.iter().zip(token.c)) {
            let fixed = a.iter().zip(&*steps).zip(&*inputs);
            for ((state, out), ((&a, &step), &input)) in state.iter_mut().zip(out.iter_mut()).zip(fixed) {
                *state = exp(step * a).mul_add(*state, b * input);
                *out = c.mul_add(*state, *out);
            }
        }
    }

    /// Takes the state `[state][head_dim]` of a head past one token, and gives its result.
    fn ssd_step(token: Token<'_>, head: Head, state: &mut [f32], out: &mut [f32]) {
        let (low, high) = head.dt_limit;
        let step = softplus(token.dt[0] + head.dt_bias);
        let step = if step < low { low } else { step };
        let step = if step > high { high } else { step };
        let decay = exp(step * head.a);
        let factors = [step, decay, head.d];
        let mut at = 0;
        while at + LANES <= out.len() {
            ssd_lanes::<LANES>(token, at, factors, state, out);
            at += LANES;
        }
        while at + 16 <= out.len() {
            ssd_lanes::<16>(token, at, factors, state, out);
            at += 16;
        }
        while at < out.len() {
            ssd_lanes::<1>(token, at, factors, state, out);
            at += 1;
        }
    }
}

/// [`ssd_step`] for `N` elements of a head.
#[inline(always)]
fn ssd_lanes<const N: usize>(
    token: Token<'_>,
    at: usize,
    [step, decay, d]: [f32; 3],
    state: &mut [f32],
    out: &mut [f32],
) {
    let (mut input, mut sum) = ([0f32; N], [0f32; N]);
    for ((input, sum), &x) in input.iter_mut().zip(&mut sum).zip(&token.x[at..at + N]) {
        *input = step * x;
        *sum = d * x;
    }
    for (line, (&b, &c)) in state.chunks_exact_mut(out.len()).zip(token.b.iter().zip(token.c)) {
        let line = &mut line[at..at + N];
        for l in 0..N {
            line[l] = decay.mul_add(line[l], b * input[l]);
            sum[l] = c.mul_add(line[l], sum[l]);
        }
    }
    out[at..at + N].copy_from_slice(&sum);
}

/// The arguments of a scan, see [`crate::selective_scan`].
#[derive(Debug, Clone, Copy)]
pub struct SelectiveScan<'a> {
    /// The axes of the views are batch, seq, channels or state.
    pub x: View<'a>,
    pub dt: View<'a>,
    pub b: View<'a>,
    pub c: View<'a>,
    /// `[channels, size]`
    pub a_log: &'a [f32],
    /// `[channels]`
    pub d: &'a [f32],
    /// `[batch, size, channels]`
    pub state: Option<&'a [f32]>,
    pub batch: usize,
    pub seq: usize,
    pub channels: usize,
    /// Elements of the state of a channel.
    pub size: usize,
}

impl SelectiveScan<'_> {
    /// # Safety
    /// `out` is valid for `[batch, seq, channels]` and `last` for `[batch, size, channels]`, and nothing else refers to
    /// them.
    pub unsafe fn run(&self, out: Out, last: Out) {
        let Self { batch, seq, channels, size, .. } = *self;
        let blocks = channels.div_ceil(LANES);
        parallel(batch * blocks, |task| {
            let (batch, first) = (task / blocks, task % blocks * LANES);
            let lanes = LANES.min(channels - first);
            let mut a = Scratch::<f32>::take(size * lanes);
            rates(&self.a_log[first * size..(first + lanes) * size], lanes, &mut a);
            let d = &self.d[first..first + lanes];
            // The lines of these channels lie apart in the whole state.
            let line = |n: usize| (batch * size + n) * channels + first;
            let mut state = Scratch::<f32>::take(size * lanes);
            for (n, to) in state.chunks_exact_mut(lanes).enumerate() {
                match self.state {
                    Some(state) => to.copy_from_slice(&state[line(n)..line(n) + lanes]),
                    None => to.fill(0.0),
                }
            }
            for token in 0..seq {
                let inputs = Token {
                    x: self.x.row(batch, token, first, lanes),
                    dt: self.dt.row(batch, token, first, lanes),
                    b: self.b.row(batch, token, 0, size),
                    c: self.c.row(batch, token, 0, size),
                };
                let at = (batch * seq + token) * channels + first;
                // SAFETY: these channels of this token lie in the result, and this task alone refers to them. They are
                // only written.
                let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), lanes) };
                selective_step(inputs, &a, d, &mut state, out);
            }
            for (n, from) in state.chunks_exact(lanes).enumerate() {
                // SAFETY: as above, for the lines of the state.
                unsafe { last.get().add(line(n)).copy_from_nonoverlapping(from.as_ptr(), lanes) };
            }
        });
    }
}

/// The arguments of a scan, see [`crate::ssd_scan`].
#[derive(Debug, Clone, Copy)]
pub struct SsdScan<'a> {
    /// `[batch, seq, heads, dim]`
    pub x: View<'a>,
    /// `[batch, seq, heads]`
    pub dt: View<'a>,
    /// `[batch, seq, groups, size]`
    pub b: View<'a>,
    pub c: View<'a>,
    /// Each `[heads]`.
    pub a_log: &'a [f32],
    pub d: &'a [f32],
    pub dt_bias: &'a [f32],
    pub dt_limit: (f32, f32),
    /// `[batch, heads, size, dim]`
    pub state: Option<&'a [f32]>,
    pub batch: usize,
    pub seq: usize,
    pub heads: usize,
    /// A divisor of `heads`.
    pub groups: usize,
    pub dim: usize,
    /// Elements of the state for each element of a head.
    pub size: usize,
}

impl SsdScan<'_> {
    /// # Safety
    /// `out` is valid for `[batch, seq, heads, dim]` and `last` for `[batch, heads, size, dim]`, and nothing else refers
    /// to them.
    pub unsafe fn run(&self, out: Out, last: Out) {
        let Self { batch, seq, heads, dim, size, .. } = *self;
        parallel(batch * heads, |task| {
            let (batch, head) = (task / heads, task % heads);
            let group = head / (heads / self.groups);
            let parameters = Head {
                a: -self.a_log[head].exp(),
                d: self.d[head],
                dt_bias: self.dt_bias[head],
                dt_limit: self.dt_limit,
            };
            // SAFETY: the state of this head lies in the whole state, and this task alone refers to it. It is written
            // before it is read.
            let state = unsafe { std::slice::from_raw_parts_mut(last.get().add(task * size * dim), size * dim) };
            match self.state {
                Some(before) => state.copy_from_slice(&before[task * size * dim..][..size * dim]),
                None => state.fill(0.0),
            }
            for token in 0..seq {
                let inputs = Token {
                    x: self.x.row(batch, token, head, dim),
                    dt: self.dt.row(batch, token, head, 1),
                    b: self.b.row(batch, token, group, size),
                    c: self.c.row(batch, token, group, size),
                };
                let at = ((batch * seq + token) * heads + head) * dim;
                // SAFETY: as above, for the result of this head; it is only written.
                let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(at), dim) };
                ssd_step(inputs, parameters, state, out);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softplus_keeps_single_precision() {
        for i in -8000..8000 {
            let x = i as f32 * 1e-2;
            let exact = f64::from(x).exp().ln_1p();
            assert!((f64::from(softplus(x)) / exact - 1.0).abs() < 5e-7, "softplus({x})");
        }
        assert!(softplus(f32::NAN).is_nan());
        assert_eq!(softplus(1000.0), 1000.0);
    }
}
