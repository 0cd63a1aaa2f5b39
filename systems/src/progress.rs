//! Progress: what workers say of attempts that run. Fenced by epoch and attempt: what an older life of a
//! worker or a revoked lease says changes nothing.

use crate::release::patience;
use crate::{estimate, prefixes};
use bevy_ecs::prelude::ResMut;
use orchestrion_world::id::{Attempt, Epoch, TaskId, WorkerId};
use orchestrion_world::mail::Made;
use orchestrion_world::protocol::{Class, Notice};
use orchestrion_world::store::World;
use orchestrion_world::task::Life;
use orchestrion_world::time::Tick;
use orchestrion_world::units::Sha256;
use orchestrion_world::victims::reconsider;
use orchestrion_world::worker::Worker;

pub(crate) fn follow(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let mail = &mut world.mail;
    let (mut starts, mut progress) = (std::mem::take(&mut mail.starts), std::mem::take(&mut mail.progress));
    for (worker, epoch, task, attempt) in starts.drain(..) {
        if !holds(world, worker, epoch, task, attempt) {
            continue;
        }
        let started = world.task_mut(task).is_some_and(|mut t| t.life.advance(Life::Running { worker }).is_ok());
        if started {
            world.mail.notice(Notice::Started { task, attempt, worker });
        }
    }
    let now = world.core.now;
    // A worker speaks of all its attempts at once.
    let mut live = Vec::new();
    for made in progress.drain(..) {
        live.clear();
        live.extend(world.worker(made.worker).into_iter().flat_map(|worker| counted(worker, &made)));
        for &(task, tokens, fingerprint) in &live {
            count(world, now, made.worker, (task, tokens, fingerprint));
        }
    }
    (world.mail.starts, world.mail.progress) = (starts, progress);
}

/// Of what a worker says it made: attempts that it holds live leases for, and whose tokens they are.
fn counted(worker: &Worker, made: &Made) -> impl Iterator<Item = (TaskId, u32, Option<Sha256>)> {
    let speaks = worker.state.is_up() && worker.epoch == made.epoch;
    made.tokens.iter().filter(move |made| speaks && made.2 > 0).filter_map(|&(task, attempt, tokens)| {
        let lease = &worker.leases[worker.lease_at(task, attempt)?];
        let fingerprint = worker.resident(lease.model).map(|resident| resident.facts.fingerprint);
        (!lease.revoked).then_some((task, tokens, fingerprint))
    })
}

/// An attempt that follows another makes again what readers have before it makes more.
fn count(world: &mut World, now: Tick, worker: WorkerId, (id, tokens, fingerprint): (TaskId, u32, Option<Sha256>)) {
    let Some(mut task) = world.task_mut(id) else { return };
    let first = task.made == 0;
    task.heard = now;
    task.made = task.made.saturating_add(tokens);
    task.tokens_out = task.tokens_out.max(task.made);
    task.fingerprint = task.fingerprint.or(fingerprint);
    let (class, begins_alike) = (task.spec.class, !task.spec.prefix.is_empty());
    if class == Class::Batch {
        reconsider(world, id);
    }
    if first {
        has_read(world, worker, id);
        if begins_alike {
            prefixes::remember(world, worker, id);
        }
        // The next token may have to come sooner than the first one had to.
        patience::wind(world, id);
    }
}

/// With its first token, a task's prompt is read.
fn has_read(world: &mut World, worker: WorkerId, task: TaskId) {
    let now = world.core.now;
    let Some(mut worker) = world.worker_mut(worker) else { return };
    let Ok(at) = worker.leases.binary_search_by_key(&task, |lease| lease.task) else { return };
    let tokens = std::mem::take(&mut worker.leases[at].unread);
    worker.reading = estimate::read(worker.reading, now, tokens.into(), worker.unread() > 0);
}

/// Whether this life of the worker holds a live lease for this attempt.
fn holds(world: &World, id: WorkerId, epoch: Epoch, task: TaskId, attempt: Attempt) -> bool {
    world.worker(id).is_some_and(|worker| {
        worker.state.is_up()
            && worker.epoch == epoch
            && worker.lease_at(task, attempt).is_some_and(|at| !worker.leases[at].revoked)
    })
}
