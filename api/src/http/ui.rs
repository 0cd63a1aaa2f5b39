//! `/` and `/ui`: one page with live figures and a prompt to try. Three embedded files, nothing from
//! elsewhere, under a policy that allows nothing else.

use axum::http::{HeaderName, header};
use axum::response::IntoResponse;

const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

pub(crate) async fn page() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("../ui/index.html"))
}

pub(crate) async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("../ui/app.js"))
}

pub(crate) async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("../ui/style.css"))
}
