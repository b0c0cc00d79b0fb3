//! How a rank waits for others, and notices that one is gone.
//!
//! A process that has died takes part in nothing, and MPI says so late or never: whoever waits for it waits for ever.
//! So what a rank waits for is waited for here, with an eye on the processes of the others, where they are on the same
//! machine, on signals, and on the clock.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tx_core::error::{Error, Result};

use super::{Options, REMEDY};

/// How long a rank waits before it looks around.
const GLANCE: Duration = Duration::from_millis(20);
/// How long it still waits when it has seen that something is wrong: what all have given may be on its way.
const GRACE: Duration = Duration::from_millis(200);
/// "No such process": Linux's answer for one that ends while it is looked at.
const ESRCH: i32 = 3;

/// Waits for the others.
#[derive(Debug)]
pub(super) struct Watch {
    options: Options,
    peers: Vec<Peer>,
    failed: AtomicBool,
}

impl Watch {
    /// For a rank that can see these processes.
    pub(super) fn new(options: Options, peers: Vec<Peer>) -> Self {
        Self { options, peers, failed: AtomicBool::new(false) }
    }

    /// Whether waiting has failed once: the ranks are not in step any more.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Waits for what needs all ranks.
    ///
    /// # Errors
    /// [`Error::Distributed`] if one is gone, if the run is to end, if it takes too long, or if it failed before.
    pub(super) fn wait<T>(&self, answer: &Receiver<T>) -> Result<T> {
        self.wait_watching(answer, true)
    }

    /// Waits for what others may not wait for: whether they are still there does not matter.
    ///
    /// # Errors
    /// As [`Watch::wait`].
    pub(super) fn wait_alone<T>(&self, answer: &Receiver<T>) -> Result<T> {
        self.wait_watching(answer, false)
    }

    fn wait_watching<T>(&self, answer: &Receiver<T>, watching: bool) -> Result<T> {
        if self.has_failed() {
            return Err(Error::distributed(None, "an exchange between the ranks failed before", REMEDY));
        }
        let begin = Instant::now();
        let mut trouble: Option<(Instant, Error)> = None;
        loop {
            match answer.recv_timeout(GLANCE) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.fail(Error::distributed(None, "MPI broke down on this rank", REMEDY)));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            match trouble.take() {
                Some((since, error)) if since.elapsed() >= GRACE => return Err(self.fail(error)),
                Some(known) => trouble = Some(known),
                None => trouble = self.trouble(begin, watching).map(|error| (Instant::now(), error)),
            }
        }
    }

    fn fail(&self, error: Error) -> Error {
        self.failed.store(true, Ordering::Release);
        error
    }

    /// What is wrong, if something is. Which rank is gone says more than the signal that follows it.
    fn trouble(&self, begin: Instant, watching: bool) -> Option<Error> {
        if watching && let Some(peer) = self.peers.iter().find(|peer| peer.is_gone()) {
            let reason = format_args!("its process {} has ended while others waited for it", peer.pid);
            return Some(Error::distributed(Some(peer.rank), reason, REMEDY));
        }
        if watching && (self.options.interrupted)() {
            return Some(Error::distributed(None, "interrupted while this rank waited for the others", REMEDY));
        }
        let timeout = self.options.timeout;
        (begin.elapsed() >= timeout).then(|| {
            let reason = format_args!("no answer from the other ranks in {} seconds", timeout.as_secs());
            Error::distributed(None, reason, "look for the rank that hangs, or raise `ddp_timeout`")
        })
    }
}

/// The process of another rank on the same machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    rank: usize,
    pid: String,
    /// When it began, in ticks of the machine: its number may go to another process.
    began: String,
}

impl Peer {
    /// Those processes that this one can see, by the [`identity`] of every rank.
    pub(super) fn of(rank: usize, identities: &[Vec<u8>]) -> Vec<Self> {
        let fields: Vec<Vec<&str>> =
            identities.iter().map(|one| std::str::from_utf8(one).unwrap_or_default().split(' ').collect()).collect();
        let mut peers = Vec::new();
        for (other, identity) in fields.iter().enumerate() {
            if let ([machine, space, pid, began], [own_machine, own_space, ..]) = (&identity[..], &fields[rank][..])
                && (machine, space) == (own_machine, own_space)
                && other != rank
            {
                peers.push(Self { rank: other, pid: (*pid).to_owned(), began: (*began).to_owned() });
            }
        }
        peers
    }

    fn is_gone(&self) -> bool {
        match fs::read_to_string(format!("/proc/{}/stat", self.pid)) {
            Ok(text) => Stat::of(&text).is_some_and(|stat| stat.has_ended() || stat.began != self.began),
            Err(error) => error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH),
        }
    }
}

/// This process, as others on the same machine can find it: the machine, the name space of process numbers, the number,
/// and when it began. Empty on systems that do not tell.
pub(super) fn identity() -> String {
    identity_of("self").unwrap_or_default()
}

fn identity_of(process: &str) -> Option<String> {
    let machine = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let space = fs::read_link("/proc/self/ns/pid").ok()?;
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let stat = Stat::of(&text)?;
    Some(format!("{} {} {} {}", machine.trim(), space.display(), stat.pid, stat.began))
}

/// What Linux tells of a process.
#[derive(Debug)]
struct Stat<'a> {
    pid: &'a str,
    state: &'a str,
    began: &'a str,
}

impl<'a> Stat<'a> {
    /// Of `/proc/PID/stat`: number, name in parentheses, state, and as the 22nd field when it began.
    fn of(text: &'a str) -> Option<Self> {
        // The name may contain anything, parentheses too.
        let (head, tail) = text.rsplit_once(')')?;
        let (pid, _) = head.split_once(' ')?;
        let mut fields = tail.split_ascii_whitespace();
        let state = fields.next()?;
        Some(Self { pid, state, began: fields.nth(18)? })
    }

    /// Whether only its entry is left.
    fn has_ended(&self) -> bool {
        matches!(self.state, "Z" | "X" | "x")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    fn message(error: Error) -> (Option<usize>, String) {
        match error {
            Error::Distributed { rank, reason, .. } => (rank, reason),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_process_of_a_rank_that_has_ended_is_noticed() {
        let own = identity();
        if own.is_empty() {
            // A system that does not tell: nobody is seen then, and the time-out is what is left.
            assert!(Peer::of(0, &[Vec::new(), Vec::new()]).is_empty());
            return;
        }
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let other = identity_of(&child.id().to_string()).unwrap();
        let elsewhere = other.replacen(|c: char| c.is_ascii_hexdigit(), "x", 1);
        let peers = Peer::of(0, &[own.into_bytes(), elsewhere.into_bytes(), other.into_bytes(), Vec::new()]);
        assert_eq!(peers.iter().map(|peer| peer.rank).collect::<Vec<_>>(), [2]);
        let another = Peer { began: "0".into(), ..peers[0].clone() };
        assert!(!peers[0].is_gone() && another.is_gone());

        let watch = Watch::new(Options::default(), peers);
        let (sender, answer) = mpsc::channel();
        sender.send(1).unwrap();
        assert_eq!(watch.wait(&answer).unwrap(), 1);
        child.kill().unwrap();
        // Nobody has asked how it ended: it is still listed, as one that has.
        let (rank, reason) = message(watch.wait(&answer).unwrap_err());
        assert!(rank == Some(2) && reason.contains(&child.id().to_string()), "{reason}");
        child.wait().unwrap();
        assert!(watch.peers[0].is_gone());
        sender.send(2).unwrap();
        assert!(watch.has_failed() && message(watch.wait(&answer).unwrap_err()).1.contains("failed before"));
    }

    #[test]
    fn a_rank_waits_neither_for_ever_nor_after_a_signal() {
        let (_sender, answer) = mpsc::channel::<()>();
        let options = Options { timeout: Duration::ZERO, ..Options::default() };
        let (rank, reason) = message(Watch::new(options, Vec::new()).wait(&answer).unwrap_err());
        assert!(rank.is_none() && reason.contains("no answer"), "{reason}");
        let options = Options { interrupted: || true, ..Options::default() };
        let (_, reason) = message(Watch::new(options, Vec::new()).wait(&answer).unwrap_err());
        assert!(reason.contains("interrupted"), "{reason}");
        let (sender, answer) = mpsc::channel::<()>();
        drop(sender);
        let (_, reason) = message(Watch::new(options, Vec::new()).wait_alone(&answer).unwrap_err());
        assert!(reason.contains("broke down"), "{reason}");
    }
}
