//! Data-parallel training: several processes train one model, each on its share of every batch.
//!
//! Every process, called a rank, has the whole model. They begin with the same weights ([`check_same`]), take parts of
//! the same batches ([`crate::data::SamplerOptions`]), add up their gradients ([`all_reduce_gradients`]), and then make
//! the same update, so that they end with the same weights. Rank 0 alone writes.
//!
//! | file | holds |
//! |---|---|
//! | `single.rs` | one process alone |
//! | `mpi.rs` | processes that `mpirun` started, with the feature `mpi` |
//! | `watch.rs` | how a rank waits for others, and notices that one is gone |
//! | `buckets.rs` | the sum of gradients |
//! | `threads.rs` | ranks that are threads of one process |
//! | `devices.rs` | one such thread for each device of this machine |
//!
//! # The same as one process
//!
//! Gradients are added, not averaged: every rank divides the sum of its losses by the number of targets of all ranks,
//! as HF does with `average_tokens_across_devices`. So two ranks with a batch of four do what one process does with a
//! batch of eight, but for the order in which numbers are added. Sentence embeddings without scores are the exception:
//! the texts that one is told apart from are those of its own rank's batch.
//!
//! # What goes on at the same time
//!
//! While a bucket of gradients travels, the next one is filled. The backward pass is over by then: burn 0.22 gives
//! gradients when all are there, and its hook for single ones leads only to its own exchange between GPUs. The order of
//! buckets makes no difference then, and is that of the names.
//!
//! # When a rank ends
//!
//! The others notice within a fraction of a second if it was on their machine, by a signal of `mpirun` if that sees it,
//! and otherwise when [`Options::timeout`] is over. What they wait for becomes an [`Error::Distributed`] that names the
//! rank where it is known. Their weights are still those of the last update, for which rank 0 can save a checkpoint. It
//! has the time that `mpirun` gives: Open MPI 4 ends all processes when one fails, with a SIGTERM after a second and a
//! SIGKILL after another. `mpirun --mca odls_base_sigkill_timeout 60` makes that minutes; `--enable-recovery` lets the
//! others end by themselves, and `mpirun` then with 0. A rank that learns of an error of its own tells the others
//! ([`agree`]), and all end in the same place.
//!
//! Open MPI binds each process to one core where there are few of them: `--bind-to none` gives them all.

mod buckets;
mod devices;
#[cfg(feature = "mpi")]
mod mpi;
mod single;
mod threads;
#[cfg(any(test, feature = "mpi"))]
mod watch;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tx_core::error::{Error, Result};

pub use self::buckets::all_reduce_gradients;
pub use self::devices::on_devices;
#[cfg(feature = "mpi")]
pub use self::mpi::Mpi;
pub use self::single::Single;
use crate::parameters::Parameters;

/// What to do after a rank failed.
const REMEDY: &str = "go on from the last checkpoint with `resume_from_checkpoint`";
/// What the name of the file begins with by which ranks see that they share a folder.
const SHARED: &str = ".tx-shared-";
/// The variables in which launchers say how many processes they started: Open MPI, MPICH and its like, Slurm.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// The processes that train one model, as one of them sees them.
///
/// What is said here is said by all ranks, in the same order. A method that returns a result waits for the others, and
/// fails if they do not come; after one failure all others fail too.
pub trait Communicator: fmt::Debug {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Whether this is the process that writes.
    fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// Begins to add up the values of all ranks, element by element. Several sums may be under way; they are waited for
    /// in the order in which they were begun.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    fn all_reduce(&self, values: Vec<f32>) -> Result<Pending>;

    /// Adds up the values of all ranks, element by element: losses, and numbers of targets.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    fn sum(&self, values: &mut [f64]) -> Result<()>;

    /// What the rank `root` has, whatever the others give.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>>;

    /// Waits until all are here.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    fn barrier(&self) -> Result<()> {
        // A sum of nothing waits for nobody.
        self.sum(&mut [0.0])
    }

    /// Takes leave of the others, when all went well. One who goes without it has failed.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    fn finish(&self) -> Result<()>;
}

/// Sums that are under way.
pub struct Pending(Box<dyn FnOnce() -> Result<Vec<f32>>>);

impl Pending {
    /// What `wait` waits for.
    pub fn new(wait: impl FnOnce() -> Result<Vec<f32>> + 'static) -> Self {
        Self(Box::new(wait))
    }

    /// Waits for the sums.
    ///
    /// # Errors
    /// [`Error::Distributed`].
    pub fn wait(self) -> Result<Vec<f32>> {
        (self.0)()
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// How a rank waits for the others.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// For how long: HF's `ddp_timeout`. It must be longer than rank 0 takes to save a checkpoint.
    pub timeout: Duration,
    /// Whether the run has been told to end, by a signal.
    pub interrupted: fn() -> bool,
}

impl Default for Options {
    /// Half an hour, and no signals.
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1800), interrupted: || false }
    }
}

/// How many processes a launcher such as `mpirun` started together, this one included; 1 without a launcher.
pub fn processes() -> usize {
    launched(&|name| std::env::var(name).ok()).max(1)
}

/// The processes that a launcher such as `mpirun` started together with this one; this one alone without a launcher.
///
/// # Errors
/// [`Error::Input`] if there are several, and the program was built without MPI; [`Error::Distributed`].
pub fn connect(options: Options) -> Result<Box<dyn Communicator>> {
    match processes() {
        1 => Ok(Box::new(Single)),
        size => join(size, options),
    }
}

#[cfg(feature = "mpi")]
fn join(_size: usize, options: Options) -> Result<Box<dyn Communicator>> {
    Ok(Box::new(Mpi::start(options)?))
}

#[cfg(not(feature = "mpi"))]
fn join(size: usize, _options: Options) -> Result<Box<dyn Communicator>> {
    Err(Error::input("processes", size, "1: this program was built without MPI; build with `--features mpi`"))
}

/// How many processes were started together, by the variables of the environment.
fn launched(variable: &dyn Fn(&str) -> Option<String>) -> usize {
    SIZES.iter().find_map(|name| variable(name)?.trim().parse().ok()).unwrap_or(1)
}

/// What every rank has.
///
/// # Errors
/// [`Error::Distributed`].
pub fn gather(ranks: &dyn Communicator, own: &[u8]) -> Result<Vec<Vec<u8>>> {
    (0..ranks.size()).map(|root| ranks.broadcast(root, own.to_vec())).collect()
}

/// The rows of all ranks, in the order of the data set, of which every rank has each `size`th one from its own on. What
/// is computed of them is the same everywhere: decisions that depend on an evaluation must not differ.
///
/// # Errors
/// [`Error::Distributed`].
pub fn gather_rows<T: Serialize + DeserializeOwned>(ranks: &dyn Communicator, own: Vec<T>) -> Result<Vec<T>> {
    if ranks.size() == 1 {
        return Ok(own);
    }
    let broken = |error: serde_json::Error| Error::distributed(None, error, REMEDY);
    let own = serde_json::to_vec(&own).map_err(broken)?;
    let mut parts = Vec::with_capacity(ranks.size());
    for part in gather(ranks, &own)? {
        parts.push(serde_json::from_slice::<Vec<T>>(&part).map_err(broken)?.into_iter());
    }
    let mut rows = Vec::with_capacity(parts.iter().map(ExactSizeIterator::len).sum());
    loop {
        let before = rows.len();
        rows.extend(parts.iter_mut().filter_map(Iterator::next));
        if rows.len() == before {
            return Ok(rows);
        }
    }
}

/// Makes sure that all ranks have the same of something, by its digest: the weights, the arguments, the data.
///
/// # Errors
/// [`Error::Distributed`] with the first rank that has something else than rank 0, on all ranks.
pub fn check_same(ranks: &dyn Communicator, what: &str, digest: &[u8]) -> Result<()> {
    let digests = gather(ranks, digest)?;
    match digests.iter().position(|other| *other != digests[0]) {
        None => Ok(()),
        Some(rank) => {
            let reason = format_args!("its {what} differ from those of rank 0");
            Err(Error::distributed(Some(rank), reason, "give all ranks the same files and arguments"))
        }
    }
}

/// Makes sure that all ranks see what rank 0 writes into a folder, which all of them will read.
///
/// # Errors
/// [`Error::Io`] if rank 0 cannot write; [`Error::Input`] on a rank that does not see it, and [`Error::Distributed`] on
/// the others.
pub fn check_shared(ranks: &dyn Communicator, folder: &Path) -> Result<()> {
    let written = ranks.is_main().then(|| tempfile::Builder::new().prefix(SHARED).tempfile_in(folder)).transpose();
    // It is removed at the end, after all have looked.
    let written = agree(ranks, written.map_err(Error::io(folder)))?;
    let name =
        written.as_ref().and_then(|file| file.path().file_name()).map(|name| name.to_string_lossy().into_owned());
    let name = ranks.broadcast(0, name.unwrap_or_default().into_bytes())?;
    let seen = folder.join(String::from_utf8_lossy(&name).as_ref()).is_file();
    let other = || {
        let found = format_args!("`{}`, which is not the folder of rank 0", folder.display());
        Error::input("output_dir", found, "a folder on a disk that all ranks share, for `load_best_model_at_end`")
    };
    agree(ranks, seen.then_some(()).ok_or_else(other))
}

/// A digest of all parameters: their names, shapes, dtypes and values, of quantized ones without the values.
pub fn digest<P: Parameters + ?Sized>(source: &P) -> [u8; 32] {
    let mut digest = Sha256::new();
    source.visit(&mut |parameter| {
        let tensor = parameter.tensor.untrack();
        digest.update(format!("{} {:?} {:?}\n", parameter.name, tensor.dtype(), tensor.shape()));
        if !tensor.is_quantized() {
            digest.update(tensor.flatten().into_data().as_bytes());
        }
    });
    digest.finalize().into()
}

/// Tells all ranks of an error that one of them has: they go on together, or end in the same place. It belongs before
/// the next exchange after whatever may fail on one rank alone, such as reading its rows.
///
/// # Errors
/// The own error; on ranks that have none, [`Error::Distributed`] with the first rank that has one, and its message.
pub fn agree<T>(ranks: &dyn Communicator, result: Result<T>) -> Result<T> {
    if ranks.size() == 1 {
        return result;
    }
    let mut failed = vec![0.0; ranks.size()];
    failed[ranks.rank()] = f64::from(u8::from(result.is_err()));
    if let Err(lost) = ranks.sum(&mut failed) {
        return result.and(Err(lost));
    }
    let Some(first) = failed.iter().position(|&failed| failed != 0.0) else { return result };
    let message = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    match ranks.broadcast(first, message.into_bytes()) {
        Ok(reason) => {
            let reason = String::from_utf8_lossy(&reason).into_owned();
            result.and(Err(Error::distributed(Some(first), reason, REMEDY)))
        }
        Err(lost) => result.and(Err(lost)),
    }
}

#[cfg(test)]
mod tests;
