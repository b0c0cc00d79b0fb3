//! Large batches in parts: on a CPU, what lies between two layers should fit into the caches.
//!
//! The rows of a batch do not depend on each other, so a pass over some of them at a time gives the same numbers. Where
//! products are fast it takes less time, because the intermediate values of a thousand tokens would have to come back from
//! memory in every layer; and it bounds the memory of a pass whatever the batch.

use burn::tensor::{Device, Int, Tensor};

use crate::device;
use crate::nn::{Cache, CacheKind};
use crate::task::*;
use crate::weights::StoredTensor;
use crate::weights::load::LoadReport;

/// Tokens of a part, with padding; a part has at least one row.
const TOKENS: usize = 2048;

/// The same with 8-bit weights, whose products wait for memory otherwise (measured with BERT-base: a tenth of the time).
const TOKENS_QUANTIZED: usize = 256;

/// Pixels that count as a token: a patch of most vision transformers.
const PIXELS: usize = 16 * 16;

/// Samples that count as a token: a frame of most models of waveforms.
const SAMPLES: usize = 320;

/// A model that is called with batches of any size, and computes them in parts.
#[derive(Debug)]
pub(crate) struct InParts<M> {
    model: M,
    tokens: usize,
    attached: Attached,
}

impl<M> InParts<M> {
    pub(crate) fn new(model: M, report: &LoadReport) -> Self {
        let tokens = if report.quantized > 0 { TOKENS_QUANTIZED } else { TOKENS };
        Self { model, tokens, attached: Attached::default() }
    }

    /// Calls `forward` with some rows at a time, behind the virtual tokens if there are any.
    fn in_parts<I: Batch, T: Rows>(
        &self,
        inputs: &I,
        record: &mut Record,
        forward: impl Fn(&I, &mut Record) -> T,
    ) -> T {
        let Some(tokens) = self.attached.virtual_tokens() else {
            return in_parts(self.tokens, inputs, record, forward);
        };
        let inputs = inputs.behind(tokens, record);
        let result = in_parts(self.tokens, &inputs, record, forward);
        tokens.passed(record.end_prefix());
        result
    }

    /// How many of the first positions of a result are those of a prompt.
    fn prompted(&self) -> usize {
        let tokens = self.attached.virtual_tokens().filter(|tokens| tokens.first_id().is_some());
        tokens.map_or(0, VirtualTokens::count)
    }
}

impl<M: PretrainedModel> PretrainedModel for InParts<M> {
    fn tensors(&self) -> Vec<(String, StoredTensor)> {
        self.model.tensors()
    }

    fn num_parameters(&self) -> usize {
        self.model.num_parameters()
    }

    fn visit_parameters(&self, f: &mut dyn FnMut(Parameter)) {
        self.model.visit_parameters(f);
    }

    fn map_parameters(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        self.model.map_parameters(f);
    }

    fn visit_places(&self, f: &mut dyn FnMut(Parameter)) {
        self.model.visit_places(f);
    }

    fn attached(&self) -> Option<&Attached> {
        Some(&self.attached)
    }

    fn attached_mut(&mut self) -> Option<&mut Attached> {
        Some(&mut self.attached)
    }
}

/// The inputs of a pass over a batch.
trait Batch: Clone {
    /// The number of rows, and the tokens of each.
    fn dims(&self) -> [usize; 2];

    /// The same behind virtual tokens, which only texts have.
    fn behind(&self, _: &dyn VirtualTokens, _: &mut Record) -> Self {
        self.clone()
    }

    fn device(&self) -> Device;

    fn rows(&self, rows: std::ops::Range<usize>) -> Self;
}

impl Batch for TextInputs {
    fn dims(&self) -> [usize; 2] {
        self.input_ids.dims()
    }

    fn device(&self) -> Device {
        self.input_ids.device()
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        self.rows(rows)
    }

    fn behind(&self, tokens: &dyn VirtualTokens, record: &mut Record) -> Self {
        match tokens.values() {
            VirtualValues::Prompt(_) => self.behind_prompt(tokens.count(), tokens.first_id().unwrap_or(0)),
            VirtualValues::Prefix(layers) => {
                record.set_prefix(layers);
                Self { past: self.past + tokens.count(), ..self.behind_keys(tokens.count()) }
            }
        }
    }
}

impl Batch for ImageInputs {
    fn dims(&self) -> [usize; 2] {
        let [batch, _, height, width] = self.pixel_values.dims();
        [batch, (height * width).div_ceil(PIXELS)]
    }

    fn device(&self) -> Device {
        self.pixel_values.device()
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        self.rows(rows)
    }
}

impl Batch for AudioInputs {
    fn dims(&self) -> [usize; 2] {
        match self.values.dims() {
            [batch, 1, samples] => [batch, samples.div_ceil(SAMPLES)],
            [batch, height, width] => [batch, height.max(width)],
        }
    }

    fn device(&self) -> Device {
        self.values.device()
    }

    fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        self.rows(rows)
    }
}

/// What a model gives for some rows of a batch.
trait Rows: Sized {
    /// The results of consecutive rows as one.
    fn join(parts: Vec<Self>) -> Self;
}

impl<const D: usize> Rows for Tensor<D> {
    fn join(parts: Vec<Self>) -> Self {
        Tensor::cat(parts, 0)
    }
}

impl Rows for BaseModelOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (states, pooled): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.last_hidden_state, part.pooler_output)).unzip();
        let pooled: Option<Vec<_>> = pooled.into_iter().collect();
        Self { last_hidden_state: Rows::join(states), pooler_output: pooled.map(Rows::join) }
    }
}

impl Rows for QuestionAnsweringOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (starts, ends) = parts.into_iter().map(|part| (part.start_logits, part.end_logits)).unzip();
        Self { start_logits: Rows::join(starts), end_logits: Rows::join(ends) }
    }
}

impl Rows for Features {
    fn join(parts: Vec<Self>) -> Self {
        Self::join(parts)
    }
}

/// Fields of all parts, joined; a field is in all of them or in none.
fn join_some<T: Rows>(parts: impl Iterator<Item = Option<T>>) -> Option<T> {
    parts.collect::<Option<Vec<_>>>().map(Rows::join)
}

impl Rows for VisionModelOutput {
    fn join(parts: Vec<Self>) -> Self {
        let pooler_output = join_some(parts.iter().map(|part| part.pooler_output.clone()));
        let encoder_last_hidden_state = join_some(parts.iter().map(|part| part.encoder_last_hidden_state.clone()));
        let states = parts.into_iter().map(|part| part.last_hidden_state).collect();
        Self { last_hidden_state: Rows::join(states), pooler_output, encoder_last_hidden_state }
    }
}

impl Rows for ImageClassifierOutput {
    fn join(parts: Vec<Self>) -> Self {
        let heads =
            [0, 1].map(|i| join_some(parts.iter().map(|part| part.heads.as_ref().map(|heads| heads[i].clone()))));
        let [cls, distillation] = heads;
        Self {
            logits: Rows::join(parts.into_iter().map(|part| part.logits).collect()),
            heads: cls.zip(distillation).map(Into::into),
        }
    }
}

impl Rows for MaskedImageOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (mut pixels, mut logits) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Self::Reconstruction(x) => pixels.push(x),
                Self::Logits(x) => logits.push(x),
            }
        }
        if logits.is_empty() { Self::Reconstruction(Rows::join(pixels)) } else { Self::Logits(Rows::join(logits)) }
    }
}

impl Rows for DetectionOutput {
    fn join(parts: Vec<Self>) -> Self {
        let each = |field: fn(&Self) -> &Tensor<3>| Rows::join(parts.iter().map(|part| field(part).clone()).collect());
        Self {
            logits: each(|part| &part.logits),
            pred_boxes: each(|part| &part.pred_boxes),
            last_hidden_state: each(|part| &part.last_hidden_state),
            encoder_last_hidden_state: join_some(parts.iter().map(|part| part.encoder_last_hidden_state.clone())),
        }
    }
}

impl Rows for SegmentationOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (detections, masks) = parts.into_iter().map(|part| (part.detection, part.pred_masks)).unzip();
        Self { detection: Rows::join(detections), pred_masks: Rows::join(masks) }
    }
}

impl Rows for AudioModelOutput {
    fn join(parts: Vec<Self>) -> Self {
        Self {
            extract_features: join_some(parts.iter().map(|part| part.extract_features.clone())),
            pooler_output: join_some(parts.iter().map(|part| part.pooler_output.clone())),
            last_hidden_state: Rows::join(parts.into_iter().map(|part| part.last_hidden_state).collect()),
        }
    }
}

impl Rows for XVectorOutput {
    fn join(parts: Vec<Self>) -> Self {
        let (logits, embeddings) = parts.into_iter().map(|part| (part.logits, part.embeddings)).unzip();
        Self { logits: Rows::join(logits), embeddings: Rows::join(embeddings) }
    }
}

impl Rows for VisionEmbedding {
    fn join(parts: Vec<Self>) -> Self {
        let (embeds, outputs) = parts.into_iter().map(|part| (part.embeds, part.output)).unzip();
        Self { embeds: Rows::join(embeds), output: Rows::join(outputs) }
    }
}

impl Rows for TextEmbedding {
    fn join(parts: Vec<Self>) -> Self {
        let (embeds, outputs) = parts.into_iter().map(|part| (part.embeds, part.output)).unzip();
        Self { embeds: Rows::join(embeds), output: Rows::join(outputs) }
    }
}

/// Calls `forward` with some rows at a time.
fn in_parts<I: Batch, T: Rows>(
    tokens: usize,
    inputs: &I,
    record: &mut Record,
    forward: impl Fn(&I, &mut Record) -> T,
) -> T {
    let [batch, seq] = inputs.dims();
    let parts = batch.div_ceil((tokens / seq.max(1)).max(1));
    if parts <= 1 || !device::is_cpu(&inputs.device()) {
        return forward(inputs, record);
    }
    let mut records = Vec::with_capacity(parts);
    let mut results = Vec::with_capacity(parts);
    for part in 0..parts {
        // Parts of equal size, as far as that goes.
        let rows = part * batch / parts..(part + 1) * batch / parts;
        let mut recorded = Record::like(record);
        results.push(forward(&inputs.rows(rows), &mut recorded));
        records.push(recorded);
    }
    record.join(records);
    T::join(results)
}

/// The elements of a sequence behind the first ones.
fn behind_first<const D: usize>(x: Tensor<D>, count: usize) -> Tensor<D> {
    let seq = x.dims()[1] - count;
    x.narrow(1, count, seq)
}

fn states_behind_first(output: BaseModelOutput, count: usize) -> BaseModelOutput {
    BaseModelOutput { last_hidden_state: behind_first(output.last_hidden_state, count), ..output }
}

fn answers_behind_first(output: QuestionAnsweringOutput, count: usize) -> QuestionAnsweringOutput {
    let QuestionAnsweringOutput { start_logits, end_logits } = output;
    QuestionAnsweringOutput {
        start_logits: behind_first(start_logits, count),
        end_logits: behind_first(end_logits, count),
    }
}

impl<M: CausalLm> InParts<M> {
    /// The layers over tokens behind virtual ones. Those of a prompt come out too in the pass that they go into.
    fn decode_behind(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let inputs = TextInputs { token_type_ids: None, ..inputs.clone() };
        // Tokens that are in the cache already are behind what they were computed with.
        if cache.virtual_tokens() > 0 {
            let inputs = inputs.behind_keys(cache.virtual_tokens());
            return cache.behind_virtual(|cache| self.model.decode(x, &inputs, cache, record));
        }
        let Some(tokens) = self.attached.virtual_tokens().filter(|_| cache.length() == 0) else {
            return self.model.decode(x, &inputs, cache, record);
        };
        let ([batch, seq, hidden], count) = (x.dims(), tokens.count());
        match tokens.values() {
            VirtualValues::Prompt(rows) => {
                let rows = rows.cast(x.dtype()).unsqueeze::<3>().expand([batch, count, hidden]);
                let x = Tensor::cat(vec![rows, x], 1);
                // Of the ids, only their number counts from here on.
                let inputs = inputs.behind_prompt(count, 0);
                tokens.passed(1);
                cache.with_virtual(count, |cache| self.model.decode(x, &inputs, cache, record))
            }
            VirtualValues::Prefix(layers) => {
                let inputs = inputs.behind_keys(count);
                let mut own = None;
                let cache = match cache.is_off() {
                    true => own.insert(Cache::new(&self.model.cache_kinds(), count + seq)),
                    false => cache,
                };
                tokens.passed(cache.begin_with(&layers, batch));
                cache.behind_virtual(|cache| self.model.decode(x, &inputs, cache, record))
            }
        }
    }

    /// Whether a pass has virtual tokens before its own.
    fn is_behind(&self, cache: &Cache) -> bool {
        self.attached.virtual_tokens().is_some() || cache.virtual_tokens() > 0
    }
}

/// A decoder's rows share a cache, so they are not taken apart.
impl<M: CausalLm> CausalLm for InParts<M> {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.model.cache_kinds()
    }

    fn restarts_at(&self) -> Option<usize> {
        self.model.restarts_at().map(|length| length.saturating_sub(self.attached.count()))
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        if !self.is_behind(cache) {
            return self.model.decode(x, inputs, cache, record);
        }
        let seq = x.dims()[1];
        let x = self.decode_behind(x, inputs, cache, record);
        let count = x.dims()[1] - seq;
        if count == 0 { x } else { behind_first(x, count) }
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.model.head(x)
    }

    /// With the scores of a prompt's tokens before the others, as in Python: the last one is for the first token.
    fn forward(&self, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        if !self.is_behind(cache) {
            return self.model.forward(inputs, cache, record);
        }
        self.head(self.decode_behind(self.embed(inputs.input_ids.clone()), inputs, cache, record))
    }
}

/// As those of a decoder alone.
impl<M: ConditionalLm> ConditionalLm for InParts<M> {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.model.cache_kinds()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed(input_ids)
    }

    fn decode(
        &self,
        x: Tensor<3>,
        inputs: &TextInputs,
        encoded: &Encoded,
        cache: &mut Cache,
        record: &mut Record,
    ) -> Tensor<3> {
        self.model.decode(x, inputs, encoded, cache, record)
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.model.head(x)
    }
}

impl<M: SpeechToText> SpeechToText for InParts<M> {
    fn encode(&self, inputs: &AudioInputs, record: &mut Record) -> Encoded {
        self.model.encode(inputs, record)
    }
}

impl<M: SpeechDecoder> SpeechDecoder for InParts<M> {
    fn attend(&self, encoder_outputs: Tensor<3>) -> Encoded {
        self.model.attend(encoder_outputs)
    }
}

impl<M: SpeechSeq2SeqModel> SpeechSeq2SeqModel for InParts<M> {
    fn forward(&self, audio: &AudioInputs, text: &TextInputs, record: &mut Record) -> Seq2SeqModelOutput {
        self.model.forward(audio, text, record)
    }
}

impl<M: CtcModel> CtcModel for InParts<M> {
    fn frames(&self, samples: usize) -> usize {
        self.model.frames(samples)
    }

    fn forward(&self, inputs: &AudioInputs, record: &mut Record) -> Tensor<3> {
        self.in_parts(inputs, record, |inputs, record| self.model.forward(inputs, record))
    }
}

impl<M: TextEmbedder> TextEmbedder for InParts<M> {
    fn embed_text(&self, inputs: &TextInputs, record: &mut Record) -> TextEmbedding {
        in_parts(self.tokens, inputs, record, |inputs, record| self.model.embed_text(inputs, record))
    }
}

impl<M: ImageEmbedder> ImageEmbedder for InParts<M> {
    fn embed_image(&self, inputs: &ImageInputs, record: &mut Record) -> VisionEmbedding {
        in_parts(self.tokens, inputs, record, |inputs, record| self.model.embed_image(inputs, record))
    }
}

impl<M: AudioEmbedder> AudioEmbedder for InParts<M> {
    fn embed_audio(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionEmbedding {
        self.model.embed_audio(inputs, record)
    }
}

impl<M: SpectrogramModel> SpectrogramModel for InParts<M> {
    fn forward(&self, inputs: &SpectrogramInputs, record: &mut Record) -> VisionModelOutput {
        self.model.forward(inputs, record)
    }
}

impl<M: ImageTextModel> ImageTextModel for InParts<M> {
    fn is_pairwise(&self) -> bool {
        self.model.is_pairwise()
    }

    fn logits_per_image(&self, image_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2> {
        self.model.logits_per_image(image_embeds, text_embeds)
    }
}

impl<M: AudioTextModel> AudioTextModel for InParts<M> {
    fn logits_per_audio(&self, audio_embeds: Tensor<2>, text_embeds: Tensor<2>) -> Tensor<2> {
        self.model.logits_per_audio(audio_embeds, text_embeds)
    }

    fn logits_per_text(&self, text_embeds: Tensor<2>, audio_embeds: Tensor<2>) -> Tensor<2> {
        self.model.logits_per_text(text_embeds, audio_embeds)
    }
}

/// Tasks with their inputs and outputs; those that have an output for each token with what leaves out the first ones.
macro_rules! tasks_in_parts {
    ($($task:ident: $inputs:ty => $output:ty $(, $behind:ident)?;)*) => {$(
        impl<M: $task> $task for InParts<M> {
            fn forward(&self, inputs: &$inputs, record: &mut Record) -> $output {
                let output = self.in_parts(inputs, record, |inputs, record| self.model.forward(inputs, record));
                $(let output = match self.prompted() {
                    0 => output,
                    count => $behind(output, count),
                };)?
                output
            }
        }
    )*};
}

tasks_in_parts! {
    TextModel: TextInputs => BaseModelOutput, states_behind_first;
    MaskedLm: TextInputs => Tensor<3>, behind_first;
    SequenceClassifier: TextInputs => Tensor<2>;
    TokenClassifier: TextInputs => Tensor<3>, behind_first;
    QuestionAnswerer: TextInputs => QuestionAnsweringOutput, answers_behind_first;
    MultipleChoice: TextInputs => Tensor<2>;
    NextSentencePredictor: TextInputs => Tensor<2>;
    TokenDiscriminator: TextInputs => Tensor<2>, behind_first;
    VisionModel: ImageInputs => VisionModelOutput;
    ImageClassifier: ImageInputs => ImageClassifierOutput;
    MaskedImageModel: ImageInputs => MaskedImageOutput;
    SemanticSegmenter: ImageInputs => Tensor<4>;
    ObjectDetector: ImageInputs => DetectionOutput;
    ImageSegmenter: ImageInputs => SegmentationOutput;
    AudioModel: AudioInputs => AudioModelOutput;
    AudioClassifier: AudioInputs => Tensor<2>;
    AudioFrameClassifier: AudioInputs => Tensor<3>;
    AudioXVector: AudioInputs => XVectorOutput;
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn parts_are_joined_in_order_with_what_they_record() {
        let device = Device::default();
        let input_ids = Tensor::<1, Int>::arange(0..30, &device).reshape([10, 3]);
        let inputs = TextInputs { input_ids, attention_mask: None, token_type_ids: None, position_ids: None, past: 0 };
        let values = |x: Tensor<2>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        for tokens in [1, 3, 7, 12, 1000] {
            let mut record = Record::new(true, false);
            let mut sizes = Vec::new();
            let sizes_cell = std::cell::RefCell::new(&mut sizes);
            let all = in_parts(tokens, &inputs, &mut record, |inputs, record| {
                sizes_cell.borrow_mut().push(inputs.input_ids.dims()[0]);
                let x = inputs.input_ids.clone().float();
                record.hidden_state::<3>(&x.clone().unsqueeze_dim(2));
                record.hidden_state::<3>(&x.clone().neg().unsqueeze_dim(2));
                x
            });
            assert_eq!(values(all), (0..30).map(|i| i as f32).collect::<Vec<_>>());
            assert!(sizes.iter().all(|&rows| rows == 1 || rows * 3 <= tokens), "{sizes:?}");
            let Some([_, Features::Sequence(state)]) = record.kept("hidden_states").first_chunk() else {
                panic!("{record:?}");
            };
            assert_eq!(values(state.clone().neg().squeeze_dim(2))[29], 29.0);
        }
    }
}
