//! Preemption: interactive work that no worker has room for calls slots back from batch work.
//!
//! As many slots are on their way as interactive tasks wait, never more. Which task gives way is read from an
//! index: who loses least. It goes back to its place in its line; the slot is the line's when the worker lets
//! go of it, which is a step of its engine, and interactive work is served first.

use super::bound;
use super::choose::{Candidate, Request, filter};
use super::explain::Asked;
use super::note;

use crate::release::put_back;
use orchestrion_world::config::{PlacementRules, Rules};
use orchestrion_world::field::residual;
use orchestrion_world::id::{ModelId, TaskId};
use orchestrion_world::placement::Placement;
use orchestrion_world::protocol::Class;
use orchestrion_world::store::World;
use orchestrion_world::units::Bytes;

/// Victims that are looked at for one slot: those after it may suit, and are not worth a longer step.
const LOOKED_AT: usize = 64;

/// Calls slots back for the head of a model's line, and for those behind it as if they were like it. One that
/// waits for certain workers is like nobody: it has one slot there at a time. How many were called back.
pub(super) fn make_room(world: &mut World, whole: &Rules, request: &Request) -> usize {
    if request.spec.class != Class::Interactive {
        return 0;
    }
    let (model, rules) = (request.spec.model, whole.placement);
    let waiting = world.queues.len(model, Class::Interactive);
    if let Some(placement) = &request.spec.placement {
        let coming = world.victims.called_back(model) as usize;
        if coming < waiting
            && (coming == 0 || !comes_free(world, whole, model, placement))
            && let Some(victim) = victim(world, rules, model, request)
        {
            call_back(world, victim, request);
            return 1;
        }
        return 0;
    }
    let mut called_back = 0;
    while (world.victims.called_back(model) as usize) < waiting
        && let Some(victim) = victim(world, rules, model, request)
    {
        call_back(world, victim, request);
        called_back += 1;
    }
    called_back
}

fn call_back(world: &mut World, victim: TaskId, request: &Request) {
    if let Some(worker) = world.task(victim).and_then(|task| task.life.worker()) {
        note(world, request.task, || Asked::CallBack { worker });
    }
    put_back(world, victim, request.task);
}

/// Whether a slot was called back and is not free yet on a worker that the placement allows.
fn comes_free(world: &World, rules: &Rules, model: ModelId, placement: &Placement) -> bool {
    bound::allowed(world, rules, model, placement)
        .any(|worker| worker.leases.iter().any(|lease| lease.called_back && lease.model == model))
}

/// The one that loses least among those whose slot the task could have.
fn victim(world: &World, rules: PlacementRules, model: ModelId, request: &Request) -> Option<TaskId> {
    let suits = |id: &TaskId| {
        let Some(worker) = world.task(*id).and_then(|task| world.worker(task.life.worker()?)) else { return false };
        let mut without = worker.clone();
        let lease = without.leases.iter().position(|l| l.task == *id).map(|at| without.leases.remove(at));
        let freed = lease.map_or(0, |lease| lease.kv.0);
        let residual = Bytes(residual(world, worker).0.saturating_add(freed));
        filter(rules, request, &Candidate { worker: &without, serving: without.serving(model), residual }).is_none()
    };
    world.victims.of(model).take(LOOKED_AT).find(suits)
}
