//! Server-sent events: the frames of the queue surface, and the response body that both surfaces stream.
//!
//! A body is a cursor on a task's log: woken, it writes all that is new into one chunk, so one write
//! carries all tokens of a moment. While nothing comes it sends a comment at each heartbeat. It decides
//! nothing about the task; what its end or loss means is the `Tether` it carries.

mod parts;

pub(crate) use parts::PartFrames;

use crate::door::Tether;
use crate::http::logprobs;
use crate::problem::Problem;
use crate::task_entry::{BYTES_A_TAKE, Begun, Ending, Entry, Frames, Reader};
use crate::token_log::Said;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body::{Body, Frame};
use hyper::body::Bytes;
use orchestrion_world::protocol::{Finish, Outcome};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// How several streams become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Whatever comes, comes.
    AsTheyCome,
    /// One begins where the one before it ends.
    InTurn,
}

/// A response body over one task's stream, or over those of several that make one answer.
pub(crate) struct EventBody {
    order: Order,
    // Before the tethers: those count the readers that are left.
    readers: Vec<(Reader, Box<dyn Frames>)>,
    heartbeat: Duration,
    beat: Pin<Box<Sleep>>,
    /// Held for their drop: what the loss of this response means for the tasks.
    _tethers: Vec<Tether>,
}

impl EventBody {
    pub(crate) fn new(
        order: Order,
        readers: Vec<(Reader, Box<dyn Frames>)>,
        heartbeat: Duration,
        tethers: Vec<Tether>,
    ) -> Self {
        // A heartbeat of zero would be a flood.
        let heartbeat = heartbeat.max(Duration::from_millis(10));
        EventBody { order, readers, heartbeat, beat: Box::pin(sleep(heartbeat)), _tethers: tethers }
    }

    pub(crate) fn into_response(self) -> Response {
        let mut response = axum::body::Body::new(self).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    fn over(&self) -> bool {
        self.readers.iter().all(|(reader, _)| reader.over()) || self.readers.iter().any(|(_, frames)| frames.closes())
    }
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let mut out = Vec::new();
        if this.over() {
            return Poll::Ready(None);
        }
        for (reader, frames) in &mut this.readers {
            // Ready or not, it has written what there is and left its waker where it has to wait.
            let mut piece = Vec::new();
            let _ = reader.poll_take(cx, frames.as_mut(), &mut piece);
            match out.is_empty() {
                true => out = piece,
                false => out.extend_from_slice(&piece),
            }
            // Those after it come with the next frame, which is asked for at once.
            let waits = this.order == Order::InTurn && !reader.over();
            if waits || frames.closes() || out.len() >= BYTES_A_TAKE {
                break;
            }
        }
        if out.is_empty() {
            if this.over() {
                return Poll::Ready(None);
            }
            ready!(this.beat.as_mut().poll(cx));
            out.extend_from_slice(b": ping\n\n");
        }
        this.beat.as_mut().reset(Instant::now() + this.heartbeat);
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.over()
    }
}

/// Appends one `data:` frame.
pub(crate) fn data(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(b"data: ");
    write_json(out, value);
    out.extend_from_slice(b"\n\n");
}

/// Appends one event of the queue surface.
fn event(out: &mut Vec<u8>, id: u32, name: &str, value: &Value) {
    out.extend_from_slice(format!("id: {id}\nevent: {name}\n").as_bytes());
    data(out, value);
}

/// Writing into a `Vec` cannot fail, and these values have string keys.
pub(crate) fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok());
}

fn started(out: &mut Vec<u8>, entry: &Entry, begun: &Begun) {
    let facts = json!({
        "queue_position": begun.position,
        "predicted_start_ms": begun.predicted_start.0,
        "worker_id": begun.worker.to_string(),
        "seed": entry.seed,
        "fingerprint": &*entry.fingerprint,
    });
    event(out, 0, "started", &facts);
}

/// The frames of `GET /v1/tasks/{id}/stream`. Ids: 0 is `started`, n is token n-1, the end is one more
/// than the tokens in the log.
#[derive(Debug)]
pub(crate) struct QueueFrames {
    pub(crate) entry: Arc<Entry>,
    pub(crate) correlation_id: Arc<str>,
}

impl Frames for QueueFrames {
    fn started(&mut self, out: &mut Vec<u8>, begun: &Begun) {
        started(out, &self.entry, begun);
    }

    /// The hot one: no tree is built.
    fn token(&mut self, out: &mut Vec<u8>, index: u32, Said { text, likelihood, .. }: Said<'_>) {
        out.extend_from_slice(b"id: ");
        write_json(out, &index.saturating_add(1));
        out.extend_from_slice(b"\nevent: token\ndata: {\"t\":");
        write_json(out, text);
        out.extend_from_slice(b",\"i\":");
        write_json(out, &index);
        if let Some(likelihood) = likelihood {
            out.extend_from_slice(b",\"logprobs\":");
            write_json(out, &logprobs::entry(likelihood));
        }
        out.extend_from_slice(b"}\n\n");
    }

    fn ended(&mut self, out: &mut Vec<u8>, ending: &Ending) {
        let id = ending.tokens.saturating_add(1);
        match result(ending) {
            Ok(facts) => event(out, id, "end", &facts),
            Err(problem) => event(out, id, "error", &problem.flat(&self.correlation_id)),
        }
    }
}

/// The facts of an `end`, or the problem that stands in its place.
pub(crate) fn result(ending: &Ending) -> Result<Value, Problem> {
    if ending.broken {
        return Err(Problem::diverged());
    }
    match ending.outcome {
        Outcome::Done(usage) => Ok(json!({
            "tokens_in": usage.tokens_in,
            "tokens_out": usage.tokens_out,
            "decode_time_ms": usage.decode_us / 1_000,
            "finish_reason": finish_reason(usage.finish),
            "stop": usage.finish == Finish::Stop,
        })),
        Outcome::Cancelled { reason, .. } => Err(Problem::cancelled(reason)),
        Outcome::Failed { failure, .. } => Err(Problem::failed(failure)),
    }
}

/// Typed clients of the OpenAI surface know no others than these.
pub(crate) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length | Finish::Cancelled => "length",
    }
}
