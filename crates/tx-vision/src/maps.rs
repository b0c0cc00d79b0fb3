//! Maps of features, and sequences of them.

use burn::tensor::Tensor;

/// The map of a sequence that goes through its rows one after the other. Nothing is moved.
///
/// # Shapes
/// - x: `[batch, height · width, channels]`
/// - output: `[batch, channels, height, width]`
pub(crate) fn to_map(x: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, _, channels] = x.dims();
    x.reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}

/// The inverse of [`to_map`].
///
/// # Shapes
/// - x: `[batch, channels, height, width]`
/// - output: `[batch, height · width, channels]`
pub(crate) fn to_sequence(x: Tensor<4>) -> Tensor<3> {
    x.flatten::<3>(2, 3).swap_dims(1, 2)
}

/// The mean over all places.
///
/// # Shapes
/// - x: `[batch, channels, height, width]`
/// - output: `[batch, channels]`
pub(crate) fn average_pool(x: Tensor<4>) -> Tensor<2> {
    x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim(2)
}
