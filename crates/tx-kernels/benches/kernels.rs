//! Every kernel of the CPU alone: `cargo bench --workspace --bench kernels [FILTER]`.
//!
//! The rates are operations or bytes per second. `gemv` reads weights that exceed the caches, so its rate is to be
//! compared with that of `stream`, and `linear` with `peak`. `TX_NUM_THREADS` is heeded as by `tx`.

use std::hint::black_box;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Distribution, Int, Tensor};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tx_kernels::{AttentionOptions, Epilogue, KvPrecision, KvTensor, Mask, Pairs, Pointwise};

fn main() {
    tx_kernels::keep_freed_memory();
    if let Some(threads) = std::env::var("TX_NUM_THREADS").ok().and_then(|threads| threads.parse().ok()) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        assert!(pool.is_ok(), "the pool was started before");
    }
    // On a thread of the pool, as `tx` computes.
    rayon::scope(|_| divan::main());
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

/// How the weights of a product are stored.
#[derive(Debug, Clone, Copy)]
enum Stored {
    F32,
    Bf16,
    F16,
    Int8,
    Int4,
}

const STORED: [Stored; 5] = [Stored::F32, Stored::Bf16, Stored::F16, Stored::Int8, Stored::Int4];

impl Stored {
    fn store(self, weight: Tensor<2>) -> Tensor<2> {
        match self {
            Self::F32 => weight,
            Self::Bf16 => weight.cast(DType::BF16),
            Self::F16 => weight.cast(DType::F16),
            Self::Int8 => tx_kernels::quantize_int8(weight),
            Self::Int4 => tx_kernels::quantize_int4(weight),
        }
    }

    /// Bytes of a weight whose rows are multiples of 512, scales included.
    fn bytes(self, elements: usize) -> usize {
        match self {
            Self::F32 => 4 * elements,
            Self::Bf16 | Self::F16 => 2 * elements,
            Self::Int8 => elements + elements / 512 * 4,
            Self::Int4 => elements / 2 + elements / 32 * 4,
        }
    }
}

/// More than the last-level caches of servers hold.
const BEYOND_CACHES: usize = 1 << 29;

#[divan::bench]
fn stream(bencher: Bencher) {
    let array = vec![1f32; BEYOND_CACHES / 4];
    bencher.counter(BytesCount::of_slice(&array)).bench_local(|| tx_kernels::ceilings::sum(black_box(&array)));
}

#[divan::bench(args = STORED, sample_count = 40)]
fn gemv(bencher: Bencher, stored: Stored) {
    const SIDE: usize = 4096;
    let bytes = stored.bytes(SIDE * SIDE);
    let weight = random([SIDE, SIDE]);
    let weights: Vec<_> = (0..BEYOND_CACHES.div_ceil(bytes)).map(|_| stored.store(weight.clone() * 1.0)).collect();
    let x = random([1, SIDE]);
    bencher.counter(BytesCount::new(bytes * weights.len())).bench_local(|| {
        for weight in &weights {
            black_box(tx_kernels::linear(x.clone(), weight.clone(), None, None));
        }
    });
}

#[divan::bench]
fn peak(bencher: Bencher) {
    let threads = rayon::current_num_threads();
    let operations = tx_kernels::ceilings::operations(threads);
    bencher.counter(ItemsCount::new(operations)).bench_local(|| tx_kernels::ceilings::fused_multiply_adds(threads));
}

#[divan::bench(args = [1, 4, 16, 64, 128, 512, 1024], consts = [768, 3072])]
fn linear<const COLUMNS: usize>(bencher: Bencher, rows: usize) {
    product(bencher, rows, 768, COLUMNS, Stored::F32);
}

#[divan::bench(args = [16, 128, 1024], consts = [768])]
fn linear_deep<const COLUMNS: usize>(bencher: Bencher, rows: usize) {
    product(bencher, rows, 3072, COLUMNS, Stored::F32);
}

#[divan::bench(args = STORED)]
fn linear_stored(bencher: Bencher, stored: Stored) {
    product(bencher, 256, 768, 3072, stored);
}

/// The products of a layer of BERT-base in 8 bits: `(rows, steps, columns)`.
#[divan::bench(args = [(16, 768, 768), (16, 768, 3072), (16, 3072, 768), (1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768)])]
fn linear_int8(bencher: Bencher, (rows, steps, columns): (usize, usize, usize)) {
    product(bencher, rows, steps, columns, Stored::Int8);
}

fn product(bencher: Bencher, rows: usize, steps: usize, columns: usize, stored: Stored) {
    let (x, w, b) = (random([rows, steps]), stored.store(random([columns, steps])), random([columns]));
    bencher
        .counter(ItemsCount::new(2 * rows * steps * columns))
        .bench_local(|| tx_kernels::linear(x.clone(), w.clone(), Some(b.clone()), Some(Pointwise::Gelu)));
}

/// A leaf of autodiff's graph.
fn tracked<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    random(shape).autodiff().require_grad()
}

/// The gradients of input, weight and bias of the products of BERT-base in training: `(rows, steps, columns)`.
#[divan::bench(args = [(1024, 768, 768), (1024, 768, 3072), (1024, 3072, 768)])]
fn linear_backward(bencher: Bencher, (rows, steps, columns): (usize, usize, usize)) {
    let (x, w, b) = (tracked([rows, steps]), tracked([columns, steps]), tracked([columns]));
    bencher
        .counter(ItemsCount::new(4 * rows * steps * columns))
        .with_inputs(|| tx_kernels::linear(x.clone(), w.clone(), Some(b.clone()), None).sum())
        .bench_local_values(|loss| loss.backward());
}

/// Products of MiniLM: `(rows, steps, columns)`.
#[divan::bench(args = [(256, 384, 384), (1024, 384, 384), (1024, 384, 1536), (1024, 1536, 384)])]
fn linear_minilm(bencher: Bencher, (rows, steps, columns): (usize, usize, usize)) {
    product(bencher, rows, steps, columns, Stored::F32);
}

/// Convolutions of ResNet-50, of ConvNeXT and of wav2vec2: `(input channels, output channels, groups, height, width, kernel
/// height, kernel width, stride)`.
#[divan::bench(args = [
    (3, 64, 1, 224, 224, 7, 7, 2),
    (64, 64, 1, 56, 56, 3, 3, 1),
    (256, 64, 1, 56, 56, 1, 1, 1),
    (128, 128, 1, 28, 28, 3, 3, 1),
    (256, 256, 1, 14, 14, 3, 3, 1),
    (1024, 256, 1, 14, 14, 1, 1, 1),
    (512, 512, 1, 7, 7, 3, 3, 1),
    (512, 2048, 1, 7, 7, 1, 1, 1),
    (96, 96, 96, 56, 56, 7, 7, 1),
    (1, 512, 1, 1, 16000, 1, 10, 5),
    (512, 512, 1, 1, 3199, 1, 3, 2),
    (768, 768, 16, 1, 499, 1, 128, 1),
])]
fn conv2d(
    bencher: Bencher,
    (input, output, groups, height, width, kh, kw, stride): (usize, usize, usize, usize, usize, usize, usize, usize),
) {
    let (x, w, b) = (random([1, input, height, width]), random([output, input / groups, kh, kw]), random([output]));
    let strides = if height == 1 { [1, stride] } else { [stride, stride] };
    let padding = if height == 1 && groups == 1 { [0, 0] } else { [kh / 2, kw / 2] };
    let options = ConvOptions::new(strides, padding, [1, 1], groups);
    let epilogue = || Epilogue { shift: Some(b.clone()), act: Some(Pointwise::Relu), ..Epilogue::default() };
    let run = || tx_kernels::conv2d(x.clone(), w.clone(), &options, epilogue());
    let [_, _, rows, columns] = run().dims();
    let operations = 2 * rows * columns * output * input / groups * kh * kw;
    bencher.counter(ItemsCount::new(operations)).bench_local(run);
}

#[divan::bench(args = [(1, 16), (1, 128), (8, 128), (1, 512), (1, 2048)])]
fn attention(bencher: Bencher, (batch, seq): (usize, usize)) {
    let heads = || random([batch, seq, 12, 64]);
    let (q, k, v, mask) = (heads(), heads(), heads(), Mask::default());
    bencher
        .counter(ItemsCount::new(4 * batch * seq * seq * 12 * 64))
        .bench_local(|| tx_kernels::attention(q.clone(), k.clone(), v.clone(), AttentionOptions::new(&mask)));
}

/// The gradients of queries, keys and values; the weights are computed again.
#[divan::bench(args = [(8, 128), (1, 512), (1, 2048)])]
fn attention_backward(bencher: Bencher, (batch, seq): (usize, usize)) {
    let heads = || tracked([batch, seq, 12, 64]);
    let (q, k, v, mask) = (heads(), heads(), heads(), Mask::default());
    bencher
        .counter(ItemsCount::new(10 * batch * seq * seq * 12 * 64))
        .with_inputs(|| tx_kernels::attention(q.clone(), k.clone(), v.clone(), AttentionOptions::new(&mask)).sum())
        .bench_local_values(|loss| loss.backward());
}

/// One new token of a LLaMA of 1 billion parameters after others, whose keys and values are floats or bytes.
#[divan::bench(args = [(KvPrecision::Float, 512), (KvPrecision::Int8, 512), (KvPrecision::Float, 4096), (KvPrecision::Int8, 4096)])]
fn attention_cached(bencher: Bencher, (precision, keys): (KvPrecision, usize)) {
    let kept = || {
        let empty = KvTensor::zeros([1, keys, 8, 64], precision, &Device::flex(), DType::F32);
        empty.write(0, random([1, keys, 8, 64]))
    };
    let (q, k, v, mask) = (random([1, 1, 32, 64]), kept(), kept(), Mask::causal(None, None));
    bencher
        .counter(ItemsCount::new(4 * keys * 32 * 64))
        .bench_local(|| tx_kernels::attention(q.clone(), k.clone(), v.clone(), AttentionOptions::new(&mask)));
}

/// The gradient of the logits of a batch of BERT's vocabulary.
#[divan::bench]
fn cross_entropy_backward(bencher: Bencher) {
    let logits = random([256, 30522]);
    let targets: Vec<i64> = (0..256).map(|i| i * 7919 % 30522).collect();
    bencher
        .counter(BytesCount::new(2 * 4 * 256 * 30522usize))
        .with_inputs(|| tx_kernels::cross_entropy((logits.clone() + 0.0).autodiff().require_grad(), &targets, 0.0).0)
        .bench_local_values(|loss| loss.backward());
}

/// A tensor as large as the intermediate one of BERT-base at 512 tokens.
fn large() -> (Tensor<2>, BytesCount) {
    (random([512, 3072]), BytesCount::new(2 * 4 * 512 * 3072usize))
}

#[divan::bench(args = [Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Silu, Pointwise::Relu])]
fn pointwise(bencher: Bencher, act: Pointwise) {
    let (x, bytes) = large();
    bencher.counter(bytes).bench_local(|| act.forward(x.clone()));
}

#[divan::bench(args = [Pointwise::Gelu, Pointwise::GeluTanh, Pointwise::Silu, Pointwise::Relu])]
fn gated(bencher: Bencher, act: Pointwise) {
    let ((x, bytes), (y, _)) = (large(), large());
    bencher.counter(bytes).bench_local(|| tx_kernels::gated(act, x.clone(), y.clone()));
}

#[divan::bench]
fn softmax(bencher: Bencher) {
    let (x, bytes) = large();
    bencher.counter(bytes).bench_local(|| tx_kernels::softmax(x.clone()));
}

#[divan::bench]
fn layer_norm(bencher: Bencher) {
    let ((x, bytes), (y, _)) = (large(), large());
    let (w, b) = (random([3072]), random([3072]));
    bencher
        .counter(bytes)
        .bench_local(|| tx_kernels::layer_norm(x.clone(), Some(y.clone()), w.clone(), Some(b.clone()), 1e-12));
}

#[divan::bench]
fn rms_norm(bencher: Bencher) {
    let ((x, bytes), w) = (large(), random([3072]));
    bencher.counter(bytes).bench_local(|| tx_kernels::rms_norm(x.clone(), None, w.clone(), 1e-6));
}

#[divan::bench]
fn rotary(bencher: Bencher) {
    let (x, cos, sin) = (random([1, 512, 32, 64]), random([1, 512, 1, 64]), random([1, 512, 1, 64]));
    bencher
        .counter(BytesCount::new(2 * 4 * 512 * 32 * 64usize))
        .bench_local(|| tx_kernels::rotary(x.clone(), cos.clone(), sin.clone(), Pairs::Halves));
}

#[divan::bench]
fn embedding(bencher: Bencher) {
    let ids: Vec<i64> = (0..512).map(|i| i * 7919 % 30522).collect();
    let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &Device::flex());
    let table = random([30522, 768]);
    bencher
        .counter(BytesCount::new(2 * 4 * 512 * 768usize))
        .bench_local(|| tx_kernels::embedding(table.clone(), ids.clone()));
}
