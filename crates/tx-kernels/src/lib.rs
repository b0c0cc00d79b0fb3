//! Fast tensor operations: everything that all models share and that decides their speed.
//!
//! Each operation is one function on burn tensors. It has a *reference body*, written in burn operations, which any
//! device can run and autodiff can differentiate; and, where burn's own operation is slow on a CPU, a body for burn's
//! `Flex` backend with SIMD kernels chosen at run time. [`with_reference`] runs the reference bodies everywhere, which is
//! how tests compare the two.
//!
//! Under autodiff, the bodies for `Flex` of products, attention, norms over the last axis, activations, softmax, rotary
//! positions, embeddings and the loss have derivatives of their own. Convolutions, norms of groups and state space models
//! run their reference bodies there, and so does what a fast body does not take.
//!
//! | file | holds |
//! |---|---|
//! | `activation.rs` | [`gelu`], [`gelu_tanh`], [`silu`], [`gated`], [`swiglu`], [`softmax`] |
//! | `attention.rs` | [`attention`], its [`Mask`] |
//! | `embedding.rs` | [`embedding`] |
//! | `gradient.rs` | the derivatives of the fast bodies |
//! | `kv.rs` | [`KvTensor`], what a cache keeps |
//! | `linear.rs` | [`linear`], [`linears`], [`linear_transposed`] |
//! | `loss.rs` | [`cross_entropy`] |
//! | `memory.rs` | [`keep_freed_memory`] |
//! | `norm.rs` | [`layer_norm`], [`rms_norm`] |
//! | `optim.rs` | [`adamw`], [`squared_norm`] |
//! | `pool.rs` | [`max_pool2d`] |
//! | `quantize.rs` | [`quantize_int8`], [`quantize_int4`], [`dequantize`] |
//! | `rotary.rs` | [`rotary`] |
//! | `rows.rs` | [`write_rows`] |
//! | `ssm.rs` | [`causal_conv1d`], [`selective_scan`], [`ssd_scan`] |
//! | `cpu/` | the bodies for `Flex`: kernels, and the way from tensors to them |
//! | `simd.rs` | run-time choice of instruction set for plain loops |
//! | `ceilings.rs` | what the machine can do at most |

#[macro_use]
mod simd;

mod activation;
mod attention;
#[cfg(feature = "flex")]
pub mod ceilings;
mod conv;
#[cfg(feature = "flex")]
mod cpu;
mod embedding;
#[cfg(feature = "flex")]
mod gradient;
mod kv;
mod linear;
mod loss;
mod memory;
mod norm;
mod optim;
mod pool;
mod quantize;
mod rotary;
mod rows;
mod ssm;

use std::cell::Cell;
use std::thread::LocalKey;

pub use activation::{Pointwise, gated, gelu, gelu_tanh, silu, softmax, swiglu};
pub use attention::{AttentionOptions, Mask, attention, attention_weights};
pub use conv::{Epilogue, conv2d};
pub use embedding::embedding;
pub use kv::{KvBytes, KvPrecision, KvTensor, RowCopy};
pub use linear::{linear, linear_transposed, linears};
pub use loss::{IGNORED, cross_entropy};
pub use memory::keep_freed_memory;
pub use norm::{group_norm, layer_norm, rms_norm};
pub use optim::{AdamW, adamw, squared_norm};
pub use pool::max_pool2d;
pub use quantize::{can_quantize, dequantize, quantize_int4, quantize_int8};
pub use rotary::{Pairs, rotary};
pub use rows::write_rows;
pub use ssm::{SsdParameters, causal_conv1d, selective_scan, ssd_scan};

thread_local! {
    static REFERENCE: Cell<bool> = const { Cell::new(false) };
    static EXACT_PRODUCTS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with every operation on its reference body, on this thread.
///
/// For tests and for tracing a difference in numbers to a kernel; much slower on a CPU.
pub fn with_reference<T>(f: impl FnOnce() -> T) -> T {
    with(&REFERENCE, f)
}

/// Runs `f` with the rows of every product in f32, on this thread, where [`linear`] would round them to bf16.
pub fn with_exact_products<T>(f: impl FnOnce() -> T) -> T {
    with(&EXACT_PRODUCTS, f)
}

fn with<T>(flag: &'static LocalKey<Cell<bool>>, f: impl FnOnce() -> T) -> T {
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(flag, flag.replace(true));
    f()
}

/// Whether [`with_reference`] is active on this thread.
fn reference() -> bool {
    REFERENCE.get()
}

/// Whether [`with_exact_products`] is active on this thread.
#[cfg(feature = "flex")]
fn exact_products() -> bool {
    EXACT_PRODUCTS.get()
}
