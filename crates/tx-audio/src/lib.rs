//! Audio: sound from files, features of it, and text from what a model hears.
//!
//! | module | holds |
//! |---|---|
//! | [`audio`] | files of sound to mono samples of one rate, whole or as they are read |
//! | [`features`] | samples to what a model takes: HF's feature extractors |
//! | [`models`] | every architecture |
//! | [`generation`] | Whisper's decoding: languages, timestamps, fallbacks, long sounds |
//! | [`tokens`] | Whisper's tokens to text, words and times |
//! | [`pipelines`] | sounds to results |
//! | [`ctc`] | the ids of a CTC model to text |

pub mod audio;
pub mod ctc;
pub mod features;
pub mod generation;
pub mod models;
pub mod pipelines;
pub mod tokens;

pub use audio::{Audio, AudioReader};
pub use ctc::Wav2Vec2CtcTokenizer;
pub use features::{FeatureBatch, FeatureExtractor, Features};
