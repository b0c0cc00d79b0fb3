//! Where runs begin, how they end before their last update, and how they go on.

use super::*;

/// Starts a run, interrupts it as soon as its log has so many lines, and gives its exit code and messages.
#[cfg(unix)]
fn interrupt(
    workshop: &Workshop,
    name: &str,
    data: &str,
    training: &str,
    lines: usize,
) -> Result<(Option<i32>, String)> {
    let mut command = workshop.command(name, data, training, &[])?;
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let begin = Instant::now();
    let log = workshop.path(name).join("log.jsonl");
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < lines && begin.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(10));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let output = child.wait_with_output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_run_does_not_begin_among_the_checkpoints_of_another() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let training = "max_steps = 3\nsave_steps = 1\nsave_total_limit = 2";
    workshop.trains("run", "", training, &[])?;
    let before = workshop.bytes("run/checkpoint-2/manifest.json")?;
    let line = workshop.fails("run", "", training, &["--seed", "7"])?;
    ensure!(line.contains("output_dir: ") && line.contains("checkpoints of another run"), "{line}");
    ensure!(line.contains("--resume"), "{line}");
    ensure!(workshop.bytes("run/checkpoint-2/manifest.json")? == before, "a checkpoint has changed");
    // One without checkpoints is taken.
    workshop.trains("none", "", "max_steps = 1\nsave_strategy = 'no'", &[])?;
    workshop.trains("none", "", "max_steps = 1\nsave_strategy = 'no'", &[])?;
    Ok(())
}

#[test]
fn the_end_of_an_epoch_is_logged_whole_by_a_run_that_goes_on_there() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let training = "max_steps = 7\nsave_steps = 1\nlogging_strategy = 'epoch'";
    workshop.trains("whole", "", training, &[])?;
    // The sixth step is the last of an epoch, saved before the epoch's end is told.
    copy(&workshop.path("whole/checkpoint-6"), &workshop.path("run/checkpoint-6"))?;
    workshop.trains("run", "", training, &["--resume"])?;
    let logged = |name: &str| -> Result<Vec<Value>> {
        let state = workshop.json(&format!("{name}/checkpoint-7/trainer_state.json"))?;
        let lines = state["log_history"].as_array().context("a history")?.clone();
        Ok(lines.into_iter().filter(|line| line["loss"].is_number()).collect())
    };
    let (found, expected) = (logged("run")?, logged("whole")?);
    ensure!(expected.len() == 1 && expected[0]["step"] == 6 && expected[0]["grad_norm"].is_number(), "{expected:?}");
    ensure!(expected[0]["learning_rate"].as_f64() > Some(0.0) && found == expected, "{found:?}, not {expected:?}");
    Ok(())
}

#[test]
fn a_run_that_was_stopped_early_does_not_go_on() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let training = "max_steps = 30\nsave_steps = 1\neval_strategy = 'steps'\neval_steps = 1\n\
        metric_for_best_model = 'loss'\nearly_stopping_patience = 2\nearly_stopping_threshold = 100";
    workshop.trains("run", &workshop.eval(), training, &[])?;
    let stopped = |step: u64| workshop.path(&format!("run/checkpoint-{step}")).is_dir();
    ensure!(stopped(3) && !stopped(4), "not stopped at the third step");
    workshop.trains("run", &workshop.eval(), training, &["--resume"])?;
    ensure!(stopped(3) && !stopped(4), "it went on");
    let patient = training.replace("patience = 2", "patience = 4");
    workshop.trains("run", &workshop.eval(), &patient, &["--resume"])?;
    ensure!(stopped(5) && !stopped(6), "it did not go on");
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_a_checkpoint_and_says_so() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let training = "max_steps = 1000000\nsave_strategy = 'no'";
    let (code, message) = interrupt(&workshop, "run", "", training, 3)?;
    ensure!(code == Some(130) && message.contains("stopped after step"), "{code:?} {message}");
    ensure!(message.contains("press Ctrl-C again"), "{message}");
    let saved =
        fs::read_dir(workshop.path("run"))?.flatten().filter(|entry| entry.path().join("manifest.json").is_file());
    ensure!(saved.count() == 1, "no checkpoint: {message}");
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupted_evaluation_is_made_up_for() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let few = fs::read(workshop.path("eval.jsonl"))?;
    workshop.rows("eval.jsonl", (0..30_000).map(|row| json!({ "text": text(row), "label": "joy" })))?;
    let training = "max_steps = 2\nsave_strategy = 'no'\neval_strategy = 'steps'\neval_steps = 1";
    // The loss of the first step is logged before its evaluation.
    let (code, message) = interrupt(&workshop, "run", &workshop.eval(), training, 1)?;
    ensure!(code == Some(130) && message.contains("stopped after step 1;"), "{code:?} {message}");
    let judged = |step: u64| -> Result<Vec<Value>> {
        let state = workshop.json(&format!("run/checkpoint-{step}/trainer_state.json"))?;
        let lines = state["log_history"].as_array().context("a history")?.clone();
        Ok(lines.into_iter().filter(|line| line["eval_loss"].is_number()).map(|line| line["step"].clone()).collect())
    };
    ensure!(judged(1)?.is_empty(), "the evaluation was not cut short");
    fs::write(workshop.path("eval.jsonl"), few)?;
    let training = training.replace("save_strategy = 'no'", "save_steps = 2");
    workshop.trains("run", &workshop.eval(), &training, &["--resume"])?;
    ensure!(judged(2)? == [json!(1), json!(2)], "{:?}", judged(2)?);
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_can_go_on_where_checkpoints_are_models_alone() -> Result<()> {
    let workshop = Workshop::classifier()?;
    let training = |max_steps: u64| {
        format!("max_steps = {max_steps}\nsave_steps = 1\nsave_total_limit = 2\nsave_only_model = true")
    };
    let (code, message) = interrupt(&workshop, "run", "", &training(1_000_000), 3)?;
    ensure!(code == Some(130) && message.contains("stopped after step"), "{code:?} {message}");
    let (_, step) = message.split_once("stopped after step ").context("a step")?;
    let step: u64 = step.split(';').next().context("a step")?.parse()?;
    let resumable = |step: u64| workshop.path(&format!("run/checkpoint-{step}/optimizer.safetensors")).is_file();
    ensure!(resumable(step), "{message}");
    workshop.trains("run", "", &training(step + 1), &["--resume"])?;
    // The newest checkpoint is a model alone now: the one before it is what a run goes on from.
    ensure!(resumable(step) && !resumable(step + 1), "other checkpoints");
    let ran = workshop.train("run", "", &training(step + 2), &["--resume"])?;
    ensure!(ran.code == Some(0) && ran.err.contains("save_only_model"), "{ran:?}");
    Ok(())
}
