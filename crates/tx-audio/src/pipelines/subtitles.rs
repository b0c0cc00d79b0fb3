//! Transcriptions as files: text, JSON, and subtitles.

use std::fmt::Write;
use std::str::FromStr;

use tx_core::error::{Error, Result};

use super::Transcription;

/// How a transcription is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranscriptionFormat {
    /// The text alone.
    Txt,
    /// Python's JSON.
    Json,
    /// SubRip: numbered parts with their times.
    Srt,
    /// WebVTT.
    Vtt,
}

impl FromStr for TranscriptionFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "txt" => Ok(Self::Txt),
            "json" => Ok(Self::Json),
            "srt" => Ok(Self::Srt),
            "vtt" => Ok(Self::Vtt),
            _ => {
                let shown: String = name.chars().take(40).collect();
                Err(Error::input("format", format_args!("`{}`", shown.escape_debug()), "txt, json, srt or vtt"))
            }
        }
    }
}

impl TranscriptionFormat {
    /// The content of a file with a transcription.
    ///
    /// # Errors
    /// [`Error::Input`] for subtitles of a transcription without times.
    pub fn write(self, transcription: &Transcription) -> Result<String> {
        match self {
            Self::Txt => Ok(format!("{}\n", transcription.text.trim())),
            Self::Json => {
                let json = serde_json::to_string_pretty(transcription);
                json.map(|json| json + "\n").map_err(|e| Error::input("transcription", e, "numbers and text"))
            }
            Self::Srt => {
                let mut file = String::new();
                for (i, cue) in cues(transcription)?.into_iter().enumerate() {
                    let (start, end) = (clock(cue.start, ',', true), clock(cue.end, ',', true));
                    // Writing to a string does not fail.
                    let _ = write!(file, "{}\n{start} --> {end}\n{}\n\n", i + 1, cue.text);
                }
                Ok(file)
            }
            Self::Vtt => {
                let mut file = String::from("WEBVTT\n\n");
                for cue in cues(transcription)? {
                    let (start, end) = (clock(cue.start, '.', false), clock(cue.end, '.', false));
                    let _ = write!(file, "{start} --> {end}\n{}\n\n", cue.text);
                }
                Ok(file)
            }
        }
    }
}

/// What is shown, and when, in seconds.
struct Cue {
    start: f64,
    end: f64,
    text: String,
}

/// The parts of a transcription.
fn cues(transcription: &Transcription) -> Result<Vec<Cue>> {
    let untimed = || Error::input("format", "a transcription without times", "`return_timestamps` with subtitles");
    let chunks = transcription.chunks.as_ref().ok_or_else(untimed)?;
    let mut cues: Vec<Cue> = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let (start, end) = chunk.timestamp.ok_or_else(untimed)?;
        // A part that is cut off in the middle has no end, and one without a beginning follows the last.
        let start = start.unwrap_or_else(|| cues.last().map_or(0.0, |cue| cue.end));
        let text = chunk.text.trim().replace("-->", "->");
        cues.push(Cue { start, end: end.unwrap_or(start).max(start), text });
    }
    Ok(cues)
}

/// `hh:mm:ss,mmm`; the hours are left out where they are 0, unless they are always shown.
fn clock(seconds: f64, separator: char, hours_always: bool) -> String {
    let millis = (seconds.max(0.0) * 1000.0).round() as u64;
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    let hours = if hours > 0 || hours_always { format!("{hours:02}:") } else { String::new() };
    format!("{hours}{minutes:02}:{seconds:02}{separator}{:03}", millis % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Chunk;

    fn transcription() -> Transcription {
        let chunk =
            |start, end, text: &str| Chunk { timestamp: Some((start, end)), text: text.to_owned(), ..Chunk::default() };
        Transcription {
            text: " Hello there. --> Bye.".into(),
            chunks: Some(vec![chunk(Some(0.0), Some(1.5), " Hello there."), chunk(Some(3661.25), None, " --> Bye.")]),
        }
    }

    #[test]
    fn subtitles() {
        let written = |format: &str| format.parse::<TranscriptionFormat>().unwrap().write(&transcription()).unwrap();
        let srt = "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n2\n01:01:01,250 --> 01:01:01,250\n-> Bye.\n\n";
        assert_eq!(written("srt"), srt);
        let vtt = "WEBVTT\n\n00:00.000 --> 00:01.500\nHello there.\n\n01:01:01.250 --> 01:01:01.250\n-> Bye.\n\n";
        assert_eq!(written("vtt"), vtt);
        assert_eq!(written("txt"), "Hello there. --> Bye.\n");
        let json: serde_json::Value = serde_json::from_str(&written("json")).unwrap();
        assert_eq!(json["chunks"][1], serde_json::json!({"timestamp": [3661.25, null], "text": " --> Bye."}));
        let untimed = Transcription { chunks: None, ..transcription() };
        assert!(TranscriptionFormat::Srt.write(&untimed).is_err());
        assert_eq!(
            serde_json::to_string(&Transcription { text: "a".into(), chunks: None }).unwrap(),
            r#"{"text":"a"}"#
        );
        assert!("doc".parse::<TranscriptionFormat>().is_err());
    }
}
