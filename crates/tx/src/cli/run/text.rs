//! Tasks on texts.

use serde::de::DeserializeOwned;
use tx_core::config::read_text;
use tx_core::error::{Error, Result};
use tx_core::registry::{Entry, Task};
use tx_core::task::TextLimits;
use tx_core::tokenizer::{Sequence, Text};
use tx_text::models;
use tx_text::pipelines::*;

use super::Command;
use super::files::{MAX_FILE, read_stdin};
use super::table::{Table, bar, components, printable, score, shorten};
use crate::cli::output::print_json;

/// An input that is a JSON object with a task's keys.
fn object<T: DeserializeOwned>(input: &str, keys: &str) -> Result<T> {
    serde_json::from_str(input)
        .map_err(|e| Error::input(format!("`{}`", shorten(input)), e, format_args!("a JSON object with {keys}")))
}

impl Command<'_> {
    /// The model and its tokenizer.
    fn load<T>(&self, tables: &[&'static [Entry<T>]]) -> Result<TokenizedModel<T>>
    where
        T: ?Sized + Task<Limits = TextLimits> + 'static,
    {
        let folder = self.common.folder(self.model)?;
        TokenizedModel::from_folder(tx::table(tables, &folder)?, &folder, &self.common.load_options()?)
    }

    pub(super) fn feature_extraction(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let TokenizedModel { model, tokenizer } =
            self.load(&[models::TEXT_MODEL, tx_multimodal::models::TEXT_MODEL])?;
        let options = FeatureExtractionOptions { truncation: self.args.truncation, max_length: self.args.max_length };
        let pipeline = FeatureExtractionPipeline::new(model, tokenizer, options);
        self.answer(&pipeline, texts.iter().map(Text::from).collect(), list, |outputs| {
            let mut table = Table::new(&texts, list, &["token", "hidden", "features"]);
            for (input, output) in outputs.iter().enumerate() {
                for (token, state) in output.tokens().enumerate() {
                    table.row(input, [token.to_string(), state.len().to_string(), components(state)]);
                }
            }
            table.print()
        })
    }

    pub(super) fn fill_mask(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let options = FillMaskOptions {
            top_k: self.args.top_k_number(FillMaskOptions::default().top_k)?,
            targets: self.args.targets.clone(),
            truncation: self.args.truncation,
            max_length: self.args.max_length,
        };
        let TokenizedModel { model, tokenizer } = self.load(&[models::MASKED_LM])?;
        let pipeline = FillMaskPipeline::new(model, tokenizer, options)?;
        self.answer(&pipeline, texts.iter().map(Text::from).collect(), list, |outputs| {
            let mut table = Table::new(&texts, list, &["mask", "token", "score", "", "sequence"]);
            for (input, output) in outputs.iter().enumerate() {
                for (mask, proposals) in output.masks().iter().enumerate() {
                    for filled in proposals {
                        let (mask, score) = ((mask + 1).to_string(), score(filled.score));
                        table.row(
                            input,
                            [mask, printable(&filled.token_str), score, bar(filled.score), shorten(&filled.sequence)],
                        );
                    }
                }
            }
            table.print()
        })
    }

    pub(super) fn text_classification(&self) -> Result<()> {
        #[derive(serde::Deserialize)]
        struct Pair {
            text: String,
            text_pair: Option<String>,
        }
        let (texts, list) = self.args.inputs()?;
        let options = TextClassificationOptions {
            top_k: self.args.top_k.unwrap_or_default(),
            function_to_apply: self.args.function_to_apply,
            truncation: self.args.truncation,
            max_length: self.args.max_length,
        };
        let top_k = options.top_k;
        let mut plain = !list;
        let inputs = texts.iter().map(|text| {
            let pair = if text.starts_with('{') { serde_json::from_str(text).ok() } else { None };
            plain &= pair.is_none() && self.args.text_pair.is_none();
            let Pair { text, text_pair } = pair.unwrap_or_else(|| Pair { text: text.clone(), text_pair: None });
            match text_pair.or_else(|| self.args.text_pair.clone()) {
                Some(second) => Text::pair(text, second),
                None => Text::from(text),
            }
        });
        let inputs = inputs.collect();
        let TokenizedModel { model, tokenizer } = self.load(&[models::SEQUENCE_CLASSIFICATION])?;
        let pipeline = TextClassificationPipeline::new(model, tokenizer, options)?;
        // For one text, HF puts the only label into a list.
        if self.common.json && plain && top_k == TopK::Best {
            return print_json(&self.outputs(&pipeline, inputs, list)?);
        }
        self.answer(&pipeline, inputs, list, |outputs| {
            let mut table = Table::new(&texts, list, &["label", "score", ""]);
            for (input, output) in outputs.iter().enumerate() {
                for label in output.labels() {
                    table.row(input, [label.label.clone(), score(label.score), bar(label.score)]);
                }
            }
            table.print()
        })
    }

    pub(super) fn token_classification(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let default = TokenClassificationOptions::default();
        let options = TokenClassificationOptions {
            aggregation_strategy: self.args.aggregation_strategy.unwrap_or_default(),
            ignore_labels: self.args.ignore_labels.clone().unwrap_or(default.ignore_labels),
            stride: self.args.stride,
            delimiter: self.args.delimiter.clone().unwrap_or(default.delimiter),
        };
        let inputs = texts.iter().map(|text| match self.args.is_split_into_words {
            true => {
                let words = text.split(options.delimiter.as_str()).filter(|word| !word.is_empty());
                TokenClassificationInput(Sequence::Words(words.map(str::to_owned).collect()))
            }
            false => text.into(),
        });
        let inputs = inputs.collect();
        let TokenizedModel { model, tokenizer } = self.load(&[models::TOKEN_CLASSIFICATION])?;
        let pipeline = TokenClassificationPipeline::new(model, tokenizer, options)?;
        self.answer(&pipeline, inputs, list, |outputs| {
            let mut table = Table::new(&texts, list, &["entity", "word", "score", "", "start", "end"]);
            let row = |entity: &str, word: &str, probability: f32, start: usize, end: usize| {
                let (score, bar) = (score(probability), bar(probability));
                [entity.to_owned(), printable(word), score, bar, start.to_string(), end.to_string()]
            };
            for (input, output) in outputs.iter().enumerate() {
                match output {
                    TokenClassification::Tokens(tokens) => {
                        for e in tokens {
                            table.row(input, row(&e.entity, &e.word, e.score, e.start, e.end));
                        }
                    }
                    TokenClassification::Groups(groups) => {
                        for e in groups {
                            table.row(input, row(&e.entity_group, &e.word, e.score, e.start, e.end));
                        }
                    }
                }
            }
            table.print()
        })
    }

    pub(super) fn zero_shot_classification(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let default = ZeroShotClassificationOptions::default();
        let options = ZeroShotClassificationOptions {
            candidate_labels: self.args.labels()?,
            hypothesis_template: self.args.hypothesis_template.clone().unwrap_or(default.hypothesis_template),
            multi_label: self.args.multi_label,
        };
        let TokenizedModel { model, tokenizer } = self.load(&[models::SEQUENCE_CLASSIFICATION])?;
        let pipeline = ZeroShotClassificationPipeline::new(model, tokenizer, options)?;
        self.answer(&pipeline, texts.clone(), list, |outputs| {
            let mut table = Table::new(&texts, list, &["label", "score", ""]);
            for (input, output) in outputs.iter().enumerate() {
                for (label, &probability) in output.labels.iter().zip(&output.scores) {
                    table.row(input, [label.clone(), score(probability), bar(probability)]);
                }
            }
            table.print()
        })
    }

    pub(super) fn question_answering(&self) -> Result<()> {
        let (inputs, list) = self.questions()?;
        let default = QuestionAnsweringOptions::default();
        let options = QuestionAnsweringOptions {
            top_k: self.args.top_k_number(default.top_k)?,
            doc_stride: self.args.doc_stride,
            max_answer_len: self.args.max_answer_len.unwrap_or(default.max_answer_len),
            max_seq_len: self.args.max_seq_len,
            max_question_len: self.args.max_question_len,
            handle_impossible_answer: self.args.handle_impossible_answer,
            align_to_words: self.args.align_to_words.unwrap_or(default.align_to_words),
        };
        let questions: Vec<String> = inputs.iter().map(|input| input.question.clone()).collect();
        let TokenizedModel { model, tokenizer } = self.load(&[models::QUESTION_ANSWERING])?;
        let pipeline = QuestionAnsweringPipeline::new(model, tokenizer, options)?;
        self.answer(&pipeline, inputs, list, |outputs| {
            let mut table = Table::new(&questions, list, &["answer", "score", "", "start", "end"]);
            for (input, output) in outputs.iter().enumerate() {
                for a in output.answers() {
                    let (start, end) = (a.start.to_string(), a.end.to_string());
                    table.row(input, [shorten(&a.answer), score(a.score), bar(a.score), start, end]);
                }
            }
            table.print()
        })
    }

    /// Questions with their contexts: from `--question` and `--context`, one of them and the inputs, or JSON objects.
    fn questions(&self) -> Result<(Vec<QuestionAnsweringInput>, bool)> {
        let (args, whole) = (self.args, |text: String| (vec![text], false));
        let (contexts, several) = match (&args.context, &args.file, &args.inputs[..]) {
            (Some(context), _, _) => whole(context.clone()),
            (None, Some(file), []) if !args.question.is_empty() => whole(read_text(file, MAX_FILE)?),
            (None, None, [input]) if !args.question.is_empty() && input == "-" => whole(read_stdin()?),
            _ if !args.question.is_empty() => args.inputs()?,
            _ => {
                let (inputs, list) = args.inputs()?;
                let keys = "`question` and `context`; or give `--question` and `--context`";
                return Ok((inputs.iter().map(|input| object(input, keys)).collect::<Result<_>>()?, list));
            }
        };
        let (questions, list) = match args.question.is_empty() {
            true => args.inputs()?,
            false => (args.question.clone(), args.question.len() > 1),
        };
        let pairs = questions.iter().flat_map(|question| contexts.iter().map(move |context| (question, context)));
        let inputs = pairs
            .map(|(question, context)| QuestionAnsweringInput { question: question.clone(), context: context.clone() });
        Ok((inputs.collect(), list || several))
    }

    pub(super) fn sentence_similarity(&self) -> Result<()> {
        let (inputs, list) = self.comparisons()?;
        let options = SentenceEmbeddingOptions {
            prompt: self.args.prompt.clone(),
            prompt_name: self.args.prompt_name.clone(),
            ..SentenceEmbeddingOptions::default()
        };
        let folder = self.common.folder(self.model)?;
        let embedding = SentenceEmbeddingPipeline::from_folder(&folder, &self.common.load_options()?, options)?;
        let shown = inputs.clone();
        self.answer(&SentenceSimilarityPipeline::new(embedding), inputs, list, |outputs| {
            let sources: Vec<String> = shown.iter().map(|input| input.source_sentence.clone()).collect();
            let mut table = Table::new(&sources, list, &["sentence", "similarity", ""]);
            for (i, (input, output)) in shown.iter().zip(outputs).enumerate() {
                for (sentence, &similarity) in input.sentences.iter().zip(output) {
                    table.row(i, [shorten(sentence), score(similarity), bar(similarity)]);
                }
            }
            table.print()
        })
    }

    /// What is compared: `--source-sentence` or the first input with the other inputs, or JSON objects.
    fn comparisons(&self) -> Result<(Vec<SentenceSimilarityInput>, bool)> {
        let (mut sentences, list) = self.args.inputs()?;
        if let Some(source) = &self.args.source_sentence {
            return Ok((vec![SentenceSimilarityInput { source_sentence: source.clone(), sentences }], false));
        }
        if sentences.iter().all(|input| input.starts_with('{')) {
            let inputs = sentences.iter().map(|input| object(input, "`source_sentence` and `sentences`"));
            return Ok((inputs.collect::<Result<_>>()?, list));
        }
        if sentences.len() < 2 {
            return Err(Error::input("INPUT", "one sentence", "a sentence and those to compare it with"));
        }
        let source_sentence = sentences.remove(0);
        Ok((vec![SentenceSimilarityInput { source_sentence, sentences }], false))
    }
}
