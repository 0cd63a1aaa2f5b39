//! The matrix of auth: every route of the table, with no token, a bad one, one of another scope and the
//! right one; and what opens and closes it.

use super::guard::Peer;
use super::rig::*;
use super::routes;
use crate::auth::{Access, Auth, Keyring, Scope};
use crate::door::DoorConfig;
use axum::body::Body;
use axum::http::{Request, Response};
use orchestrion_world::id::TenantId;
use std::net::{IpAddr, Ipv4Addr};
use tower::ServiceExt;

const KEYS: &str = "i infer infer-0123456789abcdef0123456789\n\
                    o operate operate-0123456789abcdef0123456789\n\
                    g register register-0123456789abcdef0123456789\n\
                    r read read-0123456789abcdef0123456789";

fn key(scope: Scope) -> String {
    format!("{}-0123456789abcdef0123456789", scope.name())
}

fn auth() -> Auth {
    Auth { keyring: Keyring::parse(KEYS).unwrap(), ..Auth::default() }
}

fn rig(auth: Auth) -> Rig {
    Rig::guarded(DoorConfig::default(), true, auth)
}

async fn ask(rig: &Rig, method: &str, path: &str, token: Option<&str>, peer: Option<IpAddr>) -> Response<Body> {
    let path = path.replace("{id}", "0190a5f0-0000-7000-8000-000000000009").replace("{*id}", "none");
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Body::empty()).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer(peer));
    }
    rig.door.router().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn every_route_asks_for_its_scope() {
    let closed = Auth { metrics_open: false, health_open: false, ..auth() };
    for (auth, strict) in [(auth(), false), (closed, true)] {
        let rig = rig(auth);
        for route in routes() {
            let wanted: &[Scope] = match route.access {
                Access::Open => &[],
                Access::Health | Access::Metrics if !strict => &[],
                Access::Health | Access::Metrics => &[Scope::Read, Scope::Operate],
                Access::Work => &[Scope::Infer],
                Access::Scopes(scopes) => scopes,
            };
            let status = async |token: Option<&str>| {
                ask(&rig, route.method.as_str(), route.path, token, None).await.status().as_u16()
            };
            let name = format!("{} {}", route.method, route.path);
            let (none, bad) = (status(None).await, status(Some("not-a-token-that-is-known")).await);
            if wanted.is_empty() {
                assert!(![401, 403].contains(&none) && ![401, 403].contains(&bad), "{name} is open");
                continue;
            }
            assert_eq!((none, bad), (401, 401), "{name}");
            if route.method == "GET" {
                let head = ask(&rig, "HEAD", route.path, None, None).await.status();
                assert_eq!(head, 401, "HEAD {}", route.path);
            }
            for scope in Scope::ALL {
                let found = status(Some(&key(*scope))).await;
                match wanted.contains(scope) {
                    true => assert!(![401, 403].contains(&found), "{name} with {scope:?}: {found}"),
                    false => assert_eq!(found, 403, "{name} with {scope:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn refusals_wear_the_form_of_their_surface() {
    let rig = rig(auth());
    let missing = ask(&rig, "GET", "/v1/tasks/{id}", None, None).await;
    assert_eq!(missing.headers()["www-authenticate"], "Bearer");
    assert_eq!(json_of(missing, 401).await["code"], "MISSING_TOKEN");
    let bad = json_of(ask(&rig, "GET", "/v1/tasks/{id}", Some("x"), None).await, 401).await;
    assert_eq!(bad["code"], "BAD_TOKEN");
    let openai = ask(&rig, "POST", "/v1/chat/completions", Some("x"), None).await;
    assert_eq!(openai.headers()["x-should-retry"], "false");
    let openai = json_of(openai, 401).await;
    assert_eq!(
        (&openai["error"]["code"], &openai["error"]["type"]),
        (&"invalid_api_key".into(), &"invalid_request_error".into())
    );
    let wrong = ask(&rig, "POST", "/v1/chat/completions", Some(&key(Scope::Read)), None).await;
    assert_eq!(json_of(wrong, 403).await["error"]["type"], "permission_error");
}

#[tokio::test]
async fn without_tokens_a_key_is_ignored_and_with_optional_this_machine_needs_none() {
    let open = Rig::new();
    assert_eq!(ask(&open, "GET", "/v1/models", Some("anything"), None).await.status(), 200);
    assert_eq!(open.send("GET", "/v1/models", None, &[("authorization", "Basic eA==")]).await.status(), 200);

    let rig = rig(Auth { optional: true, ..auth() });
    let near = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
    let far = Some(IpAddr::from([192, 0, 2, 1]));
    for (token, peer, status) in [(None, near, 200), (None, far, 401), (None, None, 401), (Some("wrong"), near, 401)] {
        assert_eq!(ask(&rig, "GET", "/v1/models", token, peer).await.status(), status, "{token:?} {peer:?}");
    }
}

#[tokio::test]
async fn a_token_beyond_its_rate_is_told_when_to_come_back_and_may_still_cancel() {
    let keys = format!("slow infer {} rate=2/m\n{KEYS}", "s".repeat(32));
    let rig = rig(Auth { keyring: Keyring::parse(&keys).unwrap(), ..Auth::default() });
    let slow = "s".repeat(32);
    // What is asked for cannot be read, so each is refused after the keeper let it by.
    let ask = async |path: &str, token: &str| ask(&rig, "POST", path, Some(token), None).await;
    for _ in 0..2 {
        assert_eq!(ask("/v1/tasks", &slow).await.status(), 415);
    }
    let refused = ask("/v1/chat/completions", &slow).await;
    let wait: u64 = refused.headers()["x-backoff-ms"].to_str().unwrap().parse().unwrap();
    assert!((29_000..=30_000).contains(&wait), "{wait} ms");
    assert_eq!(json_of(refused, 429).await["error"]["code"], "RATE_LIMITED");
    let refused = json_of(ask("/v1/tasks", &slow).await, 429).await;
    assert_eq!((refused["policy_label"].as_str(), refused["retriable"].as_bool()), (Some("rate-limit"), Some(true)));
    assert_eq!(ask("/v1/tasks/{id}/cancel", &slow).await.status(), 404, "no such task, but no refusal");
    assert_eq!(ask("/v1/tasks", &key(Scope::Infer)).await.status(), 415, "others have their own");
    let metrics = text_of(rig.get("/metrics").await).await;
    for counter in ["tasks_rejected_total{reason=\"rate_limited\"} 2", "events_total{policy=\"rate-limit\"} 2"] {
        assert!(metrics.contains(counter), "{metrics}");
    }
}

#[tokio::test]
async fn a_token_works_for_its_tenant_and_its_sessions_are_the_tenants_own() {
    let keys = format!("a infer {}; b infer {} tenant=a; c infer {}", "a".repeat(32), "b".repeat(32), "c".repeat(32));
    let rig = rig(Auth { keyring: Keyring::parse(&keys).unwrap(), ..Auth::default() });
    for token in ["a", "b", "c"] {
        let bearer = format!("Bearer {}", token.repeat(32));
        let body = serde_json::json!({"model_ref": "hold", "prompt": "p", "session_id": "chat"});
        let answer = rig.send("POST", "/v1/tasks", Some(body), &[("authorization", &bearer)]).await;
        let left = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let [tokens, time, cost] =
            ["tokens-remaining", "time-remaining-ms", "cost-remaining"].map(|name| left(&format!("x-budget-{name}")));
        assert_eq!((tokens.as_deref(), time, cost.as_deref()), (Some("7000"), None, Some("2")));
        assert_eq!(answer.status(), 202);
    }
    let specs = rig.specs.lock().unwrap();
    let [a, b, c] = specs.as_slice() else { panic!("{specs:?}") };
    assert_eq!((a.tenant, b.tenant, c.tenant), (TenantId::of("a"), TenantId::of("a"), TenantId::of("c")));
    assert!(a.session.is_some() && a.session == b.session && a.session != c.session);
    // Nor is what an engine knows of its prompts looked for by another.
    assert!(!a.prefix.is_empty() && a.prefix == b.prefix && a.prefix != c.prefix);
}
