use std::fs;

use super::*;

#[derive(serde::Deserialize)]
struct Case {
    lr_scheduler_type: String,
    kwargs: Map<String, Value>,
    learning_rate: f64,
    num_warmup_steps: u64,
    num_training_steps: u64,
    /// The values of evaluations, for schedules that follow them.
    metrics: Vec<f64>,
    rates: Vec<f64>,
}

impl Case {
    fn arguments(&self) -> TrainingArguments {
        TrainingArguments {
            lr_scheduler_type: SchedulerType::from_name(&self.lr_scheduler_type).unwrap(),
            lr_scheduler_kwargs: self.kwargs.clone(),
            learning_rate: self.learning_rate,
            warmup_steps: self.num_warmup_steps as f64,
            ..TrainingArguments::default()
        }
    }

    fn scheduler(&self) -> LrScheduler {
        LrScheduler::new(&self.arguments(), self.num_training_steps).unwrap()
    }

    /// Goes on by one update or evaluation.
    fn advance(&self, scheduler: &mut LrScheduler, index: usize) {
        match self.metrics.get(index) {
            Some(metric) => scheduler.evaluated(*metric),
            None => scheduler.step(),
        }
    }

    fn scheduler_at(&self, step: usize) -> LrScheduler {
        let mut scheduler = self.scheduler();
        (0..step).for_each(|index| self.advance(&mut scheduler, index));
        scheduler
    }
}

/// What Python's `get_scheduler` gave; xtask/reference/goldens_train_metrics.py records it.
fn cases() -> Vec<Case> {
    let path = Path::new("../../tests/data/train/metrics/schedules.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_rate_is_pythons() {
    let cases = cases();
    for name in SchedulerType::NAMES {
        assert!(cases.iter().any(|case| case.lr_scheduler_type == *name), "no case of {name}");
    }
    for case in &cases {
        let mut scheduler = case.scheduler();
        for (step, expected) in case.rates.iter().enumerate() {
            let found = scheduler.lr();
            let wrong = (found - expected).abs() > 1e-9 * case.learning_rate;
            assert!(!wrong, "{} {:?} at {step}: {found}, expected {expected}", case.lr_scheduler_type, case.kwargs);
            case.advance(&mut scheduler, step);
        }
    }
}

#[test]
fn a_state_goes_on_as_if_nothing_had_been() {
    let path = Path::new("scheduler.json");
    for case in &cases() {
        let mut scheduler = case.scheduler();
        for step in 0..case.rates.len() {
            let text = scheduler.state().to_string();
            let mut resumed = case.scheduler();
            resumed.load_state(path, &serde_json::from_str(&text).unwrap()).unwrap();
            assert_eq!(resumed.lr().to_bits(), scheduler.lr().to_bits(), "{} at {step}", case.lr_scheduler_type);
            assert_eq!(resumed.state(), scheduler.state());
            // What was loaded goes on, so that whatever the file lost would show.
            scheduler = resumed;
            case.advance(&mut scheduler, step);
        }
        assert_eq!(scheduler.state(), case.scheduler_at(case.rates.len()).state());
    }
}

#[test]
fn the_state_of_another_schedule_is_refused() {
    let arguments = TrainingArguments::default();
    let mut linear = LrScheduler::new(&arguments, 10).unwrap();
    let state = json!({ "lr_scheduler_type": "greedy", "last_epoch": 3 });
    let error = linear.load_state(Path::new("scheduler.json"), &state).unwrap_err().to_string();
    assert!(error.contains("`greedy`") && error.contains("`linear`"), "{error}");
    assert!(linear.load_state(Path::new("scheduler.json"), &Value::Null).is_err());
    let greedy = TrainingArguments { lr_scheduler_type: SchedulerType::Greedy, ..arguments };
    let mut greedy = LrScheduler::new(&greedy, 10).unwrap();
    assert!(matches!(greedy.load_state(Path::new("scheduler.json"), &state), Err(Error::Malformed { .. })));
}

#[test]
fn every_update_has_a_finite_rate() {
    let numbers = [0, 1, 2, 7, 1000];
    for name in SchedulerType::NAMES {
        let kind = SchedulerType::from_name(name).unwrap();
        let kwargs = match kind {
            SchedulerType::CosineWithMinLr | SchedulerType::CosineWarmupWithMinLr => json!({ "min_lr_rate": 0.1 }),
            SchedulerType::WarmupStableDecay => json!({ "num_decay_steps": 5 }),
            _ => json!({}),
        };
        let Value::Object(kwargs) = kwargs else { unreachable!() };
        if kind.is_adaptive() {
            continue;
        }
        for (warmup, total) in numbers.iter().flat_map(|w| numbers.iter().map(move |t| (*w, *t))) {
            let schedule = Schedule::new(kind, &kwargs, 1e-3, warmup, total).unwrap();
            for step in (0..20).chain([999, 1000, 1001, u64::MAX]) {
                let lr = schedule.lr(step);
                assert!(lr.is_finite() && lr >= 0.0, "{name} {warmup}/{total} at {step}: {lr}");
            }
        }
    }
}

#[test]
fn parameters_are_checked() {
    let message = |kind, kwargs: Value| {
        let Value::Object(kwargs) = kwargs else { unreachable!() };
        let arguments =
            TrainingArguments { lr_scheduler_type: kind, lr_scheduler_kwargs: kwargs, ..TrainingArguments::default() };
        LrScheduler::new(&arguments, 100).unwrap_err().to_string()
    };
    assert_eq!(
        message(SchedulerType::Cosine, json!({ "num_cycle": 1 })),
        "lr_scheduler_kwargs.num_cycle: an unknown name, expected a parameter of `cosine`; did you mean `num_cycles`?"
    );
    assert!(message(SchedulerType::Linear, json!({ "power": 2 })).contains("`linear` has no parameters"));
    assert!(message(SchedulerType::Greedy, json!({ "colour": 2 })).contains("one of smooth, window_size"));
    assert!(message(SchedulerType::Polynomial, json!({ "lr_end": 1 })).contains("less than the `learning_rate`"));
    assert!(message(SchedulerType::CosineWithMinLr, json!({})).contains("neither"));
    let both = json!({ "min_lr": 0.1, "min_lr_rate": 0.1 });
    assert!(message(SchedulerType::CosineWithMinLr, both).contains("one of them"));
    assert!(message(SchedulerType::WarmupStableDecay, json!({})).contains("num_decay_steps: missing"));
    let curve = json!({ "num_decay_steps": 1, "decay_type": "sqrt" });
    assert!(message(SchedulerType::WarmupStableDecay, curve).contains("one of linear, cosine, 1-sqrt"));
    assert!(message(SchedulerType::ReduceLrOnPlateau, json!({ "factor": 1 })).contains("below 1"));
    assert!(message(SchedulerType::InverseSqrt, json!({ "timescale": 0 })).contains("above 0"));
}
