//! Tables from architecture to model, and loading through them.
//!
//! A modality crate has one sorted table per task. [`Auto`] is what the tables give: a boxed model with its config, its
//! limits and what loading noticed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, TensorData};

use crate::config::{Config, ModelConfig};
use crate::error::{Error, Result};
use crate::guard;
use crate::parts::InParts;
use crate::task::*;
pub use crate::weights::load::LoadOptions;
use crate::weights::load::{LoadReport, Loaded, Pretrained, load, parameters, vectors};
use crate::weights::packed::{self, Packing};
use crate::weights::save;
use crate::weights::{Checkpoint, StoredTensor};

/// A loaded model with everything that belongs to it.
#[derive(Debug)]
pub struct Auto<T: ?Sized + Task> {
    /// HF's name of the class.
    pub class: &'static str,
    /// What the model computes.
    pub model: Box<T>,
    /// Its `config.json`.
    pub config: Config,
    /// What it can take.
    pub limits: T::Limits,
    /// What loading noticed.
    pub report: LoadReport,
    /// Where its tensors live.
    pub device: Device,
}

impl<T: ?Sized + Task> Deref for Auto<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.model
    }
}

impl<T: ?Sized + Task + PretrainedModel> Auto<T> {
    /// Writes a folder that `from_pretrained`, here and in Python, reads: `config.json` and `model.safetensors`, in
    /// shards of at most `max_shard_size` bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for a model whose weights were quantized while it was loaded: what they were is
    /// lost.
    pub fn save_pretrained(&self, folder: &Path, max_shard_size: u64) -> Result<()> {
        if self.report.quantized > 0 {
            return Err(Error::input("model", "8-bit weights", "a model loaded without `--quantize`"));
        }
        let mut config = self.config.clone();
        config.set("architectures", vec![self.class]);
        save::write_folder(folder, &self.model.tensors().into_iter().collect(), max_shard_size)?;
        save::write_atomically(&folder.join("config.json"), |file| file.write_all(config.to_json().as_bytes()))
    }
}

/// A loaded model of any task, as adapters see it.
pub trait Adaptable {
    /// HF's name of the class.
    fn class(&self) -> &'static str;

    /// What the model computes, in words.
    fn task(&self) -> &'static str;

    /// Its `config.json`.
    fn config(&self) -> &Config;

    /// Where its tensors live.
    fn device(&self) -> &Device;

    /// See [`PretrainedModel::visit_parameters`].
    fn visit_parameters(&self, f: &mut dyn FnMut(Parameter));

    /// See [`PretrainedModel::visit_places`].
    fn visit_places(&self, f: &mut dyn FnMut(Parameter));

    /// See [`PretrainedModel::map_parameters`].
    fn map_parameters(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor);

    /// Keeps a value as long as there is the model.
    fn keep(&mut self, value: Box<dyn Debug + Send + Sync>);

    /// Puts tokens before those of every text, or takes them away. The limits of the model make room for them.
    ///
    /// # Errors
    /// [`Error::Input`] if the model cannot take them, which one token behind them shows; it is as it was then.
    fn set_virtual_tokens(&mut self, tokens: Option<Arc<dyn VirtualTokens>>) -> Result<()>;
}

/// What is put on a model as soon as it is loaded.
pub trait Attach: Debug + Send + Sync {
    /// The checkpoint with what it lacks and what comes with it, such as a head; `None` if that is nothing. The config has
    /// to fit.
    ///
    /// # Errors
    /// If it cannot be read.
    fn complete(&self, config: &mut Config, checkpoint: &Checkpoint) -> Result<Option<Checkpoint>> {
        let _ = (config, checkpoint);
        Ok(None)
    }

    /// Puts it on.
    ///
    /// # Errors
    /// If it does not fit.
    fn attach(&self, model: &mut dyn Adaptable) -> Result<()>;
}

impl<T> Adaptable for Auto<T>
where
    T: ?Sized + Task + PretrainedModel + NamedForward<Limits = <T as Task>::Limits>,
{
    fn class(&self) -> &'static str {
        self.class
    }

    fn task(&self) -> &'static str {
        T::NAME
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn visit_parameters(&self, f: &mut dyn FnMut(Parameter)) {
        self.model.visit_parameters(f);
    }

    fn visit_places(&self, f: &mut dyn FnMut(Parameter)) {
        self.model.visit_places(f);
    }

    fn map_parameters(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        self.model.map_parameters(f);
    }

    fn keep(&mut self, value: Box<dyn Debug + Send + Sync>) {
        if let Some(attached) = self.model.attached_mut() {
            attached.keep(value);
        }
    }

    fn set_virtual_tokens(&mut self, tokens: Option<Arc<dyn VirtualTokens>>) -> Result<()> {
        let class = self.class;
        let unable = |reason: String| {
            let expected = "a model that can take them, or an adapter of another method";
            Error::input(format!("virtual tokens of an adapter for `{class}`"), reason, expected)
        };
        let Some(attached) = self.model.attached_mut() else {
            return tokens.map_or(Ok(()), |_| Err(unable("the model is not one of a table".into())));
        };
        let (before, count) = (attached.count(), tokens.as_ref().map_or(0, |tokens| tokens.count()));
        let limits = self.limits;
        match self.limits.text_mut() {
            Some(text) => text.behind(before, count).ok_or_else(|| unable(format!("there is no room for {count}")))?,
            None if count > 0 => return Err(unable("its inputs are no texts".into())),
            None => {}
        }
        let was = attached.replace(tokens);
        let tried = if count > 0 { self.try_virtual_tokens() } else { Ok(()) };
        tried.map_err(|reason| {
            self.limits = limits;
            if let Some(attached) = self.model.attached_mut() {
                attached.replace(was);
            }
            unable(reason)
        })
    }
}

impl<T> Auto<T>
where
    T: ?Sized + Task + PretrainedModel + NamedForward<Limits = <T as Task>::Limits>,
{
    /// Sends one token through the model, behind its virtual tokens.
    fn try_virtual_tokens(&self) -> Result<(), String> {
        let one = |value: i64| TensorData::new(vec![value], [1, 1]);
        let inputs = NamedTensors::from([("input_ids".into(), one(0)), ("attention_mask".into(), one(1))]);
        let forward = || self.model.forward_named(&inputs, &self.limits, &self.device, Record::none());
        match guard::guarded(forward)? {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// One line of a table: an architecture's class for one task.
pub struct Entry<T: ?Sized + Task> {
    /// HF's `model_type`.
    pub model_type: &'static str,
    /// HF's name of the class.
    pub class: &'static str,
    load: fn(&'static str, Config, &Checkpoint, &LoadOptions) -> Result<Auto<T>>,
    limits: fn(&Config) -> Result<T::Limits>,
    parameters: fn(&Config) -> Result<Parameters>,
    vectors: fn(&Config) -> Result<Vectors>,
}

/// Names and shapes of the tensors in a file.
pub type Parameters = Vec<(String, Vec<usize>)>;

/// Vectors by name.
pub type Vectors = BTreeMap<String, TensorData>;

impl<T: ?Sized + Task> Entry<T> {
    /// Fills the class from an opened checkpoint.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&self, config: Config, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<Auto<T>> {
        (self.load)(self.class, config, checkpoint, options)
    }

    /// What the weights of norms, the biases and the statistics of the class are before they are loaded or trained.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn vectors(&self, config: &Config) -> Result<Vectors> {
        (self.vectors)(config)
    }
}

/// A task: the word for messages, and what its models take.
pub trait Task {
    /// `masked language model`, for messages.
    const NAME: &'static str;

    /// What a model of the task can take.
    type Limits: Into<Limits> + TextRoom + Debug + Copy + Send + Sync + 'static;
}

/// For each task: its name, and the function that makes a table's line from a model.
macro_rules! tasks {
    ($($(#[$meta:meta])* $function:ident: $task:ident, $limits:ty = $name:literal;)*) => {$(
        impl Task for dyn $task {
            const NAME: &'static str = $name;
            type Limits = $limits;
        }

        $(#[$meta])*
        pub const fn $function<M>(model_type: &'static str, class: &'static str) -> Entry<dyn $task>
        where
            M: Pretrained<Config: ModelConfig<Limits = $limits>> + $task,
        {
            Entry {
                model_type,
                class,
                load: |class, mut config, checkpoint, options| {
                    let completed = match &options.attach {
                        Some(attach) => attach.complete(&mut config, checkpoint)?,
                        None => None,
                    };
                    let checkpoint = completed.as_ref().unwrap_or(checkpoint);
                    let (Loaded { model, report }, limits) = load_class::<M>(class, &config, checkpoint, options)?;
                    // What was packed is plain now, and is saved as such.
                    config.remove(packed::KEY);
                    let device = options.device.clone();
                    let model = Box::new(InParts::new(model, &report));
                    let mut auto: Auto<dyn $task> = Auto { class, model, config, limits, report, device };
                    if let Some(attach) = &options.attach {
                        attach.attach(&mut auto)?;
                    }
                    Ok(auto)
                },
                limits: |config| Ok(config.parse::<M::Config>()?.limits()),
                parameters: |config| Ok(parameters::<M>(&config.parse()?)),
                vectors: |config| Ok(vectors::<M>(&config.parse()?)),
            }
        }
    )*};
}

tasks! {
    /// A line of the table of base models.
    text_model: TextModel, TextLimits = "base model";
    /// A line of the table of causal language models.
    causal_lm: CausalLm, TextLimits = "causal language model";
    /// A line of the table of masked language models.
    masked_lm: MaskedLm, TextLimits = "masked language model";
    /// A line of the table of sequence classifiers.
    sequence_classifier: SequenceClassifier, TextLimits = "sequence classification";
    /// A line of the table of token classifiers.
    token_classifier: TokenClassifier, TextLimits = "token classification";
    /// A line of the table of extractive question answerers.
    question_answerer: QuestionAnswerer, TextLimits = "question answering";
    /// A line of the table of multiple-choice models.
    multiple_choice: MultipleChoice, TextLimits = "multiple choice";
    /// A line of the table of next-sentence predictors.
    next_sentence_predictor: NextSentencePredictor, TextLimits = "next sentence prediction";
    /// A line of the table of discriminators.
    token_discriminator: TokenDiscriminator, TextLimits = "pre-training";
    /// A line of the table of base models for pictures.
    vision_model: VisionModel, ImageLimits = "image features";
    /// A line of the table of classifiers of pictures.
    image_classifier: ImageClassifier, ImageLimits = "image classification";
    /// A line of the table of models that fill in patches.
    masked_image_model: MaskedImageModel, ImageLimits = "masked image modeling";
    /// A line of the table of models that label every pixel.
    semantic_segmenter: SemanticSegmenter, ImageLimits = "semantic segmentation";
    /// A line of the table of object detectors.
    object_detector: ObjectDetector, ImageLimits = "object detection";
    /// A line of the table of models that give objects and their shapes.
    image_segmenter: ImageSegmenter, ImageLimits = "image segmentation";
    /// A line of the table of base models for sounds.
    audio_model: AudioModel, AudioLimits = "audio features";
    /// A line of the table of CTC models.
    ctc_model: CtcModel, AudioLimits = "speech recognition by CTC";
    /// A line of the table of classifiers of sounds.
    audio_classifier: AudioClassifier, AudioLimits = "audio classification";
    /// A line of the table of models that label every frame.
    audio_frame_classifier: AudioFrameClassifier, AudioLimits = "audio frame classification";
    /// A line of the table of models that tell voices apart.
    audio_xvector: AudioXVector, AudioLimits = "speaker verification";
    /// A line of the table of decoders of speech that have no encoder.
    speech_decoder: SpeechDecoder, SpeechDecoderLimits = "speech decoding";
    /// A line of the table of base models of speech and text.
    speech_seq2seq_model: SpeechSeq2SeqModel, SpeechToTextLimits = "speech and text features";
    /// A line of the table of models that write what is said.
    speech_to_text: SpeechToText, SpeechToTextLimits = "speech recognition";
    /// A line of the table of models that embed texts among other modalities.
    text_embedder: TextEmbedder, TextLimits = "text embedding";
    /// A line of the table of models that embed pictures among texts.
    image_embedder: ImageEmbedder, ImageLimits = "image embedding";
    /// A line of the table of models that embed sounds among texts.
    audio_embedder: AudioEmbedder, AudioLimits = "audio embedding";
    /// A line of the table of base models for spectrograms.
    spectrogram_model: SpectrogramModel, AudioLimits = "spectrogram features";
    /// A line of the table of models that compare pictures and texts.
    image_text_model: ImageTextModel, ImageTextLimits = "zero-shot image classification";
    /// A line of the table of models that compare sounds and texts.
    audio_text_model: AudioTextModel, AudioTextLimits = "zero-shot audio classification";
}

fn load_class<M: Pretrained>(
    class: &str,
    config: &Config,
    checkpoint: &Checkpoint,
    options: &LoadOptions,
) -> Result<(Loaded<M>, <M::Config as ModelConfig>::Limits)> {
    let typed: M::Config = config.parse()?;
    let exact = config.architectures().contains(&class);
    let loaded = load::<M>(&typed, checkpoint, Packing::from_config(config)?, class, exact, options)?;
    Ok((loaded, typed.limits()))
}

/// Loads the model of a folder for one task.
///
/// # Errors
/// [`Error::Config`] with the nearest name if none of `classes` is of this architecture; [`Error::NoHead`] if the
/// architecture has no such head; everything that loading can report.
pub fn from_folder<T: ?Sized + Task>(
    table: &[Entry<T>],
    classes: &[&dyn Class],
    folder: &Path,
    options: &LoadOptions,
) -> Result<Auto<T>> {
    let config = Config::from_folder(folder)?;
    let entry = find(table, classes, &config)?;
    entry.load(config, &Checkpoint::from_folder(folder)?, options)
}

/// The line of a table that a config is for.
///
/// # Errors
/// As [`from_folder`], but for those of loading.
pub fn find<'t, T: ?Sized + Task>(
    table: &'t [Entry<T>],
    classes: &[&dyn Class],
    config: &Config,
) -> Result<&'t Entry<T>> {
    let model_type = config.model_type()?;
    // An architecture may have several classes for a task: the one that the config names, or else the first.
    let of_type = || table.iter().filter(|entry| entry.model_type == model_type);
    let named = of_type().find(|entry| config.architectures().contains(&entry.class));
    let Some(entry) = named.or_else(|| of_type().next()) else {
        let tasks: Vec<_> = classes.iter().filter(|c| c.model_type() == model_type).map(|c| c.task()).collect();
        return Err(if tasks.is_empty() {
            unknown_architecture(config, model_type, classes)
        } else {
            Error::NoHead { model_type: model_type.to_owned(), task: T::NAME, available: tasks.join(", ") }
        });
    };
    Ok(entry)
}

/// A table's line of any task: what `tx models` lists and `tx forward` runs.
pub trait Class: Sync {
    /// HF's `model_type`.
    fn model_type(&self) -> &'static str;
    /// HF's name of the class.
    fn class(&self) -> &'static str;
    /// What it computes, in words.
    fn task(&self) -> &'static str;
    /// What the class can take, by its config alone.
    ///
    /// # Errors
    /// As [`Config::parse`].
    fn limits(&self, config: &Config) -> Result<Limits>;
    /// The tensors that a file for this class holds.
    ///
    /// # Errors
    /// As [`Config::parse`].
    fn parameters(&self, config: &Config) -> Result<Parameters>;
    /// Fills the class from an opened checkpoint.
    ///
    /// # Errors
    /// As [`load`].
    fn load_named(
        &self,
        config: Config,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<Auto<dyn NamedModel>>;
}

impl<T> Class for Entry<T>
where
    T: ?Sized + Task + PretrainedModel + NamedForward<Limits = <T as Task>::Limits> + 'static,
{
    fn model_type(&self) -> &'static str {
        self.model_type
    }

    fn class(&self) -> &'static str {
        self.class
    }

    fn task(&self) -> &'static str {
        T::NAME
    }

    fn limits(&self, config: &Config) -> Result<Limits> {
        Ok((self.limits)(config)?.into())
    }

    fn parameters(&self, config: &Config) -> Result<Parameters> {
        (self.parameters)(config)
    }

    fn load_named(
        &self,
        config: Config,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<Auto<dyn NamedModel>> {
        let Auto { class, model, config, limits, report, device } = self.load(config, checkpoint, options)?;
        let named = Named { model, limits, device: device.clone() };
        Ok(Auto { class, model: Box::new(named), config, limits: limits.into(), report, device })
    }
}

/// The lines of a table as classes of any task.
pub fn lines<T: ?Sized + Task>(table: &'static [Entry<T>]) -> impl Iterator<Item = &'static dyn Class>
where
    Entry<T>: Class,
{
    table.iter().map(|entry| entry as &dyn Class)
}

/// The class of a folder by HF's name, or the one that its config names first.
///
/// # Errors
/// [`Error::Unknown`] with the nearest name for a given one; [`Error::Config`] if the config's is unknown or missing.
pub fn find_class<'a>(classes: &[&'a dyn Class], config: &Config, name: Option<&str>) -> Result<&'a dyn Class> {
    let model_type = config.model_type()?;
    let of_type = || classes.iter().filter(|class| class.model_type() == model_type);
    if of_type().next().is_none() {
        return Err(unknown_architecture(config, model_type, classes));
    }
    let architectures = config.architectures();
    let unknown = |name: &str| Error::unknown("class", name, of_type().map(|class| class.class()));
    let find = |name: &str| of_type().find(|class| class.class() == name).copied();
    match (name, architectures.first()) {
        (Some(name), _) => find(name).ok_or_else(|| unknown(name)),
        (None, Some(name)) => find(name).ok_or_else(|| Error::config(config.path(), "architectures", unknown(name))),
        (None, None) => {
            Err(Error::config(config.path(), "architectures", "missing; it names the class that the weights belong to"))
        }
    }
}

/// No class of any table is of the architecture that the config names.
fn unknown_architecture(config: &Config, model_type: &str, classes: &[&dyn Class]) -> Error {
    let known = classes.iter().map(|class| class.model_type());
    Error::config(config.path(), "model_type", Error::unknown("architecture", model_type, known))
}

/// A model of any task that is called with tensors by name.
pub trait NamedModel: PretrainedModel {
    /// One forward pass: HF's `forward()` arguments in, HF's output fields out.
    ///
    /// # Errors
    /// As [`NamedForward::forward_named`].
    fn forward_named(&self, inputs: &NamedTensors, record: Record) -> Result<NamedTensors>;
}

impl Task for dyn NamedModel {
    const NAME: &'static str = "model";
    type Limits = Limits;
}

/// A boxed model of one task as a model of any task.
#[derive(Debug)]
struct Named<T: ?Sized + Task> {
    model: Box<T>,
    limits: T::Limits,
    device: Device,
}

impl<T> NamedModel for Named<T>
where
    T: ?Sized + Task + PretrainedModel + NamedForward<Limits = <T as Task>::Limits>,
{
    fn forward_named(&self, inputs: &NamedTensors, record: Record) -> Result<NamedTensors> {
        self.model.forward_named(inputs, &self.limits, &self.device, record)
    }
}

impl<T: ?Sized + Task + PretrainedModel> PretrainedModel for Named<T> {
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
        self.model.attached()
    }

    fn attached_mut(&mut self) -> Option<&mut Attached> {
        self.model.attached_mut()
    }
}
