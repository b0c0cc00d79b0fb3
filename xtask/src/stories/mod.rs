//! `cargo xtask stories`: stories from a grammar, and the tokenizer of the model that learns to tell them.

mod grammar;
mod tokenizer;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::random::Random;
use crate::root;
use grammar::Grammar;

/// How many stories in a row may be known already before there is no hope for others.
const MAX_KNOWN: usize = 10_000;

/// Write stories as JSON lines, `train.jsonl` and `eval.jsonl`, no two of which are the same.
#[derive(Args)]
pub struct StoriesArgs {
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
    /// What the stories depend on, besides the grammar.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many stories there are to learn from.
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// How many stories there are besides, to evaluate on.
    #[arg(long, default_value_t = 1_000)]
    eval_count: usize,
    /// The folder of the grammar [default: models/stories/grammar]
    #[arg(long)]
    grammar: Option<PathBuf>,
    /// Also trains a tokenizer on the stories, and writes its files into this folder.
    #[arg(long, value_name = "FOLDER")]
    tokenizer: Option<PathBuf>,
    /// How many tokens it has.
    #[arg(long, default_value_t = 1280)]
    vocab_size: usize,
}

pub fn stories(args: &StoriesArgs) -> Result<()> {
    let folder = args.grammar.clone().unwrap_or_else(|| root().join("models/stories/grammar"));
    let grammar = Grammar::from_folder(&folder)?;
    let mut random = Random::new(args.seed);
    let mut known = HashSet::new();
    let train = different(&grammar, args.count, &mut known, &mut random)?;
    let eval = different(&grammar, args.eval_count, &mut known, &mut random)?;
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for (name, stories) in [("train.jsonl", &train), ("eval.jsonl", &eval)] {
        let path = args.out.join(name);
        write_lines(&path, stories)?;
        println!("{}: {} stories", path.display(), stories.len());
    }
    if let Some(folder) = &args.tokenizer {
        tokenizer::train(&train, args.vocab_size, folder)?;
        println!("{}: {} tokens", folder.join(tokenizer::FILE).display(), args.vocab_size);
    }
    Ok(())
}

/// Stories that are not `known`, which they are from now on.
fn different(grammar: &Grammar, count: usize, known: &mut HashSet<String>, random: &mut Random) -> Result<Vec<String>> {
    let mut stories = Vec::with_capacity(count);
    let mut in_vain = 0;
    while stories.len() < count {
        let story = grammar.story(random)?;
        if known.insert(story.clone()) {
            stories.push(story);
            in_vain = 0;
        } else {
            in_vain += 1;
        }
        if in_vain > MAX_KNOWN {
            bail!("the grammar has no more than {} stories", known.len());
        }
    }
    Ok(stories)
}

fn write_lines(path: &Path, stories: &[String]) -> Result<()> {
    let lines: String = stories.iter().map(|story| format!("{}\n", json!({ "text": story }))).collect();
    fs::write(path, lines).with_context(|| path.display().to_string())
}
