//! `GET /v1/sessions/{id}`: what is known of a session, which is no words. `DELETE` ends it: 204 once that
//! stands in the journal, and again for one that is not there. A session's name is its tenant's own: whoever
//! asks under another tenant asks for another session.

use super::budget::KINDS;
use super::keeper::Caller;
use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use orchestrion_systems::SessionView;
use orchestrion_world::id::{SessionId, TenantId};
use serde_json::{Value, json};
use std::sync::Arc;

/// Longer names are none.
const NAME_BYTES: usize = 128;

/// The session that a tenant calls so: nobody finds a name of another tenant's that comes to the same.
pub(crate) fn session_id(tenant: TenantId, name: &str) -> Result<SessionId, Problem> {
    if name.is_empty() || name.len() > NAME_BYTES {
        return Err(Problem::invalid("session_id", format!("must be 1 to {NAME_BYTES} bytes long")));
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&tenant.0.to_le_bytes()).update(name.as_bytes());
    let mut half = [0; 16];
    half.iter_mut().zip(hash.finalize().as_bytes()).for_each(|(to, from)| *to = *from);
    Ok(SessionId(u128::from_le_bytes(half)))
}

pub(crate) async fn show(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    match door.session(session_id(caller.tenant, &name)?).await? {
        Some(view) => Ok(Json(facts(&view))),
        None => Err(Problem::new(
            ErrorCode::NotFound,
            "no such session; its time may be over (`sessions.ttl_ms`), and its first task opens it again",
        )),
    }
}

pub(crate) async fn close(
    State(door): State<Arc<Door>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    door.close(session_id(caller.tenant, &name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn facts(view: &SessionView) -> Value {
    let SessionView { ttl, turns, kv, left } = view;
    let mut facts = json!({
        "ttl_ms_remaining": ttl.0,
        "turns": turns,
        "kv_bytes": kv.0,
        // The engines keep no context between turns: it is there while a turn runs.
        "kv_warmth": kv.0 > 0,
    });
    for (kind, _, field, unit) in KINDS {
        if let Some(left) = left.of(kind) {
            facts[field] = (left / unit).into();
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_tenants_own() {
        let id = |tenant, name| session_id(TenantId::of(tenant), name).unwrap();
        assert_eq!(id("a", "chat"), id("a", "chat"));
        assert_ne!(id("a", "chat"), id("b", "chat"));
        assert_ne!(id("a", "chat"), id("a", "chat "));
        for name in ["", &"x".repeat(129)] {
            assert_eq!(session_id(TenantId::DEFAULT, name).unwrap_err().param.as_deref(), Some("session_id"));
        }
    }
}
