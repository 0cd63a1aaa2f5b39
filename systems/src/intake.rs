//! Intake: sorts the step's inputs by who reads them, takes in boots and rules, fires due timers.

use crate::admission::tenants;
use crate::release::patience;
use crate::{Inbox, prefixes, sessions};
use bevy_ecs::prelude::ResMut;
use orchestrion_world::config::Rules;
use orchestrion_world::id::{ModelId, PoolId, TaskId};
use orchestrion_world::mail::{Answers, AttemptEnd, Made, Mail, ShardWord, Verified, Word};
use orchestrion_world::protocol::{Input, Intent, Notice, Report};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::Task;
use orchestrion_world::wheel::{Alarm, TimerKey};
use orchestrion_world::worker::{Model, Pool};

/// Retries that a fresh server may make before admissions have earned any, in thousandths: enough to
/// ride out the loss of one worker.
const RETRY_BUDGET_AT_START: u64 = 10_000;

pub(crate) fn take_in(mut world: ResMut<'_, World>, mut inbox: ResMut<'_, Inbox>) {
    let world = &mut *world;
    let Inbox { tick, inputs } = std::mem::take(&mut *inbox);
    let core = &mut world.core;
    core.now = core.now.max(tick);
    let now = core.now;
    let fired = world.wheel.advance(now);
    let mail = &mut world.mail;
    for key in fired {
        match key {
            TimerKey::Session(id) => mail.expired.push(id),
            key => mail.due.push(key),
        }
    }
    for input in inputs {
        match input {
            Input::Boot { wall_ms } => boot(world, wall_ms),
            Input::SetRules(rules) => set_rules(world, *rules),
            Input::Intent(intent) => sort_intent(&mut world.mail, intent),
            Input::Report(report) => sort_report(&mut world.mail, report),
        }
    }
    #[cfg(feature = "planted")]
    crate::planted::misread(world);
}

/// What readers were shown died with the process that showed it: nobody could tell whether another attempt says
/// the same.
fn boot(world: &mut World, wall_ms: u64) {
    let core = &mut world.core;
    core.booted = Some((wall_ms, core.now));
    // Every task is looked at, once in the life of a process.
    let shown = |key: &Key| world.get_by::<Task>(*key).filter(|task| task.tokens_out > 0).map(|task| task.id);
    let cut: Vec<TaskId> = world.names().iter().filter_map(shown).collect();
    let mail = &mut world.mail;
    mail.cut.extend(cut);
    mail.booted = true;
}

fn sort_intent(mail: &mut Mail, intent: Intent) {
    match intent {
        Intent::Submit { task, spec } => mail.submits.push((task, spec)),
        Intent::Cancel { task, reason } => mail.cancels.push((task, reason)),
        Intent::Close { session } => mail.closed.push(session),
        Intent::Operate { job, pool, action } => mail.operations.push((job, pool, action)),
    }
}

fn sort_report(mail: &mut Mail, report: Report) {
    match report {
        Report::WorkerUp { worker, epoch, facts } => mail.words.push(Word::Up(worker, epoch, facts)),
        Report::WorkerDown { worker, epoch, error } => mail.words.push(Word::Down(worker, epoch, error)),
        Report::Loading { worker, epoch } => mail.words.push(Word::Loading(worker, epoch)),
        Report::ShardCorrupt { worker, epoch, digest } => mail.words.push(Word::Corrupt(worker, epoch, digest)),
        Report::Beat { worker, epoch } => mail.words.push(Word::Alive(worker, epoch)),
        Report::Started { worker, epoch, task, attempt } => mail.starts.push((worker, epoch, task, attempt)),
        Report::Progress { worker, epoch, made } => mail.progress.push(Made { worker, epoch, tokens: made }),
        Report::Finished { worker, epoch, task, attempt, usage } => {
            mail.ends.push(AttemptEnd { worker, epoch, task, attempt, result: Ok(usage) });
        }
        Report::Faulted { worker, epoch, task, attempt, class } => {
            mail.ends.push(AttemptEnd { worker, epoch, task, attempt, result: Err(class) });
        }
        Report::ShardLoaded { worker, epoch, model, order, facts } => {
            mail.shards.push((Answers { worker, epoch, model, order }, ShardWord::Loaded(facts)));
        }
        Report::ShardFailed { worker, epoch, model, order, fault } => {
            mail.shards.push((Answers { worker, epoch, model, order }, ShardWord::Failed(fault)));
        }
        Report::ShardFreed { worker, epoch, model, order } => {
            mail.shards.push((Answers { worker, epoch, model, order }, ShardWord::Freed));
        }
        Report::ShardVerified { worker, epoch, model, job, seal } => {
            mail.verified.push(Verified { worker, epoch, model, job, seal });
        }
    }
}

/// The first rules make the models and pools; later ones may change any policy or bound, not the names
/// that ids stand for.
fn set_rules(world: &mut World, rules: Rules) {
    if rules.check().is_err() {
        return world.mail.notice(Notice::RulesRefused);
    }
    let core = &world.core;
    let now = core.now;
    let Some(before) = core.rules.clone() else {
        let alarm = now + rules.health.no_worker_grace;
        for id in (0..rules.models.len()).map(|n| ModelId(n as u16)) {
            let key = Key::Model(id);
            world.enlist(key, (Model::new(id, now), Alarm::default()));
            world.set_alarm(key, Some((alarm, TimerKey::Stranded(id))));
        }
        for (n, pool) in rules.pools.iter().enumerate() {
            let Ok(model) = rules.models.binary_search(&pool.model) else { continue };
            let (id, model) = (PoolId(n as u16), ModelId(model as u16));
            world.enlist(Key::Pool(id), Pool::new(id, model));
        }
        tenants::renew(world, None, &rules);
        let core = &mut world.core;
        core.retry_budget = RETRY_BUDGET_AT_START;
        core.set_rules(rules);
        return;
    };
    if before.models == rules.models && before.pools == rules.pools && before.loadable == rules.loadable {
        renew_grace(world, &rules);
        tenants::renew(world, Some(&before), &rules);
        sessions::renew(world, &rules);
        prefixes::renew(world, &rules);
        if before.health.beat_timeout != rules.health.beat_timeout {
            renew_beats(world, &rules);
        }
        // A larger share of batch work lets in who waits.
        let models = (0..rules.models.len()).map(|n| ModelId(n as u16));
        world.mail.stirred.extend(models);
        let changed = *before != rules;
        world.core.set_rules(rules);
        if changed {
            patience::rewind(world);
        }
    } else {
        world.mail.notice(Notice::RulesRefused);
    }
}

/// A shorter patience holds for those that are up as well. Walks all workers: such rules are rare.
fn renew_beats(world: &mut World, rules: &Rules) {
    let alarms: Vec<_> = world.workers().into_iter().map(|w| (w.id, w.alarm_at(Some(rules)))).collect();
    for (id, due) in alarms {
        world.set_alarm(Key::Worker(id), due.map(|due| (due, TimerKey::Beat(id))));
    }
}

/// Rules come with a boot: who waits for a worker waits from here on, by the new grace. That a server was
/// down is no worker's absence.
fn renew_grace(world: &mut World, rules: &Rules) {
    let now = world.core.now;
    world.mail.due.retain(|key| !matches!(key, TimerKey::Stranded(_)));
    for id in (0..rules.models.len()).map(|n| ModelId(n as u16)) {
        let Some(mut model) = world.model_mut(id).filter(|model| model.stranded.is_some()) else { continue };
        model.stranded = Some(now);
        world.set_alarm(Key::Model(id), Some((now + rules.health.no_worker_grace, TimerKey::Stranded(id))));
    }
}
