//! `GET /v1/jobs/{id}`: a job as it stands, or, for who accepts an event stream, each of its states until it is
//! over: `step` events, then one `end`.

use crate::door::Door;
use crate::jobs::{Told, is_last, view};
use crate::problem::{ErrorCode, Problem};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body::{Body, Frame};
use hyper::body::Bytes;
use orchestrion_world::id::JobId;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

pub(crate) async fn show(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = u64::from_str_radix(&id, 16).ok().map(JobId);
    let unknown = || Problem::new(ErrorCode::NotFound, "no such job here; jobs that are over are kept for a while");
    let told = id.and_then(|id| door.parts.switchboard.jobs().follow(id)).ok_or_else(unknown)?;
    let streams = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    if !streams.into_iter().any(|accept| accept.contains("text/event-stream")) {
        let job = told.borrow().last().map(|told| view(told, &door.parts));
        return Ok(Json(job.ok_or_else(unknown)?).into_response());
    }
    let heartbeat = Duration::from_millis(door.config.heartbeat_ms.max(10));
    let body = Events { wait: wait(told.clone(), heartbeat, false), told, door, heartbeat, sent: 0, over: false };
    let mut response = axum::body::Body::new(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A cursor on what was told of a job.
struct Events {
    told: watch::Receiver<Vec<Told>>,
    door: Arc<Door>,
    heartbeat: Duration,
    wait: Wait,
    sent: usize,
    over: bool,
}

/// Until more is told, or for a heartbeat.
fn wait(mut told: watch::Receiver<Vec<Told>>, heartbeat: Duration, change: bool) -> Wait {
    Box::pin(async move {
        if change {
            // Its time over means a heartbeat; an error that the job is forgotten, and then nothing comes any more.
            let _ = timeout(heartbeat, told.changed()).await;
        }
    })
}

impl Events {
    /// What was told since the last time, as frames.
    fn news(&mut self) -> Vec<u8> {
        let told = self.told.borrow_and_update();
        let mut frames = String::new();
        for told in &told[self.sent.min(told.len())..] {
            let name = if is_last(&told.job) { "end" } else { "step" };
            let data = view(told, &self.door.parts);
            frames += &format!("id: {}\nevent: {name}\ndata: {data}\n\n", self.sent);
            self.sent += 1;
            self.over = is_last(&told.job);
        }
        frames.into_bytes()
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        if this.wait.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let mut frames = this.news();
        if frames.is_empty() {
            frames = b": \n\n".to_vec();
        }
        this.wait = wait(this.told.clone(), this.heartbeat, true);
        Poll::Ready(Some(Ok(Frame::data(frames.into()))))
    }
}
