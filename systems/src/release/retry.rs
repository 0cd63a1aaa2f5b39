//! What befell an attempt, and what becomes of its task: one table, and the ways out of it.
//!
//! A task is tried again, elsewhere if there is an elsewhere, as often as the rules and the budget allow and
//! as its readers may be told one story; or it ends. A task that gives way to others was not set back: it
//! waits in its old place. What becomes of a worker is for health to say.

use super::{fail, take_back};
use orchestrion_world::dice;
use orchestrion_world::id::{Attempt, TaskId};
use orchestrion_world::protocol::{Failure, FaultClass, Notice, Setback, TimeLimit};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::{Life, Task, TaskTimers};
use orchestrion_world::time::Ticks;
use orchestrion_world::victims::reconsider;
use orchestrion_world::wheel::TimerKey;

/// What a retry costs of the retry budget.
const ONE_RETRY: u64 = 1_000;

/// What becomes of a task whose attempt met with a setback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The next attempt, on another worker if one has room; this failure where there is to be none.
    Elsewhere(Failure),
    /// The next attempt, wherever there is room: the worker did nothing wrong.
    Anywhere(Failure),
    /// No attempt would do better.
    End(Failure),
}

fn action(setback: Setback) -> Action {
    use Action::{Anywhere, Elsewhere, End};
    match setback {
        Setback::WorkerLost => Elsewhere(Failure::WorkerLost),
        Setback::Fault(FaultClass::Retryable) => Anywhere(Failure::WorkerLost),
        Setback::Fault(FaultClass::Transient | FaultClass::Fatal) => Elsewhere(Failure::WorkerLost),
        Setback::Fault(FaultClass::InvalidInput) => End(Failure::InvalidInput),
        Setback::Fault(FaultClass::Diverged) => End(Failure::Diverged),
        Setback::TimedOut(limit @ (TimeLimit::FirstToken | TimeLimit::Idle)) => Elsewhere(Failure::TimedOut(limit)),
        // Another attempt would take as long.
        Setback::TimedOut(limit @ TimeLimit::Wall) => End(Failure::TimedOut(limit)),
    }
}

/// An attempt was lost. The task's lease is still in `Life`, whether the worker has let go or not.
pub(crate) fn set_back(world: &mut World, id: TaskId, lost: Attempt, why: Setback) {
    let (failure, elsewhere) = match action(why) {
        Action::End(failure) => return fail(world, id, failure),
        Action::Elsewhere(failure) => (failure, true),
        Action::Anywhere(failure) => (failure, false),
    };
    let core = &world.core;
    let (now, seed, budget) = (core.now, core.seed, core.retry_budget);
    let Some(retry) = core.rules.as_ref().map(|r| r.retry.clone()) else { return };
    let Some(task) = world.task(id) else { return };
    let failures = task.failures();
    let most = retry.attempts_max + u32::from(planted!(world, RetryBeyondLimit));
    let price = ONE_RETRY * u64::from(!planted!(world, RetryUnpaid));
    if !task.is_repeatable() || failures >= most || budget < ONE_RETRY {
        return fail(world, id, failure);
    }
    let doubled = retry.backoff.0.checked_shl(failures - 1).unwrap_or(u64::MAX);
    let backoff = Ticks(doubled.min(retry.backoff_max.0));
    // What is due now was due before the wheel turned: the next tick is the first that can bring it.
    let until = now + dice::jitter(seed, id, lost, backoff, retry.jitter).max(Ticks(1));
    #[cfg(feature = "planted")]
    let until = crate::planted::until(world, until);
    world.core.retry_budget -= price;
    world.mail.notice(Notice::Retrying { task: id, lost, until, why });
    take_back(world, id);
    if let Some(mut task) = world.task_mut(id) {
        task.failed_on = task.life.worker().filter(|_| elsewhere);
        step_back(&mut task, Life::Backoff { until });
    }
    reconsider(world, id);
    let timer = world.wheel.arm(until, TimerKey::Retry(id));
    if let Some(entity) = world.whereabouts(Key::Task(id))
        && let Some(mut timers) = world.entities.get_mut::<TaskTimers>(entity)
    {
        timers.retry = Some(timer);
    }
}

/// A batch task gives its slot to interactive work, of which `by` is next: it goes back to its place in its line
/// and is none the worse for it, but has to begin anew.
pub(crate) fn put_back(world: &mut World, id: TaskId, by: TaskId) {
    let Some((task, worker)) = world.task(id).and_then(|task| Some((task.clone(), task.life.worker()?))) else {
        return;
    };
    let lost = task.attempt();
    world.mail.notice(Notice::Preempted { task: id, lost, worker, by });
    take_back(world, id);
    if let Some(mut worker) = world.worker_mut(worker)
        && let Some(at) = worker.lease_at(id, lost)
    {
        worker.leases[at].called_back = true;
    }
    world.victims.call_back(task.spec.model);
    let Some(mut task) = world.task_mut(id) else { return };
    task.preempted += 1;
    step_back(&mut task, Life::Queued);
    let queued = task.clone();
    world.queues.push(&queued);
    reconsider(world, id);
}

/// From a slot back to where tasks wait.
fn step_back(task: &mut Task, to: Life) {
    let legal = task.life.advance(to);
    assert!(legal.is_ok(), "audit `at most one live attempt`: {}: {legal:?}", task.id);
    task.made = 0;
}

/// A backoff is over.
pub(crate) fn requeue(world: &mut World, id: TaskId) {
    let Some(mut task) = world.task_mut(id) else { return };
    if task.life.advance(Life::Queued).is_err() {
        return;
    }
    #[cfg(feature = "planted")]
    crate::planted::lose_place(world, id);
    let Some(queued) = world.task(id).cloned() else { return };
    world.queues.push(&queued);
    world.mail.stirred.insert(queued.spec.model);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may be tried again, and where, at one glance.
    #[test]
    fn the_table_of_setbacks() {
        use Setback::{Fault, TimedOut, WorkerLost};
        let again = |setback| match action(setback) {
            Action::Elsewhere(_) => "elsewhere",
            Action::Anywhere(_) => "anywhere",
            Action::End(_) => "never",
        };
        let table = [
            (WorkerLost, "elsewhere"),
            (Fault(FaultClass::Retryable), "anywhere"),
            (Fault(FaultClass::Transient), "elsewhere"),
            (Fault(FaultClass::Fatal), "elsewhere"),
            (Fault(FaultClass::InvalidInput), "never"),
            (Fault(FaultClass::Diverged), "never"),
            (TimedOut(TimeLimit::FirstToken), "elsewhere"),
            (TimedOut(TimeLimit::Idle), "elsewhere"),
            (TimedOut(TimeLimit::Wall), "never"),
        ];
        assert_eq!(table.map(|(setback, _)| (setback, again(setback))), table);
    }
}
