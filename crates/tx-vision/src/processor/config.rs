//! `preprocessor_config.json`: the keys that the classes share, and what each class takes where a key is missing.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tx_core::config::{Config, kind, read_json};
use tx_core::error::{Error, Result};

use super::CHANNELS;
use super::size::Size;
use crate::image::Resample;

/// The longest side that a file may ask for: no model comes near.
const MAX_SIDE: u64 = 1 << 16;

const IMAGENET_DEFAULT_MEAN: [f64; CHANNELS] = [0.485, 0.456, 0.406];
const IMAGENET_DEFAULT_STD: [f64; CHANNELS] = [0.229, 0.224, 0.225];
const IMAGENET_STANDARD: [f64; CHANNELS] = [0.5; CHANNELS];
const OPENAI_CLIP_MEAN: [f64; CHANNELS] = [0.48145466, 0.4578275, 0.40821073];
const OPENAI_CLIP_STD: [f64; CHANNELS] = [0.26862954, 0.26130258, 0.27577711];

/// A class of HF: its defaults, and what it does of what a file may say.
#[derive(Debug, Clone, Copy)]
struct Class {
    name: &'static str,
    /// The architectures that have it where no file names a class.
    model_types: &'static [&'static str],
    resample: Resample,
    image_mean: [f64; CHANNELS],
    image_std: [f64; CHANNELS],
    size: Size,
    /// What a single number of `size` means: both sides, or the shorter one.
    default_to_square: bool,
    crop_size: Option<[usize; 2]>,
    do_center_crop: bool,
    /// Whether it heeds `do_center_crop`.
    crops: bool,
    resizes: Resizes,
    pads: Pads,
}

/// How a class reads `size`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Resizes {
    /// Any keys.
    Plainly,
    /// `shortest_edge` only: a crop, by `crop_pct`.
    Cropping,
    /// All but a lonely `shortest_edge`; edges are multiples of that number.
    Bounded(usize),
}

/// What a class does with `do_pad`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pads {
    Never,
    IfAsked,
    /// Unless asked not to, and tells where.
    WithMask,
}

/// A square.
const fn square(side: usize) -> Size {
    Size::Exact { height: side, width: side }
}

const VIT: Class = Class {
    name: "ViTImageProcessor",
    model_types: &["ijepa", "swin", "swinv2", "vit", "vit_mae", "vit_msn"],
    resample: Resample::Bilinear,
    image_mean: IMAGENET_STANDARD,
    image_std: IMAGENET_STANDARD,
    size: square(224),
    default_to_square: true,
    crop_size: None,
    do_center_crop: false,
    crops: true,
    resizes: Resizes::Plainly,
    pads: Pads::IfAsked,
};

const CLIP: Class = Class {
    name: "CLIPImageProcessor",
    model_types: &["altclip", "clip", "git", "groupvit", "metaclip_2", "xclip"],
    resample: Resample::Bicubic,
    image_mean: OPENAI_CLIP_MEAN,
    image_std: OPENAI_CLIP_STD,
    size: Size::ShortestEdge(224),
    default_to_square: false,
    crop_size: Some([224, 224]),
    do_center_crop: true,
    ..VIT
};

const DETR: Class = Class {
    name: "DetrImageProcessor",
    model_types: &["detr", "table-transformer"],
    image_mean: IMAGENET_DEFAULT_MEAN,
    image_std: IMAGENET_DEFAULT_STD,
    size: Size::Edges { shortest: 800, longest: 1333, step: 1 },
    default_to_square: false,
    crops: false,
    resizes: Resizes::Bounded(1),
    pads: Pads::WithMask,
    ..VIT
};

/// Every class, with HF's defaults.
const CLASSES: &[Class] = &[
    Class {
        name: "BeitImageProcessor",
        model_types: &["beit", "data2vec-vision"],
        resample: Resample::Bicubic,
        crop_size: Some([224, 224]),
        pads: Pads::Never,
        ..VIT
    },
    Class { name: "BitImageProcessor", model_types: &["bit", "dinov2", "focalnet", "hiera"], ..CLIP },
    Class { name: "ChineseCLIPImageProcessor", model_types: &["chinese_clip"], ..CLIP },
    CLIP,
    Class {
        name: "ConvNextImageProcessor",
        model_types: &["convnext", "convnextv2", "cvt", "regnet", "resnet"],
        resample: Resample::Bicubic,
        size: Size::ShortestEdge(384),
        default_to_square: false,
        resizes: Resizes::Cropping,
        pads: Pads::Never,
        ..VIT
    },
    Class {
        name: "DeiTImageProcessor",
        model_types: &["deit"],
        resample: Resample::Bicubic,
        size: square(256),
        crop_size: Some([224, 224]),
        do_center_crop: true,
        ..VIT
    },
    DETR,
    Class {
        name: "MobileNetV2ImageProcessor",
        model_types: &["mobilenet_v2"],
        size: Size::ShortestEdge(256),
        default_to_square: false,
        crop_size: Some([224, 224]),
        do_center_crop: true,
        pads: Pads::Never,
        ..VIT
    },
    Class {
        name: "SegformerImageProcessor",
        model_types: &["segformer", "upernet"],
        image_mean: IMAGENET_DEFAULT_MEAN,
        image_std: IMAGENET_DEFAULT_STD,
        size: square(512),
        crops: false,
        pads: Pads::Never,
        ..VIT
    },
    Class {
        name: "SiglipImageProcessor",
        model_types: &["siglip"],
        resample: Resample::Bicubic,
        default_to_square: false,
        ..VIT
    },
    VIT,
    Class { name: "YolosImageProcessor", model_types: &["yolos"], resizes: Resizes::Bounded(16), ..DETR },
];

/// The keys of the file that decide something; null is a missing key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Keys {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    max_size: Option<usize>,
    default_to_square: Option<bool>,
    resample: Option<Resample>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    crop_pct: Option<f64>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Value>,
    image_std: Option<Value>,
    do_pad: Option<bool>,
    pad_and_return_pixel_mask: Option<bool>,
    pad_size: Option<Value>,
}

/// What is done to a picture.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub resize: Option<Resize>,
    pub resample: Resample,
    /// Height and width.
    pub crop: Option<[usize; 2]>,
    rescale: Option<f64>,
    /// Mean and standard deviation.
    normalize: Option<[[f32; CHANNELS]; 2]>,
    pub pad: bool,
    /// Height and width; else those of the largest picture.
    pub pad_size: Option<[usize; 2]>,
    pub mask: bool,
}

/// How a picture gets its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Resize {
    To(Size),
    /// Its shorter side to `shortest_edge / crop_pct`, then the square in its middle.
    Crop {
        shortest_edge: usize,
        crop_pct: f64,
    },
}

impl Settings {
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let (own, shared) = (folder.join("preprocessor_config.json"), folder.join("processor_config.json"));
        let mut part = if shared.is_file() { read_json(&shared)? } else { Value::Null };
        let part = part.get_mut("image_processor").map(Value::take).unwrap_or_default();
        let (path, value) = match part {
            Value::Null if own.is_file() => (&own, read_json(&own)?),
            Value::Null => {
                return Err(Error::MissingFile {
                    folder: folder.to_path_buf(),
                    expected: "`preprocessor_config.json`".into(),
                    remedy: "it says how pictures are prepared for the model".into(),
                });
            }
            part => (&shared, part),
        };
        if !value.is_object() {
            return Err(Error::malformed(path, format_args!("expected a JSON object, found {}", kind(&value))));
        }
        let keys: Keys = serde_path_to_error::deserialize(value).map_err(|e| {
            let key = e.path().to_string();
            Error::config(path, key, e.into_inner())
        })?;
        let class = class(&keys, path, folder)?;
        Self::new(keys, class, path)
    }

    fn new(keys: Keys, class: &Class, path: &Path) -> Result<Self> {
        let wrong = move |key: &'static str| move |reason: String| Error::config(path, key, reason);
        let whole = |key: &'static str, value: Option<Value>| -> Result<Option<[usize; 2]>> {
            let Some(value) = value else { return Ok(None) };
            match size(&value, true, None, 1).map_err(wrong(key))? {
                Size::Exact { height, width } => Ok(Some([height, width])),
                _ => Err(wrong(key)("expected `height` and `width`".to_owned())),
            }
        };
        let step = if let Resizes::Bounded(step) = class.resizes { step } else { 1 };
        let size = match keys.size {
            Some(value) => {
                let square = keys.default_to_square.unwrap_or(class.default_to_square);
                // Files of old have the other bound beside `size`.
                let longest = (class.pads == Pads::WithMask).then(|| keys.max_size.unwrap_or(1333));
                size(&value, square, longest, step).map_err(wrong("size"))?
            }
            None => match class.size {
                Size::Edges { shortest, longest, .. } => Size::Edges { shortest, longest, step },
                other => other,
            },
        };
        let resize = match (class.resizes, size) {
            _ if !keys.do_resize.unwrap_or(true) => None,
            (Resizes::Cropping, Size::ShortestEdge(edge) | Size::Edges { shortest: edge, .. }) => {
                let crop_pct = keys.crop_pct.unwrap_or(224.0 / 256.0);
                if !(crop_pct > 0.0 && crop_pct.is_finite()) {
                    return Err(wrong("crop_pct")(format!("{crop_pct}, expected a number above 0")));
                }
                Some(if edge < 384 { Resize::Crop { shortest_edge: edge, crop_pct } } else { Resize::To(square(edge)) })
            }
            (Resizes::Cropping, _) => return Err(wrong("size")("expected `shortest_edge`".to_owned())),
            (Resizes::Bounded(_), Size::ShortestEdge(_)) => {
                return Err(wrong("size")("expected `longest_edge` beside `shortest_edge`".to_owned()));
            }
            (_, size) => Some(Resize::To(size)),
        };
        let crop_size = whole("crop_size", keys.crop_size)?.or(class.crop_size);
        let crop = (class.crops && keys.do_center_crop.unwrap_or(class.do_center_crop)).then_some(crop_size);
        let crop = match crop {
            Some(None) => return Err(wrong("crop_size")("missing, and `do_center_crop` is true".to_owned())),
            Some(size) => size,
            None => None,
        };
        let factor = keys.rescale_factor.unwrap_or(1.0 / 255.0);
        if !factor.is_finite() {
            return Err(wrong("rescale_factor")(format!("{factor}, expected a finite number")));
        }
        let mean = channels(keys.image_mean.as_ref(), class.image_mean).map_err(wrong("image_mean"))?;
        let std = channels(keys.image_std.as_ref(), class.image_std).map_err(wrong("image_std"))?;
        if std.contains(&0.0) {
            return Err(wrong("image_std")("a channel is divided by zero".to_owned()));
        }
        let pad = match class.pads {
            Pads::Never => false,
            Pads::IfAsked => keys.do_pad.unwrap_or(false),
            Pads::WithMask => keys.do_pad.or(keys.pad_and_return_pixel_mask).unwrap_or(true),
        };
        Ok(Self {
            resize,
            resample: keys.resample.unwrap_or(class.resample),
            crop,
            rescale: keys.do_rescale.unwrap_or(true).then_some(factor),
            normalize: keys.do_normalize.unwrap_or(true).then_some([mean, std]),
            pad,
            pad_size: whole("pad_size", keys.pad_size)?,
            mask: pad && class.pads == Pads::WithMask,
        })
    }

    /// The pixel values of the bytes 0 to 255 of a channel.
    pub fn values_of_bytes(&self, channel: usize) -> Vec<f32> {
        let value = |byte: u8| {
            let value = self.rescale.map_or(f32::from(byte), |factor| (f64::from(byte) * factor) as f32);
            self.normalize.map_or(value, |[mean, std]| (value - mean[channel]) / std[channel])
        };
        (0..=u8::MAX).map(value).collect()
    }
}

/// The class that the file names, or that of the architecture.
fn class(keys: &Keys, path: &Path, folder: &Path) -> Result<&'static Class> {
    let old = keys.feature_extractor_type.as_ref().map(|name| name.replace("FeatureExtractor", "ImageProcessor"));
    let Some(name) = keys.image_processor_type.clone().or(old) else {
        let missing = || Error::config(path, "image_processor_type", "missing; it names the processor's class");
        let config = Config::from_folder(folder).map_err(|_| missing())?;
        let model_type = config.model_type().map_err(|_| missing())?;
        return CLASSES.iter().find(|class| class.model_types.contains(&model_type)).ok_or_else(missing);
    };
    let plain = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(&name);
    CLASSES.iter().find(|class| class.name == plain).ok_or_else(|| Error::Unsupported {
        path: path.to_path_buf(),
        key: "image_processor_type".to_owned(),
        value: name.clone(),
        supported: CLASSES.iter().map(|class| class.name).collect::<Vec<_>>().join(", "),
    })
}

/// A size in one of the ways that files have: a number, a list, a map.
fn size(value: &Value, square: bool, longest: Option<usize>, step: usize) -> Result<Size, String> {
    let side = |value: &Value| {
        let side = value.as_u64().filter(|side| (1..=MAX_SIDE).contains(side));
        side.map(|side| side as usize).ok_or_else(|| format!("{value}, expected an integer from 1 to {MAX_SIDE}"))
    };
    match value {
        Value::Array(sides) => match sides.as_slice() {
            [height, width] => Ok(Size::Exact { height: side(height)?, width: side(width)? }),
            _ => Err(format!("a list of {}, expected height and width", sides.len())),
        },
        Value::Object(keys) => {
            let keys: Vec<_> = keys.iter().filter(|(_, value)| !value.is_null()).collect();
            let get = |name: &str| keys.iter().find(|(key, _)| *key == name).map(|&(_, value)| side(value)).transpose();
            let names = ["height", "width", "shortest_edge", "longest_edge", "max_height", "max_width"];
            let [height, width, shortest, longest, max_height, max_width] = names.map(get);
            match (height?, width?, shortest?, longest?, max_height?, max_width?, keys.len()) {
                (Some(height), Some(width), _, _, _, _, 2) => Ok(Size::Exact { height, width }),
                (_, _, Some(edge), None, _, _, 1) => Ok(Size::ShortestEdge(edge)),
                (_, _, Some(shortest), Some(longest), _, _, 2) => Ok(Size::Edges { shortest, longest, step }),
                (_, _, _, _, Some(max_height), Some(max_width), 2) => Ok(Size::Within { max_height, max_width }),
                _ => {
                    let found: Vec<_> = keys.iter().map(|(key, _)| key.as_str()).collect();
                    Err(format!(
                        "keys `{}`, expected `height` and `width`, `shortest_edge` with or without `longest_edge`, or \
                         `max_height` and `max_width`",
                        found.join("`, `")
                    ))
                }
            }
        }
        number if square => side(number).map(self::square),
        number => match (side(number)?, longest) {
            (shortest, Some(longest)) => Ok(Size::Edges { shortest, longest, step }),
            (shortest, None) => Ok(Size::ShortestEdge(shortest)),
        },
    }
}

/// A number for each channel, or one for all.
fn channels(value: Option<&Value>, default: [f64; CHANNELS]) -> Result<[f32; CHANNELS], String> {
    let wrong = || format!("{}, expected {CHANNELS} finite numbers", value.unwrap_or(&Value::Null));
    let numbers = match value {
        None => default,
        Some(Value::Array(list)) => {
            let numbers: Option<Vec<f64>> = list.iter().map(Value::as_f64).collect();
            numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(wrong)?
        }
        Some(number) => [number.as_f64().ok_or_else(wrong)?; CHANNELS],
    };
    let numbers = numbers.map(|number| number as f32);
    if numbers.iter().all(|number| number.is_finite()) { Ok(numbers) } else { Err(wrong()) }
}
