//! `GET /v1/tasks/{id}/explain`: why a task went where it went, re-executed from the journal. Of several inputs
//! `?input=` names the one that is told.
//!
//! Heavy and not urgent: one at a time, on the blocking pool.

use super::task_id;
use crate::door::Door;
use crate::explain::{self as told, ExplainError as Untold};
use crate::port::{Explain, ExplainError};
use crate::problem::{ErrorCode, Problem};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use orchestrion_world::id::TaskId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) async fn explain(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
    query: Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let task = task_id(&id)?;
    let Ok(input) = query.get("input").map_or(Ok(0), |text| text.parse()) else {
        return Err(Problem::invalid("input", "must be the number of an input, counted from 0"));
    };
    let _turn = door.explain_turn.acquire().await.map_err(|_| Problem::stopping())?;
    let explain = Arc::clone(&door.parts.explain);
    match tokio::task::spawn_blocking(move || explain.explain(task, input)).await {
        Ok(Ok(text)) => Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response()),
        Ok(Err(error @ (ExplainError::Unknown | ExplainError::NoInput(_)))) => {
            Err(Problem::new(ErrorCode::NotFound, error.to_string()))
        }
        Ok(Err(error @ ExplainError::Failed(_))) => Err(Problem::new(ErrorCode::Internal, error.to_string())),
        Err(_) => Err(Problem::new(ErrorCode::Internal, "the explanation failed inside the server; please report it")),
    }
}

/// Explains from the journal in a folder, also while it is being written.
#[derive(Clone, Debug)]
pub struct FromJournal(pub PathBuf);

impl Explain for FromJournal {
    fn explain(&self, task: TaskId, input: u32) -> Result<String, ExplainError> {
        let explanation = told::explain(&self.0, task, input).map_err(|error| match error {
            Untold::Unknown { .. } => ExplainError::Unknown,
            Untold::NoInput { .. } => ExplainError::NoInput(error.to_string()),
            other => ExplainError::Failed(other.to_string()),
        })?;
        // Text, not a tree: ids are 128 bits wide, and `Value` holds 64.
        serde_json::to_string(&explanation).map_err(|error| ExplainError::Failed(error.to_string()))
    }
}
