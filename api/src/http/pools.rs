//! `/v1/pools`: how pools and their workers are, and what operators ask of them. What is asked becomes a job:
//! 202 with its id once that stands in the journal.

use super::body;
use super::fields::{Fields, is_empty};
use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use orchestrion_systems::view::{ModelView, PoolView, WorkerView};
use orchestrion_world::id::{ModelId, PoolId, WorkerId};
use orchestrion_world::job::{Action, JobRefusal};
use orchestrion_world::time::Ticks;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A day: who would wait longer can ask again.
const DEADLINE_MOST_MS: u64 = 24 * 60 * 60 * 1_000;
/// Without one.
const DEADLINE_MS: u64 = 30_000;

pub(crate) async fn list(State(door): State<Arc<Door>>) -> Result<Json<Value>, Problem> {
    let pools: Vec<Value> = door.pools().await?.iter().map(|pool| whole(&door, pool)).collect();
    Ok(Json(json!({"pools": pools})))
}

pub(crate) async fn status(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let pool = pool(&door, &id)?;
    let found = door.pools().await?.into_iter().find(|view| view.id == pool).ok_or_else(unknown)?;
    Ok(Json(whole(&door, &found)))
}

pub(crate) async fn health(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let pool = pool(&door, &id)?;
    let found = door.pools().await?.into_iter().find(|view| view.id == pool).ok_or_else(unknown)?;
    Ok(Json(json!({"id": id, "ready": found.ready > 0, "state": state(&found), "workers_ready": found.ready})))
}

/// In one word, the worst first.
fn state(pool: &PoolView) -> &'static str {
    let any = |of: fn(&WorkerView) -> bool| pool.workers.iter().any(of);
    match pool {
        PoolView { closed: true, .. } => "closed",
        PoolView { halted: true, .. } => "halted",
        _ if any(|worker| worker.quarantined) => "quarantined",
        PoolView { ready: 0, .. } => "unready",
        _ if any(|worker| worker.breaker.label() != "closed" || worker.state.label() != "ready") => "degraded",
        _ => "ready",
    }
}

fn whole(door: &Door, pool: &PoolView) -> Value {
    let name = door.parts.telemetry.pools().get(usize::from(pool.id.0));
    let model = door.parts.prepare.models().get(usize::from(pool.model.0)).map(|model| model.name.clone());
    let workers = pool.workers.iter().map(|worker| {
        let models = worker.models.iter().map(|model| model_on(door, worker.id, model));
        json!({
            "id": worker.id.to_string(),
            "devices": worker.devices.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "state": worker.state.label(),
            "breaker": worker.breaker.label(),
            "quarantined": worker.quarantined,
            "last_loss": worker.loss.map(|loss| loss.label()),
            "life": worker.epoch.0,
            "leases": worker.leases,
            "slots": worker.slots,
            "models": models.collect::<Vec<_>>(),
        })
    });
    json!({
        "id": name,
        "model": model,
        "state": state(pool),
        "workers_ready": pool.ready,
        "closed": pool.closed,
        "restarts_stopped": pool.halted,
        "job_id": pool.job.map(|job| job.to_string()),
        "workers": workers.collect::<Vec<_>>(),
    })
}

/// A model on a worker; one that is being loaded, with how far it is.
fn model_on(door: &Door, worker: WorkerId, ModelView { model, life, bytes, leases }: &ModelView) -> Value {
    let name = door.parts.prepare.models().get(usize::from(model.0)).map(|model| model.name.clone());
    let mut view = json!({"model": name, "state": life.label(), "bytes": bytes.0, "leases": leases});
    if let Some((done, total)) = door.parts.switchboard.loads().of(worker, *model) {
        (view["bytes_done"], view["bytes_total"]) = (done.into(), total.into());
    }
    view
}

fn unknown() -> Problem {
    Problem::new(ErrorCode::NotFound, "no such pool here; `GET /v1/pools` lists those there are")
}

fn pool(door: &Door, id: &str) -> Result<PoolId, Problem> {
    let at = door.parts.telemetry.pools().iter().position(|name| name == id);
    at.map(|at| PoolId(at as u16)).ok_or_else(unknown)
}

pub(crate) async fn operate(
    State(door): State<Arc<Door>>,
    Path((id, verb)): Path<(String, String)>,
    headers: HeaderMap,
    content: Body,
) -> Result<Response, Problem> {
    let mut fields = if content.size_hint().exact() == Some(0) {
        Fields(Map::new())
    } else {
        body::take(&door, &headers, content, door.config.limits.task_body_bytes).await?.0
    };
    let pool = pool(&door, &id)?;
    let deadline = fields.integer("deadline_ms", 0..=DEADLINE_MOST_MS)?.unwrap_or(DEADLINE_MS);
    let deadline = Ticks(deadline);
    let action = match verb.as_str() {
        "drain" => Action::Drain { deadline },
        "resume" => Action::Resume,
        "reload" => {
            let wanted = fields.string("new_model_ref")?;
            let wanted = wanted.ok_or_else(|| Problem::invalid("new_model_ref", "is required"))?;
            let at = door.parts.prepare.models().iter().position(|model| model.name == wanted);
            let problem = "names no model of this server; `GET /v1/models` lists those it can load";
            let model = at.ok_or_else(|| Problem::invalid("new_model_ref", problem))?;
            Action::Reload { model: ModelId(model as u16), deadline }
        }
        "purge" => {
            if fields.boolean("delete_cache")?.unwrap_or(false) {
                return Err(Problem::invalid("delete_cache", "is not supported; delete the file by hand"));
            }
            let models = fields.take("models").unwrap_or(Value::Null);
            let has = || async { Ok::<_, Problem>(door.pools().await?.into_iter().find(|view| view.id == pool)) };
            if !models.is_null() && !is_empty(&models) && !names(&door, &models, has().await?.as_ref()) {
                return Err(Problem::invalid("models", "must name the pool's model or none"));
            }
            let drain = fields.boolean("drain_first")?.unwrap_or(true).then_some(deadline);
            Action::Purge { drain, force: fields.boolean("force")?.unwrap_or(false) }
        }
        "verify" => Action::Verify,
        _ => {
            let there_are = "no such operation; there are drain, resume, reload, purge and verify";
            return Err(Problem::new(ErrorCode::NotFound, there_are));
        }
    };
    tracing::info!(pool = id, verb, "an operator asks");
    let job = door.operate(pool, action).await?.map_err(refused)?;
    let answer = json!({"job_id": job.to_string()});
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, format!("/v1/jobs/{job}"))], Json(answer)).into_response())
}

/// Whether a list of models is that of the pool's one.
fn names(door: &Door, models: &Value, pool: Option<&PoolView>) -> bool {
    let known = door.parts.prepare.models();
    let has = pool.and_then(|pool| known.get(usize::from(pool.model.0))).map(|model| model.name.as_str());
    let named: Option<Vec<&str>> = models.as_array().map(|all| all.iter().filter_map(Value::as_str).collect());
    named.is_some_and(|named| named.len() == 1 && named.first().copied() == has)
}

fn refused(refusal: JobRefusal) -> Problem {
    match refusal {
        JobRefusal::UnknownPool => unknown(),
        JobRefusal::UnknownModel => Problem::invalid("new_model_ref", "names no model of this server"),
        JobRefusal::DuplicateJob => Problem::new(ErrorCode::Conflict, "a job has this id; ask again"),
        JobRefusal::Busy { by } => {
            let message = format!("job {by} runs in this pool; `GET /v1/jobs/{by}` tells when it is over");
            Problem::new(ErrorCode::Conflict, message)
        }
        JobRefusal::InUse { leases } => {
            let message = format!("{leases} tasks run in this pool; set `drain_first`, or `force` to end them");
            Problem::new(ErrorCode::Conflict, message)
        }
    }
}
