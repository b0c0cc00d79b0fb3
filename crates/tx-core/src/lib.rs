//! What every modality of `tx` shares.
//!
//! | module | holds |
//! |---|---|
//! | [`error`] | what can go wrong, as data |
//! | [`hub`] | a model's name to a folder: local, cached or downloaded |
//! | [`config`] | `config.json`, whole and as the typed view of one architecture |
//! | [`weights`] | tensors on disk: open, fill a model, save, convert |
//! | [`tokenizer`] | text to ids and back |
//! | [`device`] | where tensors live and in which dtype |
//! | [`decoder`] | the heads of decoder-only models |
//! | [`nn`] | layers that have a name in the literature |
//! | [`task`] | one trait per head: what a model of that kind computes |
//! | [`registry`] | tables from architecture to model, and loading through them |
//! | `blocks` | files that are written in large blocks |
//! | `parts` | large batches in parts |
//! | [`pipeline`] | what all pipelines share: inputs, batching, order, progress |
//! | [`guard`] | the border to crates that panic |
//! | [`progress`] | bars on a terminal |
//! | [`threads`] | how many threads compute |

mod blocks;
pub mod config;
pub mod decoder;
pub mod device;
pub mod error;
pub mod guard;
pub mod hub;
pub mod nn;
mod parts;
pub mod pipeline;
pub mod progress;
pub mod registry;
pub mod task;
pub mod threads;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, Result};
