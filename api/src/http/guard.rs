//! The outermost layer: correlation ids, the checks that hold for every path, and the form of errors.
//!
//! Reads the head of each request, writes `X-Correlation-Id` on each response and the body of each
//! [`Problem`]. On a loopback bind only loopback names are answered, so that a web page cannot reach the
//! server through a name of its own (DNS rebinding). Logs hold path patterns and ids, never content.

use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;

/// Where OpenAI's clients speak, and read errors in their form; not all of these are served.
const OPENAI: [&str; 11] = [
    "/v1/models",
    "/v1/chat",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/moderations",
    "/v1/audio",
    "/v1/images",
    "/v1/files",
    "/v1/batches",
];
const CORRELATION_ID: &str = "x-correlation-id";

/// The request's correlation id, for streams that end in an error.
#[derive(Clone, Debug)]
pub(crate) struct CorrelationId(pub(crate) Arc<str>);

/// The connection found fault with the request's framing.
#[derive(Clone, Debug)]
pub(crate) struct Suspect(pub(crate) Problem);

/// Where the connection comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

pub(crate) async fn guard(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = correlation_id(request.headers());
    let openai = is_openai(request.uri().path());
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str);
    let span =
        tracing::info_span!("request", correlation_id = %id, method = %request.method(), route, identity = Empty);
    let loopback = door.config.bind.ip().is_loopback();
    let fault = match request.extensions_mut().remove::<Suspect>() {
        Some(Suspect(problem)) => Some(problem),
        None => host_fault(request.version(), request.uri(), request.headers(), loopback),
    };
    let mut response = match fault {
        Some(problem) => problem.into_response(),
        None => {
            request.extensions_mut().insert(CorrelationId(Arc::clone(&id)));
            next.run(request).instrument(span.clone()).await
        }
    };
    let status = response.status();
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let _entered = span.enter();
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), code = problem.code.name(), "request failed");
        } else {
            tracing::debug!(status = status.as_u16(), code = problem.code.name(), "request refused");
        }
        let body = if openai { problem.openai() } else { problem.flat(&id) };
        let mut rendered = problem.respond(&body);
        if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
            rendered.headers_mut().insert(header::ALLOW, allow);
        }
        response = rendered;
    } else {
        let _entered = span.enter();
        tracing::debug!(status = status.as_u16(), "request answered");
    }
    if openai {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert("openai-processing-ms", ms.into());
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        // The name that OpenAI's clients log.
        response.headers_mut().insert("x-request-id", value.clone());
        response.headers_mut().insert(CORRELATION_ID, value);
    }
    response
}

fn is_openai(path: &str) -> bool {
    let under = |place: &str| path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    OPENAI.into_iter().any(under)
}

/// The client's own where it is 1 to 128 visible ASCII characters, else a new one.
fn correlation_id(headers: &HeaderMap) -> Arc<str> {
    let given = headers.get(CORRELATION_ID).and_then(|value| value.to_str().ok());
    match given.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())) {
        Some(id) => id.into(),
        None => uuid::Uuid::new_v4().to_string().into(),
    }
}

/// Exactly one host, and on a loopback bind a loopback one.
fn host_fault(version: Version, uri: &Uri, headers: &HeaderMap, loopback: bool) -> Option<Problem> {
    let bad = |message: &str| Some(Problem::new(ErrorCode::InvalidParams, message).closing());
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next().map(HeaderValue::to_str), hosts.next()) {
        (_, Some(_)) => return bad("more than one Host header"),
        (Some(Err(_)), None) => return bad("the Host header is not readable"),
        (Some(Ok(host)), None) => Some(host),
        (None, None) => None,
    };
    let host = match (named, uri.authority().map(|authority| authority.as_str())) {
        (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
            return bad("the Host header and the request's address differ");
        }
        (None, Some(authority)) if version == Version::HTTP_2 => authority,
        (Some(host), _) if !host.is_empty() => host,
        _ => return bad("the Host header is missing"),
    };
    if loopback && !is_loopback_name(host) {
        let message = "this server answers on this machine only, as localhost or 127.0.0.1";
        return Some(Problem::new(ErrorCode::Forbidden, message).closing());
    }
    None
}

pub(crate) fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) if port.is_empty() || is_port(port) => name,
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return false,
            None => host,
        },
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass_on_a_loopback_bind() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"] {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in ["evil.example", "localhost.evil", "127.0.0.1.evil", "[::1].evil", "10.0.0.1", "", "[::1]x:1", "::1"]
        {
            assert!(!is_loopback_name(bad), "{bad}");
        }
    }

    #[test]
    fn correlation_ids_are_echoed_only_when_harmless() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CORRELATION_ID, HeaderValue::from_static(value));
            correlation_id(&headers)
        };
        assert_eq!(&*with("abc-1"), "abc-1");
        for bad in ["", "a b", "a\tb"] {
            assert_eq!(with(bad).len(), 36, "{bad:?} is replaced");
        }
    }
}
