//! Codes, statuses and envelopes.

use super::*;
use orchestrion_world::budget::Kind;
use orchestrion_world::protocol::{Payer, Refusal, SessionOver, TenantLimit};
use orchestrion_world::time::Ticks;

#[test]
fn every_code_has_one_row_and_the_contract_s_status() {
    let expected = [
        ("INVALID_PARAMS", 400, false),
        ("DEADLINE_UNMET", 400, false),
        ("MISSING_TOKEN", 401, false),
        ("BAD_TOKEN", 401, false),
        ("FORBIDDEN", 403, false),
        ("NOT_FOUND", 404, false),
        ("CONFLICT", 409, false),
        ("PAYLOAD_TOO_LARGE", 413, false),
        ("ADMISSION_REJECT", 429, true),
        ("QUEUE_FULL_DROP_LRU", 429, true),
        ("SHED_LOW_PRIORITY", 429, true),
        ("RATE_LIMITED", 429, true),
        ("BUDGET_EXHAUSTED", 429, false),
        ("POOL_UNREADY", 503, true),
        ("POOL_UNAVAILABLE", 503, true),
        ("WORKER_RESET", 503, true),
        ("DECODE_TIMEOUT", 504, true),
        ("CANCELLED", 499, false),
        ("INTERNAL", 500, false),
    ];
    let table: Vec<_> = CODES.iter().map(|row| (row.1, row.2.as_u16(), row.3)).collect();
    assert_eq!(table, expected);
    for (i, row) in CODES.iter().enumerate() {
        assert_eq!(CODES.iter().position(|other| other.0 == row.0), Some(i), "{:?} stands twice", row.0);
    }
}

#[test]
fn refusals_and_failures_map_to_the_contract() {
    let of = |p: Problem| (p.code.name(), p.status.as_u16());
    let after = Ticks(2_500);
    assert_eq!(of(Problem::refused(Refusal::UnknownModel)), ("NOT_FOUND", 404));
    assert_eq!(of(Problem::refused(Refusal::DuplicateTask)), ("CONFLICT", 409));
    let context = Refusal::ContextExceeded { tokens: 9, ctx_max: 8 };
    assert_eq!(of(Problem::refused(context)), ("INVALID_PARAMS", 400));
    let told = Problem::refused(context).openai()["error"].clone();
    assert_eq!(told["code"], "context_length_exceeded");
    assert!(told["message"].as_str().unwrap().contains("truncation"), "with the way out: {told}");
    let late = Refusal::DeadlineInfeasible { deadline: Ticks(1), needed: Ticks(2), retry_after: None };
    assert_eq!(of(Problem::refused(late)), ("DEADLINE_UNMET", 400));
    assert_eq!(of(Problem::refused(Refusal::PoolUnready { retry_after: after })), ("POOL_UNREADY", 503));
    assert_eq!(of(Problem::failed(Failure::DeadlinePassed)), ("DEADLINE_UNMET", 504));
    assert_eq!(of(Problem::failed(Failure::WorkerLost)), ("WORKER_RESET", 503));
    assert_eq!(of(Problem::failed(Failure::InvalidInput)), ("INVALID_PARAMS", 400));
    assert_eq!(of(Problem::failed(Failure::NoWorker)), ("POOL_UNAVAILABLE", 503));
    assert_eq!(of(Problem::cancelled(CancelReason::Client)), ("CANCELLED", 499));
    assert_eq!(of(Problem::cancelled(CancelReason::Shutdown)), ("POOL_UNAVAILABLE", 503));
}

#[test]
fn a_full_queue_says_by_which_policy_and_when_to_come_back() {
    for (policy, code) in OverloadPolicy::ALL.into_iter().zip(CODES[8..11].iter().map(|row| row.1)) {
        let retry_after = Ticks(2_500);
        let displaced = Failure::Displaced { policy, by: orchestrion_world::id::TaskId(1), retry_after };
        let refused = Problem::refused(Refusal::QueueFull { policy, bound: 4, retry_after });
        for problem in [refused, Problem::failed(displaced)] {
            let response = problem.respond(&problem.flat("c"));
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], "3", "whole seconds, rounded up");
            assert_eq!(response.headers()["x-backoff-ms"], "2500");
            let envelope = problem.flat("c");
            assert_eq!(envelope["code"], code);
            assert_eq!(envelope["policy_label"], policy.label());
            assert_eq!(envelope["retry_after_ms"], 2_500);
            assert_eq!(envelope["retriable"], true);
            assert_eq!(envelope["correlation_id"], "c");
        }
    }
}

#[test]
fn the_openai_envelope_names_the_parameter() {
    let body = Problem::invalid("n", "must be 1").openai();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(body["error"]["param"], "n");
    assert_eq!(Problem::unknown_model("no").openai()["error"]["code"], "model_not_found");
    assert_eq!(Problem::ingress_full().openai()["error"]["type"], "rate_limit_exceeded");
}

#[test]
fn budgets_are_no_matter_of_time_and_limits_are() {
    let of = |refusal| {
        let problem = Problem::refused(refusal);
        (problem.code.name(), problem.policy_label, problem.retry_after_ms, problem.message)
    };
    let (code, label, after, message) =
        of(Refusal::BudgetExhausted { of: Payer::Tenant, kind: Kind::Cost, needed: 1_500_001, left: 1_499_999 });
    assert_eq!((code, label, after), ("BUDGET_EXHAUSTED", Some("budget"), None));
    assert!(
        message.contains("use 2 milli-units") && message.contains("has 1 left"),
        "never more than there is: {message}"
    );
    let after = Ticks(70);
    let (code, label, told, _) =
        of(Refusal::TenantLimited { limit: TenantLimit::TokenRate, bound: 9, retry_after: after });
    assert_eq!((code, label, told), ("RATE_LIMITED", Some("tenant-limit"), Some(70)));
    let (code, label, told, _) = of(Refusal::QueueDelayed { expected: Ticks(9), target: Ticks(8), retry_after: after });
    assert_eq!((code, label, told), ("ADMISSION_REJECT", Some("queue-delay"), Some(70)));
    let (code, _, told, message) = of(Refusal::SessionOver { over: SessionOver::Turns(8) });
    assert_eq!((code, told), ("CONFLICT", None));
    assert!(message.contains("8 turns") && message.contains("another `session_id`"), "{message}");
    let late = |retry_after| of(Refusal::DeadlineInfeasible { deadline: Ticks(1), needed: Ticks(2), retry_after });
    assert_eq!((late(None).2, late(Some(after)).2), (None, Some(70)), "only where it is the queue");
}
