//! The routes: one file each, one row each. Two surfaces share the guard around them: what a request
//! must be before a route sees it, and what every response carries.
//!
//! A route reads and checks, asks the [`Door`], and writes; it decides nothing about scheduling.

pub(crate) mod body;
mod budget;
mod calls;
mod capabilities;
mod chat;
mod choice_frames;
mod completions;
mod deadline;
mod embeddings;
pub(crate) mod explain;
pub(crate) mod fields;
pub(crate) mod guard;
mod health;
mod jobs;
mod keeper;
pub(crate) mod logprobs;
mod metrics;
mod models;
mod openai;
mod placement;
mod pools;
mod rerank;
pub(crate) mod session;
mod shape;
mod status;
mod task_cancel;
mod task_get;
mod task_list;
mod task_stream;
mod task_submit;
mod tools;
mod ui;
pub(crate) mod vectors;
mod version;

use crate::auth::{Access, Scope};
use crate::door::Door;
use crate::explain::task_of;
use crate::problem::{ErrorCode, Problem};
use crate::task_entry::Entry;
use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, delete, get, post};
use orchestrion_world::id::TaskId;
use std::sync::Arc;

/// One route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// Of whom, where the server has tokens.
    pub(crate) access: Access,
    handler: MethodRouter<Arc<Door>>,
}

const FOLLOW: Access = Access::Scopes(&[Scope::Infer, Scope::Read]);
const CANCEL: Access = Access::Scopes(&[Scope::Infer, Scope::Operate]);
const LOOK: Access = Access::Scopes(&[Scope::Read, Scope::Operate]);
const OPERATE: Access = Access::Scopes(&[Scope::Operate]);
const ANY: Access = Access::Scopes(Scope::ALL);

/// One row a route.
pub(crate) fn routes() -> Vec<Route> {
    let row = |method, path, access, handler| Route { method, path, access, handler };
    vec![
        row(Method::POST, "/v1/tasks", Access::Work, post(task_submit::submit)),
        // Ids of everybody's tasks, and with them their answers.
        row(Method::GET, "/v1/tasks", LOOK, get(task_list::list)),
        row(Method::GET, "/v1/tasks/{id}", FOLLOW, get(task_get::show)),
        row(Method::GET, "/v1/tasks/{id}/stream", FOLLOW, get(task_stream::stream)),
        row(Method::POST, "/v1/tasks/{id}/cancel", CANCEL, post(task_cancel::cancel)),
        row(Method::GET, "/v1/tasks/{id}/explain", LOOK, get(explain::explain)),
        row(Method::GET, "/v1/sessions/{id}", FOLLOW, get(session::show)),
        row(Method::DELETE, "/v1/sessions/{id}", CANCEL, delete(session::close)),
        row(Method::POST, "/v1/chat/completions", Access::Work, post(chat::complete)),
        row(Method::POST, "/v1/completions", Access::Work, post(completions::complete)),
        row(Method::POST, "/v1/embeddings", Access::Work, post(embeddings::embed)),
        row(Method::POST, "/v1/rerank", Access::Work, post(rerank::rerank)),
        row(Method::GET, "/v1/models", FOLLOW, get(models::list)),
        row(Method::GET, "/v1/models/{*id}", FOLLOW, get(models::show)),
        row(Method::GET, "/v1/pools", LOOK, get(pools::list)),
        row(Method::GET, "/v1/pools/{id}/health", LOOK, get(pools::health)),
        row(Method::GET, "/v1/pools/{id}/status", LOOK, get(pools::status)),
        // Drain, resume, reload, purge and verify.
        row(Method::POST, "/v1/pools/{id}/{verb}", OPERATE, post(pools::operate)),
        row(Method::GET, "/v1/jobs/{id}", LOOK, get(jobs::show)),
        row(Method::GET, "/v1/capabilities", ANY, get(capabilities::capabilities)),
        row(Method::GET, "/health/live", Access::Health, get(health::live)),
        row(Method::GET, "/health/ready", Access::Health, get(health::ready)),
        row(Method::GET, "/metrics", Access::Metrics, get(metrics::metrics)),
        row(Method::GET, "/version", ANY, get(version::version)),
        row(Method::GET, "/status", LOOK, get(status::status)),
        // Files without data: what they show they ask for.
        row(Method::GET, "/", Access::Open, get(ui::page)),
        row(Method::GET, "/ui", Access::Open, get(ui::page)),
        row(Method::GET, "/ui/app.js", Access::Open, get(ui::script)),
        row(Method::GET, "/ui/style.css", Access::Open, get(ui::style)),
    ]
}

/// All routes, each behind its keeper, behind the guard.
pub(crate) fn router(door: Arc<Door>) -> Router {
    let mut router = Router::new();
    for Route { method, path, access, handler } in routes() {
        tracing::trace!(%method, path, ?access, "a route");
        let keeper = from_fn_with_state((Arc::clone(&door), access), keeper::keep);
        router = router.route(path, handler.route_layer(keeper));
    }
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(&door), guard::guard))
        .with_state(door)
}

async fn no_route() -> Problem {
    Problem::new(ErrorCode::NotFound, "no such path; docs/http.md lists those that there are")
}

async fn no_method() -> Problem {
    Problem::new(ErrorCode::InvalidParams, "this path does not take this method; `Allow` names those it takes")
        .status(StatusCode::METHOD_NOT_ALLOWED)
}

/// The task of a path, as its client knows it.
fn task(door: &Door, id: &str) -> Result<Arc<Entry>, Problem> {
    let entry = door.parts.switchboard.find(task_id(id)?);
    entry.filter(|entry| entry.is_task()).ok_or_else(Problem::no_task)
}

/// A task id from a path, perhaps as its answer has it. What is no UUID names no task.
fn task_id(text: &str) -> Result<TaskId, Problem> {
    uuid::Uuid::parse_str(task_of(text)).map(|id| TaskId(id.as_u128())).map_err(|_| Problem::no_task())
}

#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod openai_tests;
#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
