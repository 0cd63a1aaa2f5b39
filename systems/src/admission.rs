//! Admission: who may wait. Checks a submission against the model, its workers, its deadline and the
//! places of its queue, in this order; refuses with the figures compared, or queues it, and where the
//! policy says so ends a task that waits, to make the place.

mod overload;

use crate::estimate;
use crate::placement::effective_ctx;
use crate::release::end_task;
use bevy_ecs::prelude::World;
use orchestrion_world::config::{QueueRules, Rules};
use orchestrion_world::id::{TaskId, TenantId};
use orchestrion_world::ledger::Core;
use orchestrion_world::mail::Mail;
use orchestrion_world::protocol::{Class, Failure, Notice, Outcome, Refusal, TaskSpec};
use orchestrion_world::queues::Queues;
use orchestrion_world::store::{Key, Store};
use orchestrion_world::task::{Task, TaskTimers};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use orchestrion_world::wheel::{TimerKey, Wheel};
use orchestrion_world::worker::{Model, Worker};
use overload::{Waiting, Which};

/// A client told to come back sooner than this would find the same queue; later than the second, it
/// would have been better off asking.
const RETRY_AFTER_MIN: Ticks = Ticks(100);
const RETRY_AFTER_MAX: Ticks = Ticks(60_000);
/// Where a model has no worker: loading one takes seconds.
const RETRY_AFTER_UNREADY: Ticks = Ticks(1_000);
/// Retries that can be saved up, in thousandths, so that a calm week does not pay for a storm of them.
const RETRY_BUDGET_MAX: u64 = 100_000;

pub(crate) fn admit(world: &mut World) {
    let mut mail = world.resource_mut::<Mail>();
    let submits = std::mem::take(&mut mail.submits);
    let early_cancels = std::mem::take(&mut mail.early_cancels);
    for (id, mut spec) in submits {
        // Who is not named shares with all others who are not.
        let rules = world.resource::<Core>().rules.as_ref();
        if rules.is_none_or(|rules| rules.tenant(spec.tenant).is_none()) {
            spec.tenant = TenantId::DEFAULT;
        }
        match judge(world, id, &spec) {
            Ok(Place { predicted_start, of }) => {
                if let Some((victim, failure)) = of {
                    end_task(world, victim, Outcome::Failed { failure, tokens_out: 0 });
                }
                queue(world, id, spec, predicted_start);
            }
            Err(refusal) => world.resource_mut::<Mail>().notice(Notice::Refused { task: id, refusal }),
        }
        // A cancel may overtake its task on the way in; it was acknowledged, so it holds.
        if let Some((_, reason)) = early_cancels.iter().find(|(task, _)| *task == id) {
            end_task(world, id, Outcome::Cancelled { reason: *reason, tokens_out: 0 });
        }
    }
}

/// A place in the queue.
struct Place {
    predicted_start: Ticks,
    /// The task that gives it up.
    of: Option<(TaskId, Failure)>,
}

/// What the load of a model comes to.
struct Load {
    slots: Slots,
    batch_slots: Slots,
    ctx_max: u32,
    /// The shortest run of the task on any worker as it is now.
    shortest: Ticks,
    /// How long a task holds a slot.
    service: Ticks,
}

/// Slots of all workers that a class may have.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    all: u64,
    /// Those that the task could have now, memory included.
    free: u64,
}

fn judge(world: &World, id: TaskId, spec: &TaskSpec) -> Result<Place, Refusal> {
    let rules = world.resource::<Core>().rules.clone().ok_or(Refusal::UnknownModel)?;
    let model = world.model(spec.model).ok_or(Refusal::UnknownModel)?;
    if world.task(id).is_some() {
        return Err(Refusal::DuplicateTask);
    }
    let load = load(world, spec, model.service(spec.class), rules.placement.batch_share);
    if load.slots.all == 0 {
        return Err(Refusal::PoolUnready { retry_after: RETRY_AFTER_UNREADY });
    }
    let tokens = u64::from(spec.prompt_tokens) + u64::from(spec.max_tokens);
    if tokens > u64::from(load.ctx_max) {
        return Err(Refusal::ContextExceeded { tokens, ctx_max: load.ctx_max });
    }
    if let Some(deadline) = spec.deadline
        && deadline < load.shortest
    {
        return Err(Refusal::DeadlineInfeasible { deadline, needed: load.shortest });
    }
    let queues = world.resource::<Queues>();
    let unseen = usize::from(planted!(world, QueueBoundOffByOne));
    let count = |class| queues.len(spec.model, class).saturating_sub(unseen) as u64;
    let waiting = Waiting { interactive: count(Class::Interactive), batch: count(Class::Batch) };
    let ahead = waiting.ahead(spec.class);
    let Some(bound) = overload::full(&rules.queue, spec.class, waiting) else {
        return Ok(Place { predicted_start: load.wait(spec.class, ahead), of: None });
    };
    let retry_after = |class| {
        let ahead = waiting.ahead(class);
        let observed = drain(model, class, waiting);
        observed.unwrap_or_else(|| load.wait(class, ahead)).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    };
    let QueueRules { policy, .. } = rules.queue;
    let Some((victim, class)) = victim(world, &rules, spec, overload::gives_way(policy, spec.class)) else {
        let policy = overload::refuses_by(policy, spec.class);
        return Err(Refusal::QueueFull { policy, bound, retry_after: retry_after(spec.class) });
    };
    let predicted_start = load.wait(spec.class, if class == spec.class { ahead - 1 } else { ahead });
    let failure = Failure::Displaced { policy, by: id, retry_after: retry_after(class) };
    Ok(Place { predicted_start, of: Some((victim, failure)) })
}

/// When the line will have drained, at the rate that was observed: its own, which the other class and the
/// share of batch work have slowed already, or else that of the interactive work before it.
fn drain(model: &Model, class: Class, waiting: Waiting) -> Option<Ticks> {
    let own = match class {
        Class::Interactive => waiting.interactive,
        Class::Batch => waiting.batch,
    };
    let observed = estimate::drains_in(model.line(class).drain, own + 1);
    observed.or_else(|| estimate::drains_in(model.interactive.drain, waiting.ahead(class) + 1))
}

/// The first that gives way: of the tenant that would have most of the line for its weight. Who waits to be
/// tried again had a slot already and keeps its place; so one goes for one that comes, and the places suffice.
fn victim(world: &World, rules: &Rules, spec: &TaskSpec, ways: &[(Class, Which)]) -> Option<(TaskId, Class)> {
    let queues = world.resource::<Queues>();
    let fresh = |&(_, id): &(u64, TaskId)| world.task(id).is_some_and(|task| task.attempts == 0);
    ways.iter().find_map(|&(class, which)| {
        let mut tenants: Vec<_> = queues.tenants(spec.model, class).collect();
        tenants.sort_by_cached_key(|&(tenant, waiting)| {
            let waiting = waiting + usize::from(tenant == spec.tenant);
            let share = waiting as u64 * 1_000 / u64::from(rules.weight(tenant));
            let first = queues.tasks(spec.model, class, tenant).next().map(|(ordinal, _)| ordinal);
            (std::cmp::Reverse(share), first)
        });
        let mut lines = tenants.into_iter().map(|(tenant, _)| queues.tasks(spec.model, class, tenant));
        let found = lines.find_map(|mut line| match which {
            Which::WaitedLongest => line.find(fresh),
            Which::CameLast => line.rfind(fresh),
        });
        Some((found?.1, class))
    })
}

impl Load {
    /// How long a task of the class waits that has so many before it.
    fn wait(&self, class: Class, ahead: u64) -> Ticks {
        let slots = match class {
            Class::Interactive => self.slots,
            Class::Batch => self.batch_slots,
        };
        // Who waits could not start: what is free is not free for those behind.
        let free = if ahead == 0 { slots.free } else { 0 };
        estimate::wait(ahead, free, slots.all, self.service)
    }
}

fn load(world: &World, spec: &TaskSpec, learned: Option<Ticks>, batch_share: Permille) -> Load {
    let (slots, batch_slots) = (Slots::default(), Slots::default());
    let mut load = Load { slots, batch_slots, ctx_max: 0, shortest: Ticks(u64::MAX), service: Ticks(u64::MAX) };
    let ready = |w: &&Worker| w.model == spec.model && w.takes();
    for worker in world.workers().into_iter().filter(ready) {
        load.slots.all += u64::from(worker.offered());
        load.batch_slots.all += u64::from(worker.batch_slots(batch_share));
        if has_memory(world, worker, spec) {
            load.slots.free += u64::from(worker.room(Class::Interactive, batch_share));
            load.batch_slots.free += u64::from(worker.room(Class::Batch, batch_share));
        }
        load.ctx_max = load.ctx_max.max(effective_ctx(world, worker));
        // The first token is the least that a deadline must leave room for.
        let first_token = TaskSpec { max_tokens: 1, ..spec.clone() };
        load.shortest = load.shortest.min(estimate::run(&first_token, worker.prefill, worker.decode, 1));
        let guess = estimate::run(spec, worker.prefill, worker.decode, worker.facts.slots.into());
        load.service = load.service.min(guess);
    }
    load.service = learned.unwrap_or(load.service);
    load
}

fn has_memory(world: &World, worker: &Worker, spec: &TaskSpec) -> bool {
    let needed = worker.kv_for(u64::from(spec.prompt_tokens) + u64::from(spec.max_tokens));
    world.device(worker.facts.device).is_some_and(|device| needed <= device.residual())
}

fn queue(world: &mut World, id: TaskId, spec: TaskSpec, predicted_start: Ticks) {
    let backwards = planted!(world, LastInFirstOut);
    let mut core = world.resource_mut::<Core>();
    core.ordinals += 1;
    let (now, ordinal) = (core.now, if backwards { u64::MAX - core.ordinals } else { core.ordinals });
    let earned = core.rules.as_ref().map_or(0, |r| u64::from(r.retry.budget.0));
    core.retry_budget = (core.retry_budget + earned).min(RETRY_BUDGET_MAX.max(core.retry_budget));
    let mut queues = world.resource_mut::<Queues>();
    let position = queues.len(spec.model, spec.class) as u32;
    let task = Task::queued(id, ordinal, spec, now);
    queues.push(&task);
    let mut wheel = world.resource_mut::<Wheel>();
    let deadline = task.deadline.map(|due| wheel.arm(due, TimerKey::Deadline(id)));
    let timers = TaskTimers { deadline, ..TaskTimers::default() };
    let model = task.spec.model;
    world.enlist(Key::Task(id), (task, timers));
    let mut mail = world.resource_mut::<Mail>();
    mail.stirred.insert(model);
    mail.notice(Notice::Accepted { task: id, position, predicted_start });
}
