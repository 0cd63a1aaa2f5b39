//! Operators' jobs as the core tells of them, for who asks and who follows. Written by the pulse's notices;
//! each job keeps every state that was told, so that a follower misses no step. As many are kept as the core
//! keeps, and a few more.
//!
//! The core knows that a worker did not come up and not why: whoever loads it says that here beforehand.

use crate::loads::Loads;
use orchestrion_world::id::{JobId, WorkerId};
use orchestrion_world::job::{Job, JobFault, JobState, StepStatus};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The core keeps fewer that are over, and one that runs for each pool.
const KEPT: usize = 1_024;

/// Bytes of a reason that are kept.
const WHY_MAX: usize = 1_000;

/// All jobs that are known.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    told: BTreeMap<JobId, watch::Sender<Vec<Told>>>,
    oldest_first: VecDeque<JobId>,
    /// Why a worker last did not come up.
    why: BTreeMap<WorkerId, String>,
}

/// What was told of a job at one time.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) job: Job,
    /// Why a worker of it did not come up, where one did not.
    pub(crate) why: Option<String>,
}

impl Jobs {
    /// A worker does not come up, and the core is about to hear so.
    pub(crate) fn not_up(&self, worker: WorkerId, mut why: String) {
        why.truncate(why.floor_char_boundary(WHY_MAX));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).why.insert(worker, why);
    }

    /// The core told of one.
    pub(crate) fn hear(&self, job: &Job) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match job.fault.or(fault(job)) {
            Some(JobFault::NotUp(worker)) => known.why.get(&worker).cloned(),
            Some(JobFault::TimedOut) | None => None,
        };
        if let Some(told) = known.told.get(&job.id) {
            told.send_modify(|told| {
                // What befell it first made it fail; going back may have failed as well.
                let why = told.last().and_then(|before| before.why.clone()).or(why);
                told.push(Told { job: job.clone(), why });
            });
            return;
        }
        known.told.insert(job.id, watch::Sender::new(vec![Told { job: job.clone(), why }]));
        known.oldest_first.push_back(job.id);
        if known.oldest_first.len() > KEPT
            && let Some(oldest) = known.oldest_first.pop_front()
        {
            known.told.remove(&oldest);
        }
    }

    /// What was told of a job so far, and what will be.
    pub(crate) fn follow(&self, id: JobId) -> Option<watch::Receiver<Vec<Told>>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.told.get(&id).map(watch::Sender::subscribe)
    }
}

fn fault(job: &Job) -> Option<JobFault> {
    match job.state {
        JobState::Failed(fault) => Some(fault),
        JobState::Running | JobState::Done | JobState::Cancelled => None,
    }
}

/// A job as its readers see it.
pub(crate) fn view(Told { job, why }: &Told, pools: &[String], loads: &Loads) -> Value {
    let steps = job.steps.iter().map(|step| {
        let mut view = json!({"name": step.name.label(), "status": step.status.label()});
        let running = step.status == StepStatus::Running;
        if let Some((done, total)) = loads.of_all(&job.waiting).filter(|_| running) {
            (view["bytes_done"], view["bytes_total"]) = (done.into(), total.into());
        }
        view
    });
    let mut view = json!({
        "id": job.id.to_string(),
        "kind": job.action.label(),
        "pool_id": pools.get(usize::from(job.pool.0)),
        "state": job.state.label(),
        "steps": steps.collect::<Vec<_>>(),
    });
    if let Some(fault) = fault(job) {
        let restored = if job.fault.is_some() { "; the old model was restored" } else { "" };
        let why = match (fault, why) {
            (JobFault::NotUp(worker), Some(why)) => format!("worker {worker} did not come up: {why}{restored}"),
            (JobFault::NotUp(worker), None) => format!("worker {worker} did not come up, the log says why{restored}"),
            (JobFault::TimedOut, _) => format!("a step took longer than its time{restored}"),
        };
        view["error"] = Value::String(why);
    }
    view
}

/// Whether a told state is the last one.
pub(crate) fn is_last(job: &Job) -> bool {
    job.state.is_over()
}
