//! What a simulated station can serve, what of it stands in its memory, and what is being loaded.
//!
//! Loads go one after another, as from one disk, beside the work: they take their time and nobody else's.
//! Whether there is room is the scheduler's to know.

use crate::cost::{Batch, Cost};
use orchestrion_world::id::{Epoch, JobId, ModelId, ShardOrder, WorkerId};
use orchestrion_world::protocol::{ModelFacts, Report, ShardFault, WorkerFacts};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a worker is made of.
#[derive(Clone, Debug)]
pub struct Build {
    pub facts: WorkerFacts,
    /// What it can serve.
    pub range: Arc<[Offer]>,
}

/// A model as a worker would serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub model: ModelId,
    pub facts: ModelFacts,
    /// On its device.
    pub cost: Cost,
}

impl Build {
    /// A worker that serves what it came with and no other.
    pub fn fixed(facts: WorkerFacts, cost: Cost) -> Build {
        let range = facts.came_with.map(|(model, facts)| Offer { model, facts, cost }).into_iter().collect();
        Build { facts, range }
    }

    pub(crate) fn offer(&self, model: ModelId) -> Option<&Offer> {
        self.range.iter().find(|offer| offer.model == model)
    }
}

/// A model that stands, and its part of the stretch that runs.
#[derive(Clone, Debug)]
struct Standing {
    offer: Offer,
    /// At the worker's pace.
    cost: Cost,
    share: Share,
    /// Its weights are not what was loaded, and nobody knows.
    flipped: bool,
}

/// A model's part of a stretch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    pub(super) batch: Batch,
    /// Prompt tokens that it reads, and what they attend to.
    pub(super) read: u64,
    pub(super) attends: u64,
}

impl Standing {
    fn new(offer: Offer, pace: u32) -> Standing {
        Standing { offer, cost: offer.cost.at_pace(pace), share: Share::default(), flipped: false }
    }

    /// What a step with its part takes.
    fn step(&self) -> u64 {
        let Share { batch, read, attends } = self.share;
        if batch.rows == 0 && read == 0 { 0 } else { self.cost.prefill(batch, read, attends) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    range: Arc<[Offer]>,
    /// Of its devices, as models and contexts take it.
    memory: u64,
    /// What it came with.
    first: Option<ModelId>,
    pace: u32,
    stands: Vec<Standing>,
    /// When which is loaded, in order.
    loads: VecDeque<(u64, ShardOrder, Offer)>,
    /// When the weights of which have been looked at, in order.
    checks: VecDeque<(u64, ModelId, JobId)>,
    /// What loads come to that end before then.
    spoiled: Option<(u64, ShardFault)>,
}

impl Shelf {
    pub(super) fn new(build: &Build, first: Option<ModelId>) -> Shelf {
        let (range, stands, loads, checks) = (Arc::clone(&build.range), vec![], VecDeque::new(), VecDeque::new());
        let whole = build.facts.devices.iter().map(|part| part.capacity.whole(part.share).0);
        let memory = whole.min().unwrap_or(u64::MAX);
        let mut shelf = Shelf { range, memory, first, pace: 1_000, stands, loads, checks, spoiled: None };
        shelf.reset();
        shelf
    }

    /// As it came up.
    pub(super) fn reset(&mut self) {
        self.loads.clear();
        self.checks.clear();
        let first = self.first.and_then(|model| self.offer(model));
        // What it came with stays loaded as it is.
        let flipped = self.stands.iter().any(|standing| standing.flipped && Some(standing.offer.model) == self.first);
        self.stands = first.map(|offer| Standing { flipped, ..Standing::new(offer, self.pace) }).into_iter().collect();
    }

    fn offer(&self, model: ModelId) -> Option<Offer> {
        self.range.iter().find(|offer| offer.model == model).copied()
    }

    /// From an order to its being taken up: the station's own, so that of any of its models.
    pub(super) fn take_up(&self) -> u64 {
        self.stands.first().map_or_else(|| self.range.first().map_or(0, |of| of.cost.take_up), |of| of.cost.take_up)
    }

    pub(super) fn pace(&mut self, permille: u32) {
        self.pace = permille;
        for standing in &mut self.stands {
            standing.cost = standing.offer.cost.at_pace(permille);
        }
    }

    /// Loads that end before then come to this.
    pub(crate) fn spoil(&mut self, until: u64, fault: ShardFault) {
        self.spoiled = Some((until, fault));
    }

    /// The file of a model that stands.
    pub(crate) fn any_facts(&self) -> Option<&ModelFacts> {
        self.stands.first().map(|standing| &standing.offer.facts)
    }

    pub(super) fn find(&self, model: ModelId) -> Option<usize> {
        self.stands.iter().position(|standing| standing.offer.model == model)
    }

    pub(super) fn len(&self) -> usize {
        self.stands.len()
    }

    pub(super) fn model(&self, at: usize) -> ModelId {
        self.stands[at].offer.model
    }

    /// What is left for contexts beside the weights that stand.
    pub(super) fn contexts(&self) -> u64 {
        self.stands.iter().fold(self.memory, |left, standing| left.saturating_sub(standing.offer.facts.weights.0))
    }

    pub(super) fn facts(&self, at: usize) -> &ModelFacts {
        &self.stands[at].offer.facts
    }

    /// Prompt tokens in a step of it beside answers, at most.
    pub(super) fn chunk(&self, at: usize) -> u32 {
        self.stands[at].cost.chunk
    }

    pub(super) fn share(&mut self, at: usize) -> &mut Share {
        &mut self.stands[at].share
    }

    /// A stretch is planned anew.
    pub(super) fn clear(&mut self) {
        self.stands.iter_mut().for_each(|standing| standing.share = Share::default());
    }

    /// What one step with everybody's part takes.
    pub(super) fn step(&self) -> u64 {
        self.stands.iter().map(Standing::step).fold(0, u64::saturating_add)
    }

    /// What so many steps of answers alone take.
    pub(super) fn decode(&self, steps: u64) -> u64 {
        let busy = self.stands.iter().filter(|standing| standing.share.batch.rows > 0);
        busy.map(|standing| standing.cost.decode(standing.share.batch, steps)).fold(0, u64::saturating_add)
    }

    /// When a load is over, or a look at weights.
    pub(super) fn next_word(&self) -> Option<u64> {
        let check = self.checks.front().map(|(at, ..)| *at);
        self.loads.front().map(|(at, ..)| *at).into_iter().chain(check).min()
    }

    /// A model's weights change.
    pub(crate) fn flip(&mut self) {
        self.stands.first_mut().into_iter().for_each(|standing| standing.flipped = true);
    }

    /// Looks at all weights of a model after those before it, which takes as long as to load them.
    pub(super) fn look_at(&mut self, now: u64, model: ModelId, job: JobId) {
        let begun = self.checks.back().map_or(now, |(at, ..)| *at);
        let takes = self.offer(model).map_or(0, |offer| offer.cost.load(offer.facts.weights));
        self.checks.push_back((begun.saturating_add(takes), model, job));
    }

    /// What was looked at by now is told.
    pub(super) fn verify(&mut self, (worker, epoch): (WorkerId, Epoch), now: u64, said: &mut Vec<Report>) {
        while let Some((_, model, job)) = self.checks.pop_front_if(|(at, ..)| *at <= now) {
            let found = self.find(model).map(|at| &self.stands[at]);
            let digest = found.map(|standing| standing.offer.facts.digest);
            said.push(match (found, digest) {
                (Some(Standing { flipped: true, .. }), Some(digest)) => Report::ShardCorrupt { worker, epoch, digest },
                // No tree of hashes here: that of the file stands for its root.
                _ => Report::ShardVerified { worker, epoch, model, job, seal: digest },
            });
        }
    }

    /// Begins a load after those before it; false where it can not.
    pub(super) fn begin(&mut self, now: u64, model: ModelId, order: ShardOrder) -> bool {
        let Some(offer) = self.offer(model) else { return false };
        let begun = self.loads.back().map_or(now, |(at, ..)| *at);
        self.loads.push_back((begun.saturating_add(offer.cost.load(offer.facts.weights)), order, offer));
        true
    }

    pub(super) fn free(&mut self, model: ModelId) {
        self.stands.retain(|standing| standing.offer.model != model);
    }

    /// What was loaded by now stands, or is told to have failed.
    pub(super) fn load(&mut self, (worker, epoch): (WorkerId, Epoch), now: u64, said: &mut Vec<Report>) {
        while let Some((at, order, offer)) = self.loads.pop_front_if(|(at, ..)| *at <= now) {
            let Offer { model, mut facts, cost } = offer;
            match self.spoiled.filter(|(until, _)| at < *until).map(|(_, fault)| fault) {
                // The scheduler finds it by the digest and has it freed.
                Some(ShardFault::Corrupt) => {
                    facts.digest.0[31] ^= 1;
                    said.push(Report::ShardLoaded { worker, epoch, model, order, facts });
                }
                Some(fault) => said.push(Report::ShardFailed { worker, epoch, model, order, fault }),
                None => {
                    self.stands.push(Standing::new(Offer { model, facts, cost }, self.pace));
                    said.push(Report::ShardLoaded { worker, epoch, model, order, facts });
                }
            }
        }
    }
}
