//! The worker of tx: a hidden command of this program, built as a release, which computes when it is asked to.

use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use tx_core::device::device;
use tx_core::pipeline::{Batching, Pipeline};
use tx_core::registry::{LoadOptions, from_folder};
use tx_core::task::{Record, TextArguments, TextInputs};
use tx_core::threads;
use tx_core::weights::Quantization;
use tx_text::models::{TEXT_MODEL, classes};
use tx_text::pipelines::{SentenceEmbeddingOptions, SentenceEmbeddingPipeline};

use super::bound::Ceilings;
use super::inputs::Random;
use super::side::peak_bytes;

#[derive(Args)]
pub struct WorkerArgs {
    #[arg(long)]
    device: String,
    #[arg(long)]
    threads: usize,
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand)]
enum Work {
    /// Measure the machine, and print that.
    Ceilings,
    /// Serve forward passes of a base model.
    Forward {
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        batch: usize,
        #[arg(long)]
        seq: usize,
        #[arg(long)]
        int8: bool,
    },
    /// Serve sentence embeddings, made as `tx embed` does.
    Embed {
        #[arg(long)]
        model: PathBuf,
        /// One text per line.
        #[arg(long)]
        texts: PathBuf,
    },
}

pub fn worker(args: &WorkerArgs) -> Result<()> {
    let threads = threads::init(Some(args.threads))?;
    threads::run(|| {
        let options = LoadOptions { device: device(&args.device)?, ..LoadOptions::default() };
        match &args.work {
            Work::Ceilings => ceilings(threads),
            Work::Forward { model, batch, seq, int8 } => {
                let quantize = int8.then_some(Quantization::Int8);
                forward(model, *batch, *seq, &LoadOptions { quantize, ..options })
            }
            Work::Embed { model, texts } => embed(model, texts, &options),
        }
    })
}

fn ceilings(threads: usize) -> Result<()> {
    let ceilings = Ceilings {
        matrix_peak: tx_kernels::ceilings::matrix_peak(threads),
        int8_peak: tx_kernels::ceilings::int8_peak(threads),
        stream_bandwidth: tx_kernels::ceilings::stream_bandwidth(threads),
    };
    println!("{}", serde_json::to_string(&ceilings)?);
    Ok(())
}

fn forward(folder: &Path, batch: usize, seq: usize, options: &LoadOptions) -> Result<()> {
    let model = from_folder(TEXT_MODEL, &classes(), folder, options)?;
    let input_ids = Random::new().token_ids(batch, seq, model.limits.vocab_size);
    let arguments = TextArguments { input_ids, ..TextArguments::default() };
    let inputs = TextInputs::new(&arguments, &model.limits, &model.device)?;
    serve(
        &vec![seq; batch],
        // The numbers are read, so that the device has to have finished.
        || Ok(model.forward(&inputs, &mut Record::none()).last_hidden_state.into_data()),
        |data| data.iter::<f32>().collect(),
    )
}

fn embed(folder: &Path, texts: &Path, options: &LoadOptions) -> Result<()> {
    let texts = fs::read_to_string(texts).with_context(|| texts.display().to_string())?;
    let texts: Vec<&str> = texts.lines().collect();
    let pipeline = SentenceEmbeddingPipeline::from_folder(folder, options, SentenceEmbeddingOptions::default())?;
    let mut lengths = Vec::new();
    for &text in &texts {
        lengths.extend(pipeline.preprocess(&text.to_owned())?.iter().map(|unit| pipeline.length(unit)));
    }
    serve(&lengths, || Ok(pipeline.call_all(texts.iter().copied(), &Batching::default())?), |vectors| vectors.concat())
}

/// A line of stdin: repetitions to time, a file for the numbers of one, or neither for the end.
#[derive(Deserialize)]
struct Request {
    run: Option<usize>,
    #[serde(default)]
    warm: bool,
    output: Option<PathBuf>,
}

/// Answers requests; `work` is one repetition, and `values` are the numbers of its result.
fn serve<T>(lengths: &[usize], work: impl Fn() -> Result<T>, values: impl Fn(T) -> Vec<f32>) -> Result<()> {
    answer(&json!({ "name": format!("tx {}", env!("CARGO_PKG_VERSION")), "lengths": lengths }));
    for line in io::stdin().lines() {
        let line = line?;
        let request: Request = serde_json::from_str(&line).with_context(|| format!("the request `{line}`"))?;
        if let Some(repetitions) = request.run {
            if request.warm {
                black_box(work()?);
            }
            let mut seconds = Vec::new();
            for _ in 0..repetitions {
                let start = Instant::now();
                black_box(work()?);
                seconds.push(start.elapsed().as_secs_f64());
            }
            answer(&json!({ "seconds": seconds }));
        } else if let Some(path) = request.output {
            let values = values(work()?);
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
            answer(&json!({ "values": values.len() }));
        } else {
            answer(&json!({ "peak_bytes": peak_bytes(std::process::id()) }));
            break;
        }
    }
    Ok(())
}

fn answer(document: &Value) {
    println!("{document}");
}
