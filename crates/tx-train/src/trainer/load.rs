//! Models to train: as a checkpoint has them, with a new head, or from a config alone.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{DType, Tensor, TensorData};
use serde_json::Value;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::registry::{Auto, Class, Entry, LoadOptions, Task, find};
use tx_core::task::AnyTensor;
use tx_core::weights::{Checkpoint, StoredTensor, dtype_name};
use tx_text::models::{
    CAUSAL_LM, MASKED_LM, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, TEXT_MODEL, TOKEN_CLASSIFICATION,
};
use tx_vision::models::{IMAGE_CLASSIFICATION, VISION_MODEL};
use tx_vision::processor::ImageProcessor;

use super::initial::Initial;
use super::model::{TrainingModel, name_outputs};
use super::sentences::Sentences;
use super::task::TrainingTask;
use crate::data::Targets;
use crate::parameters::Parameters;

/// How a model is loaded that is to be trained.
#[derive(Debug, Clone, Default)]
pub struct ModelOptions {
    /// Where its tensors live, and in which dtype.
    pub load: LoadOptions,
    /// What its outputs mean; as its config says if `None`.
    pub targets: Option<Targets>,
    /// All weights begin with random numbers; the folder needs a config, and no weights.
    pub from_scratch: bool,
    /// A head of other sizes begins anew; it is an error otherwise.
    pub ignore_mismatched_sizes: bool,
    /// The token that fills rows, where a config does not say what a classifier takes for padding.
    pub pad_token_id: Option<u32>,
    /// What random numbers depend on.
    pub seed: u64,
}

impl From<LoadOptions> for ModelOptions {
    fn from(load: LoadOptions) -> Self {
        Self { load, ..Self::default() }
    }
}

/// Loads the model of a folder for a task.
pub(super) fn load(folder: &Path, task: TrainingTask, options: &ModelOptions) -> Result<TrainingModel> {
    let text = Loader { folder, options, classes: tx_text::models::classes(), problem: None, pad_token_id: None };
    let problem = options.targets.as_ref().map(|targets| match targets {
        Targets::Classes(_) => "single_label_classification",
        Targets::MultiLabel(_) => "multi_label_classification",
        Targets::Regression(_) => "regression",
    });
    Ok(match task {
        TrainingTask::TextClassification => {
            let loader = Loader { problem, pad_token_id: options.pad_token_id, ..text };
            TrainingModel::SequenceClassification(loader.load(SEQUENCE_CLASSIFICATION, TEXT_MODEL)?)
        }
        TrainingTask::TokenClassification => {
            TrainingModel::TokenClassification(text.load(TOKEN_CLASSIFICATION, TEXT_MODEL)?)
        }
        TrainingTask::QuestionAnswering => TrainingModel::QuestionAnswering(text.load(QUESTION_ANSWERING, TEXT_MODEL)?),
        TrainingTask::MaskedLm => TrainingModel::MaskedLm(text.load(MASKED_LM, TEXT_MODEL)?),
        TrainingTask::CausalLm | TrainingTask::Chat => TrainingModel::CausalLm(text.load(CAUSAL_LM, TEXT_MODEL)?),
        TrainingTask::ImageClassification => {
            let processor = ImageProcessor::from_folder(folder)?;
            let loader = Loader { classes: tx_vision::models::classes(), problem, ..text };
            TrainingModel::ImageClassification(loader.load(IMAGE_CLASSIFICATION, VISION_MODEL)?, processor)
        }
        TrainingTask::SentenceEmbedding => {
            let sentences = Sentences::from_folder(folder, &options.load.device)?;
            let encoder = folder.join(&sentences.encoder);
            let loader = Loader { folder: &encoder, ..text };
            TrainingModel::SentenceEmbedding(loader.load(TEXT_MODEL, TEXT_MODEL)?, sentences)
        }
    })
}

/// What is loaded, from where.
struct Loader<'l> {
    folder: &'l Path,
    options: &'l ModelOptions,
    /// Of all tasks, for messages.
    classes: Vec<&'static dyn Class>,
    /// HF's `problem_type`.
    problem: Option<&'static str>,
    /// The token that fills rows, if the class looks for it.
    pad_token_id: Option<u32>,
}

impl Loader<'_> {
    /// Loads a class of `table`; `bases` are those without a head.
    fn load<T, B>(&self, table: &'static [Entry<T>], bases: &'static [Entry<B>]) -> Result<Auto<T>>
    where
        T: ?Sized + Task + 'static,
        B: ?Sized + Task + 'static,
        Entry<T>: Class,
        Entry<B>: Class,
    {
        let ModelOptions { load, targets, from_scratch, ignore_mismatched_sizes, seed, .. } = self.options;
        let mut config = Config::from_folder(self.folder)?;
        let entry = find(table, &self.classes, &config)?;
        if let Some(targets) = targets {
            let names = match targets {
                Targets::Classes(classes) | Targets::MultiLabel(classes) => classes.names().to_vec(),
                Targets::Regression(count) => (0..*count).map(|id| format!("LABEL_{id}")).collect(),
            };
            name_outputs(&mut config, &names, self.problem);
        }
        // Decoders classify by the last token that is no padding, and Python takes batches only if it knows what that is.
        let decodes = CAUSAL_LM.iter().any(|line| line.model_type == entry.model_type);
        let said = config.get("pad_token_id").is_some_and(Value::is_u64);
        if let Some(id) = self.pad_token_id.filter(|_| decodes && !said) {
            config.set("pad_token_id", id);
        }
        if *from_scratch {
            let initial = Initial::new(entry, &config, *seed)?;
            initial.check_all()?;
            let tensors = initial.names().filter_map(|name| Some((name.to_owned(), initial.tensor(name)?)));
            let checkpoint = Checkpoint::from_tensors(config.path(), tensors.collect());
            return entry.load(config, &checkpoint, load);
        }
        let checkpoint = Checkpoint::from_folder(self.folder)?;
        let error = match entry.load(config.clone(), &checkpoint, load) {
            Err(error @ Error::Weights { .. }) => error,
            other => return other,
        };
        let Error::Weights { report, .. } = &error else { return Err(error) };
        let body = self.body(bases, &config)?;
        let lost = |name: &str| {
            let pooler = name.split('.').any(|part| part == "pooler");
            !pooler && body.iter().any(|known| *known == name || name.ends_with(&format!(".{known}")))
        };
        let mismatched = report.mismatched.iter().map(|mismatch| mismatch.name.as_str());
        let new: Vec<&str> = report.missing.iter().map(String::as_str).chain(mismatched).collect();
        if !report.unexpected.is_empty() || new.iter().any(|name| lost(name)) {
            return Err(error);
        }
        if !report.mismatched.is_empty() && !ignore_mismatched_sizes {
            let found = format_args!("false, and the weights do not fit `{}`: {report}", entry.class);
            return Err(Error::input("ignore_mismatched_sizes", found, "true, for a new head in place of the old one"));
        }
        let path = checkpoint.path();
        tracing::warn!("{}: new weights, which a training must teach: {}", path.display(), new.join(", "));
        let initial = Initial::new(entry, &config, *seed)?;
        let mut tensors = checkpoint.tensors().clone();
        for name in &new {
            if let Some(tensor) = initial.tensor(name) {
                tensors.insert((*name).to_owned(), tensor);
            }
        }
        entry.load(config, &Checkpoint::from_tensors(path, tensors), load)
    }

    /// The names of what belongs to no head.
    fn body<B>(&self, bases: &'static [Entry<B>], config: &Config) -> Result<BTreeSet<String>>
    where
        B: ?Sized + Task + 'static,
        Entry<B>: Class,
    {
        let model_type = config.model_type()?;
        match bases.iter().find(|entry| entry.model_type == model_type) {
            Some(base) => Ok(Class::parameters(base, config)?.into_iter().map(|(name, _)| name).collect()),
            None => Ok(BTreeSet::new()),
        }
    }
}

/// Gives the tracked parameters the values that a checkpoint has for them. All others stay as they are.
///
/// # Errors
/// [`Error::Tensor`] for one that the checkpoint lacks, or has in another shape; nothing has changed then.
pub(super) fn restore<P: Parameters + ?Sized>(source: &mut P, checkpoint: &Checkpoint) -> Result<()> {
    let mut wrong: Option<Error> = None;
    source.visit(&mut |parameter| {
        if wrong.is_some() || !parameter.tensor.is_tracked() {
            return;
        }
        let reason = match checkpoint.tensors().get(&parameter.name) {
            None => "is missing".to_owned(),
            Some(stored) if !fits(stored, &parameter.tensor) => {
                let shape = parameter.tensor.shape();
                format!("{} {:?}, expected {shape:?}", dtype_name(stored.dtype), stored.shape)
            }
            Some(_) => return,
        };
        wrong = Some(Error::tensor(checkpoint.path(), parameter.name, reason));
    });
    if let Some(error) = wrong {
        return Err(error);
    }
    source.map(&mut |parameter| match checkpoint.tensors().get(&parameter.name) {
        Some(stored) if parameter.tensor.is_tracked() => {
            let (shape, dtype) = (parameter.tensor.shape(), parameter.tensor.dtype());
            let device = parameter.tensor.untrack().flatten().device();
            // A copy: what is trained is written to, and a memory map cannot be.
            let data = TensorData::from_bytes_vec(stored.bytes.to_vec(), [stored.elements()], stored.dtype);
            let flat = Tensor::from_data(data.convert_dtype(dtype), (&device, dtype));
            AnyTensor::from_flat(flat, &shape).track()
        }
        _ => parameter.tensor,
    });
    Ok(())
}

/// Whether a tensor of a file can be the value of a parameter. One number is one number, with an axis or without.
fn fits(stored: &StoredTensor, tensor: &AnyTensor) -> bool {
    let float = matches!(stored.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64);
    float && (stored.shape == tensor.shape() || stored.shape.is_empty() && tensor.num_elements() == 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::parameters::Trainable;
    use crate::parameters::tests::Loose;

    fn checkpoint(tensors: &[(&str, &[usize], &[f32])]) -> Checkpoint {
        let stored = |(name, shape, values): &(&str, &[usize], &[f32])| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let (path, bytes) = ("file".into(), bytes.into());
            ((*name).to_owned(), StoredTensor { path, dtype: DType::F32, shape: shape.to_vec(), bytes })
        };
        let tensors: BTreeMap<_, _> = tensors.iter().map(stored).collect();
        Checkpoint::from_tensors("file".as_ref(), tensors)
    }

    #[test]
    fn what_is_trained_is_restored_or_nothing_is() {
        let mut source = Loose::new(&[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0])]);
        Trainable::only(|parameter| parameter.name == "a").track(&mut source).unwrap();
        restore(&mut source, &checkpoint(&[("a", &[1, 2], &[5.0, 6.0])])).unwrap();
        assert_eq!((source.values("a"), source.values("b")), (vec![5.0, 6.0], vec![3.0, 4.0]));
        assert!(source.0[0].tensor.is_tracked() && !source.0[1].tensor.is_tracked());
        let missing = restore(&mut source, &checkpoint(&[("b", &[1, 2], &[5.0, 6.0])])).unwrap_err().to_string();
        assert_eq!(missing, "file: tensor `a`: is missing");
        let shape = restore(&mut source, &checkpoint(&[("a", &[2], &[5.0, 7.0])])).unwrap_err().to_string();
        assert_eq!(shape, "file: tensor `a`: f32 [2], expected [1, 2]");
        assert_eq!(source.values("a"), [5.0, 6.0]);
    }
}
