//! Labels of pixels, and objects with their shapes.

use rayon::prelude::*;

use super::resize::largest;
use super::{DetectionScores, ScoreMaps, SegmentationScores};

/// When a query's mask becomes a segment: HF's arguments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentOptions {
    /// The label must be more probable than this.
    pub threshold: f64,
    /// A pixel belongs to a mask from this probability on, times the label's.
    pub mask_threshold: f64,
    /// The part of a mask that no other mask covers must be larger than this.
    pub overlap_mask_area_threshold: f64,
}

impl Default for SegmentOptions {
    /// Those of the functions; pipelines have their own.
    fn default() -> Self {
        Self { threshold: 0.5, mask_threshold: 0.5, overlap_mask_area_threshold: 0.8 }
    }
}

/// The segments of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// Height and width.
    pub size: [usize; 2],
    /// The segment of each pixel, row by row: 0 for none, and -1 if there are no segments at all.
    pub segmentation: Vec<i32>,
    /// What they are.
    pub segments_info: Vec<SegmentInfo>,
}

/// A segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentInfo {
    /// Its number in the map.
    pub id: i32,
    /// The number of its label.
    pub label_id: usize,
    /// Whether all segments of its label are one.
    pub was_fused: bool,
    /// The probability of its label, with six digits behind the point.
    pub score: f64,
}

/// The label of each pixel, row by row, at `target_size` or at that of the maps.
pub fn post_process_semantic_segmentation(maps: &ScoreMaps, target_size: Option<[usize; 2]>) -> Vec<u32> {
    let size = target_size.unwrap_or(maps.size);
    let places = maps.size[0] * maps.size[1];
    if places == 0 || size.contains(&0) {
        return Vec::new();
    }
    let factors = vec![1.0; maps.values.len() / places];
    largest(maps, &factors, f32::INFINITY, size).numbers
}

/// The same of a model of objects and their shapes: a pixel's score for a label is the sum over all queries of the
/// probability of the label, times that of the pixel.
pub fn post_process_queries_semantic_segmentation(
    scores: &SegmentationScores,
    target_size: Option<[usize; 2]>,
) -> Vec<u32> {
    let SegmentationScores { detection, masks } = scores;
    let places = (masks.size[0] * masks.size[1]).max(1);
    // The last class is no object.
    let labels = detection.classes.saturating_sub(1);
    let classes: Vec<Vec<f32>> = detection.probabilities().collect();
    let masks: Vec<f32> = masks.values.iter().map(|&x| sigmoid(x)).collect();
    let mut values = vec![0.0; labels * places];
    values.par_chunks_mut(places).enumerate().for_each(|(label, map)| {
        for (classes, mask) in classes.iter().zip(masks.chunks_exact(places)) {
            map.iter_mut().zip(mask).for_each(|(sum, &pixel)| *sum += classes[label] * pixel);
        }
    });
    post_process_semantic_segmentation(&ScoreMaps { size: scores.masks.size, values }, target_size)
}

/// The segments of a picture, one for each object.
pub fn post_process_instance_segmentation(
    scores: &SegmentationScores,
    options: &SegmentOptions,
    target_size: Option<[usize; 2]>,
) -> Segmentation {
    segments(scores, options, &[], target_size)
}

/// The segments of a picture, of which those of the labels `label_ids_to_fuse` are one for each label: of sky, there is
/// only one.
pub fn post_process_panoptic_segmentation(
    scores: &SegmentationScores,
    options: &SegmentOptions,
    label_ids_to_fuse: &[usize],
    target_size: Option<[usize; 2]>,
) -> Segmentation {
    segments(scores, options, label_ids_to_fuse, target_size)
}

fn segments(
    scores: &SegmentationScores,
    options: &SegmentOptions,
    label_ids_to_fuse: &[usize],
    target_size: Option<[usize; 2]>,
) -> Segmentation {
    let SegmentationScores { detection, masks } = scores;
    let size = target_size.unwrap_or(masks.size);
    let places = masks.size[0] * masks.size[1];
    let kept = probable(detection, options.threshold);
    if kept.is_empty() || places == 0 || size.contains(&0) {
        return Segmentation { size, segmentation: vec![-1; size[0] * size[1]], segments_info: Vec::new() };
    }
    let mut values = Vec::with_capacity(kept.len() * places);
    for query in &kept {
        let mask = masks.values.chunks_exact(places).nth(query.number).unwrap_or_default();
        values.extend(mask.iter().map(|&x| sigmoid(x)));
    }
    let factors: Vec<f32> = kept.iter().map(|query| query.score).collect();
    let largest = largest(&ScoreMaps { size: masks.size, values }, &factors, options.mask_threshold as f32, size);
    let mut visible = vec![0usize; kept.len()];
    largest.numbers.iter().for_each(|&number| visible[number as usize] += 1);

    let mut ids = vec![0; kept.len()];
    let mut segments_info: Vec<SegmentInfo> = Vec::new();
    let mut id = 0;
    for (number, query) in kept.iter().enumerate() {
        let (visible, area) = (visible[number], largest.areas[number]);
        let overlap = f64::from(visible as f32 / area as f32);
        if visible == 0 || area == 0 || overlap <= options.overlap_mask_area_threshold {
            continue;
        }
        let was_fused = label_ids_to_fuse.contains(&query.label);
        // As in the reference, the next segment's number follows that of the label's first one.
        let first = segments_info.iter().find(|segment| segment.was_fused && segment.label_id == query.label);
        id = first.map_or(id + 1, |segment| segment.id);
        ids[number] = id;
        segments_info.push(SegmentInfo { id, label_id: query.label, was_fused, score: six_digits(query.score) });
    }
    let segmentation = largest.numbers.into_par_iter().map(|number| ids[number as usize]).collect();
    Segmentation { size, segmentation, segments_info }
}

/// A query whose most probable class is an object.
struct Query {
    number: usize,
    label: usize,
    score: f32,
}

/// The queries that are more probable than `threshold`.
fn probable(detection: &DetectionScores, threshold: f64) -> Vec<Query> {
    let no_object = detection.classes.saturating_sub(1);
    let queries = detection.probabilities().enumerate().map(|(number, probabilities)| {
        let (label, score) = super::largest(&probabilities);
        Query { number, label, score }
    });
    queries.filter(|query| query.label != no_object && query.score > threshold as f32).collect()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Rounded as Python's `round(x, 6)`.
fn six_digits(x: f32) -> f64 {
    format!("{x:.6}").parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two masks of the upper and the lower row, and one of the right column that the others mostly cover.
    fn scores(labels: [usize; 3]) -> SegmentationScores {
        let mut logits = vec![0.0; 3 * 4];
        for (query, (label, logit)) in labels.into_iter().zip([9.0, 8.0, 6.0]).enumerate() {
            logits[4 * query + label] = logit;
        }
        let masks = vec![6.0, 6.0, -6.0, -6.0, -6.0, -6.0, 6.0, 6.0, -6.0, 5.0, -6.0, 5.0];
        SegmentationScores {
            detection: DetectionScores { classes: 4, logits, boxes: vec![0.5; 12] },
            masks: ScoreMaps { size: [2, 2], values: masks },
        }
    }

    /// The numbers of transformers 5.23.0.
    #[test]
    fn each_object_is_a_segment_unless_others_cover_it() {
        let found = post_process_instance_segmentation(&scores([0, 0, 1]), &SegmentOptions::default(), Some([4, 4]));
        assert_eq!(found.segmentation, [1, 1, 1, 1, 1, 1, 1, 0, 2, 2, 2, 0, 2, 2, 2, 2]);
        let ids: Vec<_> = found.segments_info.iter().map(|segment| (segment.id, segment.label_id)).collect();
        assert_eq!(ids, [(1, 0), (2, 0)]);
        assert_eq!(found.segments_info[0].score, 0.99963);
    }

    #[test]
    fn segments_of_one_label_are_fused() {
        let found = post_process_panoptic_segmentation(&scores([2, 2, 1]), &SegmentOptions::default(), &[2], None);
        assert_eq!(found.segmentation, [1, 1, 1, 1]);
        assert!(found.segments_info.iter().all(|segment| segment.id == 1 && segment.was_fused));
        assert_eq!(found.segments_info.len(), 2);
    }

    #[test]
    fn without_objects_there_are_no_segments() {
        let options = SegmentOptions { threshold: 1.0, ..SegmentOptions::default() };
        let found = post_process_panoptic_segmentation(&scores([0, 1, 2]), &options, &[], Some([1, 2]));
        assert_eq!(found, Segmentation { size: [1, 2], segmentation: vec![-1, -1], segments_info: vec![] });
        let none = post_process_instance_segmentation(&scores([3, 3, 3]), &SegmentOptions::default(), None);
        assert!(none.segments_info.is_empty());
    }

    #[test]
    fn labels_of_pixels_are_those_of_the_largest_map() {
        let maps = ScoreMaps { size: [1, 2], values: vec![0.0, 3.0, 2.0, 1.0] };
        assert_eq!(post_process_semantic_segmentation(&maps, None), [1, 0]);
        assert_eq!(post_process_semantic_segmentation(&maps, Some([2, 4])), [1, 1, 0, 0, 1, 1, 0, 0]);
        let empty = ScoreMaps { size: [0, 2], values: vec![] };
        assert!(post_process_semantic_segmentation(&empty, None).is_empty());
        assert_eq!(post_process_queries_semantic_segmentation(&scores([0, 2, 1]), None), [0, 0, 2, 2]);
    }
}
