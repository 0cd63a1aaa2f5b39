//! The invariants that a state can be checked for, each by name. Run after every step in tests and
//! simulation; the ones that take constant time are asserted where they could break, in production too.
//!
//! What only a history can show (a task ends exactly once, no token after a cancel) is audited over the
//! effects by the scenario stage.

use crate::placement;
use orchestrion_world::budget::Account;
use orchestrion_world::crew::Crews;
use orchestrion_world::field::{Best, Field, Offer, Slots, Speed, Totals, residual};
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{DeviceId, ModelId, TaskId};
use orchestrion_world::job::Finished;
use orchestrion_world::ledger::{Ledger, digest, full_digest};
use orchestrion_world::prefix::PrefixIndex;
use orchestrion_world::protocol::Class;
use orchestrion_world::queues::Queues;
use orchestrion_world::session::{SessionIndex, SessionState};
use orchestrion_world::store::World;
use orchestrion_world::task::{Life, Task};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use orchestrion_world::victims::Victims;
use orchestrion_world::vram::{Residence, Resident};
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::{Pool, Worker};
use std::collections::BTreeMap;

/// A broken invariant: its name in [`AUDITS`], and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("audit `{name}`: {found}")]
pub struct Broken {
    pub name: &'static str,
    pub found: String,
}

type Audit = fn(&World, &Ledger) -> Result<(), String>;

/// Every audit of a state. The number is that of the design's list of invariants, where it has one.
pub const AUDITS: &[(&str, Audit)] = &[
    ("6 leases are the used slots, and a live task has its one", leases_match_tasks),
    ("a worker reads while it has prompts to read", reading_has_prompts),
    ("7 memory in use is what shards and leases take, within capacity", memory_adds_up),
    ("8 no lease on a worker that is not up", leases_only_where_up),
    ("8 nothing runs on a device in quarantine", quarantine_holds),
    ("pools and models count the workers that take tasks, and crews are who they are", crews_match),
    ("9 no model goes that has leases", leases_on_what_serves),
    ("10 what was loaded has the digest of its model", digests_as_declared),
    ("models on workers, and what is on its way to them", residents_in_order),
    ("9 what is pinned does not make way", pinned_stays),
    ("18 who can load no other model has that of its pool", fixed_serve_their_pool),
    ("12 attempts that were put back were made", put_back_were_made),
    ("13 no attempt after a token was shown, but in strict sameness", repeats_are_strict),
    ("an attempt ends in the first step at or after its time is over", patience_kept),
    ("14 a task ends in the first step at or after its deadline", deadlines_kept),
    ("15 sessions within their bound, turns and time, and theirs are the tasks that name them", sessions_kept),
    ("beginnings of prompts are within their bound, and whoever knows one has the model", prefixes_kept),
    ("16 no budget is overdrawn, and what is reserved is what tasks hold", budgets_kept),
    ("17 drains end by their deadline, and a pool knows its job", jobs_keep_time),
    ("17 nobody takes tasks in a pool that is closed", closed_pools_rest),
    ("a verification waits for the worker that it asked, in the life that it asked", verifications_wait),
    ("20 armed timers are those the entities call for", timers_match),
    ("nobody waits who could start", nobody_waits_in_vain),
    ("a pool counts its ready workers", pools_count_ready),
    ("queues hold exactly the queued tasks", queues_match_tasks),
    ("who gives way and which slots are called back is what tasks and leases say", victims_match),
    ("the field is what the workers and devices say", field_matches),
    ("22 the incremental digest is that of the whole ledger", digest_matches),
];

/// Runs them all on a world and its ledger.
pub(crate) fn audit(world: &World, ledger: &Ledger) -> Result<(), Broken> {
    AUDITS.iter().try_for_each(|&(name, check)| check(world, ledger).map_err(|found| Broken { name, found }))
}

fn check(holds: bool, found: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(found()) }
}

fn task(ledger: &Ledger, id: TaskId) -> Option<&Task> {
    ledger.tasks.binary_search_by_key(&id, |t| t.id).ok().map(|at| &ledger.tasks[at])
}

fn leases_match_tasks(_: &World, ledger: &Ledger) -> Result<(), String> {
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

fn reading_has_prompts(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.workers.iter().try_for_each(|worker| {
        let (since, unread) = (worker.reading.since, worker.unread());
        check(since.is_some() == (unread > 0), || format!("{} has {unread} tokens to read, since {since:?}", worker.id))
    })
}

fn memory_adds_up(_: &World, ledger: &Ledger) -> Result<(), String> {
    let mut parts: BTreeMap<DeviceId, Vec<(&Worker, Permille)>> = BTreeMap::new();
    for worker in &ledger.workers {
        worker.facts.devices.iter().for_each(|part| parts.entry(part.device).or_default().push((worker, part.share)));
    }
    let on = |device| parts.get(&device).into_iter().flatten().copied();
    ledger.devices.iter().try_for_each(|device| {
        let shards = &ledger.shards[ledger.shards.partition_point(|s| s.device < device.id)..];
        let weights: u64 = shards.iter().take_while(|s| s.device == device.id).map(|s| s.bytes.0).sum();
        let leases = on(device.id).flat_map(|(w, share)| w.leases.iter().map(move |l| l.kv.share(share).0));
        let reserved: u64 = leases.sum();
        check(device.weights.0 == weights && device.reserved.0 == reserved, || format!("{device:?} is off its books"))?;
        check(weights + reserved <= device.capacity.0, || format!("{device:?} holds more than it can"))
    })?;
    ledger.shards.iter().try_for_each(|shard| {
        let of_shard = |r: &&Resident| r.life.takes_memory() && r.facts.digest == shard.digest;
        let holds = |(w, share): (&Worker, Permille)| {
            let mut held = w.residents.iter().filter(of_shard);
            held.next().map(|r| r.facts.weights.share(share) <= shard.bytes)
        };
        let holders: Vec<bool> = on(shard.device).filter_map(holds).collect();
        check(holders.len() == usize::from(shard.holders), || format!("{shard:?} has {} holders", holders.len()))?;
        check(holders.iter().all(|fits| *fits), || format!("{shard:?} is smaller than a holder's part"))
    })?;
    let booked = ledger.workers.iter().flat_map(|w| w.facts.devices.iter().map(move |part| (w, part.device)));
    booked.into_iter().try_for_each(|(worker, device)| {
        let lacks = worker.residents.iter().filter(|r| r.life.takes_memory()).find(|r| {
            let key = (device, r.facts.digest);
            ledger.shards.binary_search_by(|s| (s.device, s.digest).cmp(&key)).is_err()
        });
        lacks.map_or(Ok(()), |r| Err(format!("{} holds {:?}, which is not booked on {device}", worker.id, r.model)))
    })
}

fn residents_in_order(_: &World, ledger: &Ledger) -> Result<(), String> {
    let mut coming: BTreeMap<ModelId, u16> = BTreeMap::new();
    for worker in &ledger.workers {
        check(worker.residents.is_sorted_by(|a, b| a.model < b.model), || format!("{}'s models", worker.id))?;
        let up = worker.state.is_up();
        // Its own is kept for one that was told to drop its work.
        let kept = |r: &Resident| worker.state.is_coming() && r.life == Residence::Sealed;
        let holds = up || worker.residents.iter().all(kept);
        check(holds, || format!("{} is {:?} and holds models", worker.id, worker.state))?;
        for resident in &worker.residents {
            match resident.life {
                Residence::Staging => *coming.entry(resident.model).or_default() += 1,
                Residence::Yielding { to } | Residence::Evicting { to: Some(to) } => {
                    *coming.entry(to).or_default() += 1
                }
                Residence::Sealed
                | Residence::Evicting { to: None }
                | Residence::Condemned
                | Residence::Failed { .. } => {}
            }
        }
    }
    ledger.models.iter().try_for_each(|model| {
        let found = coming.get(&model.id).copied().unwrap_or_default();
        check(found == model.coming, || format!("{model:?}: {found} ways of it are under way"))
    })
}

fn leases_on_what_serves(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.workers.iter().try_for_each(|worker| {
        let bare = worker.leases.iter().find(|lease| {
            let life = worker.resident(lease.model).map(|r| r.life);
            !matches!(life, Some(Residence::Sealed | Residence::Yielding { .. }))
        });
        bare.map_or(Ok(()), |lease| Err(format!("{} runs {} on a model that does not serve", worker.id, lease.task)))
    })
}

fn digests_as_declared(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    ledger.workers.iter().filter(|w| w.facts.came_with.is_none()).try_for_each(|worker| {
        let other =
            worker.residents.iter().find(|r| rules.loadable(r.model).is_none_or(|row| row.digest != r.facts.digest));
        other.map_or(Ok(()), |r| Err(format!("{} holds other bytes than those of {:?}", worker.id, r.model)))
    })
}

fn pinned_stays(_: &World, ledger: &Ledger) -> Result<(), String> {
    let goes = |r: &&Resident| r.pinned && matches!(r.life, Residence::Yielding { .. } | Residence::Evicting { .. });
    let gone = ledger.workers.iter().find_map(|w| Some((w.id, w.residents.iter().find(goes)?)));
    gone.map_or(Ok(()), |(id, resident)| Err(format!("{id} lets {resident:?} go")))
}

fn fixed_serve_their_pool(_: &World, ledger: &Ledger) -> Result<(), String> {
    let other = ledger.workers.iter().filter(|w| w.facts.loader.is_none()).find_map(|w| {
        let pool = ledger.pools.iter().find(|pool| pool.id == w.facts.pool)?;
        Some((w.id, pool, w.residents.iter().find(|r| r.model != pool.model)?))
    });
    other.map_or(Ok(()), |(id, pool, resident)| Err(format!("{id} of {pool:?} serves {resident:?}")))
}

fn leases_only_where_up(_: &World, ledger: &Ledger) -> Result<(), String> {
    let down = |w: &&Worker| !w.state.is_up() && !w.leases.is_empty();
    ledger.workers.iter().find(down).map_or(Ok(()), |w| Err(format!("{} is {:?} and has leases", w.id, w.state)))
}

fn quarantine_holds(_: &World, ledger: &Ledger) -> Result<(), String> {
    let shut = |id| ledger.devices.iter().any(|device| device.id == id && device.quarantined);
    let at_large =
        |w: &&Worker| w.state != WorkerState::Stopped && w.facts.devices.iter().any(|part| shut(part.device));
    ledger.workers.iter().find(at_large).map_or(Ok(()), |w| Err(format!("{} is {:?} in quarantine", w.id, w.state)))
}

fn crews_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut crews = Crews::default();
    let mut ready = BTreeMap::new();
    for worker in &ledger.workers {
        crews.join(worker.id, &worker.facts);
        *ready.entry(worker.facts.pool).or_insert(0) += u16::from(worker.takes());
    }
    check(crews == world.crews, || format!("{:?} are kept, {crews:?} are", world.crews))?;
    let of = |pool: &&Pool| pool.ready != ready.get(&pool.id).copied().unwrap_or_default();
    ledger.pools.iter().find(of).map_or(Ok(()), |pool| Err(format!("{pool:?}: {ready:?} are ready")))?;
    ledger.models.iter().try_for_each(|model| {
        let own = ledger.pools.iter().filter(|pool| pool.model == model.id);
        let count = own.map(|pool| u32::from(pool.ready)).sum::<u32>();
        check(count == model.ready, || format!("{model:?}: {count} are ready"))
    })
}

fn jobs_keep_time(world: &World, ledger: &Ledger) -> Result<(), String> {
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

fn verifications_wait(_: &World, ledger: &Ledger) -> Result<(), String> {
    for job in &ledger.jobs {
        let Some(check) = job.checking() else { continue };
        let asked = ledger.workers.iter().find(|worker| worker.id == check.worker && worker.epoch == check.epoch);
        let lives = asked.is_some_and(|worker| worker.state.is_up());
        self::check(lives && job.waiting == [check.worker], || format!("{job:?} waits for {asked:?}"))?;
    }
    Ok(())
}

fn closed_pools_rest(_: &World, ledger: &Ledger) -> Result<(), String> {
    let closed = |id| ledger.pools.iter().any(|pool| pool.id == id && pool.closed);
    let open = ledger.workers.iter().find(|w| w.state == WorkerState::Ready && closed(w.facts.pool));
    open.map_or(Ok(()), |w| Err(format!("{} takes tasks", w.id)))
}

fn put_back_were_made(_: &World, ledger: &Ledger) -> Result<(), String> {
    let over = ledger.tasks.iter().find(|t| t.preempted > t.attempts);
    over.map_or(Ok(()), |t| Err(format!("{} was put back {} times in {} attempts", t.id, t.preempted, t.attempts)))
}

fn repeats_are_strict(_: &World, ledger: &Ledger) -> Result<(), String> {
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

fn patience_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(rules) = &ledger.core.rules else { return Ok(()) };
    let over = |t: &&Task| t.patience(&rules.timeouts).is_some_and(|(due, _)| due <= ledger.core.now);
    let over = ledger.tasks.iter().find(over);
    over.map_or(Ok(()), |t| Err(format!("{} holds a slot at {:?}, past its time", t.id, ledger.core.now)))
}

fn deadlines_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
    let late = ledger.tasks.iter().find(|t| t.deadline.is_some_and(|due| due <= ledger.core.now));
    late.map_or(Ok(()), |t| Err(format!("{} lives at {:?}, past {:?}", t.id, ledger.core.now, t.deadline)))
}

fn sessions_kept(world: &World, ledger: &Ledger) -> Result<(), String> {
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

fn prefixes_kept(world: &World, ledger: &Ledger) -> Result<(), String> {
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

fn budgets_kept(_: &World, ledger: &Ledger) -> Result<(), String> {
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

fn timers_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let rules = ledger.core.rules.as_deref();
    let deadlines = ledger.tasks.iter().filter_map(|t| Some((t.deadline?, TimerKey::Deadline(t.id))));
    let retries = ledger.tasks.iter().filter_map(|t| match t.life {
        Life::Backoff { until } => Some((until, TimerKey::Retry(t.id))),
        Life::Queued | Life::Placed { .. } | Life::Running { .. } | Life::Ended(_) => None,
    });
    let open = ledger.sessions.iter().filter(|s| s.state == SessionState::Open);
    let sessions = open.map(|s| (s.expires, TimerKey::Session(s.id)));
    let breakers = ledger.workers.iter().filter_map(|w| Some((w.fuse_at()?, TimerKey::Breaker(w.id))));
    let weighings = ledger.models.iter().filter_map(|m| Some((m.weigh_at?, TimerKey::Weigh(m.id))));
    let jobs = ledger.jobs.iter().map(|j| (j.due, TimerKey::Job(j.id)));
    let workers = breakers.chain(weighings).chain(jobs);
    let mut called_for: Vec<_> = deadlines.chain(retries).chain(sessions).chain(workers).collect();
    called_for.sort_unstable();
    // Alarms of workers are set anew only when they ring, so they may stand earlier than called for, never later.
    let (mut alarms, mut exact) = (BTreeMap::new(), vec![]);
    for (due, key) in world.wheel.armed() {
        match key {
            TimerKey::Beat(_) | TimerKey::Stranded(_) | TimerKey::Patience(_) => drop(alarms.insert(key, due)),
            TimerKey::Deadline(_)
            | TimerKey::Retry(_)
            | TimerKey::Session(_)
            | TimerKey::Breaker(_)
            | TimerKey::Weigh(_)
            | TimerKey::Job(_) => {
                exact.push((due, key));
            }
        }
    }
    check(exact == called_for, || format!("armed {exact:?}, called for {called_for:?}"))?;
    for worker in &ledger.workers {
        // One that is overdue by new rules rings with the next tick.
        let due = worker.alarm_at(rules).map(|due| due.max(ledger.core.now + Ticks(1)));
        let armed = alarms.remove(&TimerKey::Beat(worker.id));
        check(armed.is_some() == due.is_some() && armed <= due, || format!("{}: alarm {armed:?}, {due:?}", worker.id))?;
    }
    for model in &ledger.models {
        let armed = alarms.remove(&TimerKey::Stranded(model.id));
        let due = model.alarm_at(rules).map(|due| due.max(ledger.core.now + Ticks(1)));
        check(armed == due, || format!("{model:?}: alarm {armed:?}, {due:?}"))?;
    }
    for task in &ledger.tasks {
        let due = rules.and_then(|rules| task.patience(&rules.timeouts)).map(|(due, _)| due);
        let armed = alarms.remove(&TimerKey::Patience(task.id));
        check(armed.is_some() == due.is_some() && armed <= due, || format!("{}: {armed:?}, {due:?}", task.id))?;
    }
    check(alarms.is_empty(), || format!("nobody's alarms: {alarms:?}"))
}

/// A wakeup that got lost shows here in the step that lost it.
fn nobody_waits_in_vain(world: &World, ledger: &Ledger) -> Result<(), String> {
    let could = ledger.models.iter().find_map(|model| placement::startable(world, model.id));
    could.map_or(Ok(()), |(task, worker)| Err(format!("{task} waits, and {worker} has room for it")))
}

fn pools_count_ready(_: &World, ledger: &Ledger) -> Result<(), String> {
    ledger.pools.iter().try_for_each(|pool| {
        let of_pool = |w: &&Worker| w.facts.pool == pool.id && w.takes();
        let ready = ledger.workers.iter().filter(of_pool).count();
        check(ready == usize::from(pool.ready), || format!("{pool:?} has {ready} ready workers"))
    })
}

fn queues_match_tasks(world: &World, ledger: &Ledger) -> Result<(), String> {
    let mut fresh = Queues::default();
    let classes = [Class::Interactive, Class::Batch];
    let lines = || ledger.models.iter().flat_map(|model| classes.map(|class| (model, class)));
    lines().for_each(|(model, class)| fresh.restore(model.id, class, model.line(class).shares.clone()));
    ledger.tasks.iter().filter(|t| t.life == Life::Queued).for_each(|t| fresh.push(t));
    let held = &world.queues;
    lines().map(|(model, class)| (model.id, class)).try_for_each(|(id, class)| {
        let all = |queues: &Queues| -> Vec<_> {
            let tenants = queues.tenants(id, class);
            tenants
                .map(|(tenant, count)| (tenant, count, queues.tasks(id, class, tenant).collect::<Vec<_>>()))
                .collect()
        };
        let (waiting, called_for) = (all(held), all(&fresh));
        check(waiting == called_for, || format!("{waiting:?} wait in {id:?} {class:?}, {called_for:?} should"))?;
        check(held.len(id, class) == fresh.len(id, class), || format!("{id:?} {class:?} is miscounted"))?;
        check(held.order(id, class).eq(fresh.order(id, class)), || format!("{id:?} {class:?} is out of order"))
    })
}

fn field_matches(world: &World, ledger: &Ledger) -> Result<(), String> {
    let field = &world.field;
    let share = ledger.core.rules.as_ref().map_or(Permille(0), |rules| rules.placement.batch_share);
    for model in &ledger.models {
        let mut slots = Slots::default();
        for worker in &ledger.workers {
            let serving = worker.serves(model.id);
            slots.all += serving.map_or(0, |_| worker.offered().into());
            slots.batch += serving.map_or(0, |_| worker.batch_slots(share).into());
            let of = |s| (Offer::of(worker, s, residual(world, worker), share), Speed::of(worker, s));
            let leaf = serving.map_or((Offer::NONE, Speed::NONE), of);
            let held = Field::leaf(world, model.id, worker.id).unwrap_or((Offer::NONE, Speed::NONE));
            check(held == leaf, || format!("{} stands there with {held:?} and has {leaf:?}", worker.id))?;
        }
        let standing = field.model(model.id);
        let held = standing.map_or(Slots::default(), |standing| standing.slots);
        check(held == slots, || format!("{held:?} are counted for {:?}, there are {slots:?}", model.id))?;
        check(standing.is_none_or(|s| s.tree.adds_up() && s.speeds.adds_up()), || {
            format!("a node of {:?} is not its best", model.id)
        })?;
    }
    let up = ledger.workers.iter().filter(|w| w.takes());
    let totals = Totals {
        leases: ledger.workers.iter().map(|w| w.leases.len() as u64).sum(),
        slots: up.map(|w| u64::from(w.offered())).sum(),
        reserved: ledger.devices.iter().map(|d| d.reserved.0).sum(),
        used: ledger.devices.iter().map(|d| d.reserved.0 + d.weights.0).sum(),
    };
    check(field.totals == totals, || format!("{:?} are counted, there are {totals:?}", field.totals))
}

fn victims_match(world: &World, ledger: &Ledger) -> Result<(), String> {
    let lost = ledger.workers.iter().flat_map(|w| &w.leases).find(|l| l.called_back && !l.revoked);
    check(lost.is_none(), || format!("{lost:?} is called back and not revoked"))?;
    let called_for = Victims::of_all(ledger.tasks.iter(), ledger.workers.iter(), ledger.core.rules.as_deref());
    let held = &world.victims;
    check(*held == called_for, || format!("{held:?}, {called_for:?} is called for"))
}

fn digest_matches(world: &World, ledger: &Ledger) -> Result<(), String> {
    let Some(running) = digest(world) else { return Ok(()) };
    let whole = full_digest(ledger);
    check(running == whole, || format!("{running} was kept up, {whole} is computed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_audit_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = AUDITS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), AUDITS.len());
    }
}
