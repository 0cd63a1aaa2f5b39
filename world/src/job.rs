//! Jobs: what an operator asked of a pool, in visible steps. At most one runs in a pool; those that are over
//! are kept for a while.

use crate::id::{Epoch, JobId, ModelId, PoolId, WorkerId};
use crate::time::{Tick, Ticks};
use crate::units::{Bytes, Sha256};
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
    /// Looks whether the weights that its workers serve from are what was loaded. They go on working.
    Verify,
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
    /// Weights on this worker are not what was loaded.
    Corrupt(WorkerId),
    /// This worker was lost before its weights had been looked at.
    Lost(WorkerId),
}

/// One step of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub name: StepName,
    pub status: StepStatus,
    /// What a step that verifies looks at.
    pub check: Option<Check>,
}

/// The weights of a model on a worker, and what was found of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub worker: WorkerId,
    /// The life of the worker that serves from them.
    pub epoch: Epoch,
    pub model: ModelId,
    /// SHA-256 of the model file.
    pub digest: Sha256,
    pub bytes: Bytes,
    pub found: Option<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// They are what was loaded; the root of the hashes over them as they are.
    Sound { seal: Sha256 },
    /// They are not, and are not served from any more.
    Corrupt,
    /// Their worker was lost before it had looked at them, and may come back with them.
    Lost,
    /// Another model took their place before they had been looked at.
    Gone,
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
    /// A worker computes the hashes of a model's weights anew, beside its work.
    Verify,
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
    /// The steps that it goes through; a verification has one for each model on each worker instead.
    pub fn steps(self) -> &'static [StepName] {
        match self {
            Action::Drain { .. } => &[StepName::Drain],
            Action::Resume => &[StepName::Open],
            Action::Reload { .. } => &[StepName::Drain, StepName::Stop, StepName::Load, StepName::Open],
            Action::Purge { drain: Some(_), .. } => &[StepName::Drain, StepName::Stop],
            Action::Purge { drain: None, .. } => &[StepName::Stop],
            Action::Verify => &[],
        }
    }

    /// How long its tasks may take to end.
    pub fn deadline(self) -> Ticks {
        match self {
            Action::Drain { deadline } | Action::Reload { deadline, .. } => deadline,
            Action::Purge { drain, .. } => drain.unwrap_or_default(),
            Action::Resume | Action::Verify => Ticks(0),
        }
    }

    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Action::Drain { .. } => "drain",
            Action::Resume => "resume",
            Action::Reload { .. } => "reload",
            Action::Purge { .. } => "purge",
            Action::Verify => "verify",
        }
    }
}

impl Job {
    /// Where the running step stands in `steps`.
    pub fn current(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.status == StepStatus::Running)
    }

    /// What the running step looks at, if the job runs and verifies.
    pub fn checking(&self) -> Option<&Check> {
        let at = self.current().filter(|_| !self.state.is_over())?;
        self.steps[at].check.as_ref()
    }

    /// What speaks against the weights that it looked at, the worst first.
    pub fn doubt(&self) -> Option<JobFault> {
        let first = |found| {
            let mut checks = self.steps.iter().filter_map(|step| step.check.as_ref());
            checks.find(|check| check.found == Some(found)).map(|check| check.worker)
        };
        first(Finding::Corrupt).map(JobFault::Corrupt).or(first(Finding::Lost).map(JobFault::Lost))
    }
}

impl Step {
    /// One that is to come.
    pub fn of(name: StepName) -> Step {
        Step { name, status: StepStatus::Pending, check: None }
    }
}

impl Finding {
    /// The name on the wire.
    pub fn label(self) -> &'static str {
        match self {
            Finding::Sound { .. } => "ok",
            Finding::Corrupt => "corrupt",
            Finding::Lost => "lost",
            Finding::Gone => "gone",
        }
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
            StepName::Verify => "verify",
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
