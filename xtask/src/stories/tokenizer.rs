//! The tokenizer of the stories: byte-level BPE, trained by `tokenizers`, in the files that tx and Python open.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

/// The tokenizer's own file; the other one is `tokenizer_config.json`.
pub const FILE: &str = "tokenizer.json";

/// Stands before every story and behind it.
const END: &str = "<|endoftext|>";
/// Fills rows up.
const PAD: &str = "<|pad|>";
/// The most tokens of a text, with [`END`].
const MAX_LENGTH: usize = 512;

/// Trains a tokenizer of `vocab_size` tokens and writes its two files.
pub fn train(texts: &[String], vocab_size: usize, folder: &Path) -> Result<()> {
    let tokenizer = trained(texts, vocab_size).map_err(anyhow::Error::from_boxed)?;
    let size = tokenizer.get_vocab_size(true);
    ensure!(size == vocab_size, "the texts are good for {size} tokens, not for {vocab_size}");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let text = tokenizer.to_string(false).map_err(anyhow::Error::from_boxed)?;
    write(&folder.join(FILE), &text)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": MAX_LENGTH,
        "padding_side": "right",
        "clean_up_tokenization_spaces": false,
        "model_input_names": ["input_ids", "attention_mask"],
    });
    write(&folder.join("tokenizer_config.json"), &serde_json::to_string_pretty(&config)?)
}

type Tokenizer = tokenizers::TokenizerImpl<BPE, NormalizerWrapper, ByteLevel, TemplateProcessing, ByteLevel>;

fn trained(texts: &[String], vocab_size: usize) -> tokenizers::Result<Tokenizer> {
    let level = ByteLevel::new(false, true, true);
    // What every text begins with, as the end of the one before it.
    let around = TemplateProcessing::builder()
        .try_single(format!("{END} $A").as_str())?
        .try_pair(format!("{END} $A {END} $B").as_str())?
        .special_tokens(vec![(END.to_owned(), 0u32)])
        .build()?;
    let mut tokenizer: Tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(level))
        .with_post_processor(Some(around))
        .with_decoder(Some(level))
        .build()?;
    // Every byte is a token, so that any text can be encoded.
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .special_tokens([END, PAD].map(|token| AddedToken::from(token, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, texts.iter())?;
    Ok(tokenizer)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, format!("{text}\n")).with_context(|| path.display().to_string())
}
