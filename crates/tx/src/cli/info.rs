//! `tx info`: what a model is, what it needs, and what can be done with it.
//!
//! Only `config.json`, the tokenizer and the headers of the weights are read, so that the answer for a large checkpoint
//! comes as fast as for a small one. What this program does not support is said, and the rest is shown all the same.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use burn::tensor::DType;
use clap::Args;
use serde::Serialize;
use tx::built_in;
use tx_core::config::Config;
use tx_core::device::Dtype;
use tx_core::error::{Error, Result};
use tx_core::hub::Wanted;
use tx_core::registry::{Class, Task};
use tx_core::task::{
    self, AudioClassifier, AudioTextModel, CausalLm, CtcModel, ImageClassifier, ImageLimits, ImageSegmenter,
    ImageTextModel, MaskedLm, ObjectDetector, QuestionAnswerer, SemanticSegmenter, SequenceClassifier, SpeechToText,
    TokenClassifier, VisionModel,
};
use tx_core::tokenizer::{Side, SpecialTokens, Tokenizer};
use tx_core::weights::Checkpoint;
use tx_core::weights::packed::{Packing, Source};
use tx_core::weights::save::Format;
use tx_text::models::TEXT_MODEL;
use tx_text::pipelines::TextTask;

use super::Common;
use super::models::Head;
use super::output::{bytes, count, print_json, print_table};

/// The arguments of `tx info`.
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`; weights that are not in the cache are not downloaded
    #[arg(value_name = "MODEL")]
    pub model: String,
}

/// Everything that is known about a model.
#[derive(Serialize)]
struct Info {
    model: String,
    folder: String,
    model_type: Option<String>,
    architectures: Vec<String>,
    /// Whether this program can compute it.
    supported: bool,
    /// Why it cannot.
    reason: Option<String>,
    /// The classes that this program has for the architecture.
    classes: Vec<Head>,
    commands: Vec<String>,
    sizes: BTreeMap<&'static str, u64>,
    limits: Option<Limits>,
    labels: Option<Vec<String>>,
    weights: Option<Weights>,
    tokenizer: Option<TokenizerInfo>,
    /// Why there is no tokenizer.
    tokenizer_reason: Option<String>,
}

/// What the model takes, by modality.
#[derive(Serialize)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    vocab_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<usize>,
    /// What the model was made for, where it can take more.
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    type_vocab_size: Option<usize>,
    /// Channels, and the height and width of a patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<(usize, [usize; 2])>,
    /// The name of the argument for sounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<&'static str>,
}

impl From<task::Limits> for Limits {
    fn from(limits: task::Limits) -> Self {
        Self {
            vocab_size: limits.text.map(|text| text.vocab_size),
            max_length: limits.text.and_then(|text| text.max_length),
            context: limits.text.and_then(|text| text.context),
            type_vocab_size: limits.text.map(|text| text.type_vocab_size),
            image: limits.image.map(|ImageLimits { channels, patch_size, .. }| (channels, patch_size)),
            audio: limits.audio.map(|audio| audio.name),
        }
    }
}

#[derive(Serialize)]
struct Weights {
    file: String,
    tensors: usize,
    parameters: u64,
    /// Parameters by dtype.
    dtypes: BTreeMap<&'static str, u64>,
    bytes: u64,
    /// What they take once they are loaded with `--dtype`.
    memory: u64,
}

#[derive(Serialize)]
struct TokenizerInfo {
    kind: &'static str,
    vocab_size: usize,
    model_max_length: Option<usize>,
    padding_side: &'static str,
    special_tokens: BTreeMap<&'static str, Token>,
}

#[derive(Serialize)]
struct Token {
    text: String,
    id: u32,
}

/// The sizes that are shown, and the keys of `config.json` that hold them in one architecture or another.
const SIZES: [(&str, &[&str]); 4] = [
    ("layers", &["num_hidden_layers", "n_layers", "n_layer", "num_layers"]),
    ("hidden size", &["hidden_size", "dim", "d_model", "n_embd"]),
    ("attention heads", &["num_attention_heads", "n_heads", "n_head"]),
    ("intermediate size", &["intermediate_size", "hidden_dim", "ffn_dim", "n_inner"]),
];

/// What a head of texts is good for.
const TEXT_PIPELINES: [(&str, TextTask); 6] = [
    (<dyn CausalLm as Task>::NAME, TextTask::TextGeneration),
    (<dyn MaskedLm as Task>::NAME, TextTask::FillMask),
    (<dyn QuestionAnswerer as Task>::NAME, TextTask::QuestionAnswering),
    (<dyn SequenceClassifier as Task>::NAME, TextTask::TextClassification),
    (<dyn SequenceClassifier as Task>::NAME, TextTask::ZeroShotClassification),
    (<dyn TokenClassifier as Task>::NAME, TextTask::TokenClassification),
];

/// What a head of pictures or sounds is good for.
const PIPELINES: [(&str, &str); 10] = [
    (<dyn AudioClassifier as Task>::NAME, "audio-classification"),
    (<dyn AudioTextModel as Task>::NAME, "zero-shot-audio-classification"),
    (<dyn CtcModel as Task>::NAME, "automatic-speech-recognition"),
    (<dyn ImageClassifier as Task>::NAME, "image-classification"),
    (<dyn ImageSegmenter as Task>::NAME, "image-segmentation"),
    (<dyn ImageTextModel as Task>::NAME, "zero-shot-image-classification"),
    (<dyn ObjectDetector as Task>::NAME, "object-detection"),
    (<dyn SemanticSegmenter as Task>::NAME, "image-segmentation"),
    (<dyn SpeechToText as Task>::NAME, "automatic-speech-recognition"),
    (<dyn VisionModel as Task>::NAME, "image-feature-extraction"),
];

/// Runs the command.
///
/// # Errors
/// [`Error::MissingFile`] without a `config.json`; whatever reading it, the tokenizer and the headers of the weights gives.
pub fn run(args: &InfoArgs, common: &Common) -> Result<()> {
    let info = Info::new(&args.model, common)?;
    if common.json { print_json(&info) } else { print_table(&[], &info.rows()) }
}

impl Info {
    fn new(model: &str, common: &Common) -> Result<Self> {
        let options = common.hub_options();
        // Offline, a cached model without a tokenizer is still worth a look.
        let wanted = if options.offline { Wanted::ConfigOnly } else { Wanted::Tokenizer };
        let folder = built_in::resolve(model, wanted, &options)?;
        let config = Config::from_folder(&folder)?;
        let model_type = config.get("model_type").map(|_| config.model_type()).transpose()?;
        let all = tx::classes();
        let classes: Vec<_> = all.iter().copied().filter(|class| Some(class.model_type()) == model_type).collect();
        let own = config.architectures().first().copied();
        let class = classes.iter().find(|class| Some(class.class()) == own).or(classes.first());
        let (limits, reason) = match (model_type, class) {
            (None, _) => (None, Some("config.json has no `model_type`".to_owned())),
            (Some(name), None) => {
                let error = Error::unknown("architecture", name, all.iter().map(|class| class.model_type()));
                (None, Some(error.to_string()))
            }
            (Some(_), Some(class)) => match Packing::from_config(&config).and_then(|_| class.limits(&config)) {
                Ok(limits) => (Some(limits.into()), None),
                Err(error @ Error::Unsupported { .. }) => (None, Some(error.to_string())),
                Err(error) => return Err(error),
            },
        };
        let (tokenizer, tokenizer_reason) = match Tokenizer::from_folder(&folder) {
            Ok(tokenizer) => (Some(TokenizerInfo::new(&tokenizer)), None),
            Err(error @ (Error::MissingFile { .. } | Error::Unsupported { .. })) => (None, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        let supported = reason.is_none();
        let architectures = config.architectures();
        let own = classes.iter().copied().find(|class| architectures.first() == Some(&class.class()));
        Ok(Self {
            model: model.to_owned(),
            folder: folder.to_string_lossy().into_owned(),
            model_type: model_type.map(str::to_owned),
            supported,
            reason,
            commands: if supported { commands(&classes, own, &config, tokenizer.is_some())? } else { Vec::new() },
            classes: classes.iter().map(|class| Head::new(*class)).collect(),
            sizes: sizes(&config),
            limits,
            labels: if config.get("id2label").is_some() { Some(config.labels()?) } else { None },
            weights: weights(&folder, &config, common.dtype.parse()?)?,
            tokenizer,
            tokenizer_reason,
            architectures: architectures.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The table for people.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row("model", self.model.clone());
        row("folder", self.folder.clone());
        row("architecture", self.model_type.clone().unwrap_or_else(|| "not named".into()));
        if !self.architectures.is_empty() {
            row("saved from", self.architectures.join(", "));
        }
        match &self.reason {
            Some(reason) => row("supported", format!("no: {reason}")),
            None => row("supported", "yes".into()),
        }
        for head in &self.classes {
            row("class", format!("{} ({})", head.class, head.task));
        }
        for (name, value) in &self.sizes {
            row(name, value.to_string());
        }
        if let Some(limits) = &self.limits {
            if let Some(vocab_size) = limits.vocab_size {
                row("vocabulary", vocab_size.to_string());
                row("longest input", limits.max_length.map_or("not limited".into(), |max| format!("{max} tokens")));
                if let Some(context) = limits.context {
                    row("made for", format!("{context} tokens"));
                }
            }
            if let Some((channels, [height, width])) = limits.image {
                row("pictures", format!("{channels} channels, at least {width}x{height} pixels"));
            }
            if let Some(name) = limits.audio {
                row("sounds", format!("`{name}`"));
            }
        }
        if let Some(labels) = &self.labels {
            row("labels", shortened(labels));
        }
        match &self.weights {
            Some(weights) => {
                let dtypes: Vec<_> = weights.dtypes.iter().map(|(name, n)| format!("{} {name}", count(*n))).collect();
                row("weights", format!("{}, {} tensors, {}", weights.file, weights.tensors, bytes(weights.bytes)));
                row("parameters", format!("{} ({})", weights.parameters, dtypes.join(", ")));
                row("memory", bytes(weights.memory));
            }
            None => row("weights", format!("not here; `tx download {}` gets those of a model on the Hub", self.model)),
        }
        match (&self.tokenizer, &self.tokenizer_reason) {
            (Some(tokenizer), _) => {
                row(
                    "tokenizer",
                    format!("{}, {} tokens, pads {}", tokenizer.kind, tokenizer.vocab_size, tokenizer.padding_side),
                );
                let special: Vec<_> = tokenizer
                    .special_tokens
                    .iter()
                    .map(|(name, token)| format!("{name} {} ({})", token.text, token.id))
                    .collect();
                row("special tokens", special.join(", "));
            }
            (None, reason) => row("tokenizer", format!("none: {}", reason.as_deref().unwrap_or_default())),
        }
        for command in &self.commands {
            row("command", command.clone());
        }
        rows
    }
}

fn sizes(config: &Config) -> BTreeMap<&'static str, u64> {
    let size = |keys: &[&str]| keys.iter().find_map(|key| config.get(key)?.as_u64());
    SIZES.iter().filter_map(|(name, keys)| Some((*name, size(keys)?))).collect()
}

/// What `tx` can do with the model: with the head that it was saved with, and with its base model.
fn commands(classes: &[&dyn Class], own: Option<&dyn Class>, config: &Config, tokenizer: bool) -> Result<Vec<String>> {
    let mut commands = Vec::new();
    let is_own = |task: &str| own.is_some_and(|class| class.task() == task);
    let has = |task: &str| classes.iter().any(|class| class.task() == task);
    if tokenizer {
        let entails = config.labels()?.iter().any(|label| label.to_lowercase().starts_with("entail"));
        for (task, pipeline) in TEXT_PIPELINES {
            let fits = pipeline != TextTask::ZeroShotClassification || entails;
            if fits && is_own(task) {
                commands.push(format!("tx run {}", pipeline.entry().name));
            }
        }
    }
    let pictures = <dyn VisionModel as Task>::NAME;
    for (task, pipeline) in PIPELINES {
        if is_own(task) || (task == pictures && has(task)) {
            commands.push(format!("tx run {pipeline}"));
        }
    }
    // A base model that reads texts alone, not the tower of another.
    let reads = classes.iter().any(|class| TEXT_MODEL.iter().any(|entry| entry.model_type == class.model_type()));
    let joint = is_own(<dyn ImageTextModel as Task>::NAME) || is_own(<dyn AudioTextModel as Task>::NAME);
    if tokenizer && (joint || reads) {
        commands.push("tx embed".to_owned());
    }
    if tokenizer && reads {
        let base = [TextTask::FeatureExtraction, TextTask::SentenceSimilarity];
        commands.extend(base.map(|pipeline| format!("tx run {}", pipeline.entry().name)));
    }
    commands.push("tx forward".to_owned());
    Ok(commands)
}

/// The weights of a folder by their headers, if it has any.
fn weights(folder: &Path, config: &Config, dtype: Dtype) -> Result<Option<Weights>> {
    let mut names = [Format::Safetensors, Format::PyTorch].into_iter().flat_map(|f| [f.file_name(), f.index_name()]);
    if !names.any(|name| folder.join(name).is_file()) {
        return Ok(None);
    }
    let checkpoint = Checkpoint::from_folder(folder)?;
    // Packed in a way that is not known, they are what the file says.
    let sources = Packing::from_config(config).unwrap_or_default().tensors(&checkpoint);
    // Tensors that are tied lie at the same place.
    let mut seen = HashSet::new();
    let mut is_new = |source: &Source| match source {
        Source::Plain(stored) => seen.insert((stored.bytes.as_ptr(), stored.bytes.len(), stored.elements())),
        Source::Packed(_) | Source::Broken(_) => true,
    };
    let (mut dtypes, mut bytes, mut memory) = (BTreeMap::<_, u64>::new(), 0, 0);
    for (name, source) in sources.iter().filter(|(_, source)| is_new(source)) {
        bytes += source.bytes() as u64;
        if source.is_float() {
            *dtypes.entry(source.kind()).or_default() += source.elements() as u64;
            // Vectors are loaded as f32.
            let loaded = source.loaded_dtype(name, dtype.to_burn(), DType::F32);
            memory += (source.elements() as u64).saturating_mul(loaded.size() as u64);
        }
    }
    Ok(Some(Weights {
        file: checkpoint.path().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        tensors: checkpoint.tensors().len(),
        parameters: dtypes.values().sum(),
        dtypes,
        bytes,
        memory,
    }))
}

impl TokenizerInfo {
    fn new(tokenizer: &Tokenizer) -> Self {
        let SpecialTokens { unk, bos, eos, sep, cls, pad, mask } = tokenizer.special();
        let special =
            [("unk", unk), ("bos", bos), ("eos", eos), ("sep", sep), ("cls", cls), ("pad", pad), ("mask", mask)];
        let special_tokens = special
            .into_iter()
            .filter_map(|(name, token)| {
                token.as_ref().map(|token| (name, Token { text: token.text.clone(), id: token.id }))
            })
            .collect();
        Self {
            kind: tokenizer.kind(),
            vocab_size: tokenizer.vocab_size(),
            model_max_length: tokenizer.model_max_length(),
            padding_side: if tokenizer.padding_side() == Side::Left { "left" } else { "right" },
            special_tokens,
        }
    }
}

/// The first of many labels, and how many there are.
fn shortened(labels: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = labels[..labels.len().min(SHOWN)].join(", ");
    if labels.len() > SHOWN { format!("{shown}, … ({} in all)", labels.len()) } else { shown }
}
