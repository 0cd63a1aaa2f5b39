//! Deliberate bugs, one at a time and chosen at run time: they prove that the audits and the storm see. Built
//! with the feature `planted` alone, which only tests of the storm turn on; without it nothing of this is
//! compiled, and `planted!` is `false`.

use bevy_ecs::prelude::Resource;
use orchestrion_world::id::{Attempt, ModelId, TaskId, WorkerId};
use orchestrion_world::mail::Word;
use orchestrion_world::protocol::{Effect, Notice};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::{Life, TaskTimers};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::wheel::TimerKey;
use orchestrion_world::worker::Model;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which one a world has.
#[derive(Resource, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The end of a cancelled task is told twice.
    EndToldTwice,
    /// What a worker says of a task after its end is passed on.
    WordAfterEnd,
    /// A lost worker keeps its leases.
    SlotLeakOnCrash,
    /// A fault gives no slot back.
    SlotLeakOnFault,
    /// A device is charged a byte less than a task takes.
    MemoryOffByOne,
    /// Words of an older life count.
    NoEpochFencing,
    /// The end of one attempt ends another.
    NoAttemptFencing,
    /// One attempt more than the rules allow.
    RetryBeyondLimit,
    /// Retries cost nothing of the budget.
    RetryUnpaid,
    /// A retried task goes to the end of its line.
    RetryLosesPlace,
    /// A deadline passes in vain while its task waits to be tried again.
    DeadlineIgnoredInBackoff,
    /// A queue takes one more than its bound.
    QueueBoundOffByOne,
    /// Who comes last is first.
    LastInFirstOut,
    /// The lease of a batch task counts as an interactive one's.
    BatchLeaseMisfiled,
    /// Nobody hears of a slot that came free.
    LostWakeup,
    /// Nobody hears of memory that came free on a shared device.
    SharedMemoryUnnoticed,
    /// The timers of a task that ended stay armed.
    TimerNotDisarmed,
    /// A model changes and nobody is told: the digest keeps what it was.
    ModelChangesUnseen,
    /// A restored world forgets to try tasks again.
    RestoreForgetsRetries,
    /// A cancel of a task that waits to be tried again is forgotten.
    CancelForgottenInBackoff,
    /// A pool goes on counting the workers that it lost.
    ReadyMiscounted,
    /// A breaker opens, and tasks go on as before.
    BreakerIgnored,
    /// Nobody stops restarting what goes on dying.
    RestartsUnlimited,
    /// A model makes way while tasks run on it.
    EvictsLeased,
    /// A model that is pinned makes way too.
    EvictsPinned,
    /// What an ended task used is settled a second time.
    SettledTwice,
    /// Nobody looks whether a budget has as much.
    BudgetOverdrawn,
    /// A drained pool goes on taking tasks.
    DrainStillPlaces,
    /// The deadline of a drain passes in vain.
    DrainNeverEnds,
    /// A reload loads what the pool had.
    ReloadForgotten,
    /// A session takes turns without end.
    TurnsUnlimited,
    /// A session lives on after its time.
    SessionOutlivesTime,
    /// What a worker knew of prompts is counted on after its model has gone.
    PrefixOutlivesModel,
    /// Weights that a verification finds corrupt are taken for some whose worker was lost.
    CorruptionUnheard,
    /// A verification goes on waiting for a worker that was lost.
    VerifierForgotten,
    /// A decision hangs on something that no input says.
    HiddenState,
}

impl Bug {
    pub const ALL: [Bug; 36] = [
        Bug::EndToldTwice,
        Bug::WordAfterEnd,
        Bug::SlotLeakOnCrash,
        Bug::SlotLeakOnFault,
        Bug::MemoryOffByOne,
        Bug::NoEpochFencing,
        Bug::NoAttemptFencing,
        Bug::RetryBeyondLimit,
        Bug::RetryUnpaid,
        Bug::RetryLosesPlace,
        Bug::DeadlineIgnoredInBackoff,
        Bug::QueueBoundOffByOne,
        Bug::LastInFirstOut,
        Bug::BatchLeaseMisfiled,
        Bug::LostWakeup,
        Bug::SharedMemoryUnnoticed,
        Bug::TimerNotDisarmed,
        Bug::ModelChangesUnseen,
        Bug::RestoreForgetsRetries,
        Bug::CancelForgottenInBackoff,
        Bug::ReadyMiscounted,
        Bug::BreakerIgnored,
        Bug::RestartsUnlimited,
        Bug::EvictsLeased,
        Bug::EvictsPinned,
        Bug::SettledTwice,
        Bug::BudgetOverdrawn,
        Bug::DrainStillPlaces,
        Bug::DrainNeverEnds,
        Bug::ReloadForgotten,
        Bug::TurnsUnlimited,
        Bug::SessionOutlivesTime,
        Bug::PrefixOutlivesModel,
        Bug::CorruptionUnheard,
        Bug::VerifierForgotten,
        Bug::HiddenState,
    ];
}

/// Whether the world has the bug.
pub(crate) fn has(world: &World, bug: Bug) -> bool {
    world.entities.get_resource::<Bug>() == Some(&bug)
}

/// Gives a world a bug, once.
pub(crate) fn plant(world: &mut World, bug: Bug) {
    if has(world, bug) {
        return;
    }
    world.entities.insert_resource(bug);
    if bug == Bug::RestoreForgetsRetries {
        // The world was just restored, or is empty.
        for key in world.names() {
            forget_retry(world, key);
        }
    }
}

fn forget_retry(world: &mut World, key: Key) {
    let Some(entity) = world.whereabouts(key) else { return };
    let retry = world.entities.get_mut::<TaskTimers>(entity).and_then(|mut timers| timers.retry.take());
    if let Some(timer) = retry {
        world.wheel.disarm(timer);
    }
}

/// At the end of intake: what the phases are given is not what came in.
pub(crate) fn misread(world: &mut World) {
    let Some(bug) = world.entities.get_resource::<Bug>().copied() else { return };
    let mut mail = std::mem::take(&mut world.mail);
    let backs_off = |id: &TaskId| world.task(*id).is_some_and(|task| matches!(task.life, Life::Backoff { .. }));
    let epoch = |id| world.worker(id).map(|worker| worker.epoch);
    match bug {
        Bug::SlotLeakOnFault => mail.ends.retain(|end| end.result.is_ok()),
        Bug::CancelForgottenInBackoff => mail.cancels.retain(|(task, _)| !backs_off(task)),
        Bug::DeadlineIgnoredInBackoff => {
            mail.due.retain(|key| !matches!(key, TimerKey::Deadline(task) if backs_off(task)));
        }
        Bug::NoEpochFencing => {
            for word in &mut mail.words {
                if let Word::Down(id, said, _) | Word::Alive(id, said) = word {
                    *said = epoch(*id).unwrap_or(*said);
                }
            }
        }
        Bug::NoAttemptFencing => {
            for end in &mut mail.ends {
                let leases = world.worker(end.worker).map(|worker| worker.leases.as_slice()).unwrap_or_default();
                let lease = leases.iter().find(|lease| lease.task == end.task);
                end.attempt = lease.map_or(end.attempt, |lease| lease.attempt);
            }
        }
        _ => {}
    }
    world.mail = mail;
}

/// Before placement: a queue that nobody came to is not looked at, whatever came free.
pub(crate) fn keep_still(world: &mut World) {
    let mail = &mut world.mail;
    let came = mail.effects.iter().any(|effect| matches!(effect, Effect::Notice(Notice::Accepted { .. })));
    if !came && has(world, Bug::LostWakeup) {
        world.mail.stirred.clear();
    }
}

/// Before the step is closed: something is told, or changed, that should not be.
pub(crate) fn misreport(world: &mut World) {
    let Some(bug) = world.entities.get_resource::<Bug>().copied() else { return };
    let ended = |effect: &Effect| match effect {
        Effect::Notice(Notice::Ended { task, outcome }) => Some((*task, *outcome)),
        Effect::Notice(_) | Effect::Order(_) => None,
    };
    let Some((task, outcome)) = world.mail.effects.iter().find_map(ended) else { return };
    match bug {
        Bug::EndToldTwice => world.mail.notice(Notice::Ended { task, outcome }),
        Bug::WordAfterEnd => {
            let notice = Notice::Started { task, attempt: Attempt::of(0, 1), worker: WorkerId(1) };
            world.mail.notice(notice);
        }
        Bug::ModelChangesUnseen => {
            let entity = world.whereabouts(Key::Model(ModelId(0)));
            if let Some(mut model) = entity.and_then(|entity| world.entities.get_mut::<Model>(entity)) {
                model.batch.service = Some(Ticks(model.batch.service.map_or(1, |service| service.0 + 1)));
            }
        }
        _ => {}
    }
}

/// A backoff that hangs on how often this process has asked.
pub(crate) fn until(world: &World, until: Tick) -> Tick {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let asked = ASKED.fetch_add(1, Ordering::Relaxed);
    if has(world, Bug::HiddenState) { until + Ticks(asked % 7) } else { until }
}

/// A task that comes back from its backoff goes to the end of its line.
pub(crate) fn lose_place(world: &mut World, id: TaskId) {
    if has(world, Bug::RetryLosesPlace) {
        let last = world.core.ordinals;
        if let Some(mut task) = world.task_mut(id) {
            task.ordinal = last;
        }
    }
}
