//! What a worker offers a task of a model, and how fast it is at it.

use super::tree::Best;
use crate::id::{PoolId, WorkerId};
use crate::protocol::{Class, ModelFacts};
use crate::time::{TICKS_PER_SECOND, Ticks};
use crate::units::{Bytes, MilliRate, Permille};
use crate::vram::{Resident, kv_for};
use crate::worker::Worker;

/// What the best of some workers offers a task of their model, respect by respect; of one worker, what it offers.
/// Only those with a free slot count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The most slots that a task of each class could have.
    pub interactive_room: u16,
    pub batch_room: u16,
    pub ctx_max: u32,
    pub kv_per_token: Bytes,
    pub residual: Bytes,
    pub pace: Pace,
    pub decode: MilliRate,
    pub load: Permille,
    /// The highest, for who prefers it.
    pub load_max: Permille,
    /// The first by name.
    pub pool: PoolId,
    pub worker: WorkerId,
}

impl Offer {
    /// Of one worker for one model that it serves.
    pub fn of(worker: &Worker, serving: &Resident, residual: Bytes, batch_share: Permille) -> Offer {
        let facts = &serving.facts;
        if worker.free_slots() == 0 {
            return Offer::NONE;
        }
        Offer {
            interactive_room: worker.room(Class::Interactive, batch_share),
            batch_room: worker.room(Class::Batch, batch_share),
            ctx_max: facts.ctx_max,
            kv_per_token: facts.kv_per_token,
            residual,
            pace: Pace::of(facts, worker.leases.len() as u64 + 1),
            decode: facts.decode,
            load: worker.load(),
            load_max: worker.load(),
            pool: worker.facts.pool,
            worker: worker.id,
        }
    }

    /// Whether the context of so many tokens fits.
    pub fn holds(&self, tokens: u64) -> bool {
        tokens <= u64::from(self.ctx_max) && kv_for(self.kv_per_token, tokens) <= self.residual
    }

    /// Slots for a task of the class.
    pub fn room(&self, class: Class) -> u16 {
        match class {
            Class::Interactive => self.interactive_room,
            Class::Batch => self.batch_room,
        }
    }
}

impl Best for Offer {
    const NONE: Offer = Offer {
        interactive_room: 0,
        batch_room: 0,
        ctx_max: 0,
        kv_per_token: Bytes(u64::MAX),
        residual: Bytes(0),
        pace: Pace { prompt: u64::MAX, answer: u64::MAX },
        decode: MilliRate(0),
        load: Permille(u32::MAX),
        load_max: Permille(0),
        pool: PoolId(u16::MAX),
        worker: WorkerId(u32::MAX),
    };

    fn best(self, other: Offer) -> Offer {
        Offer {
            interactive_room: self.interactive_room.max(other.interactive_room),
            batch_room: self.batch_room.max(other.batch_room),
            ctx_max: self.ctx_max.max(other.ctx_max),
            kv_per_token: self.kv_per_token.min(other.kv_per_token),
            residual: self.residual.max(other.residual),
            pace: Pace {
                prompt: self.pace.prompt.min(other.pace.prompt),
                answer: self.pace.answer.min(other.pace.answer),
            },
            decode: self.decode.max(other.decode),
            load: self.load.min(other.load),
            load_max: self.load_max.max(other.load_max),
            pool: self.pool.min(other.pool),
            worker: self.worker.min(other.worker),
        }
    }
}

/// How long each token of a prompt and of an answer takes, in parts of a tick. Whoever has the least of both is not
/// slower than anybody, and a run is two products: a search compares hundreds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    prompt: u64,
    answer: u64,
}

/// Parts of a tick, as a power of two: a token at a million tokens a second still takes a thousand.
const PART_BITS: u32 = 20;

impl Pace {
    /// Of a model on a worker that shares itself among so many tasks.
    pub fn of(facts: &ModelFacts, sharers: u64) -> Pace {
        // A rate of zero is not known to move at all.
        let each = |rate: MilliRate| ((TICKS_PER_SECOND * 1_000) << PART_BITS) / rate.0.max(1);
        Pace { prompt: each(facts.prefill).saturating_mul(sharers), answer: each(facts.decode).saturating_mul(sharers) }
    }

    /// How long a task runs that uses its whole answer.
    pub fn run(self, prompt_tokens: u32, max_tokens: u32) -> Ticks {
        let prompt = self.prompt.saturating_mul(prompt_tokens.into());
        let parts = prompt.saturating_add(self.answer.saturating_mul(max_tokens.into()));
        Ticks(parts.div_ceil(1 << PART_BITS))
    }
}

/// How fast those are who serve a model, with a free slot or without, and how many slots they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    pub fastest_prefill: MilliRate,
    pub fastest_decode: MilliRate,
    pub fewest_slots: u16,
    pub slowest_prefill: MilliRate,
    pub slowest_decode: MilliRate,
    pub most_slots: u16,
}

impl Speed {
    /// Of one worker.
    pub fn of(worker: &Worker, serving: &Resident) -> Speed {
        let ModelFacts { prefill, decode, .. } = serving.facts;
        Speed {
            fastest_prefill: prefill,
            fastest_decode: decode,
            fewest_slots: worker.facts.slots,
            slowest_prefill: prefill,
            slowest_decode: decode,
            most_slots: worker.facts.slots,
        }
    }
}

impl Best for Speed {
    const NONE: Speed = Speed {
        fastest_prefill: MilliRate(0),
        fastest_decode: MilliRate(0),
        fewest_slots: u16::MAX,
        slowest_prefill: MilliRate(u64::MAX),
        slowest_decode: MilliRate(u64::MAX),
        most_slots: 0,
    };

    fn best(self, other: Speed) -> Speed {
        Speed {
            fastest_prefill: self.fastest_prefill.max(other.fastest_prefill),
            fastest_decode: self.fastest_decode.max(other.fastest_decode),
            fewest_slots: self.fewest_slots.min(other.fewest_slots),
            slowest_prefill: self.slowest_prefill.min(other.slowest_prefill),
            slowest_decode: self.slowest_decode.min(other.slowest_decode),
            most_slots: self.most_slots.max(other.most_slots),
        }
    }
}
