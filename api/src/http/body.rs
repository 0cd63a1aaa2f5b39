//! Reads a JSON body within its bounds: by its declared length before a byte is read, by its size and its
//! pace while it comes, by what all bodies together may hold, by its depth before it is parsed.

use super::fields::Fields;
use crate::door::Door;
use crate::problem::{ErrorCode, Problem};
use crate::serve::Limits;
use crate::telemetry::Turned;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// What is left of the bytes that bodies may hold, from when they come to when their words are tokens.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

/// A body's share of the budget; its drop gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Budget> {
        Arc::new(Budget(AtomicU64::new(bytes)))
    }
}

impl Held {
    fn nothing(budget: &Arc<Budget>) -> Held {
        Held { budget: Arc::clone(budget), bytes: 0 }
    }

    fn grow(&mut self, bytes: u64) -> Result<(), Problem> {
        let less = |left: u64| left.checked_sub(bytes);
        // It counts and guards nothing else.
        let taken = self.budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.map_err(|_| Problem::ingress_full().closing())?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A body that was read, to be held until its words are tokens.
#[derive(Debug)]
pub(crate) struct Taken {
    bytes: Bytes,
    _held: Held,
}

impl Taken {
    /// What makes the same request the same.
    pub(crate) fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }
}

/// The object in a route's body of at most `most` bytes.
pub(crate) async fn take(door: &Door, headers: &HeaderMap, body: Body, most: u64) -> Result<(Fields, Taken), Problem> {
    let (limits, mut held) = (&door.config.limits, Held::nothing(&door.bodies));
    let bytes = read_into(&mut held, headers, body, most, limits).await;
    if bytes.as_ref().is_err_and(|problem| problem.code == ErrorCode::AdmissionReject) {
        door.parts.telemetry.turned_away(Turned::Ingress);
    }
    let bytes = bytes?;
    Ok((object(&bytes, limits)?, Taken { bytes, _held: held }))
}

/// Reads at most `most` bytes, no slower than the limits allow.
async fn read_into(
    held: &mut Held,
    headers: &HeaderMap,
    mut body: Body,
    most: u64,
    limits: &Limits,
) -> Result<Bytes, Problem> {
    is_json(headers)?;
    let too_large = || Problem::new(ErrorCode::PayloadTooLarge, format!("the body may hold {most} bytes")).closing();
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > most) {
        return Err(too_large());
    }
    let begun = Instant::now();
    let mut read: Vec<u8> = Vec::new();
    let mut single = Bytes::new();
    loop {
        // What has come by now buys time for the next piece.
        let bought = (read.len() + single.len()) as u64 * 1_000 / limits.body_bytes_per_s.max(1);
        let due = begun + Duration::from_millis(limits.body_grace_ms.saturating_add(bought));
        let Ok(frame) = timeout_at(due, body.frame()).await else {
            let message = "the body came too slowly; send it at once";
            return Err(Problem::new(ErrorCode::InvalidParams, message).status(StatusCode::REQUEST_TIMEOUT).closing());
        };
        let piece = match frame {
            None => break,
            Some(Err(_)) => {
                return Err(Problem::new(ErrorCode::InvalidParams, "the body broke off before its end").closing());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_) => continue,
            },
        };
        if (read.len() + single.len() + piece.len()) as u64 > most {
            return Err(too_large());
        }
        held.grow(piece.len() as u64)?;
        if read.is_empty() && single.is_empty() {
            single = piece;
        } else {
            read.extend_from_slice(&std::mem::take(&mut single));
            read.extend_from_slice(&piece);
        }
    }
    Ok(if read.is_empty() { single } else { read.into() })
}

/// A web page of another origin can send plain text unasked, JSON it cannot.
fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(ErrorCode::InvalidParams, "send JSON, with `Content-Type: application/json`")
        .status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
}

/// The body's object.
fn object(bytes: &[u8], limits: &Limits) -> Result<Fields, Problem> {
    if depth(bytes) > limits.json_depth {
        let message = format!("the JSON nests deeper than {} levels", limits.json_depth);
        return Err(Problem::new(ErrorCode::InvalidParams, message));
    }
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => Ok(Fields(fields)),
        Ok(_) => Err(Problem::new(ErrorCode::InvalidParams, "the body must be a JSON object")),
        // The position, not the content.
        Err(error) => Err(Problem::new(
            ErrorCode::InvalidParams,
            format!("the body is not valid JSON, at line {}, column {}", error.line(), error.column()),
        )),
    }
}

/// The deepest nesting, strings apart. The bytes need not be valid.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut text, mut escaped) = (0usize, 0usize, false, false);
    for byte in bytes {
        match (text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => text = !text,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(br#"{"a":[1,{"b":"[[[\"{{{"}]}"#), 3);
        assert_eq!(depth(b"1"), 0);
        let limits = Limits::default();
        let nested = |n: usize| format!("{}{}", "{\"a\":".repeat(n), "1") + &"}".repeat(n);
        assert!(object(nested(64).as_bytes(), &limits).is_ok());
        assert!(object(nested(65).as_bytes(), &limits).is_err());
        assert!(object(b"[1]", &limits).is_err());
        assert!(object(b"{\"a\":", &limits).is_err());
    }

    /// A sender that stays and sends nothing.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test]
    async fn bodies_are_bounded_in_size_and_pace() {
        let limits = Limits { body_grace_ms: 30, body_bytes_per_s: 1_000_000, ..Limits::default() };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
        let budget = Budget::new(12);
        let read_all = async |body: Body, most| {
            let mut held = Held::nothing(&budget);
            read_into(&mut held, &headers, body, most, &limits).await.map(|bytes| (bytes, held))
        };
        let first = read_all(Body::from("12345"), 5).await.unwrap();
        assert_eq!(&first.0[..], b"12345");
        assert_eq!(read_all(Body::from("123456"), 5).await.unwrap_err().status, 413);
        assert_eq!(read_all(Body::new(Silent), 5).await.unwrap_err().status, 408);

        // Seven are left: what all hold together is bounded, and given back.
        let full = read_all(Body::from("12345678"), 9).await.unwrap_err();
        assert_eq!((full.status.as_u16(), full.policy_label, full.close), (429, Some("ingress"), true));
        let second = read_all(Body::from("1234567"), 9).await.unwrap();
        drop((first, second));
        assert_eq!(budget.0.load(Ordering::Relaxed), 12);

        let plain = HeaderMap::new();
        let mut held = Held::nothing(&budget);
        let refused = read_into(&mut held, &plain, Body::from("{}"), 5, &limits).await;
        assert_eq!(refused.unwrap_err().status, 415);
    }
}
