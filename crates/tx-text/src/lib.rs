//! Text: architectures and pipelines.

pub mod models;
pub mod pipelines;
