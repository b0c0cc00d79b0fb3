//! Work that the threads of the pool share.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;

/// A thread takes this part of what is left of its share.
const PART: usize = 8;

/// Runs tasks on the threads of the pool, see [`parallel_ranges`].
pub fn parallel(tasks: usize, work: impl Fn(usize) + Sync + Send) {
    parallel_ranges(tasks, 1, |range| range.for_each(&work));
}

/// Runs ranges of tasks on the threads of the pool; all of them right here if there are no more than `least`.
///
/// Each thread has a share of tasks that follow each other, so that what they read is one stream, and takes some of them at
/// a time, fewer as it comes to the end, but at least `least`. One that has done its share takes half of what is left of
/// another one's: nobody waits long for a thread that started late or was slowed down.
pub fn parallel_ranges(tasks: usize, least: usize, work: impl Fn(Range<usize>) + Sync + Send) {
    parallel_ranges_with(tasks, least, || (), |(), range| work(range));
}

/// [`parallel_ranges`] with something that each thread makes for itself, before its first range.
pub fn parallel_ranges_with<T>(
    tasks: usize,
    least: usize,
    make: impl Fn() -> T + Sync + Send,
    work: impl Fn(&T, Range<usize>) + Sync + Send,
) {
    let threads = rayon::current_num_threads().min(tasks.div_ceil(least));
    if threads <= 1 || u32::try_from(tasks).is_err() {
        return work(&make(), 0..tasks);
    }
    let cut = |thread: usize| if thread == threads { tasks } else { thread * tasks / threads / least * least };
    let shares: Vec<Share> = (0..threads).map(|thread| Share::new(cut(thread)..cut(thread + 1))).collect();
    (0..threads).into_par_iter().with_max_len(1).for_each(|thread| {
        let own = &shares[thread];
        let mut made = None;
        let mut work = |range| work(made.get_or_insert_with(&make), range);
        loop {
            while let Some(range) = own.take(|left| first_of(left, least)) {
                work(range);
            }
            let most = shares.iter().max_by_key(|share| share.left().len());
            let Some(most) = most.filter(|share| !share.left().is_empty()) else { break };
            // If the others were quicker, there may be more elsewhere.
            if let Some(half) = most.take(|left| last_of(left, least)) {
                let (first, rest) = first_of(half, least);
                own.set(rest);
                work(first);
            }
        }
    });
}

/// Some tasks from the start, and those that are left then.
fn first_of(left: Range<usize>, least: usize) -> (Range<usize>, Range<usize>) {
    let at = left.end.min(left.start + (left.len() / PART).next_multiple_of(least).max(least));
    (left.start..at, at..left.end)
}

/// Half of the tasks from the end, and those that are left then.
fn last_of(left: Range<usize>, least: usize) -> (Range<usize>, Range<usize>) {
    let at = left.start + left.len() / 2 / least * least;
    (at..left.end, left.start..at)
}

/// The tasks that are left of a thread's share: start and end in one word, and no other share in its cache lines.
#[repr(align(128))]
struct Share(AtomicU64);

impl Share {
    fn new(left: Range<usize>) -> Self {
        Self(AtomicU64::new(Self::word(left)))
    }

    fn word(left: Range<usize>) -> u64 {
        (left.start as u64) << 32 | left.end as u64
    }

    fn range(word: u64) -> Range<usize> {
        (word >> 32) as usize..word as u32 as usize
    }

    fn left(&self) -> Range<usize> {
        Self::range(self.0.load(Relaxed))
    }

    /// Gives tasks to a share that has none left: nobody takes any from it meanwhile.
    fn set(&self, left: Range<usize>) {
        self.0.store(Self::word(left), Relaxed);
    }

    /// Takes some tasks, if there are any: `cut` says which, and what is left then.
    fn take(&self, cut: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>)) -> Option<Range<usize>> {
        let without =
            |word| Some(Self::range(word)).filter(|left| !left.is_empty()).map(|left| Self::word(cut(left).1));
        let word = self.0.fetch_update(Relaxed, Relaxed, without).ok()?;
        Some(cut(Self::range(word)).0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn every_task_runs_once() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for tasks in [0, 1, 2, 7, 48, 1000] {
            for least in [1, 8, 5000] {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let run = |range: Range<usize>| {
                    assert!(range.start.is_multiple_of(least), "{range:?} of {tasks} by {least}");
                    // Some tasks take longer, so that others are taken over.
                    if range.contains(&3) {
                        std::thread::sleep(std::time::Duration::from_millis(2));
                    }
                    range.for_each(|task| _ = runs[task].fetch_add(1, Relaxed));
                };
                pool.install(|| parallel_ranges(tasks, least, run));
                assert!(runs.iter().all(|runs| runs.load(Relaxed) == 1), "{tasks} by {least}");
            }
        }
    }
}
