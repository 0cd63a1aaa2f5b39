//! A client's deadline, `X-Deadline` (absolute) or `deadline_ms` (relative), as the length that is left.
//!
//! The core knows no wall clock: lengths are all it gets. Where both are given the nearer one counts.

use crate::problem::{ErrorCode, Problem};
use axum::http::HeaderMap;
use orchestrion_world::time::Ticks;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What is left of the nearer deadline at `now_ms`, less `margin_ms` for the way back.
pub(crate) fn left(
    headers: &HeaderMap,
    relative_ms: Option<u64>,
    now_ms: u64,
    margin_ms: u64,
) -> Result<Option<Ticks>, Problem> {
    let absolute = match headers.get("x-deadline") {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok())
                .ok_or_else(|| Problem::invalid("X-Deadline", "must be milliseconds since 1970"))?
                .saturating_sub(now_ms),
        ),
    };
    let nearer = match (absolute, relative_ms) {
        (Some(absolute), Some(relative)) => Some(absolute.min(relative)),
        (absolute, relative) => absolute.or(relative),
    };
    match nearer.map(|length| length.saturating_sub(margin_ms)) {
        Some(0) => Err(Problem::new(ErrorCode::DeadlineUnmet, "the deadline has passed, or leaves no time to answer")),
        length => Ok(length.map(Ticks)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_deadline_counts_less_the_margin() {
        let mut headers = HeaderMap::new();
        assert_eq!(left(&headers, None, 1_000, 5), Ok(None));
        assert_eq!(left(&headers, Some(100), 1_000, 5), Ok(Some(Ticks(95))));
        headers.insert("x-deadline", "1050".parse().unwrap());
        assert_eq!(left(&headers, Some(100), 1_000, 5), Ok(Some(Ticks(45))));
        assert_eq!(left(&headers, None, 1_045, 5).unwrap_err().code, ErrorCode::DeadlineUnmet);
        headers.insert("x-deadline", "soon".parse().unwrap());
        assert_eq!(left(&headers, None, 0, 5).unwrap_err().code, ErrorCode::InvalidParams);
    }
}
