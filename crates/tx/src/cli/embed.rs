//! `tx embed`: texts, pictures and sounds to vectors.

use std::path::{Path, PathBuf};

use clap::Args;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Batching, Pipeline};
use tx_multimodal::models::{ZERO_SHOT_AUDIO_CLASSIFICATION, ZERO_SHOT_IMAGE_CLASSIFICATION};
use tx_multimodal::pipelines::{Embeddable, JointEmbeddingPipeline};
use tx_text::pipelines::{SentenceEmbeddingOptions, SentenceEmbeddingPipeline, cosine_similarity};

use super::Common;
use super::output::{print_json, print_table};
use super::run::{Files, PICTURES, SOUNDS, components, lines, shorten};

/// The most inputs whose similarities fit on a screen.
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
    /// Pictures, or folders of them, for models that embed pictures beside texts
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub image: Vec<String>,
    /// Sounds, or folders of them, for models that embed sounds beside texts
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub audio: Vec<String>,
    /// The most inputs in one forward pass [default: as many as make 2048 tokens]
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
/// [`Error::Input`] without anything to embed; everything that loading and running the model can report.
pub fn run(args: &EmbedArgs, common: &Common) -> Result<()> {
    let media = !args.image.is_empty() || !args.audio.is_empty();
    if args.texts.is_empty() && args.file.is_none() && !media {
        let expected = "texts, `--file FILE`, `--image FILE`, `--audio FILE`, or `-` for lines of standard input";
        return Err(Error::input("TEXT", "nothing", expected));
    }
    let texts = match media && args.texts.is_empty() && args.file.is_none() {
        true => Vec::new(),
        false => lines(&args.texts, args.file.as_deref(), "texts")?.0,
    };
    let images = Files::find(&lines_of(&args.image)?, true, PICTURES)?;
    let sounds = Files::find(&lines_of(&args.audio)?, true, SOUNDS)?;
    let folder = common.folder(&args.model)?;
    let batching = Batching { batch_size: args.batch_size, progress: true };
    let vectors = if media || is_joint(&folder)? {
        let pipeline = args.joint(&folder, common)?;
        let inputs = texts.iter().map(|text| Embeddable::Text(text.clone()));
        let inputs = inputs.chain(images.paths.iter().map(|path| Embeddable::Image(path.clone().into())));
        let inputs = inputs.chain(sounds.paths.iter().map(|path| Embeddable::Sound(path.clone().into())));
        pipeline.call_all(inputs.collect::<Vec<_>>(), &batching)?
    } else {
        let options = SentenceEmbeddingOptions {
            prompt: args.prompt.clone(),
            prompt_name: args.prompt_name.clone(),
            normalize_embeddings: args.normalize,
            truncate_dim: args.truncate_dim,
        };
        let pipeline = SentenceEmbeddingPipeline::from_folder(&folder, &common.load_options()?, options)?;
        pipeline.call_all(&texts, &batching)?
    };
    if common.json {
        return print_json(&vectors);
    }
    let names: Vec<&String> = texts.iter().chain(&images.names).chain(&sounds.names).collect();
    let rows = names.iter().zip(&vectors).enumerate();
    let rows: Vec<Vec<String>> = rows
        .map(|(i, (name, vector))| {
            vec![(i + 1).to_string(), shorten(name), vector.len().to_string(), components(vector)]
        })
        .collect();
    print_table(&["", if media { "input" } else { "text" }, "size", "embedding"], &rows)?;
    if (2..=MAX_COMPARED).contains(&names.len()) {
        let numbers: Vec<String> = (1..=names.len()).map(|number| number.to_string()).collect();
        let header: Vec<&str> = std::iter::once("cosine").chain(numbers.iter().map(String::as_str)).collect();
        let rows = numbers.iter().zip(&vectors).map(|(number, a)| {
            let cosines = vectors.iter().map(|b| format!("{:.4}", cosine_similarity(a, b)));
            std::iter::once(number.clone()).chain(cosines).collect()
        });
        print_table(&header, &rows.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The names of files, of which `-` stands for lines of standard input.
fn lines_of(names: &[String]) -> Result<Vec<String>> {
    if names.is_empty() { Ok(Vec::new()) } else { Ok(lines(names, None, "a file")?.0) }
}

/// Whether a folder holds a model of two modalities. One of sentence-transformers may have its config elsewhere.
fn is_joint(folder: &Path) -> Result<bool> {
    Ok(folder.join("config.json").is_file() && JointEmbeddingPipeline::fits(&Config::from_folder(folder)?)?)
}

impl EmbedArgs {
    /// A model that embeds texts, and pictures or sounds beside them.
    fn joint(&self, folder: &Path, common: &Common) -> Result<JointEmbeddingPipeline> {
        let sentences = [
            ("--prompt", self.prompt.is_some()),
            ("--prompt-name", self.prompt_name.is_some()),
            ("--truncate-dim", self.truncate_dim.is_some()),
        ];
        if let Some((name, _)) = sentences.into_iter().find(|(_, given)| *given) {
            let found = "given for a model of pictures or sounds and texts";
            return Err(Error::input(name, found, "it with models of sentences only"));
        }
        if !is_joint(folder)? {
            // What has no such head says which it has.
            if self.image.is_empty() {
                tx::table(&[ZERO_SHOT_AUDIO_CLASSIFICATION], folder)?;
            } else {
                tx::table(&[ZERO_SHOT_IMAGE_CLASSIFICATION], folder)?;
            }
        }
        JointEmbeddingPipeline::from_folder(folder, &common.load_options()?)
    }
}
