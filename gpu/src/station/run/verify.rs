//! Looking at the weights that stand: at a part of all with each beat, and at all of a model where somebody asked,
//! both beside the work and on the loop's own thread, so that nobody writes them meanwhile.
//!
//! A model whose weights are not what was sealed is gone at once, with its tasks, whoever found it: the core has
//! them run elsewhere, or here once it is loaded anew.

use super::super::bench::{Asked, Bench};
use super::{Runner, let_go};
use crate::seal::Broken;
use orchestrion_world::id::{JobId, ModelId};
use orchestrion_world::protocol::Report;
use orchestrion_world::units::{Bytes, Sha256};
use std::time::Duration;

/// Leaves between two steps of the engine where somebody asked: 4 MiB, some milliseconds.
const SLICE: usize = 128;

impl Runner<'_> {
    /// Looks at a part of all weights, so that each is looked at within a round.
    pub(super) fn verify(&mut self, since: Duration) {
        let round = self.spec.verify_round;
        for at in (0..self.benches.len()).rev() {
            if let Err(error) = self.benches[at].check(since, round) {
                self.condemn(at, error);
            }
        }
    }

    /// All weights of a model are looked at from here on. Who asked for that before has gone.
    pub(super) fn look_at(&mut self, model: ModelId, job: JobId) {
        let Some(at) = self.bench(model) else { return self.tell(model, job, None) };
        let left = self.benches[at].seal.len();
        self.benches[at].asked = Some(Asked { job, left });
    }

    pub(super) fn is_looking(&self) -> bool {
        self.benches.iter().any(|bench| bench.asked.is_some())
    }

    /// The next slice of what somebody asked for, one model after another.
    pub(super) fn look_on(&mut self) {
        let Some(at) = self.benches.iter().position(|bench| bench.asked.is_some()) else { return };
        let Bench { model, seal, asked, .. } = &mut self.benches[at];
        let Some(Asked { job, left }) = asked.as_mut() else { return };
        match model.engine.check(seal, SLICE.min(*left)) {
            Ok(seen) => {
                *left -= seen;
                let (id, job, root) = (model.id, *job, seal.root());
                if *left > 0 {
                    let all = model.engine.weights();
                    // Leaves are as large as each other, but for the last of each tensor.
                    let to_come = u128::from(all.0) * *left as u128 / seal.len().max(1) as u128;
                    let seen = Bytes(all.0 - to_come as u64);
                    return self.outlet.verifying(self.spec.worker, id, Some((seen, all)));
                }
                self.forget_look(at);
                self.tell(id, job, Some(root));
            }
            Err(error) => self.condemn(at, error),
        }
    }

    /// The model goes: whoever asked hears that there is nothing to look at.
    pub(super) fn look_away(&mut self, at: usize) {
        let (model, asked) = (self.benches[at].model.id, self.benches[at].asked);
        self.forget_look(at);
        asked.into_iter().for_each(|Asked { job, .. }| self.tell(model, job, None));
    }

    /// Nobody hears any more of what was asked.
    pub(super) fn forget_look(&mut self, at: usize) {
        if self.benches[at].asked.take().is_some() {
            self.outlet.verifying(self.spec.worker, self.benches[at].model.id, None);
        }
    }

    fn tell(&self, model: ModelId, job: JobId, seal: Option<Sha256>) {
        let (worker, epoch) = (self.spec.worker, self.epoch());
        self.outlet.report(Report::ShardVerified { worker, epoch, model, job, seal });
    }

    fn condemn(&mut self, at: usize, error: Broken) {
        let (worker, epoch) = (self.spec.worker, self.epoch());
        self.forget_look(at);
        let Bench { model, tasks, .. } = self.benches.remove(at);
        tracing::error!(%worker, model = model.id.0, digest = %model.digest, %error, "corrupt weights: served no more");
        self.made.retain(|(task, ..)| tasks.iter().all(|of| of.task != *task));
        self.outlet.report(Report::ShardCorrupt { worker, epoch, digest: model.digest });
        let_go(worker, &self.outlet, model, None);
    }
}
