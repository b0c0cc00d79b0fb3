//! Fast tensor operations: everything that all models share and that decides their speed.
//!
//! Each operation is one function on burn tensors. It has a *reference body*, written in burn operations, which any
//! device can run and autodiff can differentiate; and, where burn's own operation is slow on a CPU, a body for burn's
//! `Flex` backend with SIMD kernels chosen at run time. [`with_reference`] runs the reference bodies everywhere, which is
//! how tests compare the two.
//!
//! | file | holds |
//! |---|---|
//! | `activation.rs` | [`gelu`], [`gelu_tanh`], [`softmax`] |
//! | `attention.rs` | [`attention`], its [`Mask`] |
//! | `linear.rs` | [`linear`] |
//! | `norm.rs` | [`layer_norm`], [`rms_norm`] |
//! | `backend.rs` | the burn extension behind them; the bodies for `Flex` |
//! | `rows.rs`, `simd.rs` | kernels on plain slices; run-time choice of instruction set |

#[macro_use]
mod simd;

mod activation;
mod attention;
mod backend;
mod linear;
mod norm;
mod rows;

use std::cell::Cell;

pub use activation::{gelu, gelu_tanh, softmax};
pub use attention::{AttentionOptions, Mask, attention, attention_weights};
pub use linear::linear;
pub use norm::{layer_norm, rms_norm};

thread_local! {
    static REFERENCE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with every operation on its reference body, on this thread.
///
/// For tests and for tracing a difference in numbers to a kernel; much slower on a CPU.
pub fn with_reference<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            REFERENCE.set(self.0);
        }
    }
    let _restore = Restore(REFERENCE.replace(true));
    f()
}

/// Whether [`with_reference`] is active on this thread.
fn reference() -> bool {
    REFERENCE.get()
}
