//! Sessions: turns of one conversation. The core keeps what is needed to bound them and to bring a turn back to
//! the worker that had the last; no words.

use crate::budget::{Account, Budget};
use crate::config::{LENGTH_MAX, RulesError, within};
use crate::id::{SessionId, TaskId, WorkerId};
use crate::time::{Tick, Ticks};
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How long sessions live and how many there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRules {
    /// From the admission of its last turn.
    pub ttl: Ticks,
    pub turns_max: u32,
    /// Sessions at a time. Where there are as many, the idle one that would expire first gives way.
    pub max: u32,
    /// Of each session.
    pub budget: Budget,
}

/// A session costs a few hundred bytes, in every snapshot too.
const SESSIONS_MAX: u64 = 1 << 20;

impl SessionRules {
    pub(crate) fn check(&self) -> Result<(), RulesError> {
        within("sessions.ttl", self.ttl.0, 1, LENGTH_MAX)?;
        within("sessions.turns_max", self.turns_max.into(), 1, 1_000_000)?;
        within("sessions.max", self.max.into(), 1, SESSIONS_MAX)?;
        self.budget.check()
    }
}

/// One session.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub state: SessionState,
    /// Admitted so far.
    pub turns: u32,
    pub turns_max: u32,
    pub expires: Tick,
    /// Turns that wait or run, sorted.
    pub tasks: Vec<TaskId>,
    /// Where its last turn was placed.
    pub worker: Option<WorkerId>,
    pub account: Account,
}

/// Whether a session takes turns. One that does not lives until the last turn of it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionState {
    Open,
    /// Its time is over.
    Expired,
    /// Its client closed it.
    Closed,
}

impl Session {
    /// A session without a turn.
    pub fn new(id: SessionId, rules: &SessionRules) -> Session {
        Session {
            id,
            state: SessionState::Open,
            turns: 0,
            turns_max: rules.turns_max,
            expires: Tick(0),
            tasks: vec![],
            worker: None,
            account: Account::new(&rules.budget),
        }
    }

    /// Whether it may give way: nothing of it waits or runs.
    pub fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// How many sessions there are, and the idle ones by the time they expire. Derived: not in the Ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionIndex {
    pub count: usize,
    pub idle: BTreeSet<(Tick, SessionId)>,
}
