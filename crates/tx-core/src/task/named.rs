//! A model of any task, called with tensors by name: what `tx forward` and the tests see.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;
use crate::error::{Error, Result};
use crate::nn::Cache;

/// Tensors by HF's names: the arguments or the result of a forward pass as `tx forward` and the tests see them.
pub type NamedTensors = BTreeMap<String, TensorData>;

/// A model of any task, called with tensors by name.
pub trait NamedForward {
    /// What the model can take.
    type Limits;

    /// One forward pass: HF's `forward()` arguments in, HF's output fields out.
    ///
    /// `hidden_states.0 …` and `attentions.0 …` follow if `record` asks for them.
    ///
    /// # Errors
    /// [`Error::Input`] if an argument is missing, unknown or does not fit.
    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        record: Record,
    ) -> Result<NamedTensors>;
}

/// Implements [`NamedForward`] for a task: how its inputs are made of tensors by name, and its output fields.
macro_rules! named_forward {
    ($task:ty, $limits:ty, $inputs:ident, |$output:ident, $fields:ident| $name:expr) => {
        impl NamedForward for $task {
            type Limits = $limits;

            fn forward_named(
                &self,
                inputs: &NamedTensors,
                limits: &$limits,
                device: &Device,
                mut record: Record,
            ) -> Result<NamedTensors> {
                let inputs = $inputs(inputs, limits, device)?;
                let $output = self.forward(&inputs, &mut record);
                let mut $fields = Fields::new(record);
                $name;
                Ok($fields.0)
            }
        }
    };
}

named_forward!(dyn TextModel, TextLimits, text, |output, fields| fields.base_model("", output));
named_forward!(dyn MaskedLm, TextLimits, text, |logits, fields| fields.put("logits", logits));
named_forward!(dyn SequenceClassifier, TextLimits, text, |logits, fields| fields.put("logits", logits));
named_forward!(dyn TokenClassifier, TextLimits, text, |logits, fields| fields.put("logits", logits));
named_forward!(dyn NextSentencePredictor, TextLimits, text, |logits, fields| fields.put("logits", logits));
named_forward!(dyn TokenDiscriminator, TextLimits, text, |logits, fields| fields.put("logits", logits));
named_forward!(dyn QuestionAnswerer, TextLimits, text, |output, fields| {
    fields.put("start_logits", output.start_logits);
    fields.put("end_logits", output.end_logits);
});

named_forward!(dyn VisionModel, ImageLimits, image, |output, fields| fields.vision_model("", output));
named_forward!(dyn ImageClassifier, ImageLimits, image, |output, fields| {
    fields.put("logits", output.logits);
    if let Some([cls, distillation]) = output.heads {
        fields.put("cls_logits", cls);
        fields.put("distillation_logits", distillation);
    }
});
named_forward!(dyn MaskedImageModel, ImageLimits, image, |output, fields| match output {
    MaskedImageOutput::Reconstruction(pixels) => fields.put("reconstruction", pixels),
    MaskedImageOutput::Logits(logits) => fields.put("logits", logits),
});
named_forward!(dyn SemanticSegmenter, ImageLimits, image, |logits, fields| fields.put("logits", logits));
named_forward!(dyn ObjectDetector, ImageLimits, image, |output, fields| fields.detection(output));
named_forward!(dyn ImageSegmenter, ImageLimits, image, |output, fields| {
    fields.detection(output.detection);
    fields.put("pred_masks", output.pred_masks);
});

named_forward!(dyn AudioModel, AudioLimits, audio, |output, fields| {
    fields.put("last_hidden_state", output.last_hidden_state);
    output.extract_features.into_iter().for_each(|x| fields.put("extract_features", x));
    output.pooler_output.into_iter().for_each(|x| fields.put("pooler_output", x));
});
named_forward!(dyn CtcModel, AudioLimits, audio, |logits, fields| fields.put("logits", logits));
named_forward!(dyn AudioClassifier, AudioLimits, audio, |logits, fields| fields.put("logits", logits));
named_forward!(dyn AudioFrameClassifier, AudioLimits, audio, |logits, fields| fields.put("logits", logits));
named_forward!(dyn AudioXVector, AudioLimits, audio, |output, fields| {
    fields.put("logits", output.logits);
    fields.put("embeddings", output.embeddings);
});
named_forward!(dyn SpectrogramModel, AudioLimits, spectrogram, |output, fields| fields.vision_model("", output));

impl NamedForward for dyn SpeechSeq2SeqModel {
    type Limits = SpeechToTextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let (audio, text) = speech(inputs, limits, device)?;
        let output = self.forward(&audio, &text, &mut record);
        let mut fields = Fields::new(record);
        fields.put("last_hidden_state", output.last_hidden_state);
        fields.put("encoder_last_hidden_state", output.encoder_last_hidden_state);
        Ok(fields.0)
    }
}

impl NamedForward for dyn SpeechToText {
    type Limits = SpeechToTextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let (audio, text) = speech(inputs, limits, device)?;
        let encoded = record.within("encoder_", |record| self.encode(&audio, record));
        let x = self.embed(text.input_ids.clone());
        let mut cache = Cache::off(self.cache_kinds().len());
        let x = record.within("decoder_", |record| self.decode(x, &text, &encoded, &mut cache, record));
        let mut fields = Fields::new(record);
        fields.put("logits", self.head(x));
        fields.put("encoder_last_hidden_state", encoded.last_hidden_state);
        Ok(fields.0)
    }
}

impl NamedForward for dyn SpeechDecoder {
    type Limits = SpeechDecoderLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let (heard, tokens) = split(inputs, &["encoder_outputs"]);
        let text = text(&tokens, &limits.text, device)?;
        let encoded = self.attend(encoder_outputs(&heard, &text, limits, device)?);
        let x = self.embed(text.input_ids.clone());
        let mut cache = Cache::off(self.cache_kinds().len());
        let x = self.decode(x, &text, &encoded, &mut cache, &mut record);
        let mut fields = Fields::new(record);
        fields.put("logits", self.head(x));
        Ok(fields.0)
    }
}

impl NamedForward for dyn TextEmbedder {
    type Limits = TextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let embedding = self.embed_text(&text(inputs, limits, device)?, &mut record);
        let mut fields = Fields::new(record);
        fields.put("text_embeds", embedding.embeds);
        fields.put("last_hidden_state", embedding.output.last_hidden_state);
        Ok(fields.0)
    }
}

impl NamedForward for dyn ImageEmbedder {
    type Limits = ImageLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let embedding = self.embed_image(&image(inputs, limits, device)?, &mut record);
        let mut fields = Fields::new(record);
        fields.put("image_embeds", embedding.embeds);
        fields.features("last_hidden_state", embedding.output.last_hidden_state);
        Ok(fields.0)
    }
}

impl NamedForward for dyn AudioEmbedder {
    type Limits = AudioLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let embedding = self.embed_audio(&spectrogram(inputs, limits, device)?, &mut record);
        let mut fields = Fields::new(record);
        fields.put("audio_embeds", embedding.embeds);
        fields.features("last_hidden_state", embedding.output.last_hidden_state);
        Ok(fields.0)
    }
}

impl NamedForward for dyn ImageTextModel {
    type Limits = ImageTextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        _: Record,
    ) -> Result<NamedTensors> {
        let (pictures, texts) = split(inputs, &["pixel_values"]);
        let texts = self.embed_text(&text(&texts, &limits.text, device)?, &mut Record::none());
        let pictures = self.embed_image(&image(&pictures, &limits.image, device)?, &mut Record::none());
        let (text_embeds, image_embeds) = (normalize(texts.embeds), normalize(pictures.embeds));
        let logits = self.logits_per_image(image_embeds.clone(), text_embeds.clone());
        let mut fields = Fields(NamedTensors::new());
        fields.put("logits_per_text", logits.clone().transpose());
        fields.put("logits_per_image", logits);
        fields.put("text_embeds", text_embeds);
        fields.put("image_embeds", image_embeds);
        fields.base_model("text_model_output.", texts.output);
        fields.vision_model("vision_model_output.", pictures.output);
        Ok(fields.0)
    }
}

impl NamedForward for dyn AudioTextModel {
    type Limits = AudioTextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        _: Record,
    ) -> Result<NamedTensors> {
        let (sounds, texts) = split(inputs, &["input_features", "is_longer"]);
        let texts = self.embed_text(&text(&texts, &limits.text, device)?, &mut Record::none());
        let sounds = self.embed_audio(&spectrogram(&sounds, &limits.audio, device)?, &mut Record::none());
        let (text_embeds, audio_embeds) = (normalize(texts.embeds), normalize(sounds.embeds));
        let mut fields = Fields(NamedTensors::new());
        fields.put("logits_per_text", self.logits_per_text(text_embeds.clone(), audio_embeds.clone()));
        fields.put("logits_per_audio", self.logits_per_audio(audio_embeds.clone(), text_embeds.clone()));
        fields.put("text_embeds", text_embeds);
        fields.put("audio_embeds", audio_embeds);
        fields.base_model("text_model_output.", texts.output);
        fields.vision_model("audio_model_output.", sounds.output);
        Ok(fields.0)
    }
}

impl NamedForward for dyn CausalLm {
    type Limits = TextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        let inputs = TextInputs::new(&text_arguments(inputs)?, limits, device)?;
        let logits = self.forward(&inputs, &mut Cache::off(self.cache_kinds().len()), &mut record);
        let mut fields = Fields::new(record);
        fields.put("logits", logits);
        Ok(fields.0)
    }
}

impl NamedForward for dyn MultipleChoice {
    type Limits = TextLimits;

    fn forward_named(
        &self,
        inputs: &NamedTensors,
        limits: &Self::Limits,
        device: &Device,
        mut record: Record,
    ) -> Result<NamedTensors> {
        // HF's arguments are [batch, choices, seq]; the choices become rows.
        let choices = inputs.get("input_ids").map(|ids| ids.shape().as_slice().to_vec()).unwrap_or_default();
        let [batch, choices, seq] = choices[..] else {
            return Err(Error::input("input_ids", format_args!("{choices:?}"), "[batch, choices, seq]"));
        };
        let mut rows = NamedTensors::new();
        for (name, data) in inputs {
            if data.shape().as_slice() != [batch, choices, seq] {
                return Err(Error::input(
                    name,
                    format_args!("{:?}", data.shape()),
                    format_args!("[{batch}, {choices}, {seq}]"),
                ));
            }
            rows.insert(
                name.clone(),
                TensorData::from_bytes(data.clone().into_bytes(), [batch * choices, seq], data.dtype()),
            );
        }
        let inputs = TextInputs::new(&text_arguments(&rows)?, limits, device)?;
        let logits = self.forward(&inputs, &mut record);
        let mut fields = Fields::new(record);
        fields.put("logits", logits.reshape([batch, choices]));
        Ok(fields.0)
    }
}

/// The arguments of a text model from tensors by name.
fn text_arguments(inputs: &NamedTensors) -> Result<TextArguments> {
    check_names(inputs, &["input_ids", "attention_mask", "token_type_ids", "position_ids"])?;
    let rows = |name: &str| -> Result<Option<IntRows>> {
        let Some(data) = inputs.get(name) else { return Ok(None) };
        let [batch, seq] = data.shape().as_slice()[..] else {
            return Err(Error::input(name, format_args!("{} axes", data.shape().num_dims()), "[batch, seq]"));
        };
        if !matches!(
            data.dtype(),
            DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::U32 | DType::U16 | DType::U8
        ) {
            let found = crate::weights::dtype_name(data.dtype());
            return Err(Error::input(name, format_args!("a tensor of {found}"), "a tensor of i64"));
        }
        Ok(Some(IntRows { batch, seq, values: data.iter::<i64>().collect() }))
    };
    Ok(TextArguments {
        input_ids: rows("input_ids")?.ok_or_else(|| Error::input("input_ids", "nothing", "a tensor [batch, seq]"))?,
        attention_mask: rows("attention_mask")?,
        token_type_ids: rows("token_type_ids")?,
        position_ids: rows("position_ids")?,
    })
}

/// Fails for an argument that the model does not have.
fn check_names(inputs: &NamedTensors, known: &[&str]) -> Result<()> {
    match inputs.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Error::input(name, "an argument that this model does not have", known.join(", "))),
        None => Ok(()),
    }
}

/// An argument that the model cannot do without.
fn required<'a>(inputs: &'a NamedTensors, name: &str) -> Result<&'a TensorData> {
    inputs.get(name).ok_or_else(|| Error::input(name, "nothing", "a tensor"))
}

fn text(inputs: &NamedTensors, limits: &TextLimits, device: &Device) -> Result<TextInputs> {
    TextInputs::new(&text_arguments(inputs)?, limits, device)
}

fn image(inputs: &NamedTensors, limits: &ImageLimits, device: &Device) -> Result<ImageInputs> {
    check_names(inputs, &["pixel_values", "pixel_mask", "bool_masked_pos"])?;
    let arguments = ImageArguments {
        pixel_values: floats("pixel_values", required(inputs, "pixel_values")?)?,
        pixel_mask: inputs.get("pixel_mask").cloned(),
        bool_masked_pos: inputs.get("bool_masked_pos").cloned(),
    };
    ImageInputs::new(&arguments, limits, device)
}

fn audio(inputs: &NamedTensors, limits: &AudioLimits, device: &Device) -> Result<AudioInputs> {
    check_names(inputs, &[limits.name, "attention_mask"])?;
    let arguments = AudioArguments {
        values: floats(limits.name, required(inputs, limits.name)?)?,
        attention_mask: inputs.get("attention_mask").cloned(),
    };
    AudioInputs::new(&arguments, limits, device)
}

fn spectrogram(inputs: &NamedTensors, limits: &AudioLimits, device: &Device) -> Result<SpectrogramInputs> {
    check_names(inputs, &[limits.name, "is_longer"])?;
    let arguments = SpectrogramArguments {
        input_features: floats(limits.name, required(inputs, limits.name)?)?,
        is_longer: inputs.get("is_longer").cloned(),
    };
    SpectrogramInputs::new(&arguments, limits, device)
}

/// Sounds, and of each as many texts, one after another.
fn speech(inputs: &NamedTensors, limits: &SpeechToTextLimits, device: &Device) -> Result<(AudioInputs, TextInputs)> {
    let (decoder, encoder) = split_decoder(inputs);
    let (audio, text) = (audio(&encoder, &limits.audio, device)?, text(&decoder, &limits.text, device)?);
    check_rows("decoder_input_ids", &text, limits.audio.name, audio.values.dims()[0])?;
    Ok((audio, text))
}

/// What another model's encoder made of sounds, of each of which there are as many texts.
fn encoder_outputs(
    inputs: &NamedTensors,
    text: &TextInputs,
    limits: &SpeechDecoderLimits,
    device: &Device,
) -> Result<Tensor<3>> {
    const NAME: &str = "encoder_outputs";
    let data = floats(NAME, required(inputs, NAME)?)?;
    let (most, hidden) = (limits.positions, limits.hidden_size);
    match *data.shape().as_slice() {
        [sounds, positions, size] if sounds > 0 && (1..=most).contains(&positions) && size == hidden => {
            check_rows("input_ids", text, NAME, sounds)?;
        }
        ref shape => {
            let expected = format_args!("[batch, 1 to {most} positions, {hidden}]");
            return Err(Error::input(NAME, format_args!("shape {shape:?}"), expected));
        }
    }
    Ok(Tensor::from_data(data, device))
}

/// Fails unless each sound has as many texts.
fn check_rows(name: &str, text: &TextInputs, of: &str, sounds: usize) -> Result<()> {
    let [texts, _] = text.input_ids.dims();
    if texts.is_multiple_of(sounds) {
        return Ok(());
    }
    Err(Error::input(name, format_args!("{texts} rows"), format_args!("a multiple of the {sounds} of `{of}`")))
}

/// The arguments of these names, and the others.
fn split(inputs: &NamedTensors, names: &[&str]) -> (NamedTensors, NamedTensors) {
    inputs.iter().map(|(name, data)| (name.clone(), data.clone())).partition(|(name, _)| names.contains(&name.as_str()))
}

/// The arguments of a decoder, without the prefix that tells them apart, and the others.
fn split_decoder(inputs: &NamedTensors) -> (NamedTensors, NamedTensors) {
    let (mut decoder, mut encoder) = (NamedTensors::new(), NamedTensors::new());
    for (name, data) in inputs {
        match name.strip_prefix("decoder_") {
            Some(name) => decoder.insert(name.to_owned(), data.clone()),
            None => encoder.insert(name.clone(), data.clone()),
        };
    }
    (decoder, encoder)
}

/// A tensor as f32.
fn floats(name: &str, data: &TensorData) -> Result<TensorData> {
    if data.dtype().is_float() {
        return Ok(data.clone().convert::<f32>());
    }
    Err(Error::input(name, format_args!("a tensor of {}", crate::weights::dtype_name(data.dtype())), "one of f32"))
}

/// A tensor of integers below `end`, or of booleans.
///
/// # Errors
/// [`Error::Input`] for floats, and for values out of range.
pub(super) fn integers(name: &str, data: &TensorData, end: i64) -> Result<TensorData> {
    if data.dtype().is_float() || matches!(data.dtype(), DType::QFloat(_)) {
        let found = crate::weights::dtype_name(data.dtype());
        return Err(Error::input(name, format_args!("a tensor of {found}"), "one of i64"));
    }
    let values: Vec<i64> = data.iter::<i64>().collect();
    match values.iter().find(|&&value| !(0..end).contains(&value)) {
        Some(value) => Err(Error::input(name, value, format_args!("0 to {}", end - 1))),
        None => Ok(TensorData::new(values, data.shape().clone())),
    }
}

/// Fails for a tensor of another shape.
///
/// # Errors
/// [`Error::Input`].
pub(super) fn check_shape(name: &str, data: &TensorData, shape: &[usize]) -> Result<()> {
    let found = data.shape().as_slice();
    if found == shape {
        return Ok(());
    }
    Err(Error::input(name, format_args!("shape {found:?}"), format_args!("{shape:?}")))
}

/// Output fields by HF's names.
struct Fields(NamedTensors);

impl Fields {
    /// Those that a forward pass kept.
    fn new(record: Record) -> Self {
        Self(record.into_named().collect())
    }

    fn put<const D: usize>(&mut self, name: &str, x: Tensor<D>) {
        self.0.insert(name.to_owned(), x.into_data());
    }

    fn features(&mut self, name: &str, x: Features) {
        self.0.insert(name.to_owned(), x.into_data());
    }

    fn base_model(&mut self, prefix: &str, output: BaseModelOutput) {
        self.put(&format!("{prefix}last_hidden_state"), output.last_hidden_state);
        output.pooler_output.into_iter().for_each(|x| self.put(&format!("{prefix}pooler_output"), x));
    }

    fn vision_model(&mut self, prefix: &str, output: VisionModelOutput) {
        self.features(&format!("{prefix}last_hidden_state"), output.last_hidden_state);
        output.pooler_output.into_iter().for_each(|x| self.features(&format!("{prefix}pooler_output"), x));
        let encoder = output.encoder_last_hidden_state.into_iter();
        encoder.for_each(|x| self.put(&format!("{prefix}encoder_last_hidden_state"), x));
    }

    fn detection(&mut self, output: DetectionOutput) {
        self.put("logits", output.logits);
        self.put("pred_boxes", output.pred_boxes);
        self.put("last_hidden_state", output.last_hidden_state);
        output.encoder_last_hidden_state.into_iter().for_each(|x| self.put("encoder_last_hidden_state", x));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sound_has_as_many_texts() {
        let text = TextLimits { vocab_size: 9, max_length: Some(4), context: None, positions: 4, type_vocab_size: 0 };
        let audio = AudioLimits { name: "input_features", layout: AudioLayout::Bands { mel: 1, frames: 2 } };
        let limits = SpeechToTextLimits { audio, text };
        let speech = |texts: usize| {
            let inputs = NamedTensors::from([
                ("input_features".to_owned(), TensorData::new(vec![0f32; 4], [2, 1, 2])),
                ("decoder_input_ids".to_owned(), TensorData::new(vec![1i64; texts], [texts, 1])),
            ]);
            speech(&inputs, &limits, &Device::default()).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!([speech(2), speech(4)], [Ok(()), Ok(())]);
        let expected = "decoder_input_ids: 3 rows, expected a multiple of the 2 of `input_features`";
        assert_eq!(speech(3).unwrap_err(), expected);
        assert!(speech(1).is_err());
    }
}
