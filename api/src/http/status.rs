//! `/status`: the live figures that the page at `/` shows.

use crate::door::Door;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn status(State(door): State<Arc<Door>>) -> Json<Value> {
    let models: Vec<_> = door.parts.prepare.models().into_iter().map(|model| model.name).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": door.parts.switchboard.any_ready(),
        "models": models,
        "totals": door.parts.telemetry.totals(),
    }))
}
