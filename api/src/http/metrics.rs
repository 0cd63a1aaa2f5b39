//! `/metrics`: OpenMetrics text for Prometheus.

use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A scrape is answered where the scheduler does not answer, too.
const PATIENCE: Duration = Duration::from_millis(250);

pub(crate) async fn metrics(State(door): State<Arc<Door>>) -> Result<Response, Problem> {
    let models = door.parts.telemetry.models();
    if models.is_due() {
        // Without an answer the figures go out without how models are.
        let pools = timeout(PATIENCE, door.pools()).await.ok().and_then(Result::ok);
        models.show(door.parts.prepare.models().into_iter().map(|model| model.name), pools.as_deref());
    }
    let text = door.parts.telemetry.encode(door.parts.health.is_well());
    let text = text.map_err(|_| Problem::new(ErrorCode::Internal, "the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
