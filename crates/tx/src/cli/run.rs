//! `tx run TASK`: a pipeline from the command line.

mod generation;
mod table;

use std::io::Read;
use std::path::PathBuf;

use clap::{ArgAction, Args};
use serde::de::DeserializeOwned;
use tx_core::config::read_text;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Batching, Pipeline};
use tx_core::registry::{Entry, Task};
use tx_core::task::TextLimits;
use tx_core::tokenizer::{Sequence, Text};
use tx_text::models;
use tx_text::pipelines::*;

use super::Common;
use super::output::print_json;
use table::{Table, bar, printable, score};
pub(super) use table::{components, shorten};

/// The largest file of inputs, in bytes.
const MAX_FILE: u64 = 1 << 30;

/// The arguments of `tx run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The task, by the name of Python's pipeline: text-classification, ner, fill-mask …
    pub task: String,
    /// Texts; `-` reads lines of standard input. A text may also be a JSON object with the task's own keys.
    pub inputs: Vec<String>,
    /// A folder, or a model on the Hub: `owner/name[@revision]`
    #[arg(long, short)]
    pub model: Option<String>,
    /// Reads each line of a file as an input; with --question, the whole file as the context
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// The most texts in one forward pass [default: as many as make 2048 tokens]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,

    /// How many results to give: a number, or `all` for all labels
    #[arg(long, value_name = "K")]
    pub top_k: Option<TopK>,
    /// Cuts texts that are too long for the model, where the task does not do so by itself
    #[arg(long)]
    pub truncation: bool,
    /// Cuts texts to this many tokens
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,

    /// text-classification: a second text, for models of pairs
    #[arg(long, value_name = "TEXT")]
    pub text_pair: Option<String>,
    /// text-classification: sigmoid, softmax or none
    #[arg(long, value_name = "FUNCTION")]
    pub function_to_apply: Option<FunctionToApply>,

    /// fill-mask: proposes these words only
    #[arg(long, value_name = "WORD,…", value_delimiter = ',')]
    pub targets: Option<Vec<String>>,

    /// token-classification: none, simple, first, average or max
    #[arg(long, value_name = "STRATEGY")]
    pub aggregation_strategy: Option<AggregationStrategy>,
    /// token-classification: labels to leave out [default: O]
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub ignore_labels: Option<Vec<String>>,
    /// token-classification: reads long texts in windows that share this many tokens
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// token-classification: the texts are words with the delimiter between them
    #[arg(long)]
    pub is_split_into_words: bool,
    /// token-classification: what stands between words [default: a space]
    #[arg(long, value_name = "TEXT")]
    pub delimiter: Option<String>,

    /// zero-shot-classification: the labels to choose from
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub candidate_labels: Option<Vec<String>>,
    /// zero-shot-classification: the hypothesis, with `{}` for the label [default: This example is {}.]
    #[arg(long, value_name = "TEXT")]
    pub hypothesis_template: Option<String>,
    /// zero-shot-classification: several labels can hold
    #[arg(long)]
    pub multi_label: bool,

    #[command(flatten)]
    generation: generation::TextGenerationArgs,

    /// question-answering: the question; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub question: Vec<String>,
    /// question-answering: the text that holds the answer
    #[arg(long, value_name = "TEXT")]
    pub context: Option<String>,
    /// question-answering: how many tokens two windows of a long context share
    #[arg(long, value_name = "N")]
    pub doc_stride: Option<usize>,
    /// question-answering: the longest answer, in tokens [default: 15]
    #[arg(long, value_name = "N")]
    pub max_answer_len: Option<usize>,
    /// question-answering: the length of a window, in tokens [default: at most 384]
    #[arg(long, value_name = "N")]
    pub max_seq_len: Option<usize>,
    /// question-answering: cuts the question to this many tokens
    #[arg(long, value_name = "N")]
    pub max_question_len: Option<usize>,
    /// question-answering: "no answer" is among the answers
    #[arg(long)]
    pub handle_impossible_answer: bool,
    /// question-answering: whether answers begin and end with words [default: true]
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub align_to_words: Option<bool>,

    /// sentence-similarity: the sentence that the others are compared with [default: the first input]
    #[arg(long, value_name = "TEXT")]
    pub source_sentence: Option<String>,
    /// sentence-similarity: a text that goes before every sentence
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// sentence-similarity: the name of one of the model's own prompts
    #[arg(long, value_name = "NAME")]
    pub prompt_name: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Unknown`] for an unknown task; [`Error::Input`] for arguments that do not fit it; everything that loading and
/// running a pipeline can report.
pub fn run(args: &RunArgs, common: &Common) -> Result<()> {
    let task: TextTask = args.task.parse()?;
    args.check_options(task)?;
    let Some(model) = &args.model else {
        let TaskEntry { name, example, .. } = task.entry();
        let expected = format_args!(
            "a folder or a name on the Hub, such as `--model {example}` (`tx download {example}` gets it)"
        );
        return Err(Error::input("--model", format_args!("none for {name}"), expected));
    };
    let command = Command { args, common, model };
    match task {
        TextTask::FeatureExtraction => command.feature_extraction(),
        TextTask::FillMask => command.fill_mask(),
        TextTask::QuestionAnswering => command.question_answering(),
        TextTask::SentenceSimilarity => command.sentence_similarity(),
        TextTask::TextClassification => command.text_classification(),
        TextTask::TextGeneration => command.text_generation(),
        TextTask::TokenClassification => command.token_classification(),
        TextTask::ZeroShotClassification => command.zero_shot_classification(),
    }
}

impl RunArgs {
    /// An option of another task is an error: it would have no effect.
    fn check_options(&self, task: TextTask) -> Result<()> {
        use TextTask::*;
        let table: [(&str, bool, &[TextTask]); 33] = [
            ("--top-k", self.top_k.is_some(), &[TextClassification, FillMask, QuestionAnswering, TextGeneration]),
            ("--max-new-tokens", self.generation.max_new_tokens.is_some(), &[TextGeneration]),
            ("--do-sample", self.generation.do_sample.is_some(), &[TextGeneration]),
            ("--temperature", self.generation.temperature.is_some(), &[TextGeneration]),
            ("--top-p", self.generation.top_p.is_some(), &[TextGeneration]),
            ("--seed", self.generation.seed.is_some(), &[TextGeneration]),
            ("--num-beams", self.generation.num_beams.is_some(), &[TextGeneration]),
            ("--num-return-sequences", self.generation.num_return_sequences.is_some(), &[TextGeneration]),
            ("--return-full-text", self.generation.return_full_text.is_some(), &[TextGeneration]),
            ("--truncation", self.truncation, &[TextClassification, FillMask, FeatureExtraction]),
            ("--max-length", self.max_length.is_some(), &[TextClassification, FillMask, FeatureExtraction]),
            ("--text-pair", self.text_pair.is_some(), &[TextClassification]),
            ("--function-to-apply", self.function_to_apply.is_some(), &[TextClassification]),
            ("--targets", self.targets.is_some(), &[FillMask]),
            ("--aggregation-strategy", self.aggregation_strategy.is_some(), &[TokenClassification]),
            ("--ignore-labels", self.ignore_labels.is_some(), &[TokenClassification]),
            ("--stride", self.stride.is_some(), &[TokenClassification]),
            ("--is-split-into-words", self.is_split_into_words, &[TokenClassification]),
            ("--delimiter", self.delimiter.is_some(), &[TokenClassification]),
            ("--candidate-labels", self.candidate_labels.is_some(), &[ZeroShotClassification]),
            ("--hypothesis-template", self.hypothesis_template.is_some(), &[ZeroShotClassification]),
            ("--multi-label", self.multi_label, &[ZeroShotClassification]),
            ("--question", !self.question.is_empty(), &[QuestionAnswering]),
            ("--context", self.context.is_some(), &[QuestionAnswering]),
            ("--doc-stride", self.doc_stride.is_some(), &[QuestionAnswering]),
            ("--max-answer-len", self.max_answer_len.is_some(), &[QuestionAnswering]),
            ("--max-seq-len", self.max_seq_len.is_some(), &[QuestionAnswering]),
            ("--max-question-len", self.max_question_len.is_some(), &[QuestionAnswering]),
            ("--handle-impossible-answer", self.handle_impossible_answer, &[QuestionAnswering]),
            ("--align-to-words", self.align_to_words.is_some(), &[QuestionAnswering]),
            ("--source-sentence", self.source_sentence.is_some(), &[SentenceSimilarity]),
            ("--prompt", self.prompt.is_some(), &[SentenceSimilarity]),
            ("--prompt-name", self.prompt_name.is_some(), &[SentenceSimilarity]),
        ];
        match table.iter().find(|(_, given, tasks)| *given && !tasks.contains(&task)) {
            Some((name, _, tasks)) => {
                let tasks = tasks.iter().map(|task| task.entry().name).collect::<Vec<_>>().join(", ");
                Err(Error::input(
                    *name,
                    format_args!("given for `{}`", task.entry().name),
                    format_args!("it with {tasks} only"),
                ))
            }
            None => Ok(()),
        }
    }

    /// The inputs, and whether they are a list: more than one, or lines.
    fn inputs(&self) -> Result<(Vec<String>, bool)> {
        let mut inputs = Vec::new();
        let mut list = self.inputs.len() > 1;
        for input in &self.inputs {
            if input == "-" {
                inputs.extend(read_stdin()?.lines().map(str::to_owned));
                list = true;
            } else {
                inputs.push(input.clone());
            }
        }
        if let Some(file) = &self.file {
            inputs.extend(read_text(file, MAX_FILE)?.lines().map(str::to_owned));
            list = true;
        }
        if inputs.is_empty() && !list {
            return Err(Error::input("INPUT", "nothing", "a text, `--file FILE`, or `-` for lines of standard input"));
        }
        Ok((inputs, list))
    }

    /// `--top-k` where it is a number.
    fn top_k_number(&self, default: usize) -> Result<usize> {
        match self.top_k {
            None => Ok(default),
            Some(TopK::First(count)) => Ok(count),
            Some(_) => Err(Error::input("--top-k", "`all`", "a number")),
        }
    }
}

/// All of standard input.
pub(super) fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|e| Error::input("standard input", e, "UTF-8 text"))?;
    Ok(text)
}

/// An input that is a JSON object with a task's keys.
fn object<T: DeserializeOwned>(input: &str, keys: &str) -> Result<T> {
    serde_json::from_str(input)
        .map_err(|e| Error::input(format!("`{}`", shorten(input)), e, format_args!("a JSON object with {keys}")))
}

/// One run of the command.
struct Command<'a> {
    args: &'a RunArgs,
    common: &'a Common,
    model: &'a str,
}

impl Command<'_> {
    /// The model and its tokenizer.
    fn load<T: ?Sized + Task<Limits = TextLimits>>(&self, table: &[Entry<T>]) -> Result<TokenizedModel<T>> {
        TokenizedModel::from_folder(table, &self.common.folder(self.model)?, &self.common.load_options()?)
    }

    /// Runs the pipeline and prints HF's JSON, or what `show` makes of the results.
    fn answer<P: Pipeline>(
        &self,
        pipeline: &P,
        inputs: Vec<P::Input>,
        list: bool,
        show: impl FnOnce(&[P::Output]) -> Result<()>,
    ) -> Result<()> {
        let outputs = self.outputs(pipeline, inputs, list)?;
        match &outputs[..] {
            [one] if self.common.json && !list => print_json(one),
            outputs if self.common.json => print_json(&outputs),
            outputs => show(outputs),
        }
    }

    fn outputs<P: Pipeline>(&self, pipeline: &P, mut inputs: Vec<P::Input>, list: bool) -> Result<Vec<P::Output>> {
        match inputs.pop() {
            Some(one) if !list && inputs.is_empty() => Ok(vec![pipeline.call(one)?]),
            last => {
                inputs.extend(last);
                pipeline.call_all(inputs, &Batching { batch_size: self.args.batch_size, progress: true })
            }
        }
    }

    fn feature_extraction(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let TokenizedModel { model, tokenizer } = self.load(models::TEXT_MODEL)?;
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

    fn fill_mask(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let options = FillMaskOptions {
            top_k: self.args.top_k_number(FillMaskOptions::default().top_k)?,
            targets: self.args.targets.clone(),
            truncation: self.args.truncation,
            max_length: self.args.max_length,
        };
        let TokenizedModel { model, tokenizer } = self.load(models::MASKED_LM)?;
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

    fn text_classification(&self) -> Result<()> {
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
        let TokenizedModel { model, tokenizer } = self.load(models::SEQUENCE_CLASSIFICATION)?;
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

    fn token_classification(&self) -> Result<()> {
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
        let TokenizedModel { model, tokenizer } = self.load(models::TOKEN_CLASSIFICATION)?;
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

    fn zero_shot_classification(&self) -> Result<()> {
        let (texts, list) = self.args.inputs()?;
        let labels = self.args.candidate_labels.iter().flatten();
        let labels: Vec<String> =
            labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect();
        if labels.is_empty() {
            return Err(Error::input("--candidate-labels", "none", "labels to choose from, with commas between them"));
        }
        let default = ZeroShotClassificationOptions::default();
        let options = ZeroShotClassificationOptions {
            candidate_labels: labels,
            hypothesis_template: self.args.hypothesis_template.clone().unwrap_or(default.hypothesis_template),
            multi_label: self.args.multi_label,
        };
        let TokenizedModel { model, tokenizer } = self.load(models::SEQUENCE_CLASSIFICATION)?;
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

    fn question_answering(&self) -> Result<()> {
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
        let TokenizedModel { model, tokenizer } = self.load(models::QUESTION_ANSWERING)?;
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

    fn sentence_similarity(&self) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(line: &[&str]) -> RunArgs {
        Line::try_parse_from(["tx"].iter().chain(line)).unwrap().args
    }

    #[test]
    fn options_of_other_tasks_are_refused() {
        let check = |line: &[&str]| {
            let args = parse(line);
            args.check_options(args.task.parse().unwrap())
        };
        assert!(check(&["ner", "x", "--stride", "4", "--aggregation-strategy", "max"]).is_ok());
        assert!(check(&["fill-mask", "x", "--top-k", "3", "--targets", "a,b"]).is_ok());
        let message = check(&["fill-mask", "x", "--stride", "4"]).unwrap_err().to_string();
        assert_eq!(message, "--stride: given for `fill-mask`, expected it with token-classification only");
    }

    #[test]
    fn top_k_is_a_number_or_all() {
        assert_eq!(parse(&["sentiment-analysis", "x", "--top-k", "all"]).top_k, Some(TopK::All));
        assert_eq!(parse(&["sentiment-analysis", "x", "--top-k", "3"]).top_k, Some(TopK::First(3)));
        assert!(Line::try_parse_from(["tx", "ner", "--top-k", "many"]).is_err());
        assert_eq!(parse(&["fill-mask", "x"]).top_k_number(5).unwrap(), 5);
    }

    #[test]
    fn one_text_is_no_list() {
        assert_eq!(parse(&["ner", "a"]).inputs().unwrap(), (vec!["a".to_owned()], false));
        assert_eq!(parse(&["ner", "a", "b"]).inputs().unwrap(), (vec!["a".to_owned(), "b".to_owned()], true));
        assert!(parse(&["ner"]).inputs().unwrap_err().to_string().starts_with("INPUT: nothing, expected a text"));
    }
}
