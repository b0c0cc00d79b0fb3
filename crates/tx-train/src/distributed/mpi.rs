//! Processes that `mpirun` started, on one machine or several.
//!
//! A thread of its own makes all calls of MPI, one after the other, and the rank asks it by a channel. So what one
//! bucket needs goes on while the next is filled, though MPI by itself does nothing between its calls; the buffers stay
//! where they are when the rank gives up waiting; and no call can hold the rank for ever. All exchanges are
//! non-blocking ones that are asked again and again whether they are done: MPI's blocking ones would keep a core busy
//! for a slow rank.

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::request::{Request, Scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _, Root as _};
use tx_core::error::{Error, Result};

use super::watch::{Peer, Watch, identity};
use super::{Communicator, Options, Pending, REMEDY, gather};

/// The most elements of one exchange: MPI counts them in 32 bits.
const MOST: usize = 1 << 28;
/// How often an exchange is asked whether it is done before the thread sleeps in between.
const EAGER: u32 = 2000;
/// How long it sleeps then.
const NAP: Duration = Duration::from_micros(50);

/// An exchange with the other ranks, on the thread that talks to them.
type Exchange = Box<dyn FnOnce(&SimpleCommunicator, &Line) + Send>;

/// What the thread is to do.
enum Job {
    Exchange(Exchange),
    Finish(Sender<()>),
}

/// What the thread knows of the rank.
#[derive(Clone, Default)]
struct Line(Arc<OnceLock<Arc<Watch>>>);

impl Line {
    /// Waits until an exchange is done. If the rank has given up, it never is: the thread sleeps then until the process
    /// ends, for MPI still has the buffers.
    fn complete<'a, D: ?Sized, S: Scope<'a>>(&self, mut request: Request<'a, D, S>) {
        let mut asked = 0;
        loop {
            match request.test() {
                Ok(_) => return,
                Err(pending) => request = pending,
            }
            while self.0.get().is_some_and(|watch| watch.has_failed()) {
                thread::park();
            }
            if asked < EAGER {
                asked += 1;
                thread::yield_now();
            } else {
                thread::sleep(NAP);
            }
        }
    }
}

/// One of the processes that `mpirun` started.
pub struct Mpi {
    rank: usize,
    size: usize,
    jobs: Sender<Job>,
    watch: Arc<Watch>,
}

impl Mpi {
    /// Meets the others. This is done once in a process.
    ///
    /// # Errors
    /// [`Error::Distributed`] if MPI does not start, or the others do not.
    pub fn start(options: Options) -> Result<Self> {
        let line = Line::default();
        let (jobs, queue) = mpsc::channel();
        let (here, met) = mpsc::channel();
        let of_thread = line.clone();
        let work = move || serve(&queue, &here, &of_thread);
        let spawned = thread::Builder::new().name("mpi".into()).spawn(work);
        spawned.map_err(|e| Error::distributed(None, format_args!("no thread for MPI ({e})"), "allow more threads"))?;

        // Until the others are known there is nobody to look at.
        let alone = Arc::new(Watch::new(options, Vec::new()));
        let (rank, size) = alone.wait(&met)?;
        let first = Self { rank, size, jobs, watch: alone };
        let identities = gather(&first, identity().as_bytes())?;
        let watch = Arc::new(Watch::new(options, Peer::of(rank, &identities)));
        let _ = line.0.set(watch.clone());
        Ok(Self { watch, ..first })
    }

    /// Has the thread do something, and answer.
    fn ask<T: Send + 'static>(
        &self,
        exchange: impl FnOnce(&SimpleCommunicator, &Line) -> T + Send + 'static,
    ) -> Result<Receiver<T>> {
        let (reply, answer) = mpsc::channel();
        self.give(Job::Exchange(Box::new(move |world, line| {
            // Nobody listens any more if the rank has given up.
            let _ = reply.send(exchange(world, line));
        })))?;
        Ok(answer)
    }

    fn give(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| Error::distributed(None, "MPI has ended on this rank", REMEDY))
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, values: Vec<f32>) -> Result<Pending> {
        let answer = self.ask(move |world, line| {
            let mut sums = vec![0f32; values.len()];
            for (values, sums) in values.chunks(MOST).zip(sums.chunks_mut(MOST)) {
                mpi::request::scope(|scope| {
                    line.complete(world.immediate_all_reduce_into(scope, values, sums, SystemOperation::sum()));
                });
            }
            sums
        })?;
        let watch = self.watch.clone();
        Ok(Pending::new(move || watch.wait(&answer)))
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        let own = values.to_vec();
        let answer = self.ask(move |world, line| {
            let mut sums = vec![0f64; own.len()];
            mpi::request::scope(|scope| {
                let request = world.immediate_all_reduce_into(scope, &own[..], &mut sums[..], SystemOperation::sum());
                line.complete(request);
            });
            sums
        })?;
        values.copy_from_slice(&self.watch.wait(&answer)?);
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let answer = self.ask(move |world, line| {
            let root = world.process_at_rank(i32::try_from(root).unwrap_or_default());
            let mut len = [bytes.len() as u64];
            mpi::request::scope(|scope| line.complete(root.immediate_broadcast_into(scope, &mut len[..])));
            let mut bytes = bytes;
            bytes.resize(usize::try_from(len[0]).unwrap_or(usize::MAX), 0);
            for bytes in bytes.chunks_mut(MOST) {
                mpi::request::scope(|scope| line.complete(root.immediate_broadcast_into(scope, bytes)));
            }
            bytes
        })?;
        self.watch.wait(&answer)
    }

    fn finish(&self) -> Result<()> {
        self.barrier()?;
        let (done, answer) = mpsc::channel();
        self.give(Job::Finish(done))?;
        // Others may be done, and end, a little earlier.
        self.watch.wait_alone(&answer)
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mpi").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Makes the calls of MPI that the rank asks for.
fn serve(queue: &Receiver<Job>, here: &Sender<(usize, usize)>, line: &Line) {
    // Without an answer the rank learns that there is no MPI.
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else { return };
    // To leave MPI is to wait for the others, which a rank that has failed must not do: `mpirun` notices that it ends.
    let universe = ManuallyDrop::new(universe);
    let world = universe.world();
    let of_rank = |number: i32| usize::try_from(number).unwrap_or_default();
    let _ = here.send((of_rank(world.rank()), of_rank(world.size())));
    for job in queue {
        match job {
            Job::Exchange(exchange) => exchange(&world, line),
            Job::Finish(done) => {
                drop(world);
                drop(ManuallyDrop::into_inner(universe));
                let _ = done.send(());
                return;
            }
        }
    }
}
