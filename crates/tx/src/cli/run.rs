//! `tx run TASK`: a pipeline from the command line.

mod audio;
mod files;
mod generation;
mod image;
mod multimodal;
mod options;
mod table;
mod task;
mod text;

use std::path::PathBuf;

use clap::{ArgAction, Args};
use tx_audio::pipelines::AudioTask;
use tx_core::error::{Error, Result};
use tx_core::pipeline::{Batching, Pipeline};
use tx_multimodal::pipelines::MultimodalTask;
use tx_text::pipelines::{AggregationStrategy, FunctionToApply, TextTask, TopK};
use tx_vision::pipelines::VisionTask;

use super::Common;
use super::output::{print_json, print_line};
use files::Media;
pub(super) use files::{Files, PICTURES, SOUNDS, lines};
use table::Table;
pub(super) use table::{components, shorten};
use task::{Kind, RunTask};

/// The arguments of `tx run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The task, by the name of Python's pipeline: text-classification, ner, image-classification …
    pub task: String,
    /// Texts, or files of pictures or sounds, or folders of them; `-` reads lines of standard input. A text may also be
    /// a JSON object with the task's own keys.
    pub inputs: Vec<String>,
    /// A folder, or a model on the Hub: `owner/name[@revision]` [default: for text-generation and image-classification
    /// the small models that ship with tx]
    #[arg(long, short)]
    pub model: Option<String>,
    /// Reads each line of a file as an input; with --question, the whole file as the context
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// The most inputs in one forward pass [default: as many as make 2048 tokens]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,

    /// How many results to give: a number, or `all` for all labels
    #[arg(long, value_name = "K")]
    pub top_k: Option<TopK>,
    /// text-classification, image-classification, audio-classification: sigmoid, softmax or none
    #[arg(long, value_name = "FUNCTION")]
    pub function_to_apply: Option<FunctionToApply>,
    /// object-detection, image-segmentation: writes the picture with what is found, as a PNG.
    /// automatic-speech-recognition: writes the text. For several inputs a folder
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Cuts texts that are too long for the model, where the task does not do so by itself
    #[arg(long)]
    pub truncation: bool,
    /// Cuts texts to this many tokens
    #[arg(long, value_name = "N")]
    pub max_length: Option<usize>,

    /// text-classification: a second text, for models of pairs
    #[arg(long, value_name = "TEXT")]
    pub text_pair: Option<String>,

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

    /// zero-shot-…: the labels to choose from
    #[arg(long, value_name = "LABEL,…", value_delimiter = ',')]
    pub candidate_labels: Option<Vec<String>>,
    /// zero-shot-…: the text for a label, which replaces `{}` [default: This example is {}., This is a photo of {}.,
    /// This is a sound of {}.]
    #[arg(long, value_name = "TEXT")]
    pub hypothesis_template: Option<String>,
    /// zero-shot-classification: several labels can hold
    #[arg(long)]
    pub multi_label: bool,

    #[command(flatten)]
    generation: generation::TextGenerationArgs,
    #[command(flatten)]
    image: image::ImageArgs,
    #[command(flatten)]
    audio: audio::AudioArgs,

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
/// [`Error::Unknown`] for an unknown task; [`Error::Input`] for arguments that do not fit it; everything that loading
/// and running a pipeline can report.
pub fn run(args: &RunArgs, common: &Common) -> Result<()> {
    let task: RunTask = args.task.parse()?;
    let RunTask { name, example, built_in, kind, .. } = task;
    options::check(args, name)?;
    let Some(model) = args.model.as_deref().or(built_in) else {
        let expected = format_args!(
            "a folder or a name on the Hub, such as `--model {example}` (`tx download {example}` gets it)"
        );
        return Err(Error::input("--model", format_args!("none for {name}"), expected));
    };
    if args.model.is_none() {
        tracing::warn!(
            "no model was named: this is `{model}`, a small one that ships with tx; `--model` names another"
        );
    }
    let command = Command { args, common, model };
    match kind {
        Kind::Text(TextTask::FeatureExtraction) => command.feature_extraction(),
        Kind::Text(TextTask::FillMask) => command.fill_mask(),
        Kind::Text(TextTask::QuestionAnswering) => command.question_answering(),
        Kind::Text(TextTask::SentenceSimilarity) => command.sentence_similarity(),
        Kind::Text(TextTask::TextClassification) => command.text_classification(),
        Kind::Text(TextTask::TextGeneration) => command.text_generation(),
        Kind::Text(TextTask::TokenClassification) => command.token_classification(),
        Kind::Text(TextTask::ZeroShotClassification) => command.zero_shot_classification(),
        Kind::Vision(VisionTask::ImageClassification) => command.image_classification(),
        Kind::Vision(VisionTask::ImageFeatureExtraction) => command.image_feature_extraction(),
        Kind::Vision(VisionTask::ImageSegmentation) => command.image_segmentation(),
        Kind::Vision(VisionTask::ObjectDetection) => command.object_detection(),
        Kind::Audio(AudioTask::AudioClassification) => command.audio_classification(),
        Kind::Audio(AudioTask::AutomaticSpeechRecognition) => command.automatic_speech_recognition(),
        Kind::Multimodal(MultimodalTask::ZeroShotAudioClassification) => command.zero_shot_audio_classification(),
        Kind::Multimodal(MultimodalTask::ZeroShotImageClassification) => command.zero_shot_image_classification(),
    }
}

impl RunArgs {
    /// The texts, and whether they are a list: more than one, or lines.
    fn inputs(&self) -> Result<(Vec<String>, bool)> {
        lines(&self.inputs, self.file.as_deref(), "a text")
    }

    /// The files of pictures or sounds.
    fn files(&self, media: Media) -> Result<Files> {
        let what = format!("{} or a folder of them", media.what());
        let (names, list) = lines(&self.inputs, self.file.as_deref(), &what)?;
        Files::find(&names, list, media)
    }

    /// `--candidate-labels`, of which there must be one.
    fn labels(&self) -> Result<Vec<String>> {
        let labels = self.candidate_labels.iter().flatten();
        let labels: Vec<String> =
            labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect();
        if labels.is_empty() {
            return Err(Error::input("--candidate-labels", "none", "labels to choose from, with commas between them"));
        }
        Ok(labels)
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

/// One run of the command.
struct Command<'a> {
    args: &'a RunArgs,
    common: &'a Common,
    model: &'a str,
}

impl Command<'_> {
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
                pipeline.call_all(inputs, &self.batching())
            }
        }
    }

    fn batching(&self) -> Batching {
        Batching { batch_size: self.args.batch_size, progress: true }
    }

    /// Runs the pipeline on files. Each result becomes what will be printed before the next files are read, as those of
    /// pictures are large.
    fn answer_files<P: Pipeline>(
        &self,
        pipeline: &P,
        files: &Files,
        header: &[&str],
        mut show: impl FnMut(&mut Table<'_>, usize, &P::Output) -> Result<()>,
    ) -> Result<()>
    where
        PathBuf: Into<P::Input>,
    {
        let mut table = Table::new(&files.names, files.list, header);
        let mut documents: Vec<String> = Vec::new();
        let mut take = |number: usize, output: &P::Output| -> Result<()> {
            if self.common.json {
                let document = serde_json::to_string(output);
                documents.push(document.map_err(|e| Error::input(&files.names[number], e, "a result for JSON"))?);
            }
            show(&mut table, number, output)
        };
        match &files.paths[..] {
            // Alone it has no number in messages.
            [one] if !files.list => take(0, &pipeline.call(one.clone())?)?,
            paths => {
                for (number, output) in pipeline.call_iter(paths.iter().cloned(), &self.batching()).enumerate() {
                    take(number, &output?)?;
                }
            }
        }
        match self.common.json {
            true if files.list => print_line(&format!("[{}]", documents.join(","))),
            true => print_line(&documents.concat()),
            false => table.print(),
        }
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

    #[test]
    fn top_k_is_a_number_or_all() {
        let parse = |line: &[&str]| Line::try_parse_from(["tx"].iter().chain(line)).map(|line| line.args);
        assert_eq!(parse(&["sentiment-analysis", "x", "--top-k", "all"]).unwrap().top_k, Some(TopK::All));
        assert_eq!(parse(&["sentiment-analysis", "x", "--top-k", "3"]).unwrap().top_k, Some(TopK::First(3)));
        assert!(parse(&["ner", "--top-k", "many"]).is_err());
        assert_eq!(parse(&["fill-mask", "x"]).unwrap().top_k_number(5).unwrap(), 5);
    }
}
