//! A picture in patches, and the table of their positions for pictures of any size.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Deserializer};
use tx_core::Result;
use tx_core::config::Check;
use tx_core::nn::{Conv2d, Interpolation, interpolate};
use tx_core::task::ImageInputs;

/// A picture in patches, each projected to a vector.
#[derive(Module, Debug)]
pub(in crate::models) struct PatchEmbeddings {
    projection: Conv2d,
    #[module(skip)]
    patch_size: [usize; 2],
}

impl PatchEmbeddings {
    pub(in crate::models) fn new(channels: usize, hidden: usize, patch_size: [usize; 2], device: &Device) -> Self {
        let projection = Conv2d::new(channels, hidden, patch_size, device).with_bias(true).with_strides(patch_size);
        Self { projection, patch_size }
    }

    /// # Shapes
    /// - output: `[batch, rows · columns, hidden]`
    pub(in crate::models) fn forward(&self, inputs: &ImageInputs) -> Tensor<3> {
        self.projection.forward_patches(inputs.pixel_values.clone())
    }

    /// Rows and columns of patches.
    pub(in crate::models) fn grid(&self, inputs: &ImageInputs) -> [usize; 2] {
        grid(size(inputs), self.patch_size)
    }

    /// The positions for these pictures, from those for pictures of `trained` pixels; before the patches stand `special`
    /// tokens, which keep theirs.
    ///
    /// # Shapes
    /// - table: `[1, special + patches, hidden]`
    /// - output: `[1, special + rows · columns, hidden]`
    pub(in crate::models) fn positions(
        &self,
        table: Tensor<3>,
        special: usize,
        trained: [usize; 2],
        inputs: &ImageInputs,
    ) -> Tensor<3> {
        let patches = table.dims()[1] - special;
        let [height, width] = size(inputs);
        let to = self.grid(inputs);
        if height == width && to[0] * to[1] == patches {
            return table;
        }
        resize_positions(table, [special, 0], square_or(patches, grid(trained, self.patch_size)), to)
    }
}

/// Positions for a grid of other rows and columns; the tokens before and after the patches keep theirs.
///
/// # Shapes
/// - tables: `[tables, special[0] + from[0] · from[1] + special[1], hidden]`
/// - output: `[tables, special[0] + to[0] · to[1] + special[1], hidden]`
pub(in crate::models) fn resize_positions(
    tables: Tensor<3>,
    special: [usize; 2],
    from: [usize; 2],
    to: [usize; 2],
) -> Tensor<3> {
    if from == to {
        return tables;
    }
    let [count, _, hidden] = tables.dims();
    let patches = from[0] * from[1];
    let map = tables.clone().narrow(1, special[0], patches).reshape([count, from[0], from[1], hidden]);
    let map = interpolate(map.permute([0, 3, 1, 2]), to, Interpolation::Bicubic, false);
    let resized = map.reshape([count, hidden, to[0] * to[1]]).swap_dims(1, 2);
    let mut parts = vec![tables.clone().narrow(1, 0, special[0]), resized];
    if special[1] > 0 {
        parts.push(tables.narrow(1, special[0] + patches, special[1]));
    }
    Tensor::cat(parts, 1)
}

/// `x` with `mask_token`, where there is one, in place of the patches that are hidden from the model.
///
/// # Shapes
/// - x, output: `[batch, patches, hidden]`
/// - mask_token: `[1, 1, hidden]`
pub(in crate::models) fn hide(x: Tensor<3>, mask_token: Option<&Param<Tensor<3>>>, inputs: &ImageInputs) -> Tensor<3> {
    match mask_token {
        Some(mask_token) => hide_behind(x, mask_token.val(), inputs),
        None => x,
    }
}

/// [`hide`], with a vector that is no parameter of that shape.
pub(in crate::models) fn hide_behind(x: Tensor<3>, vector: Tensor<3>, inputs: &ImageInputs) -> Tensor<3> {
    let Some(hidden) = &inputs.bool_masked_pos else { return x };
    let hidden = hidden.clone().float().unsqueeze_dim::<3>(2); // [batch, patches, 1]
    x * (hidden.clone().neg() + 1.0) + vector * hidden
}

/// The same tokens for every picture.
///
/// # Shapes
/// - tokens: `[1, n, hidden]`
/// - output: `[batch, n, hidden]`
pub(in crate::models) fn for_batch(tokens: &Param<Tensor<3>>, batch: usize) -> Tensor<3> {
    let tokens = tokens.val();
    let [_, n, hidden] = tokens.dims();
    tokens.expand([batch, n, hidden])
}

/// # Shapes
/// - x: `[batch, seq, hidden]`
/// - output: `[batch, hidden]`
pub(in crate::models) fn token(x: &Tensor<3>, position: usize) -> Tensor<2> {
    x.clone().narrow(1, position, 1).squeeze_dim(1)
}

/// Height and width of the pictures.
pub(in crate::models) fn size(inputs: &ImageInputs) -> [usize; 2] {
    let [_, _, height, width] = inputs.pixel_values.dims();
    [height, width]
}

/// Rows and columns of whole patches.
pub(in crate::models) fn grid(size: [usize; 2], patch: [usize; 2]) -> [usize; 2] {
    [size[0] / patch[0], size[1] / patch[1]]
}

/// The grid that the reference makes of so many patches: a square wherever they fill one, whatever the picture.
pub(in crate::models) fn square_or(patches: usize, grid: [usize; 2]) -> [usize; 2] {
    let side = patches.isqrt();
    if side * side == patches { [side, side] } else { grid }
}

/// Height and width: one number in `config.json` where they are equal.
pub(in crate::models) fn sides<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[usize; 2], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a number, or a height and a width")]
    enum Sides {
        Equal(usize),
        Each([usize; 2]),
    }
    Ok(match Sides::deserialize(deserializer)? {
        Sides::Equal(side) => [side, side],
        Sides::Each(sides) => sides,
    })
}

/// Fails for patches that are larger than the picture, and for more of them than a table can have positions.
///
/// # Errors
/// As [`Check::range`].
pub(in crate::models) fn check_patches(check: &Check<'_>, image: [usize; 2], patch: [usize; 2]) -> Result<()> {
    for (image, patch) in image.into_iter().zip(patch) {
        check.size("image_size", image)?;
        check.range("patch_size", patch, 1, image)?;
    }
    check.size("image_size", grid(image, patch).iter().product())
}
