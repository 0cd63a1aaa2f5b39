//! The shadow: a second world that follows the journal and puts snapshots beside its segments.
//!
//! Each time the pulse closes a segment, a thread executes that one's records again and writes the state
//! they came to. So a restart has no more than the last segments to execute, and the pulse never waits until
//! a state is written. It reads what is on the disk, and holds every step against its digests on the way: a
//! server whose journal would not replay learns of it while it runs. Old segments are removed here as well,
//! whether a snapshot could be made or not: room is needed most where it could not.

use crate::journal::snapshot;
use crate::journal::{Chain, Header, JournalConfig, JournalError, Segment, Writer, file_name, retain, runs};
use crate::replay::ReplayError;
use crate::replay::rerun::Rerun;
use orchestrion_systems::Simulation;
use orchestrion_world::ledger::full_digest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

/// The thread of a [`Follower`].
#[derive(Debug)]
pub(crate) struct Shadow {
    /// The number of the segment that was closed last.
    closed: Arc<AtomicU32>,
    /// One mark is enough: it follows up to the last that is closed.
    wake: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shadow {
    /// Waits for segments of the run that `writer` has begun to be closed.
    pub(crate) fn start(writer: &Writer) -> std::io::Result<Shadow> {
        let closed = Arc::new(AtomicU32::new(0));
        let (wake, woken) = flume::bounded::<()>(1);
        let last = Arc::clone(&closed);
        let mut follower = Follower::of(writer);
        let thread = std::thread::Builder::new().name("journal-shadow".into()).spawn(move || {
            let mut follows = true;
            while woken.recv().is_ok() {
                while follows && follower.next <= last.load(Ordering::Acquire) && !woken.is_disconnected() {
                    if let Err(error) = follower.follow() {
                        tracing::error!(%error, "no more snapshots are made: a restart will take longer");
                        follows = false;
                    }
                }
                if !follows {
                    follower.retain();
                }
            }
        })?;
        Ok(Shadow { closed, wake: Some(wake), thread: Some(thread) })
    }

    /// A segment was closed, and the next one begun.
    pub(crate) fn closed(&self, number: u32) {
        self.closed.store(number, Ordering::Release);
        if let Some(wake) = &self.wake {
            // Full means a wake-up is under way already.
            let _ = wake.try_send(());
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A world that is as far as the last closed segment.
pub(crate) struct Follower {
    config: JournalConfig,
    /// The segment to follow next.
    next: u32,
    /// None before the first: an idle server has one world, not two.
    world: Option<Simulation>,
    chain: Option<Chain>,
    /// The segment of the newest snapshot, and that of the one before: it is kept in case the newest cannot be
    /// read.
    newest: u32,
    needed: u32,
}

impl Follower {
    /// Of a run that begins.
    pub(crate) fn of(writer: &Writer) -> Follower {
        let (config, first) = (writer.config().clone(), writer.number());
        Follower { config, next: first, world: None, chain: None, newest: first, needed: first }
    }

    /// Executes the next closed segment again and writes the snapshot of the one after it. A snapshot that
    /// cannot be written is left out; an error means that the world is lost.
    pub(crate) fn follow(&mut self) -> Result<(), ReplayError> {
        let began = Instant::now();
        let segments = [self.segment(self.next)?];
        let mut rerun = Rerun::new(&segments, self.chain.take());
        rerun.simulation = self.world.take();
        let steps = rerun.recover()?;
        let place = rerun.place();
        self.chain = rerun.reader.chain();
        self.next += 1;
        let Some(world) = rerun.simulation else { return Err(ReplayError::Ledger { place }) };
        let Segment { path, origin, .. } = self.segment(self.next)?;
        let ledger = world.ledger();
        if full_digest(&ledger) != origin.digest {
            return Err(ReplayError::Ledger { place });
        }
        self.world = Some(world);
        match snapshot::write(&path, &Header { origin, ledger: Some(ledger) }, self.config.fsync) {
            Err(error) => {
                tracing::warn!(%error, "a snapshot is left out: until the next one, a restart takes longer");
            }
            Ok(()) => {
                tracing::debug!(segment = %path.display(), steps, took = ?began.elapsed(), "snapshot written");
                self.needed = std::mem::replace(&mut self.newest, self.next);
            }
        }
        self.retain();
        Ok(())
    }

    /// Removes what is past its retention and not needed to recover.
    fn retain(&self) {
        retain(&self.config, self.needed, SystemTime::now());
    }

    fn segment(&self, number: u32) -> Result<Segment, JournalError> {
        let path = self.config.dir.join(file_name(number));
        let segment = runs(&path)?.into_iter().flat_map(|run| run.segments).next();
        segment.ok_or(JournalError::Nothing { path })
    }
}

#[cfg(test)]
mod tests;
