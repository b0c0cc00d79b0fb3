//! The inverse transform of a block: the accurate integer one, after Loeffler, Ligtenberg and Moschytz.
//!
//! Eight columns are computed at once, which makes vectors of them; then the rows likewise, after turning the block.

use super::{BLOCK, Steps};

/// Fractional bits of the constants.
const CONSTANT_BITS: u32 = 13;
/// Fractional bits that the columns' pass leaves.
const PASS_BITS: u32 = 2;

/// One number of each of eight columns.
type Lanes = [i32; 8];

/// Computes the samples of a block, at the beginning of `samples`, of which a row has `stride`.
pub(super) fn block(coefficients: &[i16; BLOCK], steps: &Steps, samples: &mut [u8], stride: usize) {
    if coefficients[1..].iter().all(|&coefficient| coefficient == 0) {
        let first = i32::from(coefficients[0]).wrapping_mul(steps[0]) << PASS_BITS;
        let value = sample(descale(first, PASS_BITS + 3));
        for row in samples.chunks_mut(stride).take(8) {
            row[..8].fill(value);
        }
        return;
    }
    let rows: [Lanes; 8] = std::array::from_fn(|y| {
        std::array::from_fn(|x| i32::from(coefficients[8 * y + x]).wrapping_mul(steps[8 * y + x]))
    });
    let columns = turned(&pass(&rows, CONSTANT_BITS - PASS_BITS));
    let rows = turned(&pass(&columns, CONSTANT_BITS + PASS_BITS + 3));
    for (row, values) in samples.chunks_mut(stride).zip(&rows) {
        for (sample_of_row, &value) in row.iter_mut().zip(values) {
            *sample_of_row = sample(value);
        }
    }
}

/// A sample is centred on zero until now.
fn sample(value: i32) -> u8 {
    (value + 128).clamp(0, 255) as u8
}

fn descale(value: i32, bits: u32) -> i32 {
    value.wrapping_add(1 << (bits - 1)) >> bits
}

fn turned(rows: &[Lanes; 8]) -> [Lanes; 8] {
    std::array::from_fn(|y| std::array::from_fn(|x| rows[x][y]))
}

fn add(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i].wrapping_add(b[i]))
}

fn subtract(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
}

/// Times a constant, in units of 2⁻¹³.
fn times(a: Lanes, constant: i32) -> Lanes {
    a.map(|value| value.wrapping_mul(constant))
}

/// The transform of eight columns, without the last `bits` bits.
fn pass(rows: &[Lanes; 8], bits: u32) -> [Lanes; 8] {
    // The even rows: a rotation and two sums.
    let shared = times(add(rows[2], rows[6]), 4433); // 0.541196100
    let low = add(shared, times(rows[6], -15137)); // 1.847759065
    let high = add(shared, times(rows[2], 6270)); // 0.765366865
    let sum = times(add(rows[0], rows[4]), 1 << CONSTANT_BITS);
    let difference = times(subtract(rows[0], rows[4]), 1 << CONSTANT_BITS);
    let even = [add(sum, high), add(difference, low), subtract(difference, low), subtract(sum, high)];

    // The odd rows, as in figure 8 of the paper.
    let [a, b, c, d] = [rows[7], rows[5], rows[3], rows[1]];
    let shared = times(add(add(a, c), add(b, d)), 9633); // 1.175875602
    let ad = times(add(a, d), -7373); // 0.899976223
    let bc = times(add(b, c), -20995); // 2.562915447
    let ac = add(times(add(a, c), -16069), shared); // 1.961570560
    let bd = add(times(add(b, d), -3196), shared); // 0.390180644
    let odd = [
        add(times(d, 12299), add(ad, bd)), // 1.501321110
        add(times(c, 25172), add(bc, ac)), // 3.072711026
        add(times(b, 16819), add(bc, bd)), // 2.053119869
        add(times(a, 2446), add(ad, ac)),  // 0.298631336
    ];
    std::array::from_fn(|y| {
        let value = if y < 4 { add(even[y], odd[y]) } else { subtract(even[7 - y], odd[7 - y]) };
        value.map(|value| descale(value, bits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_near_the_transform() {
        let mut coefficients = [0i16; BLOCK];
        let mut state = 1u32;
        for (place, coefficient) in coefficients.iter_mut().enumerate() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *coefficient = (state >> 24) as i16 / (1 + place as i16) - 2;
        }
        let mut samples = [0u8; 8 * 10];
        block(&coefficients, &[3; BLOCK], &mut samples, 10);
        for y in 0..8 {
            for x in 0..8 {
                let mut exact = 0.0;
                for (place, &coefficient) in coefficients.iter().enumerate() {
                    let scale = |k: usize| if k == 0 { 0.5f64.sqrt() } else { 1.0 };
                    let wave = |k: usize, at: usize| {
                        (std::f64::consts::PI * k as f64 * (2 * at + 1) as f64 / 16.0).cos() * scale(k) / 2.0
                    };
                    exact += f64::from(coefficient) * 3.0 * wave(place / 8, y) * wave(place % 8, x);
                }
                let exact = (exact + 128.0).clamp(0.0, 255.0);
                assert!((f64::from(samples[10 * y + x]) - exact).abs() < 0.75, "{y} {x}");
            }
        }
    }

    #[test]
    fn even_blocks_take_the_short_way() {
        for first in -90..90 {
            let mut coefficients = [0i16; BLOCK];
            coefficients[0] = first;
            let (mut short, mut long) = ([0u8; 64], [0u8; 64]);
            block(&coefficients, &[11; BLOCK], &mut short, 8);
            // The same, but with a coefficient that has no weight.
            coefficients[63] = 1;
            let mut steps = [11; BLOCK];
            steps[63] = 0;
            block(&coefficients, &steps, &mut long, 8);
            assert_eq!(short, long, "{first}");
        }
    }
}
