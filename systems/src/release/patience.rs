//! Patience: attempts that a live worker does not get on with. One timer for each lease, which rings at the
//! end of its time or before: a token moves nothing in the wheel, the bell looks how late it has become.

use super::retry::set_back;
use crate::health;
use orchestrion_world::id::TaskId;
use orchestrion_world::protocol::{FaultClass, Setback, TimeLimit};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::TaskTimers;
use orchestrion_world::victims::reconsider;
use orchestrion_world::wheel::TimerKey;

/// Sets the timer to when the attempt's time is over as it stands, and takes it away where it has none.
pub(crate) fn wind(world: &mut World, id: TaskId) {
    let rules = world.core.rules.as_ref();
    let due = rules.zip(world.task(id)).and_then(|(rules, task)| task.patience(&rules.timeouts));
    let armed = due.map(|(due, _)| world.wheel.arm(due, TimerKey::Patience(id)));
    let Some(entity) = world.whereabouts(Key::Task(id)) else { return };
    let timers = world.entities.get_mut::<TaskTimers>(entity);
    let before = timers.and_then(|mut timers| std::mem::replace(&mut timers.patience, armed));
    if let Some(before) = before {
        world.wheel.disarm(before);
    }
}

/// The timer rang.
pub(crate) fn check(world: &mut World, id: TaskId) {
    let core = &world.core;
    let (now, rules) = (core.now, core.rules.clone());
    let Some((task, rules)) = world.task(id).zip(rules) else { return };
    match task.patience(&rules.timeouts) {
        Some((due, limit)) if due <= now => {
            let worker = task.life.worker();
            set_back(world, id, task.attempt(), Setback::TimedOut(limit));
            // Who takes the whole of its time gets on with it.
            if limit != TimeLimit::Wall
                && let Some(worker) = worker
            {
                health::went_wrong(world, worker, FaultClass::Transient);
            }
        }
        Some(_) | None => wind(world, id),
    }
}

/// The rules have changed: every bell rings in this step and is set by the new ones, and who may be put back is
/// asked anew.
pub(crate) fn rewind(world: &mut World) {
    // A change of rules is rare, and no other step looks at every lease.
    let workers = world.workers().into_iter();
    let leases = workers.flat_map(|w| &w.leases).filter(|l| !l.revoked);
    let tasks: Vec<TaskId> = leases.map(|l| l.task).collect();
    for task in tasks {
        reconsider(world, task);
        world.mail.due.push(TimerKey::Patience(task));
    }
}
