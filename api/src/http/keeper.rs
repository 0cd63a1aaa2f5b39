//! The layer of each route that asks who is there, before a byte of the body is read.
//!
//! Reads the head and the peer's address, writes the identity into the request's span and the caller into the
//! request. What each route asks
//! for stands in its row of the table of routes; the judgement is [`crate::auth`]'s.

use super::guard::{Peer, is_loopback_name};
pub(crate) use crate::auth::Caller;
use crate::auth::{Access, Shown};
use crate::door::Door;
use crate::problem::ErrorCode;
use crate::telemetry::Turned;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use tracing::field::display;

pub(crate) async fn keep(
    State((door, access)): State<(Arc<Door>, Access)>,
    mut request: Request,
    next: Next,
) -> Response {
    match door.parts.auth.judge(access, shown(request.headers()), is_local(&request), Instant::now()) {
        Ok(caller) => {
            tracing::Span::current().record("identity", display(caller.identity));
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            if problem.code == ErrorCode::RateLimited {
                door.parts.telemetry.turned_away(Turned::Rate);
            }
            problem.into_response()
        }
    }
}

fn shown(headers: &HeaderMap) -> Shown<'_> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Shown::Nothing,
        (Some(value), None) => match value.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Shown::Token(token.trim()),
            _ => Shown::Unreadable,
        },
        (Some(_), Some(_)) => Shown::Unreadable,
    }
}

/// From this machine, and under a name of this machine: a web page in a browser here has the address, but
/// not the name (DNS rebinding).
fn is_local(request: &Request) -> bool {
    let near = request.extensions().get::<Peer>().is_some_and(|Peer(address)| address.to_canonical().is_loopback());
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    near && host.is_some_and(is_loopback_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use std::net::IpAddr;

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            });
            match shown(&headers) {
                Shown::Nothing => "nothing".to_owned(),
                Shown::Unreadable => "unreadable".to_owned(),
                Shown::Token(token) => format!("token {token}"),
            }
        };
        assert_eq!(of(&[]), "nothing");
        assert_eq!([of(&["Bearer abc"]), of(&["bearer abc"])], ["token abc", "token abc"]);
        for bad in [&["Basic abc"][..], &["Bearer"], &["abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(of(bad), "unreadable", "{bad:?}");
        }
    }

    #[test]
    fn local_is_an_address_and_a_name() {
        for (address, host, local) in [
            ("127.0.0.1", "localhost:8080", true),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "evil.example", false),
            ("10.0.0.1", "localhost", false),
        ] {
            let mut request = Request::get("/").header("host", host).body(Body::empty()).unwrap();
            request.extensions_mut().insert(Peer(address.parse::<IpAddr>().unwrap()));
            assert_eq!(is_local(&request), local, "{address} {host}");
        }
        assert!(!is_local(&Request::get("/").header("host", "localhost").body(Body::empty()).unwrap()));
    }
}
