//! `cargo xtask digits`: scikit-learn's handwritten digits as folders of pictures, one for each digit.
//!
//! The data are 1797 pictures of 8 by 8 pixels, a row of 64 numbers from 0 to 16 and the digit. Of each digit a fifth
//! is for validation and a fifth for tests, by lot. People's pictures are larger, often dark on light, and not so well centred: the pictures to
//! learn from get changed copies besides, and those for tests are changed once more in a folder of their own.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use flate2::read::GzDecoder;
use tx::vision::image::Image;

use crate::random::Random;
use crate::root;

/// Rows and columns of a picture in the data.
const SIDE: usize = 8;
/// The number that stands for full ink.
const INK: u8 = 16;
/// Rows and columns of a changed picture.
const CHANGED_SIDE: usize = 32;
/// How many pixels wide and high the example makes a pixel.
const ENLARGED: usize = 16;
/// The most bytes of the data, unpacked.
const MAX_BYTES: u64 = 16 << 20;
/// One picture of each so many is for validation, and one for tests.
const HELD_OUT: usize = 5;

/// Write the digits as folders of pictures: `train/3/…png`, `validation/3/…png`, `test/3/…png`, `changed/3/…png`.
#[derive(Args)]
pub struct DigitsArgs {
    /// The data, `sklearn/datasets/data/digits.csv.gz` [default: the copy in models/digits/data]
    #[arg(long)]
    source: Option<PathBuf>,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// What the parts and the changes depend on.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many changed copies there are of each picture to learn from.
    #[arg(long, default_value_t = 12)]
    copies: usize,
    /// Also writes a picture of the tests into this file, large enough to be looked at.
    #[arg(long, value_name = "FILE")]
    example: Option<PathBuf>,
}

/// A picture of the data.
struct Digit {
    /// The line that it is from.
    line: usize,
    label: usize,
    /// From 0, nothing, to 1, full ink.
    ink: Vec<f64>,
}

pub fn digits(args: &DigitsArgs) -> Result<()> {
    let source = args.source.clone().unwrap_or_else(|| root().join("models/digits/data/digits.csv.gz"));
    let digits = read(&source).with_context(|| source.display().to_string())?;
    let mut random = Random::new(args.seed);
    let Parts { train, validation, test } = Parts::new(&digits, &mut random);
    for digit in &train {
        plain(digit, 1)?.save_png(&place(&args.out, "train", digit, "")?)?;
        for copy in 1..=args.copies {
            let changed = changed(digit, &mut random)?;
            changed.save_png(&place(&args.out, "train", digit, &format!("-{copy}"))?)?;
        }
    }
    for digit in &validation {
        plain(digit, 1)?.save_png(&place(&args.out, "validation", digit, "")?)?;
    }
    for digit in &test {
        plain(digit, 1)?.save_png(&place(&args.out, "test", digit, "")?)?;
        changed(digit, &mut random)?.save_png(&place(&args.out, "changed", digit, "")?)?;
    }
    println!(
        "{}: {} pictures to learn from, {} for validation, {} for tests",
        args.out.display(),
        train.len() * (1 + args.copies),
        validation.len(),
        test.len()
    );
    if let Some(path) = &args.example {
        let first = test.iter().min_by_key(|digit| digit.line).context("no pictures for tests")?;
        plain(first, ENLARGED)?.save_png(path)?;
        println!("{}: a {}, of line {}", path.display(), first.label, first.line);
    }
    Ok(())
}

/// The rows of the data.
fn read(path: &Path) -> Result<Vec<Digit>> {
    let mut text = String::new();
    GzDecoder::new(File::open(path)?).take(MAX_BYTES).read_to_string(&mut text)?;
    text.lines().zip(1..).map(|(row, line)| digit(row, line).with_context(|| format!("line {line}"))).collect()
}

fn digit(row: &str, line: usize) -> Result<Digit> {
    let numbers: Vec<u8> = row.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>()?;
    ensure!(numbers.len() == SIDE * SIDE + 1, "{} numbers, expected {} and the digit", numbers.len(), SIDE * SIDE);
    let (ink, label) = numbers.split_at(SIDE * SIDE);
    ensure!(ink.iter().all(|&ink| ink <= INK) && label[0] <= 9, "expected numbers to {INK}, and a digit");
    let ink = ink.iter().map(|&ink| f64::from(ink) / f64::from(INK)).collect();
    Ok(Digit { line, label: usize::from(label[0]), ink })
}

/// Who learns from which picture, and who does not.
#[derive(Default)]
struct Parts<'a> {
    train: Vec<&'a Digit>,
    validation: Vec<&'a Digit>,
    test: Vec<&'a Digit>,
}

impl<'a> Parts<'a> {
    /// Of each digit the same part.
    fn new(digits: &'a [Digit], random: &mut Random) -> Self {
        let mut parts = Self::default();
        for label in 0..10 {
            let mut same: Vec<&Digit> = digits.iter().filter(|digit| digit.label == label).collect();
            random.shuffle(&mut same);
            let count = same.len() / HELD_OUT;
            parts.validation.extend(&same[..count]);
            parts.test.extend(&same[count..2 * count]);
            parts.train.extend(&same[2 * count..]);
        }
        parts
    }
}

/// The file of a picture, whose folder is made.
fn place(out: &Path, part: &str, digit: &Digit, suffix: &str) -> Result<PathBuf> {
    let folder = out.join(part).join(digit.label.to_string());
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder.join(format!("{:04}{suffix}.png", digit.line)))
}

/// The picture as it is in the data, light on dark, each pixel drawn `factor` wide and high.
fn plain(digit: &Digit, factor: usize) -> Result<Image> {
    picture(SIDE * factor, |x, y| digit.ink[y / factor * SIDE + x / factor])
}

/// The picture as somebody else could have drawn it: larger, turned, moved, of another size and sharpness, and half of
/// the time dark on light.
fn changed(digit: &Digit, random: &mut Random) -> Result<Image> {
    let (sin, cos) = random.between(-0.25, 0.25).sin_cos();
    let [wide, high] = [random.between(0.65, 1.1), random.between(0.65, 1.1)];
    let slant = random.between(-0.2, 0.2);
    let [right, down] = [random.between(-0.1, 0.1), random.between(-0.1, 0.1)];
    let sharpness = random.between(1.0, 4.0);
    let dark_on_light = random.below(2) == 1;
    // From the middle of a pixel, from -0.5 to 0.5, to where it is in the data.
    let middle = |at: usize| (at as f64 + 0.5) / CHANGED_SIDE as f64 - 0.5;
    picture(CHANGED_SIDE, |x, y| {
        let (x, y) = (middle(x) - right, middle(y) - down);
        let (x, y) = ((x * cos + y * sin) / wide, (y * cos - x * sin) / high);
        let ink = between(digit, x + slant * y, y);
        let ink = ((ink - 0.5) * sharpness + 0.5).clamp(0.0, 1.0);
        if dark_on_light { 1.0 - ink } else { ink }
    })
}

/// The ink at a place between pixels: that of the four around it, by how near they are. Outside there is none.
fn between(digit: &Digit, x: f64, y: f64) -> f64 {
    let place = |at: f64| {
        let at = (at + 0.5) * SIDE as f64 - 0.5;
        (at.floor() as i64, at - at.floor())
    };
    let ((left, right_part), (top, lower_part)) = (place(x), place(y));
    let ink = |column: i64, row: i64| {
        let inside = |at: i64| usize::try_from(at).ok().filter(|&at| at < SIDE);
        inside(column).zip(inside(row)).map_or(0.0, |(column, row)| digit.ink[row * SIDE + column])
    };
    let row = |row: i64| ink(left, row) * (1.0 - right_part) + ink(left + 1, row) * right_part;
    row(top) * (1.0 - lower_part) + row(top + 1) * lower_part
}

/// A square picture in grey.
fn picture(side: usize, light: impl Fn(usize, usize) -> f64) -> Result<Image> {
    let mut pixels = Vec::with_capacity(3 * side * side);
    for y in 0..side {
        for x in 0..side {
            pixels.extend([(light(x, y) * 255.0).round() as u8; 3]);
        }
    }
    Ok(Image::new(side, side, pixels)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_are_checked() {
        let row = |last: &str| format!("{}{last}", "0,16,".repeat(32));
        let read = digit(&row("7"), 3).unwrap();
        assert_eq!((read.line, read.label, read.ink[0], read.ink[63]), (3, 7, 0.0, 1.0));
        for broken in [row("10"), row("x"), row("1,1"), row("17,1"), "0,1".into(), String::new()] {
            assert!(digit(&broken, 1).is_err(), "{broken}");
        }
    }

    #[test]
    fn between_pixels_is_the_mean_of_both() {
        let mut ink = vec![0.0; 64];
        (ink[0], ink[1]) = (1.0, 0.5);
        let digit = Digit { line: 1, label: 0, ink };
        let at = |pixel: f64| (pixel + 0.5) / 8.0 - 0.5;
        assert_eq!(between(&digit, at(0.0), at(0.0)), 1.0);
        assert_eq!(between(&digit, at(0.5), at(0.0)), 0.75);
        assert_eq!(between(&digit, at(0.0), at(0.5)), 0.5);
        assert_eq!(between(&digit, at(-1.0), at(0.0)), 0.0);
        assert_eq!(plain(&digit, 2).unwrap().pixels()[..9], [255, 255, 255, 255, 255, 255, 128, 128, 128]);
    }

    #[test]
    fn of_every_digit_a_fifth_is_in_either_part_that_nobody_learns_from() {
        let source = root().join("models/digits/data/digits.csv.gz");
        let digits = read(&source).unwrap();
        assert_eq!(digits.len(), 1797);
        let Parts { train, validation, test } = Parts::new(&digits, &mut Random::new(1));
        let lines: BTreeSet<_> = [&train, &validation, &test].into_iter().flatten().map(|digit| digit.line).collect();
        assert_eq!((train.len() + validation.len() + test.len(), lines.len()), (1797, 1797));
        for label in 0..10 {
            let count = |part: &[&Digit]| part.iter().filter(|digit| digit.label == label).count();
            assert_eq!((count(&validation), count(&test)), (count(&test), (count(&train) + 2 * count(&test)) / 5));
        }
        assert_eq!(changed(test[0], &mut Random::new(1)).unwrap().width(), 32);
    }
}
