//! Audits of tasks and of what binds them: leases, deadlines, sessions, budgets, and jobs of operators.

use super::check;
use orchestrion_world::budget::Account;
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::TaskId;
use orchestrion_world::job::Finished;
use orchestrion_world::ledger::Ledger;
use orchestrion_world::prefix::PrefixIndex;
use orchestrion_world::session::{SessionIndex, SessionState};
use orchestrion_world::store::World;
use orchestrion_world::task::Task;
use orchestrion_world::worker::Worker;
use std::collections::BTreeMap;

fn task(ledger: &Ledger, id: TaskId) -> Option<&Task> {
    ledger.tasks.binary_search_by_key(&id, |t| t.id).ok().map(|at| &ledger.tasks[at])
}

pub(super) fn leases_match_tasks(_: &World, ledger: &Ledger) -> Result<(), String> {
    for worker in &ledger.workers {
        check(worker.leases.len() <= usize::from(worker.facts.slots), || format!("{} has too many leases", worker.id))?;
        check(worker.leases.is_sorted_by_key(|l| l.task), || format!("{}'s leases are not sorted", worker.id))?;
        for lease in worker.leases.iter().filter(|l| !l.revoked) {
            let holder =
                task(ledger, lease.task).filter(|t| t.attempt() == lease.attempt && t.spec.class == lease.class);
            let held = holder.is_some_and(|t| t.life.worker() == Some(worker.id));
            check(held, || format!("{} leases a slot to {} which is not there", worker.id, lease.task))?;
        }
    }
    ledger.tasks.iter().filter_map(|t| t.life.worker().map(|w| (t, w))).try_for_each(|(task, id)| {
        let worker = ledger.workers.binary_search_by_key(&id, |w| w.id).ok().map(|at| &ledger.workers[at]);
        let lease = worker.and_then(|w| w.leases.iter().find(|l| l.task == task.id && !l.revoked));
        check(lease.is_some_and(|l| l.attempt == task.attempt()), || format!("{} has no lease on {id}", task.id))
    })
}

pub(super) fn reading_has_prompts(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.workers.iter().try_for_each(|worker| {
        let (since, unread) = (worker.reading.since, worker.unread());
        check(since.is_some() == (unread > 0), || format!("{} has {unread} tokens to read, since {since:?}", worker.id))
    })
}

pub(super) fn leases_only_where_up(_: &World, ledger: &Ledger) -> Result<(), String> {
    let down = |w: &&Worker| !w.state.is_up() && !w.leases.is_empty();
    ledger.workers.iter().find(down).map_or(Ok(()), |w| Err(format!("{} is {:?} and has leases", w.id, w.state)))
}

pub(super) fn jobs_keep_time(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut finished = Finished::default();
    for job in &ledger.jobs {
        let pool = ledger.pools.iter().find(|pool| pool.id == job.pool);
        let runs = pool.is_some_and(|pool| pool.job == Some(job.id));
        check(runs != job.state.is_over(), || format!("{job:?} and {pool:?} disagree"))?;
        check(job.due > ledger.core.now, || format!("{job:?} is late at {:?}", ledger.core.now))?;
        if job.state.is_over() {
            finished.0.insert((job.due, job.id));
        }
    }
    check(finished == world.finished, || format!("{finished:?} are over"))
}

pub(super) fn verifications_wait(_: &World, ledger: &Ledger) -> Result<(), String> {
    for job in &ledger.jobs {
        let Some(check) = job.checking() else { continue };
        let asked = ledger.workers.iter().find(|worker| worker.id == check.worker && worker.epoch == check.epoch);
        let lives = asked.is_some_and(|worker| worker.state.is_up());
        super::check(lives && job.waiting == [check.worker], || format!("{job:?} waits for {asked:?}"))?;
    }
    Ok(())
}

pub(super) fn closed_pools_rest(_: &World, ledger: &Ledger) -> Result<(), String> {
    let closed = |id| ledger.pools.iter().any(|pool| pool.id == id && pool.closed);
    let open = ledger.workers.iter().find(|w| w.state == WorkerState::Ready && closed(w.facts.pool));
    open.map_or(Ok(()), |w| Err(format!("{} takes tasks", w.id)))
}

pub(super) fn put_back_were_made(_: &World, ledger: &Ledger) -> Result<(), String> {
    let over = ledger.tasks.iter().find(|t| t.preempted > t.attempts);
    over.map_or(Ok(()), |t| Err(format!("{} was put back {} times in {} attempts", t.id, t.preempted, t.attempts)))
}

pub(super) fn repeats_are_strict(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.tasks.iter().filter(|t| t.tokens_out > t.made).try_for_each(|task| {
        let shown = || format!("{} may be told two stories: {} tokens were shown", task.id, task.tokens_out);
        check(task.is_repeatable() && task.fingerprint.is_some(), shown)?;
        let worker = task.life.worker().and_then(|id| ledger.workers.iter().find(|w| w.id == id));
        let same = worker.is_none_or(|w| {
            let there = w.resident(task.spec.model).map(|resident| resident.facts.fingerprint);
            task.fingerprint == there
        });
        check(same, || format!("{} runs where its tokens may be others", task.id))
    })
}

pub(super) fn patience_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let over = |t: &&Task| t.patience(&rules.timeouts).is_some_and(|(due, _)| due <= ledger.core.now);
    let over = ledger.tasks.iter().find(over);
    over.map_or(Ok(()), |t| Err(format!("{} holds a slot at {:?}, past its time", t.id, ledger.core.now)))
}

pub(super) fn deadlines_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let late = ledger.tasks.iter().find(|t| t.deadline.is_some_and(|due| due <= ledger.core.now));
    late.map_or(Ok(()), |t| Err(format!("{} lives at {:?}, past {:?}", t.id, ledger.core.now, t.deadline)))
}

pub(super) fn sessions_kept(world: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let idle = ledger.sessions.iter().filter(|s| s.is_idle()).map(|s| (s.expires, s.id)).collect();
    let called_for = SessionIndex { count: ledger.sessions.len(), idle };
    let index = &world.sessions;
    check(*index == called_for, || format!("{index:?} are indexed, {called_for:?} are there"))?;
    let fits = index.count <= rules.sessions.max as usize || index.idle.is_empty();
    check(fits, || {
        format!("{} sessions, {} of them idle, bound {}", index.count, index.idle.len(), rules.sessions.max)
    })?;
    let mut turns: BTreeMap<_, Vec<TaskId>> = BTreeMap::new();
    for task in &ledger.tasks {
        task.spec.session.iter().for_each(|session| turns.entry(*session).or_default().push(task.id));
    }
    ledger.sessions.iter().try_for_each(|session| {
        let open = session.state == SessionState::Open;
        check(session.turns <= session.turns_max, || format!("{session:?} has too many turns"))?;
        check(!open || session.expires > ledger.core.now, || format!("{session:?} is over at {:?}", ledger.core.now))?;
        check(open || !session.is_idle(), || format!("{session:?} has nothing to live for"))?;
        let tasks = turns.remove(&session.id).unwrap_or_default();
        check(tasks == session.tasks, || format!("{tasks:?} are turns of {session:?}"))
    })?;
    check(turns.is_empty(), || format!("{turns:?} are turns of no session"))
}

pub(super) fn prefixes_kept(world: &World, ledger: &Ledger) -> Result<(), String> {
    let most = ledger.core.rules.as_ref().map_or(0, |rules| rules.placement.prefixes_max as usize);
    check(ledger.prefixes.len() <= most, || format!("{} beginnings, bound {most}", ledger.prefixes.len()))?;
    let mut called_for = PrefixIndex::default();
    ledger.prefixes.iter().for_each(|prefix| called_for.add(prefix));
    check(world.prefixes == called_for, || "what is indexed are not the beginnings that are there".to_owned())?;
    ledger.prefixes.iter().try_for_each(|prefix| {
        let worker = ledger.workers.binary_search_by_key(&prefix.worker, |w| w.id).map(|at| &ledger.workers[at]);
        let has = worker.is_ok_and(|worker| worker.state.is_up() && worker.resident(prefix.id.model).is_some());
        check(has, || format!("{prefix:?} is counted on, and {} has not the model", prefix.worker))
    })
}

pub(super) fn budgets_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let sum = |tasks: &mut dyn Iterator<Item = &Task>| {
        let mut account = Account::default();
        let count = tasks.map(|task| account.reserve(&task.reserved)).count();
        (account.reserved, count)
    };
    ledger.tenants.iter().try_for_each(|tenant| {
        let held = sum(&mut ledger.tasks.iter().filter(|t| t.spec.tenant == tenant.id));
        check(tenant.account.holds(), || format!("{tenant:?} is overdrawn"))?;
        let kept = (tenant.account.reserved, tenant.live as usize);
        check(held == kept, || format!("its tasks hold {held:?} of {tenant:?}"))
    })?;
    ledger.sessions.iter().try_for_each(|session| {
        let held = sum(&mut ledger.tasks.iter().filter(|t| t.spec.session == Some(session.id)));
        check(session.account.holds(), || format!("{session:?} is overdrawn"))?;
        check(held.0 == session.account.reserved, || format!("its turns hold {held:?} of {session:?}"))
    })
}
