//! What a tenant may have: its rates, how much of it may wait and run, and its budget. Judged and reserved when
//! a task is admitted, settled when it ends. A task needs what its answer at its longest takes, and on its slot
//! the time until its deadline, or as long as it would run on the slowest worker with all slots in use.

use orchestrion_world::budget::{Amount, Left};
use orchestrion_world::config::Rules;
use orchestrion_world::protocol::{Outcome, Payer, Refusal, TaskSpec, TenantLimit};
use orchestrion_world::rate::{Bucket, Rate};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::Task;
use orchestrion_world::tenant::{Tenant, TenantRules};
use orchestrion_world::time::Ticks;

/// Brings tenants in line with new rules. A changed rate begins with a full bucket; who is not named any more and
/// has nothing here is forgotten, with what it spent.
pub(crate) fn renew(world: &mut World, before: Option<&Rules>, rules: &Rules) {
    let now = world.core.now;
    for named in &rules.tenants {
        let fresh = Tenant::new(named, now);
        let known = before.and_then(|rules| rules.tenant(fresh.id));
        let Some(mut tenant) = world.tenant_mut(fresh.id) else {
            world.enlist(Key::Tenant(fresh.id), fresh);
            continue;
        };
        tenant.account.set(&named.budget);
        if known.is_none_or(|known| known.tasks != named.tasks) {
            tenant.tasks = fresh.tasks;
        }
        if known.is_none_or(|known| known.tokens != named.tokens) {
            tenant.tokens = fresh.tokens;
        }
    }
    for id in world.tenants() {
        if rules.tenant(id).is_none() && world.tenant(id).is_some_and(|tenant| tenant.live == 0) {
            world.discharge(Key::Tenant(id));
        }
    }
}

/// What the task may use at most, where it would hold a slot for `time`.
pub(super) fn most(rules: &Rules, spec: &TaskSpec, time: Ticks) -> Amount {
    let price = rules.tenant(spec.tenant).map(|tenant| tenant.price).unwrap_or_default();
    Amount([spec.tokens(), time.0, price.of(spec.prompt_tokens, spec.max_tokens)])
}

pub(super) fn judge_budget(world: &World, spec: &TaskSpec, most: &Amount) -> Result<(), Refusal> {
    match world.tenant(spec.tenant).and_then(|tenant| tenant.account.lacks(most)) {
        Some((kind, left)) if !planted!(world, BudgetOverdrawn) => {
            Err(Refusal::BudgetExhausted { of: Payer::Tenant, kind, needed: most.0[kind as usize], left })
        }
        Some(_) | None => Ok(()),
    }
}

/// `next`: how long until a task of its kind leaves the line, where one has to.
pub(super) fn judge_limits(world: &World, rules: &Rules, spec: &TaskSpec, next: Ticks) -> Result<(), Refusal> {
    let (Some(named), Some(tenant)) = (rules.tenant(spec.tenant), world.tenant(spec.tenant)) else { return Ok(()) };
    let TenantRules { name: _, weight: _, tasks, tokens: rate, queued_max, live_max, budget: _, price: _ } = named;
    let refused = |limit, bound: u64, retry_after| Err(Refusal::TenantLimited { limit, bound, retry_after });
    let queued = world.queues.waiting(spec.tenant) as u64;
    if let Some(bound) = queued_max.map(u64::from).filter(|&bound| queued >= bound) {
        return refused(TenantLimit::Queued, bound, next);
    }
    if let Some(bound) = live_max.filter(|&bound| tenant.live >= bound) {
        return refused(TenantLimit::Live, bound.into(), next);
    }
    let now = world.core.now;
    let wait = |rate: &Option<Rate>, bucket: &Option<Bucket>, units| {
        let (rate, bucket) = (rate.as_ref()?, bucket.as_ref()?);
        Some((rate.amount, bucket.wait(rate, now, units))).filter(|(_, wait)| wait.0 > 0)
    };
    if let Some((amount, wait)) = wait(tasks, &tenant.tasks, 1) {
        return refused(TenantLimit::TaskRate, amount, wait);
    }
    match wait(rate, &tenant.tokens, spec.tokens()) {
        Some((amount, wait)) => refused(TenantLimit::TokenRate, amount, wait),
        None => Ok(()),
    }
}

/// Takes what an admitted task was judged by; what is left of the budget.
pub(super) fn charge(world: &mut World, rules: &Rules, task: &Task) -> Left {
    let now = world.core.now;
    let (Some(named), Some(mut tenant)) = (rules.tenant(task.spec.tenant), world.tenant_mut(task.spec.tenant)) else {
        return Left::default();
    };
    let Tenant { id: _, live, tasks, tokens: bucket, account } = &mut *tenant;
    *live += 1;
    account.reserve(&task.reserved);
    if let (Some(rate), Some(bucket)) = (&named.tasks, tasks) {
        bucket.take(rate, now, 1);
    }
    if let (Some(rate), Some(bucket)) = (&named.tokens, bucket) {
        bucket.take(rate, now, task.spec.tokens());
    }
    account.left()
}

/// What a task used that ends now: its prompt once it was given to a worker, the tokens it made, and the time it held
/// its last slot. That an attempt was lost is not its tenant's fault.
pub(crate) fn used(world: &World, task: &Task, outcome: &Outcome) -> Amount {
    let core = &world.core;
    let prompt = if task.attempts > 0 { task.spec.prompt_tokens } else { 0 };
    let (prompt, answer) = match *outcome {
        Outcome::Done(usage) => (usage.tokens_in, usage.tokens_out),
        Outcome::Cancelled { tokens_out, .. } | Outcome::Failed { tokens_out, .. } => (prompt, tokens_out),
    };
    let held = task.life.worker().map_or(0, |_| core.now.since(task.placed).0);
    let price = core.rules.as_ref().and_then(|rules| Some(rules.tenant(task.spec.tenant)?.price)).unwrap_or_default();
    Amount([u64::from(prompt) + u64::from(answer), held, price.of(prompt, answer)])
}

/// Takes what an ended task used of its tenant's budget, and gives back what was reserved.
pub(crate) fn settle(world: &mut World, task: &Task, used: &Amount) {
    if let Some(mut tenant) = world.tenant_mut(task.spec.tenant) {
        tenant.live = tenant.live.saturating_sub(1);
        tenant.account.settle(&task.reserved, used);
    }
}
