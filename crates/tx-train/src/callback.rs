//! What is called at the events of a training, and may steer it: HF's `TrainerCallback`.
//!
//! Reference: transformers 5.23.0, `trainer_callback.py`.

use serde_json::{Map, Value, json};
use tx_core::{Error, Result};

use crate::arguments::{IntervalStrategy, SaveStrategy, TrainingArguments};
use crate::checkpoint::{Logs, Metrics, TrainerState};

/// The name under which a checkpoint keeps the control.
pub(crate) const CONTROL: &str = "TrainerControl";

/// What the loop does next. Callbacks set it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrainerControl {
    /// The training ends after this step.
    pub should_training_stop: bool,
    /// The epoch ends after this step.
    pub should_epoch_stop: bool,
    /// A checkpoint is saved at this step.
    pub should_save: bool,
    /// The model is evaluated at this step.
    pub should_evaluate: bool,
    /// The loss is logged at this step.
    pub should_log: bool,
}

/// What callbacks can look at.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// How the model is trained.
    pub arguments: &'a TrainingArguments,
    /// Where the training stands.
    pub state: &'a TrainerState,
}

/// One row per event: its name, when it is, what comes with it, and the switches that it resets before callbacks are
/// called.
macro_rules! events {
    ($($(#[$doc:meta])* $event:ident($($argument:ident: $type:ty),*) resets [$($switch:ident),*];)*) => {
        /// Called at the events of a training. An error ends the training.
        pub trait Callback {
            /// HF's name of the class; one callback of a name is registered at a time.
            fn name(&self) -> &'static str;

            /// What a checkpoint keeps of it, as `{"args": …, "attributes": …}`; `None` for nothing.
            fn state(&self) -> Option<Value> {
                None
            }

            /// Goes on from [`Callback::state`].
            ///
            /// # Errors
            /// [`Error::Input`] if it is not the state of this callback.
            fn restore(&mut self, _state: &Value) -> Result<()> {
                Ok(())
            }

            $($(#[$doc])*
            ///
            /// # Errors
            /// Whatever ends the training.
            fn $event(
                &mut self,
                _context: Context<'_>,
                _control: &mut TrainerControl
                $(, $argument: $type)*
            ) -> Result<()> {
                $(let _ = $argument;)*
                Ok(())
            })*
        }

        impl CallbackHandler {
            $($(#[$doc])*
            ///
            /// # Errors
            /// The error of the first callback that has one.
            pub fn $event(
                &mut self,
                context: Context<'_>,
                control: &mut TrainerControl
                $(, $argument: $type)*
            ) -> Result<()> {
                $(control.$switch = false;)*
                self.callbacks.iter_mut().try_for_each(|callback| callback.$event(context, control $(, $argument)*))
            })*
        }
    };
}

events! {
    /// The first step is about to begin.
    on_train_begin() resets [should_training_stop];
    /// The last step is done.
    on_train_end() resets [];
    /// An epoch begins.
    on_epoch_begin() resets [should_epoch_stop];
    /// An epoch is done.
    on_epoch_end() resets [];
    /// A step begins.
    on_step_begin() resets [should_log, should_evaluate, should_save];
    /// Gradients are ready and clipped.
    on_pre_optimizer_step() resets [];
    /// Parameters are updated.
    on_optimizer_step() resets [];
    /// A batch is done whose gradients are accumulated.
    on_substep_end() resets [];
    /// A step is done.
    on_step_end() resets [];
    /// An evaluation is done.
    on_evaluate(metrics: &Metrics) resets [should_evaluate];
    /// A checkpoint is saved.
    on_save() resets [should_save];
    /// Something is logged.
    on_log(logs: &Logs) resets [should_log];
    /// A batch of an evaluation is done.
    on_prediction_step() resets [];
}

/// Calls several callbacks, in their order.
#[derive(Default)]
pub struct CallbackHandler {
    callbacks: Vec<Box<dyn Callback>>,
}

impl std::fmt::Debug for CallbackHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.callbacks.iter().map(|callback| callback.name())).finish()
    }
}

impl CallbackHandler {
    /// What every training has: [`DefaultFlowCallback`], and [`EarlyStoppingCallback`] if the arguments ask for it.
    pub fn new(arguments: &TrainingArguments) -> Self {
        let mut handler = Self::default();
        handler.add(Box::new(DefaultFlowCallback));
        if let Some(patience) = arguments.early_stopping_patience {
            handler.add(Box::new(EarlyStoppingCallback::new(patience, arguments.early_stopping_threshold)));
        }
        handler
    }

    /// Adds a callback; it takes the place of one that has its name.
    pub fn add(&mut self, callback: Box<dyn Callback>) {
        match self.callbacks.iter_mut().find(|old| old.name() == callback.name()) {
            Some(old) => *old = callback,
            None => self.callbacks.push(callback),
        }
    }

    /// Removes the callback of a name, and says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.callbacks.len();
        self.callbacks.retain(|callback| callback.name() != name);
        self.callbacks.len() < before
    }

    /// What a checkpoint keeps of the callbacks and of the control, by name.
    pub fn states(&self, control: &TrainerControl) -> Map<String, Value> {
        let states = self.callbacks.iter().filter_map(|callback| Some((callback.name().to_owned(), callback.state()?)));
        let mut states: Map<String, Value> = states.collect();
        let switches = json!({
            "should_epoch_stop": control.should_epoch_stop,
            "should_evaluate": control.should_evaluate,
            "should_log": control.should_log,
            "should_save": control.should_save,
            "should_training_stop": control.should_training_stop,
        });
        states.insert(CONTROL.to_owned(), json!({ "args": switches, "attributes": {} }));
        states
    }

    /// Lets callbacks go on from what a checkpoint kept of them.
    ///
    /// # Errors
    /// [`Error::Input`] if the state of one is not its own.
    pub fn restore(&mut self, states: &Map<String, Value>) -> Result<()> {
        self.callbacks.iter_mut().try_for_each(|callback| match states.get(callback.name()) {
            Some(state) => callback.restore(state),
            None => Ok(()),
        })
    }
}

/// Logs, evaluates, saves and ends when the arguments say so.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultFlowCallback;

impl Callback for DefaultFlowCallback {
    fn name(&self) -> &'static str {
        "DefaultFlowCallback"
    }

    fn on_step_end(&mut self, context: Context<'_>, control: &mut TrainerControl) -> Result<()> {
        let Context { arguments, state } = context;
        let step = state.global_step;
        let every = |steps: u64| steps > 0 && step.is_multiple_of(steps);
        let logs = arguments.logging_strategy == IntervalStrategy::Steps && every(state.logging_steps);
        if logs || step == 1 && arguments.logging_first_step {
            control.should_log = true;
        }
        // Evaluations begin after their delay, and the last step has one whatever its number.
        let last = step >= state.max_steps;
        let evaluates = arguments.eval_strategy == IntervalStrategy::Steps && arguments.eval_delay <= step as f64;
        if evaluates && (every(state.eval_steps) || last) {
            control.should_evaluate = true;
        }
        if arguments.save_strategy == SaveStrategy::Steps && (every(state.save_steps) || last) {
            control.should_save = true;
        }
        if last {
            control.should_training_stop = true;
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, context: Context<'_>, control: &mut TrainerControl) -> Result<()> {
        let Context { arguments, state } = context;
        if arguments.logging_strategy == IntervalStrategy::Epoch {
            control.should_log = true;
        }
        if arguments.eval_strategy == IntervalStrategy::Epoch && arguments.eval_delay <= state.epoch {
            control.should_evaluate = true;
        }
        if arguments.save_strategy == SaveStrategy::Epoch {
            control.should_save = true;
        }
        Ok(())
    }
}

/// Ends a training when some evaluations in a row are not better than the best before them.
#[derive(Debug, Clone, PartialEq)]
pub struct EarlyStoppingCallback {
    patience: usize,
    threshold: f64,
    /// Evaluations since the last better one.
    counter: usize,
}

impl EarlyStoppingCallback {
    /// Ends after `patience` evaluations that are not better by more than `threshold`.
    pub fn new(patience: usize, threshold: f64) -> Self {
        Self { patience, threshold, counter: 0 }
    }
}

impl Callback for EarlyStoppingCallback {
    fn name(&self) -> &'static str {
        "EarlyStoppingCallback"
    }

    fn state(&self) -> Option<Value> {
        Some(json!({
            "args": {
                "early_stopping_patience": self.patience,
                "early_stopping_threshold": self.threshold,
            },
            "attributes": { "early_stopping_patience_counter": self.counter },
        }))
    }

    /// The patience and the threshold stay those of the arguments, which may have changed since the checkpoint.
    fn restore(&mut self, state: &Value) -> Result<()> {
        const KEY: &str = "early_stopping_patience_counter";
        let counter = state.get("attributes").and_then(|attributes| attributes.get(KEY)).and_then(Value::as_u64);
        let counter = counter.and_then(|counter| usize::try_from(counter).ok());
        self.counter = counter.ok_or_else(|| Error::input(KEY, "none in `trainer_state.json`", "a number"))?;
        Ok(())
    }

    fn on_train_begin(&mut self, context: Context<'_>, control: &mut TrainerControl) -> Result<()> {
        let Context { arguments, state } = context;
        if arguments.metric_for_best_model.is_none() || arguments.eval_strategy == IntervalStrategy::No {
            let expected = "a `metric_for_best_model` and an `eval_strategy` of steps or epoch";
            return Err(Error::input("EarlyStoppingCallback", "nothing that it could follow", expected));
        }
        // A run that goes on where it was stopped stays stopped, unless the patience is another one now.
        match state.global_step {
            0 => self.counter = 0,
            _ => control.should_training_stop |= self.counter >= self.patience,
        }
        Ok(())
    }

    fn on_evaluate(&mut self, context: Context<'_>, control: &mut TrainerControl, metrics: &Metrics) -> Result<()> {
        let Context { arguments, state } = context;
        let Some(key) = arguments.best_metric_key() else { return Ok(()) };
        let Some(metric) = metrics.get(&key) else {
            tracing::warn!("the evaluation has no `{key}`, which early stopping follows");
            return Ok(());
        };
        let greater = arguments.greater_is_better.unwrap_or(false);
        let better = state.best_metric.is_none_or(|best| {
            (if greater { *metric > best } else { *metric < best }) && (metric - best).abs() > self.threshold
        });
        self.counter = if better { 0 } else { self.counter + 1 };
        if self.counter >= self.patience {
            control.should_training_stop = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn step_end(arguments: &TrainingArguments, state: &TrainerState) -> TrainerControl {
        let mut control = TrainerControl::default();
        let mut handler = CallbackHandler::new(arguments);
        let context = Context { arguments, state };
        handler.on_step_begin(context, &mut control).unwrap();
        handler.on_step_end(context, &mut control).unwrap();
        control
    }

    #[test]
    fn the_default_flow_follows_the_arguments() {
        let flags = [("eval_strategy", "steps"), ("eval_steps", "4"), ("save_steps", "6"), ("logging_steps", "0.25")];
        let flags = flags.into_iter().chain([("logging_first_step", "true"), ("eval_delay", "5")]);
        let arguments = TrainingArguments::load(None, flags).unwrap();
        let mut state = TrainerState::default();
        state.compute_steps(&arguments, 10);
        let mut at = |step| {
            state.global_step = step;
            let control = step_end(&arguments, &state);
            (control.should_log, control.should_evaluate, control.should_save, control.should_training_stop)
        };
        assert_eq!(at(1), (true, false, false, false));
        assert_eq!(at(2), (false, false, false, false));
        assert_eq!(at(3), (true, false, false, false));
        assert_eq!(at(4), (false, false, false, false));
        assert_eq!(at(6), (true, false, true, false));
        assert_eq!(at(8), (false, true, false, false));
        assert_eq!(at(10), (false, true, true, true));
    }

    #[test]
    fn epochs_have_their_own_flow() {
        let flags = [("eval_strategy", "epoch"), ("save_strategy", "epoch"), ("logging_strategy", "epoch")];
        let arguments = TrainingArguments::load(None, flags.into_iter().chain([("eval_delay", "2")])).unwrap();
        let mut handler = CallbackHandler::new(&arguments);
        let mut at = |epoch| {
            let mut control = TrainerControl::default();
            let state = TrainerState { epoch, ..TrainerState::default() };
            handler.on_epoch_end(Context { arguments: &arguments, state: &state }, &mut control).unwrap();
            (control.should_log, control.should_evaluate, control.should_save)
        };
        assert_eq!(at(1.0), (true, false, true));
        assert_eq!(at(2.0), (true, true, true));
    }

    /// Evaluates until the training is to end; returns how many evaluations that took.
    fn evaluations(handler: &mut CallbackHandler, arguments: &TrainingArguments, losses: &[f64]) -> Option<usize> {
        let (mut state, mut control) = (TrainerState::default(), TrainerControl::default());
        for (index, loss) in losses.iter().enumerate() {
            let metrics = Metrics::from([("eval_loss".to_owned(), *loss)]);
            handler.on_evaluate(Context { arguments, state: &state }, &mut control, &metrics).unwrap();
            if control.should_training_stop {
                return Some(index + 1);
            }
            state.update_best(arguments, &metrics).unwrap();
        }
        None
    }

    fn stopping(patience: &str, threshold: &str) -> TrainingArguments {
        let flags = [("eval_strategy", "epoch"), ("metric_for_best_model", "loss")];
        let own = [("early_stopping_patience", patience), ("early_stopping_threshold", threshold)];
        TrainingArguments::load(None, flags.into_iter().chain(own)).unwrap()
    }

    #[test]
    fn early_stopping_waits_for_its_patience() {
        let arguments = stopping("2", "0.1");
        let evaluations = |losses: &[f64]| evaluations(&mut CallbackHandler::new(&arguments), &arguments, losses);
        assert_eq!(evaluations(&[3.0, 2.0, 1.0, 0.5]), None);
        assert_eq!(evaluations(&[3.0, 3.0, 2.0, 2.5, 1.95]), Some(5));
        assert_eq!(evaluations(&[3.0, f64::NAN, f64::NAN]), Some(3));
    }

    #[test]
    fn early_stopping_goes_on_from_a_checkpoint() {
        let arguments = stopping("3", "0");
        let mut handler = CallbackHandler::new(&arguments);
        assert_eq!(evaluations(&mut handler, &arguments, &[1.0, 2.0, 2.0]), None);
        let states = handler.states(&TrainerControl::default());
        assert_eq!(states.keys().collect::<Vec<_>>(), ["EarlyStoppingCallback", "TrainerControl"]);
        let mut resumed = CallbackHandler::new(&arguments);
        resumed.restore(&states).unwrap();
        let state = TrainerState { best_metric: Some(1.0), ..TrainerState::default() };
        let (context, mut control) = (Context { arguments: &arguments, state: &state }, TrainerControl::default());
        let metrics = Metrics::from([("eval_loss".to_owned(), 1.5)]);
        resumed.on_evaluate(context, &mut control, &metrics).unwrap();
        assert!(control.should_training_stop);
        let broken = Map::from_iter([("EarlyStoppingCallback".to_owned(), json!({}))]);
        assert!(resumed.restore(&broken).is_err());
    }

    #[test]
    fn a_run_that_was_stopped_early_stays_stopped() {
        let stops = |patience: &str, global_step: u64| {
            let arguments = stopping("2", "0");
            let mut handler = CallbackHandler::new(&arguments);
            assert_eq!(evaluations(&mut handler, &arguments, &[1.0, 2.0, 2.0]), Some(3));
            let states = handler.states(&TrainerControl::default());
            let arguments = stopping(patience, "0");
            let mut resumed = CallbackHandler::new(&arguments);
            resumed.restore(&states).unwrap();
            let (state, mut control) = (TrainerState { global_step, ..Default::default() }, TrainerControl::default());
            resumed.on_train_begin(Context { arguments: &arguments, state: &state }, &mut control).unwrap();
            control.should_training_stop
        };
        assert!(stops("2", 3) && !stops("3", 3) && !stops("2", 0));
    }

    #[test]
    fn early_stopping_needs_something_to_follow() {
        let mut handler = CallbackHandler::default();
        handler.add(Box::new(EarlyStoppingCallback::new(1, 0.0)));
        let (arguments, state) = (TrainingArguments::default(), TrainerState::default());
        let context = Context { arguments: &arguments, state: &state };
        assert!(handler.on_train_begin(context, &mut TrainerControl::default()).is_err());
    }

    struct Recorder(&'static str, Rc<RefCell<Vec<String>>>);

    impl Callback for Recorder {
        fn name(&self) -> &'static str {
            self.0
        }

        fn on_log(&mut self, context: Context<'_>, control: &mut TrainerControl, logs: &Logs) -> Result<()> {
            let line = format!("{} {} {}", self.0, context.state.global_step, logs["loss"]);
            self.1.borrow_mut().push(line);
            control.should_epoch_stop = true;
            Ok(())
        }
    }

    #[test]
    fn callbacks_are_called_in_order_and_replaced_by_name() {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let mut handler = CallbackHandler::default();
        for name in ["a", "b", "a"] {
            handler.add(Box::new(Recorder(name, Rc::clone(&seen))));
        }
        let (arguments, state) = (TrainingArguments::default(), TrainerState::default());
        let mut control = TrainerControl { should_log: true, ..TrainerControl::default() };
        let logs = Map::from_iter([("loss".to_owned(), json!(0.5))]);
        handler.on_log(Context { arguments: &arguments, state: &state }, &mut control, &logs).unwrap();
        assert_eq!(*seen.borrow(), ["a 0 0.5", "b 0 0.5"]);
        assert!(!control.should_log && control.should_epoch_stop);
        assert!(handler.remove("a") && !handler.remove("a"));
    }
}
