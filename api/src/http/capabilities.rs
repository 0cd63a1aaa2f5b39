//! `GET /v1/capabilities`: what this server is and what its pools can do.

use crate::door::Door;
use crate::port::ModelCard;
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn capabilities(State(door): State<Arc<Door>>) -> Result<Json<Value>, Problem> {
    let (names, models) = (door.parts.telemetry.pools(), door.parts.prepare.models());
    let pools = door.pools().await?.into_iter().map(|pool| {
        let model = models.get(usize::from(pool.model.0));
        // Where nothing is answered one place is for the token that carries what comes of an input.
        let carries = u32::from(model.and_then(ModelCard::answers) == Some(false));
        let ctx_max = pool.workers.iter().map(|worker| worker.ctx_max.saturating_sub(carries)).max();
        json!({
            "id": names.get(usize::from(pool.id.0)),
            "engine": "host",
            "engine_version": env!("CARGO_PKG_VERSION"),
            "model": model.map(|model| &model.name),
            "ctx_max": ctx_max,
            "slots": pool.workers.iter().map(|worker| u32::from(worker.slots)).sum::<u32>(),
            "supported_workloads": model.and_then(|model| model.workloads),
        })
    });
    Ok(Json(json!({
        "api_version": "v1",
        "version": env!("CARGO_PKG_VERSION"),
        "features": ["sse", "resume", "explain", "jobs"],
        "pools": pools.collect::<Vec<_>>(),
    })))
}
