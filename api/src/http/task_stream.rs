//! `GET /v1/tasks/{id}/stream`: a task's events, from the start or from where a reader was.
//!
//! Any number of readers may follow one task; each is a cursor. The first loss of the last one starts the
//! task's grace.

use super::guard::CorrelationId;
use super::task;
use crate::door::{Door, Loss};
use crate::problem::Problem;
use crate::sse::{EventBody, Order, PartFrames, QueueFrames};
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
    let entry = task(&door, &id)?;
    let after = match headers.get("last-event-id").map(|value| value.to_str().ok().and_then(|id| id.parse().ok())) {
        None => None,
        Some(Some(after)) => Some(after),
        Some(None) => return Err(Problem::invalid("Last-Event-ID", "must be an id that this stream gave")),
    };
    let view = entry.standing();
    let told = entry.part.as_ref().map_or(view.tokens, |part| part.count);
    match (after, view.ending) {
        // The reader has everything; this is how SSE tells it not to come again.
        (Some(after), Some(ending)) if after == ending.tokens.saturating_add(1) => {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        (Some(after), ending) if after > ending.map_or(told, |ending| ending.tokens) => {
            return Err(Problem::invalid("Last-Event-ID", "is beyond what this stream gave"));
        }
        _ => {}
    }
    // A batch task runs whether somebody reads or not, one of the OpenAI surface has its own client.
    let grace = entry.surface == Surface::Queue && entry.class == Class::Interactive;
    let tethers = entry.parts().filter(|_| grace).map(|part| door.tether(part, Loss::StartGrace)).collect();
    let mut readers = Vec::new();
    for entry_of_part in entry.parts() {
        let (task, correlation_id) = (Arc::clone(&entry), Arc::clone(&correlation_id));
        readers.push(match entry_of_part.part.clone() {
            None => {
                let frames: Box<dyn Frames> = Box::new(QueueFrames { entry: task, correlation_id });
                (Reader::new(entry_of_part, after), frames)
            }
            // What was told of it is its one token; only the first tells that the task has begun.
            Some(part) => {
                let after = match after {
                    None if part.index == 0 => None,
                    None => Some(0),
                    Some(after) => Some(u32::from(part.index < after)),
                };
                let frames: Box<dyn Frames> = Box::new(PartFrames { task, part, correlation_id, failed: false });
                (Reader::new(entry_of_part, after), frames)
            }
        });
    }
    let heartbeat = Duration::from_millis(door.config.heartbeat_ms);
    Ok(EventBody::new(Order::InTurn, readers, heartbeat, tethers).into_response())
}
