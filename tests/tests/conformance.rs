//! Every recorded case: the numbers of Python, and the ways of computing that must agree with each other.
//!
//! `cargo test -p tx-tests --test conformance -- bert/masked-lm` runs what matches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::{DType, Device, Tensor, TensorData};
use libtest_mimic::{Arguments, Failed, Trial};
use tx_audio::models::{SPEECH_DECODER, SPEECH_TO_TEXT};
use tx_core::device::Dtype;
use tx_core::nn::{Cache, CacheKind};
use tx_core::registry::{Auto, Entry, LoadOptions, NamedModel, Task};
use tx_core::task::{AudioArguments, AudioInputs, ConditionalLm, Encoded, NamedTensors, Record, TextInputs};
use tx_core::weights::Checkpoint;
use tx_tests::{
    Array, Case, EQUIVALENCE, REFERENCE, Tolerance, architectures, compare, folders, is_token, text_mask, text_prefix,
};
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
    for model in architectures()? {
        let cases = folders(&model)?;
        let model_type = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for folder in cases {
            let name = format!("{model_type}/{}", folder.file_name().unwrap_or_default().to_string_lossy());
            let here = folder.clone();
            let exact = move || tx_kernels::with_exact_products(|| reference(&here)).map_err(failed);
            trials.push(Trial::test(format!("{name}/reference"), exact));
            if name.ends_with("-bf16") {
                let here = folder.clone();
                trials.push(Trial::test(format!("{name}/rounded"), move || rounded(&here).map_err(failed)));
            }
            // They compare the CPU's ways of computing with each other.
            let on_gpu = std::env::var_os("TX_TEST_DEVICE").is_some();
            let exact = move || tx_kernels::with_exact_products(|| equivalences(&folder)).map_err(failed);
            trials.push(Trial::test(format!("{name}/equivalences"), exact).with_ignored_flag(on_gpu));
        }
    }
    Ok(trials)
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// Tables are sorted; every architecture has its `model.toml` and a case for each class, and the other way round.
///
/// The towers of a model that joins modalities have types of their own, which its `model.toml` names.
fn registry() -> Result<()> {
    let classes = tx::classes();
    for pair in classes.windows(2) {
        if pair[0].task() == pair[1].task() {
            let [a, b] = [pair[0], pair[1]].map(|class| (class.model_type(), class.class()));
            ensure!(a < b, "the table of {} is not sorted: `{a:?}` before `{b:?}`", pair[0].task());
        }
    }
    let (mut families, mut recorded, mut described) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for model in architectures()? {
        let text = std::fs::read_to_string(model.join("model.toml")).with_context(|| model.display().to_string())?;
        let toml: toml::Table = text.parse()?;
        let family = toml["model_type"].as_str().context("model_type")?.to_owned();
        ensure!(model.ends_with(&family), "{}: `model_type` is `{family}`", model.display());
        for class in toml["classes"].as_array().context("classes")? {
            described.insert((family.clone(), class.as_str().context("class")?.to_owned()));
        }
        families.insert(family.clone(), family.clone());
        for tower in toml.get("model_types").and_then(toml::Value::as_array).into_iter().flatten() {
            families.insert(tower.as_str().context("model_types")?.to_owned(), family.clone());
        }
        for case in folders(&model)? {
            let config = tx_core::config::Config::from_folder(&case)?;
            let class = config.architectures().first().copied().context("architectures")?.to_owned();
            let model_type = config.model_type()?.to_owned();
            ensure!(families.get(&model_type) == Some(&family), "{}: of type `{model_type}`", case.display());
            recorded.insert((model_type, class));
        }
    }
    let (mut known, mut of_families) = (BTreeSet::new(), BTreeSet::new());
    for class in classes {
        let (model_type, name) = (class.model_type().to_owned(), class.class().to_owned());
        let family = families.get(&model_type).with_context(|| format!("no model.toml names `{model_type}`"))?;
        of_families.insert((family.clone(), name.clone()));
        known.insert((model_type, name));
    }
    let differ = |a: &BTreeSet<_>, b: &BTreeSet<_>| a.symmetric_difference(b).cloned().collect::<Vec<_>>();
    ensure!(known == recorded, "in a table or in a case, but not in both: {:?}", differ(&known, &recorded));
    let differences = differ(&of_families, &described);
    ensure!(differences.is_empty(), "in a table or in a model.toml, but not in both: {differences:?}");
    Ok(())
}

/// The tolerance where rows are rounded to bf16, whose numbers have eight significant bits: another expert may be chosen.
const ROUNDED: Tolerance = Tolerance { relative: 1e-1, absolute: 1e-2 };

/// A model with its case's arguments and what follows from them.
struct Subject {
    case: Case,
    checkpoint: Checkpoint,
    model: Auto<dyn NamedModel>,
    /// Of the text, if the model reads any.
    mask: Option<Array>,
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
        let seen = is_token(self.mask.as_ref(), &expected.shape, self.per_token(name));
        compare(name, found, expected, tolerance, seen)
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

/// Every output of Python, hidden states and attention maps included where they are recorded: layer by layer first, so
/// that a failure names the layer.
fn reference(folder: &Path) -> Result<()> {
    let subject = Subject::new(folder)?;
    let kept = |kind: &str| subject.case.outputs.keys().any(|name| name.contains(kind));
    let record = Record::new(kept("hidden_states."), kept("attentions."));
    let outputs = run(&subject.model, &subject.case.inputs, record)?;
    let names = |outputs: &BTreeMap<String, Array>| outputs.keys().cloned().collect::<Vec<_>>();
    ensure!(
        names(&outputs) == names(&subject.case.outputs),
        "outputs {:?}, expected {:?}",
        names(&outputs),
        names(&subject.case.outputs)
    );
    let mut order: Vec<&String> = outputs.keys().collect();
    // The encoder before the decoder; the state that a layer is given before its attention.
    order.sort_by_key(|name| {
        match name.rsplit_once('.').and_then(|(kind, n)| Some((kind, n.parse::<usize>().ok()?))) {
            Some((kind, layer)) => {
                let decoder = kind.starts_with("decoder_") || kind.starts_with("cross_");
                (0, decoder, layer, kind.ends_with("attentions"))
            }
            None => (1, false, 0, false),
        }
    });
    for name in order {
        subject.compare(name, &outputs[name], &subject.case.outputs[name], tolerance())?;
        // A sink takes its part of each row.
        if name.contains("attentions.") && !subject.model.class.starts_with("GptOss") {
            let keys = outputs[name].shape[3];
            let sums = outputs[name].values.chunks(keys).map(|row| row.iter().sum::<f32>());
            ensure!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-5), "`{name}`: a row does not sum to one");
        }
    }
    Ok(())
}

/// Weights in bf16, as processors multiply them that round rows to it.
fn rounded(folder: &Path) -> Result<()> {
    let subject = Subject::new(folder)?;
    let outputs = subject.run(&subject.case.inputs, false)?;
    outputs.iter().try_for_each(|(name, found)| subject.compare(name, found, &subject.case.outputs[name], ROUNDED))
}

fn equivalences(folder: &Path) -> Result<()> {
    let subject = Subject::new(folder)?;
    let outputs = subject.run(&subject.case.inputs, false)?;
    same_without_record(&subject, &outputs).context("with and without recording")?;
    reference_body(&subject, &outputs).context("default path and reference body")?;
    rows_alone(&subject, &outputs).context("a batch and its rows")?;
    without_padding_id(&subject, &outputs).context("with and without an id for padding")?;
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

/// Each row of a batch alone, without a mask where it has no padding. What two modalities have in rows, each has alone
/// with one of the other.
fn rows_alone(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let inputs = &subject.case.inputs;
    let rows = inputs.values().map(|data| data.shape().as_slice()[0]).max().unwrap_or(0);
    for row in 0..rows {
        let alone = inputs.iter().map(|(name, data)| (name.clone(), narrow_first(data, row)));
        let full = |name: &str, data: &TensorData| name.ends_with("_mask") && data.iter::<i64>().all(|m| m != 0);
        let alone: NamedTensors = alone.filter(|(name, data)| !full(name, data)).collect();
        let mask = text_mask(&alone)?;
        for (name, output) in subject.run(&alone, false)? {
            let mut expected = outputs[&name].clone();
            // Scores of pairs have rows of either modality on both axes.
            let axes = if name.starts_with("logits_per_") { 2 } else { 1 };
            for axis in 0..axes {
                expected = expected.narrow(axis, row.min(expected.shape[axis].saturating_sub(1)), 1);
            }
            let seen = is_token(mask.as_ref(), &expected.shape, subject.per_token(&name));
            compare(&format!("{name}, row {row}"), &output, &expected, EQUIVALENCE, seen)?;
        }
    }
    Ok(())
}

/// A decoder that is not told which token is padding classifies a text by the last one that its mask shows.
fn without_padding_id(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let mut config = subject.case.config.clone();
    let model_type = config.model_type()?;
    let decodes = CAUSAL_LM.iter().any(|entry| entry.model_type == model_type);
    if !decodes || !subject.model.class.ends_with("ForSequenceClassification") {
        return Ok(());
    }
    config.set("pad_token_id", -1);
    let folder = subject.case.folder.clone();
    let case = Case { config, folder, inputs: NamedTensors::new(), outputs: BTreeMap::new() };
    let model = case.load(&subject.checkpoint, &options()?)?;
    let found = run(&model, &subject.case.inputs, Record::none())?;
    found.iter().try_for_each(|(name, found)| subject.compare(name, found, &outputs[name], EQUIVALENCE))
}

/// Row `row` of the first axis, or the last one.
fn narrow_first(data: &TensorData, row: usize) -> TensorData {
    let mut shape = data.shape().as_slice().to_vec();
    let row = row.min(shape[0].saturating_sub(1));
    let size = data.as_bytes().len() / shape[0].max(1);
    shape[0] = 1;
    TensorData::from_bytes_vec(data.as_bytes()[row * size..][..size].to_vec(), shape, data.dtype())
}

/// The first row of a model that writes, a few tokens and then one at a time, and all at once.
fn stepwise(subject: &Subject) -> Result<()> {
    if subject.depends_on_length() {
        return Ok(());
    }
    let inputs = |tokens: &[i64], device: &Device| {
        let input_ids = Tensor::from_data(TensorData::new(tokens.to_vec(), [1, tokens.len()]), device);
        TextInputs { input_ids, attention_mask: None, token_type_ids: None, position_ids: None, past: 0 }
    };
    let conditioned = |model: &dyn ConditionalLm, encoded: &Encoded| {
        same_by_steps(subject, &model.cache_kinds(), |tokens, cache| {
            let text = inputs(tokens, &encoded.last_hidden_state.device());
            let x = model.embed(text.input_ids.clone());
            model.head(model.decode(x, &text, encoded, cache, &mut Record::none()))
        })
    };
    if let Some(model) = load(subject, CAUSAL_LM)? {
        return same_by_steps(subject, &model.cache_kinds(), |tokens, cache| {
            model.forward(&inputs(tokens, &model.device), cache, &mut Record::none())
        });
    }
    if let Some(model) = load(subject, SPEECH_TO_TEXT)? {
        let audio = model.limits.audio;
        let values = narrow_first(&subject.case.inputs[audio.name], 0);
        let sound = AudioInputs::new(&AudioArguments { values, attention_mask: None }, &audio, &model.device)?;
        return conditioned(&*model.model, &model.encode(&sound, &mut Record::none()));
    }
    if let Some(model) = load(subject, SPEECH_DECODER)? {
        let heard = narrow_first(&subject.case.inputs["encoder_outputs"], 0);
        return conditioned(&*model.model, &model.attend(Tensor::from_data(heard, &model.device)));
    }
    Ok(())
}

/// The case's model, if this table has its class.
fn load<T: ?Sized + Task>(subject: &Subject, table: &[Entry<T>]) -> Result<Option<Auto<T>>> {
    let (class, config) = (subject.model.class, subject.case.config.clone());
    let model_type = config.model_type()?.to_owned();
    let entry = table.iter().find(|entry| (entry.model_type, entry.class) == (&model_type, class));
    entry.map(|entry| Ok(entry.load(config, &subject.checkpoint, &options()?)?)).transpose()
}

/// Compares the scores of a pass over all tokens with those of passes over few, which share a cache.
fn same_by_steps(
    subject: &Subject,
    kinds: &[CacheKind],
    forward: impl Fn(&[i64], &mut Cache) -> Tensor<3>,
) -> Result<()> {
    let mask = subject.mask.as_ref().context("no text")?;
    let ids = &subject.case.inputs[&format!("{}input_ids", text_prefix(&subject.case.inputs))];
    let tokens = ids.iter::<i64>().take(mask.shape[1]).zip(&mask.values);
    let tokens: Vec<i64> = tokens.filter(|(_, seen)| **seen != 0.0).map(|(id, _)| id).collect();
    let pass = |tokens: &[i64], cache: &mut Cache| Array::new(&forward(tokens, cache).into_data());
    let expected = pass(&tokens, &mut Cache::off(kinds.len()))?;
    for (first, capacity) in [(3.min(tokens.len()), 2), (1, 64)] {
        let mut cache = Cache::new(kinds, capacity);
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

/// Three columns of padding change nothing for the tokens of a text.
fn padded(subject: &Subject, outputs: &BTreeMap<String, Array>, side: Side) -> Result<()> {
    const MORE: usize = 3;
    let Some(mask) = &subject.mask else { return Ok(()) };
    let (rows, seq) = (mask.shape[0], mask.shape[1]);
    let (config, model_type) = (&subject.case.config, subject.case.config.model_type()?);
    // Positions count padding, as in Python, unless they come from the ids; on the left they have to be given then.
    let from_ids = ["camembert", "clap", "clap_text_model", "mpnet", "opt", "roberta", "xlm-roberta"];
    let from_ids = from_ids.contains(&model_type);
    let fits = subject.model.limits.text.and_then(|text| text.max_length).is_none_or(|max| seq + MORE <= max);
    // A bias before the convolution of a state-space model is seen there in padding, as in Python.
    let biased = side == Side::Left && config.get("use_bias").is_some_and(|bias| bias == true);
    if !fits || subject.depends_on_length() || (biased && model_type.starts_with("mamba")) {
        return Ok(());
    }
    let part = ["text_config", "text_config_dict"].iter().find_map(|key| config.get(key)?.get("pad_token_id"));
    let pad_id = config.get("pad_token_id").or(part).and_then(|v| v.as_i64()).unwrap_or(from_ids.into());
    let mut inputs = subject.case.inputs.clone();
    let prefix = text_prefix(&inputs);
    let [ids, attention_mask, token_types, positions] =
        ["input_ids", "attention_mask", "token_type_ids", "position_ids"].map(|name| format!("{prefix}{name}"));
    let mut shape = inputs[&ids].shape().as_slice().to_vec();
    let seen = mask.values.iter().map(|&v| v as i64).collect::<Vec<_>>();
    inputs.insert(attention_mask.clone(), TensorData::new(seen, shape.clone()));
    if side == Side::Left && !from_ids && !inputs.contains_key(&positions) {
        let range = (0..rows).flat_map(|_| 0..seq as i64).collect::<Vec<_>>();
        inputs.insert(positions.clone(), TensorData::new(range, shape.clone()));
    }
    *shape.last_mut().context("input_ids")? += MORE;
    for name in [&ids, &attention_mask, &token_types, &positions] {
        let Some(data) = inputs.get_mut(name) else { continue };
        let fill = if *name == ids { pad_id } else { 0 };
        let values: Vec<i64> = data.iter::<i64>().collect();
        let values = values.chunks(seq).flat_map(|row| match side {
            Side::Right => [row, &[fill; MORE]].concat(),
            Side::Left => [&[fill; MORE], row].concat(),
        });
        *data = TensorData::new(values.collect::<Vec<_>>(), shape.clone());
    }
    let start = if side == Side::Left { MORE } else { 0 };
    // The last token stands for the text even where it is padding.
    let reads_last = subject.model.class.starts_with("Siglip");
    for (name, output) in subject.run(&inputs, false)? {
        let expected = &outputs[&name];
        let output = match expected.shape[..] {
            [r, s, _] if (r, s) == (rows, seq) => output.narrow(1, start, seq),
            [r, s] if (r, s) == (rows, seq) && subject.per_token(&name) => output.narrow(1, start, seq),
            // What is read from the first column, or over all, is padding now.
            _ if side == Side::Left || reads_last => continue,
            _ => output,
        };
        subject.compare(&name, &output, expected, EQUIVALENCE)?;
    }
    Ok(())
}

/// What is saved has the names and bytes of the file, and loads to the same numbers. A name that the file spells in
/// another way is HF's newest.
fn saved(subject: &Subject, outputs: &BTreeMap<String, Array>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    subject.model.save_pretrained(folder.path(), u64::MAX)?;
    let saved = Checkpoint::from_folder(folder.path())?;
    for (name, tensor) in saved.tensors() {
        let originals = subject.checkpoint.tensors();
        // What the file holds packed is saved plain: the outputs tell whether it is the same.
        if originals.contains_key(&format!("{name}_blocks")) {
            continue;
        }
        let renamed = || {
            let others = originals.iter().filter(|(name, _)| !saved.tensors().contains_key(*name));
            others.map(|(_, other)| other).find(|other| other.shape == tensor.shape && other.bytes == tensor.bytes)
        };
        let original = originals.get(name).or_else(renamed);
        let original =
            original.with_context(|| format!("`{name}` is neither a name of the file nor another spelling"))?;
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
