//! The routes: one file each, one row each. Two surfaces share the guard around them: what a request
//! must be before a route sees it, and what every response carries.
//!
//! A route reads and checks, asks the [`Door`], and writes; it decides nothing about scheduling.

mod body;
mod chat;
mod choice_frames;
mod completions;
mod deadline;
pub(crate) mod explain;
mod fields;
pub(crate) mod guard;
mod health;
mod metrics;
mod models;
mod openai;
mod status;
mod task_cancel;
mod task_get;
mod task_stream;
mod task_submit;
mod ui;
mod version;

use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use orchestrion_world::id::TaskId;
use std::sync::Arc;

/// One row a route.
pub(crate) fn router(door: Arc<Door>) -> Router {
    Router::new()
        .route("/v1/tasks", post(task_submit::submit))
        .route("/v1/tasks/{id}", get(task_get::show))
        .route("/v1/tasks/{id}/stream", get(task_stream::stream))
        .route("/v1/tasks/{id}/cancel", post(task_cancel::cancel))
        .route("/v1/tasks/{id}/explain", get(explain::explain))
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::show))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/version", get(version::version))
        .route("/status", get(status::status))
        .route("/", get(ui::page))
        .route("/ui", get(ui::page))
        .route("/ui/app.js", get(ui::script))
        .route("/ui/style.css", get(ui::style))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(Arc::clone(&door), guard::guard))
        .with_state(door)
}

async fn no_route() -> Problem {
    Problem::new(ErrorCode::NotFound, "no such path; the README names those that exist")
}

async fn no_method() -> Problem {
    Problem::new(ErrorCode::InvalidParams, "this path does not take this method; `Allow` names those it takes")
        .status(StatusCode::METHOD_NOT_ALLOWED)
}

/// A task id from a path. What is no UUID names no task.
fn task_id(text: &str) -> Result<TaskId, Problem> {
    uuid::Uuid::parse_str(text).map(|id| TaskId(id.as_u128())).map_err(|_| Problem::no_task())
}

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;
