//! Attention with linear biases: scores fall with the distance of a key, in each head by another slope. Press et al.,
//! 2022 (arXiv:2108.12409).

use burn::tensor::{Int, Tensor};

/// The slope of each head, `2^(-8i/n)` for `i` from 1 to `n` heads.
///
/// Where `n` is not a power of two, the power below gives as many slopes, and every other one of twice as many heads
/// the rest.
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = 1_usize << heads.max(1).ilog2();
    let slope = |i: usize, of: usize| (-8.0 * i as f64 / of as f64).exp2() as f32;
    let whole = (1..=power).map(|i| slope(i, power));
    let between = (0..power).map(|i| slope(2 * i + 1, 2 * power));
    whole.chain(between).take(heads).collect()
}

/// `slope · position` of every key: what is added to scores.
///
/// A query's own position would lower all its scores alike, which softmax does not see; so it is left out, and one row
/// serves all queries.
///
/// # Shapes
/// - slopes: `[heads]`
/// - positions: `[batch or 1, keys]`
/// - output: `[batch or 1, heads, 1, keys]`
pub fn alibi(slopes: &[f32], positions: Tensor<2, Int>) -> Tensor<4> {
    let [batch, keys] = positions.dims();
    let heads = slopes.len();
    let slopes = Tensor::<1>::from_floats(slopes, &positions.device()).reshape([1, heads, 1, 1]);
    positions.float().reshape([batch, 1, 1, keys]) * slopes
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper() {
        assert_eq!(alibi_slopes(8), [0.5, 0.25, 0.125, 0.0625, 0.031_25, 0.015_625, 0.007_812_5, 0.003_906_25]);
        assert_eq!(alibi_slopes(6), [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125]);
        assert_eq!(alibi_slopes(1), [0.003_906_25]);
    }

    #[test]
    fn a_head_has_one_row_for_all_queries() {
        let positions = Tensor::<1, Int>::arange(0..3, &Device::default()).reshape([1, 3]);
        let bias = alibi(&[0.5, 0.25], positions);
        assert_eq!(bias.dims(), [1, 2, 1, 3]);
        assert_eq!(bias.into_data().iter::<f32>().collect::<Vec<_>>(), [0.0, 0.5, 1.0, 0.0, 0.25, 0.5]);
    }
}
