//! The smallest change that would have made another decision: of one figure of one worker, exact to the unit. Found
//! by deciding again with the figure changed; only for who asks why.

use super::choose::{Candidate, Request, filter};
use super::rank;
use orchestrion_world::config::{PlacementRule, PlacementRules};
use orchestrion_world::id::{Attempt, ModelId, TaskId, WorkerId};
use orchestrion_world::protocol::Class;
use orchestrion_world::units::{Bytes, MilliRate};
use orchestrion_world::worker::{Lease, Worker};
use serde::Serialize;

/// A worker's figure, and the value nearest to it with which the worker would have had the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Flip {
    pub worker: WorkerId,
    pub figure: Figure,
    pub is: u64,
    pub needed: u64,
}

/// What is changed of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Figure {
    /// Tasks on its slots; batch tasks are taken off first.
    Leases,
    /// Bytes free on its devices.
    FreeMemory,
    /// Tokens that its context holds.
    Context,
    /// Thousandths of answer and prompt tokens in a second.
    Decode,
    Prefill,
}

impl Figure {
    const ALL: [Figure; 5] = [Self::Leases, Self::FreeMemory, Self::Context, Self::Decode, Self::Prefill];

    fn of(self, request: &Request, worker: &Worker, residual: Bytes) -> u64 {
        let facts = worker.serving(request.spec.model).map(|resident| resident.facts);
        match self {
            Figure::Leases => worker.leases.len() as u64,
            Figure::FreeMemory => residual.0,
            Figure::Context => facts.map_or(0, |facts| facts.ctx_max.into()),
            Figure::Decode => facts.map_or(0, |facts| facts.decode.0),
            Figure::Prefill => facts.map_or(0, |facts| facts.prefill.0),
        }
    }

    /// The value that helps most: beyond it, nothing does.
    fn best(self, rule: PlacementRule, worker: &Worker) -> u64 {
        match self {
            Figure::Leases if rule == PlacementRule::Pack => worker.offered().into(),
            Figure::Leases => 0,
            Figure::Context => u32::MAX.into(),
            Figure::FreeMemory | Figure::Decode | Figure::Prefill => u64::MAX,
        }
    }

    /// The worker and what is free on its devices, with this value.
    pub(crate) fn set(self, request: &Request, worker: &Worker, residual: Bytes, value: u64) -> (Worker, Bytes) {
        let (mut worker, model) = (worker.clone(), request.spec.model);
        let facts = worker.resident_mut(model).map(|resident| &mut resident.facts);
        match (self, facts) {
            (Figure::FreeMemory, _) => return (worker, Bytes(value)),
            (Figure::Leases, _) => hold(&mut worker, model, value),
            (Figure::Context, Some(facts)) => facts.ctx_max = value as u32,
            (Figure::Decode, Some(facts)) => facts.decode = MilliRate(value),
            (Figure::Prefill, Some(facts)) => facts.prefill = MilliRate(value),
            (Figure::Context | Figure::Decode | Figure::Prefill, None) => {}
        }
        (worker, residual)
    }
}

/// Puts tasks on a worker's slots, or takes some off, until there are so many.
fn hold(worker: &mut Worker, model: ModelId, value: u64) {
    let mut task = TaskId(u128::MAX);
    while (worker.leases.len() as u64) < value {
        let (attempt, class, kv, unread) = (Attempt::of(0, 0), Class::Interactive, Bytes(0), 0);
        worker.leases.push(Lease { task, attempt, model, class, kv, unread, revoked: false, called_back: false });
        task.0 -= 1;
    }
    // The class orders interactive before batch: those at the end go.
    worker.leases.sort_by_key(|lease| (lease.class, lease.task));
    worker.leases.truncate(value as usize);
    worker.leases.sort_by_key(|lease| lease.task);
}

/// The change that is smallest in proportion to what it changes, over all workers that were not chosen.
pub(crate) fn smallest(
    rules: PlacementRules,
    request: &Request,
    candidates: &[Candidate<'_>],
    chosen: Option<WorkerId>,
) -> Option<Flip> {
    let values = |c: &Candidate<'_>| rank::whole(rules.policy).map(|term| rank::value(term, request, c));
    let best = candidates.iter().find(|c| Some(c.worker.id) == chosen).map(values);
    let others = candidates.iter().filter(|c| Some(c.worker.id) != chosen);
    let flips = others.flat_map(|&Candidate { worker, residual, .. }| {
        let wins = move |figure: Figure, value| {
            let (worker, residual) = figure.set(request, worker, residual, value);
            let changed = Candidate { worker: &worker, serving: worker.serving(request.spec.model), residual };
            filter(rules, request, &changed).is_none() && best.is_none_or(|best| values(&changed) < best)
        };
        Figure::ALL.into_iter().filter_map(move |figure| {
            let (is, end) = (figure.of(request, worker, residual), figure.best(rules.policy, worker));
            let needed = match (figure, rules.policy) {
                // A busier worker is preferred until it is full.
                (Figure::Leases, PlacementRule::Pack) => (is + 1..end).find(|&value| wins(figure, value)),
                _ => nearest(is, end, |value| wins(figure, value)),
            }?;
            Some(Flip { worker: worker.id, figure, is, needed })
        })
    });
    flips.min_by_key(|flip| {
        let part = u128::from(flip.needed.abs_diff(flip.is)) * 1_000 / u128::from(flip.is.max(1));
        (part, flip.figure, flip.worker)
    })
}

/// The value nearest to `is`, on the way to `end`, from which on `holds` does.
fn nearest(is: u64, end: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    if is == end || !holds(end) {
        return None;
    }
    let (mut not, mut does) = (is, end);
    while not.abs_diff(does) > 1 {
        let middle = not.min(does) + not.abs_diff(does) / 2;
        *(if holds(middle) { &mut does } else { &mut not }) = middle;
    }
    Some(does)
}

impl Flip {
    /// In a sentence.
    pub(super) fn sentence(&self, chosen: Option<WorkerId>) -> String {
        let Flip { worker, figure, is, needed } = *self;
        let would = if chosen.is_some() { "would have been chosen" } else { "could have started it" };
        let rate = |milli: u64| format!("{}.{:03}", milli / 1000, milli % 1000);
        let change = match figure {
            Figure::Leases => format!("with {needed} task{} on it instead of {is}", if needed == 1 { "" } else { "s" }),
            Figure::FreeMemory => format!("with {needed} bytes of memory free instead of {is}"),
            Figure::Context => format!("with a context of {needed} tokens instead of {is}"),
            Figure::Decode => format!("at {} answer tokens/s instead of {}", rate(needed), rate(is)),
            Figure::Prefill => format!("at {} prompt tokens/s instead of {}", rate(needed), rate(is)),
        };
        format!("The smallest change: {worker} {would} {change}.")
    }
}
