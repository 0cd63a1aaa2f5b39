//! How far models are that are being loaded, for who looks at a pool or a job. Written by whoever loads them, read
//! between two steps: the core knows that a load runs and what it is expected to take, no byte of it passes.

use orchestrion_world::id::{ModelId, WorkerId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes read, and bytes in all.
pub(crate) type Done = (u64, u64);

/// All loads that run.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<BTreeMap<(WorkerId, ModelId), Done>>);

impl Loads {
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

    /// Of all that these workers load.
    pub(crate) fn of_all(&self, workers: &[WorkerId]) -> Option<Done> {
        let known = self.known();
        let theirs = known.iter().filter(|((worker, _), _)| workers.contains(worker));
        theirs.map(|(_, done)| *done).reduce(|(done, all), (more, of)| (done + more, all + of))
    }
}
