//! Every text architecture. Add a file, a `mod` line and the lines of its heads; keep all of them sorted.

mod albert;
mod bert;
mod deberta_v2;
mod distilbert;
mod electra;
mod modernbert;
mod mpnet;
mod roberta;

use tx_core::registry::{
    Class, Entry, masked_lm, multiple_choice, next_sentence_predictor, question_answerer, sequence_classifier,
    text_model, token_classifier, token_discriminator,
};
use tx_core::task::{
    MaskedLm, MultipleChoice, NextSentencePredictor, QuestionAnswerer, SequenceClassifier, TextModel, TokenClassifier,
    TokenDiscriminator,
};

/// Text to hidden states: HF's `AutoModel`.
pub static TEXT_MODEL: &[Entry<dyn TextModel>] = &[
    text_model::<albert::AlbertModel>("albert", "AlbertModel"),
    text_model::<bert::BertModel>("bert", "BertModel"),
    text_model::<roberta::RobertaModel>("camembert", "CamembertModel"),
    text_model::<deberta_v2::DebertaV2Model>("deberta-v2", "DebertaV2Model"),
    text_model::<distilbert::DistilBertModel>("distilbert", "DistilBertModel"),
    text_model::<electra::ElectraModel>("electra", "ElectraModel"),
    text_model::<modernbert::ModernBertModel>("modernbert", "ModernBertModel"),
    text_model::<mpnet::MpnetModel>("mpnet", "MPNetModel"),
    text_model::<roberta::RobertaModel>("roberta", "RobertaModel"),
    text_model::<roberta::RobertaModel>("xlm-roberta", "XLMRobertaModel"),
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
    sequence_classifier::<roberta::RobertaForSequenceClassification>("camembert", "CamembertForSequenceClassification"),
    sequence_classifier::<deberta_v2::DebertaV2ForSequenceClassification>(
        "deberta-v2",
        "DebertaV2ForSequenceClassification",
    ),
    sequence_classifier::<distilbert::DistilBertForSequenceClassification>(
        "distilbert",
        "DistilBertForSequenceClassification",
    ),
    sequence_classifier::<electra::ElectraForSequenceClassification>("electra", "ElectraForSequenceClassification"),
    sequence_classifier::<modernbert::ModernBertForSequenceClassification>(
        "modernbert",
        "ModernBertForSequenceClassification",
    ),
    sequence_classifier::<mpnet::MpnetForSequenceClassification>("mpnet", "MPNetForSequenceClassification"),
    sequence_classifier::<roberta::RobertaForSequenceClassification>("roberta", "RobertaForSequenceClassification"),
    sequence_classifier::<roberta::RobertaForSequenceClassification>(
        "xlm-roberta",
        "XLMRobertaForSequenceClassification",
    ),
];

/// HF's `AutoModelForTokenClassification`.
pub static TOKEN_CLASSIFICATION: &[Entry<dyn TokenClassifier>] = &[
    token_classifier::<albert::AlbertForTokenClassification>("albert", "AlbertForTokenClassification"),
    token_classifier::<bert::BertForTokenClassification>("bert", "BertForTokenClassification"),
    token_classifier::<roberta::RobertaForTokenClassification>("camembert", "CamembertForTokenClassification"),
    token_classifier::<deberta_v2::DebertaV2ForTokenClassification>("deberta-v2", "DebertaV2ForTokenClassification"),
    token_classifier::<distilbert::DistilBertForTokenClassification>("distilbert", "DistilBertForTokenClassification"),
    token_classifier::<electra::ElectraForTokenClassification>("electra", "ElectraForTokenClassification"),
    token_classifier::<modernbert::ModernBertForTokenClassification>("modernbert", "ModernBertForTokenClassification"),
    token_classifier::<mpnet::MpnetForTokenClassification>("mpnet", "MPNetForTokenClassification"),
    token_classifier::<roberta::RobertaForTokenClassification>("roberta", "RobertaForTokenClassification"),
    token_classifier::<roberta::RobertaForTokenClassification>("xlm-roberta", "XLMRobertaForTokenClassification"),
];

/// HF's `AutoModelForQuestionAnswering`.
pub static QUESTION_ANSWERING: &[Entry<dyn QuestionAnswerer>] = &[
    question_answerer::<albert::AlbertForQuestionAnswering>("albert", "AlbertForQuestionAnswering"),
    question_answerer::<bert::BertForQuestionAnswering>("bert", "BertForQuestionAnswering"),
    question_answerer::<roberta::RobertaForQuestionAnswering>("camembert", "CamembertForQuestionAnswering"),
    question_answerer::<deberta_v2::DebertaV2ForQuestionAnswering>("deberta-v2", "DebertaV2ForQuestionAnswering"),
    question_answerer::<distilbert::DistilBertForQuestionAnswering>("distilbert", "DistilBertForQuestionAnswering"),
    question_answerer::<electra::ElectraForQuestionAnswering>("electra", "ElectraForQuestionAnswering"),
    question_answerer::<modernbert::ModernBertForQuestionAnswering>("modernbert", "ModernBertForQuestionAnswering"),
    question_answerer::<mpnet::MpnetForQuestionAnswering>("mpnet", "MPNetForQuestionAnswering"),
    question_answerer::<roberta::RobertaForQuestionAnswering>("roberta", "RobertaForQuestionAnswering"),
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
    fn lines<T: ?Sized>(table: &'static [Entry<T>]) -> impl Iterator<Item = &'static dyn Class>
    where
        Entry<T>: Class,
    {
        table.iter().map(|entry| entry as &dyn Class)
    }
    lines(TEXT_MODEL)
        .chain(lines(MASKED_LM))
        .chain(lines(SEQUENCE_CLASSIFICATION))
        .chain(lines(TOKEN_CLASSIFICATION))
        .chain(lines(QUESTION_ANSWERING))
        .chain(lines(MULTIPLE_CHOICE))
        .chain(lines(NEXT_SENTENCE_PREDICTION))
        .chain(lines(TOKEN_DISCRIMINATION))
        .collect()
}
