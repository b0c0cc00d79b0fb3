//! Every text architecture. Add a file, a `mod` line and the lines of its heads; keep all of them sorted.

mod albert;
mod bert;
mod bloom;
mod cohere;
mod deberta_v2;
mod deepseek_v3;
mod distilbert;
mod electra;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod llama;
mod mamba;
mod mamba2;
mod mistral;
mod mixtral;
mod modernbert;
mod mpnet;
mod mpt;
mod olmo2;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod roberta;
mod smollm3;
mod stablelm;
mod starcoder2;

use tx_core::decoder::{ForCausalLm, ForQuestionAnswering, ForSequenceClassification, ForTokenClassification};
use tx_core::registry::{
    Class, Entry, causal_lm, lines, masked_lm, multiple_choice, next_sentence_predictor, question_answerer,
    sequence_classifier, text_model, token_classifier, token_discriminator,
};
use tx_core::task::{
    CausalLm, MaskedLm, MultipleChoice, NextSentencePredictor, QuestionAnswerer, SequenceClassifier, TextModel,
    TokenClassifier, TokenDiscriminator,
};

/// Text to hidden states: HF's `AutoModel`.
pub static TEXT_MODEL: &[Entry<dyn TextModel>] = &[
    text_model::<albert::AlbertModel>("albert", "AlbertModel"),
    text_model::<bert::BertModel>("bert", "BertModel"),
    text_model::<bloom::BloomModel>("bloom", "BloomModel"),
    text_model::<roberta::RobertaModel>("camembert", "CamembertModel"),
    text_model::<cohere::CohereModel>("cohere", "CohereModel"),
    text_model::<deberta_v2::DebertaV2Model>("deberta-v2", "DebertaV2Model"),
    text_model::<deepseek_v3::DeepseekV3Model>("deepseek_v3", "DeepseekV3Model"),
    text_model::<distilbert::DistilBertModel>("distilbert", "DistilBertModel"),
    text_model::<electra::ElectraModel>("electra", "ElectraModel"),
    text_model::<falcon::FalconModel>("falcon", "FalconModel"),
    text_model::<gemma::GemmaModel>("gemma", "GemmaModel"),
    text_model::<gemma2::Gemma2Model>("gemma2", "Gemma2Model"),
    text_model::<gemma3_text::Gemma3TextModel>("gemma3_text", "Gemma3TextModel"),
    text_model::<gpt2::Gpt2Model>("gpt2", "GPT2Model"),
    text_model::<gpt_neo::GptNeoModel>("gpt_neo", "GPTNeoModel"),
    text_model::<gpt_neox::GptNeoxModel>("gpt_neox", "GPTNeoXModel"),
    text_model::<gpt_oss::GptOssModel>("gpt_oss", "GptOssModel"),
    text_model::<gptj::GptjModel>("gptj", "GPTJModel"),
    text_model::<granite::GraniteModel>("granite", "GraniteModel"),
    text_model::<llama::LlamaModel>("llama", "LlamaModel"),
    text_model::<mamba::MambaModel>("mamba", "MambaModel"),
    text_model::<mamba2::Mamba2Model>("mamba2", "Mamba2Model"),
    text_model::<mistral::MistralModel>("mistral", "MistralModel"),
    text_model::<mixtral::MixtralModel>("mixtral", "MixtralModel"),
    text_model::<modernbert::ModernBertModel>("modernbert", "ModernBertModel"),
    text_model::<mpnet::MpnetModel>("mpnet", "MPNetModel"),
    text_model::<mpt::MptModel>("mpt", "MptModel"),
    text_model::<olmo2::Olmo2Model>("olmo2", "Olmo2Model"),
    text_model::<opt::OptModel>("opt", "OPTModel"),
    text_model::<phi::PhiModel>("phi", "PhiModel"),
    text_model::<phi3::Phi3Model>("phi3", "Phi3Model"),
    text_model::<qwen2::Qwen2Model>("qwen2", "Qwen2Model"),
    text_model::<qwen2_moe::Qwen2MoeModel>("qwen2_moe", "Qwen2MoeModel"),
    text_model::<qwen3::Qwen3Model>("qwen3", "Qwen3Model"),
    text_model::<qwen3_moe::Qwen3MoeModel>("qwen3_moe", "Qwen3MoeModel"),
    text_model::<roberta::RobertaModel>("roberta", "RobertaModel"),
    text_model::<smollm3::SmolLm3Model>("smollm3", "SmolLM3Model"),
    text_model::<stablelm::StableLmModel>("stablelm", "StableLmModel"),
    text_model::<starcoder2::Starcoder2Model>("starcoder2", "Starcoder2Model"),
    text_model::<roberta::RobertaModel>("xlm-roberta", "XLMRobertaModel"),
];

/// HF's `AutoModelForCausalLM`.
pub static CAUSAL_LM: &[Entry<dyn CausalLm>] = &[
    causal_lm::<ForCausalLm<bloom::BloomModel>>("bloom", "BloomForCausalLM"),
    causal_lm::<ForCausalLm<cohere::CohereModel>>("cohere", "CohereForCausalLM"),
    causal_lm::<ForCausalLm<deepseek_v3::DeepseekV3Model>>("deepseek_v3", "DeepseekV3ForCausalLM"),
    causal_lm::<ForCausalLm<falcon::FalconModel>>("falcon", "FalconForCausalLM"),
    causal_lm::<ForCausalLm<gemma::GemmaModel>>("gemma", "GemmaForCausalLM"),
    causal_lm::<ForCausalLm<gemma2::Gemma2Model>>("gemma2", "Gemma2ForCausalLM"),
    causal_lm::<ForCausalLm<gemma3_text::Gemma3TextModel>>("gemma3_text", "Gemma3ForCausalLM"),
    causal_lm::<ForCausalLm<gpt2::Gpt2Model>>("gpt2", "GPT2LMHeadModel"),
    causal_lm::<ForCausalLm<gpt_neo::GptNeoModel>>("gpt_neo", "GPTNeoForCausalLM"),
    causal_lm::<ForCausalLm<gpt_neox::GptNeoxModel>>("gpt_neox", "GPTNeoXForCausalLM"),
    causal_lm::<ForCausalLm<gpt_oss::GptOssModel>>("gpt_oss", "GptOssForCausalLM"),
    causal_lm::<ForCausalLm<gptj::GptjModel>>("gptj", "GPTJForCausalLM"),
    causal_lm::<ForCausalLm<granite::GraniteModel>>("granite", "GraniteForCausalLM"),
    causal_lm::<ForCausalLm<llama::LlamaModel>>("llama", "LlamaForCausalLM"),
    causal_lm::<ForCausalLm<mamba::MambaModel>>("mamba", "MambaForCausalLM"),
    causal_lm::<ForCausalLm<mamba2::Mamba2Model>>("mamba2", "Mamba2ForCausalLM"),
    causal_lm::<ForCausalLm<mistral::MistralModel>>("mistral", "MistralForCausalLM"),
    causal_lm::<ForCausalLm<mixtral::MixtralModel>>("mixtral", "MixtralForCausalLM"),
    causal_lm::<ForCausalLm<mpt::MptModel>>("mpt", "MptForCausalLM"),
    causal_lm::<ForCausalLm<olmo2::Olmo2Model>>("olmo2", "Olmo2ForCausalLM"),
    causal_lm::<ForCausalLm<opt::OptModel>>("opt", "OPTForCausalLM"),
    causal_lm::<ForCausalLm<phi::PhiModel>>("phi", "PhiForCausalLM"),
    causal_lm::<ForCausalLm<phi3::Phi3Model>>("phi3", "Phi3ForCausalLM"),
    causal_lm::<ForCausalLm<qwen2::Qwen2Model>>("qwen2", "Qwen2ForCausalLM"),
    causal_lm::<ForCausalLm<qwen2_moe::Qwen2MoeModel>>("qwen2_moe", "Qwen2MoeForCausalLM"),
    causal_lm::<ForCausalLm<qwen3::Qwen3Model>>("qwen3", "Qwen3ForCausalLM"),
    causal_lm::<ForCausalLm<qwen3_moe::Qwen3MoeModel>>("qwen3_moe", "Qwen3MoeForCausalLM"),
    causal_lm::<ForCausalLm<smollm3::SmolLm3Model>>("smollm3", "SmolLM3ForCausalLM"),
    causal_lm::<ForCausalLm<stablelm::StableLmModel>>("stablelm", "StableLmForCausalLM"),
    causal_lm::<ForCausalLm<starcoder2::Starcoder2Model>>("starcoder2", "Starcoder2ForCausalLM"),
];

/// HF's `AutoModelForMaskedLM`.
pub static MASKED_LM: &[Entry<dyn MaskedLm>] = &[
    masked_lm::<albert::AlbertForMaskedLm>("albert", "AlbertForMaskedLM"),
    masked_lm::<bert::BertForMaskedLm>("bert", "BertForMaskedLM"),
    masked_lm::<roberta::RobertaForMaskedLm>("camembert", "CamembertForMaskedLM"),
    masked_lm::<deberta_v2::DebertaV2ForMaskedLm>("deberta-v2", "DebertaV2ForMaskedLM"),
    masked_lm::<distilbert::DistilBertForMaskedLm>("distilbert", "DistilBertForMaskedLM"),
    masked_lm::<electra::ElectraForMaskedLm>("electra", "ElectraForMaskedLM"),
    masked_lm::<modernbert::ModernBertForMaskedLm>("modernbert", "ModernBertForMaskedLM"),
    masked_lm::<mpnet::MpnetForMaskedLm>("mpnet", "MPNetForMaskedLM"),
    masked_lm::<roberta::RobertaForMaskedLm>("roberta", "RobertaForMaskedLM"),
    masked_lm::<roberta::RobertaForMaskedLm>("xlm-roberta", "XLMRobertaForMaskedLM"),
];

/// HF's `AutoModelForSequenceClassification`.
pub static SEQUENCE_CLASSIFICATION: &[Entry<dyn SequenceClassifier>] = &[
    sequence_classifier::<albert::AlbertForSequenceClassification>("albert", "AlbertForSequenceClassification"),
    sequence_classifier::<bert::BertForSequenceClassification>("bert", "BertForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<bloom::BloomModel>>("bloom", "BloomForSequenceClassification"),
    sequence_classifier::<roberta::RobertaForSequenceClassification>("camembert", "CamembertForSequenceClassification"),
    sequence_classifier::<deberta_v2::DebertaV2ForSequenceClassification>(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<deepseek_v3::DeepseekV3Model>>(
        "deepseek_v3",
        "DeepseekV3ForSequenceClassification",
    ),
    sequence_classifier::<distilbert::DistilBertForSequenceClassification>(
        "distilbert",
        "DistilBertForSequenceClassification",
    ),
    sequence_classifier::<electra::ElectraForSequenceClassification>("electra", "ElectraForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<falcon::FalconModel>>("falcon", "FalconForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<gemma::GemmaModel>>("gemma", "GemmaForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<gemma2::Gemma2Model>>("gemma2", "Gemma2ForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<gemma3_text::Gemma3TextModel>>(
        "gemma3_text",
        "Gemma3TextForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<gpt2::Gpt2Model>>("gpt2", "GPT2ForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<gpt_neo::GptNeoModel>>(
        "gpt_neo",
        "GPTNeoForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<gpt_neox::GptNeoxModel>>(
        "gpt_neox",
        "GPTNeoXForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<gpt_oss::GptOssModel>>(
        "gpt_oss",
        "GptOssForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<gptj::GptjModel>>("gptj", "GPTJForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<llama::LlamaModel>>("llama", "LlamaForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<mistral::MistralModel>>(
        "mistral",
        "MistralForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<mixtral::MixtralModel>>(
        "mixtral",
        "MixtralForSequenceClassification",
    ),
    sequence_classifier::<modernbert::ModernBertForSequenceClassification>(
        "modernbert",
        "ModernBertForSequenceClassification",
    ),
    sequence_classifier::<mpnet::MpnetForSequenceClassification>("mpnet", "MPNetForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<mpt::MptModel>>("mpt", "MptForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<olmo2::Olmo2Model>>("olmo2", "Olmo2ForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<opt::OptModel>>("opt", "OPTForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<phi::PhiModel>>("phi", "PhiForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<phi3::Phi3Model>>("phi3", "Phi3ForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<qwen2::Qwen2Model>>("qwen2", "Qwen2ForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<qwen2_moe::Qwen2MoeModel>>(
        "qwen2_moe",
        "Qwen2MoeForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<qwen3::Qwen3Model>>("qwen3", "Qwen3ForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<qwen3_moe::Qwen3MoeModel>>(
        "qwen3_moe",
        "Qwen3MoeForSequenceClassification",
    ),
    sequence_classifier::<roberta::RobertaForSequenceClassification>("roberta", "RobertaForSequenceClassification"),
    sequence_classifier::<ForSequenceClassification<smollm3::SmolLm3Model>>(
        "smollm3",
        "SmolLM3ForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<stablelm::StableLmModel>>(
        "stablelm",
        "StableLmForSequenceClassification",
    ),
    sequence_classifier::<ForSequenceClassification<starcoder2::Starcoder2Model>>(
        "starcoder2",
        "Starcoder2ForSequenceClassification",
    ),
    sequence_classifier::<roberta::RobertaForSequenceClassification>(
        "xlm-roberta",
        "XLMRobertaForSequenceClassification",
    ),
];

/// HF's `AutoModelForTokenClassification`.
pub static TOKEN_CLASSIFICATION: &[Entry<dyn TokenClassifier>] = &[
    token_classifier::<albert::AlbertForTokenClassification>("albert", "AlbertForTokenClassification"),
    token_classifier::<bert::BertForTokenClassification>("bert", "BertForTokenClassification"),
    token_classifier::<ForTokenClassification<bloom::BloomModel>>("bloom", "BloomForTokenClassification"),
    token_classifier::<roberta::RobertaForTokenClassification>("camembert", "CamembertForTokenClassification"),
    token_classifier::<deberta_v2::DebertaV2ForTokenClassification>("deberta-v2", "DebertaV2ForTokenClassification"),
    token_classifier::<ForTokenClassification<deepseek_v3::DeepseekV3Model>>(
        "deepseek_v3",
        "DeepseekV3ForTokenClassification",
    ),
    token_classifier::<distilbert::DistilBertForTokenClassification>("distilbert", "DistilBertForTokenClassification"),
    token_classifier::<electra::ElectraForTokenClassification>("electra", "ElectraForTokenClassification"),
    token_classifier::<ForTokenClassification<falcon::FalconModel>>("falcon", "FalconForTokenClassification"),
    token_classifier::<ForTokenClassification<gemma::GemmaModel>>("gemma", "GemmaForTokenClassification"),
    token_classifier::<ForTokenClassification<gemma2::Gemma2Model>>("gemma2", "Gemma2ForTokenClassification"),
    token_classifier::<ForTokenClassification<gpt2::Gpt2Model>>("gpt2", "GPT2ForTokenClassification"),
    token_classifier::<ForTokenClassification<gpt_neo::GptNeoModel>>("gpt_neo", "GPTNeoForTokenClassification"),
    token_classifier::<ForTokenClassification<gpt_neox::GptNeoxModel>>("gpt_neox", "GPTNeoXForTokenClassification"),
    token_classifier::<ForTokenClassification<gpt_oss::GptOssModel>>("gpt_oss", "GptOssForTokenClassification"),
    token_classifier::<ForTokenClassification<llama::LlamaModel>>("llama", "LlamaForTokenClassification"),
    token_classifier::<ForTokenClassification<mistral::MistralModel>>("mistral", "MistralForTokenClassification"),
    token_classifier::<ForTokenClassification<mixtral::MixtralModel>>("mixtral", "MixtralForTokenClassification"),
    token_classifier::<modernbert::ModernBertForTokenClassification>("modernbert", "ModernBertForTokenClassification"),
    token_classifier::<mpnet::MpnetForTokenClassification>("mpnet", "MPNetForTokenClassification"),
    token_classifier::<ForTokenClassification<mpt::MptModel>>("mpt", "MptForTokenClassification"),
    token_classifier::<ForTokenClassification<phi::PhiModel>>("phi", "PhiForTokenClassification"),
    token_classifier::<ForTokenClassification<phi3::Phi3Model>>("phi3", "Phi3ForTokenClassification"),
    token_classifier::<ForTokenClassification<qwen2::Qwen2Model>>("qwen2", "Qwen2ForTokenClassification"),
    token_classifier::<ForTokenClassification<qwen2_moe::Qwen2MoeModel>>("qwen2_moe", "Qwen2MoeForTokenClassification"),
    token_classifier::<ForTokenClassification<qwen3::Qwen3Model>>("qwen3", "Qwen3ForTokenClassification"),
    token_classifier::<ForTokenClassification<qwen3_moe::Qwen3MoeModel>>("qwen3_moe", "Qwen3MoeForTokenClassification"),
    token_classifier::<roberta::RobertaForTokenClassification>("roberta", "RobertaForTokenClassification"),
    token_classifier::<ForTokenClassification<smollm3::SmolLm3Model>>("smollm3", "SmolLM3ForTokenClassification"),
    token_classifier::<ForTokenClassification<stablelm::StableLmModel>>("stablelm", "StableLmForTokenClassification"),
    token_classifier::<ForTokenClassification<starcoder2::Starcoder2Model>>(
        "starcoder2",
        "Starcoder2ForTokenClassification",
    ),
    token_classifier::<roberta::RobertaForTokenClassification>("xlm-roberta", "XLMRobertaForTokenClassification"),
];

/// HF's `AutoModelForQuestionAnswering`.
pub static QUESTION_ANSWERING: &[Entry<dyn QuestionAnswerer>] = &[
    question_answerer::<albert::AlbertForQuestionAnswering>("albert", "AlbertForQuestionAnswering"),
    question_answerer::<bert::BertForQuestionAnswering>("bert", "BertForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<bloom::BloomModel>>("bloom", "BloomForQuestionAnswering"),
    question_answerer::<roberta::RobertaForQuestionAnswering>("camembert", "CamembertForQuestionAnswering"),
    question_answerer::<deberta_v2::DebertaV2ForQuestionAnswering>("deberta-v2", "DebertaV2ForQuestionAnswering"),
    question_answerer::<distilbert::DistilBertForQuestionAnswering>("distilbert", "DistilBertForQuestionAnswering"),
    question_answerer::<electra::ElectraForQuestionAnswering>("electra", "ElectraForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<falcon::FalconModel>>("falcon", "FalconForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<gpt2::Gpt2Model>>("gpt2", "GPT2ForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<gpt_neo::GptNeoModel>>("gpt_neo", "GPTNeoForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<gpt_neox::GptNeoxModel>>("gpt_neox", "GPTNeoXForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<gptj::GptjModel>>("gptj", "GPTJForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<llama::LlamaModel>>("llama", "LlamaForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<mistral::MistralModel>>("mistral", "MistralForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<mixtral::MixtralModel>>("mixtral", "MixtralForQuestionAnswering"),
    question_answerer::<modernbert::ModernBertForQuestionAnswering>("modernbert", "ModernBertForQuestionAnswering"),
    question_answerer::<mpnet::MpnetForQuestionAnswering>("mpnet", "MPNetForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<mpt::MptModel>>("mpt", "MptForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<opt::OptModel>>("opt", "OPTForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<qwen2::Qwen2Model>>("qwen2", "Qwen2ForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<qwen2_moe::Qwen2MoeModel>>("qwen2_moe", "Qwen2MoeForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<qwen3::Qwen3Model>>("qwen3", "Qwen3ForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<qwen3_moe::Qwen3MoeModel>>("qwen3_moe", "Qwen3MoeForQuestionAnswering"),
    question_answerer::<roberta::RobertaForQuestionAnswering>("roberta", "RobertaForQuestionAnswering"),
    question_answerer::<ForQuestionAnswering<smollm3::SmolLm3Model>>("smollm3", "SmolLM3ForQuestionAnswering"),
    question_answerer::<roberta::RobertaForQuestionAnswering>("xlm-roberta", "XLMRobertaForQuestionAnswering"),
];

/// HF's `AutoModelForMultipleChoice`.
pub static MULTIPLE_CHOICE: &[Entry<dyn MultipleChoice>] = &[
    multiple_choice::<albert::AlbertForMultipleChoice>("albert", "AlbertForMultipleChoice"),
    multiple_choice::<bert::BertForMultipleChoice>("bert", "BertForMultipleChoice"),
    multiple_choice::<roberta::RobertaForMultipleChoice>("camembert", "CamembertForMultipleChoice"),
    multiple_choice::<deberta_v2::DebertaV2ForMultipleChoice>("deberta-v2", "DebertaV2ForMultipleChoice"),
    multiple_choice::<distilbert::DistilBertForMultipleChoice>("distilbert", "DistilBertForMultipleChoice"),
    multiple_choice::<electra::ElectraForMultipleChoice>("electra", "ElectraForMultipleChoice"),
    multiple_choice::<modernbert::ModernBertForMultipleChoice>("modernbert", "ModernBertForMultipleChoice"),
    multiple_choice::<mpnet::MpnetForMultipleChoice>("mpnet", "MPNetForMultipleChoice"),
    multiple_choice::<roberta::RobertaForMultipleChoice>("roberta", "RobertaForMultipleChoice"),
    multiple_choice::<roberta::RobertaForMultipleChoice>("xlm-roberta", "XLMRobertaForMultipleChoice"),
];

/// HF's `AutoModelForNextSentencePrediction`.
pub static NEXT_SENTENCE_PREDICTION: &[Entry<dyn NextSentencePredictor>] =
    &[next_sentence_predictor::<bert::BertForNextSentencePrediction>("bert", "BertForNextSentencePrediction")];

/// HF's `AutoModelForPreTraining`, as far as it tells replaced tokens from true ones.
pub static TOKEN_DISCRIMINATION: &[Entry<dyn TokenDiscriminator>] =
    &[token_discriminator::<electra::ElectraForPreTraining>("electra", "ElectraForPreTraining")];

/// Every class of every table.
pub fn classes() -> Vec<&'static dyn Class> {
    lines(TEXT_MODEL)
        .chain(lines(CAUSAL_LM))
        .chain(lines(MASKED_LM))
        .chain(lines(SEQUENCE_CLASSIFICATION))
        .chain(lines(TOKEN_CLASSIFICATION))
        .chain(lines(QUESTION_ANSWERING))
        .chain(lines(MULTIPLE_CHOICE))
        .chain(lines(NEXT_SENTENCE_PREDICTION))
        .chain(lines(TOKEN_DISCRIMINATION))
        .collect()
}
