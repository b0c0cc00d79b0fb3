//! Every architecture of two modalities, and their towers alone. Add a file, a `mod` line and the lines of its heads;
//! keep all of them sorted.

mod chinese_clip;
mod clap;
mod clip;
mod siglip;

use tx_core::registry::{
    Class, Entry, audio_embedder, audio_text_model, image_classifier, image_embedder, image_text_model, lines,
    spectrogram_model, text_embedder, text_model, vision_model,
};
use tx_core::task::{
    AudioEmbedder, AudioTextModel, ImageClassifier, ImageEmbedder, ImageTextModel, SpectrogramModel, TextEmbedder,
    TextModel, VisionModel,
};

/// Texts to hidden states: HF's `AutoModel` for the text towers.
pub static TEXT_MODEL: &[Entry<dyn TextModel>] = &[
    text_model::<chinese_clip::ChineseClipTextModel>("chinese_clip", "ChineseCLIPTextModel"),
    text_model::<chinese_clip::ChineseClipTextModel>("chinese_clip_text_model", "ChineseCLIPTextModel"),
    text_model::<clap::ClapTextModel>("clap_text_model", "ClapTextModel"),
    text_model::<clip::ClipTextModel>("clip", "CLIPTextModel"),
    text_model::<clip::ClipTextModel>("clip_text_model", "CLIPTextModel"),
    text_model::<siglip::SiglipTextModel>("siglip", "SiglipTextModel"),
    text_model::<siglip::SiglipTextModel>("siglip_text_model", "SiglipTextModel"),
];

/// Pictures to hidden states: HF's `AutoModel` for the vision towers.
pub static VISION_MODEL: &[Entry<dyn VisionModel>] = &[
    vision_model::<clip::ClipVisionModel>("chinese_clip", "ChineseCLIPVisionModel"),
    vision_model::<clip::ClipVisionModel>("chinese_clip_vision_model", "ChineseCLIPVisionModel"),
    vision_model::<clip::ClipVisionModel>("clip", "CLIPVisionModel"),
    vision_model::<clip::ClipVisionModel>("clip_vision_model", "CLIPVisionModel"),
    vision_model::<siglip::SiglipVisionModel>("siglip", "SiglipVisionModel"),
    vision_model::<siglip::SiglipVisionModel>("siglip_vision_model", "SiglipVisionModel"),
];

/// Sounds to hidden states: HF's `AutoModel` for the audio towers.
pub static SPECTROGRAM_MODEL: &[Entry<dyn SpectrogramModel>] =
    &[spectrogram_model::<clap::ClapAudioModel>("clap_audio_model", "ClapAudioModel")];

/// HF's `AutoModelForImageClassification`.
pub static IMAGE_CLASSIFICATION: &[Entry<dyn ImageClassifier>] = &[
    image_classifier::<clip::ClipForImageClassification>("clip", "CLIPForImageClassification"),
    image_classifier::<siglip::SiglipForImageClassification>("siglip", "SiglipForImageClassification"),
];

/// Texts to vectors of the common space: a text tower with its projection.
pub static TEXT_EMBEDDING: &[Entry<dyn TextEmbedder>] = &[
    text_embedder::<clap::ClapTextModelWithProjection>("clap", "ClapTextModelWithProjection"),
    text_embedder::<clap::ClapTextModelWithProjection>("clap_text_model", "ClapTextModelWithProjection"),
    text_embedder::<clip::ClipTextModelWithProjection>("clip", "CLIPTextModelWithProjection"),
    text_embedder::<clip::ClipTextModelWithProjection>("clip_text_model", "CLIPTextModelWithProjection"),
];

/// Pictures to vectors of the common space: a vision tower with its projection.
pub static IMAGE_EMBEDDING: &[Entry<dyn ImageEmbedder>] = &[
    image_embedder::<clip::ClipVisionModelWithProjection>("clip", "CLIPVisionModelWithProjection"),
    image_embedder::<clip::ClipVisionModelWithProjection>("clip_vision_model", "CLIPVisionModelWithProjection"),
];

/// Sounds to vectors of the common space: an audio tower with its projection.
pub static AUDIO_EMBEDDING: &[Entry<dyn AudioEmbedder>] = &[
    audio_embedder::<clap::ClapAudioModelWithProjection>("clap", "ClapAudioModelWithProjection"),
    audio_embedder::<clap::ClapAudioModelWithProjection>("clap_audio_model", "ClapAudioModelWithProjection"),
];

/// HF's `AutoModelForZeroShotImageClassification`.
pub static ZERO_SHOT_IMAGE_CLASSIFICATION: &[Entry<dyn ImageTextModel>] = &[
    image_text_model::<chinese_clip::ChineseClipModel>("chinese_clip", "ChineseCLIPModel"),
    image_text_model::<clip::ClipModel>("clip", "CLIPModel"),
    image_text_model::<siglip::SiglipModel>("siglip", "SiglipModel"),
];

/// What the pipeline of zero-shot audio classification takes: HF's `AutoModel` there.
pub static ZERO_SHOT_AUDIO_CLASSIFICATION: &[Entry<dyn AudioTextModel>] =
    &[audio_text_model::<clap::ClapModel>("clap", "ClapModel")];

/// Every class of every table.
pub fn classes() -> Vec<&'static dyn Class> {
    lines(TEXT_MODEL)
        .chain(lines(VISION_MODEL))
        .chain(lines(SPECTROGRAM_MODEL))
        .chain(lines(IMAGE_CLASSIFICATION))
        .chain(lines(TEXT_EMBEDDING))
        .chain(lines(IMAGE_EMBEDDING))
        .chain(lines(AUDIO_EMBEDDING))
        .chain(lines(ZERO_SHOT_IMAGE_CLASSIFICATION))
        .chain(lines(ZERO_SHOT_AUDIO_CLASSIFICATION))
        .collect()
}
