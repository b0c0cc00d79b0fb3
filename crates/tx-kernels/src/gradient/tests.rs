//! Every derivative beside the one that autodiff finds for the reference body.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::cell::Cell;

use burn::tensor::{Bool, DType, Device, GradientCheckpointingStrategy, Gradients, Int, Tensor, TensorData};

use crate::{
    AttentionOptions, IGNORED, KvPrecision, KvTensor, Mask, Pairs, Pointwise, attention, cross_entropy, dequantize,
    embedding, gated, layer_norm, linear, linear_transposed, linears, quantize_int4, quantize_int8, rms_norm, rotary,
    softmax, swiglu, with_exact_products, with_reference,
};

use support::{near, random};

const ACTIVATIONS: [Pointwise; 4] = [Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Silu, Pointwise::Relu];

/// The relative error of results and gradients.
const TOLERANCE: f64 = 1e-5;

thread_local! {
    static STEPS: Cell<usize> = const { Cell::new(0) };
}

/// Called for every step that is added to autodiff's graph.
pub fn count_step() {
    STEPS.set(STEPS.get() + 1);
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.cast(DType::F32).into_data().try_to_vec().unwrap()
}

/// Reads a gradient.
type Read = Box<dyn Fn(&Gradients) -> Option<Vec<f32>>>;

/// The inputs of a computation, some of which are tracked.
struct Inputs {
    /// Which ones, by their number.
    tracked: u32,
    strategy: GradientCheckpointingStrategy,
    reads: Vec<Read>,
}

impl Inputs {
    /// An input, tracked or not.
    fn leaf<const D: usize>(&mut self, x: &Tensor<D>) -> Tensor<D> {
        if (self.tracked >> self.reads.len()) & 1 == 0 {
            self.reads.push(Box::new(|_| None));
            return x.clone();
        }
        let x = x.clone().autodiff().with_gradient_checkpointing_strategy(self.strategy).require_grad();
        let leaf = x.clone();
        self.reads.push(Box::new(move |gradients| Some(values(leaf.grad(gradients)?))));
        x
    }
}

/// The result of a computation, and the gradients of its inputs.
#[derive(Debug, PartialEq)]
struct Outcome {
    result: Vec<f32>,
    gradients: Vec<Option<Vec<f32>>>,
}

fn run<const D: usize>(
    f: &dyn Fn(&mut Inputs) -> Tensor<D>,
    tracked: u32,
    strategy: GradientCheckpointingStrategy,
) -> Outcome {
    let mut inputs = Inputs { tracked, strategy, reads: Vec::new() };
    let y = f(&mut inputs);
    let result = values(y.clone().without_autodiff());
    // The gradient of the result: different everywhere.
    let weights: Vec<f32> = (0..result.len()).map(|i| (i as f32 * 0.7).sin() + 0.2).collect();
    let weights = Tensor::<D>::from_data(TensorData::new(weights, y.dims()), &Device::flex());
    let gradients = (y * weights).sum().backward();
    Outcome { result, gradients: inputs.reads.iter().map(|read| read(&gradients)).collect() }
}

/// Compares both bodies with all inputs tracked, with a single one, and with all but one.
#[track_caller]
fn check<const D: usize>(what: &str, f: impl Fn(&mut Inputs) -> Tensor<D>) {
    check_within(what, TOLERANCE, TOLERANCE, f);
}

#[track_caller]
fn check_within<const D: usize>(what: &str, of_result: f64, of_gradients: f64, f: impl Fn(&mut Inputs) -> Tensor<D>) {
    let strategy = GradientCheckpointingStrategy::Disabled;
    let mut inputs = Inputs { tracked: 0, strategy, reads: Vec::new() };
    f(&mut inputs);
    let count = inputs.reads.len();
    let all = (1 << count) - 1;
    let mut cases = vec![(all, strategy), (all, GradientCheckpointingStrategy::Balanced)];
    cases.extend((0..count).flat_map(|i| [(1 << i, strategy), (all & !(1 << i), strategy)]));
    for (tracked, strategy) in cases.into_iter().filter(|(tracked, _)| *tracked != 0) {
        let what = format!("{what}, tracked {tracked:b}, {strategy:?}");
        STEPS.set(0);
        let fast = run(&f, tracked, strategy);
        assert!(STEPS.get() > 0, "{what}: no derivative of its own");
        let steps = STEPS.get();
        let reference = with_reference(|| run(&f, tracked, strategy));
        assert_eq!(STEPS.get(), steps, "{what}: a derivative of its own in the reference body");
        near(&fast.result, &reference.result, of_result, &what);
        for (i, (fast, reference)) in fast.gradients.iter().zip(&reference.gradients).enumerate() {
            match (fast, reference) {
                (Some(fast), Some(reference)) => near(fast, reference, of_gradients, &format!("{what}: input {i}")),
                (fast, reference) => assert!(fast.is_none() && reference.is_none(), "{what}: input {i}"),
            }
        }
    }
}

#[test]
fn products_of_every_size() {
    for rows in [1, 3, 17, 70, 600] {
        for (steps, columns) in [(1, 1), (7, 5), (64, 48), (70, 49), (130, 100)] {
            let (x, w, b) = (random([rows, steps]), random([columns, steps]), random([columns]));
            let what = format!("{rows}×{steps}×{columns}");
            check(&what, |inputs| linear(inputs.leaf(&x), inputs.leaf(&w), Some(inputs.leaf(&b)), None));
            let turned = random([steps, columns]);
            check(&format!("{what} transposed"), |inputs| {
                linear_transposed(inputs.leaf(&x), inputs.leaf(&turned), Some(inputs.leaf(&b)), None)
            });
        }
    }
}

#[test]
fn products_that_are_summed_up_in_parts() {
    for (rows, steps, columns) in [(3100, 20, 33), (70, 20, 1600), (1100, 500, 70), (40, 1700, 300)] {
        let (x, w, turned) = (random([rows, steps]), random([columns, steps]), random([steps, columns]));
        let what = format!("{rows}×{steps}×{columns}");
        check(&what, |inputs| linear(inputs.leaf(&x), inputs.leaf(&w), None, None));
        check(&what, |inputs| linear_transposed(inputs.leaf(&x), inputs.leaf(&turned), None, None));
    }
}

#[test]
fn products_with_activations_and_several_results() {
    let (x, w, b) = (random([2, 20, 24]), random([40, 24]), random([40]));
    for act in ACTIVATIONS {
        check(&format!("{act:?}"), |inputs| linear(inputs.leaf(&x), inputs.leaf(&w), Some(inputs.leaf(&b)), Some(act)));
        let turned = w.clone().transpose();
        check(&format!("{act:?} transposed"), |inputs| {
            linear_transposed(inputs.leaf(&x), inputs.leaf(&turned), Some(inputs.leaf(&b)), Some(act))
        });
    }
    let (second, third) = (random([17, 24]), random([3, 24]));
    check("three of one input", |inputs| {
        let x = inputs.leaf(&x);
        let layers =
            [(inputs.leaf(&w), Some(inputs.leaf(&b))), (inputs.leaf(&second), None), (inputs.leaf(&third), None)];
        Tensor::cat(linears(x, layers, None).to_vec(), 2)
    });
    check("a view of the input, and a gradient that is a view", |inputs| {
        let x = inputs.leaf(&x).swap_dims(0, 1).narrow(0, 3, 11);
        linear(x, inputs.leaf(&w), None, Some(Pointwise::Gelu)).swap_dims(0, 2)
    });
}

#[test]
fn products_with_frozen_weights_of_other_dtypes() {
    let (x, w, b) = (random([70, 96]), random([50, 96]), random([50]));
    for dtype in [DType::BF16, DType::F16] {
        let w = w.clone().cast(dtype);
        // Some processors round the rows to bf16 otherwise.
        let linear = |x, w, b, act| with_exact_products(|| linear::<2>(x, w, b, act));
        for act in [None, Some(Pointwise::Silu)] {
            check(&format!("{dtype:?}"), |inputs| linear(inputs.leaf(&x), w.clone(), Some(inputs.leaf(&b)), act));
            let turned = random([96, 50]).cast(dtype);
            check(&format!("{dtype:?} transposed"), |inputs| {
                linear_transposed(inputs.leaf(&x), turned.clone(), Some(inputs.leaf(&b)), act)
            });
        }
        // Tracked, their gradients are of the same dtype.
        check_within(&format!("{dtype:?} tracked"), TOLERANCE, 5e-3, |inputs| {
            linear(inputs.leaf(&x), inputs.leaf(&w), None, None)
        });
    }
    for rows in [5, 70] {
        let x = random([rows, 96]);
        for w in [quantize_int8(w.clone()), quantize_int4(w.clone())] {
            // The result is that of rounded inputs, the gradient is not.
            check_within("quantized", 3e-2, TOLERANCE, |inputs| {
                linear(inputs.leaf(&x), w.clone(), Some(inputs.leaf(&b)), None)
            });
            let same = dequantize(w.clone());
            let of = |w: &Tensor<2>| {
                run(
                    &|inputs| linear(inputs.leaf(&x), w.clone(), None, None),
                    1,
                    GradientCheckpointingStrategy::Disabled,
                )
            };
            let (quantized, dequantized) = (of(&w).gradients, of(&same).gradients);
            near(quantized[0].as_ref().unwrap(), dequantized[0].as_ref().unwrap(), TOLERANCE, "dequantized");
        }
    }
}

#[test]
fn activations_gates_and_softmax() {
    for shape in [[1, 1], [3, 7], [40, 65], [3, 20_000]] {
        let (x, y) = (random(shape) * 2.0, random(shape));
        for act in ACTIVATIONS {
            check(&format!("{act:?} {shape:?}"), |inputs| act.forward(inputs.leaf(&x)));
            check(&format!("gated by {act:?} {shape:?}"), |inputs| gated(act, inputs.leaf(&x), inputs.leaf(&y)));
        }
        check("swiglu", |inputs| swiglu(inputs.leaf(&x), inputs.leaf(&y)));
        check("of one tensor", |inputs| {
            let x = inputs.leaf(&x);
            swiglu(x.clone(), x.clone()) + softmax(x)
        });
        check(&format!("softmax {shape:?}"), |inputs| softmax(inputs.leaf(&x)));
        check("a view", |inputs| softmax(inputs.leaf(&x).transpose()).transpose());
    }
}

#[test]
fn norms() {
    for (rows, hidden) in [(1, 5), (3, 7), (5, 64), (40, 65), (700, 130), (2, 5000)] {
        let (x, y, w, b) = (random([rows, hidden]), random([rows, hidden]), random([hidden]), random([hidden]));
        let x = x + 0.5;
        let what = format!("{rows}×{hidden}");
        check(&what, |inputs| rms_norm(inputs.leaf(&x), None, inputs.leaf(&w), 1e-3));
        check(&what, |inputs| rms_norm(inputs.leaf(&x), Some(inputs.leaf(&y)), inputs.leaf(&w), 1e-3));
        check(&what, |inputs| layer_norm(inputs.leaf(&x), None, inputs.leaf(&w), None, 1e-3));
        check(&what, |inputs| {
            layer_norm(inputs.leaf(&x), Some(inputs.leaf(&y)), inputs.leaf(&w), Some(inputs.leaf(&b)), 1e-3)
        });
    }
}

#[test]
fn rows_of_a_table() {
    let ids = [3i64, 0, 7, 3, 3, 10, 0];
    let ids = Tensor::<1, Int>::from_ints(ids, &Device::flex());
    for hidden in [1, 5, 128, 300] {
        let table = random([11, hidden]);
        check(&format!("{hidden}"), |inputs| embedding(inputs.leaf(&table), ids.clone()));
    }
    let table = random([11, 40]);
    check("two look-ups, and a product with the table", |inputs| {
        let table = inputs.leaf(&table);
        let x = embedding(table.clone(), ids.clone()) + embedding(table.clone(), ids.clone().flip([0]));
        linear(x, table, None, None)
    });
}

#[test]
fn rotations() {
    let x = random([2, 5, 9, 12]);
    for (batch, rotated) in [(1, 12), (2, 12), (1, 6), (2, 2)] {
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            let (cos, sin) = (random([batch, 5, 1, rotated]), random([batch, 5, 1, rotated]));
            check("rotary", |inputs| rotary(inputs.leaf(&x), cos.clone(), sin.clone(), pairs));
            check("of a view", |inputs| rotary(inputs.leaf(&x).narrow(2, 3, 3), cos.clone(), sin.clone(), pairs));
        }
    }
}

/// Hides the last keys of some rows.
fn padding(batch: usize, keys: usize) -> Tensor<2, Bool> {
    let mask: Vec<bool> = (0..batch * keys).map(|i| (i % keys) >= keys - (i / keys) % keys.min(4)).collect();
    Tensor::from_data(TensorData::new(mask, [batch, keys]), &Device::flex())
}

#[test]
fn attention_with_every_mask_and_shape() {
    for (batch, queries, keys, heads, groups, dim) in [
        (1, 1, 1, 1, 1, 8),
        (2, 16, 16, 4, 4, 64),
        (3, 7, 7, 2, 1, 20),
        (2, 70, 70, 6, 2, 32),
        (20, 9, 9, 1, 1, 4),
        (1, 130, 130, 2, 2, 16),
        (2, 5, 90, 3, 3, 10),
        (1, 40, 700, 2, 1, 72),
    ] {
        let q = random([batch, queries, heads, dim]);
        let (k, v) = (random([batch, keys, groups, dim]), random([batch, keys, groups, dim]));
        let masks = [
            Mask::default(),
            Mask { padding: Some(padding(batch, keys)), ..Mask::default() },
            Mask { after: Some(0), ..Mask::default() },
            Mask { padding: Some(padding(batch, keys)), before: Some(3), after: Some(2) },
        ];
        for (i, mask) in masks.iter().enumerate() {
            check(&format!("{batch} {queries} {keys} {heads} {groups} {dim}, mask {i}"), |inputs| {
                let (q, k, v) = (inputs.leaf(&q), inputs.leaf(&k), inputs.leaf(&v));
                attention(q, k, v, AttentionOptions::new(mask))
            });
        }
    }
}

#[test]
fn attention_with_biases_caps_and_sinks() {
    let (batch, queries, keys, heads, groups) = (2, 19, 23, 4, 2);
    let q = random([batch, queries, heads, 16]);
    let (k, v, sinks) = (random([batch, keys, groups, 16]), random([batch, keys, groups, 70]), random([heads]));
    let mask = Mask { padding: Some(padding(batch, keys)), before: Some(9), after: Some(1) };
    for shape in [[1, heads, queries, keys], [batch, heads, queries, keys], [1, heads, 1, keys], [batch, 1, 1, keys]] {
        let bias = random(shape);
        check(&format!("bias {shape:?}"), |inputs| {
            let (q, k, v) = (inputs.leaf(&q), inputs.leaf(&k), inputs.leaf(&v));
            let bias = Some(inputs.leaf(&bias));
            attention(q, k, v, AttentionOptions { bias, ..AttentionOptions::new(&mask) })
        });
    }
    let bias = random([1, heads, queries, keys]);
    check("all together", |inputs| {
        let (q, k, v) = (inputs.leaf(&q), inputs.leaf(&k), inputs.leaf(&v));
        let (bias, sinks) = (Some(inputs.leaf(&bias)), Some(inputs.leaf(&sinks)));
        attention(q, k, v, AttentionOptions { mask: &mask, scale: Some(0.7), bias, softcap: Some(1.5), sinks })
    });
    let qkv = random([2, 20, 3, 4, 16]);
    check("views of one tensor", |inputs| {
        let qkv = inputs.leaf(&qkv);
        let part = |i: usize| qkv.clone().narrow(2, i, 1).squeeze_dim::<4>(2);
        let mask = Mask::causal(None, None);
        attention(part(0), part(1), part(2), AttentionOptions::new(&mask)).swap_dims(1, 2)
    });
    let hidden = Tensor::<2, Int>::ones([batch, keys], &Device::flex()).bool();
    let mask = Mask { padding: Some(hidden), ..Mask::default() };
    check("all keys hidden", |inputs| {
        let (q, k, v) = (inputs.leaf(&q), inputs.leaf(&k), inputs.leaf(&v));
        attention(q, k, v, AttentionOptions::new(&mask))
    });
}

#[test]
fn keys_of_a_cache_in_bytes_are_left_to_the_reference_body() {
    let (q, x) = (random([1, 3, 2, 8]), random([1, 3, 2, 8]));
    let kept = KvTensor::zeros([1, 3, 2, 8], KvPrecision::Int8, &Device::flex(), DType::F32).write(0, x);
    let mask = Mask::default();
    STEPS.set(0);
    let outcome = run(
        &|inputs| {
            let q = inputs.leaf(&q);
            attention(q, kept.clone(), kept.clone(), AttentionOptions::new(&mask))
        },
        1,
        GradientCheckpointingStrategy::Disabled,
    );
    // That of softmax, which the reference body is made of.
    assert_eq!(STEPS.get(), 1);
    assert!(outcome.gradients[0].is_some());
}

#[test]
fn cross_entropies() {
    for (rows, classes) in [(1, 1), (3, 2), (7, 65), (40, 1000), (2, 30_000)] {
        let logits = random([rows, classes]) * 3.0;
        let targets: Vec<i64> =
            (0..rows).map(|i| if i % 4 == 3 { IGNORED } else { (i * 7919 % classes) as i64 }).collect();
        for smoothing in [0.0, 0.1] {
            let what = format!("{rows}×{classes}, smoothing {smoothing}");
            check(&what, |inputs| cross_entropy(inputs.leaf(&logits), &targets, smoothing).0);
            check(&what, |inputs| {
                // Of logits that something else holds.
                let logits = inputs.leaf(&logits);
                cross_entropy(logits.clone(), &targets, smoothing).0 + (logits * 0.01).sum()
            });
            let plain = cross_entropy(logits.clone(), &targets, smoothing);
            let reference = with_reference(|| cross_entropy(logits.clone(), &targets, smoothing));
            near(&values(plain.0), &values(reference.0), TOLERANCE, &what);
            assert_eq!((plain.1, reference.1), (rows - rows / 4, rows - rows / 4));
        }
    }
    let logits = random([2, 3]);
    let nothing = |inputs: &mut Inputs| cross_entropy(inputs.leaf(&logits), &[IGNORED; 2], 0.1).0;
    let outcome = run(&nothing, 1, GradientCheckpointingStrategy::Disabled);
    assert_eq!((outcome.result, outcome.gradients), (vec![0.0], vec![Some(vec![0.0; 6])]));
}

#[test]
fn threads_make_no_difference() {
    let (x, w, b) = (random([2, 150, 96]), random([192, 96]), random([192]));
    let (norm, table) = (random([96]), random([50, 96]));
    let ids: Vec<i64> = (0..300).map(|i| i * 31 % 50).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &Device::flex());
    let mask = Mask { padding: Some(padding(2, 150)), ..Mask::causal(None, None) };
    let model = |inputs: &mut Inputs| {
        let x = inputs.leaf(&x) + embedding(inputs.leaf(&table), ids.clone()).reshape([2, 150, 96]);
        let x = rms_norm(x, None, inputs.leaf(&norm), 1e-6);
        let y = linear(x.clone(), inputs.leaf(&w), Some(inputs.leaf(&b)), Some(Pointwise::Gelu));
        let heads = y.narrow(2, 0, 96).reshape([2, 150, 6, 16]);
        attention(heads.clone(), heads.clone(), heads, AttentionOptions::new(&mask))
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| run(&model, 0b11111, GradientCheckpointingStrategy::Disabled))
    };
    let one = on(1);
    for threads in [2, 3, 5] {
        let (first, second) = (on(threads), on(threads));
        assert_eq!(first, second, "{threads} threads, twice");
        for (i, (x, y)) in first.gradients.iter().zip(&one.gradients).enumerate() {
            near(x.as_ref().unwrap(), y.as_ref().unwrap(), 1e-6, &format!("{threads} threads: input {i}"));
        }
    }
}

#[test]
fn what_nothing_tracks_is_left_alone() {
    let (x, w) = (random([5, 32]), random([7, 32]));
    STEPS.set(0);
    // Frozen, in whatever graph.
    assert!(!linear(x.clone(), w.clone(), None, None).is_autodiff());
    assert_eq!(STEPS.get(), 0);
    // Of a graph, but not tracked.
    let y = linear(x.clone().autodiff(), w.clone(), None, Some(Pointwise::Gelu));
    assert!(y.is_autodiff() && !y.is_tracked());
    near(
        &values(y.without_autodiff()),
        &values(linear(x, w, None, Some(Pointwise::Gelu))),
        1e-6,
        "values without a graph",
    );
}

#[test]
fn a_step_holds_its_input_until_it_has_run() {
    let (x, w) = (random([64, 32]), random([16, 32]));
    let leaf = w.autodiff().require_grad();
    let y = linear(x.clone(), leaf.clone(), None, None);
    assert!(!x.can_mut());
    let mut gradients = y.sum().backward();
    assert!(x.can_mut());
    assert!(leaf.grad_remove(&mut gradients).is_some());
    // Of a frozen weight, the gradient of the input needs no input.
    let x = x.autodiff().require_grad();
    let values = x.clone().without_autodiff();
    let y = linear(x, leaf.without_autodiff(), None, None);
    assert!(values.can_mut());
    drop(y);
}
