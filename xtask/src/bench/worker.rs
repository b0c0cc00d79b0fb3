//! The worker of tx: a hidden command of this program, built as a release, which computes when it is asked to.

use std::fs;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};
use tx::burn::tensor::{Tensor, TensorData};
use tx_core::device::device;
use tx_core::nn::Cache;
use tx_core::pipeline::{Batching, Pipeline};
use tx_core::registry::{Auto, LoadOptions, from_folder};
use tx_core::task::{CausalLm, IntRows, Record, TextArguments, TextInputs};
use tx_core::threads;
use tx_core::weights::Quantization;
use tx_generate::argmax;
use tx_text::models::{CAUSAL_LM, TEXT_MODEL, classes};
use tx_text::pipelines::{SentenceEmbeddingOptions, SentenceEmbeddingPipeline};

use super::bound::Ceilings;
use super::inputs::Random;
use super::media::Media;
use super::side::peak_bytes;
use super::train::{lora, train};

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
    /// Serve updates of a base model.
    Train {
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        batch: usize,
        #[arg(long)]
        seq: usize,
    },
    /// Serve updates of LoRA on a language model.
    Lora {
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        batch: usize,
        #[arg(long)]
        seq: usize,
    },
    /// Serve a language model, called as generation does.
    Generate {
        #[arg(long)]
        model: PathBuf,
        #[arg(long)]
        batch: usize,
        /// The tokens of each prompt.
        #[arg(long)]
        prompt: usize,
        /// The tokens that follow it, one by one; a repetition is the prompt itself if there are none.
        #[arg(long)]
        steps: usize,
    },
    /// Serve a model of pictures or sounds.
    Media {
        #[arg(long)]
        model: PathBuf,
        #[command(subcommand)]
        media: Media,
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
            Work::Train { model, batch, seq } => train(model, *batch, *seq, &options),
            Work::Lora { model, batch, seq } => lora(model, *batch, *seq, &options),
            Work::Generate { model, batch, prompt, steps } => generate(model, *batch, *prompt, *steps, &options),
            Work::Media { model, media } => media.serve(model, &options),
            Work::Embed { model, texts } => embed(model, texts, &options),
        }
    })
}

fn ceilings(threads: usize) -> Result<()> {
    let ceilings = Ceilings {
        matrix_peak: tx_kernels::ceilings::matrix_peak(threads),
        bf16_peak: tx_kernels::ceilings::bf16_peak(threads),
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
        numbers,
    )
}

fn generate(folder: &Path, batch: usize, prompt: usize, steps: usize, options: &LoadOptions) -> Result<()> {
    let model = from_folder(CAUSAL_LM, &classes(), folder, options)?;
    let tokens = Random::new().prompts(batch, prompt, model.limits.vocab_size);
    let empty = || Cache::new(&model.cache_kinds(), prompt + steps);
    if steps == 0 {
        let [prompts, _] = tokens;
        return serve(&vec![prompt; batch], || scores(&model, &prompts, &mut empty()), |scores| scores);
    }
    serve_steps(tokens, steps, empty(), |input_ids, cache| scores(&model, input_ids, cache))
}

/// The scores of what follows the next tokens of each row, `[batch, vocab]`, on the host.
fn scores(model: &Auto<dyn CausalLm>, input_ids: &IntRows, cache: &mut Cache) -> Result<Vec<f32>> {
    let arguments = TextArguments { input_ids: input_ids.clone(), ..TextArguments::default() };
    let inputs = TextInputs::new(&arguments, &model.limits, &model.device)?;
    let x = model.decode(model.embed(inputs.input_ids.clone()), &inputs, cache, &mut Record::none());
    let logits = model.head(x.narrow(1, input_ids.seq - 1, 1)); // [batch, 1, vocab]
    read(logits)
}

/// The scores of all tokens, on the host.
pub fn read(logits: Tensor<3>) -> Result<Vec<f32>> {
    logits.try_into_vec_as::<f32>().map_err(|e| anyhow!("the scores cannot be read: {e}"))
}

/// Serves tokens that come one after another, each the most probable one, behind prompts, which are in the cache, and the
/// first token after these. `scores` are those of what follows the next tokens of each row, `[batch, vocab]`.
pub fn serve_steps(
    [prompts, next]: [IntRows; 2],
    steps: usize,
    mut cache: Cache,
    scores: impl Fn(&IntRows, &mut Cache) -> Result<Vec<f32>>,
) -> Result<()> {
    let (batch, prompt) = (prompts.batch, prompts.seq);
    scores(&prompts, &mut cache)?;
    let best = |scores: &[f32]| {
        let rows = scores.chunks_exact(scores.len() / batch);
        IntRows { batch, seq: 1, values: rows.map(|row| i64::from(argmax(row))).collect() }
    };
    let decode = || -> Result<Vec<f32>> {
        cache.truncate(prompt);
        let result = scores(&next, &mut cache)?;
        let mut ids = best(&result);
        for _ in 1..steps {
            ids = best(&scores(&ids, &mut cache)?);
        }
        Ok(result)
    };
    serve(&vec![prompt + steps; batch], decode, |scores| scores)
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

/// The numbers of a tensor, once it is on the host.
pub fn numbers(data: TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

/// Answers requests; `work` is one repetition, and `values` are the numbers of its result.
pub fn serve<T>(lengths: &[usize], mut work: impl FnMut() -> Result<T>, values: impl Fn(T) -> Vec<f32>) -> Result<()> {
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
