//! The burn extension behind the operations: default bodies for every backend, fast bodies for `Flex`.
#![cfg_attr(feature = "ndarray", allow(deprecated, reason = "burn deprecates its ndarray backend but still has it"))]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;

/// Operations that are slow on burn's CPU backend.
///
/// The default bodies are burn's own operations, so that every backend (and fusion) sees what it knows.
#[backend_extension(Flex: cfg(feature = "flex"), NdArray: cfg(feature = "ndarray"), Cube: cfg(feature = "cube"))]
pub trait Kernels: Backend {
    /// GELU with the error function.
    fn tx_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// GELU with the tanh approximation.
    fn tx_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::gelu_tanh::<Self>(x)
    }

    /// Softmax over the last axis.
    fn tx_softmax(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let last = burn::backend::TensorMetadata::shape(&x).num_dims() - 1;
        Self::softmax(x, last)
    }
}

/// Default bodies, also for dtypes that the fast bodies do not handle.
mod composed {
    use burn::backend::tensor::FloatTensor;
    use burn::backend::{Backend, Scalar};

    pub fn gelu_tanh<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
        let inner = B::float_add(x.clone(), B::float_mul_scalar(cube, Scalar::Float(0.044_715)));
        let inner = B::float_mul_scalar(inner, Scalar::Float((2.0 / std::f64::consts::PI).sqrt()));
        let gate = B::float_add_scalar(B::float_tanh(inner), Scalar::Float(1.0));
        B::float_mul_scalar(B::float_mul(x, gate), Scalar::Float(0.5))
    }
}

#[cfg(feature = "cube")]
impl Kernels for burn_cubecl::CubeBackend {}

#[cfg(feature = "ndarray")]
impl Kernels for burn::backend::NdArray {}

/// Calls an operation of [`Kernels`] on a burn tensor.
pub(crate) fn unary<const D: usize>(x: Tensor<D>, f: fn(FloatTensor<Dispatch>) -> FloatTensor<Dispatch>) -> Tensor<D> {
    Tensor::from_dispatch(f(x.into_dispatch()))
}

#[cfg(feature = "flex")]
mod flex {
    use super::Kernels;
    use crate::rows;
    use burn::backend::flex::{FlexTensor, Layout};
    use burn::backend::ops::ActivationOps;
    use burn::backend::{Flex, TensorMetadata};
    use burn::tensor::{Bytes, DType};
    use rayon::prelude::*;

    /// Elements per task: 64 KiB in and out stay in the nearest caches.
    const CHUNK: usize = 1 << 14;

    /// Applies `kernel` to whole rows of `row` elements, several rows per task; in place if nothing else holds `x`.
    fn rows_in_place(mut x: FlexTensor, row: usize, kernel: fn(&mut [f32])) -> FlexTensor {
        x = x.to_contiguous();
        let chunk = row.max(1) * (CHUNK / row.max(1)).max(1);
        if let Some(values) = x.try_storage_mut::<f32>() {
            run(values, chunk, row, kernel);
            return x;
        }
        let mut values = x.as_slice::<f32>().map(<[f32]>::to_vec).unwrap_or_default();
        run(&mut values, chunk, row, kernel);
        FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(x.shape()), DType::F32)
    }

    fn run(values: &mut [f32], chunk: usize, row: usize, kernel: fn(&mut [f32])) {
        let rows = |chunk: &mut [f32]| chunk.chunks_mut(row.max(1)).for_each(kernel);
        if values.len() <= chunk { rows(values) } else { values.par_chunks_mut(chunk).for_each(rows) }
    }

    impl Kernels for Flex {
        fn tx_gelu(x: FlexTensor) -> FlexTensor {
            if x.dtype() == DType::F32 {
                rows_in_place(x, CHUNK, rows::gelu)
            } else {
                <Self as ActivationOps<Self>>::gelu(x)
            }
        }

        fn tx_gelu_tanh(x: FlexTensor) -> FlexTensor {
            if x.dtype() == DType::F32 {
                rows_in_place(x, CHUNK, rows::gelu_tanh)
            } else {
                super::composed::gelu_tanh::<Self>(x)
            }
        }

        fn tx_softmax(x: FlexTensor) -> FlexTensor {
            let last = x.shape().num_dims() - 1;
            if x.dtype() == DType::F32 {
                let row = x.shape()[last];
                rows_in_place(x, row, rows::softmax)
            } else {
                <Self as ActivationOps<Self>>::softmax(x, last)
            }
        }
    }
}
