//! Jobs: what an operator asked of a pool, in visible steps. At most one runs in a pool; those that are over
//! are kept for a while.

use crate::id::{JobId, ModelId, PoolId, WorkerId};
use crate::time::{Tick, Ticks};
use bevy_ecs::prelude::Component;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One job.
#[derive(Component, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub pool: PoolId,
    pub action: Action,
    pub state: JobState,
    /// In order; one of a running job's is running.
    pub steps: Vec<Step>,
    /// Workers that the running step waits for, sorted.
    pub waiting: Vec<WorkerId>,
    pub begun: Tick,
    /// When the running step's time is over; of a job that is over, when it is forgotten.
    pub due: Tick,
    /// What the pool served when it began.
    pub model: ModelId,
    /// What made a reload go back to it.
    pub fault: Option<JobFault>,
}

/// What is asked of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Takes no new tasks; those that run end, at the latest after this long.
    Drain { deadline: Ticks },
    /// Takes tasks again, whatever kept it from it: a drain, a storm of restarts, a breaker, a quarantine.
    Resume,
    /// Serves another model of the rules from here on, or the old one if anything fails.
    Reload { model: ModelId, deadline: Ticks },
    /// Gives its memory back. Without a drain first, only where nothing runs or by force.
    Purge { drain: Option<Ticks>, force: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobState {
    Running,
    Done,
    Failed(JobFault),
    /// Another job took its place, or the process that ran it ended.
    Cancelled,
}

/// Why a job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JobFault {
    /// This worker did not come up.
    NotUp(WorkerId),
    /// A step took longer than its time.
    TimedOut,
}

/// One step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub name: StepName,
    pub status: StepStatus,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepName {
    /// No new leases; waits for those there are.
    Drain,
    /// Its workers end and give their memory back.
    Stop,
    /// Its workers load a model, check its seal and warm up.
    Load,
    /// It takes tasks.
    Open,
    /// As load, of the model that it had.
    Restore,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepStatus {
    Pending,
    Running,
    Done,
    Failed,
}

/// Why a job was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobRefusal {
    UnknownPool,
    UnknownModel,
    /// Another job runs there.
    Busy {
        by: JobId,
    },
    /// Tasks run there, and it was neither to be drained nor forced.
    InUse {
        leases: u32,
    },
    /// A job has this id.
    DuplicateJob,
}

impl Action {
    /// The steps that it goes through.
    pub fn steps(self) -> &'static [StepName] {
        match self {
            Action::Drain { .. } => &[StepName::Drain],
            Action::Resume => &[StepName::Open],
            Action::Reload { .. } => &[StepName::Drain, StepName::Stop, StepName::Load, StepName::Open],
            Action::Purge { drain: Some(_), .. } => &[StepName::Drain, StepName::Stop],
            Action::Purge { drain: None, .. } => &[StepName::Stop],
        }
    }

    /// How long its tasks may take to end.
    pub fn deadline(self) -> Ticks {
        match self {
            Action::Drain { deadline } | Action::Reload { deadline, .. } => deadline,
            Action::Purge { drain, .. } => drain.unwrap_or_default(),
            Action::Resume => Ticks(0),
        }
    }

    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Action::Drain { .. } => "drain",
            Action::Resume => "resume",
            Action::Reload { .. } => "reload",
            Action::Purge { .. } => "purge",
        }
    }
}

impl Job {
    /// Where the running step stands in `steps`.
    pub fn current(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.status == StepStatus::Running)
    }
}

impl JobState {
    pub fn is_over(self) -> bool {
        self != JobState::Running
    }

    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed(_) => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

impl StepName {
    pub fn label(self) -> &'static str {
        match self {
            StepName::Drain => "drain",
            StepName::Stop => "stop",
            StepName::Load => "load",
            StepName::Open => "open",
            StepName::Restore => "restore",
        }
    }
}

impl StepStatus {
    pub fn label(self) -> &'static str {
        match self {
            StepStatus::Pending => "pending",
            StepStatus::Running => "running",
            StepStatus::Done => "done",
            StepStatus::Failed => "failed",
        }
    }
}

/// Jobs that are over, the first to be forgotten first. Derived from the jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Finished(pub BTreeSet<(Tick, JobId)>);
