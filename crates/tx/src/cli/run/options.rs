//! Which options belong to which tasks.

use tx_core::error::{Error, Result};

use super::RunArgs;

const ASR: &str = "automatic-speech-recognition";
const FEATURES: &str = "feature-extraction";
const FILL: &str = "fill-mask";
const GENERATION: &str = "text-generation";
const IMAGES: &str = "image-classification";
const OBJECTS: &str = "object-detection";
const PICTURE_FEATURES: &str = "image-feature-extraction";
const QUESTIONS: &str = "question-answering";
const SEGMENTS: &str = "image-segmentation";
const SIMILARITY: &str = "sentence-similarity";
const SOUNDS: &str = "audio-classification";
const TEXTS: &str = "text-classification";
const TOKENS: &str = "token-classification";
const ZERO_SHOT: &str = "zero-shot-classification";
const ZERO_SHOT_IMAGES: &str = "zero-shot-image-classification";
const ZERO_SHOT_SOUNDS: &str = "zero-shot-audio-classification";

/// An option, whether it is given, and the tasks that it belongs to.
type Row = (&'static str, bool, &'static [&'static str]);

/// An option of another task is an error: it would have no effect.
///
/// # Errors
/// [`Error::Input`] with the tasks that the option belongs to.
pub fn check(args: &RunArgs, task: &str) -> Result<()> {
    match options(args).into_iter().find(|(_, given, tasks)| *given && !tasks.contains(&task)) {
        Some((name, _, tasks)) => Err(Error::input(
            name,
            format_args!("given for `{task}`"),
            format_args!("it with {} only", tasks.join(", ")),
        )),
        None => Ok(()),
    }
}

fn options(args: &RunArgs) -> [Row; 46] {
    let (generation, image, audio) = (&args.generation, &args.image, &args.audio);
    [
        ("--top-k", args.top_k.is_some(), &[TEXTS, FILL, QUESTIONS, GENERATION, IMAGES, SOUNDS]),
        ("--function-to-apply", args.function_to_apply.is_some(), &[TEXTS, IMAGES, SOUNDS]),
        ("--output", args.output.is_some(), &[OBJECTS, SEGMENTS, ASR]),
        ("--max-new-tokens", generation.max_new_tokens.is_some(), &[GENERATION, ASR]),
        ("--do-sample", generation.do_sample.is_some(), &[GENERATION]),
        ("--temperature", generation.temperature.is_some(), &[GENERATION, ASR]),
        ("--top-p", generation.top_p.is_some(), &[GENERATION]),
        ("--seed", generation.seed.is_some(), &[GENERATION, ASR]),
        ("--num-beams", generation.num_beams.is_some(), &[GENERATION, ASR]),
        ("--num-return-sequences", generation.num_return_sequences.is_some(), &[GENERATION]),
        ("--return-full-text", generation.return_full_text.is_some(), &[GENERATION]),
        ("--truncation", args.truncation, &[TEXTS, FILL, FEATURES]),
        ("--max-length", args.max_length.is_some(), &[TEXTS, FILL, FEATURES]),
        ("--text-pair", args.text_pair.is_some(), &[TEXTS]),
        ("--targets", args.targets.is_some(), &[FILL]),
        ("--aggregation-strategy", args.aggregation_strategy.is_some(), &[TOKENS]),
        ("--ignore-labels", args.ignore_labels.is_some(), &[TOKENS]),
        ("--stride", args.stride.is_some(), &[TOKENS]),
        ("--is-split-into-words", args.is_split_into_words, &[TOKENS]),
        ("--delimiter", args.delimiter.is_some(), &[TOKENS]),
        ("--candidate-labels", args.candidate_labels.is_some(), &[ZERO_SHOT, ZERO_SHOT_IMAGES, ZERO_SHOT_SOUNDS]),
        ("--hypothesis-template", args.hypothesis_template.is_some(), &[ZERO_SHOT, ZERO_SHOT_IMAGES, ZERO_SHOT_SOUNDS]),
        ("--multi-label", args.multi_label, &[ZERO_SHOT]),
        ("--question", !args.question.is_empty(), &[QUESTIONS]),
        ("--context", args.context.is_some(), &[QUESTIONS]),
        ("--doc-stride", args.doc_stride.is_some(), &[QUESTIONS]),
        ("--max-answer-len", args.max_answer_len.is_some(), &[QUESTIONS]),
        ("--max-seq-len", args.max_seq_len.is_some(), &[QUESTIONS]),
        ("--max-question-len", args.max_question_len.is_some(), &[QUESTIONS]),
        ("--handle-impossible-answer", args.handle_impossible_answer, &[QUESTIONS]),
        ("--align-to-words", args.align_to_words.is_some(), &[QUESTIONS]),
        ("--source-sentence", args.source_sentence.is_some(), &[SIMILARITY]),
        ("--prompt", args.prompt.is_some(), &[SIMILARITY]),
        ("--prompt-name", args.prompt_name.is_some(), &[SIMILARITY]),
        ("--threshold", image.threshold.is_some(), &[OBJECTS, SEGMENTS]),
        ("--subtask", image.subtask.is_some(), &[SEGMENTS]),
        ("--mask-threshold", image.mask_threshold.is_some(), &[SEGMENTS]),
        ("--overlap-mask-area-threshold", image.overlap_mask_area_threshold.is_some(), &[SEGMENTS]),
        ("--pool", image.pool, &[PICTURE_FEATURES]),
        ("--chunk-length-s", audio.chunk_length_s.is_some(), &[ASR]),
        ("--stride-length-s", audio.stride_length_s.is_some(), &[ASR]),
        ("--return-timestamps", audio.return_timestamps.is_some(), &[ASR]),
        ("--return-language", audio.return_language, &[ASR]),
        ("--language", audio.language.is_some(), &[ASR]),
        ("--translate", audio.translate, &[ASR]),
        ("--output-format", audio.output_format.is_some(), &[ASR]),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::run::task::RunTask;

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
            check(&args, args.task.parse::<RunTask>().unwrap().name)
        };
        assert!(check(&["ner", "x", "--stride", "4", "--aggregation-strategy", "max"]).is_ok());
        assert!(check(&["fill-mask", "x", "--top-k", "3", "--targets", "a,b"]).is_ok());
        assert!(check(&["object-detection", "x", "--threshold", "0.3", "--output", "y.png"]).is_ok());
        assert!(check(&["automatic-speech-recognition", "x", "--language", "de", "--translate"]).is_ok());
        assert!(check(&["automatic-speech-recognition", "x", "--temperature", "0.5", "--seed", "1"]).is_ok());
        assert!(check(&["fill-mask", "x", "--seed", "1"]).is_err());
        let message = check(&["fill-mask", "x", "--stride", "4"]).unwrap_err().to_string();
        assert_eq!(message, "--stride: given for `fill-mask`, expected it with token-classification only");
        let message = check(&["image-classification", "x", "--threshold", "1"]).unwrap_err().to_string();
        assert!(message.ends_with("expected it with object-detection, image-segmentation only"), "{message}");
    }

    #[test]
    fn options_belong_to_tasks_that_there_are() {
        for (option, given, tasks) in options(&parse(&["ner"])) {
            assert!(!given, "{option}");
            for task in tasks {
                assert_eq!(task.parse::<RunTask>().unwrap().name, *task, "{option}");
            }
        }
    }
}
