//! Departures: what becomes of a task whose client is gone.
//!
//! A submission that is left before its verdict is still withdrawn where it never reaches the core, and a task
//! that is left is cancelled, at once or after its grace. Nobody is there to be told, so nothing here gives up:
//! what waits for a full disk waits until there is room.

use super::Door;
use crate::port::Verdict;
use crate::task_entry::{Entry, Phase};
use orchestrion_world::protocol::CancelReason;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// What it means for a task that a client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    CancelAtOnce,
    /// After the grace, unless somebody reads again.
    StartGrace,
}

/// A task on its way to the core.
pub(super) struct Submitted {
    door: Arc<Door>,
    pub(super) entry: Arc<Entry>,
    pub(super) tether: Option<Tether>,
    /// None where the same request came before, and once it is known.
    pub(super) verdict: Option<oneshot::Receiver<Verdict>>,
}

impl Drop for Submitted {
    fn drop(&mut self) {
        let Some(verdict) = self.verdict.take() else { return };
        // Outside a runtime the process is ending.
        let Ok(runtime) = Handle::try_current() else { return };
        let (door, entry) = (Arc::clone(&self.door), Arc::clone(&self.entry));
        runtime.spawn(async move {
            // The pulse drops what waits at its door while it cannot record. Without this nobody would ever
            // say so to the entry, and who waits for its admission would wait for ever.
            if verdict.await.is_err() {
                door.parts.switchboard.withdraw(&entry);
            }
        });
    }
}

/// Ties a task to a client: its drop is the client's departure.
pub(crate) struct Tether {
    door: Arc<Door>,
    entry: Arc<Entry>,
    loss: Loss,
}

impl Drop for Tether {
    fn drop(&mut self) {
        // Outside a runtime the process is ending, and the core cancels by itself.
        let Ok(runtime) = Handle::try_current() else { return };
        if matches!(self.entry.phase(), Phase::Ended(_)) {
            return;
        }
        let (door, entry) = (Arc::clone(&self.door), Arc::clone(&self.entry));
        match self.loss {
            Loss::CancelAtOnce => {
                runtime.spawn(async move { door.cancel_left(&entry, CancelReason::Disconnect).await });
            }
            Loss::StartGrace if entry.claim_grace() => {
                runtime.spawn(door.watch_grace(entry));
            }
            Loss::StartGrace => {}
        }
    }
}

impl Door {
    pub(super) fn submitted(
        self: &Arc<Self>,
        entry: Arc<Entry>,
        tether: Option<Tether>,
        verdict: Option<oneshot::Receiver<Verdict>>,
    ) -> Submitted {
        Submitted { door: Arc::clone(self), entry, tether, verdict }
    }

    pub(crate) fn tether(self: &Arc<Self>, entry: &Arc<Entry>, loss: Loss) -> Tether {
        Tether { door: Arc::clone(self), entry: Arc::clone(entry), loss }
    }

    async fn watch_grace(self: Arc<Self>, entry: Arc<Entry>) {
        let grace = Duration::from_millis(self.config.cancel_grace_ms);
        while let Some(since) = entry.left_alone() {
            match grace.checked_sub(since.elapsed()) {
                Some(left) if !left.is_zero() => tokio::time::sleep_until((Instant::now() + left).into()).await,
                _ => return self.cancel_left(&entry, CancelReason::Abandoned).await,
            }
        }
    }

    pub(super) async fn cancel_left(&self, entry: &Arc<Entry>, reason: CancelReason) {
        // However long the admission takes to be recorded: given up on, the task would run for nobody.
        entry.admitted().await;
        // Nobody is there to be told; a pulse that is gone has ended the task anyway.
        let _ = self.cancel(std::iter::once(entry), reason).await;
    }
}
