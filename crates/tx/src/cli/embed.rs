//! `tx embed`: texts to vectors.

use std::path::PathBuf;

use clap::Args;
use tx_core::config::read_text;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Batching, Pipeline};
use tx_text::pipelines::{SentenceEmbeddingOptions, SentenceEmbeddingPipeline, cosine_similarity};

use super::Common;
use super::output::{print_json, print_table};
use super::run::{components, read_stdin, shorten};

/// The largest file of texts, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// The most texts whose similarities fit on a screen.
const MAX_COMPARED: usize = 8;

/// The arguments of `tx embed`.
#[derive(Debug, Args)]
pub struct EmbedArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`. Plain encoders give the mean of their tokens
    #[arg(long, short)]
    pub model: String,
    /// Texts; `-` reads lines of standard input
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,
    /// Reads each line of a file as a text
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// The most texts in one forward pass [default: as many as make 2048 tokens]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// A text that goes before every text
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// The name of one of the model's own prompts: query, document …
    #[arg(long, value_name = "NAME")]
    pub prompt_name: Option<String>,
    /// Gives vectors of length one, if the model does not do so itself
    #[arg(long)]
    pub normalize: bool,
    /// Keeps this many numbers of each vector
    #[arg(long, value_name = "N")]
    pub truncate_dim: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Input`] without texts; everything that loading and running the model can report.
pub fn run(args: &EmbedArgs, common: &Common) -> Result<()> {
    let mut texts = Vec::new();
    for text in &args.texts {
        if text == "-" {
            texts.extend(read_stdin()?.lines().map(str::to_owned));
        } else {
            texts.push(text.clone());
        }
    }
    if let Some(file) = &args.file {
        texts.extend(read_text(file, MAX_FILE)?.lines().map(str::to_owned));
    } else if args.texts.is_empty() {
        return Err(Error::input("TEXT", "nothing", "texts, `--file FILE`, or `-` for lines of standard input"));
    }
    let options = SentenceEmbeddingOptions {
        prompt: args.prompt.clone(),
        prompt_name: args.prompt_name.clone(),
        normalize_embeddings: args.normalize,
        truncate_dim: args.truncate_dim,
    };
    let folder = common.folder(&args.model)?;
    let pipeline = SentenceEmbeddingPipeline::from_folder(&folder, &common.load_options()?, options)?;
    let vectors = pipeline.call_all(&texts, &Batching { batch_size: args.batch_size, progress: true })?;
    if common.json {
        return print_json(&vectors);
    }
    let rows = texts.iter().zip(&vectors).enumerate();
    let rows: Vec<Vec<String>> = rows
        .map(|(i, (text, vector))| {
            vec![(i + 1).to_string(), shorten(text), vector.len().to_string(), components(vector)]
        })
        .collect();
    print_table(&["", "text", "size", "embedding"], &rows)?;
    if (2..=MAX_COMPARED).contains(&texts.len()) {
        let numbers: Vec<String> = (1..=texts.len()).map(|number| number.to_string()).collect();
        let header: Vec<&str> = std::iter::once("cosine").chain(numbers.iter().map(String::as_str)).collect();
        let rows = numbers.iter().zip(&vectors).map(|(number, a)| {
            let cosines = vectors.iter().map(|b| format!("{:.4}", cosine_similarity(a, b)));
            std::iter::once(number.clone()).chain(cosines).collect()
        });
        print_table(&header, &rows.collect::<Vec<_>>())?;
    }
    Ok(())
}
