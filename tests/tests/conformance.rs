//! Every recorded case: the numbers of Python, and the ways of computing that must agree with each other.
//!
//! `cargo test -p tx-tests --test conformance -- bert/masked-lm` runs what matches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Tensor, TensorData};
use libtest_mimic::{Arguments, Failed, Trial};
use tx_core::device::Dtype;
use tx_core::nn::Cache;
use tx_core::registry::{Auto, LoadOptions, NamedModel};
use tx_core::task::{NamedTensors, Record, TextInputs};
use tx_core::weights::Checkpoint;
use tx_tests::{Array, Case, EQUIVALENCE, REFERENCE, Tolerance, compare, folders, is_token, models};
use tx_text::models::CAUSAL_LM;

fn main() {
    let mut arguments = Arguments::from_args();
    // Each case runs burn's own threads.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials().unwrap_or_else(|e| vec![Trial::test("cases", move || Err(e.into()))]))
        .exit();
}

fn trials() -> Result<Vec<Trial>> {
    let mut trials = vec![Trial::test("registry", || registry().map_err(failed))];
    for model in folders(&models())? {
        let cases = folders(&model)?;
        let model_type = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for folder in cases {
            let name = format!("{model_type}/{}", folder.file_name().unwrap_or_default().to_string_lossy());
            let here = folder.clone();
            trials.push(Trial::test(format!("{name}/reference"), move || reference(&here).map_err(failed)));
            // They compare the CPU's ways of computing with each other.
            let on_gpu = std::env::var_os("TX_TEST_DEVICE").is_some();
            let equivalences =
                Trial::test(format!("{name}/equivalences"), move || equivalences(&folder).map_err(failed));
            trials.push(equivalences.with_ignored_flag(on_gpu));
        }
    }
    Ok(trials)
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// Tables are sorted; every architecture has its `model.toml` and a case for each class, and the other way round.
fn registry() -> Result<()> {
    let classes = tx_text::models::classes();
    for pair in classes.windows(2) {
        if pair[0].task() == pair[1].task() {
            let (a, b) = (pair[0].model_type(), pair[1].model_type());
            ensure!(a < b, "the table of {} is not sorted: `{a}` before `{b}`", pair[0].task());
        }
    }
    let known: BTreeSet<_> =
        classes.iter().map(|class| (class.model_type().to_owned(), class.class().to_owned())).collect();
    let (mut recorded, mut described) = (BTreeSet::new(), BTreeSet::new());
    for model in folders(&models())? {
        let text = std::fs::read_to_string(model.join("model.toml")).with_context(|| model.display().to_string())?;
        let toml: toml::Table = text.parse()?;
        let model_type = toml["model_type"].as_str().context("model_type")?.to_owned();
        ensure!(model.ends_with(&model_type), "{}: `model_type` is `{model_type}`", model.display());
        for class in toml["classes"].as_array().context("classes")? {
            described.insert((model_type.clone(), class.as_str().context("class")?.to_owned()));
        }
        for case in folders(&model)? {
            let config = tx_core::config::Config::from_folder(&case)?;
            let class = config.architectures().first().copied().context("architectures")?.to_owned();
            recorded.insert((config.model_type()?.to_owned(), class));
        }
    }
    let differ = |a: &BTreeSet<_>, b: &BTreeSet<_>| a.symmetric_difference(b).cloned().collect::<Vec<_>>();
    ensure!(known == recorded, "in a table or in a case, but not in both: {:?}", differ(&known, &recorded));
    ensure!(known == described, "in a table or in a model.toml, but not in both: {:?}", differ(&known, &described));
    Ok(())
}

/// A model with its case's arguments and what follows from them.
struct Subject {
    case: Case,
    checkpoint: Checkpoint,
    model: Auto<dyn NamedModel>,
    mask: Array,
}

impl Subject {
    fn new(folder: &Path) -> Result<Self> {
        let case = Case::read(folder)?;
        let checkpoint = case.checkpoint()?;
        let model = case.load(&checkpoint, &options()?)?;
        let mask = case.mask()?;
        Ok(Self { case, checkpoint, model, mask })
    }

    fn run(&self, inputs: &NamedTensors, record: bool) -> Result<BTreeMap<String, Array>> {
        run(&self.model, inputs, Record::new(record, record))
    }

    /// Whether the numbers of a token depend on how long the sequence is, as they do where rotations follow the length.
    fn depends_on_length(&self) -> bool {
        let config = self.case.config.to_json();
        ["\"dynamic\"", "\"longrope\"", "\"su\""].iter().any(|kind| config.contains(kind))
    }

    /// Outputs `[rows, seq]` are per token, not per label.
    fn per_token(&self, name: &str) -> bool {
        name.ends_with("_logits") || self.model.class.ends_with("ForPreTraining")
    }

    fn compare(&self, name: &str, found: &Array, expected: &Array, tolerance: Tolerance) -> Result<()> {
        compare(name, found, expected, tolerance, is_token(&self.mask, &expected.shape, self.per_token(name)))
    }
}

/// `TX_TEST_DEVICE` names a device other than the CPU, for `cargo xtask gpu`.
fn options() -> Result<LoadOptions> {
    let device = std::env::var("TX_TEST_DEVICE").ok();
    let device = device.map(|name| tx_core::device::device(&name)).transpose()?.unwrap_or_default();
    // Where a device cannot compute with the weights of a case, it gets them widened, which is exact.
    let dtype = if device.supports_dtype(DType::BF16) { Dtype::Auto } else { Dtype::F32 };
    Ok(LoadOptions { device, dtype, ..LoadOptions::default() })
}

/// The tolerance of the recorded numbers: strict on the CPU, looser on a GPU, which sums in another order.
fn tolerance() -> Tolerance {
    if std::env::var_os("TX_TEST_DEVICE").is_some() { Tolerance { relative: 1e-3, absolute: 1e-3 } } else { REFERENCE }
}

fn run(model: &Auto<dyn NamedModel>, inputs: &NamedTensors, record: Record) -> Result<BTreeMap<String, Array>> {
    let outputs = model.forward_named(inputs, record)?;
    outputs.iter().map(|(name, data)| Ok((name.clone(), Array::new(data)?))).collect()
}

/// Every output of Python, hidden states and attention maps included: layer by layer first, so that a failure names the
/// layer.
fn reference(folder: &Path) -> Result<()> {
    let subject = Subject::new(folder)?;
    let maps = subject.case.outputs.keys().any(|name| name.starts_with("attentions."));
    let outputs = run(&subject.model, &subject.case.inputs, Record::new(true, maps))?;
    let names = |outputs: &BTreeMap<String, Array>| outputs.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(&outputs) == names(&subject.case.outputs),
        "outputs {:?}, expected {:?}",
        names(&outputs),
        names(&subject.case.outputs)
    );
    let mut order: Vec<&String> = outputs.keys().collect();
    order.sort_by_key(|name| match name.split_once('.') {
        Some((kind, layer)) => (0, layer.parse::<usize>().unwrap_or(0), kind == "hidden_states"),
        None => (1, 0, false),
    });
    for name in order {
        subject.compare(name, &outputs[name], &subject.case.outputs[name], tolerance())?;
        // A sink takes its part of each row.
        if name.starts_with("attentions.") && !subject.model.class.starts_with("GptOss") {
            let keys = outputs[name].shape[3];
            let sums = outputs[name].values.chunks(keys).map(|row| row.iter().sum::<f32>());
            ensure!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-5), "`{name}`: a row does not sum to one");
        }
    }
    Ok(())
}

fn equivalences(folder: &Path) -> Result<()> {
    let subject = Subject::new(folder)?;
    let outputs = subject.run(&subject.case.inputs, false)?;
    same_without_record(&subject, &outputs).context("with and without recording")?;
    reference_body(&subject, &outputs).context("default path and reference body")?;
    rows_alone(&subject, &outputs).context("a batch and its rows")?;
    stepwise(&subject).context("all at once and token by token with a cache")?;
    padded(&subject, &outputs, Side::Right).context("more padding on the right")?;
    padded(&subject, &outputs, Side::Left).context("more padding on the left")?;
    saved(&subject, &outputs).context("saved and loaded again")
}

fn same_without_record(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let recorded = subject.run(&subject.case.inputs, true)?;
    outputs.iter().try_for_each(|(name, output)| subject.compare(name, output, &recorded[name], EQUIVALENCE))
}

fn reference_body(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let reference = tx_kernels::with_reference(|| subject.run(&subject.case.inputs, false))?;
    outputs.iter().try_for_each(|(name, output)| subject.compare(name, output, &reference[name], EQUIVALENCE))
}

/// Each row of a batch alone, without a mask where it has no padding.
fn rows_alone(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let batch = subject.case.inputs["input_ids"].shape()[0];
    let rows_each = subject.mask.shape[0] / batch;
    for row in 0..batch {
        let mask = subject.mask.narrow(0, row * rows_each, rows_each);
        let full = mask.values.iter().all(|&m| m != 0.0);
        let inputs = subject.case.inputs.iter().filter(|(name, _)| !(full && *name == "attention_mask"));
        let inputs = inputs.map(|(name, data)| Ok((name.clone(), narrow_first(data, row)?))).collect::<Result<_>>()?;
        for (name, output) in subject.run(&inputs, false)? {
            let expected = outputs[&name].narrow(0, row, 1);
            let seen = is_token(&mask, &expected.shape, subject.per_token(&name));
            compare(&format!("{name}, row {row}"), &output, &expected, EQUIVALENCE, seen)?;
        }
    }
    Ok(())
}

/// Row `row` of the first axis.
fn narrow_first(data: &TensorData, row: usize) -> Result<TensorData> {
    let mut shape = data.shape().as_slice().to_vec();
    let size = data.num_elements() / shape[0].max(1);
    shape[0] = 1;
    let values: Vec<i64> = data.iter::<i64>().skip(row * size).take(size).collect();
    Ok(TensorData::new(values, shape))
}

/// The first row of a causal language model, a few tokens and then one at a time, and all at once.
fn stepwise(subject: &Subject) -> Result<()> {
    let (class, config) = (subject.model.class, subject.case.config.clone());
    let model_type = config.model_type()?.to_owned();
    let entry = CAUSAL_LM.iter().find(|entry| (entry.model_type, entry.class) == (&model_type, class));
    let Some(entry) = entry.filter(|_| !subject.depends_on_length()) else { return Ok(()) };
    let model = entry.load(config, &subject.checkpoint, &options()?)?;
    let ids = &subject.case.inputs["input_ids"];
    let seq = *ids.shape().as_slice().last().context("`input_ids` is a scalar")?;
    let tokens = ids.iter::<i64>().take(seq).zip(&subject.mask.values);
    let tokens: Vec<i64> = tokens.filter(|(_, seen)| **seen != 0.0).map(|(id, _)| id).collect();
    let pass = |tokens: &[i64], cache: &mut Cache| -> Result<Array> {
        let input_ids = Tensor::from_data(TensorData::new(tokens.to_vec(), [1, tokens.len()]), &model.device);
        let inputs = TextInputs { input_ids, attention_mask: None, token_type_ids: None, position_ids: None };
        Array::new(&model.forward(&inputs, cache, &mut Record::none()).into_data())
    };
    let expected = pass(&tokens, &mut Cache::off(model.cache_kinds().len()))?;
    for (first, capacity) in [(3.min(tokens.len()), 2), (1, 64)] {
        let mut cache = Cache::new(&model.cache_kinds(), capacity);
        let mut found = pass(&tokens[..first], &mut cache)?;
        for token in tokens[first..].chunks(1) {
            found.values.extend(pass(token, &mut cache)?.values);
        }
        found.shape[1] = tokens.len();
        ensure!(cache.length() == tokens.len(), "the cache counts {} tokens", cache.length());
        compare("logits", &found, &expected, EQUIVALENCE, |_| true)?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// Three columns of padding change nothing for the tokens.
fn padded(subject: &Subject, outputs: &BTreeMap<String, Array>, side: Side) -> Result<()> {
    const MORE: usize = 3;
    let (rows, seq) = (subject.mask.shape[0], subject.mask.shape[1]);
    // Positions count padding, as in Python, unless they come from the ids; on the left they have to be given then.
    let from_ids = ["camembert", "mpnet", "opt", "roberta", "xlm-roberta"].contains(&subject.case.config.model_type()?);
    let fits = subject.model.limits.text.and_then(|text| text.max_length).is_none_or(|max| seq + MORE <= max);
    // A bias before the convolution of a state-space model is seen there in padding, as in Python.
    let biased = side == Side::Left && subject.case.config.get("use_bias").is_some_and(|bias| bias == true);
    let state_space = subject.case.config.model_type()?.starts_with("mamba");
    if !fits || subject.depends_on_length() || (biased && state_space) {
        return Ok(());
    }
    let pad_id = subject.case.config.get("pad_token_id").and_then(|v| v.as_i64()).unwrap_or(from_ids.into());
    let mut inputs = subject.case.inputs.clone();
    let shape = inputs["input_ids"].shape().as_slice().to_vec();
    let integers = |values: &Array| values.values.iter().map(|&v| v as i64).collect::<Vec<_>>();
    inputs.insert("attention_mask".into(), TensorData::new(integers(&subject.mask), shape.clone()));
    if side == Side::Left && !from_ids && !inputs.contains_key("position_ids") {
        let positions = (0..rows).flat_map(|_| 0..seq as i64).collect::<Vec<_>>();
        inputs.insert("position_ids".into(), TensorData::new(positions, shape.clone()));
    }
    let mut wide = shape;
    *wide.last_mut().context("input_ids")? += MORE;
    for (name, data) in &mut inputs {
        let fill = if name == "input_ids" { pad_id } else { 0 };
        let values: Vec<i64> = data.iter::<i64>().collect();
        let values = values.chunks(seq).flat_map(|row| match side {
            Side::Right => [row, &[fill; MORE]].concat(),
            Side::Left => [&[fill; MORE], row].concat(),
        });
        *data = TensorData::new(values.collect::<Vec<_>>(), wide.clone());
    }
    let start = if side == Side::Left { MORE } else { 0 };
    for (name, output) in subject.run(&inputs, false)? {
        let expected = &outputs[&name];
        let output = match output.shape[..] {
            [r, s, _] if (r, s) == (rows, seq + MORE) => output.narrow(1, start, seq),
            [r, s] if (r, s) == (rows, seq + MORE) && subject.per_token(&name) => output.narrow(1, start, seq),
            // What is read from the first column, or over all, is padding now.
            _ if side == Side::Left => continue,
            _ => output,
        };
        subject.compare(&name, &output, expected, EQUIVALENCE)?;
    }
    Ok(())
}

/// What is saved has the names and bytes of the file, and loads to the same numbers.
fn saved(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    subject.model.save_pretrained(folder.path(), u64::MAX)?;
    let saved = Checkpoint::from_folder(folder.path())?;
    for (name, tensor) in saved.tensors() {
        let original =
            subject.checkpoint.tensors().get(name).with_context(|| format!("`{name}` is not a name of the file"))?;
        ensure!(original.shape == tensor.shape, "`{name}`: {:?}, expected {:?}", tensor.shape, original.shape);
        ensure!(original.dtype != tensor.dtype || original.bytes == tensor.bytes, "`{name}`: the bytes differ");
    }
    let config = tx_core::config::Config::from_folder(folder.path())?;
    let model = Case { config, folder: folder.path().into(), inputs: NamedTensors::new(), outputs: BTreeMap::new() }
        .load(&saved, &options()?)?;
    let again = run(&model, &subject.case.inputs, Record::none())?;
    ensure!(&again == outputs, "the outputs differ");
    Ok(())
}
