//! Gradients, and steps of training, beside Python's: `tests/data/train/{gradients,losses}`.
//!
//! `cargo test -p tx-tests --test gradients -- losses/llama` runs what matches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Int, Tensor, TensorData};
use libtest_mimic::{Arguments, Failed, Trial};
use tx_core::config::Config;
use tx_core::nn::Cache;
use tx_core::registry::{Auto, Entry, LoadOptions, Task};
use tx_core::task::*;
use tx_core::weights::safetensors;
use tx_core::weights::synth::Recipe;
use tx_tests::{Array, REFERENCE, compare, folders, is_token, text_mask};
use tx_train::arguments::TrainingArguments;
use tx_train::loss;
use tx_train::optimizer::Optimizer;
use tx_train::parameters::{Gradients, Parameters, Trainable};
use tx_train::schedule::LrScheduler;

/// The relative error that a gradient, a loss and the norm of a step may have.
const RELATIVE: f64 = 1e-4;
/// A gradient below this part of all gradients together is compared with that: of one that is zero but for rounding, as
/// that of the bias of keys is, there is nothing to compare.
const FLOOR: f64 = 1e-3;
/// How far the final weights may be from Python's, of the way that they went. Where two gradients cancel, Adam makes of
/// their rounding a step as long as any other.
const OF_THE_WAY: f64 = 5e-3;
/// The label of what has none.
const IGNORED: i64 = -100;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each recording runs burn's own threads.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials().unwrap_or_else(|e| vec![Trial::test("recordings", move || Err(e.into()))]))
        .exit();
}

fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    #[expect(clippy::type_complexity, reason = "a table")]
    let sections: [(_, fn(&Path) -> Result<()>); 2] = [("gradients", gradients), ("losses", losses)];
    for (section, run) in sections {
        for folder in folders(&Path::new("data/train").join(section))? {
            let name = format!("{section}/{}", folder.file_name().unwrap_or_default().to_string_lossy());
            trials.push(Trial::test(name, move || run(&folder).map_err(failed)));
        }
    }
    Ok(trials)
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// What Python recorded: tensors by name, those with a prefix apart.
struct Recording {
    tensors: BTreeMap<String, TensorData>,
}

impl Recording {
    /// The recording that belongs to a folder.
    fn read(folder: &Path) -> Result<Self> {
        let tensors = safetensors::read(&PathBuf::from(format!("{}.safetensors", folder.display())))?;
        Ok(Self { tensors: tensors.into_iter().map(|(name, tensor)| (name, tensor.to_data())).collect() })
    }

    fn get(&self, name: &str) -> Result<&TensorData> {
        self.tensors.get(name).with_context(|| format!("`{name}` is not recorded"))
    }

    /// The tensors whose names begin so, without that.
    fn under(&self, prefix: &str) -> BTreeMap<String, TensorData> {
        let named = |(name, data): (&String, &TensorData)| Some((name.strip_prefix(prefix)?.to_owned(), data.clone()));
        self.tensors.iter().filter_map(named).collect()
    }

    fn arrays_under(&self, prefix: &str) -> Result<BTreeMap<String, Array>> {
        self.under(prefix).into_iter().map(|(name, data)| Ok((name, Array::new(&data)?))).collect()
    }
}

/// A model of one of the tasks that are recorded.
enum Model {
    MaskedLm(Auto<dyn MaskedLm>),
    CausalLm(Auto<dyn CausalLm>),
    SequenceClassifier(Auto<dyn SequenceClassifier>),
    TokenClassifier(Auto<dyn TokenClassifier>),
    ImageClassifier(Auto<dyn ImageClassifier>),
    AudioClassifier(Auto<dyn AudioClassifier>),
    SpeechToText(Auto<dyn SpeechToText>),
}

/// The same expression for a model of any task.
macro_rules! each {
    ($self:ident, $model:ident => $expression:expr) => {
        match $self {
            Self::MaskedLm($model) => $expression,
            Self::CausalLm($model) => $expression,
            Self::SequenceClassifier($model) => $expression,
            Self::TokenClassifier($model) => $expression,
            Self::ImageClassifier($model) => $expression,
            Self::AudioClassifier($model) => $expression,
            Self::SpeechToText($model) => $expression,
        }
    };
}

impl Parameters for Model {
    fn visit(&self, f: &mut dyn FnMut(Parameter)) {
        each!(self, model => model.model.visit_parameters(f));
    }

    fn map(&mut self, f: &mut dyn FnMut(Parameter) -> AnyTensor) {
        each!(self, model => model.model.map_parameters(f));
    }
}

impl Model {
    /// The model of the class that a folder's config names.
    fn load(folder: &Path) -> Result<Self> {
        fn find<T: ?Sized + Task>(folder: &Path, table: &[Entry<T>]) -> Result<Option<Auto<T>>> {
            let config = Config::from_folder(folder)?;
            let class = config.architectures().first().copied().context("architectures")?.to_owned();
            let model_type = config.model_type()?.to_owned();
            let entry = table.iter().find(|entry| (entry.model_type, entry.class) == (&model_type, &class));
            let path = folder.join("weights.json");
            let load = |entry: &Entry<T>| -> Result<Auto<T>> {
                let checkpoint = Recipe::from_file(&path)?.checkpoint(&path)?;
                Ok(entry.load(config, &checkpoint, &LoadOptions::default())?)
            };
            entry.map(load).transpose()
        }
        macro_rules! first {
            ($($task:ident in $table:expr;)*) => {
                $(if let Some(model) = find(folder, $table)? {
                    return Ok(Self::$task(model));
                })*
            };
        }
        first! {
            MaskedLm in tx_text::models::MASKED_LM;
            CausalLm in tx_text::models::CAUSAL_LM;
            SequenceClassifier in tx_text::models::SEQUENCE_CLASSIFICATION;
            TokenClassifier in tx_text::models::TOKEN_CLASSIFICATION;
            ImageClassifier in tx_vision::models::IMAGE_CLASSIFICATION;
            AudioClassifier in tx_audio::models::AUDIO_CLASSIFICATION;
            SpeechToText in tx_audio::models::SPEECH_TO_TEXT;
        }
        bail!("{}: no table has this class", folder.display())
    }

    /// The scores for arguments of HF's names: `[batch, labels]` or `[batch, seq, labels]`.
    fn logits(&self, inputs: &BTreeMap<String, TensorData>) -> Result<AnyTensor> {
        let mut record = Record::none();
        let record = &mut record;
        Ok(match self {
            Self::MaskedLm(model) => model.forward(&text(inputs, "", &model.limits)?, record).into(),
            Self::CausalLm(model) => {
                let mut cache = Cache::off(model.cache_kinds().len());
                model.forward(&text(inputs, "", &model.limits)?, &mut cache, record).into()
            }
            Self::SequenceClassifier(model) => model.forward(&text(inputs, "", &model.limits)?, record).into(),
            Self::TokenClassifier(model) => model.forward(&text(inputs, "", &model.limits)?, record).into(),
            Self::ImageClassifier(model) => {
                let pixel_values = inputs.get("pixel_values").context("`pixel_values`")?.clone();
                let arguments = ImageArguments { pixel_values, pixel_mask: None, bool_masked_pos: None };
                let inputs = ImageInputs::new(&arguments, &model.limits, &model.device)?;
                model.forward(&inputs, record).logits.into()
            }
            Self::AudioClassifier(model) => model.forward(&audio(inputs, &model.limits, &model.device)?, record).into(),
            Self::SpeechToText(model) => {
                let audio = audio(inputs, &model.limits.audio, &model.device)?;
                let text = text(inputs, "decoder_", &model.limits.text)?;
                let encoded = model.encode(&audio, record);
                let x = model.embed(text.input_ids.clone());
                let mut cache = Cache::off(model.cache_kinds().len());
                let x = model.decode(x, &text, &encoded, &mut cache, record);
                model.head(x).into()
            }
        })
    }

    /// Scores and labels, one row each; of a language model the label of a token is the one after it.
    fn rows(&self, logits: AnyTensor, labels: &TensorData) -> Result<(Tensor<2>, Tensor<1, Int>)> {
        let mut shape = logits.shape();
        let classes = shape.pop().context("a scalar")?;
        let mut labels: Vec<i64> = labels.iter::<i64>().collect();
        if let (Self::CausalLm(_), [_, seq]) = (self, &shape[..]) {
            labels.rotate_left(1);
            labels.iter_mut().skip(seq - 1).step_by(*seq).for_each(|label| *label = IGNORED);
        }
        let rows = labels.len();
        ensure!(rows == shape.iter().product::<usize>(), "{rows} labels for {shape:?}");
        let device = Device::default();
        Ok((logits.flatten().reshape([rows, classes]), Tensor::from_data(TensorData::new(labels, [rows]), &device)))
    }
}

/// The arguments of a text, whose names have a prefix.
fn text(inputs: &BTreeMap<String, TensorData>, prefix: &str, limits: &TextLimits) -> Result<TextInputs> {
    let rows = |name: &str| {
        let data = inputs.get(&format!("{prefix}{name}"))?;
        let [batch, seq] = data.shape().as_slice()[..] else { return None };
        Some(IntRows { batch, seq, values: data.iter::<i64>().collect() })
    };
    let arguments = TextArguments {
        input_ids: rows("input_ids").context("`input_ids`")?,
        attention_mask: rows("attention_mask"),
        token_type_ids: rows("token_type_ids"),
        position_ids: rows("position_ids"),
    };
    Ok(TextInputs::new(&arguments, limits, &Device::default())?)
}

fn audio(inputs: &BTreeMap<String, TensorData>, limits: &AudioLimits, device: &Device) -> Result<AudioInputs> {
    let values = inputs.get(limits.name).with_context(|| format!("`{}`", limits.name))?.clone();
    let arguments = AudioArguments { values, attention_mask: inputs.get("attention_mask").cloned() };
    Ok(AudioInputs::new(&arguments, limits, device)?)
}

/// The norm of a difference, and of what was expected.
fn distance(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let differences = &mut found.iter().zip(expected).map(|(x, y)| f64::from(*x) - f64::from(*y));
    (norm(differences), norm(&mut expected.iter().map(|x| f64::from(*x))))
}

/// One pass forwards and backwards: the scores, the loss, and its gradient by every parameter.
fn gradients(folder: &Path) -> Result<()> {
    let recording = Recording::read(folder)?;
    let mut model = Model::load(folder)?;
    Trainable::all().track(&mut model)?;

    let inputs = recording.under("inputs.");
    let logits = model.logits(&inputs)?;
    let found = Array { shape: logits.shape(), values: values(logits.clone())? };
    let expected = Array::new(recording.get("outputs.logits")?)?;
    let mask = text_mask(&inputs)?;
    compare("logits", &found, &expected, REFERENCE, is_token(mask.as_ref(), &expected.shape, false))?;

    let (logits, labels) = model.rows(logits, recording.get("labels")?)?;
    let loss = loss::cross_entropy(logits, labels, 0.0);
    let (difference, norm) = distance(&values(loss.clone().into())?, &Array::new(recording.get("loss")?)?.values);
    ensure!(difference <= RELATIVE * norm, "the loss is off by {difference:.2e}, it is {norm:.3e}");

    let mut backward = loss.backward();
    let mut found = BTreeMap::new();
    model.visit(&mut |parameter| {
        if let Some(gradient) = parameter.tensor.gradient(&mut backward) {
            found.insert(parameter.name, gradient);
        }
    });
    let expected = recording.arrays_under("gradients.")?;
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), expected.keys().collect());
    let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
    ensure!(differ.is_empty(), "a gradient here or in Python, but not in both: {differ:?}");
    let whole: Vec<f32> = expected.values().flat_map(|gradient| gradient.values.iter().copied()).collect();
    let floor = FLOOR * distance(&[], &whole).1;
    let mut wrong = Vec::new();
    for (name, gradient) in found {
        let expected = &expected[&name];
        ensure!(
            gradient.num_elements() == expected.values.len(),
            "`{name}`: {:?}, expected {:?}",
            gradient.shape(),
            expected.shape
        );
        let (difference, norm) = distance(&values(gradient)?, &expected.values);
        let relative = difference / norm.max(floor);
        if relative.is_nan() || relative > RELATIVE {
            wrong.push(format!("`{name}`: relative error {relative:.2e}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} gradients: {}", wrong.len(), expected.len(), wrong.join(", "));
    Ok(())
}

/// The elements of a tensor.
fn values(tensor: AnyTensor) -> Result<Vec<f32>> {
    Ok(Array::new(&tensor.untrack().flatten().into_data())?.values)
}

/// Ten updates by HF's arguments: their losses, the norms of their gradients, and the weights afterwards.
fn losses(folder: &Path) -> Result<()> {
    let recording = Recording::read(folder)?;
    let arguments = TrainingArguments::from_file(&folder.join("training_args.json"))?;
    let mut model = Model::load(folder)?;
    Trainable::all().track(&mut model)?;
    let start = parameters(&model)?;

    let labels = recording.get("labels")?;
    let [steps, accumulation] = labels.shape().as_slice()[..2] else { bail!("labels of {:?}", labels.shape()) };
    ensure!(accumulation == arguments.gradient_accumulation_steps, "batches of {accumulation} parts");
    let mut scheduler = LrScheduler::new(&arguments, steps as u64)?;
    let mut optimizer = Optimizer::new(&arguments);
    let mut gradients = Gradients::new(&model);
    let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..steps {
        let mut parts = Vec::new();
        let mut items = 0;
        for part in 0..accumulation {
            let part = step * accumulation + part;
            let inputs = recording.under("inputs.").into_iter().map(|(name, data)| Ok((name, batch(&data, part)?)));
            let logits = model.logits(&inputs.collect::<Result<_>>()?)?;
            let (logits, labels) = model.rows(logits, &batch(labels, part)?)?;
            let labelled = labels.to_data().iter::<i64>().filter(|label| *label != IGNORED).count();
            items += labelled;
            parts.push((logits, labels, labelled));
        }
        let mut total = 0.0;
        for (logits, labels, labelled) in parts {
            // A mean over the labels of the update, in whichever part they are.
            let share = labelled as f64 / items as f64;
            let loss = loss::cross_entropy(logits, labels, arguments.label_smoothing_factor) * share;
            total += values(loss.clone().into())?[0];
            gradients.add(&model, &mut loss.backward());
        }
        losses.push(total);
        norms.push(gradients.clip(arguments.max_grad_norm) as f32);
        rates.push(scheduler.lr() as f32);
        optimizer.step(&mut model, &mut gradients, scheduler.lr());
        scheduler.step();
    }

    for (name, found) in [("losses", losses), ("gradient_norms", norms), ("learning_rates", rates)] {
        let expected = Array::new(recording.get(name)?)?.values;
        ensure!(found.len() == expected.len(), "{} {name}, expected {}", found.len(), expected.len());
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let difference = f64::from((found - expected).abs());
            ensure!(
                difference <= RELATIVE * f64::from(expected.abs()),
                "{name}: {found} at step {step}, expected {expected}"
            );
        }
    }
    let found = parameters(&model)?;
    for (name, expected) in recording.arrays_under("final.")? {
        let found = found.get(&name).with_context(|| format!("there is no `{name}`"))?;
        let (difference, way) = (distance(found, &expected.values).0, distance(&start[&name], &expected.values).0);
        ensure!(difference <= OF_THE_WAY * way, "`{name}`: {difference:.2e} off, after a way of {way:.2e}");
    }
    Ok(())
}

/// The values of all parameters by name.
fn parameters(model: &Model) -> Result<BTreeMap<String, Vec<f32>>> {
    let mut all = BTreeMap::new();
    let mut failed = None;
    model.visit(&mut |parameter| match values(parameter.tensor) {
        Ok(values) => drop(all.insert(parameter.name, values)),
        Err(error) => failed = Some(error),
    });
    failed.map_or(Ok(all), Err)
}

/// One of the batches that a tensor `[steps, accumulation, batch, ..]` has.
fn batch(data: &TensorData, index: usize) -> Result<TensorData> {
    let [steps, accumulation, shape @ ..] = data.shape().as_slice() else { bail!("{:?}", data.shape()) };
    let length: usize = shape.iter().product();
    ensure!(index < steps * accumulation, "no batch {index} in {:?}", data.shape());
    let values: Vec<i64> = data.iter::<i64>().skip(index * length).take(length).collect();
    Ok(TensorData::new(values, shape.to_vec()))
}
