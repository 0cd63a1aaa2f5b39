//! What workers offer, and the tree in which the best offer is found.

use crate::id::{PoolId, WorkerId};
use crate::protocol::Class;
use crate::units::{Bytes, MilliRate, Permille};
use crate::vram::Resident;
use crate::worker::Worker;
use std::cmp::Ordering;

/// What the best of some workers offers a task of their model, respect by respect; of one worker, what it
/// offers. Only those with a free slot count, but for the fields that say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The most slots that a task of each class could have.
    pub interactive_room: u16,
    pub batch_room: u16,
    pub ctx_max: u32,
    pub kv_per_token: Bytes,
    pub residual: Bytes,
    pub prefill: MilliRate,
    pub decode: MilliRate,
    pub leases: u16,
    pub load: Permille,
    /// The highest, for who prefers it.
    pub load_max: Permille,
    /// The first by name.
    pub pool: PoolId,
    pub worker: WorkerId,
    /// Of all that serve the model, with a free slot or without.
    pub fastest_prefill: MilliRate,
    pub fastest_decode: MilliRate,
    pub fewest_slots: u16,
    pub slowest_prefill: MilliRate,
    pub slowest_decode: MilliRate,
    pub most_slots: u16,
}

impl Offer {
    /// Nobody's.
    pub const NONE: Offer = Offer {
        interactive_room: 0,
        batch_room: 0,
        ctx_max: 0,
        kv_per_token: Bytes(u64::MAX),
        residual: Bytes(0),
        prefill: MilliRate(0),
        decode: MilliRate(0),
        leases: u16::MAX,
        load: Permille(u32::MAX),
        load_max: Permille(0),
        pool: PoolId(u16::MAX),
        worker: WorkerId(u32::MAX),
        fastest_prefill: MilliRate(0),
        fastest_decode: MilliRate(0),
        fewest_slots: u16::MAX,
        slowest_prefill: MilliRate(u64::MAX),
        slowest_decode: MilliRate(u64::MAX),
        most_slots: 0,
    };

    /// Of one worker for one model that it serves.
    pub fn of(worker: &Worker, serving: &Resident, residual: Bytes, batch_share: Permille) -> Offer {
        let facts = &serving.facts;
        let all = Offer {
            fastest_prefill: facts.prefill,
            fastest_decode: facts.decode,
            fewest_slots: worker.facts.slots,
            slowest_prefill: facts.prefill,
            slowest_decode: facts.decode,
            most_slots: worker.facts.slots,
            ..Offer::NONE
        };
        if worker.free_slots() == 0 {
            return all;
        }
        Offer {
            interactive_room: worker.room(Class::Interactive, batch_share),
            batch_room: worker.room(Class::Batch, batch_share),
            ctx_max: facts.ctx_max,
            kv_per_token: facts.kv_per_token,
            residual,
            prefill: facts.prefill,
            decode: facts.decode,
            leases: worker.leases.len() as u16,
            load: worker.load(),
            load_max: worker.load(),
            pool: worker.facts.pool,
            worker: worker.id,
            ..all
        }
    }

    /// Slots for a task of the class.
    pub fn room(&self, class: Class) -> u16 {
        match class {
            Class::Interactive => self.interactive_room,
            Class::Batch => self.batch_room,
        }
    }

    fn best(self, other: Offer) -> Offer {
        Offer {
            interactive_room: self.interactive_room.max(other.interactive_room),
            batch_room: self.batch_room.max(other.batch_room),
            ctx_max: self.ctx_max.max(other.ctx_max),
            kv_per_token: self.kv_per_token.min(other.kv_per_token),
            residual: self.residual.max(other.residual),
            prefill: self.prefill.max(other.prefill),
            decode: self.decode.max(other.decode),
            leases: self.leases.min(other.leases),
            load: self.load.min(other.load),
            load_max: self.load_max.max(other.load_max),
            pool: self.pool.min(other.pool),
            worker: self.worker.min(other.worker),
            fastest_prefill: self.fastest_prefill.max(other.fastest_prefill),
            fastest_decode: self.fastest_decode.max(other.fastest_decode),
            fewest_slots: self.fewest_slots.min(other.fewest_slots),
            slowest_prefill: self.slowest_prefill.min(other.slowest_prefill),
            slowest_decode: self.slowest_decode.min(other.slowest_decode),
            most_slots: self.most_slots.max(other.most_slots),
        }
    }
}

/// Children of a node: the tree stays flat, and one node's children share few cache lines.
const WIDTH: usize = 4;

/// The workers of one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The leaves, their parents, and so on up to the root, alone.
    levels: Vec<Vec<Offer>>,
}

impl Tree {
    /// What no worker of the model can beat.
    pub fn root(&self) -> Offer {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or(Offer::NONE)
    }

    /// What the worker at a leaf offers.
    pub fn leaf(&self, at: usize) -> Option<Offer> {
        self.levels.first()?.get(at).copied()
    }

    /// The worker that comes first by `first` and, among equals, by `then`, of those that take the task. `first`
    /// is told who it is where an offer is one worker's; where it gives nothing, no worker below takes the task,
    /// and what either says of a node is at most what it says of the workers below. `takes` is asked of those
    /// alone that would be the best so far.
    pub fn least<K: Ord + Copy>(
        &self,
        first: impl Fn(&Offer, Option<WorkerId>) -> Option<K>,
        then: impl Fn(&Offer, &Offer) -> Ordering,
        takes: impl Fn(WorkerId) -> bool,
    ) -> Option<WorkerId> {
        let mut best = None;
        if let Some(top) = self.levels.len().checked_sub(1) {
            self.search((top, 0), &first, &then, &takes, &mut best);
        }
        best.map(|(_, offer)| offer.worker)
    }

    fn search<'t, K: Ord + Copy>(
        &'t self,
        (level, at): (usize, usize),
        first: &impl Fn(&Offer, Option<WorkerId>) -> Option<K>,
        then: &impl Fn(&Offer, &Offer) -> Ordering,
        takes: &impl Fn(WorkerId) -> bool,
        best: &mut Option<(K, &'t Offer)>,
    ) {
        let Some(below) = level.checked_sub(1) else { return };
        let children = self.levels[below].iter().enumerate().skip(at * WIDTH).take(WIDTH);
        let mut open = [None; WIDTH];
        for (slot, (n, offer)) in open.iter_mut().zip(children) {
            *slot = first(offer, (below == 0).then_some(offer.worker)).map(|key| (key, n));
        }
        // The most promising first: it may make the others needless. Nothing comes before something.
        open.sort_unstable();
        for (key, n) in open.into_iter().flatten() {
            let offer = &self.levels[below][n];
            let before = best.is_none_or(|(least, of)| key.cmp(&least).then_with(|| then(offer, of)).is_lt());
            if before && below > 0 {
                self.search((below, n), first, then, takes, best);
            } else if before && takes(offer.worker) {
                *best = Some((key, offer));
            }
        }
    }

    /// Adds a leaf that offers nothing yet, and says where.
    pub fn push(&mut self) -> usize {
        if self.levels.is_empty() {
            self.levels = vec![vec![], vec![Offer::NONE]];
        }
        let at = self.levels[0].len();
        let mut len = at + 1;
        self.levels[0].push(Offer::NONE);
        for level in 1.. {
            len = len.div_ceil(WIDTH);
            if level == self.levels.len() {
                // The root has too many children: they get parents, and those a new root.
                self.levels.push(vec![]);
            }
            while self.levels[level].len() < len {
                let n = self.levels[level].len();
                let offer = self.best_of(level, n);
                self.levels[level].push(offer);
            }
            if len == 1 {
                break;
            }
        }
        at
    }

    /// Writes a leaf and what changes above it.
    pub fn set(&mut self, leaf: usize, offer: Offer) {
        let (mut at, mut offer) = (leaf, offer);
        for level in 0..self.levels.len() {
            if std::mem::replace(&mut self.levels[level][at], offer) == offer {
                return;
            }
            at /= WIDTH;
            if level + 1 < self.levels.len() {
                offer = self.best_of(level + 1, at);
            }
        }
    }

    /// Whether each node is the best of its children.
    pub fn adds_up(&self) -> bool {
        (1..self.levels.len()).all(|level| {
            let parents = self.levels[level - 1].len().div_ceil(WIDTH);
            parents == self.levels[level].len()
                && (0..parents).all(|at| self.levels[level][at] == self.best_of(level, at))
        })
    }

    fn best_of(&self, level: usize, at: usize) -> Offer {
        self.levels[level - 1].iter().skip(at * WIDTH).take(WIDTH).copied().fold(Offer::NONE, Offer::best)
    }
}
