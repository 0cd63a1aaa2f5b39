//! Placement: which worker runs the task at the head of each stirred queue. Gathers candidates, asks the
//! pure [`choose`], and takes the lease; dispatch sends the order.
//!
//! The head of a line that no worker has room for now blocks its line: nothing younger may pass it.

mod choose;
pub mod explain;
mod rank;

use crate::Watch;
use crate::estimate;
use crate::release::fail;
use bevy_ecs::prelude::World;
use choose::{Candidate, Request, choose};
use orchestrion_world::config::{PlacementRules, Rules};
use orchestrion_world::id::{Attempt, ModelId, TaskId, WorkerId};
use orchestrion_world::ledger::Core;
use orchestrion_world::mail::Mail;
use orchestrion_world::protocol::{Class, Failure};
use orchestrion_world::queues::{Queues, dequeue};
use orchestrion_world::store::{FreeIndex, Store};
use orchestrion_world::units::Permille;
use orchestrion_world::worker::{Lease, Worker};

pub(crate) fn place(world: &mut World) {
    let Some(shared) = world.resource::<Core>().rules.clone() else { return };
    let batch_share = if planted!(world, BatchShareIgnored) { Permille(1000) } else { shared.placement.batch_share };
    let rules = PlacementRules { batch_share, ..shared.placement };
    #[cfg(feature = "planted")]
    crate::planted::keep_still(world);
    for model in std::mem::take(&mut world.resource_mut::<Mail>().stirred) {
        let (mut interactive, mut batch) = (0, 0);
        while let Some(id) = world.resource::<Queues>().head(model) {
            let Some(task) = world.task(id) else { break };
            let request = Request::of(task);
            let chosen = choose(rules, &request, room(world, model).map(|worker| candidate(world, worker)));
            if world.resource::<Watch>().task == Some(id) {
                log(world, &request, chosen);
            }
            match chosen {
                Some(worker) => {
                    lease(world, &shared, id, worker);
                    match request.spec.class {
                        Class::Interactive => interactive += 1,
                        Class::Batch => batch += 1,
                    }
                }
                None if fits_nowhere(world, model, &request) => {
                    fail(world, id, Failure::NoWorker);
                }
                None => break,
            }
        }
        watch_drain(world, model, Class::Interactive, interactive);
        watch_drain(world, model, Class::Batch, batch);
    }
}

/// The task at the head of a model's queue and the worker it could start on now, where there are both.
pub(crate) fn startable(world: &World, model: ModelId) -> Option<(TaskId, WorkerId)> {
    let rules = world.resource::<Core>().rules.as_ref()?.placement;
    let head = world.task(world.resource::<Queues>().head(model)?)?;
    let worker = choose(rules, &Request::of(head), room(world, model).map(|worker| candidate(world, worker)))?;
    Some((head.id, worker))
}

/// Keeps count of how fast a line drains, for those who find it full.
fn watch_drain(world: &mut World, id: ModelId, class: Class, left: u64) {
    let waiting = world.resource::<Queues>().len(id, class) > 0;
    let now = world.resource::<Core>().now;
    let Some(before) = world.model(id).map(|model| model.line(class).drain) else { return };
    let drain = estimate::drained(before, now, left, waiting);
    if drain != before
        && let Some(mut model) = world.model_mut(id)
    {
        model.line_mut(class).drain = drain;
    }
}

/// Workers of the model that have a free slot, by id.
fn room(world: &World, model: ModelId) -> impl Iterator<Item = &Worker> {
    let ids = world.resource::<FreeIndex>().by_model.get(&model);
    ids.into_iter().flatten().filter_map(|&id| world.worker(id))
}

fn candidate<'w>(world: &World, worker: &'w Worker) -> Candidate<'w> {
    let mut residual = world.device(worker.facts.device).map(|d| d.residual()).unwrap_or_default();
    residual.0 += worker.facts.kv_per_token.0 * u64::from(planted!(world, MemoryOffByOne));
    Candidate { worker, residual }
}

/// The longest context the worker could hold with all else gone from its device but weights.
pub(crate) fn effective_ctx(world: &World, worker: &Worker) -> u32 {
    let Some(device) = world.device(worker.facts.device) else { return 0 };
    let tokens = (device.capacity.0 - device.weights.0) / worker.facts.kv_per_token.0.max(1);
    worker.facts.ctx_max.min(u32::try_from(tokens).unwrap_or(u32::MAX))
}

/// Whether waiting is no use: workers are up, and none of them could ever take it.
fn fits_nowhere(world: &World, model: ModelId, request: &Request) -> bool {
    let mut ready = world.workers().into_iter().filter(|w| w.model == model && w.takes()).peekable();
    ready.peek().is_some()
        && ready.all(|w| {
            let other = request.fingerprint.is_some_and(|shown| shown != w.facts.fingerprint);
            other || u64::from(effective_ctx(world, w)) < request.tokens()
        })
}

fn lease(world: &mut World, rules: &Rules, id: TaskId, worker: WorkerId) {
    let Some(task) = world.task(id).cloned() else { return };
    let tokens = Request::of(&task).tokens();
    let Some(mut at) = world.worker_mut(worker) else { return };
    assert!(at.takes(), "audit `no lease on a worker that does not take tasks`: {id} on {worker}");
    let kv = at.kv_for(tokens);
    let lease = Lease { task: id, attempt: Attempt(task.attempts + 1), class: task.spec.class, kv, revoked: false };
    let place = at.leases.partition_point(|l| l.task < id);
    at.leases.insert(place, lease);
    let device = at.facts.device;
    if let Some(mut device) = world.device_mut(device) {
        device.reserved.0 += kv.0;
    }
    if !planted!(world, IndexStale) {
        world.index_worker(worker);
    }
    dequeue(world, &task, rules.weight(task.spec.tenant));
    world.resource_mut::<Mail>().placed.push((id, worker));
}

/// Re-executes the decision in full, for whoever asked why.
fn log(world: &mut World, request: &Request, chosen: Option<WorkerId>) {
    let Some(rules) = world.resource::<Core>().rules.clone() else { return };
    let candidates: Vec<Candidate<'_>> = world.workers().into_iter().map(|w| candidate(world, w)).collect();
    let now = world.resource::<Core>().now;
    let log = explain::explain(&rules, now, request, &candidates);
    assert!(log.chosen == chosen, "audit `choose = explain`: {chosen:?}, {log:?}");
    world.resource_mut::<Watch>().decisions.push(log);
}
