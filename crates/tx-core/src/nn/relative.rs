//! Relative positions in logarithmic buckets.

/// The bucket of the distance `key − query`: near ones have one each, far ones share, logarithmically.
///
/// Raffel et al., 2019 (arXiv:1910.10683), section 2.1. With `bidirectional`, keys on the right take the upper half of
/// the buckets; otherwise they all take bucket 0.
pub fn relative_position_bucket(distance: i64, bidirectional: bool, buckets: usize, max_distance: usize) -> usize {
    let (offset, buckets, n) = if bidirectional {
        let half = buckets / 2;
        (if distance > 0 { half } else { 0 }, half, distance.unsigned_abs() as usize)
    } else {
        (0, buckets, (-distance).max(0) as usize)
    };
    let exact = buckets / 2;
    if n < exact {
        return offset + n;
    }
    // In f32, as the reference computes it: a bucket's border must fall where it falls there.
    let ratio = (n as f32 / exact as f32).ln() / ((max_distance as f64 / exact as f64).ln() as f32);
    let far = exact + (ratio * (buckets - exact) as f32) as usize;
    offset + far.min(buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_match_the_reference() {
        let bucket = |d| relative_position_bucket(d, true, 32, 128);
        assert_eq!([0, -1, -7, -8, -16, -64, -127, -128, -1000].map(bucket), [0, 1, 7, 8, 10, 14, 15, 15, 15]);
        assert_eq!([1, 7, 8, 12, 200].map(bucket), [17, 23, 24, 25, 31]);
        let causal = |d| relative_position_bucket(d, false, 32, 128);
        assert_eq!([5, 0, -15, -16, -40, -500].map(causal), [0, 0, 15, 16, 23, 31]);
    }
}
