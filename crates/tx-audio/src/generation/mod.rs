//! Whisper's generation: what is said in a sound of any length, and when.
//!
//! Reference: transformers 5.23.0, `models/whisper/generation_whisper.py`. [`WhisperGenerator`] hears half a minute at a
//! time, and moves on to where the last sentence ended. What a decoder is asked for stands before its text as tokens;
//! text that repeats itself or is improbable is tried again with other temperatures.
//!
//! | file | holds |
//! |---|---|
//! | `whisper.rs` | [`WhisperGenerator`]: the way through a sound |
//! | `config.rs` | [`WhisperGenerationConfig`], and what a call says: [`WhisperOptions`] |
//! | `prompt.rs` | the tokens before the text: language, task, what was said before |
//! | `timestamps.rs` | [`WhisperTimestampLogitsProcessor`]: the rules for tokens of time |
//! | `fallback.rs` | temperatures, and what they depend on |
//! | `segments.rs` | [`WhisperSegment`]: what lies between two tokens of time |
//! | `alignment.rs` | when each token was said, by attention to the sound |
//! | `languages.rs` | the languages |

mod alignment;
mod config;
mod fallback;
mod languages;
mod prompt;
mod segments;
mod timestamps;
mod whisper;

pub use config::{PromptConditionType, WhisperGenerationConfig, WhisperKeys, WhisperOptions, WhisperTask};
pub use fallback::WhisperAttempt;
pub use languages::{language_code, language_name};
pub use segments::WhisperSegment;
pub use timestamps::WhisperTimestampLogitsProcessor;
pub use whisper::{WhisperGenerator, WhisperOutput, WhisperPart};
