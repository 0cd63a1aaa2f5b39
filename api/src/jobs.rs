//! Operators' jobs as the core tells of them, for who asks and who follows. Written by the pulse's notices;
//! each job keeps every state that was told, so that a follower misses no step. As many are kept as the core
//! keeps, and a few more.

use orchestrion_world::id::JobId;
use orchestrion_world::job::{Job, JobFault, JobState};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The core keeps fewer that are over, and one that runs for each pool.
const KEPT: usize = 1_024;

/// All jobs that are known.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    told: BTreeMap<JobId, watch::Sender<Vec<Job>>>,
    oldest_first: VecDeque<JobId>,
}

impl Jobs {
    /// The core told of one.
    pub(crate) fn hear(&self, job: &Job) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = known.told.get(&job.id) {
            told.send_modify(|told| told.push(job.clone()));
            return;
        }
        known.told.insert(job.id, watch::Sender::new(vec![job.clone()]));
        known.oldest_first.push_back(job.id);
        if known.oldest_first.len() > KEPT
            && let Some(oldest) = known.oldest_first.pop_front()
        {
            known.told.remove(&oldest);
        }
    }

    /// What was told of a job so far, and what will be.
    pub(crate) fn follow(&self, id: JobId) -> Option<watch::Receiver<Vec<Job>>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.told.get(&id).map(watch::Sender::subscribe)
    }
}

/// A job as its readers see it.
pub(crate) fn view(job: &Job, pools: &[String]) -> Value {
    let steps = job.steps.iter().map(|step| json!({"name": step.name.label(), "status": step.status.label()}));
    let mut view = json!({
        "id": job.id.to_string(),
        "kind": job.action.label(),
        "pool_id": pools.get(usize::from(job.pool.0)),
        "state": job.state.label(),
        "steps": steps.collect::<Vec<_>>(),
    });
    if let JobState::Failed(fault) = job.state {
        let restored = if job.fault.is_some() { "; the old model was restored" } else { "" };
        let why = match fault {
            JobFault::NotUp(worker) => format!("worker {worker} did not come up, the log says why{restored}"),
            JobFault::TimedOut => format!("a step took longer than its time{restored}"),
        };
        view["error"] = Value::String(why);
    }
    view
}

/// Whether a told state is the last one.
pub(crate) fn is_last(job: &Job) -> bool {
    job.state.is_over()
}
