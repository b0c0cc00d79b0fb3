//! Training: HF's `Trainer` on burn's autodiff.
//!
//! | module | holds |
//! |---|---|
//! | [`arguments`] | `TrainingArguments`: what decides how a model is trained |
//! | [`data`] | from files to examples |
//! | [`collate`] | from examples to batches |
//! | [`schedule`] | the learning rate |
//! | [`metrics`] | how good predictions are |
//! | [`parameters`] | which parameters are trained, and their gradients |
//! | [`optimizer`] | what gradients do to them |
//! | [`trainer`] | the loop |
//! | [`loss`] | what training makes smaller |
//! | [`distributed`] | several processes that train one model |
//! | [`peft`] | adapters: LoRA, IA3, prompts, prefixes |
//! | [`callback`] | what is called at the events of a training |
//! | [`checkpoint`] | what a run leaves on disk, and resumes from |
//! | [`logging`] | logs: JSON lines, TensorBoard, a bar |

pub mod arguments;
pub mod callback;
pub mod checkpoint;
pub mod collate;
pub mod data;
pub mod distributed;
pub mod logging;
pub mod loss;
pub mod metrics;
pub mod optimizer;
pub mod parameters;
pub mod peft;
pub mod schedule;
pub mod trainer;
