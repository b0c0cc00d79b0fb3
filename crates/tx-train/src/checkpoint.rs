//! Checkpoints of a run: folders `checkpoint-<step>` that are complete or not there.
//!
//! A checkpoint is written under another name. When every file has reached the disk, and last of all a manifest with
//! their sizes and digests, the folder gets its name by one rename. Whenever the program or the machine stops,
//! the checkpoints before are as they were, and the new one is all there or has no name. Nothing is removed but what a
//! killed run left under those other names, and what `save_total_limit` allows to go.
//!
//! | file | holds |
//! |---|---|
//! | what the model's own save writes | the model, its config and tokenizer, or its adapter |
//! | `trainer_state.json` | HF's `TrainerState` |
//! | `training_args.json` | the arguments |
//! | `optimizer.safetensors` | what the optimizer remembers |
//! | `scheduler.json`, `rng_state.json` | how far the schedule and the random numbers are |
//! | `scaler.json` | the scale of the loss, where there is one |
//! | `manifest.json` | the size and SHA-256 of every file above |

mod disk;
mod manifest;
mod state;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use serde_json::Value;
use tx_core::config::read_json;
use tx_core::weights::Checkpoint;
use tx_core::weights::save::{write_atomically, write_file};
use tx_core::{Error, Result};

use crate::arguments::{Resume, TrainingArguments};
use disk::{Disk, FileSystem};
use manifest::{Depth, MANIFEST, Manifest, contents};
pub(crate) use state::metric;
pub use state::{Logs, Metrics, TrainerState};

/// The state of the run.
pub const TRAINER_STATE: &str = "trainer_state.json";
/// The arguments of the run.
pub const TRAINING_ARGS: &str = "training_args.json";
/// What the optimizer remembers.
pub const OPTIMIZER: &str = "optimizer.safetensors";
/// How far the schedule of the learning rate is.
pub const SCHEDULER: &str = "scheduler.json";
/// How far the random numbers are.
pub const RNG_STATE: &str = "rng_state.json";
/// The scale of the loss, where there is one.
pub const SCALER: &str = "scaler.json";

/// What the names of checkpoints begin with; the step follows.
const PREFIX: &str = "checkpoint-";
/// The same while a checkpoint is written, or removed.
const UNFINISHED: &str = ".tx-unfinished-checkpoint-";
/// The same of one that another of the same step is about to replace.
const REPLACED: &str = ".tx-replaced-checkpoint-";
/// The file that a run holds a lock on.
const LOCK: &str = ".tx-train.lock";

/// The name of the checkpoint of a step.
pub fn folder_name(step: u64) -> String {
    format!("{PREFIX}{step}")
}

/// The step of the checkpoint of this name.
fn step_of(name: &str) -> Option<u64> {
    step_after(PREFIX, name)
}

/// The step that follows a prefix, with nothing else after it.
fn step_after(prefix: &str, name: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// What a run goes on with, beside the model and its own state.
#[derive(Debug, Clone, Default)]
pub struct Resumable {
    /// What the optimizer remembers, by name.
    pub optimizer: BTreeMap<String, TensorData>,
    /// How far the schedule is.
    pub scheduler: Value,
    /// How far the random numbers are.
    pub rng: Value,
    /// The scale of the loss, where there is one.
    pub scaler: Option<Value>,
}

/// A checkpoint that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The checkpoints in one `output_dir`, which belongs to this run as long as this value lives.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    disk: Box<dyn Disk>,
    /// Keeps the lock; `None` where the file system has none.
    _lock: Option<File>,
}

impl Checkpoints {
    /// Makes the folder if it is not there, keeps other runs out, and removes what a killed run left unfinished.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] if another run has the folder.
    pub fn open(output_dir: &Path) -> Result<Self> {
        Self::open_on(Box::new(FileSystem), output_dir)
    }

    fn open_on(disk: Box<dyn Disk>, output_dir: &Path) -> Result<Self> {
        fs::create_dir_all(output_dir).map_err(Error::io(output_dir))?;
        let path = output_dir.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        let lock = match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => {
                let found = format_args!("`{}`, which another run writes to", output_dir.display());
                return Err(Error::input("output_dir", found, "a folder of its own, or that the other run ends first"));
            }
            // A file system without locks: nobody can be kept out.
            Err(TryLockError::Error(_)) => None,
        };
        let checkpoints = Self { folder: output_dir.to_path_buf(), disk, _lock: lock };
        checkpoints.recover()?;
        Ok(checkpoints)
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Saves a checkpoint of the step that `state` is at, and then removes old ones beyond `save_total_limit`.
    ///
    /// `model` writes the model into the folder that it is given. `resumable` is `None` for `save_only_model`. The best
    /// checkpoint is noted in the state if it is there.
    ///
    /// # Errors
    /// [`Error::Io`] and what writing the model gives. The checkpoints that were there are then as they were.
    pub fn save(
        &self,
        arguments: &TrainingArguments,
        state: &mut TrainerState,
        resumable: Option<Resumable>,
        model: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let step = state.global_step;
        let best_before = state.best_model_checkpoint.clone();
        if let Some(best) = state.best_global_step {
            let path = self.folder.join(folder_name(best));
            if best == step || path.is_dir() {
                state.best_model_checkpoint = Some(path);
            }
        }
        let staged = self.folder.join(format!("{UNFINISHED}{step}"));
        let written = self
            .stage(&staged, arguments, state, resumable, model)
            .and_then(|()| self.publish(&staged, step))
            .map_err(|error| self.explain(error, step));
        if let Err(error) = written {
            state.best_model_checkpoint = best_before;
            // What cannot be removed now, the next save or run removes.
            let _ = self.recover();
            return Err(error);
        }
        if let Err(error) = self.rotate(arguments.save_total_limit, state) {
            tracing::warn!("an old checkpoint could not be removed: {error}");
        }
        Ok(self.folder.join(folder_name(step)))
    }

    /// Writes all files of a checkpoint under another name, and waits until the disk has them.
    fn stage(
        &self,
        staged: &Path,
        arguments: &TrainingArguments,
        state: &TrainerState,
        resumable: Option<Resumable>,
        model: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.recover()?;
        self.disk.create_folder(staged)?;
        let mut model = Some(model);
        self.disk.write(staged, &mut |folder| model.take().map_or(Ok(()), |model| model(folder)))?;
        if let Some(Resumable { optimizer, scheduler, rng, scaler }) = resumable {
            let mut optimizer = Some(optimizer);
            self.disk
                .write(&staged.join(OPTIMIZER), &mut |path| write_file(path, optimizer.take().unwrap_or_default()))?;
            self.write_json(&staged.join(SCHEDULER), &scheduler)?;
            self.write_json(&staged.join(RNG_STATE), &rng)?;
            if let Some(scaler) = scaler {
                self.write_json(&staged.join(SCALER), &scaler)?;
            }
        }
        self.write_json(&staged.join(TRAINING_ARGS), &Value::Object(arguments.to_json()))?;
        self.write_json(&staged.join(TRAINER_STATE), state)?;
        let (files, folders) = contents(staged)?;
        files.iter().try_for_each(|file| self.disk.sync(file))?;
        let manifest = Manifest::of(staged, state.global_step, &files)?;
        let path = staged.join(MANIFEST);
        self.write_json(&path, &manifest)?;
        self.disk.sync(&path)?;
        folders.iter().try_for_each(|folder| self.disk.sync(folder))
    }

    fn write_json(&self, path: &Path, value: &impl serde::Serialize) -> Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Error::malformed(path, error))?;
        self.disk.write(path, &mut |path| write_atomically(path, |file| writeln!(file, "{text}")))
    }

    /// Gives a complete checkpoint its name.
    fn publish(&self, staged: &Path, step: u64) -> Result<()> {
        let path = self.folder.join(folder_name(step));
        if !path.exists() {
            self.disk.rename(staged, &path)?;
            return self.disk.sync(&self.folder);
        }
        // One of the same step is there, which a folder cannot be renamed onto. It comes back if this is cut short.
        let replaced = self.folder.join(format!("{REPLACED}{step}"));
        self.disk.rename(&path, &replaced)?;
        self.disk.rename(staged, &path)?;
        self.disk.sync(&self.folder)?;
        self.disk.remove(&replaced)
    }

    /// Removes what is unfinished, and brings back what was to be replaced by something that never came.
    fn recover(&self) -> Result<()> {
        for (step, replaced) in self.named(REPLACED)? {
            let path = self.folder.join(folder_name(step));
            if path.exists() {
                self.disk.remove(&replaced)?;
            } else {
                self.disk.rename(&replaced, &path)?;
                self.disk.sync(&self.folder)?;
            }
        }
        self.named(UNFINISHED)?.iter().try_for_each(|(_, path)| self.disk.remove(path))
    }

    /// The folders whose name is this prefix and a step, the first step first.
    fn named(&self, prefix: &str) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder))? {
            let entry = entry.map_err(Error::io(&self.folder))?;
            let step = entry.file_name().to_str().and_then(|name| step_after(prefix, name));
            if let Some(step) = step
                && entry.path().is_dir()
            {
                found.push((step, entry.path()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The checkpoints that are complete as far as sizes tell, the first step first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn complete(&self) -> Result<Vec<(u64, PathBuf)>> {
        let mut found = self.named(PREFIX)?;
        found.retain(|(_, path)| Manifest::check(path, Depth::Size).is_ok());
        Ok(found)
    }

    /// Opens the checkpoint that a run goes on from; `None` if it begins anew.
    ///
    /// Every byte is compared with the manifest. Of the checkpoints in the folder the newest good one is taken; those
    /// that are incomplete or damaged, or hold the model alone, are left as they are and named in a warning and in
    /// [`Saved::skipped`].
    ///
    /// # Errors
    /// [`Error::MissingFile`] if there is no good one; [`Error::Malformed`] if the one that was named is not good, and
    /// for one that no run can go on from.
    pub fn resume(&self, from: &Resume) -> Result<Option<Saved>> {
        match from {
            Resume::No => Ok(None),
            Resume::Folder(path) => Saved::from_folder(path).map(Some),
            Resume::Latest => {
                let mut skipped = Vec::new();
                for (_, path) in self.named(PREFIX)?.into_iter().rev() {
                    match Manifest::check(&path, Depth::Digest).and_then(resumable) {
                        Ok(manifest) => return Saved::open(&path, manifest, skipped).map(Some),
                        Err(reason) => {
                            tracing::warn!("{}: not used: {reason}", path.display());
                            skipped.push(Skipped { path, reason });
                        }
                    }
                }
                let skipped = skipped.iter().map(|Skipped { path, reason }| {
                    format!("; `{}` is not used: {reason}", path.file_name().unwrap_or_default().to_string_lossy())
                });
                let skipped: String = skipped.take(3).collect();
                Err(Error::MissingFile {
                    folder: self.folder.clone(),
                    expected: "complete checkpoint".into(),
                    remedy: format!("begin anew without `resume_from_checkpoint`{skipped}"),
                })
            }
        }
    }

    /// Removes the oldest complete checkpoints until `limit` are left, but never the one of the state's step, nor the
    /// best one. Those of later steps belong to an earlier run, and are the oldest.
    fn rotate(&self, limit: Option<usize>, state: &TrainerState) -> Result<()> {
        let Some(limit) = limit.filter(|limit| *limit > 0) else { return Ok(()) };
        let mut found = self.complete()?;
        let newest = state.global_step;
        found.sort_by_key(|(step, _)| (*step <= newest, *step));
        let best = state.best_checkpoint_step();
        let kept = |step: u64| step == newest || Some(step) == best;
        let protected = found.iter().filter(|(step, _)| kept(*step)).count();
        let surplus = found.len().saturating_sub(limit.max(protected));
        found
            .iter()
            .filter(|(step, _)| !kept(*step))
            .take(surplus)
            .try_for_each(|(step, path)| self.discard(*step, path))
    }

    /// With a `save_total_limit` of 1, leaves the best checkpoint alone at the end of a run, as HF does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn keep_best(&self, limit: Option<usize>, state: &TrainerState) -> Result<()> {
        let (Some(best), Some(1)) = (state.best_checkpoint_step(), limit) else { return Ok(()) };
        let found = self.complete()?;
        if !found.iter().any(|(step, _)| *step == best) {
            return Ok(());
        }
        found.iter().filter(|(step, _)| *step != best).try_for_each(|(step, path)| self.discard(*step, path))
    }

    /// Removes a checkpoint. Its name goes first, so that no half of it is ever taken for one.
    fn discard(&self, step: u64, path: &Path) -> Result<()> {
        let unfinished = self.folder.join(format!("{UNFINISHED}{step}"));
        self.disk.rename(path, &unfinished)?;
        self.disk.sync(&self.folder)?;
        self.disk.remove(&unfinished)
    }

    /// Says what a full disk means for the run.
    fn explain(&self, error: Error, step: u64) -> Error {
        const FULL: [io::ErrorKind; 3] =
            [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        let (path, source) = match error {
            Error::Io { path, source } if FULL.contains(&source.kind()) => (path, source),
            other => return other,
        };
        let newest = self.complete().unwrap_or_default().pop();
        let intact = match newest {
            Some((newest, _)) => format!("`{}` is intact", folder_name(newest)),
            None => "there is none before it".to_owned(),
        };
        let name = folder_name(step);
        let text = format!("{source}; `{name}` was not saved, {intact}; free space or lower `save_total_limit`");
        Error::Io { path, source: io::Error::new(source.kind(), text) }
    }
}

/// A checkpoint that is complete, and that a run goes on from.
#[derive(Debug)]
pub struct Saved {
    /// Its folder.
    pub path: PathBuf,
    /// Where the run stood.
    pub state: TrainerState,
    /// Newer checkpoints that are not used, the newest first.
    pub skipped: Vec<Skipped>,
    manifest: Manifest,
}

impl Saved {
    /// Opens a checkpoint, every byte of which is compared with its manifest.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is incomplete or damaged, and for one that no run can go on from.
    pub fn from_folder(path: &Path) -> Result<Self> {
        let manifest = Manifest::check(path, Depth::Digest).and_then(resumable);
        Self::open(path, manifest.map_err(|reason| Error::malformed(path, reason))?, Vec::new())
    }

    fn open(path: &Path, manifest: Manifest, skipped: Vec<Skipped>) -> Result<Self> {
        let state_path = path.join(TRAINER_STATE);
        let state = TrainerState::from_file(&state_path)?;
        if state.global_step != manifest.step {
            let reason = format_args!("step {}, but `{MANIFEST}` says {}", state.global_step, manifest.step);
            return Err(Error::malformed(&state_path, reason));
        }
        Ok(Self { path: path.to_path_buf(), state, skipped, manifest })
    }

    /// What the optimizer remembered; its bytes stay in the file until they are used.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], [`Error::Tensor`].
    pub fn optimizer(&self) -> Result<Checkpoint> {
        Checkpoint::from_file(&self.path.join(OPTIMIZER))
    }

    /// How far the schedule was: the file, for messages, and what it holds.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`].
    pub fn scheduler(&self) -> Result<(PathBuf, Value)> {
        self.json(SCHEDULER)
    }

    /// How far the random numbers were.
    ///
    /// # Errors
    /// As [`Saved::scheduler`].
    pub fn rng(&self) -> Result<(PathBuf, Value)> {
        self.json(RNG_STATE)
    }

    /// The scale of the loss, where there was one.
    ///
    /// # Errors
    /// As [`Saved::scheduler`].
    pub fn scaler(&self) -> Result<Option<(PathBuf, Value)>> {
        if self.manifest.has(SCALER) { self.json(SCALER).map(Some) } else { Ok(None) }
    }

    fn json(&self, name: &str) -> Result<(PathBuf, Value)> {
        let path = self.path.join(name);
        let value = read_json(&path)?;
        Ok((path, value))
    }
}

/// The manifest of a checkpoint that a run can go on from; of others the error says why not.
fn resumable(manifest: Manifest) -> Result<Manifest, String> {
    match [TRAINER_STATE, OPTIMIZER, SCHEDULER, RNG_STATE].into_iter().find(|name| !manifest.has(name)) {
        None => Ok(manifest),
        Some(name) => Err(format!("no `{name}`: it was saved with `save_only_model`, and no run can go on from it")),
    }
}

#[cfg(test)]
mod tests;
