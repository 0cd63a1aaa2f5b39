//! How far models are that are being loaded or looked at, for who looks at a pool or a job. Written by whoever does
//! that, read between two steps: the core knows that it goes on, no byte of it passes.

use orchestrion_world::id::{ModelId, WorkerId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes done, and bytes in all.
pub(crate) type Done = (u64, u64);

/// All of one kind that run.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<BTreeMap<(WorkerId, ModelId), Done>>);

impl Progress {
    fn known(&self) -> MutexGuard<'_, BTreeMap<(WorkerId, ModelId), Done>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hear(&self, worker: WorkerId, model: ModelId, done: Done) {
        self.known().insert((worker, model), done);
    }

    pub(crate) fn over(&self, worker: WorkerId, model: ModelId) {
        self.known().remove(&(worker, model));
    }

    pub(crate) fn of(&self, worker: WorkerId, model: ModelId) -> Option<Done> {
        self.known().get(&(worker, model)).copied()
    }

    /// Of all models on these workers.
    pub(crate) fn of_all(&self, workers: &[WorkerId]) -> Option<Done> {
        let known = self.known();
        let theirs = known.iter().filter(|((worker, _), _)| workers.contains(worker));
        theirs.map(|(_, done)| *done).reduce(|(done, all), (more, of)| (done + more, all + of))
    }
}
