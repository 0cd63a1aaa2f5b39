//! `/version`: which build this is.

use axum::Json;
use serde_json::{Value, json};

pub(crate) async fn version() -> Json<Value> {
    Json(json!({"name": "orchestrion", "version": env!("CARGO_PKG_VERSION"), "api": "v1"}))
}
