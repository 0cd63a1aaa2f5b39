//! `GET /v1/models` and `GET /v1/models/{id}`: what clients may name. Ids may hold slashes.

use crate::door::Door;
use crate::port::ModelCard;
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn list(State(door): State<Arc<Door>>) -> Json<Value> {
    let models: Vec<_> = door.parts.prepare.models().iter().map(card).collect();
    Json(json!({"object": "list", "data": models}))
}

pub(crate) async fn show(State(door): State<Arc<Door>>, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let models = door.parts.prepare.models();
    let model = models.iter().find(|model| model.name == id);
    model.map(|model| Json(card(model))).ok_or_else(|| {
        Problem::unknown_model("there is no model of this name here; `GET /v1/models` lists those there are")
    })
}

fn card(model: &ModelCard) -> Value {
    json!({"id": model.name, "object": "model", "created": model.created, "owned_by": "orchestrion"})
}
