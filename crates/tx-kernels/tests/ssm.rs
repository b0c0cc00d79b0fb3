//! The operations of state space models: their two bodies against each other, and against the definition.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use burn::tensor::{Device, Tensor};
use tx_kernels::{Pointwise, SsdParameters, causal_conv1d, selective_scan, ssd_scan, with_reference};

use support::{near, random};

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f32>().map(f64::from).collect()
}

/// Results and states of the same computation on both bodies.
#[track_caller]
fn agree<const D: usize, const E: usize>(f: impl Fn() -> (Tensor<D>, Tensor<E>), tolerance: f64, what: &str) {
    let ((y, state), (y_reference, state_reference)) = (f(), with_reference(&f));
    assert_eq!((y.dims(), state.dims()), (y_reference.dims(), state_reference.dims()), "{what}");
    near(&values(y), &values(y_reference), tolerance, what);
    near(&values(state), &values(state_reference), tolerance, &format!("{what}, state"));
}

/// A part of a wider last axis, as a projection into several things gives it.
fn part<const D: usize>(mut shape: [usize; D]) -> Tensor<D> {
    let length = shape[D - 1];
    shape[D - 1] += 5;
    random(shape).narrow(D - 1, 3, length)
}

#[test]
fn convolution_takes_every_size_view_and_activation() {
    for (batch, channels, seq, kernel) in
        [(1, 1, 1, 2), (2, 7, 1, 4), (3, 5, 2, 4), (2, 64, 9, 4), (1, 100, 33, 3), (2, 3, 40, 7), (1, 1600, 30, 4)]
    {
        let (weight, bias) = (random([channels, kernel]), random([channels]));
        let state = random([batch, channels, kernel - 1]);
        for x in [random([batch, channels, seq]), part([batch, seq, channels]).swap_dims(1, 2)] {
            for bias in [None, Some(bias.clone())] {
                for state in [None, Some(state.clone())] {
                    for act in [None, Some(Pointwise::Silu), Some(Pointwise::Gelu)] {
                        let convolve = || causal_conv1d(x.clone(), state.clone(), weight.clone(), bias.clone(), act);
                        let (b, s) = (bias.is_some(), state.is_some());
                        let what = format!("{batch} {channels} {seq} {kernel} {act:?}, bias {b}, state {s}");
                        // What an activation takes away, as GELU does below -5, is exact to 1e-6 of the numbers before it.
                        let tolerance = if act.is_some() { 1e-5 } else { 2e-6 };
                        agree(convolve, tolerance, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn convolution_is_its_definition() {
    let (channels, seq, kernel) = (3, 6, 4);
    let (x, weight, bias) = (random([1, channels, seq]), random([channels, kernel]), random([channels]));
    let (y, state) = causal_conv1d(x.clone(), None, weight.clone(), Some(bias.clone()), None);
    let (x, weight, bias) = (values(x), values(weight), values(bias));
    let mut expected = Vec::new();
    for channel in 0..channels {
        for token in 0..seq {
            let taps = (0..kernel).filter(|k| token + k + 1 >= kernel);
            let sum: f64 = taps.map(|k| weight[channel * kernel + k] * x[channel * seq + token + k + 1 - kernel]).sum();
            expected.push(sum + bias[channel]);
        }
    }
    near(&values(y), &expected, 1e-6, "convolution");
    let last = (0..channels).flat_map(|channel| x[channel * seq + seq + 1 - kernel..(channel + 1) * seq].to_vec());
    near(&values(state), &last.collect::<Vec<_>>(), 0.0, "state");
}

/// `x`, `dt`, `b`, `c`, `a_log` and `d` of a selective scan; some of them parts of wider tensors.
#[derive(Clone)]
struct Selective(Tensor<3>, Tensor<3>, Tensor<3>, Tensor<3>, Tensor<2>, Tensor<1>);

impl Selective {
    fn new(batch: usize, seq: usize, channels: usize, size: usize) -> Self {
        let (x, dt) = (random([batch, seq, channels]), part([batch, seq, channels]));
        let (b, c) = (part([batch, seq, size]), part([batch, seq, size]));
        Self(x, dt, b, c, random([channels, size]), random([channels]))
    }

    fn scan(&self, state: Option<Tensor<4>>) -> (Tensor<3>, Tensor<4>) {
        let Self(x, dt, b, c, a_log, d) = self.clone();
        selective_scan(x, dt, b, c, a_log, d, state)
    }

    /// The tokens from `start` on.
    fn tokens(&self, start: usize, length: usize) -> Self {
        let Self(x, dt, b, c, a_log, d) = self.clone();
        let [x, dt, b, c] = [x, dt, b, c].map(|x| x.narrow(1, start, length));
        Self(x, dt, b, c, a_log, d)
    }
}

#[test]
fn selective_scan_takes_every_size() {
    for (batch, seq, channels, size) in
        [(1, 1, 1, 1), (2, 1, 70, 16), (1, 5, 7, 3), (3, 20, 64, 16), (2, 64, 65, 4), (1, 65, 130, 8), (1, 150, 40, 16)]
    {
        let inputs = Selective::new(batch, seq, channels, size);
        for state in [None, Some(random([batch, 1, size, channels]))] {
            let what = format!("{batch} {seq} {channels} {size}, state {}", state.is_some());
            agree(|| inputs.scan(state.clone()), 3e-6, &what);
        }
    }
}

#[test]
fn selective_scan_is_its_definition() {
    let (batch, seq, channels, size) = (2, 7, 3, 4);
    let inputs = Selective::new(batch, seq, channels, size);
    let start = random([batch, 1, size, channels]);
    let (y, last) = inputs.scan(Some(start.clone()));
    let Selective(x, dt, b, c, a_log, d) = inputs;
    let (x, dt, b, c) = (values(x), values(dt), values(b), values(c));
    let (a_log, d, mut state) = (values(a_log), values(d), values(start));
    let mut expected = vec![0.0; batch * seq * channels];
    for i in 0..batch * seq * channels {
        let (token, channel) = (i / channels, i % channels);
        let step = dt[i].exp().ln_1p();
        expected[i] = d[channel] * x[i];
        for n in 0..size {
            let h = &mut state[(token / seq * size + n) * channels + channel];
            let decay = (-step * a_log[channel * size + n].exp()).exp();
            *h = decay * *h + step * x[i] * b[token * size + n];
            expected[i] += c[token * size + n] * *h;
        }
    }
    near(&values(y), &expected, 2e-6, "result");
    near(&values(last), &state, 2e-6, "state");
}

/// The inputs and parameters of a scan with heads.
#[derive(Clone)]
struct Ssd(Tensor<4>, Tensor<3>, Tensor<4>, Tensor<4>, SsdParameters);

impl Ssd {
    fn new(batch: usize, seq: usize, [heads, groups]: [usize; 2], [dim, size]: [usize; 2]) -> Self {
        let (x, dt) = (part([batch, seq, heads, dim]), part([batch, seq, heads]));
        let (b, c) = (random([batch, seq, groups, size]), part([batch, seq, groups, size]));
        let parameters = SsdParameters {
            a_log: random([heads]),
            d: random([heads]),
            dt_bias: random([heads]),
            dt_limit: (0.0, f64::INFINITY),
        };
        Self(x, dt, b, c, parameters)
    }

    fn limited(self, low: f64, high: f64) -> Self {
        let Self(x, dt, b, c, parameters) = self;
        Self(x, dt, b, c, SsdParameters { dt_limit: (low, high), ..parameters })
    }

    fn scan(&self, state: Option<Tensor<4>>) -> (Tensor<4>, Tensor<4>) {
        let Self(x, dt, b, c, parameters) = self.clone();
        ssd_scan(x, dt, b, c, &parameters, state)
    }

    /// The tokens from `start` on.
    fn tokens(&self, start: usize, length: usize) -> Self {
        let Self(x, dt, b, c, parameters) = self.clone();
        let [x, b, c] = [x, b, c].map(|x| x.narrow(1, start, length));
        Self(x, dt.narrow(1, start, length), b, c, parameters)
    }
}

#[test]
fn ssd_scan_takes_every_size() {
    for (batch, seq, heads, sizes) in [
        (1, 1, [1, 1], [1, 1]),
        (2, 1, [4, 2], [64, 16]),
        (1, 6, [6, 2], [8, 5]),
        (2, 20, [4, 4], [32, 16]),
        (1, 64, [2, 1], [65, 7]),
        (2, 65, [3, 1], [16, 4]),
        (1, 150, [2, 2], [100, 32]),
    ] {
        let inputs = Ssd::new(batch, seq, heads, sizes);
        for state in [None, Some(random([batch, heads[0], sizes[1], sizes[0]]))] {
            for inputs in [inputs.clone(), inputs.clone().limited(0.3, 0.9)] {
                let limit = inputs.4.dt_limit;
                let what = format!("{batch} {seq} {heads:?} {sizes:?} {limit:?}, state {}", state.is_some());
                agree(|| inputs.scan(state.clone()), 5e-6, &what);
            }
        }
    }
}

#[test]
fn ssd_scan_is_its_definition() {
    let (batch, seq, [heads, groups], [dim, size]) = (2, 5, [4, 2], [3, 6]);
    let inputs = Ssd::new(batch, seq, [heads, groups], [dim, size]).limited(0.2, 1.5);
    let start = random([batch, heads, size, dim]);
    let (y, last) = inputs.scan(Some(start.clone()));
    let Ssd(x, dt, b, c, parameters) = inputs;
    let (x, dt, b, c) = (values(x), values(dt), values(b), values(c));
    let (a_log, d, dt_bias) = (values(parameters.a_log), values(parameters.d), values(parameters.dt_bias));
    let mut state = values(start);
    let mut expected = vec![0.0; batch * seq * heads * dim];
    for i in 0..batch * seq * heads * dim {
        let (token, head, element) = (i / dim / heads, i / dim % heads, i % dim);
        let step = (dt[i / dim] + dt_bias[head]).exp().ln_1p().clamp(0.2, 1.5);
        let decay = (-step * a_log[head].exp()).exp();
        expected[i] = d[head] * x[i];
        for n in 0..size {
            let h = &mut state[((token / seq * heads + head) * size + n) * dim + element];
            let at = (token * groups + head / (heads / groups)) * size + n;
            *h = decay * *h + step * x[i] * b[at];
            expected[i] += c[at] * *h;
        }
    }
    near(&values(y), &expected, 2e-6, "result");
    near(&values(last), &state, 2e-6, "state");
}

#[test]
fn a_text_in_parts_gives_what_it_gives_whole() {
    let parts = [1usize, 5, 1, 70, 2];
    let seq: usize = parts.iter().sum();
    let x = random([2, 10, seq]);
    let weight = random([10, 4]);
    let (selective, ssd) = (Selective::new(2, seq, 66, 8), Ssd::new(2, seq, [2, 1], [20, 8]));
    let check = |body: &str| {
        let (convolved, last) = causal_conv1d(x.clone(), None, weight.clone(), None, None);
        let (scanned, scanned_last) = selective.scan(None);
        let (dual, dual_last) = ssd.scan(None);
        let (mut start, mut states) = (0, (None, None, None));
        let mut results = (Vec::new(), Vec::new(), Vec::new());
        for length in parts {
            let (y, state) =
                causal_conv1d(x.clone().narrow(2, start, length), states.0.take(), weight.clone(), None, None);
            results.0.push(y);
            states.0 = Some(state);
            let (y, state) = selective.tokens(start, length).scan(states.1.take());
            results.1.push(y);
            states.1 = Some(state);
            let (y, state) = ssd.tokens(start, length).scan(states.2.take());
            results.2.push(y);
            states.2 = Some(state);
            start += length;
        }
        near(&values(Tensor::cat(results.0, 2)), &values(convolved), 2e-6, &format!("convolution, {body}"));
        near(&values(Tensor::cat(results.1, 1)), &values(scanned), 3e-6, &format!("selective scan, {body}"));
        near(&values(Tensor::cat(results.2, 1)), &values(dual), 5e-6, &format!("scan of heads, {body}"));
        near(&values(states.0.unwrap()), &values(last), 0.0, &format!("state of the convolution, {body}"));
        near(&values(states.1.unwrap()), &values(scanned_last), 3e-6, &format!("state, {body}"));
        near(&values(states.2.unwrap()), &values(dual_last), 5e-6, &format!("state of heads, {body}"));
    };
    check("fast");
    with_reference(|| check("reference"));
}

#[test]
fn long_time_steps_forget_and_short_ones_keep() {
    let (channels, size) = (70, 4);
    let constant = |value: f32| Tensor::<3>::full([1, 3, channels], value, &Device::flex());
    let (b, c) = (random([1, 3, size]), random([1, 3, size]));
    let start = random([1, 1, size, channels]);
    let (a_log, d) = (Tensor::<2>::zeros([channels, size], &Device::flex()), random([channels]));
    let scan = |dt: f32| {
        let (x, dt) = (constant(0.0), constant(dt));
        selective_scan(x, dt, b.clone(), c.clone(), a_log.clone(), d.clone(), Some(start.clone())).1
    };
    near(&values(scan(-60.0)), &values(start.clone()), 1e-6, "short");
    assert!(values(scan(1e4)).iter().all(|h| h.abs() < 1e-30), "long");
}

#[test]
fn shapes_that_do_not_fit_panic_and_read_nothing() {
    let selective = |channels: usize, size: usize| {
        let Selective(x, dt, b, c, ..) = Selective::new(2, 6, 8, 4);
        drop(selective_scan(x, dt, b, c, random([channels, size]), random([channels]), None));
    };
    let ssd = |groups: usize, state: [usize; 4]| {
        let Ssd(x, dt, b, c, parameters) = Ssd::new(2, 6, [4, groups], [8, 4]);
        drop(ssd_scan(x, dt, b, c, &parameters, Some(random(state))));
    };
    let wrong: [Box<dyn Fn() + std::panic::UnwindSafe + std::panic::RefUnwindSafe>; 6] = [
        Box::new(|| drop(causal_conv1d(random([2, 8, 6]), None, random([9, 4]), None, None))),
        Box::new(|| drop(causal_conv1d(random([2, 8, 6]), Some(random([2, 7, 3])), random([8, 4]), None, None))),
        Box::new(move || selective(9, 4)),
        Box::new(move || selective(8, 5)),
        Box::new(move || ssd(3, [2, 4, 4, 8])),
        Box::new(move || ssd(2, [2, 4, 8, 7])),
    ];
    for (i, wrong) in wrong.iter().enumerate() {
        assert!(std::panic::catch_unwind(wrong).is_err(), "{i}");
    }
}
