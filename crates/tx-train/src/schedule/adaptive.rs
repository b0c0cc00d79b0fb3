//! Learning rates that follow a metric.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tx_core::Result;

use super::Kwargs;
use crate::arguments::setting::{AMOUNT, ANY, COUNT, FACTOR, SIZE, choices};

choices! {
    /// Which way a metric gets better.
    Mode {
        /// Less is better.
        Min = "min",
        /// More is better.
        Max = "max",
    }
}

choices! {
    /// What a threshold is a share of.
    ThresholdMode {
        /// The best value so far.
        Rel = "rel",
        /// Nothing: it is a difference.
        Abs = "abs",
    }
}

/// When a value counts as better than the best one.
#[derive(Debug, Clone)]
struct Comparison {
    mode: Mode,
    threshold: f64,
    threshold_mode: ThresholdMode,
}

impl Comparison {
    fn new(kwargs: &mut Kwargs<'_>, threshold: f64, threshold_mode: ThresholdMode) -> Result<Self> {
        Ok(Self {
            mode: kwargs.get("mode", ANY)?.unwrap_or(Mode::Min),
            threshold: kwargs.get("threshold", AMOUNT)?.unwrap_or(threshold),
            threshold_mode: kwargs.get("threshold_mode", ANY)?.unwrap_or(threshold_mode),
        })
    }

    /// What every value is better than.
    fn worst(&self) -> f64 {
        if self.mode == Mode::Min { f64::INFINITY } else { f64::NEG_INFINITY }
    }

    fn is_better(&self, value: f64, best: Option<f64>) -> bool {
        let best = best.unwrap_or(self.worst());
        match (self.mode, self.threshold_mode) {
            (Mode::Min, ThresholdMode::Rel) => value < best * (1.0 - self.threshold),
            (Mode::Min, ThresholdMode::Abs) => value < best - self.threshold,
            (Mode::Max, ThresholdMode::Rel) => value > best * (1.0 + self.threshold),
            (Mode::Max, ThresholdMode::Abs) => value > best + self.threshold,
        }
    }
}

/// The state of a rule as JSON; it has numbers alone, which cannot fail.
fn to_value(state: &impl Serialize) -> Value {
    serde_json::to_value(state).unwrap_or_default()
}

/// Divides the rate when a metric has stopped to get better: PyTorch's `ReduceLROnPlateau`.
#[derive(Debug, Clone)]
pub(super) struct ReduceLrOnPlateau {
    comparison: Comparison,
    factor: f64,
    patience: u64,
    cooldown: u64,
    min_lr: f64,
    eps: f64,
    state: PlateauState,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct PlateauState {
    /// The best value so far.
    best: Option<f64>,
    num_bad_epochs: u64,
    cooldown_counter: u64,
    #[serde(rename = "_last_lr")]
    lr: f64,
}

impl ReduceLrOnPlateau {
    pub(super) fn new(kwargs: &mut Kwargs<'_>, lr: f64) -> Result<Self> {
        Ok(Self {
            comparison: Comparison::new(kwargs, 1e-4, ThresholdMode::Rel)?,
            factor: kwargs.get("factor", FACTOR)?.unwrap_or(0.1),
            patience: kwargs.get("patience", COUNT)?.unwrap_or(10),
            cooldown: kwargs.get("cooldown", COUNT)?.unwrap_or(0),
            min_lr: kwargs.get("min_lr", AMOUNT)?.unwrap_or(0.0),
            eps: kwargs.get("eps", AMOUNT)?.unwrap_or(1e-8),
            state: PlateauState { best: None, num_bad_epochs: 0, cooldown_counter: 0, lr },
        })
    }

    /// The rate of the next update.
    pub fn lr(&self) -> f64 {
        self.state.lr
    }

    /// Takes the value of an evaluation.
    pub fn step(&mut self, metric: f64) {
        let state = &mut self.state;
        if self.comparison.is_better(metric, state.best) {
            state.best = Some(metric);
            state.num_bad_epochs = 0;
        } else {
            state.num_bad_epochs += 1;
        }
        if state.cooldown_counter > 0 {
            state.cooldown_counter -= 1;
            state.num_bad_epochs = 0;
        }
        if state.num_bad_epochs > self.patience {
            let lr = (state.lr * self.factor).max(self.min_lr);
            if state.lr - lr > self.eps {
                state.lr = lr;
            }
            state.cooldown_counter = self.cooldown;
            state.num_bad_epochs = 0;
        }
    }

    pub(super) fn state(&self) -> Value {
        to_value(&self.state)
    }

    pub(super) fn load_state(&mut self, state: &Value) -> serde_json::Result<()> {
        self.state = PlateauState::deserialize(state)?;
        Ok(())
    }
}

/// Raises the rate while a metric gets better, and lowers it while it does not: GreedyLR, 2025 (arXiv:2512.14527).
#[derive(Debug, Clone)]
pub(super) struct GreedyLr {
    comparison: Comparison,
    factor: f64,
    patience: u64,
    cooldown: u64,
    warmup: u64,
    min_lr: f64,
    max_lr: f64,
    eps: f64,
    /// How many values are averaged before they are compared; `None` for none.
    window: Option<usize>,
    /// How often the rate is lowered in vain before all begins anew.
    reset_start: u64,
    initial_lr: f64,
    state: GreedyState,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct GreedyState {
    /// The best value so far.
    best: Option<f64>,
    num_bad_epochs: u64,
    num_good_epochs: u64,
    cooldown_counter: u64,
    warmup_counter: u64,
    reset_start: u64,
    #[serde(rename = "_last_lr")]
    lr: f64,
    /// The last values, and their sum as it came about.
    values: VecDeque<f64>,
    sum: f64,
}

impl GreedyState {
    fn new(lr: f64, reset_start: u64) -> Self {
        Self {
            best: None,
            num_bad_epochs: 0,
            num_good_epochs: 0,
            cooldown_counter: 0,
            warmup_counter: 0,
            reset_start,
            lr,
            values: VecDeque::new(),
            sum: 0.0,
        }
    }
}

impl GreedyLr {
    pub(super) fn new(kwargs: &mut Kwargs<'_>, lr: f64) -> Result<Self> {
        let smooth = kwargs.get("smooth", ANY)?.unwrap_or(false);
        let window = kwargs.get("window_size", SIZE)?.unwrap_or(50);
        let reset_start = kwargs.get("reset_start", COUNT)?.unwrap_or(500);
        // Python prints what it does; there is nobody here to print to.
        kwargs.get::<bool>("verbose", ANY)?;
        Ok(Self {
            comparison: Comparison::new(kwargs, 1e-6, ThresholdMode::Abs)?,
            factor: kwargs.get("factor", FACTOR)?.unwrap_or(0.95),
            patience: kwargs.get("patience", COUNT)?.unwrap_or(10),
            cooldown: kwargs.get("cooldown", COUNT)?.unwrap_or(0),
            warmup: kwargs.get("warmup", COUNT)?.unwrap_or(0),
            min_lr: kwargs.get("min_lr", AMOUNT)?.unwrap_or(1e-3),
            max_lr: kwargs.get("max_lr", AMOUNT)?.unwrap_or(1.0),
            eps: kwargs.get("eps", AMOUNT)?.unwrap_or(1e-8),
            window: smooth.then_some(window),
            reset_start,
            initial_lr: lr,
            state: GreedyState::new(lr, reset_start),
        })
    }

    /// The rate of the next update.
    pub fn lr(&self) -> f64 {
        self.state.lr
    }

    /// Takes the value of an evaluation.
    pub fn step(&mut self, metric: f64) {
        let metric = self.smoothed(metric);
        let state = &mut self.state;
        if state.cooldown_counter > 0 || state.warmup_counter > 0 {
            let counter =
                if state.cooldown_counter > 0 { &mut state.cooldown_counter } else { &mut state.warmup_counter };
            *counter -= 1;
            (state.num_bad_epochs, state.num_good_epochs) = (0, 0);
            return;
        }
        if self.comparison.is_better(metric, state.best) {
            state.best = Some(metric);
            (state.num_bad_epochs, state.num_good_epochs) = (0, state.num_good_epochs + 1);
        } else {
            (state.num_bad_epochs, state.num_good_epochs) = (state.num_bad_epochs + 1, 0);
        }
        if state.num_good_epochs > self.patience {
            let lr = (state.lr / self.factor).min(self.max_lr);
            if lr - state.lr > self.eps {
                state.lr = lr;
            }
            state.reset_start = self.reset_start;
            state.warmup_counter = self.warmup;
            state.num_good_epochs = 0;
        } else if state.num_bad_epochs > self.patience {
            // What lowering it in vain may reset comes first, as in Python.
            self.lower();
            self.state.cooldown_counter = self.cooldown;
            self.state.num_bad_epochs = 0;
        }
    }

    /// The mean of the last values; a value that is not finite is worse than all, and spoils no mean.
    fn smoothed(&mut self, metric: f64) -> f64 {
        let Some(window) = self.window.filter(|_| metric.is_finite()) else { return metric };
        let state = &mut self.state;
        state.values.push_back(metric);
        state.sum += metric;
        if state.values.len() > window
            && let Some(removed) = state.values.pop_front()
        {
            state.sum -= removed;
        }
        state.sum / state.values.len() as f64
    }

    fn lower(&mut self) {
        let state = &mut self.state;
        let lr = (state.lr * self.factor).max(self.min_lr);
        if state.lr - lr > self.eps {
            state.lr = lr;
        }
        if state.lr <= self.min_lr {
            state.reset_start = state.reset_start.saturating_sub(1);
            if state.reset_start == 0 {
                self.state = GreedyState::new(self.initial_lr, self.reset_start);
            }
        }
    }

    pub(super) fn state(&self) -> Value {
        to_value(&self.state)
    }

    pub(super) fn load_state(&mut self, state: &Value) -> serde_json::Result<()> {
        self.state = GreedyState::deserialize(state)?;
        Ok(())
    }
}
