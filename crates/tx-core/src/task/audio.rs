//! Sounds: what their models take, what their heads compute, and what turns speech into text.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{ConditionalLm, Encoded, PretrainedModel, Record, TextInputs, TextLimits, check_shape, integers};
use crate::error::{Error, Result};

/// The most numbers of a spectrogram.
const MAX_SPECTROGRAM: usize = 1 << 24;

/// What an audio model can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLimits {
    /// HF's name of the argument: `input_values` or `input_features`.
    pub name: &'static str,
    /// The layout of one sound.
    pub layout: AudioLayout,
}

impl AudioLimits {
    /// The most samples of a sound as any model takes it: nearly nine minutes at 16 kHz.
    pub const MAX_SAMPLES: usize = 1 << 23;
}

/// How a model takes a sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AudioLayout {
    /// `[samples]`
    Waveform {
        /// The fewest: fewer make no frame.
        min_samples: usize,
        /// The most.
        max_samples: usize,
    },
    /// `[frames, mel]`, both fixed.
    Frames {
        /// Frames in time.
        frames: usize,
        /// Bands of frequencies.
        mel: usize,
    },
    /// `[mel, frames]`, both fixed.
    Bands {
        /// Bands of frequencies.
        mel: usize,
        /// Frames in time.
        frames: usize,
    },
    /// `[views, frames, mel]`: the whole sound, and parts of it.
    Views {
        /// Views of parts, beside the whole; 0 where a model hears the whole alone.
        parts: usize,
        /// Bands of frequencies.
        mel: usize,
        /// The most frames in time.
        frames: usize,
    },
}

/// The arguments of an audio model's forward pass.
#[derive(Debug, Clone)]
pub struct AudioInputs {
    /// `[batch, 1, samples]` of waveforms, `[batch, frames, mel]` or `[batch, mel, frames]` of spectrograms.
    pub values: Tensor<3>,
    /// `[batch, samples or frames]`: 1 for sound, 0 for padding; no padding if `None`.
    pub attention_mask: Option<Tensor<2, Int>>,
}

/// The unchecked arguments of an audio model.
#[derive(Debug, Clone)]
pub struct AudioArguments {
    /// `[batch, samples]`, `[batch, frames, mel]` or `[batch, mel, frames]`.
    pub values: TensorData,
    /// See [`AudioInputs::attention_mask`].
    pub attention_mask: Option<TensorData>,
}

impl AudioInputs {
    /// Checks the arguments against what the model can take, and puts them on its device.
    ///
    /// # Errors
    /// [`Error::Input`] for no sound, one that is too short or too long, and shapes that do not fit.
    pub fn new(arguments: &AudioArguments, limits: &AudioLimits, device: &Device) -> Result<Self> {
        let shape = arguments.values.shape().as_slice();
        let wrong = |expected: String| Error::input(limits.name, format_args!("shape {shape:?}"), expected);
        let sizes = match (limits.layout, shape) {
            (AudioLayout::Waveform { min_samples, max_samples }, &[batch, samples]) => {
                if batch == 0 || !(min_samples.max(1)..=max_samples).contains(&samples) {
                    return Err(wrong(format!("[batch, samples] of {min_samples} to {max_samples} samples")));
                }
                [batch, 1, samples]
            }
            (AudioLayout::Frames { frames: rows, mel: columns }, &[batch, a, b])
            | (AudioLayout::Bands { mel: rows, frames: columns }, &[batch, a, b]) => {
                if batch == 0 || (a, b) != (rows, columns) {
                    return Err(wrong(format!("[batch, {rows}, {columns}]")));
                }
                [batch, a, b]
            }
            (AudioLayout::Waveform { .. }, _) => return Err(wrong("[batch, samples]".to_owned())),
            (AudioLayout::Frames { .. }, _) => return Err(wrong("[batch, frames, mel]".to_owned())),
            (AudioLayout::Bands { .. }, _) => return Err(wrong("[batch, mel, frames]".to_owned())),
            (AudioLayout::Views { .. }, _) => return Err(wrong("[batch, views, frames, mel]".to_owned())),
        };
        let attention_mask = match &arguments.attention_mask {
            Some(mask) => {
                // Spectrograms have a mask over frames, which are either axis.
                let frames = if let AudioLayout::Frames { frames, .. } = limits.layout { frames } else { sizes[2] };
                check_shape("attention_mask", mask, &[sizes[0], frames])?;
                Some(Tensor::from_data(integers("attention_mask", mask, 2)?, device))
            }
            None => None,
        };
        let (values, dtype) = (arguments.values.clone(), arguments.values.dtype());
        let values = Tensor::from_data(TensorData::from_bytes(values.into_bytes(), sizes, dtype), device);
        Ok(Self { values, attention_mask })
    }

    /// Some rows of the batch.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        Self {
            values: self.values.clone().narrow(0, rows.start, rows.len()),
            attention_mask: self.attention_mask.as_ref().map(|mask| mask.clone().narrow(0, rows.start, rows.len())),
        }
    }
}

/// Sounds as several pictures of their frequencies: what CLAP takes.
#[derive(Debug, Clone)]
pub struct SpectrogramInputs {
    /// `[batch, views, frames, mel]`
    pub input_features: Tensor<4>,
    /// `[batch, 1]`: 1 where the views after the first are parts of a longer sound; all 0 if `None`. Models that take
    /// parts need it.
    pub is_longer: Option<Tensor<2, Int>>,
}

/// The unchecked arguments of a model that takes [`SpectrogramInputs`].
#[derive(Debug, Clone)]
pub struct SpectrogramArguments {
    /// See [`SpectrogramInputs::input_features`].
    pub input_features: TensorData,
    /// See [`SpectrogramInputs::is_longer`].
    pub is_longer: Option<TensorData>,
}

impl SpectrogramInputs {
    /// Checks the arguments against what the model can take, and puts them on its device.
    ///
    /// # Errors
    /// [`Error::Input`] for no sound, one that is too long, and shapes that do not fit.
    pub fn new(arguments: &SpectrogramArguments, limits: &AudioLimits, device: &Device) -> Result<Self> {
        let shape = arguments.input_features.shape().as_slice();
        let (parts, most, bands) = match limits.layout {
            AudioLayout::Views { parts, mel, frames } => (parts, frames, mel),
            _ => (0, MAX_SPECTROGRAM, shape.last().copied().unwrap_or(0)),
        };
        match *shape {
            [batch, views, frames, mel]
                if batch > 0 && (views == 1 || views == 1 + parts) && mel == bands && (1..=most).contains(&frames) => {}
            _ => {
                let views = if parts > 0 { format!("1 or {}", 1 + parts) } else { "1".to_owned() };
                let expected = format_args!("[batch, {views}, 1 to {most} frames, {bands}]");
                return Err(Error::input(limits.name, format_args!("shape {shape:?}"), expected));
            }
        }
        let is_longer = match &arguments.is_longer {
            Some(longer) => {
                check_shape("is_longer", longer, &[shape[0], 1])?;
                Some(Tensor::from_data(integers("is_longer", longer, 2)?, device))
            }
            None if parts > 0 => {
                let expected = "a tensor [batch, 1], as the model mixes parts of longer sounds in";
                return Err(Error::input("is_longer", "nothing", expected));
            }
            None => None,
        };
        Ok(Self { input_features: Tensor::from_data(arguments.input_features.clone(), device), is_longer })
    }
}

/// The result of a base model for sounds.
#[derive(Debug, Clone)]
pub struct AudioModelOutput {
    /// `[batch, frames, hidden]`
    pub last_hidden_state: Tensor<3>,
    /// `[batch, frames, channels]`: what the convolutions give, normalised; of models that read waveforms.
    pub extract_features: Option<Tensor<3>>,
    /// `[batch, hidden]`, if the model has a pooler.
    pub pooler_output: Option<Tensor<2>>,
}

/// The result of a base model whose decoder reads text beside sounds.
#[derive(Debug, Clone)]
pub struct Seq2SeqModelOutput {
    /// `[batch, seq, hidden]`
    pub last_hidden_state: Tensor<3>,
    /// `[batch, frames, hidden]`
    pub encoder_last_hidden_state: Tensor<3>,
}

/// What a model of speech and text can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeechToTextLimits {
    /// Its encoder.
    pub audio: AudioLimits,
    /// Its decoder.
    pub text: TextLimits,
}

/// What a decoder of speech can take, which has no encoder of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpeechDecoderLimits {
    /// Its tokens.
    pub text: TextLimits,
    /// The most positions that another model's encoder makes of a sound.
    pub positions: usize,
    /// Elements of each of them.
    pub hidden_size: usize,
}

/// The result of a model that tells voices apart.
#[derive(Debug, Clone)]
pub struct XVectorOutput {
    /// `[batch, dim]`: what training compares with a vector for each voice.
    pub logits: Tensor<2>,
    /// `[batch, dim]`, of any length: those of one voice are alike by their cosine.
    pub embeddings: Tensor<2>,
}

/// Sounds to hidden states: HF's `AutoModel` for sounds.
pub trait AudioModel: PretrainedModel {
    /// The encoder.
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> AudioModelOutput;
}

/// Scores for the token that sounds at every frame, or none: connectionist temporal classification.
pub trait CtcModel: PretrainedModel {
    /// Frames that a sound of this many samples makes.
    fn frames(&self, samples: usize) -> usize;

    /// # Shapes
    /// - output: `[batch, frames, vocab]`
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3>;
}

/// Scores for the labels of a whole sound.
pub trait AudioClassifier: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, labels]`
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<2>;
}

/// Scores for the labels of every frame.
pub trait AudioFrameClassifier: PretrainedModel {
    /// # Shapes
    /// - output: `[batch, frames, labels]`
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3>;
}

/// A vector for the voice in a sound: HF's `AutoModelForAudioXVector`.
pub trait AudioXVector: PretrainedModel {
    /// One vector per sound.
    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> XVectorOutput;
}

/// Sounds and the beginning of a text to hidden states: HF's `AutoModel` for speech.
pub trait SpeechSeq2SeqModel: PretrainedModel {
    /// Encoder and decoder.
    fn forward(&self, audio: &AudioInputs, text: &TextInputs, record: &mut Record) -> Seq2SeqModelOutput;
}

/// Scores for the next token of what is said: HF's `AutoModelForSpeechSeq2Seq`.
pub trait SpeechToText: ConditionalLm {
    /// The encoder.
    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Encoded;
}

/// Scores for the next token of what the encoder of another model heard.
pub trait SpeechDecoder: ConditionalLm {
    /// # Shapes
    /// - encoder_outputs: `[batch, positions, hidden]`
    fn attend(&self, encoder_outputs: Tensor<3>) -> Encoded;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_those_that_the_model_takes() {
        let inputs = |parts: usize, views: usize, longer: bool| {
            let layout = AudioLayout::Views { parts, mel: 2, frames: 3 };
            let limits = AudioLimits { name: "input_features", layout };
            let arguments = SpectrogramArguments {
                input_features: TensorData::new(vec![0f32; views * 6], [1, views, 3, 2]),
                is_longer: longer.then(|| TensorData::new(vec![1i64], [1, 1])),
            };
            SpectrogramInputs::new(&arguments, &limits, &Device::default()).map(drop).map_err(|e| e.to_string())
        };
        for (parts, views, longer) in [(0, 1, false), (0, 1, true), (3, 1, true), (3, 4, true)] {
            assert_eq!(inputs(parts, views, longer), Ok(()), "{parts} {views} {longer}");
        }
        assert!(inputs(0, 4, true).unwrap_err().contains("expected [batch, 1, 1 to 3 frames, 2]"));
        assert!(inputs(3, 2, true).unwrap_err().contains("expected [batch, 1 or 4, "));
        assert!(inputs(3, 4, false).unwrap_err().starts_with("is_longer: nothing"));
    }

    #[test]
    fn waveforms_are_bounded_on_both_sides() {
        let layout = AudioLayout::Waveform { min_samples: 3, max_samples: 5 };
        let limits = AudioLimits { name: "input_values", layout };
        let inputs = |samples: usize| {
            let values = TensorData::new(vec![0f32; samples], [1, samples]);
            AudioInputs::new(&AudioArguments { values, attention_mask: None }, &limits, &Device::default()).is_ok()
        };
        assert_eq!([2, 3, 5, 6].map(inputs), [false, true, true, false]);
    }
}
