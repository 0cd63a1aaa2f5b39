//! Operators' jobs as the core tells of them, for who asks and who follows. Written by the pulse's notices;
//! each job keeps every state that was told, so that a follower misses no step, but for those of very long jobs. As many
//! are kept as the core keeps, and a few more.
//!
//! The core knows that a worker did not come up and not why: whoever loads it says that here beforehand.

use crate::door::DoorParts;
use orchestrion_world::id::{JobId, WorkerId};
use orchestrion_world::job::{Check, Finding, Job, JobFault, JobState, Step, StepStatus};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The core keeps fewer that are over, and one that runs for each pool.
const KEPT: usize = 1_024;

/// States of a job that are kept. From there on one that goes on takes the place of the last; what it came to is told.
const TOLD: usize = 64;

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
            Some(JobFault::TimedOut | JobFault::Corrupt(_) | JobFault::Lost(_)) | None => None,
        };
        if let Some(told) = known.told.get(&job.id) {
            told.send_modify(|told| {
                // What befell it first made it fail; going back may have failed as well.
                let why = told.last().and_then(|before| before.why.clone()).or(why);
                if told.len() >= TOLD && !is_last(job) {
                    told.pop();
                }
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
pub(crate) fn view(Told { job, why }: &Told, parts: &DoorParts) -> Value {
    let pools = parts.telemetry.pools();
    let steps = job.steps.iter().map(|step| of_step(job, step, parts));
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
            (JobFault::Corrupt(worker), _) => {
                format!(
                    "the weights on worker {worker} were not what was loaded; it loads them anew, the log says which"
                )
            }
            (JobFault::Lost(worker), _) => {
                format!("worker {worker} was lost before all its weights had been looked at; verify again")
            }
        };
        view["error"] = Value::String(why);
    }
    view
}

/// A step with how far it is, and what one that verifies looks at and found.
fn of_step(job: &Job, step: &Step, parts: &DoorParts) -> Value {
    let mut view = json!({"name": step.name.label(), "status": step.status.label()});
    let running = step.status == StepStatus::Running;
    let done = match &step.check {
        Some(check) => parts.switchboard.checks().of(check.worker, check.model),
        None => parts.switchboard.loads().of_all(&job.waiting),
    };
    if let Some((done, total)) = done.filter(|_| running) {
        (view["bytes_done"], view["bytes_total"]) = (done.into(), total.into());
    }
    if let Some(Check { worker, model, digest, bytes, found, .. }) = &step.check {
        let name = parts.prepare.models().get(usize::from(model.0)).map(|model| model.name.clone());
        (view["worker_id"], view["model"]) = (worker.to_string().into(), name.into());
        (view["digest"], view["bytes"]) = (digest.to_string().into(), bytes.0.into());
        view["result"] = found.map(Finding::label).into();
        if let Some(Finding::Sound { seal }) = found {
            view["seal"] = seal.to_string().into();
        }
    }
    view
}

/// Whether a told state is the last one.
pub(crate) fn is_last(job: &Job) -> bool {
    job.state.is_over()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_world::id::{ModelId, PoolId};
    use orchestrion_world::job::Action;
    use orchestrion_world::time::Tick;

    #[test]
    fn of_a_long_job_the_first_states_are_kept_the_newest_and_what_it_came_to() {
        let (id, pool, model, state) = (JobId(1), PoolId(0), ModelId(0), JobState::Running);
        let (steps, waiting, action, begun) = (vec![], vec![], Action::Verify, Tick(0));
        let job = |due, state| Job {
            id,
            pool,
            action,
            state,
            steps: steps.clone(),
            waiting: waiting.clone(),
            begun,
            due: Tick(due),
            model,
            fault: None,
        };
        let jobs = Jobs::default();
        (0..1_000).for_each(|due| jobs.hear(&job(due, state)));
        let told = jobs.follow(id).unwrap();
        let dues = || told.borrow().iter().map(|told| told.job.due.0).collect::<Vec<_>>();
        assert_eq!(dues(), (0..63).chain([999]).collect::<Vec<_>>());
        jobs.hear(&job(1_000, JobState::Done));
        assert_eq!(dues()[63..], [999, 1_000]);
    }
}
