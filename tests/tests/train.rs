//! `tx train` and `tx eval` as a user meets them: every task, what a run leaves behind, how it goes on, and what is
//! refused.

#[path = "train/adapters.rs"]
mod adapters;
#[path = "train/ends.rs"]
mod ends;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tx_core::weights::save::MAX_SHARD_SIZE;
use tx_core::weights::synth::Recipe;
use tx_tests::{models, tx};
use tx_vision::image::Image;

/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A model, rows, and the folders of runs.
struct Workshop {
    folder: TempDir,
    task: &'static str,
}

/// What a run of the program left behind.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Workshop {
    /// A model with weights from a recipe, in a folder `model`.
    fn new(task: &'static str, source: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let model = folder.path().join("model");
        copy(source, &model)?;
        Recipe::from_file(&source.join("weights.json"))?.write(&model, MAX_SHARD_SIZE)?;
        Ok(Self { folder, task })
    }

    /// A small BERT that classifies texts.
    fn classifier() -> Result<Self> {
        let workshop = Self::new("text-classification", &data("pipelines/text-classification"))?;
        let feelings = ["anger", "joy", "fear", "surprise"];
        let rows = (0..24).map(|row| json!({ "text": text(row), "label": feelings[row % 4] }));
        workshop.rows("train.jsonl", rows)?;
        workshop.rows("eval.jsonl", (0..9).map(|row| json!({ "text": text(row), "label": feelings[row % 4] })))?;
        Ok(workshop)
    }

    /// A small ViT with a folder of pictures for each of two classes.
    fn pictures() -> Result<Self> {
        let workshop = Self::new("image-classification", &models().join("vit/image-classification"))?;
        let config = workshop.json("model/config.json")?;
        let side = config["image_size"].as_u64().context("image_size")?;
        let processor =
            json!({ "image_processor_type": "ViTImageProcessor", "size": { "height": side, "width": side } });
        fs::write(workshop.path("model/preprocessor_config.json"), processor.to_string())?;
        for (class, grey) in [("dark", 40u8), ("light", 210)] {
            let folder = workshop.path("train.jsonl").join(class);
            fs::create_dir_all(&folder)?;
            for number in 0..6u8 {
                Image::new(5, 4, vec![grey + number; 60])?.save_png(&folder.join(format!("{number}.png")))?;
            }
        }
        Ok(workshop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rows(&self, name: &str, rows: impl IntoIterator<Item = Value>) -> Result<()> {
        let mut text = String::new();
        rows.into_iter().try_for_each(|row| writeln!(text, "{row}"))?;
        Ok(fs::write(self.path(name), text)?)
    }

    /// The command of a run, whose configuration has more keys of its tables `data` and `training`.
    fn command(&self, name: &str, data: &str, training: &str, flags: &[&str]) -> Result<Command> {
        let path = self.path(&format!("{name}.toml"));
        let text = format!(
            "model = {:?}\ntask = {:?}\n[data]\ntrain = {:?}\n{data}\n[training]\noutput_dir = {:?}\n\
             per_device_train_batch_size = 4\nlearning_rate = 1e-3\nlogging_steps = 1\n{training}\n",
            self.path("model"),
            self.task,
            self.path("train.jsonl"),
            self.path(name),
        );
        fs::write(&path, text)?;
        Ok(program(&[&["train", path.to_str().context("a path")?, "--threads", "1"], flags].concat()))
    }

    fn train(&self, name: &str, data: &str, training: &str, flags: &[&str]) -> Result<Ran> {
        run(self.command(name, data, training, flags)?)
    }

    /// What a run that must succeed printed, as JSON.
    fn trains(&self, name: &str, data: &str, training: &str, flags: &[&str]) -> Result<Value> {
        let ran = self.train(name, data, training, &[flags, &["--json"]].concat())?;
        ensure!(ran.code == Some(0), "{ran:?}");
        Ok(serde_json::from_str(&ran.out)?)
    }

    /// The one line of a run that must fail.
    fn fails(&self, name: &str, data: &str, training: &str, flags: &[&str]) -> Result<String> {
        let ran = self.train(name, data, training, flags)?;
        let line = ran.err.lines().last().unwrap_or_default().to_owned();
        ensure!(ran.code == Some(1) && line.starts_with("error: ") && !line.contains("bug of tx"), "{ran:?}");
        Ok(line)
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.path(name)).with_context(|| name.to_owned())
    }

    fn json(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_slice(&self.bytes(name)?)?)
    }

    /// The line `eval = …` of the configuration.
    fn eval(&self) -> String {
        format!("eval = {:?}", self.path("eval.jsonl"))
    }
}

fn text(row: usize) -> String {
    let words = ["the film", "was", "a great", "day", "in", "london", "and", "nobody", "cried"];
    (0..2 + row * 5 % 11).map(|i| words[(row + i * i) % words.len()]).collect::<Vec<_>>().join(" ")
}

fn data(name: &str) -> PathBuf {
    Path::new("data").join(name)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let to = to.join(path.file_name().context("a name")?);
        if path.is_dir() {
            copy(&path, &to)?;
        } else {
            fs::copy(&path, &to)?;
        }
    }
    Ok(())
}

/// The program, without the network.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(tx().unwrap_or_else(|_| "tx".into()));
    command.args(args).env("HF_HUB_OFFLINE", "1").env_remove("TX_LOG").stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Result<Ran> {
    let output = command.output()?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

/// Whether all weights that a run saved are numbers.
fn finite(path: &Path) -> Result<bool> {
    let tensors = tx_core::weights::safetensors::read(path)?;
    let number = |chunk: &[u8]| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
    let numbers = |bytes: &[u8]| bytes.chunks_exact(4).all(|chunk| number(chunk).is_finite());
    Ok(tensors.values().all(|tensor| numbers(&tensor.bytes)))
}

/// The losses that a run logged, without those of evaluations.
fn losses(state: &Value) -> Vec<f64> {
    state["log_history"].as_array().into_iter().flatten().filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn a_classifier_learns_and_its_folder_is_that_of_a_model() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let training = "max_steps = 40\nsave_steps = 20\neval_strategy = 'epoch'\nweight_decay = 0.01";
    let metrics = workshop.trains("run", &workshop.eval(), training, &[])?;
    for name in ["train_loss", "train_runtime", "train_samples_per_second", "eval_loss", "eval_accuracy", "eval_f1"] {
        ensure!(metrics[name].is_number(), "{name}: {metrics}");
    }
    let losses = losses(&workshop.json("run/checkpoint-40/trainer_state.json")?);
    ensure!(losses.len() == 40 && losses[39] < 0.7 * losses[0], "{losses:?}");
    let config = workshop.json("run/config.json")?;
    ensure!(config["architectures"] == json!(["BertForSequenceClassification"]), "{config}");
    ensure!(config["id2label"]["2"] == "fear" && config["problem_type"] == "single_label_classification", "{config}");
    ensure!(workshop.bytes("run/tokenizer.json")? == workshop.bytes("model/tokenizer.json")?, "the tokenizer");
    ensure!(workshop.json("run/all_results.json")? == metrics, "the results");

    // The folder is a model for every other command, and gives the same metrics.
    let path = |name: &str| workshop.path(name).to_string_lossy().into_owned();
    let args = ["eval", &path("run"), "--task", "text-classification", "--data", &path("eval.jsonl"), "--json"];
    let ran = run(program(&args))?;
    ensure!(ran.code == Some(0), "{ran:?}");
    let judged: Value = serde_json::from_str(&ran.out)?;
    let near = |name: &str| (judged[name].as_f64().unwrap_or(9.0) - metrics[name].as_f64().unwrap_or(0.0)).abs() < 1e-5;
    ensure!(near("eval_loss") && near("eval_accuracy") && near("eval_f1"), "{judged}, expected {metrics}");
    let ran = run(program(&["run", "text-classification", "--model", &path("run"), "the film was great"]))?;
    ensure!(ran.code == Some(0), "{ran:?}");
    Ok(())
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let arguments = [
        "max_steps = 11\nsave_steps = 1\neval_strategy = 'steps'\neval_steps = 2",
        "gradient_accumulation_steps = 2\nwarmup_steps = 3\nlr_scheduler_type = 'cosine'",
        "train_sampling_strategy = 'group_by_length'\nlabel_smoothing_factor = 0.1",
    ];
    let (data, training, flags) = (workshop.eval(), arguments.join("\n"), ["--logging-steps", "3"]);
    workshop.trains("whole", &data, &training, &flags)?;
    // The third step is the last of an epoch of six batches.
    for step in [1, 3, 4, 8] {
        let (name, checkpoint) = (format!("from-{step}"), format!("checkpoint-{step}"));
        copy(&workshop.path("whole").join(&checkpoint), &workshop.path(&name).join(&checkpoint))?;
        let ran = workshop.train(&name, &data, &training, &[&flags[..], &["--resume"]].concat())?;
        ensure!(ran.code == Some(0), "{ran:?}");
        let last = "checkpoint-11";
        for file in ["model.safetensors", "optimizer.safetensors", "scheduler.json", "rng_state.json"] {
            let (found, expected) = (format!("{name}/{last}/{file}"), format!("whole/{last}/{file}"));
            ensure!(workshop.bytes(&found)? == workshop.bytes(&expected)?, "{file} after step {step}");
        }
        ensure!(workshop.bytes(&format!("{name}/model.safetensors"))? == workshop.bytes("whole/model.safetensors")?);
        let states = [format!("{name}/{last}/trainer_state.json"), format!("whole/{last}/trainer_state.json")];
        let [found, expected] = states.map(|path| workshop.json(&path).map(|state| losses(&state)));
        let (found, expected) = (found?, expected?);
        ensure!(found == expected && !found.is_empty(), "{found:?}, expected {expected:?}");
    }
    Ok(())
}

#[test]
fn a_run_goes_on_only_as_it_has_begun() -> Result<()> {
    let workshop = Workshop::classifier()?;
    workshop.trains("run", "", "max_steps = 2\nsave_steps = 1", &[])?;
    for (change, key) in [
        ("seed = 7", "seed"),
        ("gradient_accumulation_steps = 3", "gradient_accumulation_steps"),
        ("train_sampling_strategy = 'sequential'", "train_sampling_strategy"),
    ] {
        let training = format!("max_steps = 4\nsave_steps = 1\n{change}");
        let line = workshop.fails("run", "", &training, &["--resume"])?;
        ensure!(line.contains("rng_state.json") && line.contains(&format!("`{key}`")), "{line}");
    }
    // Other rows, as many as before.
    let rows = fs::read_to_string(workshop.path("train.jsonl"))?;
    fs::write(workshop.path("train.jsonl"), rows.replacen("anger", "fear", 1))?;
    let line = workshop.fails("run", "", "max_steps = 4\nsave_steps = 1", &["--resume"])?;
    ensure!(line.contains("rng_state.json") && line.contains("`data`"), "{line}");
    fs::write(workshop.path("train.jsonl"), rows)?;
    workshop.trains("run", "", "max_steps = 3\nsave_steps = 1", &["--resume"])?;
    fs::remove_dir_all(workshop.path("run"))?;
    let line = workshop.fails("run", "", "max_steps = 4", &["--resume"])?;
    ensure!(line.contains("complete checkpoint"), "{line}");
    Ok(())
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_the_checkpoints_stay() -> Result<()> {
    let workshop = Workshop::classifier()?;
    // The first update of a warm-up changes nothing, and the next one breaks the weights.
    let training = "max_steps = 9\nwarmup_steps = 2";
    let once = format!("{training}\nsave_strategy = 'no'");
    let line = workshop.fails("run", "", &once, &["--learning-rate", "1e39"])?;
    ensure!(line.starts_with("error: step 3: ") && line.contains("train.jsonl: line "), "{line}");
    ensure!(line.contains("learning_rate") && line.contains("`bert."), "{line}");
    let log = String::from_utf8(workshop.bytes("run/log.jsonl")?)?;
    ensure!(log.contains("\"NaN\"") || log.contains("Infinity"), "{log}");

    // What is broken is not saved, and pushes no good checkpoint out.
    let each = format!("{training}\nsave_steps = 1\nsave_total_limit = 1");
    let line = workshop.fails("saved", "", &each, &["--learning-rate", "1e39"])?;
    ensure!(line.starts_with("error: step 2: `") && line.contains("nothing of this step was saved"), "{line}");
    ensure!(line.contains("lower `learning_rate`"), "{line}");
    let mut kept = Vec::new();
    for entry in fs::read_dir(workshop.path("saved"))? {
        let path = entry?.path();
        if path.is_dir() {
            ensure!(finite(&path.join("model.safetensors"))?, "{}", path.display());
            kept.push(path.file_name().context("a name")?.to_owned());
        }
    }
    ensure!(kept == ["checkpoint-1"], "{kept:?}");

    // Nor is it what a run ends with.
    let last = "max_steps = 2\nwarmup_steps = 2\nsave_strategy = 'no'";
    let line = workshop.fails("last", "", last, &["--learning-rate", "1e39"])?;
    ensure!(line.starts_with("error: step 2: `") && !workshop.path("last/model.safetensors").exists(), "{line}");
    Ok(())
}

#[test]
fn broken_rows_are_named_before_the_first_step() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let broken: [(&str, Value, &str); 3] = [
        ("", json!({ "text": "a", "label": 9 }), "a text in all rows, or a number in all"),
        ("", json!({ "label": "joy" }), "no column `text`"),
        (
            "labels = ['joy', 'fear', 'anger', 'surprise']",
            json!({ "text": "a", "label": "jot" }),
            "did you mean `joy`?",
        ),
    ];
    for (options, row, expected) in broken {
        let rows = (0..5).map(|_| json!({ "text": "a", "label": "joy" })).chain([row]);
        workshop.rows("train.jsonl", rows)?;
        let line = workshop.fails("run", options, "max_steps = 2", &[])?;
        ensure!(line.contains("train.jsonl: line 6") && line.contains(expected), "{line}");
        ensure!(!workshop.path("run").exists(), "the run has begun");
    }
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_with_what_could_be_meant() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let line = workshop.fails("run", "text_colum = 'text'", "", &[])?;
    ensure!(line.contains("`data.text_colum`") && line.contains("did you mean `text_column`?"), "{line}");
    let line = workshop.fails("run", "", "learnin_rate = 1", &[])?;
    ensure!(line.contains("did you mean `learning_rate`?"), "{line}");
    let line = workshop.fails("run", "", "", &["--set", "learnin_rate=1"])?;
    ensure!(line.contains("did you mean `learning_rate`?"), "{line}");
    let line = workshop.fails("run", "", "", &["--bf16"])?;
    ensure!(line.starts_with("error: device `cpu`: `bf16` needs a GPU"), "{line}");
    let split = format!("{}\nvalidation_split_percentage = 5", workshop.eval());
    let line = workshop.fails("run", &split, "", &[])?;
    ensure!(line.contains("`data.validation_split_percentage`: given beside `eval`"), "{line}");
    let line = workshop.fails("run", "date = '2024-01-01'", "", &[])?;
    ensure!(line.contains("`data.date`: an unknown name"), "{line}");
    let ran = workshop.train("run", "", "", &["--resume", "--resume-from-checkpoint", "run/checkpoint-1"])?;
    ensure!(ran.code == Some(2) && ran.err.contains("--resume-from-checkpoint"), "{ran:?}");
    let line = workshop.fails("run", "max_length = 4096", "", &[])?;
    ensure!(line.contains("max_length: 4096, expected at most 96"), "{line}");
    let line = workshop.fails("run", "", "", &["--set", "freeze=[\"bert.embedings\"]"])?;
    ensure!(line.contains("no parameter `bert.embedings`"), "{line}");
    ensure!(!workshop.path("run").exists(), "a run has begun");
    Ok(())
}

#[test]
fn other_classes_get_a_head_of_their_own_and_frozen_weights_stay() -> Result<()> {
    let workshop = Workshop::classifier()?;
    workshop
        .rows("train.jsonl", (0..8).map(|row| json!({ "text": text(row), "label": (["ham", "spam"][row % 2]) })))?;
    let line = workshop.fails("run", "", "max_steps = 2", &[])?;
    ensure!(line.contains("ignore_mismatched_sizes") && line.contains("classifier.weight"), "{line}");
    let flags = ["--set", "ignore_mismatched_sizes=true", "--set", "freeze=[\"bert.embeddings\"]", "--max-steps", "2"];
    let ran = workshop.train("run", "", "", &flags)?;
    ensure!(ran.code == Some(0) && ran.err.contains("new weights"), "{ran:?}");
    ensure!(workshop.json("run/config.json")?["id2label"] == json!({ "0": "ham", "1": "spam" }), "the labels");
    let read = |name: &str| tx_core::weights::safetensors::read(&workshop.path(name));
    let (before, after) = (read("model/model.safetensors")?, read("run/model.safetensors")?);
    ensure!(after["classifier.weight"].shape == [2, 32], "{:?}", after["classifier.weight"].shape);
    let same = |name: &str| before[name].bytes == after[name].bytes;
    ensure!(same("bert.embeddings.word_embeddings.weight"), "a frozen weight has changed");
    ensure!(!same("bert.encoder.layer.0.output.dense.weight"), "a weight has not changed");
    Ok(())
}

#[test]
fn a_model_can_begin_with_its_config_alone() -> Result<()> {
    let workshop = Workshop::classifier()?;
    fs::remove_file(workshop.path("model/model.safetensors"))?;
    let train = |name: &str, seed: &str| -> Result<Vec<u8>> {
        let flags = ["--set", "from_scratch=true", "--max-steps", "2", "--seed", seed];
        let ran = workshop.train(name, "", "", &flags)?;
        ensure!(ran.code == Some(0), "{ran:?}");
        workshop.bytes(&format!("{name}/model.safetensors"))
    };
    let first = train("a", "1")?;
    ensure!(first == train("b", "1")? && first != train("c", "2")?, "first weights depend on the seed alone");
    Ok(())
}

#[test]
fn the_best_checkpoint_is_what_the_run_ends_with() -> Result<()> {
    let workshop = Workshop::classifier()?;
    // The rate is so high that the first evaluations are the best ones.
    let training = "max_steps = 8\neval_strategy = 'steps'\neval_steps = 1\nsave_steps = 1\n\
        load_best_model_at_end = true\nsave_total_limit = 2";
    workshop.trains("run", &workshop.eval(), training, &["--learning-rate", "0.05"])?;
    let state = workshop.json("run/checkpoint-8/trainer_state.json")?;
    let best = state["best_global_step"].as_u64().context("a best step")?;
    let checkpoint = workshop.bytes(&format!("run/checkpoint-{best}/model.safetensors"))?;
    ensure!(workshop.bytes("run/model.safetensors")? == checkpoint, "step {best}");
    Ok(())
}

#[test]
fn every_task_is_trained_and_judged() -> Result<()> {
    let names = |rows: std::ops::Range<usize>| rows.map(text);
    let quick = "max_steps = 3\nsave_strategy = 'no'";

    let workshop = Workshop::new("masked-lm", &data("pipelines/fill-mask-bert"))?;
    workshop.rows("train.jsonl", names(0..40).map(|text| json!({ "text": text })))?;
    let options = "grouping = 'lines'\nmlm_probability = 0.4\nvalidation_split_percentage = 20";
    let metrics = workshop.trains("run", options, quick, &[])?;
    ensure!(metrics["eval_perplexity"].is_number() && metrics["eval_accuracy"].is_number(), "{metrics}");

    let workshop = Workshop::new("token-classification", &data("pipelines/token-classification-bert"))?;
    let tags = |text: String| {
        let words: Vec<&str> = text.split(' ').collect();
        let tags: Vec<&str> = words.iter().map(|word| if *word == "london" { "B-LOC" } else { "O" }).collect();
        json!({ "tokens": words, "ner_tags": tags })
    };
    workshop.rows("train.jsonl", names(0..20).map(tags))?;
    workshop.rows("eval.jsonl", names(0..9).map(tags))?;
    let flags = ["--json", "--set", "ignore_mismatched_sizes=true"];
    let ran = workshop.train("run", &workshop.eval(), quick, &flags)?;
    let metrics: Value = serde_json::from_str(&ran.out).with_context(|| format!("{ran:?}"))?;
    ensure!(metrics["eval_f1"].is_number() && metrics["eval_accuracy"].is_number(), "{metrics}");

    let workshop = Workshop::new("question-answering", &data("pipelines/question-answering-bert"))?;
    let question = |row: usize| {
        let context = format!("{} in london", text(row));
        let start = context.chars().count() - "london".len();
        json!({ "id": row.to_string(), "question": "where was it", "context": context,
            "answers": { "text": ["london"], "answer_start": [start] } })
    };
    workshop.rows("train.jsonl", (0..12).map(question))?;
    workshop.rows("eval.jsonl", (0..5).map(question))?;
    let metrics = workshop.trains("run", &workshop.eval(), quick, &[])?;
    ensure!(metrics["eval_exact_match"].is_number() && metrics["eval_f1"].is_number(), "{metrics}");

    let workshop = Workshop::new("sentence-embedding", &data("pipelines/feature-extraction"))?;
    let pair = |row: usize| json!({ "anchor": text(row), "positive": text(row + 11) });
    workshop.rows("train.jsonl", (0..12).map(pair))?;
    workshop.rows("eval.jsonl", (0..8).map(pair))?;
    let metrics = workshop.trains("run", &workshop.eval(), quick, &[])?;
    ensure!(metrics["eval_accuracy"].is_number() && metrics["train_loss"].is_number(), "{metrics}");
    let scored = |row: usize| json!({ "a": text(row), "b": text(row + 3), "score": (row % 5) as f64 / 5.0 });
    workshop.rows("train.jsonl", (0..12).map(scored))?;
    workshop.rows("eval.jsonl", (0..8).map(scored))?;
    let options = format!("{}\ntext_columns = ['a', 'b']\nscore_column = 'score'", workshop.eval());
    let metrics = workshop.trains("scored", &options, quick, &[])?;
    ensure!(metrics["eval_spearman_cosine"].is_number(), "{metrics}");
    Ok(())
}

#[test]
fn a_language_model_learns_texts_and_conversations() -> Result<()> {
    let workshop = Workshop::new("causal-lm", &models().join("stories"))?;
    workshop.rows("train.jsonl", (0..24).map(|row| json!({ "text": format!("Once upon a time {}", text(row)) })))?;
    let training = "max_steps = 12\nsave_strategy = 'no'\nactivation_checkpointing = false";
    let metrics = workshop.trains("run", "grouping = 'lines'\nvalidation_split_percentage = 10", training, &[])?;
    ensure!(metrics["eval_perplexity"].is_number() && metrics["train_tokens_per_second"].is_number(), "{metrics}");
    ensure!(workshop.path("run/generation_config.json").is_file(), "generation_config.json");
    // Computing again what is not kept changes nothing.
    let recomputed = training.replace("activation_checkpointing = false", "gradient_checkpointing = true");
    workshop.trains("again", "grouping = 'lines'\nvalidation_split_percentage = 10", &recomputed, &[])?;
    ensure!(workshop.bytes("run/model.safetensors")? == workshop.bytes("again/model.safetensors")?, "recomputed");

    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    fs::write(workshop.path("model/chat_template.jinja"), template)?;
    let workshop = Workshop { task: "chat", ..workshop };
    let chat = |row: usize| {
        let said = |role: &str, text: String| json!({ "role": role, "content": text });
        json!({ "messages": [said("user", text(row)), said("assistant", text(row + 1))] })
    };
    workshop.rows("train.jsonl", (0..12).map(chat))?;
    workshop.trains("chat", "", "max_steps = 3\nsave_strategy = 'no'", &[])?;
    ensure!(workshop.path("chat/chat_template.jinja").is_file(), "chat_template.jinja");
    Ok(())
}

#[test]
fn pictures_are_learned_from_folders() -> Result<()> {
    let workshop = Workshop::pictures()?;
    let flags = ["--json", "--set", "ignore_mismatched_sizes=true"];
    let options = format!("eval = {:?}", workshop.path("train.jsonl"));
    let ran = workshop.train("run", &options, "max_steps = 3\nsave_strategy = 'no'", &flags)?;
    let metrics: Value = serde_json::from_str(&ran.out).with_context(|| format!("{ran:?}"))?;
    ensure!(metrics["eval_accuracy"].is_number(), "{metrics}");
    ensure!(workshop.json("run/config.json")?["id2label"] == json!({ "0": "dark", "1": "light" }), "the labels");
    ensure!(workshop.path("run/preprocessor_config.json").is_file(), "preprocessor_config.json");

    // A picture that cannot be read ends the run by its name, and what was learned before is not lost.
    let spoilt = workshop.path("train.jsonl/light/0.png");
    let picture = fs::read(&spoilt)?;
    fs::write(&spoilt, "no picture")?;
    let flags = ["--set", "ignore_mismatched_sizes=true", "--per-device-train-batch-size", "1"];
    let training = "max_steps = 12\nsave_strategy = 'no'\ntrain_sampling_strategy = 'sequential'";
    let line = workshop.fails("broken", "", training, &flags)?;
    ensure!(line.contains("train.jsonl: row 7: ") && line.contains("0.png: "), "{line}");
    ensure!(workshop.path("broken/checkpoint-6/manifest.json").is_file(), "no checkpoint: {line}");
    let line = workshop.fails("broken", "", training, &[&flags[..], &["--resume"]].concat())?;
    ensure!(line.contains("train.jsonl: row 7: "), "{line}");
    fs::write(&spoilt, picture)?;
    let ran = workshop.train("broken", "", training, &[&flags[..], &["--resume"]].concat())?;
    ensure!(ran.code == Some(0), "{ran:?}");
    Ok(())
}

#[test]
fn a_decoder_classifies_short_texts_by_their_last_token() -> Result<()> {
    let workshop = Workshop::new("text-classification", &models().join("stories"))?;
    let mut config = workshop.json("model/config.json")?;
    config["pad_token_id"] = Value::Null;
    fs::write(workshop.path("model/config.json"), config.to_string())?;
    let rows = |range: std::ops::Range<usize>| {
        range.map(|row| json!({ "text": text(row), "label": (["joy", "fear"][row * row % 3 % 2]) }))
    };
    workshop.rows("train.jsonl", rows(0..12))?;
    workshop.rows("eval.jsonl", rows(3..12))?;
    let training = "max_steps = 3\nsave_strategy = 'no'\nper_device_eval_batch_size = 1";
    let metrics = workshop.trains("run", &workshop.eval(), training, &[])?;
    // What rows are filled with is known to Python then, too.
    ensure!(workshop.json("run/config.json")?["pad_token_id"] == 1, "pad_token_id");
    let alone = metrics["eval_loss"].as_f64().context("eval_loss")?;
    let path = |name: &str| workshop.path(name).to_string_lossy().into_owned();
    let (model, rows) = (path("run"), path("eval.jsonl"));
    let args = ["eval", &model, "--task", "text-classification", "--data", &rows, "--json", "--batch-size", "9"];
    for id in [json!(1), Value::Null, json!(-1)] {
        let mut config = workshop.json("run/config.json")?;
        config["pad_token_id"] = id.clone();
        fs::write(workshop.path("run/config.json"), config.to_string())?;
        let ran = run(program(&args))?;
        let judged: Value = serde_json::from_str(&ran.out).with_context(|| format!("{ran:?}"))?;
        let together = judged["eval_loss"].as_f64().context("eval_loss")?;
        ensure!((alone - together).abs() < 1e-5, "padding {id}: alone {alone}, together {together}");
    }
    Ok(())
}

#[test]
fn an_encoder_of_sentences_may_have_a_folder_of_its_own() -> Result<()> {
    let workshop = Workshop::new("sentence-embedding", &data("embed/mean"))?;
    let encoder = workshop.path("model/0_Transformer");
    fs::create_dir(&encoder)?;
    let files = ["config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json"];
    for name in files.into_iter().chain(["tokenizer_config.json"]) {
        fs::rename(workshop.path("model").join(name), encoder.join(name))?;
    }
    let mut modules = workshop.json("model/modules.json")?;
    modules[0]["path"] = "0_Transformer".into();
    fs::write(workshop.path("model/modules.json"), modules.to_string())?;
    workshop.rows("train.jsonl", (0..12).map(|row| json!({ "anchor": text(row), "positive": text(row + 11) })))?;
    workshop.trains("run", "", "max_steps = 2\nsave_steps = 1", &[])?;
    workshop.trains("run", "", "max_steps = 3\nsave_steps = 1", &["--resume"])?;
    let path = workshop.path("run").to_string_lossy().into_owned();
    let ran = run(program(&["embed", "--model", &path, "a great day"]))?;
    ensure!(ran.code == Some(0), "{ran:?}");
    ensure!(workshop.bytes("run/0_Transformer/model.safetensors")? != fs::read(encoder.join("model.safetensors"))?);
    Ok(())
}

#[test]
fn limits_are_of_each_part() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let feelings = ["anger", "joy", "fear", "surprise"];
    workshop.rows("train.jsonl", (0..400).map(|row| json!({ "text": text(row), "label": feelings[row % 4] })))?;
    let options = "validation_split_percentage = 50\nmax_train_samples = 12\nmax_eval_samples = 100";
    let metrics = workshop.trains("run", options, "num_train_epochs = 1\nsave_steps = 1", &[])?;
    ensure!(workshop.json("run/checkpoint-3/trainer_state.json")?["max_steps"] == 3, "not three batches of four rows");
    // Speeds and times are rounded.
    let (rate, seconds) = (metrics["eval_samples_per_second"].as_f64(), metrics["eval_runtime"].as_f64());
    let rows = rate.context("a speed")? * seconds.context("a time")?;
    ensure!((rows - 100.0).abs() < 5.0, "{metrics}");
    Ok(())
}
