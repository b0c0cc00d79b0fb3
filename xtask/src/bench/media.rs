//! Models of pictures and sounds: what is computed, how much of it, and how the worker of tx does it.

use std::hint::black_box;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Subcommand;
use tx::audio::models::{CTC, SPEECH_TO_TEXT};
use tx::burn::tensor::{Device, TensorData};
use tx::multimodal::models::ZERO_SHOT_IMAGE_CLASSIFICATION;
use tx::vision::models::IMAGE_CLASSIFICATION;
use tx_core::nn::Cache;
use tx_core::registry::{Auto, LoadOptions};
use tx_core::task::{
    AudioArguments, AudioInputs, AudioLayout, ImageArguments, ImageInputs, ImageLimits, Record, SpeechToText,
    TextArguments, TextInputs, normalize,
};

use super::bound::Cost;
use super::inputs::{PICTURE, Random};
use super::worker::{numbers, read, serve, serve_steps};

/// What is computed, as workers are told; see `add_media` in xtask/bench/worker.py.
#[derive(Clone, Copy, Subcommand)]
pub enum Media {
    /// The scores of the labels of pictures.
    Classify {
        #[arg(long)]
        batch: usize,
    },
    /// How well a picture and texts fit.
    Compare {
        #[arg(long)]
        texts: usize,
        /// The tokens of each text.
        #[arg(long)]
        seq: usize,
    },
    /// A spectrogram to what a decoder needs of it: hidden states, and keys and values of them.
    Encode,
    /// The tokens of what was heard, one by one, each the most probable one.
    Decode {
        /// The tokens before them.
        #[arg(long)]
        prompt: usize,
        #[arg(long)]
        steps: usize,
    },
    /// The scores of the tokens at every frame of a waveform.
    Ctc {
        #[arg(long)]
        samples: usize,
    },
}

impl Media {
    /// What a worker is told.
    pub fn arguments(self) -> Vec<String> {
        let (work, sizes) = match self {
            Self::Classify { batch } => ("classify", vec![("--batch", batch)]),
            Self::Compare { texts, seq } => ("compare", vec![("--texts", texts), ("--seq", seq)]),
            Self::Encode => ("encode", Vec::new()),
            Self::Decode { prompt, steps } => ("decode", vec![("--prompt", prompt), ("--steps", steps)]),
            Self::Ctc { samples } => ("ctc", vec![("--samples", samples)]),
        };
        let sizes = sizes.into_iter().flat_map(|(name, size)| [name.to_owned(), size.to_string()]);
        std::iter::once(work.to_owned()).chain(sizes).collect()
    }

    /// Whether xtask/bench/export_onnx.py can write it as ONNX.
    pub fn has_onnx(self) -> bool {
        matches!(self, Self::Classify { .. } | Self::Ctc { .. })
    }

    /// How many vectors of equal length the result is.
    pub fn rows(self) -> usize {
        if let Self::Classify { batch } = self { batch } else { 1 }
    }

    /// What it costs at least, with a model of this folder.
    pub fn cost(self, model: &Path) -> Result<Cost> {
        match self {
            Self::Classify { batch } => Cost::image_classifier(model, batch),
            Self::Compare { texts, seq } => Cost::image_text(model, texts, seq),
            Self::Encode => Cost::speech_encoder(model),
            Self::Decode { prompt, steps } => Cost::speech_decoder(model, prompt, steps),
            Self::Ctc { samples } => Cost::ctc(model, samples),
        }
    }

    /// Loads the model of a folder, and serves it.
    pub fn serve(self, folder: &Path, options: &LoadOptions) -> Result<()> {
        match self {
            Self::Classify { batch } => {
                let model = tx::from_folder(&[IMAGE_CLASSIFICATION], folder, options)?;
                let inputs = pictures(batch, &model.limits, &model.device)?;
                serve(&[], || Ok(model.forward(&inputs, &mut Record::none()).logits.into_data()), numbers)
            }
            Self::Compare { texts, seq } => {
                let model = tx::from_folder(&[ZERO_SHOT_IMAGE_CLASSIFICATION], folder, options)?;
                let image = pictures(1, &model.limits.image, &model.device)?;
                let input_ids = Random::new().token_ids(texts, seq, model.limits.text.vocab_size);
                let arguments = TextArguments { input_ids, ..TextArguments::default() };
                let texts = TextInputs::new(&arguments, &model.limits.text, &model.device)?;
                let compare = || -> Result<TensorData> {
                    let image_embeds = normalize(model.embed_image(&image, &mut Record::none()).embeds);
                    let text_embeds = normalize(model.embed_text(&texts, &mut Record::none()).embeds);
                    Ok(model.logits_per_image(image_embeds, text_embeds).into_data())
                };
                serve(&[], compare, numbers)
            }
            Self::Encode => {
                let model = tx::from_folder(&[SPEECH_TO_TEXT], folder, options)?;
                let inputs = spectrogram(&model)?;
                let encode = || -> Result<TensorData> {
                    let encoded = model.encode(&inputs, &mut Record::none());
                    black_box(&encoded.keys_values);
                    Ok(encoded.last_hidden_state.into_data())
                };
                serve(&[], encode, numbers)
            }
            Self::Decode { prompt, steps } => {
                let model = tx::from_folder(&[SPEECH_TO_TEXT], folder, options)?;
                let encoded = model.encode(&spectrogram(&model)?, &mut Record::none());
                let limits = model.limits.text;
                let tokens = Random::new().prompts(1, prompt, limits.vocab_size);
                let cache = Cache::new(&model.cache_kinds(), prompt + steps);
                serve_steps(tokens, steps, cache, |input_ids, cache| {
                    let arguments = TextArguments { input_ids: input_ids.clone(), ..TextArguments::default() };
                    let inputs = TextInputs::new(&arguments, &limits, &model.device)?;
                    let x = model.embed(inputs.input_ids.clone());
                    let x = model.decode(x, &inputs, &encoded, cache, &mut Record::none());
                    read(model.head(x.narrow(1, input_ids.seq - 1, 1))) // [1, 1, vocab]
                })
            }
            Self::Ctc { samples } => {
                let model = tx::from_folder(&[CTC], folder, options)?;
                let arguments = AudioArguments { values: normal([1, samples]), attention_mask: None };
                let inputs = AudioInputs::new(&arguments, &model.limits, &model.device)?;
                serve(&[], || Ok(model.forward(&inputs, &mut Record::none()).into_data()), numbers)
            }
        }
    }
}

fn pictures(batch: usize, limits: &ImageLimits, device: &Device) -> Result<ImageInputs> {
    let pixel_values = normal([batch, limits.channels, PICTURE, PICTURE]);
    let arguments = ImageArguments { pixel_values, pixel_mask: None, bool_masked_pos: None };
    Ok(ImageInputs::new(&arguments, limits, device)?)
}

/// As long as the model takes it.
fn spectrogram(model: &Auto<dyn SpeechToText>) -> Result<AudioInputs> {
    let limits = &model.limits.audio;
    let AudioLayout::Bands { mel, frames } = limits.layout else {
        bail!("{} takes no spectrogram of bands", model.class);
    };
    let arguments = AudioArguments { values: normal([1, mel, frames]), attention_mask: None };
    Ok(AudioInputs::new(&arguments, limits, &model.device)?)
}

/// Numbers around zero with a deviation of one, which are the same in Python.
fn normal<const N: usize>(shape: [usize; N]) -> TensorData {
    TensorData::new(Random::new().normal(shape.iter().product()), shape)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Told {
        #[command(subcommand)]
        media: Media,
    }

    #[test]
    fn workers_understand_what_they_are_told() {
        for media in [
            Media::Classify { batch: 8 },
            Media::Compare { texts: 4, seq: 16 },
            Media::Encode,
            Media::Decode { prompt: 4, steps: 64 },
            Media::Ctc { samples: 160_000 },
        ] {
            let told = ["worker".to_owned()].into_iter().chain(media.arguments());
            assert_eq!(Told::try_parse_from(told).unwrap().media.arguments(), media.arguments());
        }
    }
}
