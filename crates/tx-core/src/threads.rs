//! How many threads compute, and how a program gets onto them.
//!
//! Kernels, conversions and tokenizers share one pool. Only the edge of a program, such as the command line, calls
//! [`init`]: a library that did so would decide for everybody. Without it the pool has a thread for every processor.
//! The number of threads changes no result beyond rounding.
//!
//! Work that runs on the pool, as all of [`run`] does, must not wait for other work on the pool by other means than
//! joining it (a lock, a channel, another thread that calls [`run`]): where all threads wait, nobody works.

use std::collections::BTreeSet;
use std::error::Error as _;
use std::num::NonZero;
use std::path::Path;
use std::{env, fs, thread};

use crate::error::{Error, Result};

/// The variable that says how many threads to use.
const VARIABLE: &str = "TX_NUM_THREADS";
/// No machine has as many cores; a larger number is a slip, and would take memory for nothing.
const MAX_THREADS: usize = 1024;
/// What the main thread has, too: whole commands run on the pool. Only what is used of it takes memory.
const STACK_SIZE: usize = 8 << 20;

/// Sets this process up to compute: the allocator keeps what is freed (`tx_kernels::keep_freed_memory`), and the threads
/// are started: as many as `threads` says, else the variable `TX_NUM_THREADS`, else one for each physical core
/// that this process may use. Returns their number. Once they run, another call starts nothing.
///
/// # Errors
/// [`Error::Input`] for a number that is none, too small or too large; if other threads than those that `threads` asks
/// for are running already; and if the system refuses to start so many.
pub fn init(threads: Option<usize>) -> Result<usize> {
    let count = match (threads, env::var_os(VARIABLE).filter(|value| !value.is_empty())) {
        (Some(threads), _) => parse("--threads", &threads.to_string())?,
        (None, Some(value)) => parse(VARIABLE, &value.to_string_lossy())?,
        (None, None) => physical_cores().min(MAX_THREADS),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count).stack_size(STACK_SIZE);
    match pool.thread_name(|i| format!("tx-{i}")).build_global() {
        Ok(()) => {
            tx_kernels::keep_freed_memory();
            Ok(count)
        }
        Err(error) if error.source().is_some() => {
            let found = format_args!("{count}, which the system refuses to start ({error})");
            Err(Error::input("--threads", found, "a smaller number"))
        }
        Err(_) => {
            let running = rayon::current_num_threads();
            if threads.is_some_and(|threads| threads != running) {
                let expected = format_args!("{running}, as many as this program has started already");
                return Err(Error::input("--threads", count, expected));
            }
            Ok(running)
        }
    }
}

/// Runs `f` on a thread of the pool and waits for it, so that nothing parallel inside of it has to wake the pool from
/// outside. A panic of `f` goes on here. What holds for one thread, as `tx_kernels::with_reference` does, belongs into
/// `f`.
pub fn run<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| f())
}

/// A number of threads that can be meant.
fn parse(what: &str, value: &str) -> Result<usize> {
    let count = value.trim().parse::<usize>().ok().filter(|count| (1..=MAX_THREADS).contains(count));
    count.ok_or_else(|| Error::input(what, format_args!("`{value}`"), format_args!("a number from 1 to {MAX_THREADS}")))
}

/// The physical cores that this process may use; two threads on one core would only take turns at its units. Where the
/// system does not tell cores from processors, processors count.
fn physical_cores() -> usize {
    // Heeds quotas, too, of which the files below know nothing.
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cores = allowed.and_then(|allowed| count_cores(Path::new("/sys/devices/system/cpu"), allowed));
    cores.map_or(processors, |cores| cores.min(processors))
}

/// How many cores the processors of a list such as `0-3,8` belong to, by Linux's folder `cpus`; `None` if it does not
/// say.
fn count_cores(cpus: &Path, allowed: &str) -> Option<usize> {
    let range = |range: &str| -> Option<(usize, usize)> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let allowed = allowed.trim().split(',').map(range).collect::<Option<Vec<_>>>()?;
    let mut cores = BTreeSet::new();
    for entry in fs::read_dir(cpus).ok()?.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse::<usize>().ok());
        if number.is_some_and(|number| allowed.iter().any(|&(first, last)| (first..=last).contains(&number))) {
            // All processors of a core have the same list, which no other core has; `core_id` is not that unique on
            // every architecture. Processors that are switched off have no such file.
            cores.extend(fs::read_to_string(entry.path().join("topology/thread_siblings_list")));
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_started_once() {
        let running = init(None).unwrap();
        assert_eq!((init(None).unwrap(), init(Some(running)).unwrap()), (running, running));
        let message = init(Some(running + 1)).unwrap_err().to_string();
        let expected = format!("--threads: {}, expected {running}, as many as", running + 1);
        assert!(message.starts_with(&expected), "{message}");
        assert!(init(Some(0)).unwrap_err().to_string().starts_with("--threads: `0`, expected a number from 1 to "));
    }

    #[test]
    fn numbers_of_threads_are_checked() {
        assert_eq!(parse(VARIABLE, " 3 ").unwrap(), 3);
        for value in ["0", "-1", "1.5", "abc", "99999999999999999999", "1025"] {
            let message = parse(VARIABLE, value).unwrap_err().to_string();
            assert_eq!(message, format!("TX_NUM_THREADS: `{value}`, expected a number from 1 to 1024"));
        }
    }

    #[test]
    fn work_runs_on_the_pool_and_may_be_nested() {
        let on_pool = || rayon::current_thread_index().is_some();
        let borrowed = [1, 2, 3];
        assert_eq!(run(|| (on_pool(), run(on_pool), borrowed.len())), (true, true, 3));
    }

    #[test]
    fn processors_of_one_core_count_once() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,4\n"), (1, "1,5\n"), (2, "2\n"), (4, "0,4\n"), (5, "1,5\n")] {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        fs::create_dir_all(folder.path().join("cpu3")).unwrap();
        fs::create_dir_all(folder.path().join("cpufreq")).unwrap();
        let count = |allowed| count_cores(folder.path(), allowed);
        assert_eq!(count("\t0-127\n"), Some(3));
        assert_eq!((count("0,4"), count("0-1"), count("1,2,5")), (Some(1), Some(2), Some(2)));
        assert_eq!((count("3"), count("9-12"), count(""), count("0-x")), (None, None, None, None));
        assert_eq!(count_cores(&folder.path().join("absent"), "0-3"), None);
        assert!((1..=thread::available_parallelism().unwrap().get()).contains(&physical_cores()));
    }
}
