//! What an answer tells of budgets: a header for each kind that is limited, with what is left of it once the
//! task is paid for at its most.

use axum::http::{HeaderMap, HeaderValue};
use orchestrion_world::budget::{COST_PER_MILLI, Kind, Left};

/// A kind's name in headers and fields, and how much of it is one there.
pub(crate) const KINDS: [(Kind, &str, &str, u64); 3] = [
    (Kind::Tokens, "x-budget-tokens-remaining", "tokens_budget_remaining", 1),
    (Kind::Time, "x-budget-time-remaining-ms", "time_budget_remaining_ms", 1),
    (Kind::Cost, "x-budget-cost-remaining", "cost_budget_remaining", COST_PER_MILLI),
];

pub(crate) fn headers(left: &Left) -> HeaderMap {
    let limited = KINDS.iter().filter_map(|&(kind, header, _, unit)| Some((header, left.of(kind)? / unit)));
    let mut headers = HeaderMap::new();
    limited.for_each(|(header, left)| drop(headers.insert(header, HeaderValue::from(left))));
    headers
}
