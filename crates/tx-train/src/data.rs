//! Data: from files to the examples that a model learns from.
//!
//! A [`Dataset`] reads files row by row, whatever their format. A task, such as [`SequenceClassification`], makes examples
//! of a row: ids, and what the model should say. [`Examples::prepare`] does so once for all rows and keeps the result on
//! disk, from where any example can be read by its number. A [`Sampler`] says which numbers share a step.
//! [`crate::collate`] makes the arguments of a forward pass of them.
//!
//! Whatever is wrong with a row is found while it is prepared, before the first step, and named by file, line and column.
//! Pictures alone are read when they are needed: one that is broken ends the run where it is, with a checkpoint.
//!
//! | file | holds |
//! |---|---|
//! | `dataset.rs` | files of one format, and their rows |
//! | `row.rs` | a row: values by type, places for messages |
//! | `{lines,json,csv,parquet,images}.rs` | the formats; `bytes.rs` is what some of them share |
//! | `labels.rs` | the names of classes, and how they are found |
//! | `tasks/` | from rows to examples |
//! | `example.rs` | examples, and how they are written |
//! | `packing.rs` | several rows in one example |
//! | `store.rs` | all examples of a data set, on disk |
//! | `sampler.rs` | orders, batches and ranks |
//! | `random.rs` | random numbers and permutations |

mod bytes;
mod csv;
mod dataset;
mod example;
mod images;
mod json;
mod labels;
mod lines;
mod packing;
mod parquet;
mod random;
mod row;
mod sampler;
mod store;
mod tasks;

pub use dataset::{Columns, Dataset, DatasetOptions, Format, Rows, SampleBy};
pub use example::{Example, IGNORED, Labels, Reference, Tokens};
pub use labels::{ClassLabels, Targets, find_classes};
pub use packing::Packing;
pub use random::{Permutation, Random};
pub use row::{Origin, Place, Row};
pub use sampler::{Cursor, Order, Sampler, SamplerOptions};
pub use store::{Examples, Preparation, PrepareOptions, Statistics};
pub use tasks::{
    ChatTuning, ChatTuningOptions, Contrastive, ContrastiveOptions, Grouping, ImageClassification,
    ImageClassificationOptions, LanguageModeling, LanguageModelingOptions, QuestionAnswering, QuestionAnsweringOptions,
    SequenceClassification, SequenceClassificationOptions, TokenClassification, TokenClassificationOptions,
};
