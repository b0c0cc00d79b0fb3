//! `tx bench`: how fast a model is on this machine, without Python.
//!
//! A language model continues random prompts, as `tx generate` does; of any other model it is the base model that runs.
//! Everything is measured some times, after a first one that reads the weights from the disk, and medians count.

use std::fs;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use tx_core::config::Config;
use tx_core::device::Dtype;
use tx_core::error::{Error, Result};
use tx_core::progress::Progress;
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{CausalLm, IntRows, Record, TextArguments, TextInputs, TextLimits, TextModel};
use tx_core::threads;
use tx_core::weights::Checkpoint;
use tx_generate::{GenerationConfig, Generator, Hooks};
use tx_text::models::{CAUSAL_LM, TEXT_MODEL, classes};

use super::Common;
use super::output::{bytes, print_json, print_table};

/// The tokens of a prompt, and of a row for other models, unless the model takes fewer.
const PROMPT_TOKENS: usize = 512;
const ROW_TOKENS: usize = 128;
/// The rows of the larger batch for models that are no language models.
const ROWS: usize = 8;
/// The most tokens of a batch, with those that follow.
const MAX_TOKENS: usize = 1 << 18;
const MAX_ROUNDS: usize = 1000;
/// The columns of the table; those from [`DECODE`] on are of language models.
const COLUMNS: [&str; 7] = ["batch", "tokens", "ms", "tokens/s", "new tokens", "tokens/s", "of bandwidth"];
const DECODE: usize = 4;

/// The arguments of `tx bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The tokens of each prompt [default: 512, and 128 for a model that continues none; fewer if it takes no more]
    #[arg(long, value_name = "N")]
    pub prompt_tokens: Option<usize>,
    /// The tokens that follow each prompt
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub new_tokens: usize,
    /// So many prompts at once, besides one [default: 1, and 8 for a model that continues none]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// How often each is measured
    #[arg(long, value_name = "R", default_value_t = 5)]
    pub rounds: usize,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    model: String,
    class: &'static str,
    device: String,
    threads: usize,
    /// Until the model could be used; its weights stay in the file until they are.
    load_seconds: f64,
    /// The first pass, which reads them.
    first_pass_seconds: f64,
    /// The most memory that was resident, mapped files included.
    peak_bytes: Option<u64>,
    /// Bytes per second that can be read from memory, where the processor computes.
    stream_bandwidth: Option<f64>,
    runs: Vec<Run>,
}

/// Batches of one size.
#[derive(Serialize)]
struct Run {
    batch_size: usize,
    /// Tokens of each row.
    tokens: usize,
    /// The time of one pass over them.
    seconds: f64,
    tokens_per_second: f64,
    decode: Option<Decode>,
}

/// What followed the prompts.
#[derive(Serialize)]
struct Decode {
    new_tokens: usize,
    tokens_per_second: f64,
    /// Bytes of weights that were read per second.
    weights_bandwidth: Option<f64>,
    /// Its part of the report's `stream_bandwidth`.
    share: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Input`] for numbers that do not fit each other or the model; everything that loading it can report.
pub fn run(args: &BenchArgs, common: &Common) -> Result<()> {
    if !(1..=MAX_ROUNDS).contains(&args.rounds) {
        return Err(Error::input("--rounds", args.rounds, format_args!("1 to {MAX_ROUNDS}")));
    }
    let options = common.load_options()?;
    let folder = common.folder(&args.model)?;
    let start = Instant::now();
    let subject = Subject::load(&folder, &options)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let (batches, tokens, new_tokens) = args.sizes(&subject)?;
    let weights = subject.weights_per_pass(&folder, common)?;

    let progress = Progress::items("measuring", (batches.len() * (1 + args.rounds)) as u64, true);
    let (mut first_pass_seconds, mut runs) = (None, Vec::new());
    for batch_size in batches {
        let prompts = prompts(batch_size, tokens, subject.limits().vocab_size);
        let (first, _) = subject.seconds(&prompts, new_tokens)?;
        first_pass_seconds.get_or_insert(first);
        progress.advance(1);
        let (mut passes, mut decodes) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            let (pass, decode) = subject.seconds(&prompts, new_tokens)?;
            passes.push(pass);
            decodes.push(decode);
            progress.advance(1);
        }
        let (seconds, decode_seconds) = (median(passes), median(decodes));
        // The first new token is a result of the prompt.
        let steps = (new_tokens - 1) as f64;
        let decode = matches!(subject, Subject::Language(_)).then(|| Decode {
            new_tokens,
            tokens_per_second: batch_size as f64 * steps / decode_seconds,
            weights_bandwidth: weights.map(|weights| weights as f64 * steps / decode_seconds),
            share: None,
        });
        let tokens_per_second = (batch_size * tokens) as f64 / seconds;
        runs.push(Run { batch_size, tokens, seconds, tokens_per_second, decode });
    }
    drop(progress);

    // Before the bandwidth is measured, which takes a gigabyte.
    let peak_bytes = peak_bytes();
    let threads = threads::init(common.threads)?;
    let stream_bandwidth = stream_bandwidth(&options.device, threads);
    for decode in runs.iter_mut().filter_map(|run| run.decode.as_mut()) {
        decode.share = decode.weights_bandwidth.zip(stream_bandwidth).map(|(weights, stream)| weights / stream);
    }
    let report = Report {
        model: args.model.clone(),
        class: subject.class(),
        device: common.device.clone(),
        threads,
        load_seconds,
        first_pass_seconds: first_pass_seconds.unwrap_or_default(),
        peak_bytes,
        stream_bandwidth,
        runs,
    };
    if common.json { print_json(&report) } else { report.print() }
}

impl BenchArgs {
    /// The sizes of the batches, the tokens of each row, and those that follow; they fit the model.
    fn sizes(&self, subject: &Subject) -> Result<(Vec<usize>, usize, usize)> {
        let (usual, new_tokens, rows) = match subject {
            Subject::Language(_) => (PROMPT_TOKENS, self.new_tokens, 1),
            // A pass over the rows, and nothing else.
            Subject::Other(_) => (ROW_TOKENS, 1, ROWS),
        };
        let max = subject.limits().longest_prompt().unwrap_or(MAX_TOKENS).min(MAX_TOKENS);
        if matches!(subject, Subject::Language(_)) && !(2..=max).contains(&new_tokens) {
            return Err(Error::input("--new-tokens", new_tokens, format_args!("2 to {max}")));
        }
        // The last token is not sent through the model.
        let most = max + 1 - new_tokens;
        let tokens = self.prompt_tokens.unwrap_or(usual.min(most));
        if !(1..=most).contains(&tokens) {
            return Err(Error::input("--prompt-tokens", tokens, format_args!("1 to {most}, as the model takes")));
        }
        let (batch, most) = (self.batch_size.unwrap_or(rows), MAX_TOKENS / (tokens + new_tokens - 1));
        if !(1..=most).contains(&batch) {
            let expected = format_args!("1 to {most}, which have {MAX_TOKENS} tokens");
            return Err(Error::input("--batch-size", batch, expected));
        }
        Ok((if batch > 1 { vec![1, batch] } else { vec![1] }, tokens, new_tokens))
    }
}

/// What is measured.
enum Subject {
    Language(Auto<dyn CausalLm>),
    Other(Auto<dyn TextModel>),
}

impl Subject {
    fn load(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let config = Config::from_folder(folder)?;
        let (model_type, architectures) = (config.model_type()?, config.architectures());
        // The class that the weights were saved from, where the config names it.
        let fits = |class: &str| architectures.first().is_none_or(|saved| *saved == class);
        if CAUSAL_LM.iter().any(|entry| entry.model_type == model_type && fits(entry.class)) {
            return Ok(Self::Language(from_folder(CAUSAL_LM, &classes(), folder, options)?));
        }
        Ok(Self::Other(from_folder(TEXT_MODEL, &classes(), folder, options)?))
    }

    fn class(&self) -> &'static str {
        match self {
            Self::Language(model) => model.class,
            Self::Other(model) => model.class,
        }
    }

    fn limits(&self) -> &TextLimits {
        match self {
            Self::Language(model) => &model.limits,
            Self::Other(model) => &model.limits,
        }
    }

    /// The time of a pass over the prompts, and the time of what follows.
    fn seconds(&self, prompts: &[Vec<u32>], new_tokens: usize) -> Result<(f64, f64)> {
        match self {
            Self::Language(model) => {
                // Without a token that would end it sooner.
                let config = GenerationConfig { max_new_tokens: Some(new_tokens), ..GenerationConfig::default() };
                let generator = Generator::from_auto(model);
                let stats = generator.generate(prompts, &config, &mut Hooks::default())?.stats;
                Ok((stats.prefill.as_secs_f64(), stats.decode.as_secs_f64()))
            }
            Self::Other(model) => {
                let arguments = TextArguments { input_ids: IntRows::new(prompts), ..TextArguments::default() };
                let inputs = TextInputs::new(&arguments, &model.limits, &model.device)?;
                let start = Instant::now();
                // The numbers are read, so that the device has to have finished.
                drop(model.forward(&inputs, &mut Record::none()).last_hidden_state.into_data());
                Ok((start.elapsed().as_secs_f64(), 0.0))
            }
        }
    }

    /// The bytes of weights that a new token needs: all but the embedding, of which it takes a row, unless the head
    /// shares it. `None` where the file does not tell: of quantized weights, and of experts, which serve some tokens each.
    fn weights_per_pass(&self, folder: &Path, common: &Common) -> Result<Option<u64>> {
        let dtype = common.dtype.parse::<Dtype>()?.to_burn();
        let checkpoint = Checkpoint::from_folder(folder)?;
        let experts = |name: &String| name.split('.').any(|segment| segment == "experts");
        if common.quantize.is_some() || checkpoint.tensors().keys().any(experts) {
            return Ok(None);
        }
        let (mut layers, mut head) = (0, 0);
        for tensor in checkpoint.tensors().values().filter(|tensor| tensor.shape.len() == 2) {
            let bytes = tensor.elements() as u64 * dtype.unwrap_or(tensor.dtype).size() as u64;
            if tensor.shape[0] == self.limits().vocab_size { head = bytes.max(head) } else { layers += bytes }
        }
        Ok(Some(layers + head))
    }
}

impl Report {
    fn print(&self) -> Result<()> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
        row("model", self.model.clone());
        row("class", self.class.to_owned());
        row("device", format!("{}, threads: {}", self.device, self.threads));
        row("loaded in", format!("{:.1} ms", self.load_seconds * 1e3));
        row("first pass", format!("{:.1} ms", self.first_pass_seconds * 1e3));
        if let Some(peak) = self.peak_bytes {
            row("peak memory", bytes(peak));
        }
        if let Some(bandwidth) = self.stream_bandwidth {
            row("memory bandwidth", format!("{:.1} GB/s", bandwidth / 1e9));
        }
        print_table(&[], &rows)?;
        let generates = self.runs.iter().any(|run| run.decode.is_some());
        let columns = if generates { &COLUMNS[..] } else { &COLUMNS[..DECODE] };
        print_table(columns, &self.runs.iter().map(Run::cells).collect::<Vec<_>>())
    }
}

impl Run {
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.batch_size.to_string(),
            self.tokens.to_string(),
            format!("{:.1}", self.seconds * 1e3),
            format!("{:.1}", self.tokens_per_second),
        ];
        if let Some(decode) = &self.decode {
            let share = decode.share.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0));
            cells.extend([decode.new_tokens.to_string(), format!("{:.1}", decode.tokens_per_second), share]);
        }
        cells
    }
}

/// Token ids that follow no pattern, the same each time.
fn prompts(batch: usize, tokens: usize, vocab_size: usize) -> Vec<Vec<u32>> {
    let mut state = 1u64;
    let mut id = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab_size.max(1) as u64) as u32
    };
    (0..batch).map(|_| (0..tokens).map(|_| id()).collect()).collect()
}

/// The middle one; of two, the larger.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The most memory that was resident; `None` where the system does not tell.
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Bytes per second that can be read from memory, if the processor computes.
fn stream_bandwidth(device: &Device, threads: usize) -> Option<f64> {
    #[cfg(feature = "flex")]
    return tx_core::device::is_cpu(device).then(|| tx_kernels::ceilings::stream_bandwidth(threads));
    #[cfg(not(feature = "flex"))]
    {
        let _ = (device, threads);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_of_the_vocabulary() {
        let ids = prompts(3, 50, 7);
        assert_eq!((ids.len(), ids[0].len()), (3, 50));
        assert!(ids.iter().flatten().all(|&id| id < 7) && ids[0] != ids[1]);
        assert_eq!(prompts(1, 2, 1), [[0, 0]]);
    }

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![2.0, 1.0]), median(Vec::new())), (2.0, 2.0, 0.0));
    }
}
