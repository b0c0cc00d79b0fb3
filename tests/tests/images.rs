//! Pictures and image processors against Python's: every file of `data/images`, as `xtask reference` records them.
//!
//! Decoded pictures are those of PIL to the byte, JPEG and WebP included, and pixel values those of transformers'
//! processors to 1e-6. Broken files give one line and never another picture.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tx_core::error::Error;
use tx_core::weights::safetensors;
use tx_tests::Array;
use tx_vision::image::{Image, MAX_PIXELS};
use tx_vision::processor::{ImageProcessor, PixelBatch, Processed};

/// How far pixel values may be apart, where they are at most 1 or a few.
const TOLERANCE: f32 = 1e-6;
/// Of large results every so many values are recorded.
const STEP: usize = 997;

/// An entry of `golden.json`.
#[derive(Deserialize)]
struct Golden {
    processor: String,
    pictures: Vec<Single>,
    batch: Option<Batch>,
}

/// A picture alone.
#[derive(Deserialize)]
struct Single {
    file: String,
    shape: Vec<usize>,
    large: bool,
}

/// Pictures together.
#[derive(Deserialize)]
struct Batch {
    files: Vec<String>,
    mask: bool,
}

fn data() -> PathBuf {
    PathBuf::from("data/images")
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(data().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {folder}");
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn expected() -> BTreeMap<String, Array> {
    let tensors = safetensors::read(&data().join("expected.safetensors")).unwrap();
    tensors.into_iter().map(|(name, tensor)| (name, Array::new(&tensor.to_data()).unwrap())).collect()
}

fn open(file: &str) -> Image {
    Image::open(&data().join("pictures").join(file)).unwrap_or_else(|e| panic!("{e}"))
}

/// How two lists of values differ, if they do.
fn difference(found: &[f32], expected: &[f32], tolerance: f32) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} values, expected {}", found.len(), expected.len()));
    }
    let near = |a: f32, b: f32| (a - b).abs() <= tolerance * b.abs().max(1.0);
    let wrong: Vec<_> = (0..found.len()).filter(|&i| !near(found[i], expected[i])).collect();
    let &first = wrong.first()?;
    let most = wrong.iter().map(|&i| (found[i] - expected[i]).abs()).fold(0.0, f32::max);
    Some(format!(
        "{} of {} values differ by up to {most}; the first, {first}, is {}, expected {}",
        wrong.len(),
        found.len(),
        found[first],
        expected[first]
    ))
}

#[test]
fn pictures_are_those_of_pil() {
    let expected = expected();
    let mut wrong = Vec::new();
    let files = files("pictures");
    for path in &files {
        let name = name(path);
        let expected = &expected[&format!("rgb.{name}")];
        let image = match Image::open(path) {
            Ok(image) => image,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        if [image.height(), image.width(), 3] != expected.shape[..] {
            wrong.push(format!("{name}: {image:?}, expected {:?}", expected.shape));
            continue;
        }
        let found: Vec<f32> = image.pixels().iter().map(|&byte| f32::from(byte)).collect();
        wrong.extend(difference(&found, &expected.values, 0.0).map(|difference| format!("{name}: {difference}")));
    }
    assert!(files.len() > 80 && wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn pixel_values_are_those_of_python() {
    let expected = expected();
    let goldens: Vec<Golden> = serde_json::from_str(&fs::read_to_string(data().join("golden.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for golden in &goldens {
        let name = &golden.processor;
        let processor = ImageProcessor::from_folder(&data().join("processors").join(name)).unwrap();
        for Single { file, shape, large } in &golden.pictures {
            let image = open(file);
            let processed = processor.process(&image).unwrap_or_else(|e| panic!("{name}, {file}: {e}"));
            assert_eq!(processed.original, [image.height(), image.width()]);
            // A picture alone is a batch of one.
            let PixelBatch { shape: found_shape, values, .. } = processor.batch(vec![processed.clone()]).unwrap();
            assert_eq!(values, processed.values, "{name}, {file}");
            let found: Vec<f32> = if *large { values.into_iter().step_by(STEP).collect() } else { values };
            let expected = &expected[&format!("values.{name}.{file}")];
            if found_shape[1..] != shape[..] {
                wrong.push(format!("{name}, {file}: shape {found_shape:?}, expected {shape:?}"));
            } else if let Some(difference) = difference(&found, &expected.values, TOLERANCE) {
                wrong.push(format!("{name}, {file}: {difference}"));
            }
        }
        let Some(batch) = &golden.batch else { continue };
        let images: Vec<Processed> = batch.files.iter().map(|file| processor.process(&open(file)).unwrap()).collect();
        let found = processor.batch(images).unwrap();
        let values = &expected[&format!("batch.{name}.values")];
        assert_eq!(found.shape, values.shape[..], "{name}");
        wrong.extend(difference(&found.values, &values.values, TOLERANCE).map(|d| format!("{name}, batch: {d}")));
        assert_eq!(found.mask.is_some(), batch.mask, "{name}");
        if let Some(mask) = found.mask {
            let mask: Vec<f32> = mask.iter().map(|&kept| kept as f32).collect();
            let expected = &expected[&format!("batch.{name}.mask")];
            wrong.extend(difference(&mask, &expected.values, 0.0).map(|d| format!("{name}, mask: {d}")));
        }
    }
    assert!(goldens.len() >= 40 && wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// The processor of a folder without a class is that of its architecture; a nested file has the first word.
#[test]
fn processors_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let size = || {
        let processed = ImageProcessor::from_folder(folder.path()).unwrap().process(&open("rgb.png")).unwrap();
        [processed.height, processed.width]
    };
    write("preprocessor_config.json", r#"{"size": 10}"#);
    write("config.json", r#"{"model_type": "swin"}"#);
    assert_eq!(size(), [10, 10]);
    write("processor_config.json", r#"{"processor_class": "CLIPProcessor"}"#);
    assert_eq!(size(), [10, 10]);
    write(
        "processor_config.json",
        r#"{"image_processor": {"image_processor_type": "SiglipImageProcessorFast", "size": [7, 6]}}"#,
    );
    assert_eq!(size(), [7, 6]);
}

/// One line that names the picture.
fn refused(result: Result<Image, Error>, what: &str, expected: &str) {
    let message = result.err().unwrap_or_else(|| panic!("{what}: no error")).to_string();
    assert!(message.contains(expected) && !message.contains('\n') && message.len() < 4096, "{what}: {message}");
}

#[test]
fn what_is_no_picture_is_refused() {
    let from = |bytes: &[u8]| Image::from_bytes(bytes, "upload");
    refused(from(b""), "empty", "upload: an empty file");
    refused(from(b"hello, I am a text"), "text", "JPEG, PNG");
    refused(from(&[0; 1000]), "zeros", "`unknown`");
    refused(from(b"\x89PNG\r\n\x1a\n"), "a signature", "PNG");
    refused(from(b"\xff\xd8\xff"), "a marker", "JPEG: the file ends");
    refused(from(b"GIF89a"), "a GIF's beginning", "GIF");
    refused(from(b"BM"), "a bitmap's beginning", "BMP");
    refused(from(b"II*\0"), "a TIFF's beginning", "TIFF");
    refused(from(b"RIFF\0\0\0\0WEBP"), "a WebP's beginning", "WebP");
    let missing = data().join("pictures/missing.png");
    refused(Image::open(&missing), "a missing file", "missing.png");
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0";
    assert!(matches!(from(heic), Err(Error::Unsupported { .. })));
}

#[test]
fn bombs_take_no_memory_and_no_time() {
    let start = Instant::now();
    for path in files("refused") {
        refused(Image::open(&path), &name(&path), "60000 x 60000 pixels");
    }
    let open = |file: &str| fs::read(data().join("pictures").join(file)).unwrap();
    let with = |mut bytes: Vec<u8>, at: usize, new: &[u8]| {
        bytes[at..at + new.len()].copy_from_slice(new);
        Image::from_bytes(&bytes, "bomb")
    };
    // A JPEG of few bytes cannot hold so many blocks.
    let jpeg = open("444.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    refused(with(jpeg.clone(), frame + 5, &[0x30, 0, 0x30, 0]), "a large JPEG", "12288 x 12288");
    refused(with(jpeg.clone(), frame + 5, &[0xff; 4]), "a huge JPEG", &MAX_PIXELS.to_string());
    refused(with(jpeg, frame + 5, &[0, 0, 0, 9]), "a JPEG without rows", "9 x 0 pixels");
    refused(with(open("palette.gif"), 6, &[0xff; 4]), "a huge GIF", "65535 x 65535");
    refused(with(open("rgb.bmp"), 18, &[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]), "a huge bitmap", "65535 x 65535");
    refused(with(open("rgb.bmp"), 18, &[0; 4]), "a bitmap without columns", "0 x 23");
    refused(with(open("rgb.bmp"), 22, &[0, 0x10, 0, 0]), "a bitmap of few rows", "ends before");
    refused(with(png(0, 16), 0, &[]), "a PNG without columns", "PNG");
    refused(with(png(16, 0), 0, &[]), "a PNG without rows", "PNG");
    refused(with(png(0x7fff_ffff, 0x7fff_ffff), 0, &[]), "a huge PNG", "2147483647 x 2147483647");
    let webp = open("lossy.webp");
    let frame = webp.windows(3).position(|bytes| bytes == [0x9d, 0x01, 0x2a]).unwrap();
    refused(with(webp, frame + 3, &[0, 0]), "a WebP without columns", "bomb: ");
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// A PNG that is nothing but its header.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]);
    let crc = header.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    });
    [&b"\x89PNG\r\n\x1a\n\0\0\0\x0d"[..], &header, &(!crc).to_be_bytes()].concat()
}

/// Whatever is cut off or changed: an error or a picture, and where it is cut no other picture than the whole one.
#[test]
fn broken_files_are_no_other_pictures() {
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut cut = 0;
    for path in files("pictures") {
        let (name, bytes) = (name(&path), fs::read(&path).unwrap());
        let whole = Image::open(&path).unwrap();
        for part in [1, 2, 5, 8, 9] {
            match Image::from_bytes(&bytes[..bytes.len() * part / 10], &name) {
                Ok(image) => assert_eq!(image, whole, "{name}, {part} tenths"),
                Err(error) => {
                    cut += 1;
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
        for _ in 0..20 {
            let mut bytes = bytes.clone();
            for _ in 0..=next(4) {
                let at = next(bytes.len());
                bytes[at] = next(256) as u8;
            }
            if let Err(error) = Image::from_bytes(&bytes, &name) {
                let error = error.to_string();
                assert!(!error.contains('\n') && error.starts_with(&name), "{error}");
            }
        }
    }
    assert!(cut > 250, "{cut} of the cut files are errors");
}
