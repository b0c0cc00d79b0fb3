//! How the learning rate changes: HF's twelve schedules.
//!
//! Reference: transformers 5.23.0, `optimization.py`. Ten are functions of the number of updates ([`Schedule`]); two
//! follow a metric (`reduce_lr_on_plateau`, `greedy`) and have a state. [`LrScheduler`] is any of them.

mod adaptive;

use std::f64::consts::PI;
use std::path::Path;

use serde_json::{Map, Value, json};
use tx_core::error::nearest;
use tx_core::{Error, Result};

use crate::arguments::TrainingArguments;
use crate::arguments::setting::{self, AMOUNT, FINITE, POSITIVE, Problem, Range, Setting, UNIT, choices};
use adaptive::{GreedyLr, ReduceLrOnPlateau};

choices! {
    /// HF's names of schedules.
    SchedulerType {
        /// Falls in a line to 0.
        Linear = "linear",
        /// Falls as half a cosine to 0.
        Cosine = "cosine",
        /// Falls so several times, each time from the top.
        CosineWithRestarts = "cosine_with_restarts",
        /// Falls as a power of what is left.
        Polynomial = "polynomial",
        /// Stays, from the first update on.
        Constant = "constant",
        /// Stays once it is reached.
        ConstantWithWarmup = "constant_with_warmup",
        /// Falls as the inverse square root.
        InverseSqrt = "inverse_sqrt",
        /// Falls when a metric has stopped to get better.
        ReduceLrOnPlateau = "reduce_lr_on_plateau",
        /// Falls as half a cosine to a lowest rate.
        CosineWithMinLr = "cosine_with_min_lr",
        /// The same with another warm-up, one update ahead.
        CosineWarmupWithMinLr = "cosine_warmup_with_min_lr",
        /// Rises, stays, and falls at the end.
        WarmupStableDecay = "warmup_stable_decay",
        /// Rises while a metric gets better, and falls while it does not.
        Greedy = "greedy",
    }
}

impl SchedulerType {
    /// Whether it follows a metric.
    pub fn is_adaptive(self) -> bool {
        matches!(self, Self::ReduceLrOnPlateau | Self::Greedy)
    }
}

choices! {
    /// The curve by which `warmup_stable_decay` rises or falls.
    Curve {
        /// A line.
        Linear = "linear",
        /// Half a cosine.
        Cosine = "cosine",
        /// One less a square root.
        OneMinusSqrt = "1-sqrt",
    }
}

/// What `lr_scheduler_kwargs` has for one kind of schedule; what nobody asked for is an error.
struct Kwargs<'a> {
    kind: SchedulerType,
    given: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Kwargs<'a> {
    fn new(kind: SchedulerType, given: &'a Map<String, Value>) -> Self {
        Self { kind, given, known: Vec::new() }
    }

    /// The value of a key, if it is there and not null.
    fn get<T: Setting>(&mut self, key: &'static str, range: Range) -> Result<Option<T>> {
        self.known.push(key);
        let Some(value) = self.given.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let wrong = |problem: Problem| wrong(key, problem.found, problem.expected);
        let read = T::read(value).map_err(|expected| wrong(Problem::new(key, setting::found(value), expected)))?;
        setting::check(key, &read, range).map_err(wrong)?;
        Ok(Some(read))
    }

    /// Rejects the keys that were not asked for.
    fn finish(self) -> Result<()> {
        let Some(key) = self.given.keys().find(|key| !self.known.contains(&key.as_str())) else { return Ok(()) };
        let expected = match nearest(key, self.known.iter().copied()) {
            Some(name) => format!("a parameter of `{}`; did you mean `{name}`?", self.kind),
            None if self.known.is_empty() => format!("nothing, as `{}` has no parameters", self.kind),
            None => format!("one of {}", self.known.join(", ")),
        };
        Err(wrong(key, "an unknown name", expected))
    }
}

/// An error about one of `lr_scheduler_kwargs`.
fn wrong(key: &str, found: impl std::fmt::Display, expected: impl std::fmt::Display) -> Error {
    Error::input(format!("lr_scheduler_kwargs.{key}"), found, expected)
}

/// A learning rate that depends on the number of updates alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    lr: f64,
    /// Updates until the rate is reached.
    warmup: f64,
    /// Updates in all.
    total: f64,
    shape: Shape,
}

/// What comes after the warm-up.
#[derive(Debug, Clone, PartialEq)]
enum Shape {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine { num_cycles: f64, min_lr_rate: f64 },
    CosineWithRestarts { num_cycles: f64 },
    Polynomial { lr_end: f64, power: f64 },
    InverseSqrt { timescale: f64 },
    CosineAhead { num_cycles: f64, min_lr_rate: f64, warmup_lr_rate: Option<f64> },
    WarmupStableDecay { stable: f64, decay: f64, rise: Curve, fall: Curve, min_lr_ratio: f64, num_cycles: f64 },
}

impl Schedule {
    /// A schedule that reaches `lr` after some of all updates; `kwargs` are HF's `lr_scheduler_kwargs`.
    ///
    /// # Errors
    /// [`Error::Input`] for a kind that follows a metric, and for parameters that are unknown, missing, out of range or
    /// contradict each other.
    pub fn new(
        kind: SchedulerType,
        kwargs: &Map<String, Value>,
        lr: f64,
        num_warmup_steps: u64,
        num_training_steps: u64,
    ) -> Result<Self> {
        let mut given = Kwargs::new(kind, kwargs);
        let (warmup, total) = (num_warmup_steps as f64, num_training_steps as f64);
        let shape = match kind {
            SchedulerType::Constant => Shape::Constant,
            SchedulerType::ConstantWithWarmup => Shape::ConstantWithWarmup,
            SchedulerType::Linear => Shape::Linear,
            SchedulerType::Cosine => {
                Shape::Cosine { num_cycles: given.get("num_cycles", FINITE)?.unwrap_or(0.5), min_lr_rate: 0.0 }
            }
            SchedulerType::CosineWithRestarts => {
                Shape::CosineWithRestarts { num_cycles: given.get("num_cycles", AMOUNT)?.unwrap_or(1.0) }
            }
            SchedulerType::Polynomial => {
                let lr_end = given.get("lr_end", AMOUNT)?.unwrap_or(1e-7);
                if lr <= lr_end {
                    return Err(wrong("lr_end", lr_end, format_args!("less than the `learning_rate` {lr}")));
                }
                Shape::Polynomial { lr_end, power: given.get("power", AMOUNT)?.unwrap_or(1.0) }
            }
            SchedulerType::InverseSqrt => {
                let default = if warmup > 0.0 { warmup } else { 10_000.0 };
                Shape::InverseSqrt { timescale: given.get("timescale", POSITIVE)?.unwrap_or(default) }
            }
            SchedulerType::CosineWithMinLr => Shape::Cosine {
                num_cycles: given.get("num_cycles", FINITE)?.unwrap_or(0.5),
                min_lr_rate: min_lr_rate(&mut given, lr)?,
            },
            SchedulerType::CosineWarmupWithMinLr => Shape::CosineAhead {
                num_cycles: given.get("num_cycles", FINITE)?.unwrap_or(0.5),
                min_lr_rate: min_lr_rate(&mut given, lr)?,
                warmup_lr_rate: given.get("warmup_lr_rate", AMOUNT)?,
            },
            SchedulerType::WarmupStableDecay => {
                let decay: Option<u64> = given.get("num_decay_steps", AMOUNT)?;
                let decay = decay.ok_or_else(|| wrong("num_decay_steps", "missing", "a number of steps"))? as f64;
                let stable: Option<u64> = given.get("num_stable_steps", AMOUNT)?;
                Shape::WarmupStableDecay {
                    stable: stable.map_or(total - warmup - decay, |steps| steps as f64),
                    decay,
                    rise: given.get("warmup_type", setting::ANY)?.unwrap_or(Curve::Linear),
                    fall: given.get("decay_type", setting::ANY)?.unwrap_or(Curve::Cosine),
                    min_lr_ratio: given.get("min_lr_ratio", UNIT)?.unwrap_or(0.0),
                    num_cycles: given.get("num_cycles", FINITE)?.unwrap_or(0.5),
                }
            }
            SchedulerType::ReduceLrOnPlateau | SchedulerType::Greedy => {
                return Err(Error::input("lr_scheduler_type", kind, "a schedule that needs no metric"));
            }
        };
        given.finish()?;
        Ok(Self { lr, warmup, total, shape })
    }

    /// The rate of the update that comes after `step` updates.
    pub fn lr(&self, step: u64) -> f64 {
        self.lr * self.factor(step as f64)
    }

    /// The share of the rate that is asked for.
    fn factor(&self, step: f64) -> f64 {
        let Self { lr, warmup, total, ref shape } = *self;
        let rest = (total - warmup).max(1.0);
        if step < warmup {
            return match *shape {
                Shape::Constant => 1.0,
                Shape::CosineAhead { warmup_lr_rate: None, .. } => (step + 1.0) / warmup.max(1.0),
                Shape::CosineAhead { warmup_lr_rate: Some(first), .. } => {
                    first + (1.0 - first) * step / (warmup - 1.0).max(1.0)
                }
                Shape::WarmupStableDecay { rise, min_lr_ratio, .. } => {
                    let progress = step / warmup.max(1.0);
                    let factor = match rise {
                        Curve::Linear => progress,
                        Curve::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                        Curve::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
                    };
                    lifted(factor, min_lr_ratio)
                }
                _ => step / warmup.max(1.0),
            };
        }
        match *shape {
            Shape::Constant | Shape::ConstantWithWarmup => 1.0,
            Shape::Linear => ((total - step) / rest).max(0.0),
            Shape::Cosine { num_cycles, min_lr_rate } => {
                lifted(half_cosine(num_cycles, (step - warmup) / rest), min_lr_rate)
            }
            Shape::CosineWithRestarts { num_cycles } => {
                let progress = (step - warmup) / rest;
                if progress >= 1.0 { 0.0 } else { 0.5 * (1.0 + (PI * ((num_cycles * progress) % 1.0)).cos()) }
            }
            Shape::Polynomial { lr_end, power } => {
                // Python divides by zero at the last update where all of them are warm-up.
                let left = if step < total { 1.0 - (step - warmup) / (total - warmup) } else { 0.0 };
                if step > total { lr_end / lr } else { ((lr - lr_end) * left.powf(power) + lr_end) / lr }
            }
            Shape::InverseSqrt { timescale } => 1.0 / ((step + (timescale - warmup)) / timescale).sqrt(),
            Shape::CosineAhead { num_cycles, min_lr_rate, .. } => {
                lifted(half_cosine(num_cycles, (step - warmup + 1.0) / rest), min_lr_rate)
            }
            Shape::WarmupStableDecay { stable, decay, fall, min_lr_ratio, num_cycles, .. } => {
                if step < warmup + stable {
                    return 1.0;
                }
                if step >= warmup + stable + decay {
                    return min_lr_ratio;
                }
                let progress = (step - warmup - stable) / decay.max(1.0);
                let factor = match fall {
                    Curve::Linear => 1.0 - progress,
                    Curve::Cosine => half_cosine(num_cycles, progress),
                    Curve::OneMinusSqrt => 1.0 - progress.sqrt(),
                };
                lifted(factor, min_lr_ratio)
            }
        }
    }
}

/// From 1 at 0 to 0 at 1, for half a cycle.
fn half_cosine(num_cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * num_cycles * 2.0 * progress).cos())
}

/// A factor from 0 to 1 as one from `low` to 1.
fn lifted(factor: f64, low: f64) -> f64 {
    (factor * (1.0 - low) + low).max(0.0)
}

/// The lowest rate as a share of the highest: one of two parameters says it.
fn min_lr_rate(given: &mut Kwargs<'_>, lr: f64) -> Result<f64> {
    let min_lr: Option<f64> = given.get("min_lr", AMOUNT)?;
    let rate: Option<f64> = given.get("min_lr_rate", AMOUNT)?;
    match (min_lr, rate) {
        (Some(_), Some(_)) => Err(wrong("min_lr", "set, and so is `min_lr_rate`", "one of them")),
        (Some(_), None) if lr == 0.0 => Err(wrong("min_lr", "a `learning_rate` of 0", "one above 0")),
        (Some(min_lr), None) => Ok(min_lr / lr),
        (None, Some(rate)) => Ok(rate),
        (None, None) => Err(wrong("min_lr", "neither it nor `min_lr_rate` is set", "one of them")),
    }
}

/// Any of the schedules, with how far it is.
#[derive(Debug, Clone)]
pub struct LrScheduler {
    kind: SchedulerType,
    /// Updates made, or for those that follow a metric, evaluations.
    last_epoch: u64,
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    Steps(Schedule),
    Plateau(ReduceLrOnPlateau),
    Greedy(GreedyLr),
}

impl LrScheduler {
    /// The schedule that the arguments ask for, over so many updates.
    ///
    /// # Errors
    /// [`Error::Input`] for parameters that are unknown, missing, out of range or contradict each other.
    pub fn new(arguments: &TrainingArguments, num_training_steps: u64) -> Result<Self> {
        let (kind, lr) = (arguments.lr_scheduler_type, arguments.learning_rate);
        let mut kwargs = Kwargs::new(kind, &arguments.lr_scheduler_kwargs);
        let rule = match kind {
            SchedulerType::ReduceLrOnPlateau => Rule::Plateau(ReduceLrOnPlateau::new(&mut kwargs, lr)?),
            SchedulerType::Greedy => Rule::Greedy(GreedyLr::new(&mut kwargs, lr)?),
            _ => {
                let warmup = arguments.get_warmup_steps(num_training_steps);
                let schedule = Schedule::new(kind, kwargs.given, lr, warmup, num_training_steps)?;
                return Ok(Self { kind, last_epoch: 0, rule: Rule::Steps(schedule) });
            }
        };
        kwargs.finish()?;
        Ok(Self { kind, last_epoch: 0, rule })
    }

    /// The rate of the next update.
    pub fn lr(&self) -> f64 {
        match &self.rule {
            Rule::Steps(schedule) => schedule.lr(self.last_epoch),
            Rule::Plateau(plateau) => plateau.lr(),
            Rule::Greedy(greedy) => greedy.lr(),
        }
    }

    /// Whether it follows a metric: [`LrScheduler::evaluated`] then changes the rate, [`LrScheduler::step`] does not.
    pub fn is_adaptive(&self) -> bool {
        self.kind.is_adaptive()
    }

    /// An update was made.
    pub fn step(&mut self) {
        if !self.is_adaptive() {
            self.last_epoch += 1;
        }
    }

    /// An evaluation gave this value of `metric_for_best_model`.
    pub fn evaluated(&mut self, metric: f64) {
        match &mut self.rule {
            Rule::Steps(_) => return,
            Rule::Plateau(plateau) => plateau.step(metric),
            Rule::Greedy(greedy) => greedy.step(metric),
        }
        self.last_epoch += 1;
    }

    /// How far it is, as a checkpoint keeps it.
    pub fn state(&self) -> Value {
        let mut state = json!({ "lr_scheduler_type": self.kind.name(), "last_epoch": self.last_epoch });
        let own = match &self.rule {
            Rule::Steps(_) => json!({ "_last_lr": self.lr() }),
            Rule::Plateau(plateau) => plateau.state(),
            Rule::Greedy(greedy) => greedy.state(),
        };
        if let (Some(state), Value::Object(own)) = (state.as_object_mut(), own) {
            state.extend(own);
        }
        state
    }

    /// Goes on where [`LrScheduler::state`] was taken; `path` is the file that holds it.
    ///
    /// # Errors
    /// [`Error::Config`] if it is the state of another kind of schedule; [`Error::Malformed`] if it is no state.
    pub fn load_state(&mut self, path: &Path, state: &Value) -> Result<()> {
        let kind = state.get("lr_scheduler_type").and_then(Value::as_str).unwrap_or_default();
        if kind != self.kind.name() {
            let reason =
                format!("the state of `{kind}`, expected that of `{}`, which the arguments ask for", self.kind);
            return Err(Error::config(path, "lr_scheduler_type", reason));
        }
        let last_epoch = state.get("last_epoch").and_then(Value::as_u64);
        let last_epoch = last_epoch.ok_or_else(|| Error::config(path, "last_epoch", "expected a number of steps"))?;
        let loaded = match &mut self.rule {
            Rule::Steps(_) => Ok(()),
            Rule::Plateau(plateau) => plateau.load_state(state),
            Rule::Greedy(greedy) => greedy.load_state(state),
        };
        loaded.map_err(|reason| Error::malformed(path, format_args!("not the state of `{kind}`: {reason}")))?;
        self.last_epoch = last_epoch;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
