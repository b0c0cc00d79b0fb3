//! The pipelines of the tokenizer families: normaliser, pre-tokenizer, model and decoder around a vocabulary.
//!
//! Reference: transformers 5.23, `models/*/tokenization_*.py` and `convert_slow_tokenizer.py`. Each arm below is one
//! class there, with its defaults.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::metaspace::{Metaspace, PrependScheme};
use tokenizers::decoders::strip::Strip as StripDecoder;
use tokenizers::decoders::wordpiece::WordPiece as WordPieceDecoder;
use tokenizers::decoders::{self, DecoderWrapper};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{
    self, BertNormalizer, Lowercase, NFC, NFKD, NormalizerWrapper, Prepend, Replace, Strip, StripAccents,
};
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::pre_tokenizers::{self, PreTokenizerWrapper};
use tokenizers::tokenizer::SplitDelimiterBehavior::{Isolated, MergedWithPrevious, Removed};

use super::charsmap;
use super::family::Family;
use super::guard::check_part;
use super::model::{ModelKind, ModelParts, Vocabulary};
use super::settings::{Added, Settings};
use crate::error::{Error, Result};

/// SentencePiece's sign for a space.
const SPACE: char = '▁';

/// What a family takes from the files.
#[derive(Debug)]
pub(super) struct Source {
    /// The file, for messages.
    pub path: PathBuf,
    pub vocab: Vocabulary,
    pub merges: Option<Vec<(String, String)>>,
    pub charsmap: Option<Vec<u8>>,
    pub unk_id: Option<usize>,
    /// The tokens that a SentencePiece model says are found in a text as they are.
    pub added: Option<Vec<Added>>,
}

/// All parts of a tokenizer but the post-processor.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub model: ModelParts,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    pub decoder: Option<DecoderWrapper>,
}

/// The family's own texts of the named special tokens.
#[rustfmt::skip]
pub(super) fn default_token(family: Family, key: &str) -> Option<&'static str> {
    let end_of_text = "<|endoftext|>";
    let table: &[(&str, &'static str)] = match family {
        Family::Albert => &[("bos_token", "[CLS]"), ("eos_token", "[SEP]"), ("unk_token", "<unk>"), ("sep_token", "[SEP]"),
            ("pad_token", "<pad>"), ("cls_token", "[CLS]"), ("mask_token", "[MASK]")],
        Family::Bert => &[("unk_token", "[UNK]"), ("sep_token", "[SEP]"), ("pad_token", "[PAD]"), ("cls_token", "[CLS]"),
            ("mask_token", "[MASK]")],
        Family::Clip => &[("bos_token", "<|startoftext|>"), ("eos_token", end_of_text), ("unk_token", end_of_text),
            ("pad_token", end_of_text)],
        Family::Camembert | Family::Roberta | Family::XlmRoberta => &[("bos_token", "<s>"), ("eos_token", "</s>"),
            ("unk_token", "<unk>"), ("sep_token", "</s>"), ("pad_token", "<pad>"), ("cls_token", "<s>"),
            ("mask_token", "<mask>")],
        Family::DebertaV2 => &[("bos_token", "[CLS]"), ("eos_token", "[SEP]"), ("unk_token", "[UNK]"),
            ("sep_token", "[SEP]"), ("pad_token", "[PAD]"), ("cls_token", "[CLS]"), ("mask_token", "[MASK]")],
        Family::Gemma => &[("bos_token", "<bos>"), ("eos_token", "<eos>"), ("unk_token", "<unk>"), ("pad_token", "<pad>"),
            ("mask_token", "<mask>")],
        Family::Gpt2 => &[("bos_token", end_of_text), ("eos_token", end_of_text), ("unk_token", end_of_text)],
        Family::GptNeoX => &[("bos_token", end_of_text), ("eos_token", end_of_text), ("unk_token", end_of_text),
            ("pad_token", "<|padding|>")],
        Family::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        Family::Mpnet => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "[UNK]"), ("sep_token", "</s>"),
            ("pad_token", "<pad>"), ("cls_token", "<s>"), ("mask_token", "<mask>")],
        Family::Qwen2 => &[("eos_token", end_of_text), ("unk_token", end_of_text), ("pad_token", end_of_text)],
        Family::Siglip => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "</s>")],
        Family::T5 => &[("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")],
    };
    table.iter().find(|&&(name, _)| name == key).map(|&(_, text)| text)
}

/// Whether the family's mask token takes the space before it.
pub(super) fn mask_takes_space(family: Family) -> bool {
    matches!(family, Family::Camembert | Family::Mpnet)
}

/// How Qwen2 cuts a text before its byte-level model.
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How CLIP cuts a text before its byte-level model.
const CLIP_WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// What the last token of a word ends with in CLIP's vocabulary.
const CLIP_WORD_END: &str = "</w>";

/// What SigLIP takes out of a text.
const ASCII_PUNCTUATION: &str = r"[!-/:-@\[-`{-~]";

/// The pipeline of `family` around the vocabulary of `source`; `unk` is the text of its unknown token.
pub(super) fn pipeline(family: Family, source: Source, settings: &Settings, unk: Option<&str>) -> Result<Pipeline> {
    let Source { path, vocab, merges, charsmap, unk_id, .. } = source;
    let path = path.as_path();
    let merges = merges.unwrap_or_default();
    let charsmap = || charsmap.map(|map| charsmap::precompiled(path, &map)).transpose();
    match family {
        Family::Bert | Family::Mpnet => {
            let lower_case = settings.flag("do_lower_case", true)?;
            let chinese = settings.flag("tokenize_chinese_chars", true)?;
            let strip_accents = settings.optional_flag("strip_accents")?;
            Ok(Pipeline {
                model: ModelParts { unk_token: unk.map(str::to_owned), ..ModelParts::new(ModelKind::WordPiece, vocab) },
                normalizer: Some(BertNormalizer::new(true, chinese, strip_accents, lower_case).into()),
                pre_tokenizer: Some(BertPreTokenizer.into()),
                decoder: Some(WordPieceDecoder::new("##".into(), true).into()),
            })
        }
        Family::Gpt2 | Family::Roberta => {
            let prefix = settings.flag("add_prefix_space", false)?;
            Ok(byte_level(byte_bpe(vocab, merges), None, ByteLevel::new(prefix, true, true).into()))
        }
        Family::Clip => {
            let failed = |e: tokenizers::Error| Error::tokenizer(path, e);
            let blanks = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(failed)?;
            let words = Split::new(SplitPattern::Regex(CLIP_WORDS.into()), Removed, true).map_err(failed)?;
            let ends = Replace::new(ReplacePattern::Regex(r"\A\s+|\s+\z".into()), "").map_err(failed)?;
            let normalizers = vec![NFC.into(), blanks.into(), Lowercase.into()];
            let splits = vec![words.into(), ByteLevel::new(false, true, true).into()];
            let decoders = vec![ByteLevel::default().into(), replace(path, CLIP_WORD_END, " ")?.into(), ends.into()];
            Ok(Pipeline {
                model: ModelParts {
                    unk_token: unk.map(str::to_owned),
                    end_of_word_suffix: Some(CLIP_WORD_END.into()),
                    ..byte_bpe(vocab, merges)
                },
                normalizer: Some(normalizers::Sequence::new(normalizers).into()),
                pre_tokenizer: Some(pre_tokenizers::sequence::Sequence::new(splits).into()),
                decoder: Some(decoders::sequence::Sequence::new(decoders).into()),
            })
        }
        Family::GptNeoX => {
            let prefix = settings.flag("add_prefix_space", false)?;
            Ok(byte_level(byte_bpe(vocab, merges), Some(NFC.into()), ByteLevel::new(prefix, true, true).into()))
        }
        Family::Qwen2 => {
            let prefix = settings.flag("add_prefix_space", false)?;
            let words = Split::new(SplitPattern::Regex(QWEN2_WORDS.into()), Isolated, false);
            let words = words.map_err(|e| Error::tokenizer(path, e))?;
            let parts = vec![words.into(), ByteLevel::new(prefix, true, false).into()];
            Ok(byte_level(
                byte_bpe(vocab, merges),
                Some(NFC.into()),
                pre_tokenizers::sequence::Sequence::new(parts).into(),
            ))
        }
        Family::XlmRoberta => Ok(words(unigram(vocab, Some(3)), charsmap()?, scheme(settings, PrependScheme::Never)?)),
        Family::Siglip => {
            let failed = |e: tokenizers::Error| Error::tokenizer(path, e);
            let pattern =
                |pattern: &str, content| Replace::new(ReplacePattern::Regex(pattern.into()), content).map_err(failed);
            let mut parts: Vec<NormalizerWrapper> = vec![replace(path, "▁", " ")?.into()];
            if settings.flag("do_lower_case", true)? {
                parts.push(Lowercase.into());
            }
            parts.extend([pattern(ASCII_PUNCTUATION, "")?.into(), pattern(r"\s+", " ")?.into()]);
            parts.push(Strip::new(false, true).into());
            parts.extend(charsmap()?);
            parts.extend([pattern(" {2,}", " ")?.into(), Prepend::new(SPACE.into()).into()]);
            let unk_id = id_of(&vocab, unk);
            Ok(Pipeline {
                model: unigram(vocab, Some(unk_id)),
                normalizer: Some(normalizers::Sequence::new(parts).into()),
                pre_tokenizer: Some(Metaspace::new(SPACE, PrependScheme::Never, true).into()),
                decoder: Some(Metaspace::new(SPACE, PrependScheme::Always, true).into()),
            })
        }
        Family::T5 => Ok(words(unigram(vocab, Some(2)), charsmap()?, PrependScheme::Always)),
        Family::Camembert => {
            let unk_id = id_of(&vocab, unk);
            Ok(words(unigram(vocab, Some(unk_id)), charsmap()?, scheme(settings, PrependScheme::Never)?))
        }
        Family::Albert => {
            let mut parts: Vec<NormalizerWrapper> =
                vec![replace(path, "``", "\"")?.into(), replace(path, "''", "\"")?.into()];
            if !settings.flag("keep_accents", false)? {
                parts.extend([NFKD.into(), StripAccents.into()]);
            }
            if settings.flag("do_lower_case", true)? {
                parts.push(Lowercase.into());
            }
            parts.extend(charsmap()?);
            let normalizer = normalizers::Sequence::new(parts).into();
            Ok(words(unigram(vocab, Some(1)), Some(normalizer), scheme(settings, PrependScheme::Never)?))
        }
        Family::DebertaV2 => {
            let by_text = match &vocab {
                Vocabulary::Scores(scores) => {
                    scores.iter().position(|(t, score)| Some(t.as_str()) == unk && *score == 0.0)
                }
                Vocabulary::Ids(_) => None,
            };
            let unk_id = match by_text.or(unk_id) {
                Some(id) => id,
                None => settings.count("unk_id", 1, u32::MAX as usize)?,
            };
            let mut parts: Vec<NormalizerWrapper> = Vec::new();
            if settings.flag("do_lower_case", false)? {
                parts.push(Lowercase.into());
            }
            let blanks = Replace::new(ReplacePattern::Regex(r"\s{2,}|[\n\r\t]".into()), " ");
            parts.extend([
                blanks.map_err(|e| Error::tokenizer(path, e))?.into(),
                NFC.into(),
                Strip::new(false, true).into(),
            ]);
            let spaces = Metaspace::new(SPACE, scheme(settings, PrependScheme::First)?, true);
            let mut splits: Vec<PreTokenizerWrapper> = Vec::new();
            if settings.flag("split_by_punct", false)? {
                splits.push(Punctuation::new(Isolated).into());
            }
            splits.push(spaces.clone().into());
            Ok(Pipeline {
                model: unigram(vocab, Some(unk_id)),
                normalizer: Some(normalizers::Sequence::new(parts).into()),
                pre_tokenizer: Some(pre_tokenizers::sequence::Sequence::new(splits).into()),
                decoder: Some(spaces.into()),
            })
        }
        Family::Llama => {
            let prefix = settings.optional_flag("add_prefix_space")?.unwrap_or(true);
            let scheme = match (prefix, settings.flag("legacy", false)?) {
                (false, _) => PrependScheme::Never,
                (true, true) => PrependScheme::Always,
                (true, false) => PrependScheme::First,
            };
            let mut decoder = byte_fallback_decoder(path)?;
            if prefix {
                decoder.push(StripDecoder::new(' ', 1, 0).into());
            }
            Ok(Pipeline {
                model: byte_fallback_bpe(vocab, merges, None),
                normalizer: None,
                pre_tokenizer: Some(Metaspace::new(SPACE, scheme, false).into()),
                decoder: Some(decoders::sequence::Sequence::new(decoder).into()),
            })
        }
        Family::Gemma => {
            let spaces = Split::new(SplitPattern::String(" ".into()), MergedWithPrevious, false);
            Ok(Pipeline {
                model: byte_fallback_bpe(vocab, merges, unk),
                normalizer: Some(replace(path, " ", "▁")?.into()),
                pre_tokenizer: Some(spaces.map_err(|e| Error::tokenizer(path, e))?.into()),
                decoder: Some(decoders::sequence::Sequence::new(byte_fallback_decoder(path)?).into()),
            })
        }
    }
}

/// The pipeline of the reference's generic class around a SentencePiece model, as it is when there is nothing else.
pub(super) fn generic(source: Source, unk: &str, byte_fallback: bool) -> Result<Pipeline> {
    let Source { path, vocab, merges, charsmap, unk_id, .. } = source;
    let path = path.as_path();
    let charsmap = charsmap.map(|map| charsmap::precompiled(path, &map)).transpose()?;
    let mut parts: Vec<NormalizerWrapper> = charsmap.into_iter().collect();
    parts.push(replace(path, " ", "▁")?.into());
    let model = match vocab {
        Vocabulary::Ids(_) => ModelParts {
            byte_fallback: Some(byte_fallback),
            ..byte_fallback_bpe(vocab, merges.unwrap_or_default(), Some(unk))
        },
        Vocabulary::Scores(_) => ModelParts { byte_fallback: Some(byte_fallback), ..unigram(vocab, unk_id) },
    };
    let decoder = if byte_fallback { byte_fallback_decoder(path)? } else { vec![replace(path, "▁", " ")?.into()] };
    Ok(Pipeline {
        model,
        normalizer: Some(normalizers::Sequence::new(parts).into()),
        pre_tokenizer: None,
        decoder: Some(decoders::sequence::Sequence::new(decoder).into()),
    })
}

/// The id of the unknown token in a Unigram vocabulary, by its text; 0 if it is not there.
fn id_of(vocab: &Vocabulary, unk: Option<&str>) -> usize {
    match vocab {
        Vocabulary::Scores(scores) => scores.iter().position(|(token, _)| Some(token.as_str()) == unk).unwrap_or(0),
        Vocabulary::Ids(_) => 0,
    }
}

/// Whether a sign for a space is put in front of a text: always, unless `add_prefix_space` is false.
fn scheme(settings: &Settings, otherwise: PrependScheme) -> Result<PrependScheme> {
    Ok(if settings.flag("add_prefix_space", true)? { PrependScheme::Always } else { otherwise })
}

/// Unigram on words between white space, each with a sign for the space before it.
fn words(model: ModelParts, normalizer: Option<NormalizerWrapper>, scheme: PrependScheme) -> Pipeline {
    let spaces = Metaspace::new(SPACE, scheme, true);
    let parts = vec![WhitespaceSplit.into(), spaces.clone().into()];
    Pipeline {
        model,
        normalizer,
        pre_tokenizer: Some(pre_tokenizers::sequence::Sequence::new(parts).into()),
        decoder: Some(spaces.into()),
    }
}

/// BPE on bytes written as letters.
fn byte_level(
    model: ModelParts,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: PreTokenizerWrapper,
) -> Pipeline {
    Pipeline { model, normalizer, pre_tokenizer: Some(pre_tokenizer), decoder: Some(ByteLevel::default().into()) }
}

fn unigram(vocab: Vocabulary, unk_id: Option<usize>) -> ModelParts {
    ModelParts { unk_id, ..ModelParts::new(ModelKind::Unigram, vocab) }
}

fn byte_bpe(vocab: Vocabulary, merges: Vec<(String, String)>) -> ModelParts {
    ModelParts { merges: Some(merges), ..ModelParts::new(ModelKind::Bpe, vocab) }
}

/// BPE where the bytes of unknown characters have tokens of their own, `<0x00>` to `<0xFF>`.
fn byte_fallback_bpe(vocab: Vocabulary, merges: Vec<(String, String)>, unk: Option<&str>) -> ModelParts {
    let unk_token = unk.map(str::to_owned);
    ModelParts { fuse_unk: Some(true), byte_fallback: Some(true), unk_token, ..byte_bpe(vocab, merges) }
}

/// Signs for a space to spaces, byte tokens to characters, all in one string.
fn byte_fallback_decoder(path: &Path) -> Result<Vec<DecoderWrapper>> {
    Ok(vec![replace(path, "▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()])
}

fn replace(path: &Path, from: &str, to: &str) -> Result<Replace> {
    Replace::new(from, to).map_err(|e| Error::tokenizer(path, e))
}

/// Reads `normalizer` of `tokenizer.json`; null is none.
pub(super) fn read_normalizer(path: &Path, value: &Value) -> Result<Option<NormalizerWrapper>> {
    check_part(path, "normalizer", value)?;
    if value.is_null() { Ok(None) } else { normalizer(path, value).map(Some) }
}

/// A normaliser; character maps are checked, which the library does not do.
fn normalizer(path: &Path, value: &Value) -> Result<NormalizerWrapper> {
    if let Some(parts) = value.get("normalizers").and_then(Value::as_array) {
        let parts = parts.iter().map(|part| normalizer(path, part)).collect::<Result<_>>()?;
        return Ok(normalizers::Sequence::new(parts).into());
    }
    if let Some(map) = value.get("precompiled_charsmap").and_then(Value::as_str) {
        return charsmap::precompiled(path, &charsmap::from_base64(path, map)?);
    }
    serde_json::from_value(value.clone()).map_err(|e| Error::tokenizer(path, format_args!("`normalizer`: {e}")))
}

/// The first character map of a normaliser, which the families keep of it.
pub(super) fn charsmap_of(path: &Path, value: &Value) -> Result<Option<Vec<u8>>> {
    let parts = value.get("normalizers").and_then(Value::as_array);
    let parts = parts.map_or(std::slice::from_ref(value), Vec::as_slice);
    let map = parts.iter().find_map(|part| part.get("precompiled_charsmap")?.as_str());
    map.map(|map| charsmap::from_base64(path, map)).transpose()
}

/// Reads `pre_tokenizer` of `tokenizer.json`; null is none.
pub(super) fn read_pre_tokenizer(path: &Path, value: Value) -> Result<Option<PreTokenizerWrapper>> {
    check_part(path, "pre_tokenizer", &value)?;
    serde_json::from_value(value).map_err(|e| Error::tokenizer(path, format_args!("`pre_tokenizer`: {e}")))
}

/// Reads `decoder` of `tokenizer.json`; null is none.
pub(super) fn read_decoder(path: &Path, value: Value) -> Result<Option<DecoderWrapper>> {
    check_part(path, "decoder", &value)?;
    serde_json::from_value(value).map_err(|e| Error::tokenizer(path, format_args!("`decoder`: {e}")))
}
