//! How jobs and their steps end: a pool that is closed or opened, tasks whose time is over, a job that is over
//! and one that is forgotten.

use super::tell;
use crate::health;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{JobId, PoolId, WorkerId};
use orchestrion_world::job::JobState;
use orchestrion_world::store::{Key, World};
use orchestrion_world::wheel::TimerKey;

/// Whether workers that come up in the pool take tasks. Opening forgives its restarts as well.
pub(super) fn close(world: &mut World, id: PoolId, closed: bool) {
    let Some(mut pool) = world.pool_mut(id) else { return };
    pool.closed = closed;
    if !closed {
        (pool.restarts, pool.halted) = (vec![], false);
    }
}

/// Workers that did not get rid of their tasks in time drop them.
pub(super) fn expire(world: &mut World, rules: &Rules, workers: &[WorkerId]) {
    workers.iter().for_each(|&id| health::reset(world, rules, id));
}

/// The job is over, and kept for a while; too many that are over push out the oldest.
pub(super) fn finish(world: &mut World, rules: &Rules, id: JobId, state: JobState) {
    let kept_until = world.core.now + rules.jobs.keep;
    let Some(mut job) = world.job_mut(id) else { return };
    (job.state, job.due) = (state, kept_until);
    job.waiting.clear();
    let pool = job.pool;
    world.set_alarm(Key::Job(id), Some((kept_until, TimerKey::Job(id))));
    if let Some(mut pool) = world.pool_mut(pool) {
        pool.job = None;
    }
    tell(world, id);
    world.finished.0.insert((kept_until, id));
    // Several, where the rules allow fewer than before.
    while world.finished.0.len() > rules.jobs.kept_max as usize
        && let Some(&(_, oldest)) = world.finished.0.first()
    {
        forget(world, oldest);
    }
}

pub(super) fn forget(world: &mut World, id: JobId) {
    let Some(due) = world.job(id).map(|job| job.due) else { return };
    world.finished.0.remove(&(due, id));
    world.set_alarm(Key::Job(id), None);
    world.discharge(Key::Job(id));
}

/// A process began: a job of the last one that ran is over, and whoever follows jobs hears of all of them.
pub(crate) fn outlive(world: &mut World, rules: &Rules, id: JobId) {
    match world.job(id).map(|job| job.state) {
        Some(JobState::Running) => finish(world, rules, id, JobState::Cancelled),
        Some(_) => tell(world, id),
        None => {}
    }
}
