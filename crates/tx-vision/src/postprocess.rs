//! From a model's scores to boxes and segments: HF's `post_process_…` of image processors.
//!
//! Each function takes what the model says about one picture, in the memory of the host, and the size that the result
//! should have. Maps are enlarged row by row, so that memory holds them at the model's size only, and one number for
//! each pixel of the result.
//!
//! Reference: transformers 5.23.0, `models/detr/image_processing_detr.py` for boxes and segments,
//! `models/segformer/image_processing_segformer.py` for maps of labels.

mod resize;
mod segmentation;

pub use segmentation::{
    SegmentInfo, SegmentOptions, Segmentation, post_process_instance_segmentation, post_process_panoptic_segmentation,
    post_process_queries_semantic_segmentation, post_process_semantic_segmentation,
};

/// Scores of each place of a map, for each label or query.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreMaps {
    /// Height and width.
    pub size: [usize; 2],
    /// One map after the other, row by row.
    pub values: Vec<f32>,
}

/// What a detector says about a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct DetectionScores {
    /// Labels, and one more for no object: scores of each query.
    pub classes: usize,
    /// `classes` of each query.
    pub logits: Vec<f32>,
    /// Centre x, centre y, width and height of each query, as parts of the picture's size.
    pub boxes: Vec<f32>,
}

/// What a model of objects and their shapes says about a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentationScores {
    /// What and where they are.
    pub detection: DetectionScores,
    /// A map of each query.
    pub masks: ScoreMaps,
}

/// An object and where it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Detection {
    /// The number of its label.
    pub label: usize,
    /// Its probability.
    pub score: f32,
    /// Left, top, right and bottom; they may lie outside of the picture.
    pub corners: [f32; 4],
}

impl DetectionScores {
    /// The probability of every class, for each query.
    fn probabilities(&self) -> impl Iterator<Item = Vec<f32>> + '_ {
        self.logits.chunks_exact(self.classes.max(1)).map(softmax)
    }
}

/// The objects that are more probable than `threshold`; in pixels if the picture's height and width are given.
///
/// The class of no object is left out before the most probable one is taken, so that a query may give an object although
/// none is more probable.
pub fn post_process_object_detection(
    scores: &DetectionScores,
    threshold: f64,
    target_size: Option<[usize; 2]>,
) -> Vec<Detection> {
    let [height, width] = target_size.map_or([1.0; 2], |size| size.map(|side| side as f32));
    let boxes = scores.boxes.chunks_exact(4);
    let objects = scores.probabilities().zip(boxes).map(|(probabilities, sides)| {
        let (label, score) = largest(&probabilities[..probabilities.len() - 1]);
        let (x, y, half_width, half_height) = (sides[0], sides[1], 0.5 * sides[2], 0.5 * sides[3]);
        let corners = [x - half_width, y - half_height, x + half_width, y + half_height];
        let corners = [corners[0] * width, corners[1] * height, corners[2] * width, corners[3] * height];
        Detection { label, score, corners }
    });
    objects.filter(|object| object.score > threshold as f32).collect()
}

/// The largest value and where it is, the first of equal ones.
fn largest(values: &[f32]) -> (usize, f32) {
    let larger = |best: (usize, f32), (i, &value): (usize, &f32)| if value > best.1 { (i, value) } else { best };
    values.iter().enumerate().fold((0, f32::NEG_INFINITY), larger)
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum = exp.iter().map(|&x| f64::from(x)).sum::<f64>() as f32;
    exp.into_iter().map(|x| x / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores of three queries for two labels and no object.
    fn scores() -> DetectionScores {
        DetectionScores {
            classes: 3,
            logits: vec![2.0, 0.0, 1.0, 0.0, 1.0, 4.0, -1.0, 3.0, 0.5],
            boxes: vec![0.5, 0.5, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1, 0.25, 0.75, 0.6, 0.5],
        }
    }

    /// The numbers of transformers 5.23.0.
    #[test]
    fn boxes_are_pythons() {
        let objects = post_process_object_detection(&scores(), 0.5, Some([100, 200]));
        assert_eq!(objects.iter().map(|object| object.label).collect::<Vec<_>>(), [0, 1]);
        let expected = [(0.665_2, [80.0, 30.0, 120.0, 70.0]), (0.908_8, [-10.0, 50.0, 110.0, 100.0])];
        for (object, (score, corners)) in objects.iter().zip(expected) {
            assert!((object.score - score).abs() < 1e-4, "{object:?}");
            assert!(object.corners.iter().zip(corners).all(|(a, b)| (a - b).abs() < 1e-4), "{object:?}");
        }
    }

    #[test]
    fn the_threshold_is_not_reached_by_its_own_value() {
        let scores = DetectionScores { classes: 2, logits: vec![0.0, 0.0], boxes: vec![0.5; 4] };
        assert!(post_process_object_detection(&scores, 0.5, None).is_empty());
        assert_eq!(post_process_object_detection(&scores, 0.49, None).len(), 1);
        assert_eq!(post_process_object_detection(&scores, 0.49, None)[0].corners, [0.25, 0.25, 0.75, 0.75]);
    }

    #[test]
    fn nothing_gives_nothing() {
        let scores = DetectionScores { classes: 0, logits: vec![], boxes: vec![] };
        assert!(post_process_object_detection(&scores, 0.0, None).is_empty());
        let one = DetectionScores { classes: 1, logits: vec![1.0], boxes: vec![0.5; 4] };
        assert!(post_process_object_detection(&one, 0.0, None).is_empty());
    }
}
