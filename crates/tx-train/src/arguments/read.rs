//! Arguments from files and flags, and the keys of HF that nothing here reads.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};
use tx_core::config::{kind, read_json, read_text};
use tx_core::error::nearest;
use tx_core::{Error, Result};

use super::TrainingArguments;
use super::setting::{Problem, found, number};

/// The largest file of arguments, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// HF's older name of `activation_checkpointing`; the newer one wins.
const ALIAS: (&str, &str) = ("gradient_checkpointing", "activation_checkpointing");

/// HF's arguments that tell Python how to use its machine or its libraries. They change no number: any value will do.
const WITHOUT_EFFECT: &[&str] = &[
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "ddp_backend",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "do_eval",
    "do_predict",
    "do_train",
    "eval_accumulation_steps",
    "eval_do_concat_batches",
    "eval_use_gather_object",
    "fsdp_config",
    "full_determinism",
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_token",
    "local_rank",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "project",
    "remove_unused_columns",
    "run_name",
    "skip_memory_metrics",
    "torch_empty_cache_steps",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
];

/// What HF writes for an `accelerator_config` of which nothing was said.
const ACCELERATOR: &str = r#"{"split_batches": false, "dispatch_batches": null, "even_batches": true,
    "use_seedable_sampler": true, "non_blocking": false, "gradient_accumulation_kwargs": null}"#;

/// HF's other arguments, and the values of each that say what is done here anyway, most of them "no".
const UNUSED: &[(&str, &[&str])] = &[
    ("accelerator_config", &["null", "{}", ACCELERATOR]),
    ("activation_checkpointing_kwargs", &["null", "{}"]),
    ("auto_find_batch_size", &["false"]),
    ("average_tokens_across_devices", &["true"]),
    ("batch_eval_metrics", &["false"]),
    ("bf16_full_eval", &["false"]),
    ("debug", &["\"\"", "[]"]),
    ("deepspeed", &["null"]),
    ("enable_jit_checkpoint", &["false"]),
    ("fp16_full_eval", &["false"]),
    ("fsdp", &["null", "[]", "\"\"", "false"]),
    ("gradient_checkpointing_kwargs", &["null", "{}"]),
    ("ignore_data_skip", &["false"]),
    ("include_for_metrics", &["[]"]),
    ("include_num_input_tokens_seen", &["\"non_padding\"", "\"no\"", "false"]),
    ("label_names", &["null"]),
    ("length_column_name", &["\"length\""]),
    ("liger_kernel_config", &["null"]),
    ("neftune_noise_alpha", &["null"]),
    ("optim_args", &["null"]),
    ("optim_target_modules", &["null"]),
    ("parallelism_config", &["null"]),
    ("prediction_loss_only", &["false"]),
    ("push_to_hub", &["false"]),
    ("save_on_each_node", &["false"]),
    ("tf32", &["null", "false"]),
    ("torch_compile", &["false"]),
    ("torch_compile_backend", &["null"]),
    ("torch_compile_mode", &["null"]),
    ("use_cache", &["false"]),
    ("use_cpu", &["false"]),
    ("use_liger_kernel", &["false"]),
];

/// HF's arguments of older releases, and what says the same now.
const MOVED: &[(&str, &str)] = &[
    ("evaluation_strategy", "`eval_strategy`"),
    ("group_by_length", "`train_sampling_strategy`: `group_by_length`"),
    ("per_gpu_eval_batch_size", "`per_device_eval_batch_size`"),
    ("per_gpu_train_batch_size", "`per_device_train_batch_size`"),
];

impl TrainingArguments {
    /// Reads a JSON file, or if its name ends in `.toml` a TOML file, and checks it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`]; [`Error::Config`] with the key for one that nobody knows, a value of the
    /// wrong type or out of range, and values that contradict each other.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::load(Some(path), [])
    }

    /// Reads a file, if there is one, and then flags, which win; names of flags may have dashes.
    ///
    /// # Errors
    /// As [`TrainingArguments::from_file`]; [`Error::Input`] for the same in flags.
    pub fn load<'a>(file: Option<&Path>, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let keys = file.map(read_keys).transpose()?.unwrap_or_default();
        Self::from_keys(file, keys, flags)
    }

    /// As [`TrainingArguments::load`], with what a part of a file says.
    pub(crate) fn from_keys<'a>(
        file: Option<&Path>,
        keys: Map<String, Value>,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self> {
        let mut arguments = Self::default();
        let mut from_file = BTreeSet::new();
        if let Some(path) = file {
            arguments.take(&keys).map_err(|problem| in_file(path, problem))?;
            from_file.extend(keys.into_iter().map(|(key, _)| key));
        }
        let mut keys = Map::new();
        for (flag, text) in flags {
            let key = flag.trim_start_matches('-').replace('-', "_");
            let value = Self::from_text(current(&key), text).unwrap_or_else(|| Value::from(text));
            from_file.remove(current(&key));
            keys.insert(key, value);
        }
        arguments.take(&keys).map_err(in_flags)?;
        arguments.resolve().map_err(|problem| match file {
            Some(path) if from_file.contains(&problem.key) => in_file(path, problem),
            _ => in_flags(problem),
        })
    }

    /// Sets the arguments that `keys` names.
    fn take(&mut self, keys: &Map<String, Value>) -> Result<(), Problem> {
        let newer = keys.get(ALIAS.1).is_some_and(|value| !value.is_null());
        for (key, value) in keys {
            if key == ALIAS.0 && newer {
                continue;
            }
            match self.set(current(key), value) {
                Some(result) => result?,
                None => unread(key, value)?,
            }
        }
        Ok(())
    }

    /// Derives the defaults that depend on other arguments, as HF does, and checks all of them.
    ///
    /// # Errors
    /// [`Error::Input`] for a value out of range, and for values that contradict each other.
    pub fn resolved(self) -> Result<Self> {
        self.resolve().map_err(in_flags)
    }
}

/// The name of today for an argument.
fn current(key: &str) -> &str {
    if key == ALIAS.0 { ALIAS.1 } else { key }
}

fn in_file(path: &Path, problem: Problem) -> Error {
    Error::config(path, problem.key, format_args!("{}, expected {}", problem.found, problem.expected))
}

fn in_flags(problem: Problem) -> Error {
    Error::input(problem.key, problem.found, problem.expected)
}

/// Rejects a key that is not read here, unless HF has it and it would change nothing.
fn unread(key: &str, value: &Value) -> Result<(), Problem> {
    if WITHOUT_EFFECT.contains(&key) {
        return Ok(());
    }
    if let Some((_, neutral)) = UNUSED.iter().find(|(name, _)| *name == key) {
        // The text of a flag is no JSON yet.
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_lowercase);
        let json = |allowed: &str| serde_json::from_str::<Value>(allowed).is_ok_and(|allowed| allowed == *value);
        if neutral.iter().any(|allowed| *allowed == text || allowed.trim_matches('"') == text || json(allowed)) {
            return Ok(());
        }
        return Err(Problem::new(key, found(value), format_args!("{}: nothing else is supported", neutral[0])));
    }
    if let Some((_, now)) = MOVED.iter().find(|(name, _)| *name == key) {
        return Err(Problem::new(key, "a name of older releases", now));
    }
    let known = TrainingArguments::NAMES.iter().copied();
    let expected = match nearest(key, known) {
        Some(name) => format!("an argument of training; did you mean `{name}`?"),
        None => "an argument of training".to_owned(),
    };
    Err(Problem::new(key, "an unknown name", expected))
}

/// The keys of a JSON or TOML file, in its order.
pub(crate) fn read_keys(path: &Path) -> Result<Map<String, Value>> {
    let toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let value = if toml { read_toml(path)? } else { read_json(path)? };
    match value {
        Value::Object(keys) => Ok(keys),
        other => Err(Error::malformed(path, format_args!("expected a map of arguments, found {}", kind(&other)))),
    }
}

fn read_toml(path: &Path) -> Result<Value> {
    let text = read_text(path, MAX_BYTES)?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        let line = error.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        Error::malformed(path, format_args!("not valid TOML: {line}{}", error.message().replace('\n', " ")))
    })?;
    Ok(to_json(toml::Value::Table(table)))
}

/// A TOML value as JSON; what JSON cannot say becomes text, which no number is read from.
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(integer) => integer.into(),
        toml::Value::Float(float) => match float.is_finite() {
            true => Value::from(float),
            false => number(float),
        },
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(list) => list.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, to_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::super::{IntervalStrategy, Reporter, Resume, SaveStrategy};
    use super::*;
    use crate::schedule::SchedulerType;

    fn file(name: &str, text: &str) -> (TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn message(json: &str) -> String {
        let (_folder, path) = file("args.json", json);
        let message = TrainingArguments::from_file(&path).unwrap_err().to_string();
        message.split_once("args.json: ").map_or(message.clone(), |(_, rest)| rest.to_owned())
    }

    #[test]
    fn json_and_toml_say_the_same() {
        let json = json!({
            "output_dir": "out", "learning_rate": 2e-5, "num_train_epochs": 1,
            "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
            "report_to": ["tensorboard"], "save_steps": 0.25, "gradient_checkpointing": true,
            "seed": 18446744073709551615u64
        });
        let toml = "output_dir = 'out'\nlearning_rate = 2e-5\nnum_train_epochs = 1\n\
            lr_scheduler_type = 'cosine_with_min_lr'\nreport_to = 'tensorboard'\nsave_steps = 0.25\n\
            gradient_checkpointing = true\n[lr_scheduler_kwargs]\nmin_lr_rate = 0.1\n";
        let (_one, json) = file("args.json", &json.to_string());
        let (_two, toml) = file("args.toml", toml);
        let json = TrainingArguments::from_file(&json).unwrap();
        let mut toml = TrainingArguments::from_file(&toml).unwrap();
        assert_eq!(json.seed, u64::MAX);
        toml.seed = u64::MAX;
        assert_eq!(json, toml);
        assert_eq!(json.lr_scheduler_type, SchedulerType::CosineWithMinLr);
        assert_eq!((json.num_train_epochs, json.activation_checkpointing), (1.0, true));
        assert_eq!(json.report_to, [Reporter::TensorBoard]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let flags = [("--eval-strategy", "steps"), ("eval_steps", "50"), ("save_steps", "100"), ("max_steps", "1000")];
        let flags = flags.into_iter().chain([
            ("load-best-model-at-end", "yes"),
            ("report_to", "none"),
            ("resume_from_checkpoint", "true"),
            ("data_seed", "none"),
            ("lr_scheduler_kwargs", "{}"),
        ]);
        let arguments = TrainingArguments::load(None, flags).unwrap();
        assert_eq!(arguments.eval_strategy, IntervalStrategy::Steps);
        assert_eq!((arguments.eval_steps, arguments.max_steps), (Some(50.0), 1000));
        assert_eq!(arguments.metric_for_best_model.as_deref(), Some("loss"));
        assert_eq!((arguments.greater_is_better, &arguments.resume_from_checkpoint), (Some(false), &Resume::Latest));
        let (_folder, path) = file("training_args.json", &Value::Object(arguments.to_json()).to_string());
        assert_eq!(TrainingArguments::from_file(&path).unwrap(), arguments);
    }

    #[test]
    fn flags_win_over_the_file() {
        let (_folder, path) = file("args.json", r#"{"learning_rate": 1e-3, "save_strategy": "epoch", "seed": 7}"#);
        let arguments = TrainingArguments::load(Some(&path), [("learning-rate", ".5"), ("save_strategy", "no")]);
        let arguments = arguments.unwrap();
        assert_eq!((arguments.learning_rate, arguments.seed), (0.5, 7));
        assert_eq!(arguments.save_strategy, SaveStrategy::No);
    }

    #[test]
    fn the_newer_of_two_names_wins_within_a_source() {
        let text = r#"{"activation_checkpointing": false, "gradient_checkpointing": true}"#;
        let (_folder, path) = file("args.json", text);
        assert!(!TrainingArguments::from_file(&path).unwrap().activation_checkpointing);
        let flag = [("gradient_checkpointing", "true")];
        assert!(TrainingArguments::load(Some(&path), flag).unwrap().activation_checkpointing);
    }

    #[test]
    fn unknown_names_are_errors_that_propose_known_ones() {
        assert_eq!(
            message(r#"{"learnin_rate": 1}"#),
            "`learnin_rate`: an unknown name, expected an argument of training; did you mean `learning_rate`?"
        );
        assert_eq!(message(r#"{"xyzzy": 1}"#), "`xyzzy`: an unknown name, expected an argument of training");
        let error = TrainingArguments::load(None, [("--warmup-stepz", "3")]).unwrap_err().to_string();
        assert!(error.starts_with("warmup_stepz: ") && error.ends_with("did you mean `warmup_steps`?"), "{error}");
        assert!(message(r#"{"evaluation_strategy": "no"}"#).contains("expected `eval_strategy`"));
    }

    #[test]
    fn the_other_arguments_of_hf_pass_where_they_change_nothing() {
        let text = r#"{"dataloader_num_workers": 4, "deepspeed": null, "torch_compile": false, "debug": [],
            "include_num_input_tokens_seen": "non_padding", "hub_strategy": "every_save", "use_cpu": false,
            "average_tokens_across_devices": true, "accelerator_config": {"non_blocking": false, "split_batches": false,
            "dispatch_batches": null, "even_batches": true, "use_seedable_sampler": true,
            "gradient_accumulation_kwargs": null}}"#;
        let (_folder, path) = file("args.json", text);
        assert_eq!(TrainingArguments::from_file(&path).unwrap(), TrainingArguments::default());
        assert_eq!(
            message(r#"{"torch_compile": true}"#),
            "`torch_compile`: true, expected false: nothing else is supported"
        );
        assert!(message(r#"{"deepspeed": {"stage": 3}}"#).starts_with("`deepspeed`: a map, expected null"));
        for text in [
            r#"{"accelerator_config": {"split_batches": true}}"#,
            r#"{"average_tokens_across_devices": false}"#,
            r#"{"include_num_input_tokens_seen": "all"}"#,
            r#"{"save_on_each_node": true}"#,
            r#"{"use_cpu": true}"#,
        ] {
            assert!(message(text).ends_with("nothing else is supported"), "{text}");
        }
        let own = [("ddp_timeout", "60"), ("restore_callback_states_from_checkpoint", "false")];
        let own = TrainingArguments::load(None, own).unwrap();
        assert_eq!((own.ddp_timeout, own.restore_callback_states_from_checkpoint), (60, false));
        assert!(TrainingArguments::load(None, [("ddp_timeout", "0")]).is_err());
        assert!(TrainingArguments::load(None, [("push_to_hub", "False")]).is_ok());
    }

    #[test]
    fn wrong_types_and_values_name_the_key() {
        for (json, expected) in [
            (r#"{"learning_rate": "fast"}"#, "`learning_rate`: `fast`, expected a number"),
            (r#"{"learning_rate": -1}"#, "`learning_rate`: -1, expected 0 or a finite number above"),
            (r#"{"learning_rate": NaN}"#, "`learning_rate`: `NaN`, expected a number"),
            (r#"{"per_device_train_batch_size": 0}"#, "`per_device_train_batch_size`: 0, expected 1 to 2147483648"),
            (r#"{"adam_beta1": 1}"#, "`adam_beta1`: 1, expected 0 to below 1"),
            (r#"{"max_steps": 0}"#, "`max_steps`: 0, expected -1, or 1 to 9007199254740992"),
            (r#"{"report_to": "wandb"}"#, "`report_to`: `wandb`, expected none, all, or a list of tensorboard"),
            (r#"{"eval_strategy": "always"}"#, "`eval_strategy`: `always`, expected one of no, steps, epoch"),
            (r#"{"bf16": 1}"#, "`bf16`: 1, expected true or false"),
            ("[1]", "expected a map of arguments, found a list"),
        ] {
            assert_eq!(message(json), expected, "{json}");
        }
    }

    #[test]
    fn broken_files_are_named_with_the_line() {
        let (_folder, path) = file("args.toml", "seed = 1\nlearning_rate = = 2\n");
        let error = TrainingArguments::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("args.toml: not valid TOML: line 2: ") && !error.contains('\n'), "{error}");
        let (_folder, path) = file("args.toml", "learning_rate = nan\n");
        let error = TrainingArguments::from_file(&path).unwrap_err().to_string();
        assert!(error.ends_with("`learning_rate`: `NaN`, expected a number"), "{error}");
        let (_folder, path) = file("args.toml", "output_dir = 1979-05-27\nx = [[1]]\n");
        assert!(TrainingArguments::from_file(&path).is_err());
    }

    #[test]
    fn contradictions_name_the_file_or_the_flag() {
        let (_folder, path) = file("args.json", r#"{"fp16": true}"#);
        let error = TrainingArguments::load(Some(&path), [("bf16", "true")]).unwrap_err();
        assert!(matches!(&error, Error::Config { key, .. } if key == "fp16"), "{error}");
        let error = TrainingArguments::load(None, [("bf16", "true"), ("fp16", "true")]).unwrap_err();
        assert!(matches!(&error, Error::Input { what, .. } if what == "fp16"), "{error}");
    }
}
