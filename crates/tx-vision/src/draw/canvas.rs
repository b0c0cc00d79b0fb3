//! A picture that is painted on; what lies outside of it is cut off.

use tx_core::error::Result;

use super::font;
use crate::image::Image;

/// The shorter side of a picture, in pixels, whose lines and letters' lines are one pixel thick.
const SIDE: usize = 240;
/// How often a caption moves down before it covers another one.
const MOVES: usize = 50;

/// Red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Color([u8; 3]);

impl Color {
    const BLACK: Self = Self([0; 3]);
    const WHITE: Self = Self([255; 3]);

    /// A strong colour of a place, from 0 to 1, on the wheel of colours.
    pub(super) fn of_hue(hue: f32) -> Self {
        const DARKEST: f32 = 40.0;
        const BRIGHTEST: f32 = 240.0;
        let channel = |shift: f32| {
            // A trapezoid: a third of the wheel dark, a third bright.
            let at = (hue + shift).fract() * 6.0;
            let share = ((at - 3.0).abs() - 1.0).clamp(0.0, 1.0);
            (DARKEST + (BRIGHTEST - DARKEST) * share) as u8
        };
        Self([channel(0.0), channel(2.0 / 3.0), channel(1.0 / 3.0)])
    }

    /// Black or white, whichever is easier to read on it.
    fn ink(self) -> Self {
        let [red, green, blue] = self.0.map(f32::from);
        // The shares of the channels in how bright a colour looks.
        if 0.299 * red + 0.587 * green + 0.114 * blue > 128.0 { Self::BLACK } else { Self::WHITE }
    }
}

/// Columns from `left` to before `right`, and rows from `top` to before `bottom`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rectangle {
    pub(super) left: i64,
    pub(super) top: i64,
    pub(super) right: i64,
    pub(super) bottom: i64,
}

impl Rectangle {
    fn overlaps(&self, other: &Self) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }
}

/// The picture, and where its captions are.
pub(super) struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
    /// How thick lines are, in pixels.
    scale: usize,
    captions: Vec<Rectangle>,
}

impl Canvas {
    pub(super) fn new(image: &Image) -> Self {
        let (width, height) = (image.width(), image.height());
        let scale = (width.min(height) / SIDE).max(1);
        Self { width, height, pixels: image.pixels().to_vec(), scale, captions: Vec::new() }
    }

    pub(super) fn into_image(self) -> Result<Image> {
        Image::new(self.width, self.height, self.pixels)
    }

    /// The sides of a rectangle.
    pub(super) fn frame(&mut self, rectangle: Rectangle, color: Color) {
        let Rectangle { left, top, right, bottom } = rectangle;
        let line = self.scale as i64;
        self.fill(Rectangle { bottom: bottom.min(top + line), ..rectangle }, color);
        self.fill(Rectangle { top: top.max(bottom - line), ..rectangle }, color);
        self.fill(Rectangle { right: right.min(left + line), ..rectangle }, color);
        self.fill(Rectangle { left: left.max(right - line), ..rectangle }, color);
    }

    /// The pixels that are inside, mixed with the colour; those at the edge have it whole.
    pub(super) fn area(&mut self, inside: &[bool], color: Color, opacity: f32) {
        let (width, height, line) = (self.width, self.height, self.scale);
        for (i, pixel) in self.pixels.chunks_exact_mut(3).enumerate().filter(|&(i, _)| inside[i]) {
            let (x, y) = (i % width, i / width);
            let is_edge = (x >= line && !inside[i - line])
                || (x + line < width && !inside[i + line])
                || (y >= line && !inside[i - line * width])
                || (y + line < height && !inside[i + line * width]);
            let opacity = if is_edge { 1.0 } else { opacity };
            for (channel, color) in pixel.iter_mut().zip(color.0) {
                *channel = (f32::from(*channel) * (1.0 - opacity) + f32::from(color) * opacity).round() as u8;
            }
        }
    }

    /// How wide a caption is, in pixels.
    pub(super) fn caption_width(&self, text: &str) -> i64 {
        let letters = text.chars().take(self.width).count();
        (self.scale * (letters * (font::WIDTH + 1) + 1)) as i64
    }

    /// How high a caption is, in pixels.
    pub(super) fn caption_height(&self) -> i64 {
        (self.scale * (font::HEIGHT + 2)) as i64
    }

    /// A text on a filled rectangle, whose upper left corner is near `corner`.
    pub(super) fn caption(&mut self, [left, top]: [i64; 2], text: &str, color: Color) {
        let (width, height) = (self.caption_width(text), self.caption_height());
        let left = left.min(self.width as i64 - width).max(0);
        let top = top.min(self.height as i64 - height).max(0);
        let at = |top: i64| Rectangle { left, top, right: left + width, bottom: top + height };
        let lower = (0..MOVES as i64).map(|moves| at(top + moves * height));
        let mut free = lower.filter(|place| {
            place.bottom <= self.height as i64 && !self.captions.iter().any(|other| other.overlaps(place))
        });
        let place = free.next().unwrap_or_else(|| at(top));
        self.fill(place, color);
        self.text([place.left + self.scale as i64, place.top + self.scale as i64], text, color.ink());
        self.captions.push(place);
    }

    fn text(&mut self, [left, top]: [i64; 2], text: &str, color: Color) {
        let dot = self.scale as i64;
        for (number, letter) in text.chars().take(self.width).enumerate() {
            let left = left + dot * (number * (font::WIDTH + 1)) as i64;
            for (y, row) in font::rows(letter).into_iter().enumerate() {
                for x in (0..font::WIDTH).filter(|x| (row >> (font::WIDTH - 1 - x)) & 1 == 1) {
                    let (left, top) = (left + dot * x as i64, top + dot * y as i64);
                    self.fill(Rectangle { left, top, right: left + dot, bottom: top + dot }, color);
                }
            }
        }
    }

    fn fill(&mut self, rectangle: Rectangle, color: Color) {
        let clip = |side: i64, end: usize| side.clamp(0, end as i64) as usize;
        let (left, right) = (clip(rectangle.left, self.width), clip(rectangle.right, self.width));
        for y in clip(rectangle.top, self.height)..clip(rectangle.bottom, self.height) {
            let row = &mut self.pixels[3 * y * self.width..][..3 * self.width];
            let row = row.get_mut(3 * left..3 * right).unwrap_or_default();
            row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&color.0));
        }
    }
}
