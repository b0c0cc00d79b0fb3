//! Adapters beside Python's: `tests/data/train/peft`.
//!
//! `cargo test -p tx-tests --test peft -- llama-lora` runs what matches.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use tx_core::config::Config;
use tx_core::device::Dtype;
use tx_core::nn::Cache;
use tx_core::registry::{Adaptable, Auto, Entry, LoadOptions, Task};
use tx_core::task::*;
use tx_core::weights::synth::Recipe;
use tx_core::weights::{Quantization, safetensors};
use tx_generate::{GenerationConfig, Generator, Hooks};
use tx_tests::{Array, EQUIVALENCE, Tolerance, compare, folders, is_token};
use tx_train::loss;
use tx_train::parameters::{Parameters, Trainable};
use tx_train::peft::{Adapters, CombineOptions, CreateOptions, DEFAULT, MajoritySign, PeftConfig};
use tx_train::trainer::TrainableAdapters;

/// The relative error that a gradient may have.
const RELATIVE: f64 = 1e-4;
/// A gradient below this part of all gradients together is compared with that.
const FLOOR: f64 = 1e-3;
/// The label of what has none.
const IGNORED: i64 = -100;
/// Parts of names that Python saves although they say nothing new.
const SAID_ALREADY: [&str; 3] = [".base_layer.weight", ".modules_to_save.", ".original_module."];

fn main() {
    let mut arguments = Arguments::from_args();
    // Each recording runs burn's own threads.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials().unwrap_or_else(|e| vec![Trial::test("recordings", move || Err(e.into()))]))
        .exit();
}

fn data() -> PathBuf {
    PathBuf::from("data/train/peft")
}

type Check = fn() -> Result<()>;

fn trials() -> Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for folder in folders(&data())? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        trials.push(Trial::test(name, move || recording(&folder).map_err(failed)));
    }
    ensure!(trials.len() == 28, "{} recordings", trials.len());
    let others: [(&str, Check); 7] = [
        ("frozen weights of any dtype", any_dtype),
        ("generation behind virtual tokens", generation),
        ("new adapters begin where the model is", new_adapters),
        ("prefix encoder is kept for training", prefix_encoder),
        ("tied weights", tied_weights),
        ("attached while loading", attached),
        ("what does not fit", errors),
    ];
    trials.extend(others.map(|(name, run)| Trial::test(name, move || run().map_err(failed))));
    Ok(trials)
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

/// The base model of a recording.
enum Model {
    CausalLm(Auto<dyn CausalLm>),
    SequenceClassifier(Auto<dyn SequenceClassifier>),
}

impl Model {
    fn load(folder: &Path, options: &LoadOptions) -> Result<Self> {
        fn find<T: ?Sized + Task>(folder: &Path, table: &[Entry<T>], options: &LoadOptions) -> Result<Option<Auto<T>>> {
            let config = Config::from_folder(folder)?;
            let class = config.architectures().first().copied().context("architectures")?.to_owned();
            let model_type = config.model_type()?.to_owned();
            let entry = table.iter().find(|entry| (entry.model_type, entry.class) == (&model_type, &class));
            let path = folder.join("weights.json");
            let load = |entry: &Entry<T>| -> Result<Auto<T>> {
                Ok(entry.load(config, &Recipe::from_file(&path)?.checkpoint(&path)?, options)?)
            };
            entry.map(load).transpose()
        }
        if let Some(model) = find(folder, tx_text::models::CAUSAL_LM, options)? {
            return Ok(Self::CausalLm(model));
        }
        let model = find(folder, tx_text::models::SEQUENCE_CLASSIFICATION, options)?;
        Ok(Self::SequenceClassifier(model.with_context(|| folder.display().to_string())?))
    }

    /// That of an adapter's folder.
    fn of(adapter: &Path) -> Result<Self> {
        Self::load(&base(adapter)?, &LoadOptions::default())
    }

    fn adaptable(&mut self) -> &mut dyn Adaptable {
        match self {
            Self::CausalLm(model) => model,
            Self::SequenceClassifier(model) => model,
        }
    }

    /// All tensors, bit for bit.
    fn bytes(&self) -> Vec<(String, Vec<u8>)> {
        let tensors = match self {
            Self::CausalLm(model) => model.tensors(),
            Self::SequenceClassifier(model) => model.tensors(),
        };
        tensors.into_iter().map(|(name, tensor)| (name, tensor.bytes.to_vec())).collect()
    }

    /// The scores: `[batch, labels]` or `[batch, seq, vocab]`.
    fn logits(&self, inputs: &BTreeMap<String, TensorData>) -> Result<AnyTensor> {
        let mut record = Record::none();
        Ok(match self {
            Self::CausalLm(model) => {
                let mut cache = Cache::off(model.cache_kinds().len());
                model.forward(&text(inputs, &model.limits)?, &mut cache, &mut record).into()
            }
            Self::SequenceClassifier(model) => model.forward(&text(inputs, &model.limits)?, &mut record).into(),
        })
    }
}

/// The folder of the model that an adapter is for.
fn base(adapter: &Path) -> Result<PathBuf> {
    let config = PeftConfig::from_folder(adapter)?;
    let base = config.get("base_model_name_or_path").and_then(Value::as_str).context("base_model_name_or_path")?;
    Ok(Path::new("..").join(base))
}

fn text(inputs: &BTreeMap<String, TensorData>, limits: &TextLimits) -> Result<TextInputs> {
    let rows = |name: &str| {
        let data = inputs.get(name)?;
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

/// What Python recorded.
struct Recording {
    tensors: BTreeMap<String, TensorData>,
}

impl Recording {
    fn read(folder: &Path) -> Result<Self> {
        let tensors = safetensors::read(&folder.join("outputs.safetensors"))?;
        Ok(Self { tensors: tensors.into_iter().map(|(name, tensor)| (name, tensor.to_data())).collect() })
    }

    fn get(&self, name: &str) -> Result<&TensorData> {
        self.tensors.get(name).with_context(|| format!("`{name}` is not recorded"))
    }

    fn under(&self, prefix: &str) -> BTreeMap<String, TensorData> {
        let named = |(name, data): (&String, &TensorData)| Some((name.strip_prefix(prefix)?.to_owned(), data.clone()));
        self.tensors.iter().filter_map(named).collect()
    }

    fn inputs(&self) -> BTreeMap<String, TensorData> {
        self.under("inputs.")
    }

    /// Compares scores where there are tokens, virtual ones before them included.
    fn check(&self, name: &str, found: AnyTensor) -> Result<()> {
        self.check_within(name, found, EQUIVALENCE)
    }

    fn check_within(&self, name: &str, found: AnyTensor, tolerance: Tolerance) -> Result<()> {
        let expected = Array::new(self.get(name)?)?;
        let found = Array { shape: found.shape(), values: values(found)? };
        let mask = match (expected.shape.as_slice(), self.tensors.get("inputs.attention_mask")) {
            (&[rows, seq, _], Some(mask)) => {
                let mask = Array::new(mask)?;
                let before = seq - mask.shape[1];
                let row = |row: &[f32]| std::iter::repeat_n(1.0, before).chain(row.iter().copied()).collect::<Vec<_>>();
                let values = mask.values.chunks(mask.shape[1]).flat_map(row).collect();
                Some(Array { shape: vec![rows, seq], values })
            }
            _ => None,
        };
        compare(name, &found, &expected, tolerance, is_token(mask.as_ref(), &expected.shape, false))
    }
}

/// The elements of a tensor.
fn values(tensor: AnyTensor) -> Result<Vec<f32>> {
    Ok(Array::new(&tensor.untrack().flatten().into_data())?.values)
}

/// The norm of a difference, and of what was expected.
fn distance(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let differences = &mut found.iter().zip(expected).map(|(x, y)| f64::from(*x) - f64::from(*y));
    (norm(differences), norm(&mut expected.iter().map(|x| f64::from(*x))))
}

/// One folder: outputs, gradients, merged and not any more, saved, combined.
fn recording(folder: &Path) -> Result<()> {
    let recording = Recording::read(folder)?;
    let inputs = recording.inputs();
    let mut model = Model::of(folder)?;
    let (plain, weights) = (values(model.logits(&inputs)?)?, model.bytes());
    let mut adapters = Adapters::new();
    adapters.load(model.adaptable(), DEFAULT, folder)?;
    recording.check("outputs.logits", model.logits(&inputs)?)?;

    if recording.tensors.contains_key("merged.logits") {
        adapters.merge(model.adaptable())?;
        recording.check("merged.logits", model.logits(&inputs)?)?;
        adapters.unmerge(model.adaptable())?;
        ensure!(model.bytes() == weights, "unmerged, the model has other weights");
        recording.check("outputs.logits", model.logits(&inputs)?)?;
    } else {
        ensure!(adapters.merge(model.adaptable()).is_err(), "virtual tokens cannot be merged");
    }

    saved_again(folder, &adapters)?;
    combinations(folder, &recording, &mut model, &mut adapters)?;
    adapters.set_active(model.adaptable(), &[DEFAULT])?;
    gradients(&recording, &model, &mut adapters)?;
    recording.check("outputs.logits", model.logits(&inputs)?)?;

    adapters.set_enabled(model.adaptable(), false)?;
    ensure!(values(model.logits(&inputs)?)? == plain, "without the adapter, the model computes something else");
    adapters.set_enabled(model.adaptable(), true)?;
    recording.check("outputs.logits", model.logits(&inputs)?)?;
    adapters.set_active(model.adaptable(), &[])?;
    drop(adapters);
    ensure!(values(model.logits(&inputs)?)? == plain, "an adapter is still there");
    Ok(())
}

/// The tensors of `adapter_model.safetensors`, but for those that say nothing new.
#[expect(clippy::type_complexity, reason = "used once")]
fn stored(folder: &Path) -> Result<BTreeMap<String, (Vec<usize>, Vec<u8>)>> {
    let tensors = safetensors::read(&folder.join("adapter_model.safetensors"))?;
    let new = tensors.into_iter().filter(|(name, _)| !SAID_ALREADY.iter().any(|part| name.contains(part)));
    Ok(new.map(|(name, tensor)| (name, (tensor.shape.clone(), tensor.bytes.to_vec()))).collect())
}

fn saved_again(folder: &Path, adapters: &Adapters) -> Result<()> {
    let again = tempfile::tempdir()?;
    adapters.save(DEFAULT, again.path())?;
    let (found, expected) = (stored(again.path())?, stored(folder)?);
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), expected.keys().collect());
    let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
    ensure!(differ.is_empty(), "saved here or in Python, but not in both: {differ:?}");
    let other = found.iter().filter(|(name, tensor)| expected[*name] != **tensor);
    let other: Vec<_> = other.map(|(name, _)| name).collect();
    ensure!(other.is_empty(), "other tensors when they are saved again: {other:?}");
    let json = |folder: &Path| -> Result<Value> {
        Ok(serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json"))?)?)
    };
    let (ours, theirs) = (json(again.path())?, json(folder)?);
    ensure!(ours == theirs, "adapter_config.json: {ours:#}, expected {theirs:#}");
    Ok(())
}

/// Adapters that Python made of several, or used together.
fn combinations(folder: &Path, recording: &Recording, model: &mut Model, adapters: &mut Adapters) -> Result<()> {
    let path = folder.join("combinations.json");
    if !path.is_file() {
        return Ok(());
    }
    let combinations: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    adapters.load(model.adaptable(), "second", &folder.join("second"))?;
    for (name, keys) in combinations {
        let names = keys["adapters"].as_array().context("adapters")?;
        let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
        match keys["weights"].as_array() {
            Some(weights) => {
                let weights = weights.iter().filter_map(Value::as_f64);
                let members: Vec<_> = names.into_iter().zip(weights).collect();
                let options = CombineOptions {
                    svd_rank: keys["svd_rank"].as_u64().map(|rank| rank as usize),
                    density: keys["density"].as_f64(),
                    majority_sign_method: match keys["majority_sign_method"].as_str() {
                        Some("frequency") => MajoritySign::Frequency,
                        _ => MajoritySign::Total,
                    },
                    ..CombineOptions::default()
                };
                let combination = keys["combination_type"].as_str().context("combination_type")?.parse()?;
                adapters.add_weighted(&name, &members, combination, &options)?;
                adapters.set_active(model.adaptable(), &[&name])?;
            }
            None => adapters.set_active(model.adaptable(), &names)?,
        }
        recording.check(&format!("combined.{name}.logits"), model.logits(&recording.inputs())?)?;
        // Several at once are merged, too.
        adapters.merge(model.adaptable())?;
        recording.check(&format!("combined.{name}.logits"), model.logits(&recording.inputs())?)?;
        adapters.unmerge(model.adaptable())?;
    }
    Ok(())
}

/// The loss and its gradients by what is trained, which nothing else is.
fn gradients(recording: &Recording, model: &Model, adapters: &mut Adapters) -> Result<()> {
    Trainable::all().track(adapters)?;
    let expected = expected_gradients(recording)?;
    let found = backward(recording, model, adapters)?;
    // Those by which a projected prefix was made are of another adapter than the one that was saved.
    if !expected.keys().any(|name| name.starts_with("encoder.")) {
        check_gradients(&found, &expected)?;
    }
    tx_train::parameters::untrack(adapters);
    Ok(())
}

fn expected_gradients(recording: &Recording) -> Result<BTreeMap<String, Array>> {
    let recorded = recording.under("gradients.").into_iter();
    let new = recorded.filter(|(name, _)| !SAID_ALREADY.iter().any(|part| name.contains(part)));
    new.map(|(name, data)| Ok((name, Array::new(&data)?))).collect()
}

fn check_gradients(found: &BTreeMap<String, Vec<f32>>, expected: &BTreeMap<String, Array>) -> Result<()> {
    let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (found.keys().collect(), expected.keys().collect());
    let differ: Vec<_> = ours.symmetric_difference(&theirs).collect();
    ensure!(differ.is_empty(), "a gradient here or in Python, but not in both: {differ:?}");
    let whole: Vec<f32> = expected.values().flat_map(|gradient| gradient.values.iter().copied()).collect();
    let floor = FLOOR * distance(&[], &whole).1;
    let mut wrong = Vec::new();
    for (name, gradient) in found {
        let expected = &expected[name].values;
        let (ours, theirs) = (gradient.len(), expected.len());
        ensure!(ours == theirs, "`{name}` has {ours} elements, expected {theirs}");
        let (difference, norm) = distance(gradient, expected);
        let relative = difference / norm.max(floor);
        if relative.is_nan() || relative > RELATIVE {
            wrong.push(format!("`{name}`: relative error {relative:.2e}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} gradients: {}", wrong.len(), expected.len(), wrong.join(", "));
    Ok(())
}

/// A pass forwards and backwards; the gradients by name.
fn backward(recording: &Recording, model: &Model, adapters: &Adapters) -> Result<BTreeMap<String, Vec<f32>>> {
    let logits = model.logits(&recording.inputs())?;
    let mut shape = logits.shape();
    let classes = shape.pop().context("a scalar")?;
    let mut labels: Vec<i64> = recording.get("labels")?.iter::<i64>().collect();
    if let &[rows, seq] = shape.as_slice() {
        // The scores of a token, virtual ones included, are for the one after it.
        let own = labels.len() / rows;
        let row = |row: &[i64]| {
            let mut all = vec![IGNORED; seq - own];
            all.extend(row);
            all.rotate_left(1);
            all[seq - 1] = IGNORED;
            all
        };
        labels = labels.chunks(own).flat_map(row).collect();
    }
    let rows = labels.len();
    let labels = Tensor::from_data(TensorData::new(labels, [rows]), &Device::default());
    let loss = loss::cross_entropy(logits.flatten().reshape([rows, classes]), labels, 0.0);
    let (difference, norm) = distance(&values(loss.clone().into())?, &Array::new(recording.get("loss")?)?.values);
    ensure!(difference <= RELATIVE * norm, "the loss is off by {difference:.2e}, it is {norm:.3e}");
    let mut backward = loss.backward();
    let mut found = BTreeMap::new();
    let mut failed = None;
    adapters.visit(&mut |parameter| {
        if let Some(gradient) = parameter.tensor.gradient(&mut backward) {
            match values(gradient) {
                Ok(values) => drop(found.insert(parameter.name, values)),
                Err(error) => failed = Some(error),
            }
        }
    });
    failed.map_or(Ok(found), Err)
}

/// LoRA over a base in 16 and in 8 bits, which stays as it is.
fn any_dtype() -> Result<()> {
    for name in ["llama-lora", "gpt2-lora", "llama-dora", "llama-ia3", "gpt2-dora"] {
        let folder = data().join(name);
        let recording = Recording::read(&folder)?;
        for (dtype, quantize, relative) in [
            (Dtype::Bf16, None, 3e-2),
            (Dtype::F16, None, 5e-3),
            // Whole tokens share the scale of their activations.
            (Dtype::Auto, Some(Quantization::Int8), 6e-2),
        ] {
            let options = LoadOptions { dtype, quantize, ..LoadOptions::default() };
            let mut model = Model::load(&base(&folder)?, &options)?;
            let mut adapters = Adapters::new();
            adapters.load(model.adaptable(), DEFAULT, &folder)?;
            let logits = model.logits(&recording.inputs())?;
            recording
                .check_within("outputs.logits", logits, Tolerance { relative, absolute: 1e-5 })
                .with_context(|| format!("{name}: {dtype:?} {quantize:?}"))?;
            // Only what is on the model is trained.
            Trainable::all().track(&mut adapters)?;
            let gradients = backward_sum(&model, &recording, &adapters)?;
            ensure!(gradients > 0.0 && gradients.is_finite(), "{name}: {dtype:?}: gradients of {gradients}");
            tx_train::parameters::untrack(&mut adapters);
            match (quantize, adapters.merge(model.adaptable())) {
                (Some(_), Err(error)) => ensure!(error.to_string().contains("--quantize"), "{error}"),
                (Some(_), Ok(())) => bail!("8-bit weights cannot be merged"),
                (None, merged) => merged?,
            }
        }
    }
    Ok(())
}

/// The norm of the gradients of the sum of all scores.
fn backward_sum(model: &Model, recording: &Recording, adapters: &Adapters) -> Result<f64> {
    let mut gradients = model.logits(&recording.inputs())?.flatten().sum().backward();
    let (mut sum, mut failed) = (0.0, None);
    adapters.visit(&mut |parameter| match parameter.tensor.gradient(&mut gradients).map(values) {
        Some(Ok(values)) => sum += values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>(),
        Some(Err(error)) => failed = Some(error),
        None => failed = Some(anyhow::anyhow!("`{}` has no gradient", parameter.name)),
    });
    failed.map_or(Ok(sum.sqrt()), Err)
}

/// Tokens one by one with a cache are those of whole passes, in a batch too.
fn generation() -> Result<()> {
    for name in ["llama-prompt-tuning", "gpt2-prompt-tuning", "llama-prefix-tuning", "gpt2-prefix-tuning"] {
        let mut model = Model::of(&data().join(name))?;
        let before = match &model {
            Model::CausalLm(model) => model.limits.max_length,
            Model::SequenceClassifier(_) => bail!("a language model"),
        };
        let mut adapters = Adapters::new();
        adapters.load(model.adaptable(), DEFAULT, &data().join(name))?;
        let Model::CausalLm(model) = &model else { bail!("a language model") };
        ensure!(model.limits.max_length == before.map(|max| max - 3), "{name}: {:?}", model.limits);
        let prompts: Vec<Vec<u32>> = vec![vec![5, 9, 17, 4], vec![11, 3], vec![7, 21, 33]];
        let config = GenerationConfig { max_new_tokens: Some(6), ..GenerationConfig::default() };
        let generator = Generator::from_auto(model);
        let together = generator.generate(&prompts, &config, &mut Hooks::default())?;
        for (prompt, sequence) in prompts.iter().zip(&together.sequences) {
            let alone = generator.generate(std::slice::from_ref(prompt), &config, &mut Hooks::default())?;
            ensure!(alone.sequences[0].ids == sequence.ids, "{name}: {:?} alone", alone.sequences[0].ids);
            let mut ids = prompt.clone();
            for token in sequence.new_ids() {
                let rows = IntRows::new(&[ids.iter().map(|&id| i64::from(id)).collect::<Vec<_>>()]);
                let arguments = TextArguments { input_ids: rows, ..TextArguments::default() };
                let inputs = TextInputs::new(&arguments, &model.limits, &Device::default())?;
                let mut cache = Cache::off(model.cache_kinds().len());
                let logits = model.forward(&inputs, &mut cache, &mut Record::none());
                let [_, seq, vocab] = logits.dims();
                let last = values(logits.narrow(1, seq - 1, 1).reshape([vocab]).into())?;
                let best = (0..vocab).max_by(|&a, &b| last[a].total_cmp(&last[b])).context("no scores")?;
                ensure!(best == *token as usize, "{name}: {best} after {ids:?}, generated {token}");
                ids.push(*token);
            }
        }
        // A conversation goes on from what was kept.
        let mut session = generator.session();
        let first = session.generate(&prompts[0], &config, &mut Hooks::default())?.sequences.remove(0).ids;
        let longer = [&first[..], &[8, 2, 5][..]].concat();
        let kept = session.generate(&longer, &config, &mut Hooks::default())?;
        ensure!(kept.stats.reused_tokens >= prompts[0].len(), "{name}: {:?}", kept.stats);
        let anew = generator.generate(&[longer], &config, &mut Hooks::default())?;
        ensure!(kept.sequences[0].ids == anew.sequences[0].ids, "{name}: a session generates something else");
    }
    Ok(())
}

fn new_config(keys: Value) -> Result<PeftConfig> {
    let Value::Object(keys) = keys else { bail!("an object") };
    Ok(PeftConfig::from_keys(Path::new("training.toml"), keys)?)
}

/// A new adapter changes nothing, depends on its seed, and is saved as Python has it.
fn new_adapters() -> Result<()> {
    let llama = Recording::read(&data().join("llama-lora"))?;
    for (keys, same) in [
        (json!({ "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4 }), true),
        (json!({ "peft_type": "LORA", "target_modules": "all-linear", "init_lora_weights": "gaussian" }), true),
        (json!({ "peft_type": "LORA", "target_modules": ["embed_tokens", "q_proj"], "use_dora": true }), true),
        (json!({ "peft_type": "LORA", "use_dora": true, "modules_to_save": ["lm_head", "norm"], "bias": "all" }), true),
        (json!({ "peft_type": "IA3", "task_type": "CAUSAL_LM" }), true),
        (json!({ "peft_type": "LORA", "init_lora_weights": false }), false),
        (json!({ "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4 }), false),
        (json!({ "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 5, "prompt_tuning_init": "TEXT" }), false),
        (json!({ "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "prefix_projection": true }), false),
    ] {
        let config = new_config(keys.clone())?;
        let mut model = Model::of(&data().join("llama-lora"))?;
        let plain = Array { shape: Vec::new(), values: values(model.logits(&llama.inputs())?)? };
        let logits = |model: &mut Model, seed: u64| -> Result<(Adapters, Vec<f32>)> {
            let mut adapters = Adapters::new();
            let options = CreateOptions { seed, prompt_ids: vec![3, 4, 5] };
            adapters.create(model.adaptable(), DEFAULT, &config, &options)?;
            let logits = model.logits(&llama.inputs())?;
            let seq = logits.shape()[1];
            // Without the scores of virtual tokens.
            let own = logits.to::<3>().narrow(1, seq - 8, 8);
            Ok((adapters, values(own.into())?))
        };
        let first = logits(&mut model, 1)?.1;
        let second = logits(&mut model, 1)?.1;
        ensure!(first == second, "{keys}: two adapters of one seed differ");
        let (mut adapters, third) = logits(&mut model, 2)?;
        let (difference, norm) = distance(&third, &plain.values);
        ensure!((difference <= 1e-5 * norm) == same, "{keys}: a new adapter is {difference:.1e} of {norm:.1e} off");
        let from_words = keys["prompt_tuning_init"] == "TEXT";
        ensure!(same || from_words || first != third, "{keys}: two seeds give one adapter");

        // Written, read and written again.
        let (once, twice) = (tempfile::tempdir()?, tempfile::tempdir()?);
        adapters.save(DEFAULT, once.path())?;
        adapters.set_active(model.adaptable(), &[])?;
        let mut again = Adapters::new();
        again.load(model.adaptable(), DEFAULT, once.path())?;
        let seq = 8;
        let logits = model.logits(&llama.inputs())?;
        let all = logits.shape()[1];
        let found = values(logits.to::<3>().narrow(1, all - seq, seq).into())?;
        let (difference, norm) = distance(&found, &third);
        ensure!(difference <= 1e-5 * norm, "{keys}: loaded again it is {difference:.1e} of {norm:.1e} off");
        again.save(DEFAULT, twice.path())?;
        ensure!(stored(once.path())? == stored(twice.path())?, "{keys}: other tensors");
        let text = |folder: &Path| std::fs::read_to_string(folder.join("adapter_config.json"));
        ensure!(text(once.path())? == text(twice.path())?, "{keys}: another config");
    }
    Ok(())
}

/// A prefix that is computed has Python's gradients, and training goes on with what it is computed of.
fn prefix_encoder() -> Result<()> {
    for name in ["llama-prefix-tuning-projection", "bert-prefix-tuning-projection"] {
        let folder = data().join(name);
        let recording = Recording::read(&folder)?;
        let mut model = Model::of(&folder)?;
        let mut adapters = Adapters::new();
        let config = PeftConfig::from_folder(&folder)?;
        adapters.create(model.adaptable(), DEFAULT, &config, &CreateOptions::default())?;
        let mut values_of = recording.under("encoder.");
        let heads = safetensors::read(&folder.join("adapter_model.safetensors"))?;
        let fill = |parameter: Parameter, encoder: &mut BTreeMap<String, TensorData>| -> AnyTensor {
            let shape = parameter.tensor.shape();
            let data = match parameter.name.strip_prefix("encoder.") {
                Some(part) => encoder.remove(part),
                None => heads.get(&parameter.name).map(|tensor| tensor.to_data()),
            };
            let data = data.map(|data| data.iter::<f32>().collect::<Vec<_>>()).unwrap_or_default();
            let length = data.len();
            AnyTensor::from_flat(Tensor::from_data(TensorData::new(data, [length]), &Device::default()), &shape)
        };
        adapters.map(&mut |parameter| fill(parameter, &mut values_of));
        ensure!(values_of.is_empty(), "{name}: {:?} left", values_of.keys());
        recording.check("outputs.logits", model.logits(&recording.inputs())?)?;

        Trainable::all().track(&mut adapters)?;
        check_gradients(&backward(&recording, &model, &adapters)?, &expected_gradients(&recording)?)?;

        let checkpoint = tempfile::tempdir()?;
        TrainableAdapters::save(&adapters, checkpoint.path())?;
        let expected = parameters(&adapters)?;
        adapters.map(&mut |parameter| {
            let shape = parameter.tensor.shape();
            AnyTensor::from_flat(parameter.tensor.untrack().flatten() * 2.0, &shape).track()
        });
        ensure!(parameters(&adapters)? != expected, "{name}: nothing has changed");
        TrainableAdapters::load(&mut adapters, checkpoint.path())?;
        ensure!(parameters(&adapters)? == expected, "{name}: restored, the parameters are others");
        let mut tracked = true;
        adapters.visit(&mut |parameter| tracked &= parameter.tensor.is_tracked());
        ensure!(tracked, "{name}: restored, the parameters are no leaves");
    }
    Ok(())
}

/// The values of all parameters by name.
fn parameters(source: &dyn Parameters) -> Result<BTreeMap<String, Vec<f32>>> {
    let (mut all, mut failed) = (BTreeMap::new(), None);
    source.visit(&mut |parameter| match values(parameter.tensor) {
        Ok(values) => drop(all.insert(parameter.name, values)),
        Err(error) => failed = Some(error),
    });
    failed.map_or(Ok(all), Err)
}

/// An embedding and a head that share a tensor can have adapters of their own, which cannot be merged.
fn tied_weights() -> Result<()> {
    let folder = data().join("gpt2-lora");
    let recording = Recording::read(&folder)?;
    let mut model = Model::of(&folder)?;
    let config = new_config(json!({ "peft_type": "LORA", "target_modules": ["wte"], "init_lora_weights": false }))?;
    let mut adapters = Adapters::new();
    adapters.create(model.adaptable(), DEFAULT, &config, &CreateOptions::default())?;
    let changed = values(model.logits(&recording.inputs())?)?;
    let error = match adapters.merge(model.adaptable()) {
        Err(error) => error.to_string(),
        Ok(()) => bail!("a tied weight was merged"),
    };
    ensure!(error.contains("transformer.wte.weight") && error.contains("lm_head.weight"), "{error}");
    ensure!(values(model.logits(&recording.inputs())?)? == changed, "a failed merge has changed something");
    adapters.set_active(model.adaptable(), &[])?;
    // The head alone.
    let keys = json!({ "peft_type": "LORA", "modules_to_save": ["lm_head"], "target_modules": ["c_attn"] });
    let config = new_config(keys)?;
    let mut adapters = Adapters::new();
    adapters.create(model.adaptable(), DEFAULT, &config, &CreateOptions::default())?;
    let plain = values(model.logits(&recording.inputs())?)?;
    adapters.map(&mut |parameter| match parameter.name.ends_with("lm_head.weight") {
        true => (parameter.tensor.to::<2>() * 2.0).into(),
        false => parameter.tensor,
    });
    let doubled = values(model.logits(&recording.inputs())?)?;
    let expected: Vec<f32> = plain.iter().map(|x| 2.0 * x).collect();
    let (difference, norm) = distance(&doubled, &expected);
    ensure!(difference <= 1e-5 * norm, "{difference:.1e} of {norm:.1e} off");
    Ok(())
}

/// Adapters that a model is loaded with, side by side or in its weights.
fn attached() -> Result<()> {
    use std::sync::Arc;
    use tx_train::peft::{AdapterFolder, AttachAdapters};

    let folder = data().join("bert-lora");
    let recording = Recording::read(&folder)?;
    for merge in [false, true] {
        let adapter = AdapterFolder { folder: folder.clone(), weight: None };
        let attach = AttachAdapters { folders: vec![adapter], merge };
        let options = LoadOptions { attach: Some(Arc::new(attach)), ..LoadOptions::default() };
        let model = Model::load(&base(&folder)?, &options)?;
        recording.check("outputs.logits", model.logits(&recording.inputs())?)?;
    }
    let folder = data().join("llama-lora-weighted");
    let recording = Recording::read(&folder)?;
    for (weights, name) in [([None, None], "both"), ([Some(0.7), Some(-0.4)], "cat")] {
        let folders = [folder.clone(), folder.join("second")].into_iter().zip(weights);
        let folders = folders.map(|(folder, weight)| AdapterFolder { folder, weight }).collect();
        let attach = AttachAdapters { folders, merge: false };
        let options = LoadOptions { attach: Some(Arc::new(attach)), ..LoadOptions::default() };
        let model = Model::load(&base(&folder)?, &options)?;
        recording.check(&format!("combined.{name}.logits"), model.logits(&recording.inputs())?)?;
    }
    Ok(())
}

/// What does not fit is refused, with the file, the key and the remedy, and nothing is on the model then.
fn errors() -> Result<()> {
    let folder = data().join("llama-lora");
    let inputs = Recording::read(&folder)?.inputs();
    let mut model = Model::of(&folder)?;
    let plain = values(model.logits(&inputs)?)?;
    for (keys, parts) in [
        (json!({ "peft_type": "LORA", "target_modules": ["q_porj"] }), ["`target_modules`", "did you mean `q_proj`?"]),
        (json!({ "peft_type": "LORA", "target_modules": ["q_proj", "k"] }), ["`target_modules`", "`k` is no layer"]),
        (json!({ "peft_type": "LORA", "target_modules": ".*nothing" }), ["`target_modules`", "matches no layer"]),
        (json!({ "peft_type": "LORA", "target_modules": ".*norm" }), ["`target_modules`", "RmsNorm"]),
        (json!({ "peft_type": "LORA", "init_lora_weights": "pissa" }), ["`init_lora_weights`", "gaussian"]),
        (json!({ "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 7 }), ["`token_dim`", "32"]),
        (json!({ "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "num_layers": 3 }), ["virtual", "some layers"]),
        (json!({ "peft_type": "IA3", "target_modules": ["embed_tokens"] }), ["`target_modules`", "linear layers"]),
    ] {
        let error = match Adapters::new().create(
            model.adaptable(),
            DEFAULT,
            &new_config(keys.clone())?,
            &CreateOptions::default(),
        ) {
            Ok(()) => bail!("{keys} was taken"),
            Err(error) => error.to_string(),
        };
        ensure!(parts.iter().all(|part| error.contains(part)), "{keys}: {error}");
        ensure!(values(model.logits(&inputs)?)? == plain, "{keys}: something is left on the model");
    }
    // A file of another model, a truncated one, and tensors of other shapes.
    let mut adapters = Adapters::new();
    let of_bert = data().join("bert-lora");
    let error = adapters.load(model.adaptable(), DEFAULT, &of_bert).map_err(|error| error.to_string());
    ensure!(error.clone().is_err_and(|error| error.contains("did you mean") || error.contains("layers")), "{error:?}");
    let copy = tempfile::tempdir()?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder.join(file), copy.path().join(file))?;
    }
    let config = std::fs::read_to_string(folder.join("adapter_config.json"))?;
    std::fs::write(copy.path().join("adapter_config.json"), config.replace("\"r\": 4", "\"r\": 5"))?;
    let error = adapters.load(model.adaptable(), DEFAULT, copy.path()).map_err(|error| error.to_string());
    ensure!(error.clone().is_err_and(|error| error.contains("f32 [4, 32], expected [5, 32]")), "{error:?}");
    std::fs::write(copy.path().join("adapter_config.json"), config.replace("q_proj", "o_proj"))?;
    let error = adapters.load(model.adaptable(), DEFAULT, copy.path()).map_err(|error| error.to_string());
    let both = |error: String| error.contains("4 missing") && error.contains("4 unexpected");
    ensure!(error.clone().is_err_and(both), "{error:?}");
    let weights = std::fs::read(folder.join("adapter_model.safetensors"))?;
    std::fs::write(copy.path().join("adapter_model.safetensors"), &weights[..weights.len() / 2])?;
    ensure!(adapters.load(model.adaptable(), DEFAULT, copy.path()).is_err(), "half a file was taken");
    ensure!(adapters.names().count() == 0 && values(model.logits(&inputs)?)? == plain, "something is left");
    // Names.
    adapters.load(model.adaptable(), DEFAULT, &folder)?;
    ensure!(adapters.load(model.adaptable(), DEFAULT, &folder).is_err(), "two of one name");
    let error = adapters.set_active(model.adaptable(), &["other"]).map_err(|error| error.to_string());
    ensure!(error.clone().is_err_and(|error| error.contains("`other`") && error.contains(DEFAULT)), "{error:?}");
    ensure!(adapters.unmerge(model.adaptable()).is_err(), "nothing was merged");
    Ok(())
}
