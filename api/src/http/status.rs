//! `/status`: the live figures that the page at `/` shows.

use crate::door::Door;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn status(State(door): State<Arc<Door>>) -> Json<Value> {
    let models = door.parts.prepare.models();
    let answering: Vec<_> = models.iter().filter(|model| model.answers() == Some(true)).map(|m| &m.name).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": door.parts.switchboard.any_ready(),
        "models": models.iter().map(|model| &model.name).collect::<Vec<_>>(),
        "answering": answering,
        "totals": door.parts.telemetry.totals(),
    }))
}
