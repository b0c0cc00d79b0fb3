//! Objects and segments painted on their picture.
//!
//! Every label has its own colour. Lines and letters grow with the picture, and a caption keeps out of the way of those
//! that are there before it, as far as there is room.

mod canvas;
mod font;

use tx_core::error::{Error, Result};

use self::canvas::{Canvas, Color, Rectangle};
use crate::image::Image;
use crate::pipelines::{DetectedObject, Segment};

/// How much of a segment's colour is mixed with the picture.
const OPACITY: f32 = 0.5;

/// A copy of the picture with a frame and a caption for every object.
///
/// # Errors
/// [`Error::Input`] as of [`Image::new`].
pub fn draw_objects(image: &Image, objects: &[DetectedObject]) -> Result<Image> {
    let mut canvas = Canvas::new(image);
    let mut colors = Colors::default();
    let colors: Vec<Color> = objects.iter().map(|object| colors.of(&object.label)).collect();
    for (object, &color) in objects.iter().zip(&colors) {
        canvas.frame(rectangle(object), color);
    }
    for (object, color) in objects.iter().zip(colors) {
        let frame = rectangle(object);
        let caption = format!("{} {:.2}", object.label, object.score);
        let above = frame.top - canvas.caption_height();
        let top = if above < 0 { frame.top } else { above };
        canvas.caption([frame.left, top], &caption, color);
    }
    canvas.into_image()
}

/// A copy of the picture with a coloured area and a caption for every segment.
///
/// # Errors
/// [`Error::Input`] if the segments are not those of a picture of this size.
pub fn draw_segments(image: &Image, segments: &[Segment]) -> Result<Image> {
    let mut canvas = Canvas::new(image);
    let mut colors = Colors::default();
    let mut captions = Vec::with_capacity(segments.len());
    for segment in segments {
        let size = [segment.mask.width(), segment.mask.height()];
        if size != [image.width(), image.height()] {
            let found = format_args!("a mask of {} x {} pixels", size[0], size[1]);
            let expected = format_args!("{} x {}, as the picture", image.width(), image.height());
            return Err(Error::input("segments", found, expected));
        }
        let color = colors.of(&segment.label);
        let inside: Vec<bool> = segment.mask.pixels().collect();
        canvas.area(&inside, color, OPACITY);
        captions.push((middle(&inside, image.width()), segment, color));
    }
    for (middle, segment, color) in captions {
        let Some([x, y]) = middle else { continue };
        let caption = match segment.score {
            Some(score) => format!("{} {score:.2}", segment.label),
            None => segment.label.clone(),
        };
        let corner = [x - canvas.caption_width(&caption) / 2, y - canvas.caption_height() / 2];
        canvas.caption(corner, &caption, color);
    }
    canvas.into_image()
}

fn rectangle(object: &DetectedObject) -> Rectangle {
    let [left, top, right, bottom] =
        [object.bounding_box.xmin, object.bounding_box.ymin, object.bounding_box.xmax, object.bounding_box.ymax];
    Rectangle { left: left.into(), top: top.into(), right: right.into(), bottom: bottom.into() }
}

/// A place in the middle of an area, which is in it: half-way along the longest run of the row that is nearest to the
/// mean one.
fn middle(inside: &[bool], width: usize) -> Option<[i64; 2]> {
    let counts: Vec<usize> = inside.chunks(width).map(|row| row.iter().filter(|&&inside| inside).count()).collect();
    let area: usize = counts.iter().sum();
    let rows: usize = counts.iter().enumerate().map(|(row, count)| row * count).sum();
    let mean = rows.checked_div(area)?;
    let (row, _) =
        counts.iter().enumerate().filter(|&(_, &count)| count > 0).min_by_key(|&(row, _)| row.abs_diff(mean))?;
    let (mut best, mut start) = ([0, 0], 0);
    for (x, &inside) in inside[row * width..][..width].iter().enumerate() {
        if !inside {
            start = x + 1;
        } else if x + 1 - start > best[1] - best[0] {
            best = [start, x + 1];
        }
    }
    Some([((best[0] + best[1]) / 2) as i64, row as i64])
}

/// The colours of labels, in the order in which they come.
#[derive(Default)]
struct Colors<'a> {
    labels: Vec<&'a str>,
}

impl<'a> Colors<'a> {
    fn of(&mut self, label: &'a str) -> Color {
        let number = self.labels.iter().position(|&known| known == label).unwrap_or_else(|| {
            self.labels.push(label);
            self.labels.len() - 1
        });
        // Steps of the golden ratio around the wheel of colours keep all of them apart.
        Color::of_hue((number as f32 * 0.618_034).fract())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipelines::BoundingBox;

    fn picture(width: usize, height: usize) -> Image {
        Image::new(width, height, vec![100; 3 * width * height]).unwrap()
    }

    fn object(label: &str, [xmin, ymin, xmax, ymax]: [i32; 4]) -> DetectedObject {
        DetectedObject { score: 0.5, label: label.into(), bounding_box: BoundingBox { xmin, ymin, xmax, ymax } }
    }

    #[test]
    fn frames_are_painted_where_the_objects_are() {
        let image = picture(120, 100);
        let drawn = draw_objects(&image, &[object("cat", [20, 30, 100, 90])]).unwrap();
        let pixel = |x: usize, y: usize| &drawn.pixels()[3 * (y * 120 + x)..][..3];
        assert_eq!(pixel(60, 60), [100; 3]);
        assert_ne!(pixel(20, 60), [100; 3]);
        assert_ne!(pixel(60, 89), [100; 3]);
        assert_eq!(pixel(60, 90), [100; 3], "the lower side is the first row outside");
        assert_ne!(pixel(21, 25), [100; 3], "the caption is above");
        assert_eq!(pixel(5, 5), [100; 3]);
    }

    #[test]
    fn what_lies_outside_is_cut_off() {
        let far = i32::MAX;
        let objects = [
            object("a label that is longer than the picture is wide", [-5, -5, 3, 3]),
            object("é", [-far, -far, far, far]),
            object("", [far, far, -far, -far]),
            object("b", [2, 2, 2, 2]),
        ];
        for (width, height) in [(1, 1), (7, 3), (300, 2), (2, 300)] {
            let drawn = draw_objects(&picture(width, height), &objects).unwrap();
            assert_eq!((drawn.width(), drawn.height()), (width, height));
        }
    }

    #[test]
    fn labels_have_colours_of_their_own() {
        let mut colors = Colors::default();
        let first = colors.of("a");
        let others: Vec<_> = ["b", "c", "d", "e"].map(|label| colors.of(label)).into();
        assert_eq!(colors.of("a"), first);
        assert!(!others.contains(&first));
    }

    #[test]
    fn the_middle_of_an_area_is_in_it() {
        let ring = [true, true, true, true, false, true, true, true, true];
        assert_eq!(middle(&ring, 3), Some([0, 1]));
        assert_eq!(middle(&[false; 6], 3), None);
        assert_eq!(middle(&[false, true, true, true], 4), Some([2, 0]));
        assert_eq!(middle(&[], 3), None);
    }
}
