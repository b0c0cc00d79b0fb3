//! The sizes that processors resize to, rounded as Python rounds them.

/// `size` of `preprocessor_config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Size {
    /// Exactly that, whatever becomes of the shapes.
    Exact {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The shorter side has that length.
    ShortestEdge(usize),
    /// The shorter side has that length, or a smaller one so that the longer side is within its bound.
    Edges {
        /// The length of the shorter side.
        shortest: usize,
        /// The bound of the longer side.
        longest: usize,
        /// Both sides are taken down to a multiple of it.
        step: usize,
    },
    /// As large as fits.
    Within {
        /// The most rows.
        max_height: usize,
        /// The most columns.
        max_width: usize,
    },
}

impl Size {
    /// Height and width for a picture of that height and width.
    pub fn of(self, original: [usize; 2]) -> [usize; 2] {
        let [height, width] = original.map(|side| side as f64);
        match self {
            Self::Exact { height, width } => [height, width],
            Self::ShortestEdge(edge) => {
                let short = edge as f64;
                if original[1] <= original[0] {
                    [(short * height / width) as usize, edge]
                } else {
                    [edge, (short * width / height) as usize]
                }
            }
            Self::Edges { shortest, longest, step } => {
                edges(original, shortest, longest, step).map(|side| side - side % step)
            }
            Self::Within { max_height, max_width } => {
                let scale = f64::min(max_height as f64 / height, max_width as f64 / width);
                [(height * scale) as usize, (width * scale) as usize]
            }
        }
    }
}

fn edges(original: [usize; 2], shortest: usize, longest: usize, step: usize) -> [usize; 2] {
    let [height, width] = original.map(|side| side as f64);
    let (low, high) = (height.min(width), height.max(width));
    // The exact length of the shorter side, from which the longer one is computed, and its rounded one.
    let (mut exact, mut short) = (shortest as f64, shortest);
    if high / low * exact > longest as f64 {
        exact = longest as f64 * low / high;
        short = exact.round_ties_even() as usize;
    }
    let tall = original[1] < original[0];
    // With steps, a high picture is not asked whether it has the size already.
    if original[0].min(original[1]) == short && (step == 1 || !tall) {
        original
    } else if tall {
        [(exact * height / width) as usize, short]
    } else {
        [short, (exact * width / height) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with transformers 5.23.
    #[test]
    fn sizes_are_those_of_python() {
        let cases = [
            (Size::ShortestEdge(24), [37, 23], [38, 24]),
            (Size::ShortestEdge(224), [37, 23], [360, 224]),
            (Size::ShortestEdge(24), [23, 37], [24, 38]),
            (Size::ShortestEdge(224), [23, 37], [224, 360]),
            (Size::ShortestEdge(24), [64, 64], [24, 24]),
            (Size::ShortestEdge(224), [64, 64], [224, 224]),
            (Size::ShortestEdge(24), [480, 640], [24, 32]),
            (Size::ShortestEdge(224), [480, 640], [224, 298]),
            (Size::ShortestEdge(24), [427, 640], [24, 35]),
            (Size::ShortestEdge(224), [427, 640], [224, 335]),
            (Size::ShortestEdge(24), [300, 20], [360, 24]),
            (Size::ShortestEdge(224), [300, 20], [3360, 224]),
            (Size::ShortestEdge(24), [1, 1], [24, 24]),
            (Size::ShortestEdge(224), [1, 1], [224, 224]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [37, 23], [1286, 800]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [37, 23], [1280, 800]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [37, 23], [48, 30]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [37, 23], [48, 16]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [37, 23], [50, 31]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [37, 23], [48, 16]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [23, 37], [800, 1286]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [23, 37], [800, 1280]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [23, 37], [30, 48]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [23, 37], [16, 48]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [23, 37], [31, 50]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [23, 37], [16, 48]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [64, 64], [800, 800]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [64, 64], [800, 800]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [64, 64], [32, 32]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [64, 64], [32, 32]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [64, 64], [33, 33]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [64, 64], [32, 32]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [480, 640], [800, 1066]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [480, 640], [800, 1056]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [480, 640], [32, 42]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [480, 640], [32, 32]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [480, 640], [33, 44]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [480, 640], [32, 32]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [640, 480], [1066, 800]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [640, 480], [1056, 800]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [640, 480], [42, 32]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [640, 480], [32, 32]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [640, 480], [44, 33]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [640, 480], [32, 32]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [300, 20], [1332, 89]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [300, 20], [1328, 80]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [300, 20], [48, 3]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [300, 20], [48, 0]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [300, 20], [50, 3]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [300, 20], [48, 0]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [20, 300], [89, 1332]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [20, 300], [80, 1328]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [20, 300], [3, 48]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [20, 300], [0, 48]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [20, 300], [3, 50]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [20, 300], [0, 48]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [800, 1333], [800, 1333]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [800, 1333], [800, 1328]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [800, 1333], [29, 48]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [800, 1333], [16, 48]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [800, 1333], [30, 50]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [800, 1333], [16, 48]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [32, 100], [427, 1333]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [32, 100], [416, 1328]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [32, 100], [15, 48]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [32, 100], [0, 48]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [32, 100], [16, 50]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [32, 100], [16, 48]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [100, 32], [1333, 427]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [100, 32], [1328, 416]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [100, 32], [48, 15]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [100, 32], [48, 0]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [100, 32], [50, 16]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [100, 32], [48, 16]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [33, 50], [800, 1212]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [33, 50], [800, 1200]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [33, 50], [32, 48]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [33, 50], [32, 48]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [33, 50], [33, 50]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [33, 50], [32, 48]),
            (Size::Edges { shortest: 800, longest: 1333, step: 1 }, [1000, 333], [1333, 444]),
            (Size::Edges { shortest: 800, longest: 1333, step: 16 }, [1000, 333], [1328, 432]),
            (Size::Edges { shortest: 32, longest: 48, step: 1 }, [1000, 333], [48, 16]),
            (Size::Edges { shortest: 32, longest: 48, step: 16 }, [1000, 333], [48, 16]),
            (Size::Edges { shortest: 33, longest: 50, step: 1 }, [1000, 333], [50, 17]),
            (Size::Edges { shortest: 33, longest: 50, step: 16 }, [1000, 333], [48, 16]),
            (Size::Within { max_height: 30, max_width: 40 }, [37, 23], [30, 18]),
            (Size::Within { max_height: 30, max_width: 40 }, [23, 37], [24, 40]),
            (Size::Within { max_height: 30, max_width: 40 }, [480, 640], [30, 40]),
            (Size::Within { max_height: 30, max_width: 40 }, [64, 64], [30, 30]),
        ];
        for (size, original, expected) in cases {
            assert_eq!(size.of(original), expected, "{size:?} {original:?}");
        }
    }
}
