//! Which tokenizer class a folder asks for.
//!
//! Reference: transformers 5.23, `models/auto/tokenization_auto.py`. A class with a pipeline of its own (a [`Family`])
//! takes only the vocabulary, the merges, the post-processor and the character map from `tokenizer.json` and builds the
//! rest from `tokenizer_config.json`; any other class uses `tokenizer.json` as it is.

use super::files::Files;

/// The tokenizer pipelines that are built here and not read from `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Albert,
    Bert,
    Camembert,
    Clip,
    DebertaV2,
    Gemma,
    Gpt2,
    GptNeoX,
    Llama,
    Mpnet,
    Qwen2,
    Roberta,
    Siglip,
    T5,
    XlmRoberta,
}

/// A tokenizer class of the reference.
#[derive(Debug, Clone)]
pub(super) struct Class {
    /// Its name, `BertTokenizer`.
    pub name: String,
    /// Its pipeline; `None` if `tokenizer.json` is used as it is.
    pub family: Option<Family>,
    /// Whether it is the reference's generic class, which can be built from a SentencePiece model alone.
    pub generic: bool,
    /// Whether its models take `token_type_ids`, unless the config says otherwise.
    pub token_type_ids: bool,
    /// Whether it pads on the left, unless the config says otherwise.
    pub pads_left: bool,
}

/// The generic class of the reference.
const GENERIC: &str = "TokenizersBackend";

/// Classes: name, pipeline, whether their models take `token_type_ids`, whether they pad on the left.
#[rustfmt::skip]
const CLASSES: &[(&str, Option<Family>, bool, bool)] = &[
    ("AlbertTokenizer", Some(Family::Albert), false, false),
    ("BertTokenizer", Some(Family::Bert), true, false),
    ("CLIPTokenizer", Some(Family::Clip), false, false),
    ("CamembertTokenizer", Some(Family::Camembert), false, false),
    ("CodeLlamaTokenizer", None, false, true),
    ("CohereTokenizer", None, false, true),
    ("ConvBertTokenizer", None, true, false),
    ("DebertaTokenizer", None, true, false),
    ("DebertaV2Tokenizer", Some(Family::DebertaV2), true, false),
    ("DistilBertTokenizer", Some(Family::Bert), false, false),
    ("FNetTokenizer", None, true, false),
    ("GPT2Tokenizer", Some(Family::Gpt2), false, false),
    ("GPTNeoXTokenizer", Some(Family::GptNeoX), false, false),
    ("GemmaTokenizer", Some(Family::Gemma), false, true),
    ("LlamaTokenizer", Some(Family::Llama), false, true),
    ("MPNetTokenizer", Some(Family::Mpnet), false, false),
    ("Qwen2Tokenizer", Some(Family::Qwen2), false, false),
    ("RobertaTokenizer", Some(Family::Roberta), false, false),
    ("SiglipTokenizer", Some(Family::Siglip), false, false),
    ("T5Tokenizer", Some(Family::T5), false, false),
    ("XLMRobertaTokenizer", Some(Family::XlmRoberta), false, false),
    ("XLNetTokenizer", None, false, true),
];

/// Other names of classes in [`CLASSES`].
const ALIASES: &[(&str, &str)] = &[
    ("BartTokenizer", "RobertaTokenizer"),
    ("DPRContextEncoderTokenizer", "BertTokenizer"),
    ("DPRQuestionEncoderTokenizer", "BertTokenizer"),
    ("ElectraTokenizer", "BertTokenizer"),
    ("LEDTokenizer", "RobertaTokenizer"),
    ("LayoutLMTokenizer", "BertTokenizer"),
    ("LongformerTokenizer", "RobertaTokenizer"),
    ("LxmertTokenizer", "BertTokenizer"),
    ("MobileBertTokenizer", "BertTokenizer"),
    ("MvpTokenizer", "RobertaTokenizer"),
    ("Phi3Tokenizer", "LlamaTokenizer"),
    ("SqueezeBertTokenizer", "BertTokenizer"),
];

/// Names of the generic class, and of classes that the reference replaces by it.
const GENERIC_NAMES: &[&str] =
    &[GENERIC, "PreTrainedTokenizerFast", "PreTrainedTokenizer", "PythonBackend", "BloomTokenizer"];

/// The class that the reference registers for a `model_type`. Architectures whose class has no pipeline here are left
/// out: what follows for them is the same as for an unknown one.
#[rustfmt::skip]
const REGISTERED: &[(&str, &[&str])] = &[
    ("AlbertTokenizer", &["albert", "yoso"]),
    ("BertTokenizer", &["align", "bark", "bert", "blip", "bros", "chinese_clip", "convbert", "distilbert", "electra",
        "ernie", "flava", "git", "grounding-dino", "layoutlm", "megatron-bert", "mm-grounding-dino", "nezha", "nomic_bert",
        "qdqbert", "realm", "retribert", "squeezebert", "tvp", "vilt", "visual_bert"]),
    ("CLIPTokenizer", &["aimv2", "clip", "clipseg", "groupvit", "omdet-turbo", "oneformer", "owlv2", "owlvit", "sam3",
        "sam3_video", "xclip"]),
    ("CamembertTokenizer", &["camembert"]),
    ("CodeLlamaTokenizer", &["code_llama"]),
    ("CohereTokenizer", &["aya_vision", "cohere", "cohere2"]),
    ("DPRQuestionEncoderTokenizer", &["dpr"]),
    ("DebertaTokenizer", &["deberta"]),
    ("DebertaV2Tokenizer", &["deberta-v2"]),
    ("FNetTokenizer", &["fnet"]),
    ("GPT2Tokenizer", &["blip-2", "codegen", "dbrx", "emu3", "gpt2", "gpt_neo", "gptj", "hyperclovax_vision_v2",
        "instructblip", "instructblipvideo", "jais2", "opt", "phi", "starcoder2"]),
    ("GPTNeoXTokenizer", &["falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv", "xlstm"]),
    ("GemmaTokenizer", &["gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma",
        "shieldgemma2", "t5gemma"]),
    ("LEDTokenizer", &["led"]),
    ("LlamaTokenizer", &["idefics", "idefics2"]),
    ("LxmertTokenizer", &["lxmert"]),
    ("MPNetTokenizer", &["mpnet"]),
    ("MobileBertTokenizer", &["mobilebert"]),
    ("MvpTokenizer", &["mvp"]),
    ("Qwen2Tokenizer", &["audioflamingo3", "colqwen2", "hunyuan_vl", "internvl", "ovis2", "qwen2", "qwen2_5_omni",
        "qwen2_5_vl", "qwen2_audio", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_asr", "qwen3_moe", "qwen3_next",
        "qwen3_omni_moe", "qwen3_vl", "qwen3_vl_moe", "lighton_ocr", "vibevoice"]),
    ("RobertaTokenizer", &["bart", "bridgetower", "clap", "data2vec-text", "florence2", "ibert", "lilt", "longformer",
        "mega", "mra", "roberta", "roberta-prelayernorm"]),
    ("SiglipTokenizer", &["siglip"]),
    ("T5Tokenizer", &["mt5", "musicgen", "musicgen_melody", "switch_transformers", "t5"]),
    ("XLMRobertaTokenizer", &["gte", "jina_embeddings_v3", "metaclip_2", "trocr", "xlm-roberta", "xmod"]),
    ("XLNetTokenizer", &["xlnet"]),
    (GENERIC, &["arctic", "aria", "bigbird_pegasus", "camembertv2-base", "chatlm", "cohere_asr", "ernie4_5",
        "ernie4_5_moe", "flex_olmo", "fuyu", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm4v", "glm4v_moe", "glm_image",
        "glmasr", "got_ocr2", "gpt_bigcode", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared",
        "h2ovl_chat", "hyperclovax", "hyperclovax_vlm", "internlm2", "internlm3", "iquestcoder", "jamba", "kimi_k25",
        "kimi_linear", "kosmos-2", "llava", "llava_next", "mimo_v2_flash", "minicpm3", "minicpmv", "minimax_m2",
        "ministral", "ministral3", "mistral", "mistral3", "mistral_large4", "mixtral", "modernbert",
        "modernbert-decoder", "molmo", "molmo2", "nemotron", "nystromformer", "olmo2", "olmo3", "olmo_hybrid", "opencua",
        "openvla", "paddleocr_vl", "pegasus_x", "persimmon", "phi3", "phi3_v", "phimoe", "pix2struct", "pixtral",
        "smolvlm", "stablelm", "step3_vl", "umt5", "vipllava", "voxtral", "voxtral_realtime", "xlm-roberta-xl"]),
];

/// Architectures whose folders on the Hub name a class that the reference overrules with the registered one.
const OVERRULED: &[&str] = &["hyperclovax_vision_v2", "qwen2"];

/// The class for a folder: what `tokenizer_config.json` or `config.json` names, unless the reference overrules it.
pub(super) fn resolve(files: &Files) -> Class {
    let named = files.class_name();
    let model_type = files.model_type().unwrap_or_default();
    let registered = REGISTERED.iter().find(|(_, types)| types.contains(&model_type)).map(|&(class, _)| class);
    let Some(named) = named else {
        // An architecture that the reference does not register gets the generic class.
        return class(registered.unwrap_or(GENERIC));
    };
    // Llama 3 and its kin declare the SentencePiece class but hold a byte-level vocabulary.
    if named == "LlamaTokenizer" && !OVERRULED.contains(&model_type) && files.tokenizer_json_names_byte_level() {
        return class(GENERIC);
    }
    match registered {
        Some(GENERIC) => class(GENERIC),
        Some(registered) if registered != named && OVERRULED.contains(&model_type) => class(registered),
        _ => class(named),
    }
}

/// The class of this name.
fn class(name: &str) -> Class {
    let canonical = ALIASES.iter().find(|&&(alias, _)| alias == name).map_or(name, |&(_, class)| class);
    let known = CLASSES.iter().find(|&&(class, ..)| class == canonical);
    let &(_, family, token_type_ids, pads_left) = known.unwrap_or(&(GENERIC, None, false, false));
    Class { name: name.to_owned(), family, generic: GENERIC_NAMES.contains(&name), token_type_ids, pads_left }
}

/// The classes that can be built without `tokenizer.json`, for messages.
pub(super) fn buildable() -> String {
    let names: Vec<&str> = CLASSES.iter().filter(|(_, family, ..)| family.is_some()).map(|&(name, ..)| name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_and_unknown_classes() {
        assert_eq!(class("ElectraTokenizer").family, Some(Family::Bert));
        assert!(!class("DistilBertTokenizer").token_type_ids);
        assert!(class("TokenizersBackend").generic);
        let other = class("WhisperTokenizer");
        assert!(other.family.is_none() && !other.generic && other.name == "WhisperTokenizer");
    }

    #[test]
    fn tables_name_only_known_classes() {
        let known = |name: &str| CLASSES.iter().any(|&(class, ..)| class == name) || name == GENERIC;
        assert!(ALIASES.iter().all(|&(alias, class)| known(class) && !known(alias)));
        assert!(REGISTERED.iter().all(|&(name, _)| known(name) || ALIASES.iter().any(|&(alias, _)| alias == name)));
    }
}
