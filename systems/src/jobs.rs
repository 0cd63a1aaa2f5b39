//! Jobs: what operators ask of pools, step by step. Writes jobs and pools, and workers by way of health; ends no
//! task itself. A step waits for workers, and is looked at again only when one of them moved.
//!
//! After release, so that a task that ends in this step counts; before admission, so that what it closes is
//! closed for who comes now.

mod ends;
mod verify;

use crate::{health, release};
use bevy_ecs::prelude::ResMut;
pub(crate) use ends::outlive;
use ends::{close, expire, finish, forget};
use orchestrion_world::config::Rules;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{JobId, ModelId, PoolId, WorkerId};
use orchestrion_world::job::{Action, Job, JobFault, JobRefusal, JobState, Step, StepName, StepStatus};
use orchestrion_world::protocol::Notice;
use orchestrion_world::store::{Key, World};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::wheel::{Alarm, TimerKey};
use std::sync::Arc;

pub(crate) fn work_off(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let Some(rules) = world.core.rules.clone() else { return };
    let mail = &mut world.mail;
    let (asked, due) = (std::mem::take(&mut mail.operations), std::mem::take(&mut mail.jobs_due));
    for (id, pool, action) in asked {
        if let Err(refusal) = begin(world, &rules, id, pool, action) {
            world.mail.notice(Notice::JobRefused { job: id, refusal });
        }
    }
    verify::hear(world, &rules);
    for id in due {
        time_is_over(world, &rules, id);
    }
    while let Some(id) = world.mail.moved.pop() {
        moved(world, &rules, id);
    }
    release::settle_orphans(world);
}

fn begin(world: &mut World, rules: &Arc<Rules>, id: JobId, pool: PoolId, action: Action) -> Result<(), JobRefusal> {
    if world.job(id).is_some() {
        return Err(JobRefusal::DuplicateJob);
    }
    let (model, running) = world.pool(pool).map(|p| (p.model, p.job)).ok_or(JobRefusal::UnknownPool)?;
    if let Some(by) = running {
        // Who wants it open again takes back what closes it; a reload or a purge goes through.
        let drains = world.job(by).is_some_and(|job| matches!(job.action, Action::Drain { .. }));
        if !(drains && action == Action::Resume) {
            return Err(JobRefusal::Busy { by });
        }
        finish(world, rules, by, JobState::Cancelled);
    }
    let mut steps: Vec<Step> = action.steps().iter().map(|&name| Step::of(name)).collect();
    match action {
        Action::Reload { model: to, .. } if usize::from(to.0) >= rules.models.len() => {
            return Err(JobRefusal::UnknownModel);
        }
        // It has it: nothing is to be done.
        Action::Reload { model: to, .. } if to == model => steps = vec![],
        Action::Purge { drain: None, force: false } => {
            let crew = world.crews.of_pool(pool);
            let leases: usize = crew.filter_map(|id| world.worker(id)).map(|worker| worker.leases.len()).sum();
            if leases > 0 {
                return Err(JobRefusal::InUse { leases: leases as u32 });
            }
        }
        Action::Verify => steps = verify::steps(world, pool),
        Action::Drain { .. } | Action::Resume | Action::Reload { .. } | Action::Purge { .. } => {}
    }
    let now = world.core.now;
    let (state, waiting) = (JobState::Running, vec![]);
    let job = Job { id, pool, action, state, steps, waiting, begun: now, due: Tick(u64::MAX), model, fault: None };
    world.enlist(Key::Job(id), (job, Alarm::default()));
    if let Some(mut pool) = world.pool_mut(pool) {
        pool.job = Some(id);
    }
    next(world, rules, id);
    Ok(())
}

/// Ends the running step, if one is, and begins the next; after the last the job is done.
fn next(world: &mut World, rules: &Arc<Rules>, id: JobId) {
    verify::pass_over(world, id);
    let Some(mut job) = world.job_mut(id) else { return };
    if let Some(at) = job.current() {
        job.steps[at].status = StepStatus::Done;
    }
    let restored = job.steps.last().is_some_and(|s| (s.name, s.status) == (StepName::Restore, StepStatus::Done));
    let Some(at) = job.steps.iter().position(|step| step.status == StepStatus::Pending) else {
        let state = job.doubt().map_or(JobState::Done, JobState::Failed);
        return if restored { end_restored(world, rules, id) } else { finish(world, rules, id, state) };
    };
    job.steps[at].status = StepStatus::Running;
    let (pool, name, action, old) = (job.pool, job.steps[at].name, job.action, job.model);
    let (waiting, time) = match name {
        StepName::Drain => (drain(world, pool), action.deadline()),
        StepName::Stop => (stop(world, pool), Ticks(0)),
        StepName::Load => match action {
            Action::Reload { model, .. } => (load(world, rules, pool, model), rules.health.load_timeout),
            Action::Drain { .. } | Action::Resume | Action::Purge { .. } | Action::Verify => (vec![], Ticks(0)),
        },
        StepName::Open => (open(world, rules, pool), rules.health.load_timeout),
        StepName::Restore => (load(world, rules, pool, old), rules.health.load_timeout),
        // Whoever read them once to load them can read them once more in that time.
        StepName::Verify => (verify::ask(world, id), rules.health.load_timeout),
    };
    let due = world.core.now + Ticks(time.0.max(1));
    let empty = waiting.is_empty();
    if let Some(mut job) = world.job_mut(id) {
        (job.waiting, job.due) = (waiting, due);
    }
    world.set_alarm(Key::Job(id), (!empty).then_some((due, TimerKey::Job(id))));
    tell(world, id);
    if empty {
        next(world, rules, id);
    }
}

fn tell(world: &mut World, id: JobId) {
    if let Some(job) = world.job(id).cloned() {
        world.mail.notice(Notice::JobChanged { job: Box::new(job) });
    }
}

/// Nothing new comes to the pool; who still has tasks is waited for.
fn drain(world: &mut World, pool: PoolId) -> Vec<WorkerId> {
    close(world, pool, true);
    let crew = crew(world, pool);
    crew.iter().for_each(|&id| health::drain(world, id));
    crew.into_iter().filter(|&id| world.worker(id).is_some_and(|worker| !worker.leases.is_empty())).collect()
}

/// Its workers end at once; their memory is theirs no more from here on.
fn stop(world: &mut World, pool: PoolId) -> Vec<WorkerId> {
    close(world, pool, true);
    for id in crew(world, pool) {
        health::stop(world, id);
    }
    vec![]
}

fn load(world: &mut World, rules: &Rules, pool: PoolId, model: ModelId) -> Vec<WorkerId> {
    let forgotten = planted!(world, ReloadForgotten);
    if let Some(mut pool) = world.pool_mut(pool).filter(|_| !forgotten) {
        pool.model = model;
    }
    crew(world, pool).into_iter().filter(|&id| health::spawn(world, rules, id)).collect()
}

/// Whatever kept the pool from taking tasks is lifted; who is down begins anew.
fn open(world: &mut World, rules: &Rules, pool: PoolId) -> Vec<WorkerId> {
    close(world, pool, false);
    crew(world, pool).into_iter().filter(|&id| health::pardon(world, rules, id)).collect()
}

fn crew(world: &World, pool: PoolId) -> Vec<WorkerId> {
    world.crews.of_pool(pool).collect()
}

/// A worker came, went or let go of its last task.
fn moved(world: &mut World, rules: &Arc<Rules>, id: WorkerId) {
    let Some(worker) = world.worker(id) else { return };
    let (state, idle) = (worker.state, worker.leases.is_empty());
    let Some(by) = world.pool(worker.facts.pool).and_then(|pool| pool.job) else { return };
    let Some(job) = world.job(by) else { return };
    let Some((name, at)) = job.current().map(|at| job.steps[at].name).zip(job.waiting.binary_search(&id).ok()) else {
        return;
    };
    let there = match name {
        StepName::Drain => idle || !state.is_up(),
        StepName::Stop | StepName::Load | StepName::Open | StepName::Restore => state.is_up(),
        StepName::Verify => return verify::moved(world, rules, by),
    };
    if !there {
        let lost = matches!(state, WorkerState::Failed | WorkerState::Stopped) && name != StepName::Drain;
        if lost {
            fault(world, rules, by, JobFault::NotUp(id));
        }
        return;
    }
    let Some(mut job) = world.job_mut(by) else { return };
    job.waiting.remove(at);
    if job.waiting.is_empty() {
        next(world, rules, by);
    }
}

/// A running job's step took its time, or a job that is over was kept for its time.
fn time_is_over(world: &mut World, rules: &Arc<Rules>, id: JobId) {
    let now = world.core.now;
    // It may have ended in this step, before its bell was heard: by a boot, or by who wants the pool open again.
    let Some(job) = world.job(id).filter(|job| job.due <= now) else { return };
    let Some(name) = job.current().map(|at| job.steps[at].name) else { return forget(world, id) };
    let waiting = job.waiting.clone();
    match name {
        // They are told to drop what they have: before a first token it is tried elsewhere, else it ends.
        StepName::Drain if planted!(world, DrainNeverEnds) => {}
        StepName::Drain => expire(world, rules, &waiting),
        StepName::Stop | StepName::Load | StepName::Open | StepName::Restore | StepName::Verify => {
            fault(world, rules, id, JobFault::TimedOut);
        }
    }
}

/// A step failed. A reload goes back to the model that it had; the others end.
fn fault(world: &mut World, rules: &Arc<Rules>, id: JobId, why: JobFault) {
    let Some(mut job) = world.job_mut(id) else { return };
    let Some(at) = job.current() else { return };
    job.steps[at].status = StepStatus::Failed;
    job.waiting.clear();
    let (name, pool) = (job.steps[at].name, job.pool);
    if name != StepName::Load {
        return finish(world, rules, id, JobState::Failed(why));
    }
    job.steps.retain(|step| step.status != StepStatus::Pending);
    job.steps.push(Step::of(StepName::Restore));
    job.fault = Some(why);
    tell(world, id);
    stop(world, pool);
    next(world, rules, id);
}

/// The old model is back, and the pool takes tasks again.
fn end_restored(world: &mut World, rules: &Arc<Rules>, id: JobId) {
    let Some((pool, why)) = world.job(id).map(|job| (job.pool, job.fault)) else { return };
    open(world, rules, pool);
    finish(world, rules, id, JobState::Failed(why.unwrap_or(JobFault::TimedOut)));
}
