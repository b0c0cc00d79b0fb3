//! What joins modalities: pictures and texts, or sounds and texts, in one space of vectors.
//!
//! | module | holds |
//! |---|---|
//! | [`models`] | architectures of two towers, and the towers alone |
//! | [`pipelines`] | pictures and sounds to labels of the user's choice, and anything to vectors |
//! | `parts` | the part of `config.json` that is about one tower |

pub mod models;
mod parts;
pub mod pipelines;
