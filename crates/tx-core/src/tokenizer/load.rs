//! From a folder to a tokenizer: which files are used, and in which order tokens are added.
//!
//! Reference: transformers 5.23, `TokenizersBackend` in `tokenization_utils_tokenizers.py`. The order matters, because a
//! token that is not in the model's vocabulary gets the next free id, and because the last of two equal tokens wins.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::PostProcessorWrapper;

use super::build::{self, Pipeline, Source};
use super::family::{Class, Family, buildable};
use super::files::{Files, TokenizerJson, read_merges, read_vocab_json, read_vocab_txt};
use super::model::Vocabulary;
use super::sentencepiece::SentencePiece;
use super::settings::{Added, NAMED, Settings};
use super::{Side, SpecialToken, SpecialTokens, Tokenizer, post};
use crate::error::{Error, Result};

/// The most sentinels (`<extra_id_0>` …) that a T5 tokenizer may have.
const MAX_SENTINELS: usize = 100_000;

/// The names under which SentencePiece models lie on the Hub.
const SENTENCEPIECE: [&str; 4] = ["tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "spm.model"];

/// What there is before tokens are added.
struct Parts {
    path: PathBuf,
    pipeline: Pipeline,
    post_processor: Option<PostProcessorWrapper>,
    /// Special tokens that count where the settings have none.
    defaults: Vec<(&'static str, String)>,
    /// The tokens of a SentencePiece model that are found in a text as they are.
    spm_added: Option<Vec<Added>>,
    /// The side on which `tokenizer.json` pads and truncates.
    sides: [Option<Side>; 2],
    /// The tokens that `tokenizer.json` adds, where it is used as it is.
    json_added: Vec<Added>,
}

/// Loads the tokenizer of class `class` from its files.
pub(super) fn load(mut files: Files, class: &Class) -> Result<Tokenizer> {
    let json = files.take_tokenizer_json()?;
    let settings = Settings::new(&files, json.as_ref().map(|json| json.added_tokens.as_slice()))?;
    let named_early = |key: &str| -> Result<Option<Added>> {
        let default = class.family.and_then(|family| build::default_token(family, key));
        settings.named(key, default, key == "mask_token" && class.family.is_some_and(build::mask_takes_space))
    };
    let unk = named_early("unk_token")?.map(|token| token.content);
    let parts = match (json, class.family) {
        (Some(json), family) => from_json(files.path("tokenizer.json"), json, family, &settings, unk.as_deref())?,
        (None, Some(family)) => from_vocabulary(&files, family, &settings, unk.as_deref())?,
        (None, None) => from_sentencepiece(&files, class, &settings)?,
    };
    let Parts { path, pipeline, post_processor, defaults, spm_added, sides, json_added } = parts;

    let mut named = Vec::new();
    for key in NAMED {
        let default = defaults.iter().find(|&&(name, _)| name == key).map(|(_, text)| Added::special(text));
        let token = if settings.has(key) || default.is_none() { named_early(key)? } else { default };
        named.extend(token.map(|token| (key, token)));
    }
    let extra = extra_tokens(class.family, &settings, spm_added)?;
    let all_added = added_tokens(&settings, &named, &extra, &json_added);
    settings.check_added(&all_added)?;
    settings.check_added(&json_added)?;

    let largest = pipeline.model.vocab.max_id();
    let is_bpe = pipeline.model.kind() == super::model::ModelKind::Bpe;
    let failed = |e: tokenizers::Error| Error::tokenizer(&path, e);
    let mut backend = tokenizers::Tokenizer::new(pipeline.model.build(&path)?);
    backend.with_normalizer(pipeline.normalizer).map_err(failed)?;
    backend.with_pre_tokenizer(pipeline.pre_tokenizer);
    backend.with_decoder(pipeline.decoder);
    backend.add_tokens(json_added.iter().map(Added::build)).map_err(failed)?;
    backend.add_tokens(all_added.iter().map(Added::build)).map_err(failed)?;
    if class.family == Some(Family::Qwen2) {
        let special = named.iter().map(|(_, token)| token).chain(&extra);
        backend.add_tokens(special.map(|token| Added::special(&token.content).build())).map_err(failed)?;
    }
    backend.set_encode_special_tokens(settings.flag("split_special_tokens", false)?);
    let largest = backend.get_added_tokens_decoder().keys().max().copied().max(largest);
    let Some(max_id) = largest else { return Err(Error::tokenizer(&path, "the vocabulary is empty")) };

    let special = |key: &str| {
        let (_, token) = named.iter().find(|&&(name, _)| name == key)?;
        Some(SpecialToken { id: backend.token_to_id(&token.content)?, text: token.content.clone() })
    };
    let special = SpecialTokens {
        unk: special("unk_token"),
        bos: special("bos_token"),
        eos: special("eos_token"),
        sep: special("sep_token"),
        cls: special("cls_token"),
        pad: special("pad_token"),
        mask: special("mask_token"),
    };
    let post_processor = final_post_processor(&path, class.family, post_processor, &settings, &special, &backend)?;
    post::check(&path, &post_processor, &|id| backend.id_to_token(id).is_some())?;

    let side = |key, from_json: Option<Side>, own| match settings.text(key)? {
        None => Ok(from_json.unwrap_or(own)),
        Some("right") => Ok(Side::Right),
        Some("left") => Ok(Side::Left),
        Some(other) => Err(settings.error(key, format_args!("`{other}`, expected `left` or `right`"))),
    };
    let own_side = if class.pads_left { Side::Left } else { Side::Right };
    let has_types = settings.model_input_names().map(|names| names.contains(&"token_type_ids"));
    let clean_up = settings.flag("clean_up_tokenization_spaces", false)?
        // It would take spaces that belong to the text.
        && (!is_bpe || settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", false)?);
    Ok(Tokenizer {
        special,
        model_max_length: settings.model_max_length()?,
        padding_side: side("padding_side", sides[0], own_side)?,
        truncation_side: side("truncation_side", sides[1], Side::Right)?,
        has_token_type_ids: has_types.unwrap_or(class.token_type_ids),
        clean_up,
        max_id,
        post_processor,
        backend,
        path,
    })
}

/// Everything from `tokenizer.json`, or for a family its vocabulary, merges, character map and post-processor.
fn from_json(
    path: PathBuf,
    json: TokenizerJson,
    family: Option<Family>,
    settings: &Settings,
    unk: Option<&str>,
) -> Result<Parts> {
    let side = |value: &Value| match value.get("direction")?.as_str()? {
        "Left" => Some(Side::Left),
        "Right" => Some(Side::Right),
        _ => None,
    };
    let sides = [side(&json.padding), side(&json.truncation)];
    let post_processor = post::read(&path, json.post_processor)?;
    let pad = json.padding.get("pad_token").and_then(Value::as_str);
    let defaults =
        if family.is_none() { pad.map(|pad| ("pad_token", pad.to_owned())).into_iter().collect() } else { vec![] };
    let (pipeline, json_added) = match family {
        Some(family) => {
            let charsmap = build::charsmap_of(&path, &json.normalizer)?;
            let source = Source {
                path: path.clone(),
                vocab: json.model.vocab,
                merges: json.model.merges,
                charsmap,
                unk_id: None,
                added: None,
            };
            (build::pipeline(family, source, settings, unk)?, Vec::new())
        }
        None => {
            let pipeline = Pipeline {
                normalizer: build::read_normalizer(&path, &json.normalizer)?,
                pre_tokenizer: build::read_pre_tokenizer(&path, json.pre_tokenizer)?,
                decoder: build::read_decoder(&path, json.decoder)?,
                model: json.model,
            };
            (pipeline, json.added_tokens.into_iter().map(|entry| entry.token).collect())
        }
    };
    Ok(Parts { path, pipeline, post_processor, defaults, spm_added: None, sides, json_added })
}

/// A family's vocabulary from its own files.
fn from_vocabulary(files: &Files, family: Family, settings: &Settings, unk: Option<&str>) -> Result<Parts> {
    let missing = |expected: &str| Error::MissingFile {
        folder: files.folder.clone(),
        expected: expected.to_owned(),
        remedy: "the tokenizer cannot be built without it".into(),
    };
    let find = |name: &str| files.first(&[name]).ok_or_else(|| missing(&format!("`tokenizer.json` or `{name}`")));
    let source = match family {
        Family::Bert | Family::Mpnet => {
            let path = find("vocab.txt")?;
            Source { vocab: read_vocab_txt(&path)?, path, merges: None, charsmap: None, unk_id: None, added: None }
        }
        Family::Clip | Family::Gpt2 | Family::GptNeoX | Family::Qwen2 | Family::Roberta => {
            let (path, merges) = (find("vocab.json")?, find("merges.txt")?);
            let merges = Some(read_merges(&merges)?);
            Source { vocab: read_vocab_json(&path)?, path, merges, charsmap: None, unk_id: None, added: None }
        }
        Family::Albert | Family::Camembert | Family::DebertaV2 | Family::Siglip | Family::T5 | Family::XlmRoberta => {
            let path = files.first(&SENTENCEPIECE).ok_or_else(|| missing("`tokenizer.json` or SentencePiece model"))?;
            let spm = SentencePiece::read(&path)?;
            unigram_source(path, spm, family, settings)?
        }
        Family::Gemma | Family::Llama => {
            let path = files.first(&SENTENCEPIECE).ok_or_else(|| missing("`tokenizer.json` or SentencePiece model"))?;
            let spm = SentencePiece::read(&path)?;
            let (vocab, merges) = spm.bpe(&path)?;
            Source { path, vocab, merges: Some(merges), charsmap: None, unk_id: None, added: Some(spm.added) }
        }
    };
    let (path, spm_added) = (source.path.clone(), source.added.clone());
    let pipeline = build::pipeline(family, source, settings, unk)?;
    let (defaults, json_added) = (Vec::new(), Vec::new());
    Ok(Parts { path, pipeline, post_processor: None, defaults, spm_added, sides: [None; 2], json_added })
}

/// The vocabulary of a Unigram family, whose ids are not always those of its SentencePiece model.
fn unigram_source(path: PathBuf, spm: SentencePiece, family: Family, settings: &Settings) -> Result<Source> {
    let text = |key: &str| -> Result<(String, f64)> {
        let token = settings.named(key, build::default_token(family, key), false)?;
        Ok((token.ok_or_else(|| settings.error(key, "null, but the vocabulary needs it"))?.content, 0.0))
    };
    let unk_id = spm.unk_id();
    let pieces = spm.pieces;
    let vocab = match family {
        // The order of fairseq: its own four tokens, then the pieces but for the model's own first three, then the mask.
        Family::XlmRoberta => {
            let mut vocab = vec![text("bos_token")?, text("pad_token")?, text("eos_token")?, text("unk_token")?];
            vocab.extend(pieces.into_iter().skip(3));
            vocab.push(text("mask_token")?);
            vocab
        }
        // The model's own tokens are in the pieces a second time; a low score keeps the unknown one from being used.
        Family::Camembert => {
            let unused = |text: &str, score| (text.to_owned(), score);
            let mut vocab = vec![unused("<s>NOTUSED", 0.0), text("pad_token")?, unused("</s>NOTUSED", 0.0)];
            vocab.extend([text("unk_token")?, unused("<unk>NOTUSED", -100.0)]);
            vocab.extend(pieces.into_iter().skip(1));
            vocab.push(text("mask_token")?);
            vocab
        }
        Family::T5 => {
            let sentinels = settings.count("extra_ids", 100, MAX_SENTINELS)?;
            let mut vocab = pieces;
            vocab.extend((0..sentinels).rev().map(|i| (format!("<extra_id_{i}>"), 0.0)));
            vocab
        }
        _ => pieces,
    };
    let vocab = Vocabulary::Scores(vocab);
    // The reference leaves SigLIP's texts to SentencePiece, which finds no control pieces in them.
    let added = (family != Family::Siglip).then_some(spm.added);
    Ok(Source { path, vocab, merges: None, charsmap: spm.charsmap, unk_id, added })
}

/// The generic class around a SentencePiece model, for folders that have no `tokenizer.json`.
fn from_sentencepiece(files: &Files, class: &Class, settings: &Settings) -> Result<Parts> {
    if !class.generic {
        return Err(Error::Unsupported {
            path: files.path("tokenizer_config.json"),
            key: "tokenizer_class".into(),
            value: class.name.chars().take(80).collect(),
            supported: format!("any with a tokenizer.json, and without one {}", buildable()),
        });
    }
    let path = files.first(&["tokenizer.model"]).ok_or_else(|| Error::MissingFile {
        folder: files.folder.clone(),
        expected: "`tokenizer.json` or `tokenizer.model`".into(),
        remedy: "or name the class of the vocabulary that is there as `tokenizer_class` in tokenizer_config.json"
            .into(),
    })?;
    let spm = SentencePiece::read(&path)?;
    let (vocab, merges) = if spm.is_unigram() {
        (Vocabulary::Scores(spm.pieces.clone()), None)
    } else {
        let (vocab, merges) = spm.bpe(&path)?;
        (with_new_names(vocab, settings), Some(merges))
    };
    let special = spm.special().into_iter();
    let defaults = special.filter_map(|(key, text)| Some((key, text?.to_owned()))).collect();
    let (unk, byte_fallback) = (spm.unk_piece().to_owned(), spm.byte_fallback());
    let unk_id = spm.unk_id();
    let source = Source { path: path.clone(), vocab, merges, charsmap: spm.charsmap, unk_id, added: None };
    Ok(Parts {
        path,
        pipeline: build::generic(source, &unk, byte_fallback)?,
        post_processor: None,
        defaults,
        spm_added: Some(spm.added),
        sides: [None; 2],
        json_added: Vec::new(),
    })
}

/// Placeholder pieces take the texts that `added_tokens_decoder` has for their ids.
fn with_new_names(vocab: Vocabulary, settings: &Settings) -> Vocabulary {
    let Vocabulary::Ids(mut ids) = vocab else { return vocab };
    let wanted = |id: &u32| settings.added.get(id);
    let mut old: Vec<(String, u32)> =
        ids.iter().filter(|(_, id)| wanted(id).is_some()).map(|(text, id)| (text.clone(), *id)).collect();
    old.sort_unstable_by_key(|&(_, id)| id);
    for (text, id) in old {
        if let Some(token) = wanted(&id).filter(|token| token.content != text && !ids.contains_key(&token.content)) {
            ids.remove(&text);
            ids.insert(token.content.clone(), id);
        }
    }
    Vocabulary::Ids(ids)
}

/// The special tokens without a name.
fn extra_tokens(family: Option<Family>, settings: &Settings, spm_added: Option<Vec<Added>>) -> Result<Vec<Added>> {
    let mut additional = spm_added.or_else(|| settings.additional.clone());
    match family {
        Some(Family::T5) => {
            let count = settings.count("extra_ids", 100, MAX_SENTINELS)?;
            let mut tokens = additional.unwrap_or_default();
            let found = tokens.iter().filter(|token| token.content.contains("<extra_id_")).count();
            if found == 0 {
                tokens.extend((0..count).map(|i| Added::special(&format!("<extra_id_{i}>"))));
            } else if count > 0 && found != count {
                let reason = format!("{count}, but the additional special tokens have {found} sentinels");
                return Err(settings.error("extra_ids", reason));
            }
            additional = Some(tokens);
        }
        Some(Family::Camembert) if additional.is_none() => {
            let unused = ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"];
            additional = Some(unused.into_iter().map(Added::special).collect());
        }
        _ => {}
    }
    Ok(settings.extra.clone().or(additional).unwrap_or_default())
}

/// All tokens to add, in order: those of the folder by id, the named special ones, the model's own, the others.
fn added_tokens(
    settings: &Settings,
    named: &[(&'static str, Added)],
    extra: &[Added],
    json_added: &[Added],
) -> Vec<Added> {
    let mut tokens: Vec<Added> = settings.added.values().cloned().collect();
    let known: HashSet<&str> = settings.added.values().chain(json_added).map(|token| token.content.as_str()).collect();
    let own = settings.model_specific.iter().map(|(_, token)| token);
    let special: Vec<&Added> = named.iter().map(|(_, token)| token).chain(own).collect();
    let new = special.iter().copied().chain(extra).filter(|token| !known.contains(token.content.as_str()));
    tokens.extend(new.cloned());
    let names: HashSet<&str> = special.iter().map(|token| token.content.as_str()).collect();
    for token in &mut tokens {
        token.special |= names.contains(token.content.as_str());
    }
    tokens
}

/// The post-processor that the class ends up with.
fn final_post_processor(
    path: &Path,
    family: Option<Family>,
    from_file: Option<PostProcessorWrapper>,
    settings: &Settings,
    special: &SpecialTokens,
    backend: &tokenizers::Tokenizer,
) -> Result<PostProcessorWrapper> {
    let need = |token: &'_ Option<SpecialToken>, key: &str| -> Result<(String, u32)> {
        let token = token.as_ref().ok_or_else(|| settings.error(key, "null, but it stands around every text"))?;
        Ok((token.text.clone(), token.id))
    };
    fn borrow((text, id): &(String, u32)) -> (&str, u32) {
        (text, *id)
    }
    match family {
        Some(Family::Bert | Family::DebertaV2) => {
            let (cls, sep) = (need(&special.cls, "cls_token")?, need(&special.sep, "sep_token")?);
            return post::bert(path, borrow(&cls), borrow(&sep));
        }
        Some(Family::Roberta | Family::Mpnet) => {
            let (cls, sep) = (need(&special.cls, "cls_token")?, need(&special.sep, "sep_token")?);
            let roberta = tokenizers::processors::roberta::RobertaProcessing::new(sep, cls);
            let is_roberta = family == Some(Family::Roberta);
            let trim = !is_roberta || settings.flag("trim_offsets", true)?;
            let prefix = is_roberta && settings.flag("add_prefix_space", false)?;
            return Ok(roberta.trim_offsets(trim).add_prefix_space(prefix).into());
        }
        Some(Family::Clip) => {
            let (bos, eos) = (need(&special.bos, "bos_token")?, need(&special.eos, "eos_token")?);
            let around = tokenizers::processors::roberta::RobertaProcessing::new(eos, bos);
            return Ok(around.trim_offsets(false).add_prefix_space(false).into());
        }
        Some(Family::XlmRoberta | Family::Camembert) => {
            let (bos, eos) = (need(&special.bos, "bos_token")?, need(&special.eos, "eos_token")?);
            return post::fairseq(path, borrow(&bos), borrow(&eos));
        }
        Some(Family::Siglip | Family::T5) => {
            use post::Part::{A, B, Token};
            let (_, id) = need(&special.eos, "eos_token")?;
            // The name is fixed whatever the text of the token is.
            let eos = Token("</s>", 0);
            return post::template(path, &[A(0), eos], &[A(0), eos, B(0), eos], &[("</s>", id)]);
        }
        _ => {}
    }
    let asks = settings.has("add_bos_token") || settings.has("add_eos_token");
    match (family, from_file) {
        (Some(Family::GptNeoX), _) => {}
        (_, Some(processor)) if !asks => return Ok(processor),
        (Some(Family::Albert), None) if !asks => {
            // Only a token of the model counts here, not one that was added.
            let id = |token: &Option<SpecialToken>, key| {
                let (text, _) = need(token, key)?;
                let id = tokenizers::Model::token_to_id(backend.get_model(), &text);
                id.ok_or_else(|| Error::tokenizer(path, format_args!("`{key}` `{text}` is not in the vocabulary")))
            };
            let (cls, sep) = (id(&special.cls, "cls_token")?, id(&special.sep, "sep_token")?);
            return post::bert(path, ("[CLS]", cls), ("[SEP]", sep));
        }
        _ => {}
    }
    fn wanted(token: &Option<SpecialToken>, add: bool) -> Option<(&str, u32)> {
        token.as_ref().filter(|_| add).map(|token| (token.text.as_str(), token.id))
    }
    let bos = wanted(&special.bos, settings.flag("add_bos_token", false)?);
    let eos = wanted(&special.eos, settings.flag("add_eos_token", false)?);
    post::bos_eos(path, bos, eos)
}
