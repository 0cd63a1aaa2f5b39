//! A verification: one model of one worker after another, so that a pool is never slowed everywhere at once. The
//! worker that serves from the weights looks at them and goes on serving. Writes jobs and orders; what is done about
//! weights that are corrupt is health's, whoever finds them.

use super::next;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{JobId, PoolId, WorkerId};
use orchestrion_world::job::{Check, Finding, Step, StepName, StepStatus};
use orchestrion_world::protocol::Order;
use orchestrion_world::store::World;
use orchestrion_world::vram::Residence;
use orchestrion_world::worker::Worker;
use std::sync::Arc;

/// A step for everything that the pool's workers serve from.
pub(super) fn steps(world: &World, pool: PoolId) -> Vec<Step> {
    let up = world.crews.of_pool(pool).filter_map(|id| world.worker(id)).filter(|worker| worker.state.is_up());
    up.flat_map(checks).map(|check| Step { check: Some(check), ..Step::of(StepName::Verify) }).collect()
}

fn checks(worker: &Worker) -> impl Iterator<Item = Check> + '_ {
    let stand = worker.residents.iter().filter(|resident| stands(resident.life));
    stand.map(|resident| Check {
        worker: worker.id,
        epoch: worker.epoch,
        model: resident.model,
        digest: resident.facts.digest,
        bytes: resident.facts.weights,
        found: None,
    })
}

fn stands(life: Residence) -> bool {
    match life {
        Residence::Sealed | Residence::Yielding { .. } => true,
        Residence::Staging | Residence::Evicting { .. } | Residence::Condemned | Residence::Failed { .. } => false,
    }
}

/// Whether the worker lives the life that it was asked in.
fn lives(world: &World, check: &Check) -> bool {
    world.worker(check.worker).is_some_and(|worker| worker.state.is_up() && worker.epoch == check.epoch)
}

/// Of the steps to come, those have nothing to look at whose weights have gone, alone or with their worker.
pub(super) fn pass_over(world: &mut World, id: JobId) {
    let Some(job) = world.job(id) else { return };
    let pending = job.steps.iter().enumerate().filter(|(_, step)| step.status == StepStatus::Pending);
    let found = |check: &Check| {
        let resident = world.worker(check.worker).and_then(|worker| worker.resident(check.model));
        match resident {
            _ if !lives(world, check) => Some(Finding::Lost),
            Some(resident) if stands(resident.life) => None,
            Some(_) | None => Some(Finding::Gone),
        }
    };
    let over = pending.filter_map(|(at, step)| Some((at, step.check.as_ref().and_then(found)?)));
    let over: Vec<(usize, Finding)> = over.collect();
    let Some(mut job) = world.job_mut(id).filter(|_| !over.is_empty()) else { return };
    for (at, found) in over {
        set(&mut job.steps[at], found);
    }
}

fn set(step: &mut Step, found: Finding) {
    step.status = match found {
        Finding::Sound { .. } | Finding::Gone => StepStatus::Done,
        Finding::Corrupt | Finding::Lost => StepStatus::Failed,
    };
    if let Some(check) = &mut step.check {
        check.found = Some(found);
    }
}

/// Has the worker of the running step look.
pub(super) fn ask(world: &mut World, id: JobId) -> Vec<WorkerId> {
    let Some(Check { worker, epoch, model, .. }) = world.job(id).and_then(|job| job.checking().copied()) else {
        return vec![];
    };
    world.mail.order(Order::VerifyShard { worker, epoch, model, job: id });
    vec![worker]
}

/// What workers found. Whoever was not asked has nothing to say, and neither has an older life.
pub(super) fn hear(world: &mut World, rules: &Arc<Rules>) {
    for said in std::mem::take(&mut world.mail.verified) {
        let asked = |check: &&Check| (check.worker, check.epoch, check.model) == (said.worker, said.epoch, said.model);
        let check = world.job(said.job).and_then(|job| job.checking()).filter(asked);
        if check.is_some_and(|check| lives(world, check)) {
            settle(world, rules, said.job, said.seal.map_or(Finding::Gone, |seal| Finding::Sound { seal }));
        }
    }
    for (id, digest) in std::mem::take(&mut world.mail.corrupted) {
        let pool = world.worker(id).and_then(|worker| world.pool(worker.facts.pool));
        let Some(by) = pool.and_then(|pool| pool.job) else { continue };
        let check = world.job(by).and_then(|job| job.checking());
        let found = check.is_some_and(|check| (check.worker, check.digest) == (id, digest));
        if found && !planted!(world, CorruptionUnheard) {
            settle(world, rules, by, Finding::Corrupt);
        }
    }
}

/// The worker that is waited for came, went or let go of its last task.
pub(super) fn moved(world: &mut World, rules: &Arc<Rules>, id: JobId) {
    let check = world.job(id).and_then(|job| job.checking());
    if check.is_some_and(|check| !lives(world, check)) && !planted!(world, VerifierForgotten) {
        settle(world, rules, id, Finding::Lost);
    }
}

/// The running step is over, and the next begins.
fn settle(world: &mut World, rules: &Arc<Rules>, id: JobId, found: Finding) {
    let Some(mut job) = world.job_mut(id) else { return };
    let Some(at) = job.current() else { return };
    set(&mut job.steps[at], found);
    job.waiting.clear();
    next(world, rules, id);
}
