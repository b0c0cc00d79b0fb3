//! The file that `tx train` reads: a model, a task, data and arguments.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tx_core::config::{Config, kind};
use tx_core::device::Dtype;
use tx_core::error::{Error, Result, nearest};
use tx_core::registry::LoadOptions;
use tx_core::tokenizer::{EncodeOptions, Text};

use super::Trainer;
use super::data::{Companions, Part};
use super::load::ModelOptions;
use super::model::TrainingModel;
use super::options::DataOptions;
use super::task::TrainingTask;
use crate::arguments::TrainingArguments;
use crate::arguments::read::read_keys;
use crate::collate::padding_token;
use crate::data::PrepareOptions;
use crate::parameters::{Parameters, Trainable};
use crate::peft::{self, Adapters, CreateOptions, PeftConfig};

/// The keys of the file, outside of its tables.
const KEYS: [&str; 5] = ["freeze", "from_scratch", "ignore_mismatched_sizes", "model", "task"];
/// Its tables.
const TABLES: [&str; 3] = ["data", "peft", "training"];
/// The keys of `[data]` that say which rows are read.
const FILES: [&str; 5] = ["eval", "max_eval_samples", "max_train_samples", "train", "validation_split_percentage"];

/// What is trained, for what, on what and how: a TOML or JSON file.
#[derive(Debug, Clone)]
pub struct TrainConfig {
    /// The file.
    pub path: PathBuf,
    /// A folder, or a model on the Hub.
    pub model: String,
    /// What it is trained for.
    pub task: TrainingTask,
    /// All weights begin with random numbers.
    pub from_scratch: bool,
    /// A head of other sizes begins anew.
    pub ignore_mismatched_sizes: bool,
    /// The parameters that stay as they are: their names, or the parts that these begin with, such as
    /// `bert.embeddings`.
    pub freeze: Vec<String>,
    /// The files to train on.
    pub train: String,
    /// The files to evaluate on.
    pub eval: Option<String>,
    /// How much of the training rows is for evaluation, where no files are; in percent.
    pub validation_split_percentage: Option<f64>,
    /// The most rows to train on.
    pub max_train_samples: Option<u64>,
    /// The most rows to evaluate on.
    pub max_eval_samples: Option<u64>,
    /// The other keys of `[data]`.
    pub data: DataOptions,
    /// `[peft]`: the adapters to train in place of the model.
    pub peft: Option<Map<String, Value>>,
    /// `[training]`.
    pub arguments: TrainingArguments,
}

/// Where a run takes place.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The folder of the model, whatever the configuration calls it.
    pub folder: PathBuf,
    /// Where tensors live.
    pub load: LoadOptions,
    /// The folder for prepared examples, in files without a name.
    pub scratch: PathBuf,
    /// Whether bars are shown while data are prepared.
    pub progress: bool,
}

impl TrainConfig {
    /// Reads a file. `flags` win over it: names of training arguments, or keys of the file with dots between levels,
    /// such as `data.train`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`]; [`Error::Config`] for keys that are missing, of the wrong type or unknown,
    /// with the nearest known one; [`Error::Input`] for the same in flags.
    pub fn load<'a>(path: &Path, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut keys = read_keys(path)?;
        let mut arguments = Vec::new();
        for (key, text) in flags {
            set(&mut keys, &mut arguments, key, text)?;
        }
        let wrong = |key: &str, found: &Value, expected: &str| {
            Error::config(path, key, format_args!("found {}, expected {expected}", kind(found)))
        };
        let mut tables = Map::new();
        for name in TABLES {
            match keys.remove(name) {
                None => {}
                Some(Value::Object(table)) => drop(tables.insert(name.to_owned(), Value::Object(table))),
                Some(other) => return Err(wrong(name, &other, "a table")),
            }
        }
        let mut table = |name: &str| match tables.remove(name) {
            Some(Value::Object(table)) => Some(table),
            _ => None,
        };
        let (mut data, training, peft) = (table("data").unwrap_or_default(), table("training"), table("peft"));
        if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let expected = match nearest(key, KEYS.into_iter().chain(TABLES)) {
                Some(name) => format!("did you mean `{name}`?"),
                None if TrainingArguments::NAMES.contains(&key.as_str()) => {
                    "it belongs into the table `training`".into()
                }
                None => format!("the keys are {}, and the tables {}", KEYS.join(", "), TABLES.join(", ")),
            };
            return Err(Error::config(path, key, format_args!("an unknown name; {expected}")));
        }
        let text = |keys: &Map<String, Value>, table: &str, key: &str| match keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(wrong(&format!("{table}{key}"), other, "a text")),
        };
        let flag = |key: &str| match keys.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, other, "true or false")),
        };
        let missing = |key: &str, what: &str| Error::config(path, key, format_args!("missing, expected {what}"));
        let model = text(&keys, "", "model")?.ok_or_else(|| missing("model", "a folder or a model on the Hub"))?;
        let task = text(&keys, "", "task")?.ok_or_else(|| missing("task", "what the model is trained for"))?;
        let task = TrainingTask::from_name(&task)?;
        let names = |value: &Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        let freeze = match keys.get("freeze") {
            None => Vec::new(),
            Some(value) => names(value).ok_or_else(|| wrong("freeze", value, "a list of names of parameters"))?,
        };
        let number = |key: &str| match data.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|number| *number >= 0.0) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(&format!("data.{key}"), value, "a number that is not negative")),
            },
        };
        let validation_split_percentage = number("validation_split_percentage")?;
        if let Some(percentage) = validation_split_percentage.filter(|percentage| *percentage >= 100.0) {
            let reason = format_args!("{percentage}, expected less than 100");
            return Err(Error::config(path, "data.validation_split_percentage", reason));
        }
        if validation_split_percentage.is_some_and(|part| part > 0.0) && data.get("eval").is_some_and(Value::is_string)
        {
            let reason = "given beside `eval`, expected one of them";
            return Err(Error::config(path, "data.validation_split_percentage", reason));
        }
        let count = |key: &str| Ok::<_, Error>(number(key)?.map(|number| number as u64));
        let (max_train_samples, max_eval_samples) = (count("max_train_samples")?, count("max_eval_samples")?);
        let train = text(&data, "data.", "train")?.ok_or_else(|| missing("data.train", "files of rows"))?;
        let eval = text(&data, "data.", "eval")?;
        data.retain(|key, _| !FILES.contains(&key.as_str()));
        let arguments = arguments.iter().map(|(key, text): &(String, String)| (key.as_str(), text.as_str()));
        Ok(Self {
            path: path.to_path_buf(),
            model,
            task,
            from_scratch: flag("from_scratch")?,
            ignore_mismatched_sizes: flag("ignore_mismatched_sizes")?,
            freeze,
            train,
            eval,
            validation_split_percentage,
            max_train_samples,
            max_eval_samples,
            data: DataOptions::read(task, &data, Some(path))?,
            peft,
            arguments: TrainingArguments::from_keys(Some(path), training.unwrap_or_default(), arguments)?,
        })
    }

    /// A trainer with the model and the data, all of which is checked.
    ///
    /// # Errors
    /// Everything that loading the model and preparing the data can report.
    pub fn trainer(&self, setting: &Setting) -> Result<Trainer> {
        let Setting { folder, load, scratch, progress } = setting;
        let arguments = &self.arguments;
        let mut load = load.clone();
        load.dtype = match (arguments.bf16, arguments.fp16) {
            (true, _) => Dtype::Bf16,
            (_, true) => Dtype::F16,
            _ => load.dtype,
        };
        let companions = Companions::from_folder(folder, self.task, &load)?;
        // A config for the whole is not there where an encoder has a folder of its own.
        let targets = match self.task.has_classes() {
            true => self.data.targets(&self.train, &Config::from_folder(folder)?)?,
            false => None,
        };
        let options = ModelOptions {
            targets,
            load,
            from_scratch: self.from_scratch,
            ignore_mismatched_sizes: self.ignore_mismatched_sizes,
            pad_token_id: companions.tokenizer.as_ref().and_then(padding_token),
            seed: arguments.seed,
        };
        let mut model = TrainingModel::from_folder(folder, self.task, &options)?;
        // Before the data: virtual tokens take room from the texts.
        let adapters = match &self.peft {
            Some(keys) => Some(self.adapters(keys, &mut model, &companions)?),
            None => None,
        };
        let options = PrepareOptions { folder: scratch.clone(), progress: *progress && !arguments.disable_tqdm };
        let prepare = |path: &str, part, judged, most| {
            self.data.prepare(path, part, judged, most, &model, &companions, arguments.seed, &options)
        };
        let split = self.validation_split_percentage.filter(|percentage| *percentage > 0.0 && self.eval.is_none());
        let (part, held_out) = match split {
            None => (Part::All, None),
            Some(percentage) => {
                let (held_out, seed) = (percentage / 100.0, arguments.data_seed.unwrap_or(arguments.seed));
                (Part::Training { held_out, seed }, Some(Part::HeldOut { held_out, seed }))
            }
        };
        let train = prepare(&self.train, part, false, self.max_train_samples)?;
        let eval = match (&self.eval, held_out) {
            (Some(path), _) => Some(prepare(path, Part::All, true, self.max_eval_samples)?),
            (None, Some(part)) => Some(prepare(&self.train, part, true, self.max_eval_samples)?),
            (None, None) => None,
        };
        if let Some(adapters) = adapters {
            let trainer = Trainer::new(model, arguments.clone(), Some(train), eval)?;
            // A model belongs to a tokenizer, and so does an adapter.
            return Ok(trainer
                .with_adapters(Box::new(adapters))
                .with_companions(move |folder| companions.save(folder)));
        }
        let freeze = self.freeze.clone();
        if let Some(name) = freeze.iter().find(|name| !has(&model, name)) {
            let reason = format_args!("no parameter `{name}`, nor any that begins with `{name}.`");
            return Err(Error::config(&self.path, "freeze", reason));
        }
        let trainable = Trainable::only(move |parameter| !freeze.iter().any(|name| begins(&parameter.name, name)));
        let trainer = Trainer::new(model, arguments.clone(), Some(train), eval)?;
        Ok(trainer.with_trainable(trainable).with_companions(move |folder| companions.save(folder)))
    }

    /// New adapters on a model.
    fn adapters(
        &self,
        keys: &Map<String, Value>,
        model: &mut TrainingModel,
        companions: &Companions,
    ) -> Result<Adapters> {
        if !self.freeze.is_empty() {
            let reason =
                "given beside the table `peft`, expected one of them: the model stays as it is under an adapter";
            return Err(Error::config(&self.path, "freeze", reason));
        }
        let mut keys = keys.clone();
        keys.entry("task_type").or_insert_with(|| self.task.peft_task_type().into());
        if self.task == TrainingTask::ImageClassification {
            // `peft` knows the heads of its own tasks, which this is none of.
            keys.entry("modules_to_save").or_insert_with(|| ["classifier"].into_iter().collect());
        }
        keys.entry("base_model_name_or_path").or_insert_with(|| self.model.as_str().into());
        if keys.get("prompt_tuning_init").is_some_and(|init| init == "TEXT") {
            // Python opens no such adapter without it.
            keys.entry("tokenizer_name_or_path").or_insert_with(|| self.model.as_str().into());
        }
        let config = PeftConfig::from_keys(&self.path, keys)?;
        let prompt_ids = match (config.get("prompt_tuning_init_text").and_then(Value::as_str), &companions.tokenizer) {
            (Some(text), Some(tokenizer)) => {
                let encodings = tokenizer.encode(&Text::from(text), &EncodeOptions::default())?;
                encodings.into_iter().flat_map(|encoding| encoding.ids).collect()
            }
            _ => Vec::new(),
        };
        let mut adapters = Adapters::new();
        let options = CreateOptions { seed: self.arguments.seed, prompt_ids };
        adapters.create(model.adaptable(), peft::DEFAULT, &config, &options)?;
        Ok(adapters)
    }
}

/// Whether a name is `part` or lies in it.
fn begins(name: &str, part: &str) -> bool {
    name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a model has such parameters.
fn has(model: &TrainingModel, part: &str) -> bool {
    let mut found = false;
    model.visit(&mut |parameter| found |= begins(&parameter.name, part));
    found
}

/// Sets one key of the file, or a training argument, whose text is read later.
fn set(keys: &mut Map<String, Value>, arguments: &mut Vec<(String, String)>, key: &str, text: &str) -> Result<()> {
    let name = key.trim_start_matches('-').replace('-', "_");
    let (table, rest) = name.split_once('.').unwrap_or(("", name.as_str()));
    // What is no JSON is a text, and so are names that look like a number.
    let value = || match (name.as_str(), serde_json::from_str(text)) {
        ("model" | "task" | "data.train" | "data.eval", _) | (_, Err(_)) => Value::from(text),
        (_, Ok(value)) => value,
    };
    match table {
        "training" => arguments.push((rest.to_owned(), text.to_owned())),
        "data" | "peft" => match keys.entry(table).or_insert_with(|| Value::Object(Map::new())) {
            Value::Object(keys) => drop(keys.insert(rest.to_owned(), value())),
            other => return Err(Error::input(key, kind(other), format_args!("a table `{table}` in the file"))),
        },
        "" if KEYS.contains(&rest) => drop(keys.insert(rest.to_owned(), value())),
        // Of other names the arguments say which they could be.
        "" => arguments.push((rest.to_owned(), text.to_owned())),
        other => {
            let found = format_args!("a key of `{other}`");
            return Err(Error::input(key, found, format_args!("one of {}", TABLES.join(", "))));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FILE: &str = "model = 'm'\ntask = 'text-classification'\nfreeze = ['bert.embeddings']\n\
        [data]\ntrain = 'a.csv'\n\
        max_train_samples = 10\ntext_column = 'review'\n[training]\nlearning_rate = 1e-3\n";

    fn load(text: &str, flags: &[(&str, &str)]) -> Result<TrainConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.toml");
        fs::write(&path, text).unwrap();
        TrainConfig::load(&path, flags.iter().copied()).map_err(|error| {
            let text = error.to_string();
            text.split_once("train.toml: ").map_or(text.clone(), |(_, rest)| rest.to_owned())
        })
    }

    #[test]
    fn flags_win_over_the_file_wherever_they_point() {
        let config = load(FILE, &[]).unwrap();
        assert_eq!((config.model.as_str(), config.task), ("m", TrainingTask::TextClassification));
        assert_eq!((config.train.as_str(), config.eval.as_deref()), ("a.csv", None));
        assert_eq!((config.max_train_samples, config.arguments.learning_rate), (Some(10), 1e-3));
        assert_eq!(config.freeze, ["bert.embeddings"]);
        let flags = [
            ("learning-rate", "5e-5"),
            ("training.seed", "7"),
            ("data.train", "7.csv"),
            ("data.max_train_samples", "3"),
            ("model", "123"),
            ("from_scratch", "true"),
            ("peft.r", "8"),
        ];
        let config = load(FILE, &flags).unwrap();
        assert_eq!((config.arguments.learning_rate, config.arguments.seed), (5e-5, 7));
        assert_eq!((config.train.as_str(), config.max_train_samples, config.model.as_str()), ("7.csv", Some(3), "123"));
        assert!(config.from_scratch && config.peft.unwrap()["r"] == 8);
    }

    #[test]
    fn names_that_nobody_knows_come_with_one_that_is_known() {
        let message = |text: &str, flags: &[(&str, &str)]| load(text, flags).unwrap_err();
        assert_eq!(message("modl = 'x'\n", &[]), "`modl`: an unknown name; did you mean `model`?");
        assert_eq!(
            message("learning_rate = 1\n", &[]),
            "`learning_rate`: an unknown name; it belongs into the table `training`"
        );
        assert!(message(FILE, &[("learning-rat", "1")]).contains("did you mean `learning_rate`?"));
        assert!(message(FILE, &[("data.text_colum", "x")]).contains("did you mean `text_column`?"));
        assert!(message(FILE, &[("date.train", "x")]).starts_with("date.train: a key of `date`"));
        assert!(message("model = 'x'\n", &[]).starts_with("`task`: missing"));
        assert!(message("model = 'x'\ntask = 'causal-lm'\n", &[]).starts_with("`data.train`: missing"));
        assert!(message("model = 'x'\ntask = 'causallm'\n", &[]).contains("did you mean `causal-lm`?"));
        assert!(message("model = 1\n", &[]).starts_with("`model`: found a number, expected a text"));
        assert!(message(FILE, &[("data.validation_split_percentage", "100")]).contains("less than 100"));
        let both = [("data.validation_split_percentage", "5"), ("data.eval", "b.csv")];
        assert!(message(FILE, &both).contains("beside `eval`"));
        assert!(load(FILE, &[("data.validation_split_percentage", "0"), both[1]]).is_ok());
    }
}
