//! `GET /v1/tasks`: the tasks of the queue that are here, newest first, a page at a time.
//!
//! A cursor is the place of the last task that a page showed, so that tasks which come in between move
//! nothing. The `ETag` is a digest of the page: who has it is told that nothing changed.

use super::task_get::facts;
use crate::door::Door;
use crate::problem::Problem;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MOST: usize = 1_000;

pub(crate) async fn list(
    State(door): State<Arc<Door>>,
    query: Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let limit = match query.get("limit").map(|text| text.parse::<usize>()) {
        None => LIMIT_DEFAULT,
        Some(Ok(limit)) if (1..=LIMIT_MOST).contains(&limit) => limit,
        Some(_) => return Err(Problem::invalid("limit", format!("must be a whole number from 1 to {LIMIT_MOST}"))),
    };
    let cursor = match query.get("cursor").map(|text| text.parse::<u64>()) {
        None => None,
        Some(Ok(cursor)) => Some(cursor),
        Some(Err(_)) => return Err(Problem::invalid("cursor", "must be the `next_cursor` of an earlier page")),
    };
    // One more than is shown, to know whether another page follows.
    let mut entries = door.parts.switchboard.newest(cursor, limit + 1);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|last| last.number.to_string());
    let tasks: Vec<_> = entries.iter().map(|entry| facts(entry, &entry.standing())).collect();
    let page = json!({"tasks": tasks, "next_cursor": next}).to_string();
    let tag = format!("\"{}\"", &blake3::hash(page.as_bytes()).to_hex()[..32]);
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let kind = "application/json".to_owned();
    Ok(([(header::ETAG, tag), (header::CONTENT_TYPE, kind)], page).into_response())
}

/// Whether the client has this page already.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|list| list.split(',')).any(|one| {
        let one = one.trim();
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

#[cfg(test)]
mod tests {
    use crate::http::rig::*;
    use serde_json::{Value, json};

    fn ids(page: &Value) -> Vec<&str> {
        page["tasks"].as_array().unwrap().iter().map(|task| task["task_id"].as_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn tasks_are_listed_newest_first_in_pages() {
        let rig = Rig::new();
        assert_eq!(json_of(rig.get("/v1/tasks").await, 200).await, json!({"tasks": [], "next_cursor": null}));
        let mut made = Vec::new();
        for _ in 0..5 {
            made.push(rig.hold(json!({})).await.to_string());
        }
        made.reverse();
        let all = json_of(rig.get("/v1/tasks").await, 200).await;
        assert_eq!(ids(&all), made);
        assert_eq!((&all["tasks"][0]["state"], &all["next_cursor"]), (&json!("queued"), &Value::Null));
        assert!(all["tasks"][0].get("result").is_none(), "texts are fetched one by one");

        let first = json_of(rig.get("/v1/tasks?limit=2").await, 200).await;
        assert_eq!(ids(&first), made[..2]);
        // One that comes in between belongs to no later page.
        rig.hold(json!({})).await;
        let next = |page: &Value| format!("/v1/tasks?limit=2&cursor={}", page["next_cursor"].as_str().unwrap());
        let second = json_of(rig.get(&next(&first)).await, 200).await;
        let third = json_of(rig.get(&next(&second)).await, 200).await;
        assert_eq!((ids(&second), ids(&third)), (made[2..4].iter().map(String::as_str).collect(), vec![&*made[4]]));
        assert_eq!(third["next_cursor"], Value::Null);

        for bad in ["limit=0", "limit=1001", "limit=x", "cursor=-1"] {
            let refused = json_of(rig.get(&format!("/v1/tasks?{bad}")).await, 400).await;
            assert_eq!(refused["code"], "INVALID_PARAMS", "{bad}");
        }
    }

    #[tokio::test]
    async fn a_page_that_is_the_same_is_not_sent_again() {
        let rig = Rig::new();
        let task = rig.hold(json!({})).await;
        let tag = rig.get("/v1/tasks").await.headers()["etag"].to_str().unwrap().to_owned();
        let rig = &rig;
        let ask =
            |tag: String| async move { rig.send("GET", "/v1/tasks", None, &[("if-none-match", &tag)]).await.status() };
        assert_eq!(ask(tag.clone()).await, 304);
        assert_eq!(ask(format!("\"other\", W/{tag}")).await, 304);
        assert_eq!(ask("\"other\"".into()).await, 200);
        begin(&rig.switchboard, task);
        rig.finish(task);
        assert_eq!(ask(tag).await, 200, "its state is another");
    }
}
