//! `/health/live` and `/health/ready`: the process answers; a worker could take a task now.

use crate::door::Door;
use crate::pulse::Condition;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::Arc;

pub(crate) async fn live() -> Json<serde_json::Value> {
    Json(json!({"status": "live"}))
}

pub(crate) async fn ready(State(door): State<Arc<Door>>) -> Response {
    let reason = match door.parts.health.condition() {
        Condition::Well if door.parts.switchboard.any_ready() => {
            return Json(json!({"status": "ready"})).into_response();
        }
        Condition::Well => "no worker is ready yet; models may still be loading",
        Condition::JournalUnwritable { .. } => "the journal cannot be written; new work is refused",
        Condition::Ended => "the scheduler has ended; the process is about to",
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "unready", "reason": reason}))).into_response()
}
