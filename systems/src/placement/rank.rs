//! The order in which a placement rule compares candidates. A rule is a row of this table: the terms,
//! first to last; smaller is better in each. The last term is unique, so there is always one winner.

use super::choose::{Candidate, Request};
use crate::estimate;
use orchestrion_world::config::PlacementRule;
use orchestrion_world::field::{Offer, Pace};
use orchestrion_world::id;
use orchestrion_world::time::Ticks;

/// What candidates are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Term {
    /// 1 where the task's last attempt failed there.
    FailedBefore,
    /// Pools that its client prefers to this one.
    Preferred,
    /// To a sixteenth.
    PredictedEnd,
    /// 1 where its session's last turn went elsewhere.
    SameSession,
    /// Tokens of the prompt that it may know; the most first.
    KnownPrompt,
    LeastLoaded,
    MostLoaded,
    MostResidualMemory,
    /// To a sixteenth.
    FastestDecode,
    PoolName,
    WorkerId,
}

use Term::*;

/// Terms of each rule.
pub(crate) const TERMS: usize = 7;

/// The terms of a rule, in the order in which they are compared.
pub(crate) const fn terms(rule: PlacementRule) -> &'static [Term; TERMS] {
    match rule {
        PlacementRule::PredictedEnd => {
            &[FailedBefore, PredictedEnd, LeastLoaded, MostResidualMemory, FastestDecode, PoolName, WorkerId]
        }
        PlacementRule::LeastLoaded => {
            &[FailedBefore, LeastLoaded, PredictedEnd, MostResidualMemory, FastestDecode, PoolName, WorkerId]
        }
        PlacementRule::Pack => {
            &[FailedBefore, MostLoaded, PredictedEnd, MostResidualMemory, FastestDecode, PoolName, WorkerId]
        }
    }
}

/// With those that only tasks with a placement, a session or a known beginning differ by; for the others they are all
/// the same.
pub(crate) fn whole(rule: PlacementRule) -> [Term; TERMS + 3] {
    let [past, main, a, b, c, d, e] = *terms(rule);
    [past, Preferred, main, SameSession, KnownPrompt, a, b, c, d, e]
}

/// How long the task would take on the candidate, what it has to read of the prompt and the answer.
pub(crate) fn predicted_run(request: &Request, candidate: &Candidate<'_>) -> Ticks {
    let Some(resident) = candidate.serving else { return Ticks(u64::MAX) };
    let pace = Pace::of(&resident.facts, candidate.worker.leases.len() as u64 + 1);
    let unread = request.spec.prompt_tokens.saturating_sub(request.known_on(candidate.worker.id));
    pace.run(unread, request.spec.max_tokens)
}

/// A candidate's value of a term; the smaller one is preferred.
pub(crate) fn value(term: Term, request: &Request, candidate: &Candidate<'_>) -> u64 {
    let worker = candidate.worker;
    match term {
        FailedBefore => (request.failed_on == Some(worker.id)).into(),
        Preferred => request.spec.placement.as_ref().map_or(0, |placement| placement.rank(worker.facts.pool)),
        PredictedEnd => estimate::coarse(predicted_run(request, candidate).0),
        SameSession => request.home.is_some_and(|home| home != worker.id).into(),
        KnownPrompt => u64::MAX - u64::from(request.known_on(worker.id)),
        LeastLoaded => worker.load().0.into(),
        MostLoaded => u64::MAX - u64::from(worker.load().0),
        MostResidualMemory => u64::MAX - candidate.residual.0,
        FastestDecode => u64::MAX - candidate.serving.map_or(0, |resident| estimate::coarse(resident.facts.decode.0)),
        PoolName => worker.facts.pool.0.into(),
        WorkerId => worker.id.0.into(),
    }
}

/// The same of the offer of `one` worker; of the best of several workers, what none of them is below.
pub(crate) fn offered(term: Term, request: &Request, offer: &Offer, one: Option<id::WorkerId>) -> u64 {
    match term {
        FailedBefore => (one.is_some() && request.failed_on == one).into(),
        Preferred => match (one, &request.spec.placement) {
            (Some(_), Some(placement)) => placement.rank(offer.pool),
            _ => 0,
        },
        // Only ever compared between two workers, as what is known is: `bound::at_home`.
        SameSession | KnownPrompt => 0,
        PredictedEnd => estimate::coarse(offer.pace.run(request.spec.prompt_tokens, request.spec.max_tokens).0),
        LeastLoaded => offer.load.0.into(),
        MostLoaded => u64::MAX - u64::from(offer.load_max.0),
        MostResidualMemory => u64::MAX - offer.residual.0,
        FastestDecode => u64::MAX - estimate::coarse(offer.decode.0),
        PoolName => offer.pool.0.into(),
        WorkerId => offer.worker.0.into(),
    }
}
