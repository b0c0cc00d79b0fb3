//! Every operation on its fast body against its reference body, over odd sizes, strides and dtypes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use tx_kernels::{
    AttentionOptions, Epilogue, KvPrecision, KvTensor, Mask, Pairs, Pointwise, RowCopy, attention, attention_weights,
    conv2d, dequantize, embedding, gated, group_norm, layer_norm, linear, linear_transposed, linears, max_pool2d,
    quantize_int4, quantize_int8, rms_norm, rotary, softmax, swiglu, with_reference, write_rows,
};

use support::{near, random};

#[track_caller]
fn close<const D: usize>(x: Tensor<D>, y: Tensor<D>, tolerance: f64, what: &str) {
    assert_eq!(x.dims(), y.dims(), "{what}");
    let values = |x: Tensor<D>| x.into_data().try_to_vec::<f32>().unwrap();
    near(&values(x), &values(y), tolerance, what);
}

/// The same computation on both bodies.
#[track_caller]
fn agree<const D: usize>(f: impl Fn() -> Tensor<D>, tolerance: f64, what: &str) {
    close(f(), with_reference(&f), tolerance, what);
}

/// Rows that a product with weights of this dtype takes as they are: some processors round them to bf16 where the weights
/// are.
fn as_multiplied(x: &Tensor<2>, weights: DType) -> Tensor<2> {
    if weights == DType::BF16 { x.clone().cast(DType::BF16).cast(DType::F32) } else { x.clone() }
}

#[test]
fn rows_of_bf16_weights_are_rounded_to_bf16_at_most() {
    for rows in [1, 7, 100] {
        let (x, w) = (random([rows, 64]), random([48, 64]).cast(DType::BF16));
        agree(|| linear(x.clone(), w.clone(), None, None), 4e-3, "rounded");
    }
}

#[test]
fn linear_takes_every_size_and_dtype() {
    for rows in [1, 2, 3, 4, 5, 13, 16, 17, 18, 31, 33, 40, 48, 50, 64, 65, 130, 200] {
        for (steps, columns) in [(1, 1), (7, 5), (64, 48), (70, 49), (96, 131), (513, 100), (1100, 9)] {
            let (x, w, b) = (random([rows, steps]), random([columns, steps]), random([columns]));
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let (x, w) = (as_multiplied(&x, dtype), w.clone().cast(dtype));
                let what = format!("{rows}×{steps}×{columns} {dtype:?}");
                agree(|| linear(x.clone(), w.clone(), Some(b.clone()), None), 2e-6, &what);
                let turned = w.transpose().reshape([steps, columns]);
                let turned = || linear_transposed(x.clone(), turned.clone(), Some(b.clone()), None);
                agree(turned, 2e-6, &what);
            }
        }
    }
}

#[test]
fn linear_takes_many_rows() {
    for (rows, steps, columns) in [(600, 100, 70), (1030, 33, 129), (530, 1700, 40), (777, 16, 16)] {
        let (x, w, b) = (random([rows, steps]), random([columns, steps]), random([columns]));
        for dtype in [DType::F32, DType::BF16] {
            let (x, w) = (as_multiplied(&x, dtype), w.clone().cast(dtype));
            let y = || linear(x.clone(), w.clone(), Some(b.clone()), Some(Pointwise::Relu));
            agree(y, 2e-6, &format!("{rows}×{steps}×{columns} {dtype:?}"));
        }
    }
}

#[test]
fn convolutions_take_every_shape() {
    // Input, output channels and groups; height and width; kernel; stride; padding; dilation.
    let cases = [
        ((3, 5, 1), [9, 11], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ((3, 64, 1), [37, 23], [7, 7], [2, 2], [(3, 3), (3, 3)], [1, 1]),
        ((64, 100, 1), [8, 9], [1, 1], [1, 1], [(0, 0), (0, 0)], [1, 1]),
        ((64, 40, 1), [8, 9], [1, 1], [2, 2], [(0, 0), (0, 0)], [1, 1]),
        ((6, 4, 2), [10, 7], [2, 3], [1, 2], [(0, 1), (2, 0)], [2, 1]),
        ((8, 8, 8), [12, 13], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ((8, 8, 8), [12, 13], [3, 3], [2, 2], [(0, 1), (0, 1)], [1, 1]),
        ((8, 8, 8), [12, 5], [7, 7], [1, 1], [(3, 3), (3, 3)], [1, 1]),
        ((1, 7, 1), [1, 400], [1, 10], [1, 5], [(0, 0), (0, 0)], [1, 1]),
        ((32, 200, 1), [1, 77], [1, 80], [1, 1], [(0, 0), (40, 39)], [1, 1]),
        ((4, 4, 1), [5, 5], [3, 3], [1, 1], [(4, 4), (4, 4)], [4, 4]),
        // One pixel more than whole vectors, in some panels and in all.
        ((5, 40, 1), [7, 7], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ((300, 13, 1), [7, 7], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
        ((6, 200, 2), [28, 28], [1, 1], [2, 2], [(0, 0), (0, 0)], [1, 1]),
        ((32, 9, 1), [10, 13], [3, 3], [1, 1], [(1, 1), (1, 1)], [1, 1]),
    ];
    for ((input, output, groups), [height, width], [kh, kw], stride, padding, dilation) in cases {
        let options = ConvOptions::new_with_padding(stride, padding, dilation, groups);
        let (x, w) = (random([2, input, height, width]), random([output, input / groups, kh, kw]));
        let what = format!("{input} to {output} by {kh}×{kw}");
        let plain = || conv2d(x.clone(), w.clone(), &options, Epilogue::default());
        agree(plain, 2e-6, &what);
        let (scale, shift, residual) = (random([output]), random([output]), random(plain().dims()));
        for act in [None, Some(Pointwise::Gelu), Some(Pointwise::Relu)] {
            let all = || {
                let (scale, shift, residual) = (Some(scale.clone()), Some(shift.clone()), Some(residual.clone()));
                conv2d(x.clone(), w.clone(), &options, Epilogue { scale, shift, residual, act })
            };
            agree(all, 2e-6, &what);
        }
    }
}

#[test]
fn pooling_takes_every_kernel() {
    for (size, kernel, stride, padding, dilation) in [
        ([112, 112], [3, 3], [2, 2], [(1, 1), (1, 1)], [1, 1]),
        ([7, 9], [2, 2], [2, 2], [(0, 0), (0, 0)], [1, 1]),
        ([10, 33], [3, 2], [1, 3], [(1, 0), (0, 1)], [2, 1]),
        ([5, 5], [5, 5], [1, 1], [(2, 2), (2, 2)], [1, 1]),
    ] {
        let [height, width] = size;
        let options = MaxPoolOptions { kernel_size: kernel, stride, padding, dilation, ceil_mode: false };
        let x = random([2, 3, height, width]);
        agree(|| max_pool2d(x.clone(), options.clone()), 0.0, &format!("{kernel:?} over {size:?}"));
    }
    let y = max_pool2d(
        Tensor::full([1, 1, 2, 4], f32::NAN, &Device::flex()),
        MaxPoolOptions::new([2, 2]).with_stride([2, 2]),
    );
    assert!(y.into_data().iter::<f32>().all(f32::is_nan));
}

#[test]
fn group_norms_take_every_shape() {
    for (batch, channels, groups, places) in [(2, 8, 2, [5, 7]), (1, 6, 6, [1, 400]), (3, 4, 1, [3, 1])] {
        let x = random([batch, channels, places[0], places[1]]) + 3.0;
        let (w, b) = (random([channels]), random([channels]));
        let norm = || group_norm(x.clone(), groups, w.clone(), b.clone(), 1e-5);
        agree(norm, 3e-6, &format!("{groups} groups of {channels} channels"));
    }
}

#[test]
fn linear_applies_activations_and_takes_views() {
    let (x, w, b) = (random([3, 40, 64]), random([80, 64]), random([80]));
    for act in [Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Silu, Pointwise::Relu] {
        agree(|| linear(x.clone(), w.clone(), Some(b.clone()), Some(act)), 2e-6, &format!("{act:?}"));
        agree(|| act.forward(x.clone()), 2e-6, &format!("{act:?} alone"));
        agree(|| act.forward(x.clone().swap_dims(0, 2)), 2e-6, &format!("{act:?} of a view"));
    }
    let view = || x.clone().swap_dims(0, 1).narrow(0, 3, 20);
    agree(|| linear(view(), w.clone(), None, None), 2e-6, "a view of the input");
    let wide = random([64, 80]);
    agree(|| linear(x.clone(), wide.clone().transpose(), None, None), 2e-6, "a transposed weight");
    let other = random([17, 64]);
    let both = || linears(x.clone(), [(w.clone(), Some(b.clone())), (other.clone(), None)], None);
    agree(|| both()[0].clone(), 2e-6, "the first of two");
    agree(|| both()[1].clone(), 2e-6, "the second of two");
}

#[test]
fn quantized_products_are_those_of_the_dequantized_weight() {
    type Quantize = fn(Tensor<2>) -> Tensor<2>;
    for (quantize, step) in [(quantize_int8 as Quantize, 2.0 / 254.0), (quantize_int4 as Quantize, 2.0 / 14.0)] {
        for (steps, columns) in [(64, 48), (32, 65), (96, 16), (128, 50), (192, 7), (384, 100), (320, 33), (1536, 20)] {
            let w = random([columns, steps]);
            let quantized = quantize(w.clone());
            assert!(matches!(quantized.dtype(), DType::QFloat(_)));
            // No weight is further away than half a step of a block that holds the largest of all.
            let largest = w.clone().abs().max().into_scalar::<f32>();
            let error = (dequantize(quantized.clone()) - w.clone()).abs().max().into_scalar::<f32>();
            assert!(error <= 0.5 * step * largest * 1.001, "{steps}×{columns}: {error}");
            for rows in [1, 3, 5, 16, 20, 40, 64, 129] {
                let x = random([rows, steps]) + 0.3;
                let exact = linear(x.clone(), dequantize(quantized.clone()), None, Some(Pointwise::Gelu));
                let fast = linear(x.clone(), quantized.clone(), None, Some(Pointwise::Gelu));
                close(fast, exact, 3e-2, &format!("{rows}×{steps}×{columns}"));
                let reference = || linear(x.clone(), quantized.clone(), None, None);
                close(reference(), with_reference(reference), 3e-2, "the reference dequantizes");
                let other = linear_transposed(x.clone(), quantized.clone(), None, None);
                close(other, reference(), 0.0, "quantized weights lie one way only");
            }
        }
    }
    // Rows that are not whole blocks are left alone.
    assert_eq!(quantize_int8(random([4, 40])).dtype(), DType::F32);
    assert_eq!(quantize_int4(random([4, 40])).dtype(), DType::F32);
}

#[test]
fn quantized_rows_keep_their_own_scale() {
    let w = quantize_int8(random([64, 256]));
    let x = random([24, 256]);
    let scales =
        Tensor::<1>::from_floats(std::array::from_fn::<f32, 24, _>(|i| 10f32.powi(i as i32 % 7 - 3)), &Device::flex());
    let scaled = linear(x.clone() * scales.clone().unsqueeze_dim(1), w.clone(), None, None);
    close(scaled, linear(x, w.clone(), None, None) * scales.unsqueeze_dim(1), 1e-5, "scaled rows");
    let zeros = linear(Tensor::<2>::zeros([9, 256], &Device::flex()), w, None, None);
    assert_eq!(zeros.abs().max().into_scalar::<f32>(), 0.0);
}

#[test]
fn attention_takes_every_mask_and_shape() {
    let padding = |batch: usize, keys: usize| {
        let mask: Vec<bool> = (0..batch * keys).map(|i| (i % keys) >= keys - (i / keys) % keys.min(4)).collect();
        Tensor::<2, Bool>::from_data(TensorData::new(mask, [batch, keys]), &Device::flex())
    };
    for (batch, queries, keys, heads, groups, dim) in [
        (1, 1, 1, 1, 1, 8),
        (2, 16, 16, 4, 4, 64),
        (3, 7, 7, 2, 1, 20),
        (2, 70, 70, 6, 2, 32),
        (1, 1, 33, 8, 2, 64),
        (1, 130, 130, 2, 2, 16),
        (2, 5, 90, 3, 3, 10),
        (1, 40, 1100, 2, 1, 24),
        // Few queries that share a head of keys.
        (2, 1, 90, 6, 2, 32),
        (1, 1, 1100, 7, 1, 64),
        (2, 3, 70, 4, 2, 80),
        (1, 2, 5, 2, 2, 16),
    ] {
        let (q, k, v) = (
            random([batch, queries, heads, dim]),
            random([batch, keys, groups, dim]),
            random([batch, keys, groups, dim]),
        );
        let masks = [
            Mask::default(),
            Mask { padding: Some(padding(batch, keys)), ..Mask::default() },
            Mask { after: Some(0), ..Mask::default() },
            Mask { padding: None, before: Some(3), after: Some(2) },
            Mask { padding: Some(padding(batch, keys)), before: Some(600), after: Some(0) },
        ];
        for (i, mask) in masks.iter().enumerate() {
            for bias in [None, Some(random([1, heads, queries, keys])), Some(random([batch, heads, queries, keys]))] {
                let options = || AttentionOptions { bias: bias.clone(), ..AttentionOptions::new(mask) };
                let what = format!("{batch} {queries} {keys} {heads} {groups} {dim} mask {i}, bias {}", bias.is_some());
                agree(|| attention(q.clone(), k.clone(), v.clone(), options()), 3e-6, &what);
            }
        }
    }
    // Views as a fused projection gives them, and a value of another width.
    let qkv = random([2, 20, 3, 4, 16]);
    let part = |i: usize| qkv.clone().narrow(2, i, 1).squeeze_dim::<4>(2);
    let mask = Mask::default();
    agree(|| attention(part(0), part(1), part(2), AttentionOptions::new(&mask)), 3e-6, "views");
    let (q, wide, sinks) = (random([2, 20, 4, 16]), random([2, 20, 4, 40]), random([4]));
    let options = || AttentionOptions { scale: Some(0.7), ..AttentionOptions::new(&mask) };
    agree(|| attention(q.clone(), q.clone(), wide.clone(), options()), 3e-6, "wide values");
    agree(|| attention_weights(q.clone(), q.clone(), wide.clone(), options()).1, 3e-6, "weights");
    let capped = || AttentionOptions { softcap: Some(1.5), sinks: Some(sinks.clone()), ..options() };
    agree(|| attention(q.clone(), q.clone(), wide.clone(), capped()), 3e-6, "soft cap and sinks");
    let (last, wide) = (q.clone().narrow(1, 18, 2), random([2, 20, 4, 48]));
    agree(|| attention(last.clone(), q.clone(), wide.clone(), capped()), 3e-6, "soft cap and sinks of few queries");
    // Padding of keys that left a window.
    let padding = Tensor::<2, Int>::from_ints([[1; 25], [0; 25]], &Device::flex()).equal_elem(0);
    let mask = Mask { padding: Some(padding), before: None, after: Some(0) };
    agree(|| attention(q.clone(), q.clone(), q.clone(), AttentionOptions::new(&mask)), 3e-6, "more padding than keys");
}

#[test]
fn a_query_that_may_see_nothing_sees_everything_alike() {
    let (q, v) = (random([1, 6, 2, 8]), random([1, 6, 2, 8]));
    let padding = Tensor::<2, Int>::ones([1, 6], &Device::flex()).bool();
    let mask = Mask { padding: Some(padding), ..Mask::default() };
    agree(|| attention(q.clone(), q.clone(), v.clone(), AttentionOptions::new(&mask)), 3e-6, "all padding");
}

#[test]
fn row_kernels_take_every_length() {
    for (rows, hidden) in [(1, 1), (3, 7), (5, 64), (40, 65), (7, 768), (2, 5000)] {
        let (x, y, w, b) = (random([rows, hidden]), random([rows, hidden]), random([hidden]), random([hidden]));
        let what = format!("{rows}×{hidden}");
        for residual in [None, Some(y.clone())] {
            let r = || residual.clone();
            agree(|| rms_norm(x.clone(), r(), w.clone(), 1e-6), 2e-6, &what);
            if hidden > 1 {
                agree(|| layer_norm(x.clone(), r(), w.clone(), Some(b.clone()), 1e-12), 4e-6, &what);
                agree(|| layer_norm(x.clone(), r(), w.clone(), None, 1e-5), 4e-6, &what);
            }
        }
        agree(|| softmax(x.clone() * 10.0), 2e-6, &what);
        agree(|| swiglu(x.clone(), y.clone()), 2e-6, &what);
        for act in [Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Silu, Pointwise::Relu] {
            let what = format!("{what} gated by {act:?}");
            agree(|| gated(act, x.clone(), y.clone()), 2e-6, &what);
            close(gated(act, x.clone(), y.clone()), act.forward(x.clone()) * y.clone(), 2e-6, &what);
        }
    }
}

#[test]
fn rotary_takes_parts_pairs_and_views() {
    let x = random([2, 5, 9, 12]);
    for view in [x.clone(), x.narrow(2, 3, 3)] {
        for (batch, rotated) in [(1, 12), (2, 12), (1, 6), (2, 2)] {
            for pairs in [Pairs::Halves, Pairs::Neighbours] {
                let (cos, sin) = (random([batch, 5, 1, rotated]), random([batch, 5, 1, rotated]));
                agree(|| rotary(view.clone(), cos.clone(), sin.clone(), pairs), 2e-6, "rotary");
            }
        }
    }
}

#[test]
fn rows_are_written_into_a_buffer() {
    let (buffer, x) = (random([2, 7, 3, 5]), random([2, 2, 6, 5]).narrow(2, 1, 3));
    for at in [0, 3, 5] {
        // Held by others, and by nobody else.
        agree(|| write_rows(buffer.clone(), at, x.clone()), 0.0, "write_rows");
        agree(|| write_rows(buffer.clone() * 1.0, at, x.clone()), 0.0, "write_rows");
    }
    let kept = buffer.clone().into_data();
    let _ = write_rows(buffer.clone(), 0, x);
    assert_eq!(buffer.into_data(), kept);
}

/// A buffer of a cache that holds `x` from token `at` on.
fn kept(precision: KvPrecision, tokens: usize, at: usize, x: &Tensor<4>) -> KvTensor {
    let [batch, _, groups, dim] = x.dims();
    KvTensor::zeros([batch, tokens, groups, dim], precision, &Device::flex(), DType::F32).write(at, x.clone())
}

#[test]
fn bytes_are_as_close_as_their_scales_allow() {
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 9, 2, 64], [1, 40, 1, 33]] {
        // Heads of very different size, one of them of nothing but zeros.
        let sizes = (random([shape[0], shape[1], shape[2], 1]) * 3.0).exp();
        let x = (random(shape) * sizes)
            .slice_assign([0..1, 0..1, 0..1, 0..shape[3]], Tensor::zeros([1, 1, 1, shape[3]], &Device::flex()));
        let step = x.clone().abs().max_dim(3) / 127.0;
        let fast = || kept(KvPrecision::Int8, shape[1] + 2, 1, &x).narrow(1, shape[1]).float();
        let error = (fast() - x.clone()).abs() - step.clone() * 0.5001;
        assert!(error.max().into_scalar::<f32>() <= 0.0, "{shape:?}");
        // Halves may be rounded either way.
        let between = (fast() - with_reference(fast)).abs() - step * 1.0001;
        assert!(between.max().into_scalar::<f32>() <= 0.0, "{shape:?}");
    }
}

#[test]
fn attention_reads_bytes() {
    for (batch, queries, keys, heads, groups, dim, value_dim) in [
        (1, 1, 1, 1, 1, 8, 8),
        (2, 1, 300, 8, 2, 64, 64),
        (3, 7, 7, 2, 1, 20, 33),
        (2, 70, 131, 6, 3, 32, 32),
        (1, 5, 1100, 2, 1, 24, 7),
        (1, 3, 40, 4, 4, 256, 128),
        (1, 2, 19, 1, 1, 5000, 3),
    ] {
        let q = random([batch, queries, heads, dim]);
        // Means of values around one do not cancel out: errors count against what was rounded.
        let (k, v) = (random([batch, keys, groups, dim]), random([batch, keys, groups, value_dim]) + 1.0);
        let held = |x: &Tensor<4>| kept(KvPrecision::Int8, keys + 5, 3, x).narrow(3, keys);
        let (k8, v8) = (held(&k), held(&v));
        let masks = [
            Mask { after: Some(0), ..Mask::default() },
            Mask { padding: None, before: Some(20), after: Some(0) },
            Mask::default(),
        ];
        for (i, mask) in masks.iter().enumerate() {
            // Long sums round more.
            let tolerance = 3e-6 * (dim as f64 / 256.0).max(1.0);
            let what = format!("{batch} {queries} {keys} {heads} {groups} {dim} {value_dim} mask {i}");
            let options = || AttentionOptions::new(mask);
            agree(|| attention(q.clone(), k8.clone(), v8.clone(), options()), tolerance, &what);
            let exact = attention(q.clone(), k8.clone().float(), v8.clone().float(), options());
            close(attention(q.clone(), k8.clone(), v8.clone(), options()), exact, tolerance, &what);
            // One of them may be floats.
            agree(|| attention(q.clone(), k8.clone(), v.clone(), options()), tolerance, &what);
            agree(|| attention_weights(q.clone(), k.clone(), v8.clone(), options()).0, tolerance, &what);
            let floats = attention(q.clone(), k.clone(), v.clone(), options());
            close(attention(q.clone(), k8.clone(), v8.clone(), options()), floats, 3e-2, &what);
        }
    }
}

#[test]
fn rows_of_buffers_are_copied_moved_and_selected() {
    let x = random([3, 7, 2, 5]);
    let copies = [RowCopy { from: 0, to: 2, tokens: 2..5 }, RowCopy { from: 1, to: 2, tokens: 6..7 }];
    for precision in [KvPrecision::Float, KvPrecision::Int8] {
        let whole = kept(precision, 7, 0, &x);
        let buffer = || whole.clone().moved(0, 7, 7);
        let alone = || buffer().copy_rows(&copies).float();
        agree(alone, 0.0, "nothing else holds it");
        let shared = buffer();
        close(shared.clone().copy_rows(&copies).float(), alone(), 0.0, "something else holds it");
        close(shared.clone().float(), buffer().float(), 0.0, "which is not changed");
        let row = |x: Tensor<4>, row: usize, tokens: std::ops::Range<usize>| {
            x.narrow(0, row, 1).narrow(1, tokens.start, tokens.len())
        };
        for (from, tokens) in [(2, 0..2), (0, 2..5), (2, 5..6), (1, 6..7)] {
            let expected = row(buffer().float(), from, tokens.clone());
            close(row(alone(), 2, tokens), expected, 0.0, "the tokens of the right rows");
        }
        let rows = || Tensor::<1, Int>::from_ints([2, 2, 0, 1], &Device::flex());
        close(buffer().select(rows()).float(), buffer().float().select(0, rows()), 0.0, "selected");
        let moved = buffer().moved(2, 4, 9);
        assert_eq!(moved.dims(), [3, 9, 2, 5]);
        close(moved.narrow(0, 4).float(), buffer().narrow(2, 4).float(), 0.0, "moved");
    }
}

#[test]
fn embedding_widens_rows() {
    let ids = Tensor::<1, Int>::from_ints([3, 0, 9, 3], &Device::flex());
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let table = random([10, 33]).cast(dtype);
        agree(|| embedding(table.clone(), ids.clone()), 0.0, &format!("{dtype:?}"));
    }
}

#[test]
fn an_input_that_is_held_elsewhere_is_not_changed() {
    let x = random([4, 100]);
    let before = x.clone().into_data();
    let _ = Pointwise::Gelu.forward(x.clone());
    let _ = softmax(x.clone().narrow(0, 1, 2));
    assert_eq!(x.into_data(), before);
}

#[test]
fn shapes_that_do_not_fit_panic_and_read_nothing() {
    let mask = Mask::default();
    let x = || random([2, 6, 4, 8]);
    let attend = |k: Tensor<4>, v: Tensor<4>| attention(x(), k, v, AttentionOptions::new(&mask));
    let wrong: [Box<dyn Fn() + std::panic::UnwindSafe + std::panic::RefUnwindSafe>; 6] = [
        Box::new(|| drop(linear(random([3, 8]), random([5, 9]), None, None))),
        Box::new(|| drop(linear(random([3, 8]), random([5, 8]), Some(random([6])), None))),
        Box::new(|| drop(swiglu(random([3, 8]), random([3, 9])))),
        Box::new(|| drop(gated(Pointwise::Gelu, random([3, 8]), random([4, 8])))),
        Box::new(|| drop(layer_norm(random([3, 8]), None, random([9]), None, 1e-5))),
        Box::new(|| drop(rms_norm(random([3, 8]), None, random([9]), 1e-5))),
    ];
    for (i, wrong) in wrong.iter().enumerate() {
        assert!(std::panic::catch_unwind(wrong).is_err(), "{i}");
    }
    for (k, v) in
        [(random([2, 6, 4, 9]), x()), (x(), random([2, 5, 4, 8])), (random([2, 6, 3, 8]), random([2, 6, 3, 8]))]
    {
        let attend = std::panic::AssertUnwindSafe(|| attend(k.clone(), v.clone()));
        assert!(std::panic::catch_unwind(attend).is_err());
    }
}
