//! When a newcomer would start: who goes before it, and how fast its line was seen to drain; or where little was
//! seen, how long tasks hold their slots.

use super::overload::Waiting;
use super::{Load, RETRY_AFTER_MAX, RETRY_AFTER_MIN};
use crate::estimate;
use orchestrion_world::config::Rules;
use orchestrion_world::id::ModelId;
use orchestrion_world::protocol::{Class, TaskSpec};
use orchestrion_world::queues::Queues;
use orchestrion_world::store::World;
use orchestrion_world::time::Ticks;
use orchestrion_world::worker::{Model, Worker};

/// A newcomer's prospects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forecast {
    pub(super) start: Ticks,
    /// If the slot that is free next is free now. Zero where all that is known is the workers' own word: nobody is
    /// refused for that.
    pub(super) soonest: Ticks,
}

impl Forecast {
    /// How long until the queue is shorter by so much: tasks leave it whole.
    pub(super) fn shorter_by(self, length: Ticks) -> Ticks {
        let turn = self.start.0.saturating_sub(self.soonest.0).max(1);
        Ticks(length.0.div_ceil(turn).saturating_mul(turn)).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }
}

/// How many of its line go before a newcomer of the tenant: those of its own, and of each other tenant as many as
/// have the turn by their weight until then.
pub(super) fn position(queues: &Queues, rules: &Rules, spec: &TaskSpec) -> u64 {
    let tenants = || queues.tenants(spec.model, spec.class).map(|(tenant, count)| (tenant, count as u64));
    let own = tenants().find(|(tenant, _)| *tenant == spec.tenant).map_or(0, |(_, count)| count);
    let weight = u64::from(rules.weight(spec.tenant)).max(1);
    let others = tenants().filter(|(tenant, _)| *tenant != spec.tenant);
    own + others
        .map(|(tenant, count)| count.min(((own + 1) * u64::from(rules.weight(tenant))).div_ceil(weight)))
        .sum::<u64>()
}

/// Where `position` of its line go before it.
pub(super) fn forecast(model: &Model, load: &Load, class: Class, waiting: Waiting, position: u64) -> Forecast {
    let before = match class {
        Class::Interactive => position,
        Class::Batch => waiting.interactive + position,
    };
    let guess = load.wait(class, before);
    let line = model.line(class);
    // A slot that is free says more than how fast others came free.
    let drained = |turns: u64, before: u64| {
        let own = estimate::drains_in(line.drain, turns);
        own.or_else(|| estimate::drains_in(model.interactive.drain, before)).filter(|_| guess.0 > 0)
    };
    match (drained(position + 1, before + 1), drained(position, before)) {
        (Some(start), Some(soonest)) => Forecast { start, soonest },
        _ if model.service(class).is_some() && before > 0 => {
            Forecast { start: guess, soonest: load.wait(class, before - 1).min(guess) }
        }
        _ => Forecast { start: guess, soonest: Ticks(0) },
    }
}

/// How long a worker with a free slot takes to begin with a prompt: it reads those that came before, and orders wait
/// for the end of its step.
pub(super) fn taken_up(world: &World, worker: &Worker, model: ModelId) -> Ticks {
    let Some(facts) = worker.resident(model).map(|resident| resident.facts) else { return Ticks(0) };
    let now = world.core.now;
    // Until it was seen to read, its own word counts.
    let unread = worker.unread();
    let whole = estimate::drains_in(worker.reading, unread).unwrap_or_else(|| estimate::length(unread, facts.prefill));
    let read = worker.reading.since.map_or(Ticks(0), |since| now.since(since));
    // A step makes a token of each answer.
    let half_step = estimate::length(worker.leases.len() as u64, facts.decode).0 / 2;
    Ticks(whole.0.saturating_sub(read.0).max(half_step))
}
