//! `/metrics`: OpenMetrics text for Prometheus.

use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(crate) async fn metrics(State(door): State<Arc<Door>>) -> Result<Response, Problem> {
    let text = door.parts.telemetry.encode(door.parts.health.is_well());
    let text = text.map_err(|_| Problem::new(ErrorCode::Internal, "the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
