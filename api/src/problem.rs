//! Every way a request can fail, as its client sees it: one table from code to status and retriability,
//! and one `Problem` that each refusal, failure and malformed request becomes.
//!
//! A `Problem` carries facts, not bytes: the outermost layer (`http::guard`) knows the correlation id
//! and the surface, and renders the flat envelope or the OpenAI one. Streams render their own last event
//! through [`Problem::flat`]. Nothing here logs, and no message quotes a prompt.

mod refused;

use crate::port::PrepareError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use orchestrion_world::config::OverloadPolicy;
use orchestrion_world::protocol::{CancelReason, Failure, TimeLimit};
use serde_json::{Map, Value, json};

/// The contract's error codes that something here can produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    InvalidParams,
    DeadlineUnmet,
    MissingToken,
    BadToken,
    Forbidden,
    NotFound,
    Conflict,
    PayloadTooLarge,
    AdmissionReject,
    QueueFullDropLru,
    ShedLowPriority,
    RateLimited,
    BudgetExhausted,
    PoolUnready,
    PoolUnavailable,
    WorkerReset,
    DecodeTimeout,
    Cancelled,
    Internal,
}

/// Code, its name on the wire, its status, and whether the same request may work later.
pub(crate) const CODES: [(ErrorCode, &str, StatusCode, bool); 19] = [
    (ErrorCode::InvalidParams, "INVALID_PARAMS", StatusCode::BAD_REQUEST, false),
    (ErrorCode::DeadlineUnmet, "DEADLINE_UNMET", StatusCode::BAD_REQUEST, false),
    (ErrorCode::MissingToken, "MISSING_TOKEN", StatusCode::UNAUTHORIZED, false),
    (ErrorCode::BadToken, "BAD_TOKEN", StatusCode::UNAUTHORIZED, false),
    (ErrorCode::Forbidden, "FORBIDDEN", StatusCode::FORBIDDEN, false),
    (ErrorCode::NotFound, "NOT_FOUND", StatusCode::NOT_FOUND, false),
    (ErrorCode::Conflict, "CONFLICT", StatusCode::CONFLICT, false),
    (ErrorCode::PayloadTooLarge, "PAYLOAD_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE, false),
    (ErrorCode::AdmissionReject, "ADMISSION_REJECT", StatusCode::TOO_MANY_REQUESTS, true),
    (ErrorCode::QueueFullDropLru, "QUEUE_FULL_DROP_LRU", StatusCode::TOO_MANY_REQUESTS, true),
    (ErrorCode::ShedLowPriority, "SHED_LOW_PRIORITY", StatusCode::TOO_MANY_REQUESTS, true),
    (ErrorCode::RateLimited, "RATE_LIMITED", StatusCode::TOO_MANY_REQUESTS, true),
    (ErrorCode::BudgetExhausted, "BUDGET_EXHAUSTED", StatusCode::TOO_MANY_REQUESTS, false),
    (ErrorCode::PoolUnready, "POOL_UNREADY", StatusCode::SERVICE_UNAVAILABLE, true),
    (ErrorCode::PoolUnavailable, "POOL_UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE, true),
    (ErrorCode::WorkerReset, "WORKER_RESET", StatusCode::SERVICE_UNAVAILABLE, true),
    (ErrorCode::DecodeTimeout, "DECODE_TIMEOUT", StatusCode::GATEWAY_TIMEOUT, true),
    // Only a non-streamed answer shows this status: nginx's "client closed request".
    (ErrorCode::Cancelled, "CANCELLED", CLIENT_CLOSED, false),
    (ErrorCode::Internal, "INTERNAL", StatusCode::INTERNAL_SERVER_ERROR, false),
];

const CLIENT_CLOSED: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// What a client is asked to wait where nothing better is known, milliseconds.
const RETRY_DEFAULT_MS: u64 = 1_000;

impl ErrorCode {
    fn row(self) -> (&'static str, StatusCode, bool) {
        let row = CODES.iter().find(|row| row.0 == self);
        row.map_or(("INTERNAL", StatusCode::INTERNAL_SERVER_ERROR, false), |row| (row.1, row.2, row.3))
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        self.row().0
    }
}

/// One failure, with what a client needs to act on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(crate) code: ErrorCode,
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) retry_after_ms: Option<u64>,
    pub(crate) policy_label: Option<&'static str>,
    /// The request field at fault (OpenAI's `param`).
    pub(crate) param: Option<String>,
    /// Where OpenAI's clients know a code of their own.
    openai_code: Option<&'static str>,
    /// The connection's framing is in doubt: it must not carry another request.
    pub(crate) close: bool,
}

impl Problem {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let (_, status, retriable) = code.row();
        Problem {
            code,
            status,
            message: message.into(),
            retry_after_ms: retriable.then_some(RETRY_DEFAULT_MS),
            policy_label: None,
            param: None,
            openai_code: None,
            close: false,
        }
    }

    /// A field of the request is wrong.
    pub(crate) fn invalid(param: impl Into<String>, problem: impl AsRef<str>) -> Self {
        let param = param.into();
        let message = format!("`{param}`: {}", problem.as_ref());
        Problem { param: Some(param), ..Problem::new(ErrorCode::InvalidParams, message) }
    }

    /// Prompt and answer are more than a context holds, as OpenAI's clients are told it.
    fn too_long(self) -> Self {
        Problem { openai_code: Some("context_length_exceeded"), ..self }
    }

    /// The field goes by another name where the request has it elsewhere.
    pub(crate) fn renamed(mut self, known: &str, param: &str) -> Self {
        if self.param.take_if(|param| param == known).is_some() {
            if let Some(problem) = self.message.strip_prefix(&format!("`{known}`: ")) {
                self.message = format!("`{param}`: {problem}");
            }
            self.param = Some(param.to_owned());
        }
        self
    }

    pub(crate) fn unknown_model(message: impl Into<String>) -> Self {
        Problem {
            param: Some("model".into()),
            openai_code: Some("model_not_found"),
            ..Problem::new(ErrorCode::NotFound, message)
        }
    }

    /// The client lane is full: more requests arrive than the scheduler takes in.
    pub(crate) fn ingress_full() -> Self {
        Problem::new(
            ErrorCode::AdmissionReject,
            "the server takes in requests as fast as it can and its intake is full; retry after the time given",
        )
        .label("ingress")
        .after(100)
    }

    /// The token has asked for as much as its rate allows.
    pub(crate) fn rate_limited(wait_ms: u64) -> Self {
        let message = "this token has made as many requests as its rate allows; retry after the time given";
        Problem::new(ErrorCode::RateLimited, message).label("rate-limit").after(wait_ms)
    }

    /// The pulse no longer answers: the process is going down.
    pub(crate) fn stopping() -> Self {
        Problem::new(ErrorCode::PoolUnavailable, "the server is shutting down; send the request to another, or retry")
    }

    /// The pulse cannot record anything now, most often for want of room on the disk.
    pub(crate) fn unwritable(problem: &str) -> Self {
        let message = format!(
            "no new work is taken and nothing is acknowledged, because the journal cannot be written ({problem}); \
             retry with the same `task_id`, the server goes on by itself once it can write"
        );
        Problem::new(ErrorCode::PoolUnavailable, message)
    }

    pub(crate) fn no_task() -> Self {
        Problem::new(
            ErrorCode::NotFound,
            "no such task here; results are kept for a limited time and space, see `server.result_ttl_s`",
        )
    }

    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    fn label(mut self, label: &'static str) -> Self {
        self.policy_label = Some(label);
        self
    }

    fn after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    fn retriable(&self) -> bool {
        self.code.row().2
    }

    pub(crate) fn failed(failure: Failure) -> Self {
        match failure {
            Failure::DeadlinePassed => {
                Problem::new(ErrorCode::DeadlineUnmet, "the deadline passed before the answer was complete")
                    .status(StatusCode::GATEWAY_TIMEOUT)
            }
            Failure::WorkerLost => Problem::new(
                ErrorCode::WorkerReset,
                "the worker was lost and the task could not be run again in its place; send it again",
            ),
            Failure::InvalidInput => Problem::new(
                ErrorCode::InvalidParams,
                "the engine cannot run this request; sending it again will not help",
            ),
            Failure::NoWorker => {
                Problem::new(ErrorCode::PoolUnavailable, "no worker is left that could run the task; retry later")
            }
            Failure::Displaced { policy, by: _, retry_after } => Problem::new(
                full(policy),
                "the queue was full and the task gave its place to one that came later; retry after the time given",
            )
            .label(policy.label())
            .after(retry_after.0),
            Failure::TimedOut(limit) => {
                let message = match limit {
                    TimeLimit::FirstToken => {
                        "no worker made a first token in the time allowed (`timeouts.first_token_ms`)"
                    }
                    TimeLimit::Idle => "no further token came in the time allowed (`timeouts.idle_ms`)",
                    TimeLimit::Wall => {
                        "the answer took longer than is allowed (`timeouts.wall_ms`); ask for fewer tokens"
                    }
                };
                Problem::new(ErrorCode::DecodeTimeout, message)
            }
            Failure::Diverged => Problem::diverged(),
        }
    }

    pub(crate) fn cancelled(reason: CancelReason) -> Self {
        match reason {
            CancelReason::Client => Problem::new(ErrorCode::Cancelled, "the task was cancelled on request"),
            CancelReason::Disconnect => {
                Problem::new(ErrorCode::Cancelled, "the task was cancelled: its client disconnected")
            }
            CancelReason::Abandoned => Problem::new(
                ErrorCode::Cancelled,
                "the task was cancelled: nobody read its stream; see `server.cancel_grace_ms`",
            ),
            CancelReason::Shutdown => Problem::stopping(),
        }
    }

    /// A later attempt made other tokens than an earlier one had shown.
    pub(crate) fn diverged() -> Self {
        Problem::new(
            ErrorCode::Internal,
            "two attempts at this task disagreed on tokens already sent; the answer was stopped, send it again",
        )
    }

    /// The envelope of the OrchQueue surface.
    pub(crate) fn flat(&self, correlation_id: &str) -> Value {
        let mut object = Map::new();
        object.insert("code".into(), self.code.name().into());
        object.insert("message".into(), self.message.as_str().into());
        object.insert("retriable".into(), self.retriable().into());
        if let Some(ms) = self.retry_after_ms {
            object.insert("retry_after_ms".into(), ms.into());
        }
        if let Some(label) = self.policy_label {
            object.insert("policy_label".into(), label.into());
        }
        object.insert("correlation_id".into(), correlation_id.into());
        Value::Object(object)
    }

    /// The same facts as OpenAI's clients read them.
    pub(crate) fn openai(&self) -> Value {
        let kind = match self.status.as_u16() {
            403 => "permission_error",
            429 => "rate_limit_exceeded",
            503 => "overloaded",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        };
        let code = match self.code {
            ErrorCode::MissingToken | ErrorCode::BadToken => "invalid_api_key",
            code => self.openai_code.unwrap_or(code.name()),
        };
        json!({"error": {"message": self.message, "type": kind, "code": code, "param": self.param}})
    }

    /// The response with `body` as its text; the headers say when to come back.
    pub(crate) fn respond(&self, body: &Value) -> Response {
        let mut response =
            (self.status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response();
        let headers = response.headers_mut();
        if let Some(ms) = self.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000).max(1)));
            headers.insert("x-backoff-ms", HeaderValue::from(ms));
            headers.insert("retry-after-ms", HeaderValue::from(ms));
        }
        // OpenAI's clients would repeat any 409 and 5xx.
        headers.insert("x-should-retry", HeaderValue::from_static(if self.retriable() { "true" } else { "false" }));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// What the clients of a full queue are told, by who gives way there.
fn full(policy: OverloadPolicy) -> ErrorCode {
    match policy {
        OverloadPolicy::Reject => ErrorCode::AdmissionReject,
        OverloadPolicy::DropLru => ErrorCode::QueueFullDropLru,
        OverloadPolicy::ShedLowPriority => ErrorCode::ShedLowPriority,
    }
}

impl From<PrepareError> for Problem {
    fn from(error: PrepareError) -> Self {
        let message = error.to_string();
        match error {
            PrepareError::UnknownModel { .. } => Problem::unknown_model(message),
            PrepareError::NotLoaded { .. } => Problem::new(ErrorCode::PoolUnready, message),
            PrepareError::Invalid { field, problem } => Problem::invalid(field, problem),
            PrepareError::TooLong { field, problem } => Problem::invalid(field, problem).too_long(),
        }
    }
}

impl IntoResponse for Problem {
    /// Only carries the facts outwards; `http::guard` writes the body.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests;
