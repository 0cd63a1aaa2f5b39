//! Audits of one step: the state before, what came in, what was decided, the state after. They show what
//! neither a state nor the order of effects can: that nothing changed which must not. A bound that new rules
//! lower is one of them: who is inside stays, and nobody comes in.

use orchestrion_world::config::{OverloadPolicy, QueueRules};
use orchestrion_world::id::ModelId;
use orchestrion_world::job::{Action, Check, Finding, JobState, StepName, StepStatus};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{Class, Determinism, Effect, Input, Intent, Notice, Order, Report};
use orchestrion_world::task::{Life, Task};
use std::collections::{BTreeMap, BTreeSet};

/// One step, from outside.
#[derive(Clone, Copy, Debug)]
pub struct Move<'s> {
    pub before: &'s Ledger,
    pub inputs: &'s [Input],
    pub effects: &'s [Effect],
    pub after: &'s Ledger,
}

type Audit = fn(&Move<'_>) -> Result<(), String>;

/// Every audit of a step. The number is that of `docs/invariants.md`.
pub const MOVES: &[(&str, Audit)] = &[
    ("2 a task that is cancelled is over in that step", cancels_hold),
    ("3 nobody is let into a queue beyond its bound", queues_within_bounds),
    ("batch tasks take no more than their share of a worker's slots", batch_keeps_to_its_share),
    ("11 a worker is lost by its own word, its silence, or because it was told to end", losses_have_a_reason),
    ("12 no attempt beyond the limit", attempts_within_limit),
    ("12 retries are paid for", retries_are_paid_for),
    ("13 only a strict task is tried again after its first token", no_rerun_after_a_token),
    ("18 a reload ends as new or as old", reloads_end_whole),
    ("a verification says what its workers found", verifications_tell),
    ("19 restarts within the storm limit", restarts_within_limit),
    ("no more jobs are kept than may be", jobs_within_bounds),
    ("what a task was admitted as does not change", tasks_stay_what_they_are),
    ("time and admissions only go on", time_goes_on),
];

/// Runs them all.
///
/// # Errors
/// The first broken one, by name, and what was found.
pub fn audit(moved: &Move<'_>) -> Result<(), String> {
    MOVES.iter().try_for_each(|(name, check)| check(moved).map_err(|found| format!("audit `{name}`: {found}")))
}

fn check(holds: bool, found: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(found()) }
}

fn notices<'m>(moved: &Move<'m>) -> impl Iterator<Item = &'m Notice> {
    moved.effects.iter().filter_map(|effect| match effect {
        Effect::Notice(notice) => Some(notice),
        Effect::Order(_) => None,
    })
}

fn find(ledger: &Ledger, task: &Task) -> Option<usize> {
    ledger.tasks.binary_search_by_key(&task.id, |t| t.id).ok()
}

/// Admitted tasks only: one that nobody knows has nothing to end.
fn cancels_hold(moved: &Move<'_>) -> Result<(), String> {
    for input in moved.inputs {
        let Input::Intent(Intent::Cancel { task, .. }) = input else { continue };
        let lives = |ledger: &Ledger| ledger.tasks.binary_search_by_key(task, |t| t.id).ok();
        // It may have ended and been submitted again in the same step, by the same name.
        let again = notices(moved).any(|n| matches!(n, Notice::Accepted { task: of, .. } if of == task));
        let stays = lives(moved.after).is_some() && !again;
        check(!stays, || format!("{task} lives after its cancel"))?;
    }
    Ok(())
}

fn queues_within_bounds(moved: &Move<'_>) -> Result<(), String> {
    let Some(rules) = &moved.after.core.rules else { return Ok(()) };
    let QueueRules { interactive_max, batch_max, policy, .. } = rules.queue;
    // Retried tasks come back to a queue that may have filled up behind them.
    let waiting = |ledger: &Ledger| {
        let mut lines: BTreeMap<(ModelId, Class), u64> = BTreeMap::new();
        let fresh = ledger.tasks.iter().filter(|t| t.life == Life::Queued && t.attempts == 0);
        fresh.for_each(|t| *lines.entry((t.spec.model, t.spec.class)).or_default() += 1);
        lines
    };
    let (before, after) = (waiting(moved.before), waiting(moved.after));
    let of = |lines: &BTreeMap<_, u64>, line| lines.get(&line).copied().unwrap_or_default();
    after.keys().try_for_each(|&(model, class)| {
        // Under the other policies interactive work may take the places of batch work.
        let (classes, most): (&[Class], u64) = match (class, policy) {
            (Class::Batch, _) => (&[Class::Batch], batch_max.into()),
            (Class::Interactive, OverloadPolicy::Reject) => (&[Class::Interactive], interactive_max.into()),
            (Class::Interactive, OverloadPolicy::DropLru | OverloadPolicy::ShedLowPriority) => {
                (&[Class::Interactive, Class::Batch], u64::from(interactive_max) + u64::from(batch_max))
            }
        };
        let count = |lines| classes.iter().map(|&class| of(lines, (model, class))).sum::<u64>();
        let (had, has) = (count(&before), count(&after));
        check(has <= most.max(had), || format!("{has} wait in {classes:?} of {model:?}, bound {most}"))
    })
}

fn batch_keeps_to_its_share(moved: &Move<'_>) -> Result<(), String> {
    let Some(rules) = &moved.after.core.rules else { return Ok(()) };
    moved.after.workers.iter().try_for_each(|worker| {
        let was = moved.before.workers.binary_search_by_key(&worker.id, |w| w.id).ok();
        let had = was.map_or(0, |at| moved.before.workers[at].batch_leases());
        let (held, may) = (worker.batch_leases(), worker.batch_slots(rules.placement.batch_share));
        check(held <= may.max(had), || format!("{} runs {held} batch tasks on the {may} slots for them", worker.id))
    })
}

/// A retry that was promised is made, whatever the rules are by then.
fn attempts_within_limit(moved: &Move<'_>) -> Result<(), String> {
    let Some(rules) = &moved.after.core.rules else { return Ok(()) };
    let again = notices(moved).filter_map(|notice| match notice {
        Notice::Retrying { task, lost, .. } => Some((task, lost)),
        _ => None,
    });
    again.into_iter().try_for_each(|(id, lost)| {
        let found = moved.after.tasks.binary_search_by_key(id, |t| t.id).ok().map(|at| &moved.after.tasks[at]);
        let over = found.filter(|t| t.attempt() == *lost && t.failures() >= rules.retry.attempts_max);
        check(over.is_none(), || format!("{id} is tried again after {} attempts", lost.number))
    })
}

fn restarts_within_limit(moved: &Move<'_>) -> Result<(), String> {
    let Some(rules) = &moved.after.core.rules else { return Ok(()) };
    moved.after.pools.iter().zip(&moved.before.pools).try_for_each(|(pool, was)| {
        let most = (rules.health.restart.storm_max as usize).max(was.restarts.len());
        check(pool.restarts.len() <= most, || format!("{pool:?} was restarted too often"))
    })
}

fn jobs_within_bounds(moved: &Move<'_>) -> Result<(), String> {
    let Some(rules) = &moved.after.core.rules else { return Ok(()) };
    let over = |ledger: &Ledger| ledger.jobs.iter().filter(|job| job.state.is_over()).count();
    let (kept, most) = (over(moved.after), (rules.jobs.kept_max as usize).max(over(moved.before)));
    check(kept <= most, || format!("{kept} jobs are kept of {most}"))
}

/// Those that were running or began in this step: a boot tells of old ones again, and cancels what runs.
fn reloads_end_whole(moved: &Move<'_>) -> Result<(), String> {
    let changes = notices(moved).filter_map(|notice| match notice {
        Notice::JobChanged { job } => Some(job),
        _ => None,
    });
    let jobs: Vec<_> = changes.collect();
    for (n, job) in jobs.iter().enumerate() {
        // The next job of the pool may have begun in the step that this one ended in.
        if jobs[n..].iter().any(|later| later.pool == job.pool && later.id != job.id) {
            continue;
        }
        let known = moved.before.jobs.iter().find(|known| known.id == job.id);
        let (Action::Reload { model: new, .. }, true) = (job.action, known.is_none_or(|known| !known.state.is_over()))
        else {
            continue;
        };
        let Some(pool) = moved.after.pools.iter().find(|pool| pool.id == job.pool) else { continue };
        let restored = job.steps.last().is_some_and(|s| (s.name, s.status) == (StepName::Restore, StepStatus::Done));
        let whole = match job.state {
            JobState::Done => pool.model == new,
            JobState::Failed(_) if restored => pool.model == job.model,
            JobState::Failed(_) => pool.model == new || pool.model == job.model,
            JobState::Running | JobState::Cancelled => true,
        };
        check(whole, || format!("{job:?} left {pool:?}"))?;
    }
    Ok(())
}

/// Sound is what its worker called so, and corrupt what was called that. A job that found any of it is not done, nor is
/// one that did not see it all.
fn verifications_tell(moved: &Move<'_>) -> Result<(), String> {
    let said = |of: &dyn Fn(&Report) -> bool| moved.inputs.iter().any(|i| matches!(i, Input::Report(r) if of(r)));
    for before in &moved.before.jobs {
        let (Some(at), Some(check)) = (before.current(), before.checking()) else { continue };
        let Some(after) = moved.after.jobs.iter().find(|job| job.id == before.id) else { continue };
        let whole = after.state != JobState::Done || after.doubt().is_none();
        self::check(whole, || format!("{after:?} is done"))?;
        let sound = |report: &Report| match *report {
            Report::ShardVerified { worker, epoch, model, job, .. } => {
                (worker, epoch, model, job) == (check.worker, check.epoch, check.model, before.id)
            }
            _ => false,
        };
        // Two workers may share the weights.
        let corrupt =
            |report: &Report| matches!(report, Report::ShardCorrupt { digest, .. } if *digest == check.digest);
        let own = |report: &Report| {
            let Report::ShardCorrupt { worker, epoch, .. } = report else { return false };
            corrupt(report) && (*worker, *epoch) == (check.worker, check.epoch)
        };
        let found = after.steps[at].check.and_then(|check| check.found);
        let holds = match found {
            Some(Finding::Sound { .. }) => said(&sound),
            Some(Finding::Corrupt) => said(&corrupt),
            Some(Finding::Lost | Finding::Gone) | None => !said(&own) || lost_otherwise(moved, check),
        };
        self::check(holds, || format!("{found:?} was found by {before:?}"))?;
    }
    Ok(())
}

/// Whether the worker of a check may have been lost in this step before it said what it found.
fn lost_otherwise(moved: &Move<'_>, check: &Check) -> bool {
    moved.inputs.iter().any(|input| match input {
        Input::Boot { .. } => true,
        Input::Report(Report::WorkerUp { worker, .. } | Report::WorkerDown { worker, .. }) => *worker == check.worker,
        Input::Report(Report::ShardCorrupt { digest, .. }) => *digest != check.digest,
        _ => false,
    })
}

fn losses_have_a_reason(moved: &Move<'_>) -> Result<(), String> {
    for worker in moved.before.workers.iter().filter(|w| w.state.is_up()) {
        let Ok(at) = moved.after.workers.binary_search_by_key(&worker.id, |w| w.id) else {
            return Err(format!("{} is gone", worker.id));
        };
        let after = &moved.after.workers[at];
        if after.state.is_up() && after.epoch == worker.epoch {
            continue;
        }
        let said = moved.inputs.iter().any(|input| match input {
            Input::Report(Report::WorkerDown { worker: id, epoch, .. }) => *id == worker.id && *epoch == worker.epoch,
            Input::Report(Report::WorkerUp { worker: id, epoch, .. }) => *id == worker.id && *epoch > worker.epoch,
            // Who lived in the last process is gone with it.
            Input::Boot { .. } => true,
            _ => false,
        });
        let told = moved.effects.iter().any(|effect| match effect {
            Effect::Order(Order::StopWorker { worker: id, epoch }) => *id == worker.id && *epoch == worker.epoch,
            // By a drain whose time is over.
            Effect::Order(Order::Reset { worker: id, epoch }) => *id == worker.id && epoch.0 == worker.epoch.0 + 1,
            Effect::Order(_) | Effect::Notice(_) => false,
        });
        let now = moved.after.core.now;
        // It was asked, and the time for its answer is over.
        let over = |ledger: &Ledger| worker.alarm_at(ledger.core.rules.as_deref()).is_some_and(|due| due <= now);
        let silent = worker.probed.is_some() && (over(moved.before) || over(moved.after));
        check(said || told || silent, || {
            format!("{} of epoch {} was taken out at {}", worker.id, worker.epoch.0, now.0)
        })?;
    }
    Ok(())
}

fn retries_are_paid_for(moved: &Move<'_>) -> Result<(), String> {
    let (before, after) = (&moved.before.core, &moved.after.core);
    let Some(rules) = before.rules.as_ref().and(after.rules.as_ref()) else { return Ok(()) };
    let count = |of: fn(&Notice) -> bool| notices(moved).filter(|n| of(n)).count() as u64;
    let earned = count(|n| matches!(n, Notice::Accepted { .. })) * u64::from(rules.retry.budget.0);
    let spent = count(|n| matches!(n, Notice::Retrying { .. })) * 1_000;
    check(after.retry_budget + spent <= before.retry_budget + earned, || {
        format!("{} and {earned} earned are {} after {spent} were spent", before.retry_budget, after.retry_budget)
    })
}

fn no_rerun_after_a_token(moved: &Move<'_>) -> Result<(), String> {
    let loose = |t: &&Task| t.tokens_out > 0 && t.spec.determinism == Determinism::BestEffort;
    let shown = moved.before.tasks.iter().filter(loose).map(|t| t.id).collect::<BTreeSet<_>>();
    let goes_on = |n: &&Notice| matches!(n, Notice::Retrying { task, .. } | Notice::Preempted { task, .. } if shown.contains(task));
    let again = notices(moved).find(goes_on);
    again.map_or(Ok(()), |notice| Err(format!("{notice:?} after its first token")))
}

fn tasks_stay_what_they_are(moved: &Move<'_>) -> Result<(), String> {
    moved.before.tasks.iter().try_for_each(|was| {
        let Some(is) = find(moved.after, was).map(|at| &moved.after.tasks[at]) else { return Ok(()) };
        // The same name again, for another task.
        if is.ordinal > moved.before.core.ordinals {
            return Ok(());
        }
        let same = (is.ordinal, is.admitted, is.deadline) == (was.ordinal, was.admitted, was.deadline)
            && is.spec == was.spec
            && is.attempts >= was.attempts;
        check(same, || format!("{was:?} became {is:?}"))
    })
}

fn time_goes_on(moved: &Move<'_>) -> Result<(), String> {
    let (before, after) = (&moved.before.core, &moved.after.core);
    let accepted = notices(moved).filter(|n| matches!(n, Notice::Accepted { .. })).count() as u64;
    check(after.now >= before.now && after.ordinals == before.ordinals + accepted, || {
        format!("{before:?} became {after:?} with {accepted} admissions")
    })
}
