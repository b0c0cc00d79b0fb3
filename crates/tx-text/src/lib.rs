//! Text: architectures and pipelines.

pub mod chat;
pub mod models;
pub mod pipelines;
