//! `GET /v1/tasks/{id}/stream`: a task's events, from the start or from where a reader was.
//!
//! Any number of readers may follow one task; each is a cursor. The first loss of the last one starts the
//! task's grace.

use super::guard::CorrelationId;
use super::task_id;
use crate::door::{Door, Loss};
use crate::problem::Problem;
use crate::sse::{EventBody, QueueFrames};
use crate::task_entry::{Frames, Reader, Surface};
use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use orchestrion_world::protocol::Class;
use std::sync::Arc;
use std::time::Duration;

pub(crate) async fn stream(
    State(door): State<Arc<Door>>,
    Extension(CorrelationId(correlation_id)): Extension<CorrelationId>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let entry = door.parts.switchboard.find(task_id(&id)?).ok_or_else(Problem::no_task)?;
    let after = match headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|id| id.parse().ok())) {
        None => None,
        Some(Some(after)) => Some(after),
        Some(None) => return Err(Problem::invalid("Last-Event-ID", "must be an id that this stream gave")),
    };
    let view = entry.view();
    match (after, view.ending) {
        // The reader has everything; this is how SSE tells it not to come again.
        (Some(after), Some(ending)) if after == ending.tokens.saturating_add(1) => {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        (Some(after), ending) if after > ending.map_or(view.tokens, |ending| ending.tokens) => {
            return Err(Problem::invalid("Last-Event-ID", "is beyond what this stream gave"));
        }
        _ => {}
    }
    // A batch task runs whether somebody reads or not, one of the OpenAI surface has its own client.
    let grace = entry.surface == Surface::Queue && entry.class == Class::Interactive;
    let tether = grace.then(|| door.tether(&entry, Loss::StartGrace));
    let reader = Reader::new(&entry, after);
    let frames: Box<dyn Frames> = Box::new(QueueFrames { entry, correlation_id });
    let heartbeat = Duration::from_millis(door.config.heartbeat_ms);
    Ok(EventBody::new(vec![(reader, frames)], heartbeat, tether.into_iter().collect()).into_response())
}
