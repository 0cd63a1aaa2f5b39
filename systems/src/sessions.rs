//! Sessions: opened by their first turn, ended by their time or their client, and where there are too many by the
//! one idle session that would expire first. A session that ends while a turn of it waits or runs takes no more,
//! and goes with the last. Nothing of a session is about words: the client sends the conversation anew.

use bevy_ecs::prelude::ResMut;
use orchestrion_world::budget::{Account, Amount, Left};
use orchestrion_world::config::Rules;
use orchestrion_world::id::SessionId;
use orchestrion_world::protocol::{Payer, Refusal, SessionOver};
use orchestrion_world::session::{Session, SessionState};
use orchestrion_world::store::{Key, World};
use orchestrion_world::task::Task;
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::Bytes;
use orchestrion_world::wheel::{Alarm, TimerKey};

/// Where every session has a turn in it: about as long as one takes.
const RETRY_AFTER_FULL: Ticks = Ticks(1_000);

/// What a client may see of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    pub ttl: Ticks,
    pub turns: u32,
    /// Context memory that its turns hold now; no worker keeps any between turns.
    pub kv: Bytes,
    pub left: Left,
}

pub(crate) fn end_sessions(mut world: ResMut<'_, World>) {
    let world = &mut *world;
    let mail = &mut world.mail;
    let (mut expired, closed) = (std::mem::take(&mut mail.expired), std::mem::take(&mut mail.closed));
    if planted!(world, SessionOutlivesTime) {
        expired.clear();
    }
    let ends = |ids: Vec<SessionId>, state| ids.into_iter().map(move |id| (id, state));
    for (id, state) in ends(expired, SessionState::Expired).chain(ends(closed, SessionState::Closed)) {
        let Some(mut session) = world.session_mut(id) else { continue };
        if session.is_idle() {
            forget(world, id);
        } else if session.state == SessionState::Open {
            session.state = state;
            world.set_alarm(Key::Session(id), None);
        }
    }
}

/// Whether a turn that may use so much at most would be taken.
pub(crate) fn judge(world: &World, rules: &Rules, id: SessionId, most: &Amount) -> Result<(), Refusal> {
    let lacks = |account: &Account| match account.lacks(most) {
        Some((kind, left)) => {
            Err(Refusal::BudgetExhausted { of: Payer::Session, kind, needed: most.0[kind as usize], left })
        }
        None => Ok(()),
    };
    let Some(session) = world.session(id) else {
        let index = &world.sessions;
        if index.count >= rules.sessions.max as usize && index.idle.is_empty() {
            return Err(Refusal::SessionsFull { bound: rules.sessions.max, retry_after: RETRY_AFTER_FULL });
        }
        return lacks(&Account::new(&rules.sessions.budget));
    };
    let over = match session.state {
        SessionState::Expired => Some(SessionOver::Expired),
        SessionState::Closed => Some(SessionOver::Closed),
        SessionState::Open if session.turns >= session.turns_max && !planted!(world, TurnsUnlimited) => {
            Some(SessionOver::Turns(session.turns_max))
        }
        SessionState::Open => None,
    };
    match over {
        Some(over) => Err(Refusal::SessionOver { over }),
        None => lacks(&session.account),
    }
}

/// Takes a turn that was judged, and opens the session where it is the first; what is left of its budget.
pub(crate) fn begin_turn(world: &mut World, rules: &Rules, id: SessionId, task: &Task) -> Left {
    let now = world.core.now;
    if world.session(id).is_none() {
        let index = &world.sessions;
        if index.count >= rules.sessions.max as usize
            && let Some(&(_, oldest)) = index.idle.first()
        {
            forget(world, oldest);
        }
        world.enlist(Key::Session(id), (Session::new(id, &rules.sessions), Alarm::default()));
        world.sessions.count += 1;
    }
    let Some(mut session) = world.session_mut(id) else { return Left::default() };
    let idle = (session.expires, id);
    session.turns += 1;
    session.expires = now + rules.sessions.ttl;
    session.account.reserve(&task.reserved);
    let place = session.tasks.partition_point(|other| *other < task.id);
    session.tasks.insert(place, task.id);
    let (left, expires) = (session.account.left(), session.expires);
    world.sessions.idle.remove(&idle);
    world.set_alarm(Key::Session(id), Some((expires, TimerKey::Session(id))));
    left
}

/// A turn is over.
pub(crate) fn end_turn(world: &mut World, id: SessionId, task: &Task, used: &Amount) {
    let most = world.core.rules.as_ref().map_or(0, |rules| rules.sessions.max as usize);
    let many = world.sessions.count > most;
    let Some(mut session) = world.session_mut(id) else { return };
    session.tasks.retain(|other| *other != task.id);
    session.account.settle(&task.reserved, used);
    if !session.is_idle() {
        return;
    }
    let idle = (session.expires, id);
    if session.state == SessionState::Open && !many {
        world.sessions.idle.insert(idle);
    } else {
        forget(world, id);
    }
}

/// Rules may allow fewer than there are: idle ones go.
pub(crate) fn renew(world: &mut World, rules: &Rules) {
    loop {
        let index = &world.sessions;
        let Some(&(_, oldest)) = index.idle.first().filter(|_| index.count > rules.sessions.max as usize) else {
            return;
        };
        forget(world, oldest);
    }
}

fn forget(world: &mut World, id: SessionId) {
    let Some(expires) = world.session(id).map(|session| session.expires) else { return };
    world.set_alarm(Key::Session(id), None);
    world.discharge(Key::Session(id));
    let index = &mut world.sessions;
    index.idle.remove(&(expires, id));
    index.count -= 1;
}

/// What a client may see of it; none where there is no such session.
pub(crate) fn view(world: &World, id: SessionId, now: Tick) -> Option<SessionView> {
    let session = world.session(id).filter(|session| session.expires > now || !session.is_idle())?;
    let held = |task| {
        let worker = world.worker(world.task(task)?.life.worker()?)?;
        worker.leases.iter().find(|lease| lease.task == task).map(|lease| lease.kv.0)
    };
    let kv = Bytes(session.tasks.iter().filter_map(|&task| held(task)).sum());
    Some(SessionView { ttl: session.expires.since(now), turns: session.turns, kv, left: session.account.left() })
}
