//! Recovery: the state that the last run came to, and what this boot has to tell it first.
//!
//! Reads a taken journal and its spool: the newest snapshot, the records since executed again and held
//! against their digests, and the words and results that belong to that state. Writes nothing; whatever does
//! not fit ends the boot with what to do about it.

pub(crate) mod shadow;

use crate::clock::wall_ms;
use crate::journal::{JournalError, Taken, tail};
use crate::replay::ReplayError;
use crate::replay::rerun::Rerun;
use crate::spool::{Card, Finished, Found, Line, Wanted, load};
use orchestrion_systems::{RestoreError, Simulation};
use orchestrion_world::budget::Amount;
use orchestrion_world::config::{Loadable, Rules};
use orchestrion_world::id::{Epoch, ModelId, TaskId, WorkerId};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::{CancelReason, Input, Intent, Report};
use orchestrion_world::time::{Tick, Ticks};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Why a boot cannot go on from the last run.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(
        "the state of the last run, recorded by build {build}, cannot be recovered: {source}; start that build, or \
         name another folder (`journal.dir`) to begin without what was unfinished"
    )]
    Differs { build: String, source: Box<ReplayError> },
    #[error("the recovered ledger is no state of a world: {0}; `orch replay` says more")]
    Restore(#[from] RestoreError),
    #[error(
        "the journal holds {tasks} unfinished tasks of the models {was}, and the configuration has the models {is}; \
         start once with the `pools` it had and let them finish, or name another folder (`journal.dir`)"
    )]
    OtherPools { tasks: usize, was: String, is: String },
    #[error(
        "the {tasks} unfinished tasks in the journal do not fit the configuration's rules: {problem}; start once with \
         the `queue` and `retry` it had and let them finish, or name another folder (`journal.dir`)"
    )]
    OtherRules { tasks: usize, problem: String },
}

/// A task that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub wanted: Wanted,
    /// Readers may have seen tokens of it: it ends, and those are gone.
    pub cut: bool,
}

/// What the door has to know again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub unfinished: Vec<Unfinished>,
    /// The oldest first.
    pub finished: Vec<Finished>,
}

/// What the stations of this process have to know of those before them.
#[derive(Clone, Debug, Default)]
pub struct Heritage {
    epochs: BTreeMap<WorkerId, Epoch>,
    /// Model and fingerprint of the tasks that go on.
    tasks: Vec<(TaskId, ModelId, String)>,
}

impl Heritage {
    fn of(ledger: &Ledger, found: &Found) -> Heritage {
        let epochs = ledger.workers.iter().map(|worker| (worker.id, worker.epoch)).collect();
        let fingerprint = |task| found.wanted.get(task).map(|wanted| wanted.card.fingerprint.clone());
        let tasks = ledger.tasks.iter().filter_map(|task| Some((task.id, task.spec.model, fingerprint(&task.id)?)));
        Heritage { epochs, tasks: tasks.collect() }
    }

    /// The epoch that a worker of this process announces itself with.
    pub fn next_epoch(&self, worker: WorkerId) -> Epoch {
        Epoch(self.epochs.get(&worker).map_or(0, |last| last.0) + 1)
    }

    /// Tasks of a model that were made into tokens for another file or engine than `fingerprint` names: what
    /// is there now would read something else.
    pub fn strangers(&self, model: ModelId, fingerprint: &str) -> Vec<TaskId> {
        let strange = |(_, of, known): &&(TaskId, ModelId, String)| *of == model && known != fingerprint;
        self.tasks.iter().filter(strange).map(|(task, ..)| *task).collect()
    }
}

/// Where a run begins.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) ledger: Ledger,
    pub(crate) past: Past,
    /// The tick of this moment: time went on while the server was down.
    pub(crate) tick: Tick,
    /// The first step's.
    pub(crate) inputs: Vec<Input>,
    pub(crate) heritage: Heritage,
}

/// What a boot with `rules` begins from; `seed` keys a world that begins empty.
pub(crate) fn recover(taken: &Taken, rules: &Rules, seed: u64) -> Result<Recovered, RecoverError> {
    let last = last_state(taken)?;
    let mut found = load(&taken.config().dir)?;
    let ledger = match last {
        Some(ledger) if fits(&ledger, rules, &found)? => ledger,
        Some(ledger) => left(ledger, seed),
        None => Ledger::empty(seed),
    };
    forget_fragments(&mut found, &ledger);
    let wall = wall_ms();
    let tick = tick_at(&ledger, wall);
    let inputs = first_inputs(&ledger, rules, &found, wall);
    check(&ledger, tick, &inputs)?;
    let heritage = Heritage::of(&ledger, &found);
    let past = past(&ledger, found);
    if ledger.core.booted.is_some() {
        let (unfinished, results) = (past.unfinished.len(), past.finished.len());
        tracing::info!(
            tasks = ledger.tasks.len(),
            unfinished,
            results,
            tick = tick.0,
            "the last run's state is recovered"
        );
    }
    Ok(Recovered { ledger, past, tick, inputs, heritage })
}

/// The newest state that can be read, and the records since executed again.
fn last_state(taken: &Taken) -> Result<Option<Ledger>, RecoverError> {
    let Some(last) = taken.last() else { return Ok(None) };
    let began = Instant::now();
    let run = tail(&taken.config().dir, last)?;
    let mut rerun = Rerun::new(&run.segments, None);
    match rerun.recover() {
        Ok(records) => {
            let (segments, ms) = (run.segments.len(), began.elapsed().as_millis());
            tracing::info!(segments, "recovered {records} records in {ms} ms");
            Ok(rerun.simulation.map(|simulation| simulation.ledger()))
        }
        // These name the build and what to do themselves.
        Err(ReplayError::Journal(error)) => Err(error.into()),
        Err(source) => Err(RecoverError::Differs { build: rerun.build, source: Box::new(source) }),
    }
}

/// Parts of a task of which another is missing: the process died before all were taken in, and nobody was told of
/// any. Without words, those that live are cancelled.
fn forget_fragments(found: &mut Found, ledger: &Ledger) {
    let live: BTreeSet<TaskId> = ledger.tasks.iter().map(|task| task.id).collect();
    let wanted = found.wanted.values().map(|wanted| &wanted.card).filter(|card| live.contains(&card.task));
    let finished = found.finished.values().map(|finished| &finished.card).filter(|card| !live.contains(&card.task));
    let mut there: BTreeMap<TaskId, u32> = BTreeMap::new();
    for part in wanted.chain(finished).filter_map(|card| card.part.as_ref()) {
        *there.entry(part.of).or_default() += 1;
    }
    let is_whole = |card: &Card| card.part.as_ref().is_none_or(|part| there.get(&part.of) == Some(&part.count));
    found.wanted.retain(|_, wanted| is_whole(&wanted.card));
    found.finished.retain(|_, finished| is_whole(&finished.card));
}

/// Whether the state can go on under the rules. One of other models or pools cannot, and is left only where
/// no task is lost by it.
fn fits(ledger: &Ledger, rules: &Rules, found: &Found) -> Result<bool, RecoverError> {
    let Some(was) = &ledger.core.rules else { return Ok(true) };
    if was.models == rules.models && was.pools == rules.pools && was.loadable == rules.loadable {
        return Ok(true);
    }
    let tasks = ledger.tasks.iter().filter(|task| found.wanted.contains_key(&task.id)).count();
    let named = |rules: &Rules| {
        let pools = rules.pools.iter().map(|pool| format!("`{}` (pool `{}`)", pool.model, pool.name));
        let loadable = rules.loadable.iter().map(|row| {
            let Loadable { model, pools, digest, weights, ctx_max, keep, .. } = row;
            let (pools, weights) = (pools.join("`, `"), weights.0);
            format!(
                "`{model}` (loadable by `{pools}`, {keep:?}, {weights} bytes, context {ctx_max}, {:.8})",
                digest.to_string()
            )
        });
        pools.chain(loadable).collect::<Vec<_>>().join(", ")
    };
    if tasks > 0 {
        return Err(RecoverError::OtherPools { tasks, was: named(was), is: named(rules) });
    }
    tracing::warn!(was = named(was), is = named(rules), "other models or pools: sessions and jobs are forgotten");
    Ok(false)
}

/// What is left of a state that cannot go on: what tenants have spent. With the first rules those stay that these name.
fn left(was: Ledger, seed: u64) -> Ledger {
    let spent = was.tenants.into_iter().map(|mut tenant| {
        (tenant.live, tenant.account.reserved) = (0, Amount::default());
        tenant
    });
    Ledger { tenants: spent.collect(), ..Ledger::empty(seed) }
}

/// The wall clock passes while nothing runs, and deadlines with it. A clock that was set back adds nothing.
fn tick_at(ledger: &Ledger, wall_ms: u64) -> Tick {
    let now = ledger.core.now;
    let last_wall = ledger.core.booted.map(|(wall, at)| wall.saturating_add(now.since(at).0));
    now + Ticks(last_wall.map_or(0, |last| wall_ms.saturating_sub(last)))
}

/// Boot, with which every worker is gone, and rules; then the tasks whose words nobody kept, which are those
/// that lived with a connection.
fn first_inputs(ledger: &Ledger, rules: &Rules, found: &Found, wall_ms: u64) -> Vec<Input> {
    let mut inputs = vec![Input::Boot { wall_ms }, Input::SetRules(Box::new(rules.clone()))];
    let live = ledger.workers.iter().filter(|worker| worker.state.is_up());
    inputs.extend(live.map(|worker| {
        // The boot says as much; this is for who reads the journal for what came from outside.
        let (worker, epoch) = (worker.id, worker.epoch);
        Input::Report(Report::WorkerDown { worker, epoch, error: None })
    }));
    let wordless = ledger.tasks.iter().filter(|task| !found.wanted.contains_key(&task.id));
    inputs
        .extend(wordless.map(|task| Input::Intent(Intent::Cancel { task: task.id, reason: CancelReason::Disconnect })));
    inputs
}

/// Takes the first step in a world that nobody sees: rules that the tasks do not fit are said before they
/// stand in the journal.
fn check(ledger: &Ledger, tick: Tick, inputs: &[Input]) -> Result<(), RecoverError> {
    let mut trial = Simulation::restore(ledger)?;
    // A step that breaks an invariant is for the journal to keep, and the pulse sees to that.
    if catch_unwind(AssertUnwindSafe(|| trial.step(tick, inputs.to_vec()))).is_err() {
        return Ok(());
    }
    trial.audit().map_err(|broken| RecoverError::OtherRules { tasks: ledger.tasks.len(), problem: broken.to_string() })
}

/// The journal says which tasks live: their words count, and of the others the results.
fn past(ledger: &Ledger, found: Found) -> Past {
    let Found { mut wanted, finished, .. } = found;
    let mut past = Past::default();
    let mut results = finished;
    for task in &ledger.tasks {
        // A result that the journal does not confirm is one that nobody was told of.
        results.remove(&task.id);
        if let Some(wanted) = wanted.remove(&task.id) {
            past.unfinished.push(Unfinished { wanted, cut: task.tokens_out > 0 });
        }
    }
    past.finished = results.into_values().collect();
    past.finished.sort_by_key(|finished| finished.wall_ms);
    past
}

impl Past {
    /// As lines of a spool.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        let wanted = self.unfinished.iter().map(|task| Line::Wanted(Box::new(task.wanted.clone())));
        wanted.chain(self.finished.iter().map(|finished| Line::Finished(Box::new(finished.clone()))))
    }
}

#[cfg(test)]
mod tests;
