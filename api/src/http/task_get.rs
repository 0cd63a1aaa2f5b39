//! `GET /v1/tasks/{id}`: where a task stands, and its result while it is kept.

use super::fields::dropped;
use super::guard::CorrelationId;
use super::{logprobs, task, vectors};
use crate::door::Door;
use crate::problem::Problem;
use crate::spool::Form;
use crate::sse;
use crate::task_entry::{Admission, Ending, Entry, Phase, View};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use orchestrion_world::protocol::Outcome;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn show(
    State(door): State<Arc<Door>>,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let entry = task(&door, &id)?;
    let view = entry.standing();
    let mut answer = facts(&entry, &view);
    if let Some(ending) = view.ending {
        match result(&entry, &ending) {
            Ok(result) => answer["result"] = result,
            Err(problem) => answer["error"] = problem.flat(&correlation_id),
        }
    }
    Ok(Json(answer))
}

/// Of a task whose answer is numbers, what the route says that gives them to a client that waits.
fn result(entry: &Arc<Entry>, ending: &Ending) -> Result<Value, Problem> {
    let mut result = sse::result(ending)?;
    if entry.part.is_some() {
        return vectors::told(entry.task, entry.parts());
    }
    let whole = entry.answer().unwrap_or_default();
    result["text"] = whole.text.as_str().into();
    if entry.logprobs {
        result["logprobs"] = whole.likelihoods.iter().map(logprobs::entry).collect();
    }
    Ok(result)
}

/// What can be said of any task, ended or not.
pub(crate) fn facts(entry: &Entry, view: &View) -> Value {
    let (position, predicted) = match view.admission {
        Some(Admission::Accepted { position, predicted_start }) => (Some(position), Some(predicted_start.0)),
        _ => (None, None),
    };
    json!({
        "task_id": entry.task.to_string(),
        "state": state(view.phase),
        "queue_position": position,
        "predicted_start_ms": predicted,
        "worker_id": view.worker.map(|worker| worker.to_string()),
        "seed": entry.seed,
        "fingerprint": &*entry.fingerprint,
        "workload": workload(entry),
        "inputs": entry.part.as_ref().map(|part| part.count),
        "truncation": dropped(entry.dropped),
        "tokens": view.tokens,
    })
}

fn workload(entry: &Entry) -> &'static str {
    match entry.part.as_ref().map(|part| part.form) {
        None => "completion",
        Some(Form::Embedding { .. }) => "embedding",
        Some(Form::Rerank { .. }) => "rerank",
    }
}

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Submitted => "submitted",
        Phase::Queued => "queued",
        Phase::Placed => "placed",
        Phase::Running => "running",
        Phase::Ended(Outcome::Done(_)) => "done",
        Phase::Ended(Outcome::Cancelled { .. }) => "cancelled",
        Phase::Ended(Outcome::Failed { .. }) => "failed",
    }
}
