//! `POST /v1/tasks/{id}/cancel`: 204 once the cancel stands in the journal, the gate is closed and the
//! readers have been told. Idempotent; a task that has ended stays as it ended.

use super::task;
use crate::door::Door;
use crate::problem::Problem;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use orchestrion_world::protocol::CancelReason;
use std::sync::Arc;
use std::time::Duration;

/// Readers that take their end are gone within the first of these; one that stalls is not waited for.
const READER_LOOKS: u32 = 20;

pub(crate) async fn cancel(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let entry = task(&door, &id)?;
    door.cancel(entry.parts(), CancelReason::Client).await?;
    entry.parts().for_each(|part| part.mute());
    // A token that a reader took before the gate closed may still be on its way into the socket: give the
    // reader its turn, so that it is out before the acknowledgement.
    for _ in 0..READER_LOOKS {
        if entry.parts().all(|part| part.readers() == 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(StatusCode::NO_CONTENT)
}
