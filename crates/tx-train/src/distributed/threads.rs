//! Ranks that are threads of one process.
//!
//! They meet in a room: each brings what it has, and when all are there, each takes what all have brought.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tx_core::error::{Error, Result};

use super::{Communicator, Pending, REMEDY};

/// One of several threads that train one model.
#[derive(Debug)]
pub(crate) struct Threads {
    rank: usize,
    meeting: Arc<Meeting>,
}

#[derive(Debug)]
struct Meeting {
    size: usize,
    room: Mutex<Room>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Room {
    /// What each rank has brought.
    brought: Vec<Option<Vec<u8>>>,
    /// How many ranks still have to take what was brought; 0 while it is being brought.
    leaving: usize,
    /// Those who took leave of the others.
    finished: Vec<bool>,
    /// One who went without.
    lost: Option<usize>,
}

impl Threads {
    /// As many ranks, each of which is for a thread of its own.
    pub(crate) fn start(size: usize) -> Vec<Self> {
        let room = Room { brought: vec![None; size], finished: vec![false; size], ..Room::default() };
        let meeting = Arc::new(Meeting { size, room: Mutex::new(room), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, meeting: meeting.clone() }).collect()
    }

    fn enter(&self) -> MutexGuard<'_, Room> {
        self.meeting.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something holds, or somebody is lost.
    fn until<'a>(&self, mut room: MutexGuard<'a, Room>, holds: impl Fn(&Room) -> bool) -> Result<MutexGuard<'a, Room>> {
        loop {
            if holds(&room) {
                return Ok(room);
            }
            if let Some(lost) = room.lost {
                return Err(Error::distributed(Some(lost), "it has ended", REMEDY));
            }
            room = self.meeting.changed.wait(room).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What every rank has brought.
    fn exchange(&self, own: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let mut room = self.until(self.enter(), |room| room.leaving == 0)?;
        room.brought[self.rank] = Some(own);
        if room.brought.iter().all(Option::is_some) {
            room.leaving = self.meeting.size;
            self.meeting.changed.notify_all();
        }
        room = self.until(room, |room| room.leaving > 0)?;
        let all = room.brought.iter().flatten().cloned().collect();
        room.leaving -= 1;
        if room.leaving == 0 {
            room.brought.fill(None);
            self.meeting.changed.notify_all();
        }
        Ok(all)
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size
    }

    fn all_reduce(&self, values: Vec<f32>) -> Result<Pending> {
        let all = self.exchange(values.iter().flat_map(|value| value.to_le_bytes()).collect())?;
        let mut sums = vec![0f32; values.len()];
        for bytes in all {
            for (sum, value) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *sum += f32::from_le_bytes(*value);
            }
        }
        Ok(Pending::new(move || Ok(sums)))
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        let all = self.exchange(values.iter().flat_map(|value| value.to_le_bytes()).collect())?;
        values.fill(0.0);
        for bytes in all {
            for (sum, value) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *sum += f64::from_le_bytes(*value);
            }
        }
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mut all = self.exchange(bytes)?;
        Ok(all.swap_remove(root))
    }

    fn finish(&self) -> Result<()> {
        self.barrier()?;
        self.enter().finished[self.rank] = true;
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut room = self.enter();
        if !room.finished[self.rank] {
            room.lost.get_or_insert(self.rank);
            self.meeting.changed.notify_all();
        }
    }
}
