//! Admission: who may wait. Checks a submission against the model, its workers, its tenant's budget, its deadline,
//! its session, its tenant's limits, its queue's delay and places, in this order; refuses with the figures
//! compared, or queues it, and where the policy says so ends a task that waits, to make the place.

pub(crate) mod delay;
mod forecast;
pub(crate) mod overload;
pub(crate) mod tenants;

use crate::placement::{bound, could_start, roomiest};
use crate::release::end_task;
use crate::{estimate, eviction, sessions};
use bevy_ecs::prelude::ResMut;
use forecast::{Forecast, forecast};
use orchestrion_world::budget::Amount;
use orchestrion_world::config::{QueueRules, Rules};
use orchestrion_world::field::{self, Standing};
use orchestrion_world::id::{ModelId, PoolId, TaskId, TenantId};
use orchestrion_world::placement::Placement;
use orchestrion_world::protocol::{Class, Failure, Notice, Outcome, Refusal, TaskSpec};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::{Task, TaskTimers};
use orchestrion_world::time::Ticks;
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::Model;
use overload::{Waiting, Which};

/// A client told to come back sooner than this would find the same queue; later than the second, it
/// would have been better off asking.
const RETRY_AFTER_MIN: Ticks = Ticks(100);
const RETRY_AFTER_MAX: Ticks = Ticks(60_000);
/// Where a model has no worker: loading one takes seconds.
const RETRY_AFTER_UNREADY: Ticks = Ticks(1_000);
/// Retries that can be saved up, in thousandths, so that a calm week does not pay for a storm of them.
const RETRY_BUDGET_MAX: u64 = 100_000;

pub(crate) fn admit(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let mail = &mut world.mail;
    let mut submits = std::mem::take(&mut mail.submits);
    let early_cancels = std::mem::take(&mut mail.early_cancels);
    if !submits.is_empty() {
        field::refresh(world);
    }
    for (id, mut spec) in submits.drain(..) {
        // Who is not named shares with all others who are not.
        let rules = world.core.rules.as_ref();
        if rules.is_none_or(|rules| rules.tenant(spec.tenant).is_none()) {
            spec.tenant = TenantId::DEFAULT;
        }
        match judge(world, id, &spec) {
            Ok(Place { predicted_start, most, of }) => {
                if let Some((victim, failure)) = of {
                    end_task(world, victim, Outcome::Failed { failure, tokens_out: 0 });
                }
                queue(world, id, spec, most, predicted_start);
            }
            Err(refusal) => world.mail.notice(Notice::Refused { task: id, refusal }),
        }
        // A cancel may overtake its task on the way in; it was acknowledged, so it holds.
        if let Some((_, reason)) = early_cancels.iter().find(|(task, _)| *task == id) {
            end_task(world, id, Outcome::Cancelled { reason: *reason, tokens_out: 0 });
        }
    }
    world.mail.submits = submits;
}

/// A place in the queue.
struct Place {
    predicted_start: Ticks,
    /// What the task may use, as far as anybody counts.
    most: Amount,
    /// The task that gives it up.
    of: Option<(TaskId, Failure)>,
}

/// What the load of a model comes to.
struct Load {
    slots: Slots,
    batch_slots: Slots,
    /// Until some worker has loaded the model, where none serves it.
    loaded_in: Ticks,
    /// The shortest run of the task on any worker as it is now.
    shortest: Ticks,
    /// The longest: on the slowest worker, shared with as many as fit.
    longest: Ticks,
    /// How long a task holds a slot.
    service: Ticks,
    /// From a slot that is free to the step that reads the first of the prompt.
    taken_up: Ticks,
}

/// Slots of all workers that a class may have.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    all: u64,
    /// One, where the task could start now, memory included.
    free: u64,
}

fn judge(world: &World, id: TaskId, spec: &TaskSpec) -> Result<Place, Refusal> {
    let rules = world.core.rules.clone().ok_or(Refusal::UnknownModel)?;
    let model = world.model(spec.model).ok_or(Refusal::UnknownModel)?;
    if world.task(id).is_some() {
        return Err(Refusal::DuplicateTask);
    }
    let load = load(world, &rules, spec, model);
    if model.stranded.is_some() {
        let mut pools = (0..rules.pools.len()).filter_map(|n| world.pool(PoolId(n as u16)));
        let closed = pools.any(|pool| pool.model == spec.model && pool.closed);
        let retry_after = RETRY_AFTER_UNREADY;
        return Err(if closed { Refusal::PoolClosed { retry_after } } else { Refusal::PoolUnready { retry_after } });
    }
    let tokens = spec.tokens();
    if let Some(placement) = &spec.placement {
        judge_placement(world, &rules, spec.model, placement, tokens)?;
    }
    if tokens > u64::from(model.reach) {
        return Err(Refusal::ContextExceeded { tokens, ctx_max: model.reach });
    }
    let counted = spec.session.is_some() || world.tenant(spec.tenant).is_some();
    let time = spec.deadline.map_or(load.longest, |deadline| deadline.min(load.longest));
    let most = if counted { tenants::most(&rules, spec, time) } else { Amount::default() };
    tenants::judge_budget(world, spec, &most)?;
    let queues = &world.queues;
    let unseen = usize::from(planted!(world, QueueBoundOffByOne));
    let count = |class| queues.len(spec.model, class).saturating_sub(unseen) as u64;
    let waiting = Waiting { interactive: count(Class::Interactive), batch: count(Class::Batch) };
    let position = forecast::position(queues, &rules, spec);
    let forecast = forecast(model, &load, spec.class, waiting, position);
    let start = forecast.start;
    judge_deadline(spec, load.shortest, forecast)?;
    if let Some(session) = spec.session {
        sessions::judge(world, &rules, session, &most)?;
    }
    let next = load.wait(spec.class, 0).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
    tenants::judge_limits(world, &rules, spec, next)?;
    if let Some(target) = delay::held(&rules.queue, model, spec.class).filter(|target| start > *target) {
        let retry_after = forecast.shorter_by(Ticks(start.0 - target.0));
        return Err(Refusal::QueueDelayed { expected: start, target, retry_after });
    }
    let Some(bound) = overload::full(&rules.queue, spec.class, waiting) else {
        return Ok(Place { predicted_start: load.started(start), most, of: None });
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
    let position = if class == spec.class { position.saturating_sub(1) } else { position };
    let predicted_start = load.started(forecast::forecast(model, &load, spec.class, waiting, position).start);
    let failure = Failure::Displaced { policy, by: id, retry_after: retry_after(class) };
    Ok(Place { predicted_start, most, of: Some((victim, failure)) })
}

/// Whether a worker that the placement allows is up, and has the context.
fn judge_placement(
    world: &World,
    rules: &Rules,
    model: ModelId,
    placement: &Placement,
    tokens: u64,
) -> Result<(), Refusal> {
    let mut longest = None;
    for (worker, facts) in bound::hosts(world, rules, model, placement) {
        longest = longest.max(eviction::effective_ctx(world, worker, &facts));
        if longest.is_some_and(|ctx| u64::from(ctx) >= tokens) {
            return Ok(());
        }
    }
    Err(match longest {
        Some(ctx_max) => Refusal::ContextExceeded { tokens, ctx_max },
        None => Refusal::NowhereAllowed { retry_after: RETRY_AFTER_UNREADY },
    })
}

/// Whether there is time for a first token, if the task starts as soon as it could.
fn judge_deadline(spec: &TaskSpec, shortest: Ticks, forecast: Forecast) -> Result<(), Refusal> {
    let needed = Ticks(shortest.0.saturating_add(forecast.soonest.0));
    let Some(deadline) = spec.deadline.filter(|deadline| *deadline < needed) else { return Ok(()) };
    // Where only the queue is in the way, there is time once it is shorter.
    let retry_after = (deadline >= shortest).then(|| forecast.shorter_by(Ticks(needed.0 - deadline.0)));
    Err(Refusal::DeadlineInfeasible { deadline, needed, retry_after })
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
    let queues = &world.queues;
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
    /// When a task that gets its slot then is taken up.
    fn started(&self, slot: Ticks) -> Ticks {
        Ticks(slot.0.saturating_add(self.taken_up.0))
    }

    /// How long a task of the class waits that has so many before it.
    fn wait(&self, class: Class, ahead: u64) -> Ticks {
        let slots = match class {
            Class::Interactive => self.slots,
            Class::Batch => self.batch_slots,
        };
        // Who waits could not start: what is free is not free for those behind.
        let free = if ahead == 0 { slots.free } else { 0 };
        Ticks(estimate::wait(ahead, free, slots.all, self.service).0.saturating_add(self.loaded_in.0))
    }
}

fn load(world: &World, rules: &Rules, spec: &TaskSpec, model: &Model) -> Load {
    let standing = world.field.model(spec.model).filter(|standing| standing.slots.all > 0);
    let mut load = match standing {
        Some(standing) => served(world, rules, standing, spec),
        None => unserved(world, rules, spec),
    };
    load.service = model.service(spec.class).unwrap_or(load.service);
    load
}

/// Of a model that some workers serve: what is said of them all holds for the best of each.
fn served(world: &World, rules: &Rules, standing: &Standing, spec: &TaskSpec) -> Load {
    let roomiest = match &spec.placement {
        None => roomiest(spec, &standing.tree),
        Some(_) => could_start(world, rules, spec),
    };
    let (roomiest, free) = (roomiest.and_then(|id| world.worker(id)), u64::from(roomiest.is_some()));
    let best = standing.speeds.root();
    let run = |answer, sharers| {
        estimate::run_at((spec.prompt_tokens, answer), best.fastest_prefill, best.fastest_decode, sharers)
    };
    let whole = (spec.prompt_tokens, spec.max_tokens);
    Load {
        slots: Slots { all: standing.slots.all, free },
        batch_slots: Slots { all: standing.slots.batch, free },
        loaded_in: Ticks(0),
        // The least that a deadline must leave room for is a first token.
        shortest: run(1, 1),
        longest: estimate::run_at(whole, best.slowest_prefill, best.slowest_decode, best.most_slots.into()),
        service: run(spec.max_tokens, best.fewest_slots.into()),
        taken_up: roomiest.map_or(Ticks(0), |worker| forecast::taken_up(world, worker, spec.model)),
    }
}

/// Of a model that nobody serves, over those who could load it.
fn unserved(world: &World, rules: &Rules, spec: &TaskSpec) -> Load {
    let never = Ticks(u64::MAX);
    let (mut loaded_in, mut shortest, mut longest, mut service) = ((never, 0), never, Ticks(0), never);
    let hosts = eviction::hosts(world, rules, spec.model);
    for (worker, facts) in hosts.filter(|(worker, facts)| eviction::effective_ctx(world, worker, facts).is_some()) {
        let takes = worker.facts.loader.as_ref().map_or(Ticks(0), |loader| loader.load_time(facts.weights));
        loaded_in = loaded_in.min((takes, worker.facts.slots));
        let run = estimate::run_at((spec.prompt_tokens, 1), facts.prefill, facts.decode, 1);
        shortest = shortest.min(Ticks(takes.0.saturating_add(run.0)));
        let guess = estimate::run(spec, &facts, worker.facts.slots.into());
        (longest, service) = (longest.max(guess), service.min(guess));
    }
    // All its slots are free when the model is there.
    let (loaded_in, slots) = loaded_in;
    let slots = Slots { all: slots.into(), free: slots.into() };
    Load { slots, batch_slots: slots, loaded_in, shortest, longest, service, taken_up: Ticks(0) }
}

fn queue(world: &mut World, id: TaskId, spec: TaskSpec, reserved: Amount, predicted_start: Ticks) {
    let backwards = planted!(world, LastInFirstOut);
    let core = &mut world.core;
    core.ordinals += 1;
    let (now, ordinal) = (core.now, if backwards { u64::MAX - core.ordinals } else { core.ordinals });
    let Some(rules) = core.rules.clone() else { return };
    let earned = u64::from(rules.retry.budget.0);
    core.retry_budget = (core.retry_budget + earned).min(RETRY_BUDGET_MAX.max(core.retry_budget));
    let queues = &mut world.queues;
    let position = u32::try_from(forecast::position(queues, &rules, &spec)).unwrap_or(u32::MAX);
    let task = Task { reserved, ..Task::queued(id, ordinal, spec, now) };
    queues.push(&task);
    let wheel = &mut world.wheel;
    let deadline = task.deadline.map(|due| wheel.arm(due, TimerKey::Deadline(id)));
    let timers = TaskTimers { deadline, ..TaskTimers::default() };
    let mut left = tenants::charge(world, &rules, &task);
    if let Some(session) = task.spec.session {
        left = left.least(sessions::begin_turn(world, &rules, session, &task));
    }
    let model = task.spec.model;
    world.enlist(Key::Task(id), (task, timers));
    let mail = &mut world.mail;
    mail.stirred.insert(model);
    mail.notice(Notice::Accepted { task: id, position, predicted_start, left });
}
