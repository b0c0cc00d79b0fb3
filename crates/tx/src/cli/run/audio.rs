//! Tasks on sounds.

use std::path::PathBuf;

use clap::Args;
use tx_audio::features::FeatureExtractor;
use tx_audio::generation::{WhisperOptions, WhisperTask};
use tx_audio::models;
use tx_audio::pipelines::*;
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::pipeline::Pipeline;
use tx_core::registry::from_folder;
use tx_core::weights::save::write_atomically;
use tx_generate::Overrides;
use tx_text::pipelines::TopK;

use super::files::{Files, SOUNDS};
use super::table::{bar, printable, score};
use super::{Command, RunArgs};
use crate::cli::output::print_line;

/// The options of tasks on sounds.
#[derive(Debug, Args)]
pub struct AudioArgs {
    /// automatic-speech-recognition: hears sounds in pieces of so many seconds [default: the whole; Whisper goes from
    /// sentence to sentence]
    #[arg(long, value_name = "SECONDS")]
    pub chunk_length_s: Option<f64>,
    /// automatic-speech-recognition: how many seconds a piece shares with those before and after it [default: a sixth
    /// of a piece]
    #[arg(long, value_name = "SECONDS[,SECONDS]", value_delimiter = ',', requires = "chunk_length_s")]
    pub stride_length_s: Option<Vec<f64>>,
    /// automatic-speech-recognition: gives the times of sentences, or of each `word` or `char`; stands behind the files
    #[arg(long, value_name = "PARTS", num_args = 0..=1, default_missing_value = "true")]
    pub return_timestamps: Option<ReturnTimestamps>,
    /// automatic-speech-recognition: says in which language each part is; of Whisper
    #[arg(long)]
    pub return_language: bool,
    /// automatic-speech-recognition: the language that is spoken, by name or code; of Whisper [default: it is detected]
    #[arg(long, value_name = "LANGUAGE")]
    pub language: Option<String>,
    /// automatic-speech-recognition: writes in English what is said in another language; of Whisper
    #[arg(long)]
    pub translate: bool,
    /// automatic-speech-recognition: txt, json, srt or vtt [default: as the name of --output ends, or txt]
    #[arg(long, value_name = "FORMAT", requires = "output")]
    pub output_format: Option<TranscriptionFormat>,
}

/// Where texts are written, and how.
struct Texts {
    targets: Vec<PathBuf>,
    format: TranscriptionFormat,
}

impl RunArgs {
    /// `--output` for texts: a file for each sound.
    fn texts(&self, files: &Files) -> Result<Option<Texts>> {
        let Some(output) = &self.output else { return Ok(None) };
        let single = !files.list && !output.is_dir();
        let extension = output.extension().filter(|_| single).map(|ending| ending.to_string_lossy().to_lowercase());
        let format = match (self.audio.output_format, &extension) {
            (Some(format), _) => format,
            (None, Some(extension)) => extension.parse::<TranscriptionFormat>().map_err(|_| {
                let found = format_args!("`{}`", output.display());
                Error::input("--output", found, "a name that ends in .txt, .json, .srt or .vtt, or --output-format")
            })?,
            (None, None) => TranscriptionFormat::Txt,
        };
        let ending = match format {
            TranscriptionFormat::Txt => "txt",
            TranscriptionFormat::Json => "json",
            TranscriptionFormat::Srt => "srt",
            TranscriptionFormat::Vtt => "vtt",
        };
        Ok(Some(Texts { targets: files.targets(output, ending)?, format }))
    }

    /// What Whisper is told; other models cannot be told anything.
    fn whisper_options(&self) -> WhisperOptions {
        WhisperOptions {
            language: self.audio.language.clone(),
            task: self.audio.translate.then_some(WhisperTask::Translate),
            temperature: self.generation.temperature.into_iter().collect(),
            generation: Overrides {
                max_new_tokens: self.generation.max_new_tokens,
                num_beams: self.generation.num_beams,
                seed: self.generation.seed,
                ..Overrides::default()
            },
            ..WhisperOptions::default()
        }
    }

    /// An option of Whisper for another model would have no effect.
    fn check_unheard(&self) -> Result<()> {
        let given = [
            ("--language", self.audio.language.is_some()),
            ("--translate", self.audio.translate),
            ("--return-language", self.audio.return_language),
            ("--temperature", self.generation.temperature.is_some()),
            ("--max-new-tokens", self.generation.max_new_tokens.is_some()),
            ("--num-beams", self.generation.num_beams.is_some()),
            ("--seed", self.generation.seed.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::input(name, "given for a CTC model", "it with Whisper only")),
            None => Ok(()),
        }
    }

    /// So would a seed where nothing is drawn.
    fn check_seed(&self) -> Result<()> {
        let draws = self.generation.temperature.is_some_and(|temperature| temperature != 0.0);
        if self.generation.seed.is_none() || draws {
            return Ok(());
        }
        let expected = "it with a `--temperature` above 0: the most probable tokens are taken otherwise";
        Err(Error::input("--seed", "given where nothing is drawn", expected))
    }
}

impl Command<'_> {
    pub(super) fn audio_classification(&self) -> Result<()> {
        let files = self.args.files(SOUNDS)?;
        let options = AudioClassificationOptions {
            top_k: match self.args.top_k {
                None => AudioClassificationOptions::default().top_k,
                Some(TopK::First(count)) => Some(count),
                Some(TopK::All | TopK::Best) => None,
            },
            function_to_apply: self.args.function_to_apply,
        };
        let folder = self.common.folder(self.model)?;
        let table = tx::table(&[models::AUDIO_CLASSIFICATION], &folder)?;
        // The extractor first: if it cannot be used, no weights have been read for nothing.
        let extractor = FeatureExtractor::from_folder(&folder)?;
        let model = from_folder(table, &tx::classes(), &folder, &self.common.load_options()?)?;
        let pipeline = AudioClassificationPipeline::new(model, extractor, options)?;
        self.answer_files(&pipeline, &files, &["label", "score", ""], |table, file, labels| {
            for label in labels {
                table.row(file, [label.label.clone(), score(label.score), bar(label.score)]);
            }
            Ok(())
        })
    }

    pub(super) fn automatic_speech_recognition(&self) -> Result<()> {
        let (args, files) = (&self.args.audio, self.args.files(SOUNDS)?);
        let texts = self.args.texts(&files)?;
        let folder = self.common.folder(self.model)?;
        let config = Config::from_folder(&folder)?;
        let model_type = config.model_type()?;
        let whisper = models::SPEECH_TO_TEXT.iter().any(|entry| entry.model_type == model_type);
        if !whisper {
            tx::table(&[models::CTC], &folder)?;
            self.args.check_unheard()?;
        }
        self.args.check_seed()?;
        // Subtitles have times.
        let subtitles = texts
            .as_ref()
            .is_some_and(|texts| matches!(texts.format, TranscriptionFormat::Srt | TranscriptionFormat::Vtt));
        let parts = if whisper { ReturnTimestamps::Segment } else { ReturnTimestamps::Word };
        let options = AutomaticSpeechRecognitionOptions {
            chunk_length_s: args.chunk_length_s,
            stride_length_s: match args.stride_length_s.as_deref() {
                None => None,
                Some([both]) => Some([*both; 2]),
                Some([before, after]) => Some([*before, *after]),
                Some(several) => {
                    let found = format_args!("{} numbers", several.len());
                    return Err(Error::input("--stride-length-s", found, "one, or two with a comma between them"));
                }
            },
            return_timestamps: args.return_timestamps.or(subtitles.then_some(parts)),
            return_language: args.return_language,
            generate: self.args.whisper_options(),
            progress: !files.list,
        };
        let load = self.common.load_options()?;
        let pipeline = AutomaticSpeechRecognitionPipeline::from_folder(&folder, &load, options)?;
        let write = |file: usize, transcription: &Transcription| match &texts {
            Some(Texts { targets, format }) => {
                let text = format.write(transcription)?;
                write_atomically(&targets[file], |target| target.write_all(text.as_bytes()))
            }
            None => Ok(()),
        };
        let (times, languages) = (args.return_timestamps.is_some(), args.return_language);
        // What is said in a single sound is a text, not a table.
        if !files.list && !self.common.json && !times && !languages {
            let transcription = pipeline.call(files.paths[0].clone())?;
            write(0, &transcription)?;
            return print_line(transcription.text.trim());
        }
        let columns = [("from", times), ("to", times), ("language", languages), ("text", true)];
        let header: Vec<&str> = columns.iter().filter(|(_, shown)| *shown).map(|(name, _)| *name).collect();
        self.answer_files(&pipeline, &files, &header, |table, file, transcription| {
            let whole = [Chunk { text: transcription.text.clone(), ..Chunk::default() }];
            for Chunk { language, timestamp, text } in transcription.chunks.as_deref().unwrap_or(&whole) {
                let (from, to) = timestamp.unwrap_or_default();
                let [from, to] = [from, to].map(|seconds| seconds.map(clock).unwrap_or_default());
                let language = language.clone().flatten().unwrap_or_default();
                let cells = [from, to, language, printable(text.trim())].into_iter().zip(columns);
                table.row(file, cells.filter(|(_, (_, shown))| *shown).map(|(cell, _)| cell));
            }
            write(file, transcription)
        })
    }
}

/// Seconds as people read them: `1:02:03.45`.
fn clock(seconds: f64) -> String {
    let hundredths = (seconds.max(0.0) * 100.0).round() as u64;
    let (hours, minutes) = (hundredths / 360_000, hundredths / 6_000 % 60);
    let seconds = format!("{:02}.{:02}", hundredths / 100 % 60, hundredths % 100);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds}") } else { format!("{minutes}:{seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_as_a_clock() {
        assert_eq!([0.0, 61.256, 3723.45, -1.0].map(clock), ["0:00.00", "1:01.26", "1:02:03.45", "0:00.00"]);
    }
}
