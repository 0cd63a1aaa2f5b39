//! Placement: which worker runs the task at the head of each stirred queue. Gathers candidates, asks the
//! pure [`choose`], and takes the lease; dispatch sends the order.
//!
//! The head of a line that no worker has room for now blocks its line: nothing younger may pass it, unless the
//! head waits for certain workers only ([`overtake`]).

pub(crate) mod bound;
mod choose;
pub mod explain;
pub mod flip;
mod load;
mod overtake;
mod preempt;
mod rank;

use crate::admission::delay;
use crate::release::fail;
use crate::{Watch, estimate, eviction, memory, prefixes};
use bevy_ecs::prelude::ResMut;
pub(crate) use choose::roomiest;
use choose::{Candidate, Request, choose};
use explain::Asked;
use load::Weighs;
use orchestrion_world::config::{Keep, PlacementRules, Rules};
use orchestrion_world::field::{self};
use orchestrion_world::id::{Attempt, ModelId, TaskId, WorkerId};
use orchestrion_world::protocol::{Class, Failure, ModelFacts, TaskSpec};
use orchestrion_world::queues::dequeue;
use orchestrion_world::store::World;
use orchestrion_world::task::Task;
use orchestrion_world::units::Bytes;
use orchestrion_world::worker::{Lease, Worker};

pub(crate) fn place(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let Some(shared) = world.core.rules.clone() else { return };
    #[cfg(feature = "planted")]
    crate::planted::keep_still(world);
    let (stirred, cleared) = (std::mem::take(&mut world.mail.stirred), std::mem::take(&mut world.mail.cleared));
    // Who made way for another would else be back before that one came.
    let others = stirred.iter().filter(|model| !cleared.contains(model));
    for model in cleared.iter().chain(others).copied() {
        let (mut interactive, mut batch) = (0, 0);
        let mut left = |class| match class {
            Class::Interactive => interactive += 1,
            Class::Batch => batch += 1,
        };
        while let Some(id) = world.queues.head(model) {
            let Some(request) = request(world, id) else { break };
            match settle(world, &shared, &request) {
                Settled::Placed => left(request.spec.class),
                Settled::Failed => {}
                Settled::Waits => {
                    let weighs = load::weighs(world, &shared, model);
                    blocked(world, &shared, &request, weighs);
                    if let Some(claim) = overtake::claim(&request) {
                        overtake::overtake(world, &shared, model, claim, weighs, left);
                    }
                    break;
                }
            }
        }
        for (class, left) in [(Class::Interactive, interactive), (Class::Batch, batch)] {
            watch_drain(world, model, class, left);
            delay::watch(world, &shared, model, class);
        }
    }
    let hopeful = std::mem::take(&mut world.mail.hopeful);
    // Something came, went or moved: there may be room now that there was not.
    for row in shared.loadable.iter().filter(|row| row.keep == Keep::Warm && !hopeful.is_empty()) {
        if let Some(model) = row.id(&shared) {
            load::keep_warm(world, &shared, model, row.keep);
        }
    }
    eviction::relieve(world, &shared);
}

/// What became of a task that was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    Placed,
    Failed,
    Waits,
}

fn request(world: &World, id: TaskId) -> Option<Request> {
    let mut request = Request::of(world.task(id)?);
    request.home = request.spec.session.and_then(|session| world.session(session)?.worker);
    if !request.spec.prefix.is_empty() {
        request.known = prefixes::known(world, &request.spec);
    }
    Some(request)
}

/// Places a task, or ends it where it would wait in vain.
fn settle(world: &mut World, rules: &Rules, request: &Request) -> Settled {
    field::refresh(world);
    let (id, chosen) = (request.task, find(world, rules.placement, request));
    if world.entities.resource::<Watch>().task == Some(id) {
        log(world, request, chosen);
    }
    match chosen {
        Some(worker) => {
            lease(world, rules, id, worker);
            Settled::Placed
        }
        None if fits_nowhere(world, rules, request) => {
            fail(world, id, Failure::NoWorker);
            Settled::Failed
        }
        None => Settled::Waits,
    }
}

/// Sees to room for a task that waits. How many gave way to it, and wait themselves.
fn blocked(world: &mut World, rules: &Rules, request: &Request, weighs: Weighs) -> usize {
    let gave_way = preempt::make_room(world, rules, request);
    if weighs == Weighs::Now {
        load::provide(world, rules, request);
    }
    gave_way
}

/// A task of a model that waits and a worker it could start on now, where there are both among those that are
/// asked. For audits: it asks every worker, whatever the field says.
pub(crate) fn startable(world: &World, model: ModelId) -> Option<(TaskId, WorkerId)> {
    let rules = world.core.rules.as_ref()?;
    let mut claims = vec![];
    for id in overtake::line(world, model) {
        let request = Request { claims, ..request(world, id)? };
        let takes =
            |worker: &&Worker| choose::filter(rules.placement, &request, &candidate(world, worker, model)).is_none();
        if let Some(worker) = world.workers().into_iter().find(takes) {
            return Some((id, worker.id));
        }
        let claim = overtake::claim(&request);
        claims = request.claims;
        claims.push(claim?);
    }
    None
}

/// Where a task that its client wants somewhere could start now, nobody waiting before it.
pub(crate) fn could_start(world: &World, rules: &Rules, spec: &TaskSpec) -> Option<WorkerId> {
    let newcomer = Task::queued(TaskId(u128::MAX), u64::MAX, spec.clone(), world.core.now);
    find(world, rules.placement, &Request::of(&newcomer))
}

/// Keeps count of how fast a line drains, for those who find it full.
fn watch_drain(world: &mut World, id: ModelId, class: Class, left: u64) {
    let waiting = world.queues.len(id, class) > 0;
    let now = world.core.now;
    let Some(before) = world.model(id).map(|model| model.line(class).drain) else { return };
    let drain = estimate::drained(before, now, left, waiting);
    if drain != before
        && let Some(mut model) = world.model_mut(id)
    {
        model.line_mut(class).drain = drain;
    }
}

/// The best worker for the task, in the field as it was last refreshed.
fn find(world: &World, rules: PlacementRules, request: &Request) -> Option<WorkerId> {
    let standing = world.field.model(request.spec.model)?;
    let takes =
        |worker: &Worker| choose::filter(rules, request, &candidate(world, worker, request.spec.model)).is_none();
    let takes = |id| world.worker(id).is_some_and(takes);
    let best = match &request.spec.placement {
        None => choose(rules, request, &standing.tree, takes),
        Some(placement) => bound::choose(rules, request, placement, &standing.tree, takes),
    };
    if request.home.is_none() && request.known.is_empty() {
        return best;
    }
    bound::at_home(rules, request, best?, |id| Some(candidate(world, world.worker(id)?, request.spec.model)))
}

fn candidate<'w>(world: &World, worker: &'w Worker, model: ModelId) -> Candidate<'w> {
    Candidate { worker, serving: worker.serving(model), residual: field::residual(world, worker) }
}

/// Whether waiting is no use: workers are up, and none of them could ever take it, nor is one that its placement
/// allows about to come back.
fn fits_nowhere(world: &World, rules: &Rules, request: &Request) -> bool {
    let model = request.spec.model;
    let Some(known) = world.model(model).filter(|m| m.stranded.is_none()) else { return false };
    let fits = |(worker, facts): (&Worker, ModelFacts)| {
        let ctx = eviction::effective_ctx(world, worker, &facts);
        // What was shown to a reader can go on only where the same tokens come.
        request.fingerprint.is_none_or(|shown| shown == facts.fingerprint)
            && ctx.is_some_and(|ctx| u64::from(ctx) >= request.tokens())
    };
    match &request.spec.placement {
        Some(placement) => {
            let mut hosts = bound::hosts(world, rules, model, placement);
            !hosts.any(fits) && !bound::comes_back(world, rules, model, placement)
        }
        None if request.fingerprint.is_some() => !eviction::hosts(world, rules, model).any(fits),
        None => u64::from(known.reach) < request.tokens(),
    }
}

fn lease(world: &mut World, rules: &Rules, id: TaskId, worker: WorkerId) {
    let Some(task) = world.task(id).cloned() else { return };
    let (tokens, model, class) = (task.spec.tokens(), task.spec.model, task.spec.class);
    let class = if planted!(world, BatchLeaseMisfiled) { Class::Interactive } else { class };
    let short = u64::from(planted!(world, MemoryOffByOne));
    let now = world.core.now;
    let Some(mut at) = world.worker_mut(worker) else { return };
    assert!(at.takes(), "audit `no lease on a worker that does not take tasks`: {id} on {worker}");
    let Some(kv) = at.resident(model).map(|resident| resident.facts.kv_for(tokens)) else { return };
    let (attempt, unread) = (Attempt::of(task.ordinal, task.attempts + 1), task.spec.prompt_tokens);
    let lease = Lease { task: id, attempt, model, class, kv, unread, revoked: false, called_back: false };
    let place = at.leases.partition_point(|l| l.task < id);
    at.leases.insert(place, lease);
    at.reading = estimate::read(at.reading, now, 0, at.unread() > 0);
    memory::reserve(world, worker, Bytes(kv.0 - short.min(kv.0)));
    eviction::came(world, worker, model);
    dequeue(world, &task, rules.weight(task.spec.tenant));
    world.mail.placed.push((id, worker));
}

/// Tells whoever asked about the task what its last decision asked for.
fn note(world: &mut World, task: TaskId, asked: impl FnOnce() -> Asked) {
    let mut watch = world.entities.resource_mut::<Watch>();
    if watch.task == Some(task)
        && let Some(decision) = watch.decisions.last_mut()
    {
        decision.asked.push(asked());
    }
}

/// It is time to weigh again whether the model is to be loaded somewhere.
pub(crate) fn weigh_again(world: &mut World, id: ModelId) {
    let Some(mut model) = world.model_mut(id) else { return };
    model.weigh_at = None;
    world.mail.stirred.insert(id);
}

/// Re-executes the decision in full, for whoever asked why.
fn log(world: &mut World, request: &Request, chosen: Option<WorkerId>) {
    let Some(rules) = world.core.rules.clone() else { return };
    let candidates: Vec<Candidate<'_>> =
        world.workers().into_iter().map(|w| candidate(world, w, request.spec.model)).collect();
    let now = world.core.now;
    let log = explain::explain(&rules, now, request, &candidates);
    assert!(log.chosen == chosen, "audit `choose = explain`: {chosen:?}, {log:?}");
    world.entities.resource_mut::<Watch>().decisions.push(log);
}
