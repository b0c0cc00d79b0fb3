//! Generation: from the scores of the next token to text.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | [`GenerationConfig`]: how tokens are chosen and when that ends |
//! | [`generate`] | [`Generator`]: the decoding loop, its results, and what a call can hook into |
//! | `batch` | rows on their way through a model: padding, cache, guidance |
//! | `beam`, `diverse` | beam search, and with groups |
//! | `conditioned` | [`Conditioned`]: a decoder with what its encoder has seen |
//! | `row` | a sequence that grows token by token |
//! | `speculative` | drafts of a smaller model or of the prompt, which a pass checks |
//! | [`session`] | [`Session`]: a conversation, whose beginning is not computed again |
//! | [`mod@processors`] | what changes scores before a token is chosen |
//! | `scores` | sums and selections over a vocabulary |
//! | [`sample`] | the choice of a token |
//! | [`constraint`] | structured output: JSON schemas, regular expressions, grammars |
//! | [`stopping`] | texts that end a generation |
//! | [`stream`] | text while it is generated |

mod batch;
mod beam;
mod conditioned;
pub mod config;
pub mod constraint;
mod diverse;
pub mod generate;
pub mod processors;
mod row;
pub mod sample;
mod scores;
pub mod session;
mod speculative;
pub mod stopping;
pub mod stream;

pub use conditioned::Conditioned;
pub use config::{
    AssistantSchedule, BaseWatermarkingConfig, EarlyStopping, GenerationConfig, Overrides, SeedingScheme,
    SynthIdTextWatermarkingConfig, WatermarkingConfig,
};
pub use generate::{Finish, Generated, Generator, Hooks, Sequence, Stats, StepHook, StopHook, TokenLogprob};
pub use processors::{
    Detection, Extras, LogitsProcessor, LogitsProcessorList, PrefixAllowedTokens, WatermarkDetector, processors,
    processors_with,
};
pub use sample::{Sampler, argmax, log_softmax, random_seed, softmax};
pub use session::Session;
pub use stopping::{Shown, StopStringCriteria, StopStrings};
pub use stream::{Detokenizer, TextStreamer};
