use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// How a save is cut short.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The program ends before a step.
    Kill,
    /// It ends in the middle of a write.
    Torn,
    /// The machine ends, and with it what no file system promised to keep.
    PowerLoss,
    /// One step finds the disk full; the program goes on.
    Full,
}

#[derive(Debug, Default)]
struct Steps {
    /// What was done, in order.
    done: Vec<(&'static str, PathBuf)>,
    /// Files that the disk may not have yet.
    unsynced: BTreeSet<PathBuf>,
    failed: bool,
}

/// A file system that fails at a step.
#[derive(Debug, Clone)]
struct Failing {
    at: usize,
    fault: Fault,
    steps: Arc<Mutex<Steps>>,
}

impl Failing {
    fn new(at: usize, fault: Fault) -> Self {
        Self { at, fault, steps: Arc::default() }
    }

    /// Counts a step. Returns whether it fails, and whether the program is no more.
    fn next(&self, what: &'static str, path: &Path) -> Result<bool> {
        let mut steps = self.steps.lock().unwrap();
        let dead = steps.failed && self.fault != Fault::Full;
        let fails = !steps.failed && steps.done.len() == self.at;
        steps.done.push((what, path.to_path_buf()));
        steps.failed |= fails;
        if fails && self.fault == Fault::PowerLoss {
            steps.unsynced.iter().filter(|path| path.exists()).for_each(|path| cut(path, 0));
        }
        if dead || fails && (self.fault != Fault::Torn || what != "write") { Err(self.error(path)) } else { Ok(fails) }
    }

    fn error(&self, path: &Path) -> Error {
        let kind = if self.fault == Fault::Full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
        Error::io(path)(io::Error::from(kind))
    }

    fn done(&self) -> Vec<(&'static str, PathBuf)> {
        self.steps.lock().unwrap().done.clone()
    }

    fn failed(&self) -> bool {
        self.steps.lock().unwrap().failed
    }
}

fn cut(path: &Path, divisor: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size.checked_div(divisor).unwrap_or(0)).unwrap();
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() { contents(path).unwrap().0 } else { vec![path.to_path_buf()] }
}

impl Disk for Failing {
    fn create_folder(&self, path: &Path) -> Result<()> {
        self.next("create", path)?;
        FileSystem.create_folder(path)
    }

    fn write(&self, path: &Path, content: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        let torn = self.next("write", path)?;
        FileSystem.write(path, content)?;
        self.steps.lock().unwrap().unsynced.extend(files(path));
        if torn {
            files(path).iter().for_each(|path| cut(path, 2));
            return Err(self.error(path));
        }
        Ok(())
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.next("sync", path)?;
        self.steps.lock().unwrap().unsynced.remove(path);
        FileSystem.sync(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.next("rename", to)?;
        let mut steps = self.steps.lock().unwrap();
        let moved = |path: PathBuf| path.strip_prefix(from).map(|rest| to.join(rest)).unwrap_or(path.clone());
        steps.unsynced = std::mem::take(&mut steps.unsynced).into_iter().map(moved).collect();
        FileSystem.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        if self.next("remove", path).is_err() {
            // Half of it is gone.
            if let Some(file) = files(path).first() {
                fs::remove_file(file).unwrap();
            }
            return Err(self.error(path));
        }
        FileSystem.remove(path)
    }
}

/// Saves step `step`; `mark` is in all of its files.
fn save(checkpoints: &Checkpoints, step: u64, mark: u64, limit: Option<usize>, best: Option<u64>) -> Result<PathBuf> {
    let arguments = TrainingArguments { save_total_limit: limit, seed: mark, ..TrainingArguments::default() };
    let best_global_step = best;
    let mut state = TrainerState { global_step: step, epoch: mark as f64, best_global_step, ..Default::default() };
    let resumable = Resumable {
        optimizer: BTreeMap::from([("moment".to_owned(), TensorData::new(vec![mark as f32; 3], [3]))]),
        scheduler: json!({ "mark": mark }),
        rng: json!({ "mark": mark }),
        scaler: None,
    };
    checkpoints.save(&arguments, &mut state, Some(resumable), |folder| {
        fs::create_dir(folder.join("1_Pooling")).map_err(Error::io(folder))?;
        fs::write(folder.join("1_Pooling/config.json"), mark.to_string()).map_err(Error::io(folder))?;
        fs::write(folder.join("model.safetensors"), mark.to_string()).map_err(Error::io(folder))
    })
}

/// The step and the mark of a checkpoint, which all of its files have.
fn read(saved: &Saved) -> (u64, u64) {
    let mark = saved.state.epoch as u64;
    let text = |name: &str| fs::read_to_string(saved.path.join(name)).unwrap();
    assert_eq!(text("model.safetensors"), mark.to_string());
    assert_eq!(text("1_Pooling/config.json"), mark.to_string());
    assert_eq!(saved.scheduler().unwrap().1, json!({ "mark": mark }));
    assert_eq!(saved.rng().unwrap().1, json!({ "mark": mark }));
    assert!(saved.scaler().unwrap().is_none());
    let optimizer = saved.optimizer().unwrap();
    let moment = optimizer.tensors()["moment"].to_data();
    assert_eq!(moment.try_to_vec::<f32>().unwrap(), [mark as f32; 3]);
    let arguments = TrainingArguments::from_file(&saved.path.join(TRAINING_ARGS)).unwrap();
    assert_eq!(arguments.seed, mark);
    (saved.state.global_step, mark)
}

fn latest(checkpoints: &Checkpoints) -> Saved {
    checkpoints.resume(&Resume::Latest).unwrap().unwrap()
}

/// The names in a folder, but for the lock.
fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != LOCK).collect();
    names.sort_unstable();
    names
}

fn steps(checkpoints: &Checkpoints) -> Vec<u64> {
    checkpoints.complete().unwrap().into_iter().map(|(step, _)| step).collect()
}

/// Saves steps 1 and 2, the first being the best, and then with a fault at every step what `act` saves.
fn at_every_step(fault: Fault, act: impl Fn(&Checkpoints) -> Result<PathBuf>, check: impl Fn(&Checkpoints, bool)) {
    for at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        save(&checkpoints, 1, 10, None, Some(1)).unwrap();
        save(&checkpoints, 2, 20, None, Some(1)).unwrap();
        drop(checkpoints);
        let disk = Failing::new(at, fault);
        let checkpoints = Checkpoints::open_on(Box::new(disk.clone()), folder.path()).unwrap();
        let result = act(&checkpoints);
        drop(checkpoints);
        let resumed = Checkpoints::open(folder.path()).unwrap();
        assert!(steps(&resumed).contains(&1), "the best is lost at {at} of {fault:?}: {:?}", disk.done());
        assert!(names(folder.path()).iter().all(|name| name.starts_with(PREFIX)), "{:?}", names(folder.path()));
        check(&resumed, result.is_ok());
        if !disk.failed() {
            result.unwrap();
            assert!(at > 15, "a save has more than {at} steps");
            return;
        }
    }
}

#[test]
fn a_save_that_is_killed_anywhere_loses_nothing() {
    for fault in [Fault::Kill, Fault::Torn, Fault::PowerLoss, Fault::Full] {
        let act = |checkpoints: &Checkpoints| save(checkpoints, 3, 30, Some(2), Some(1));
        at_every_step(fault, act, |checkpoints, saved| {
            let found = latest(checkpoints);
            assert!(found.skipped.is_empty(), "{:?}", found.skipped);
            let (step, mark) = read(&found);
            assert!(mark == step * 10 && (step == 3 || step == 2 && !saved), "{fault:?}: step {step}");
        });
    }
}

#[test]
fn a_save_that_replaces_one_is_the_old_or_the_new() {
    for fault in [Fault::Kill, Fault::Torn, Fault::PowerLoss, Fault::Full] {
        let act = |checkpoints: &Checkpoints| save(checkpoints, 2, 21, None, Some(1));
        at_every_step(fault, act, |checkpoints, saved| {
            let (step, mark) = read(&latest(checkpoints));
            assert!(step == 2 && (mark == 21 || mark == 20 && !saved), "{fault:?}: mark {mark}");
        });
    }
}

#[test]
fn everything_is_on_the_disk_before_it_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Failing::new(usize::MAX, Fault::Kill);
    let checkpoints = Checkpoints::open_on(Box::new(disk.clone()), folder.path()).unwrap();
    let path = save(&checkpoints, 7, 1, None, None).unwrap();
    let done = disk.done();
    let renamed = done.iter().position(|step| *step == ("rename", path.clone())).unwrap();
    let staged = folder.path().join(format!("{UNFINISHED}7"));
    let (files, folders) = contents(&path).unwrap();
    for path in files.iter().chain(&folders).map(|file| staged.join(file.strip_prefix(&path).unwrap())) {
        assert!(done[..renamed].contains(&("sync", path.clone())), "{} is not synced", path.display());
    }
    let manifest = done.iter().position(|step| *step == ("write", staged.join(MANIFEST))).unwrap();
    let written = done.iter().rposition(|(what, _)| *what == "write").unwrap();
    assert_eq!(manifest, written, "the manifest is written last");
    assert_eq!(done[renamed + 1..], [("sync", folder.path().to_path_buf())]);
    assert!(disk.steps.lock().unwrap().unsynced.is_empty());
}

#[test]
fn a_full_disk_is_an_error_that_says_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    save(&Checkpoints::open(folder.path()).unwrap(), 1, 10, None, None).unwrap();
    let disk = Failing::new(4, Fault::Full);
    let checkpoints = Checkpoints::open_on(Box::new(disk), folder.path()).unwrap();
    let error = save(&checkpoints, 2, 20, None, None).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull), "{error}");
    let error = error.to_string();
    assert!(error.contains("`checkpoint-2` was not saved, `checkpoint-1` is intact; free space"), "{error}");
    assert_eq!(names(folder.path()), ["checkpoint-1"]);
    // The run goes on, and the next save has room.
    save(&checkpoints, 3, 30, None, None).unwrap();
    assert_eq!(read(&latest(&checkpoints)), (3, 30));
}

#[test]
fn a_model_that_cannot_be_saved_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    let mut state = TrainerState { global_step: 5, best_global_step: Some(5), ..Default::default() };
    let refuse = |folder: &Path| -> Result<()> {
        fs::write(folder.join("half"), "x").map_err(Error::io(folder))?;
        Err(Error::tensor(folder, "w", "quantized"))
    };
    let error = checkpoints.save(&TrainingArguments::default(), &mut state, None, refuse).unwrap_err();
    assert!(matches!(error, Error::Tensor { .. }), "{error}");
    assert_eq!((names(folder.path()), state.best_model_checkpoint), (vec![], None));
}

/// Three checkpoints, of which the newest is broken in some way.
fn broken(act: impl Fn(&Path)) -> (TempDir, Checkpoints) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    for step in 1..=3 {
        save(&checkpoints, step, step * 10, None, None).unwrap();
    }
    act(&folder.path().join("checkpoint-3"));
    (folder, checkpoints)
}

#[test]
fn damaged_checkpoints_are_skipped_and_named() {
    let edit = |path: &Path, act: &dyn Fn(&mut Value)| {
        let mut json = read_json(path).unwrap();
        act(&mut json);
        fs::write(path, json.to_string()).unwrap();
    };
    #[expect(clippy::type_complexity, reason = "a table")]
    let cases: [(&dyn Fn(&Path), &str); 9] = [
        (&|folder| fs::remove_file(folder.join(MANIFEST)).unwrap(), "no `manifest.json`"),
        (&|folder| fs::remove_file(folder.join(OPTIMIZER)).unwrap(), "no `optimizer.safetensors`"),
        (&|folder| fs::write(folder.join("model.safetensors"), "3").unwrap(), "`model.safetensors` has 1 bytes"),
        (&|folder| fs::write(folder.join("model.safetensors"), "31").unwrap(), "`model.safetensors` is damaged"),
        (
            &|folder| fs::write(folder.join("1_Pooling/config.json"), "31").unwrap(),
            "`1_Pooling/config.json` is damaged",
        ),
        (&|folder| cut(&folder.join(MANIFEST), 2), "not valid JSON"),
        (&|folder| edit(&folder.join(MANIFEST), &|json| json["format"] = 2.into()), "format 2, expected 1"),
        (
            &|folder| {
                edit(&folder.join(MANIFEST), &|json| {
                    json["files"]["../checkpoint-2/manifest.json"] = json["files"]["model.safetensors"].clone();
                });
            },
            "`../checkpoint-2/manifest.json` is no file of this folder",
        ),
        (&|folder| edit(&folder.join(MANIFEST), &|json| json["files"] = json!([1])), "`manifest.json`: "),
    ];
    for (act, reason) in cases {
        let (folder, checkpoints) = broken(act);
        let saved = latest(&checkpoints);
        assert_eq!(read(&saved), (2, 20), "{reason}");
        let [skipped] = saved.skipped.as_slice() else { panic!("{:?}", saved.skipped) };
        assert!(skipped.reason.contains(reason), "{skipped:?}, expected {reason}");
        assert_eq!(skipped.path, folder.path().join("checkpoint-3"));
        // It is named in its own error, and never removed, nor counted.
        let error = checkpoints.resume(&Resume::Folder(skipped.path.clone())).unwrap_err().to_string();
        assert!(error.contains("checkpoint-3") && error.contains(reason), "{error}");
        save(&checkpoints, 4, 40, Some(1), None).unwrap();
        drop(checkpoints);
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        assert_eq!(read(&latest(&checkpoints)), (4, 40));
        // Where sizes are right, the damage shows only to who reads every byte.
        let counted = reason.contains("is damaged");
        let left = if counted { vec!["checkpoint-4"] } else { vec!["checkpoint-3", "checkpoint-4"] };
        assert_eq!(names(folder.path()), left, "{reason}");
    }
}

#[test]
fn leftovers_of_killed_runs_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    for name in [format!("{UNFINISHED}5"), format!("{UNFINISHED}x"), "runs".into(), "checkpoint-best".into()] {
        fs::create_dir(folder.path().join(&name)).unwrap();
        fs::write(folder.path().join(&name).join("model.safetensors"), "half").unwrap();
    }
    drop(Checkpoints::open(folder.path()).unwrap());
    assert_eq!(names(folder.path()), [format!("{UNFINISHED}x").as_str(), "checkpoint-best", "runs"]);
}

#[test]
fn a_run_without_a_checkpoint_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    assert!(checkpoints.resume(&Resume::No).unwrap().is_none());
    fs::create_dir(folder.path().join("checkpoint-9")).unwrap();
    let error = checkpoints.resume(&Resume::Latest).unwrap_err().to_string();
    assert!(error.contains("no complete checkpoint here") && error.contains("`checkpoint-9` is not used"), "{error}");
}

#[test]
fn a_model_alone_is_no_run_to_go_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    let mut state = TrainerState { global_step: 1, ..Default::default() };
    checkpoints.save(&TrainingArguments::default(), &mut state, None, |_| Ok(())).unwrap();
    let error = checkpoints.resume(&Resume::Latest).unwrap_err().to_string();
    assert!(error.contains("`save_only_model`"), "{error}");
    // One before it that has everything is taken.
    save(&checkpoints, 2, 20, None, None).unwrap();
    state.global_step = 3;
    checkpoints.save(&TrainingArguments::default(), &mut state, None, |_| Ok(())).unwrap();
    let saved = latest(&checkpoints);
    assert_eq!(read(&saved), (2, 20));
    let [skipped] = saved.skipped.as_slice() else { panic!("{:?}", saved.skipped) };
    assert!(skipped.path.ends_with("checkpoint-3") && skipped.reason.contains("`save_only_model`"), "{skipped:?}");
    let error = checkpoints.resume(&Resume::Folder(skipped.path.clone())).unwrap_err().to_string();
    assert!(error.contains("checkpoint-3") && error.contains("`save_only_model`"), "{error}");
}

#[test]
fn rotation_keeps_the_newest_and_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    let left = |step, limit, best| {
        save(&checkpoints, step, step, limit, best).unwrap();
        steps(&checkpoints)
    };
    assert_eq!(left(1, Some(2), None), [1]);
    assert_eq!(left(2, Some(2), Some(2)), [1, 2]);
    assert_eq!(left(3, Some(2), Some(2)), [2, 3]);
    assert_eq!(left(4, Some(2), Some(2)), [2, 4]);
    assert_eq!(left(5, Some(1), Some(2)), [2, 5]);
    assert_eq!(left(6, Some(0), Some(2)), [2, 5, 6]);
    assert_eq!(left(7, None, Some(2)), [2, 5, 6, 7]);
    assert_eq!(left(8, Some(3), Some(8)), [6, 7, 8]);
    // A new run in the same folder: what is left of the one before is older than all of it.
    assert_eq!(left(2, Some(3), None), [2, 7, 8]);
    assert_eq!(left(3, Some(3), None), [2, 3, 8]);
    assert_eq!(left(4, Some(1), None), [4]);
}

#[test]
fn the_best_alone_stays_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    save(&checkpoints, 1, 10, Some(1), Some(1)).unwrap();
    save(&checkpoints, 2, 20, Some(1), Some(1)).unwrap();
    let mut state = TrainerState { best_global_step: Some(1), ..Default::default() };
    checkpoints.keep_best(Some(1), &state).unwrap();
    assert_eq!(steps(&checkpoints), [1, 2], "no checkpoint is known to be the best");
    state.best_model_checkpoint = Some("elsewhere/checkpoint-1".into());
    checkpoints.keep_best(Some(2), &state).unwrap();
    assert_eq!(steps(&checkpoints), [1, 2]);
    checkpoints.keep_best(Some(1), &state).unwrap();
    assert_eq!(steps(&checkpoints), [1]);
    state.best_model_checkpoint = Some("elsewhere/checkpoint-3".into());
    checkpoints.keep_best(Some(1), &state).unwrap();
    assert_eq!(steps(&checkpoints), [1], "the only complete one stays");
}

#[test]
fn the_best_checkpoint_is_the_best_that_was_saved() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    let arguments = TrainingArguments::default();
    let mut state = TrainerState { global_step: 1, best_global_step: Some(1), ..Default::default() };
    checkpoints.save(&arguments, &mut state, None, |_| Ok(())).unwrap();
    assert_eq!(state.best_model_checkpoint, Some(folder.path().join("checkpoint-1")));
    // A better evaluation whose step was not saved.
    (state.best_global_step, state.global_step) = (Some(2), 3);
    checkpoints.save(&arguments, &mut state, None, |_| Ok(())).unwrap();
    assert_eq!((state.best_checkpoint_step(), state.best_global_step), (Some(1), Some(2)));
    let read = TrainerState::from_file(&folder.path().join("checkpoint-3").join(TRAINER_STATE)).unwrap();
    assert_eq!(read, state);
}

#[test]
fn a_folder_belongs_to_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let first = Checkpoints::open(folder.path()).unwrap();
    let error = Checkpoints::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("another run writes to"), "{error}");
    drop(first);
    Checkpoints::open(folder.path()).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Checkpoints::open(&file), Err(Error::Io { .. })));
}
