//! The choice for tasks whose client says where they are to run, for turns of a session, and for prompts that begin as
//! others did. Apart from the hot decision, which knows none of them; [`super::explain`] makes the same one at leisure.

use super::choose::{Candidate, Request, feasible, filter};
use super::rank::{self, Term::Preferred};
use crate::eviction;
use orchestrion_world::config::{PlacementRules, Rules};
use orchestrion_world::field::{Offer, Tree};
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{ModelId, WorkerId};
use orchestrion_world::placement::Placement;
use orchestrion_world::protocol::ModelFacts;
use orchestrion_world::store::World;
use orchestrion_world::time::Tick;
use orchestrion_world::worker::Worker;
use std::cmp::Ordering;

/// As [`super::choose::choose`], among the workers that the placement allows, those of preferred pools first.
pub(crate) fn choose(
    rules: PlacementRules,
    request: &Request,
    placement: &Placement,
    tree: &Tree<Offer>,
    takes: impl Fn(WorkerId) -> bool,
) -> Option<WorkerId> {
    let [past, main, rest @ ..] = rank::terms(rules.policy);
    let first = |offer: &Offer, one: Option<WorkerId>| {
        // Only one worker's offer has a pool; what many offer together may be in any.
        let allowed = one.is_none() || placement.bans_pool(offer.pool).is_none();
        let terms = || [*past, Preferred, *main].map(|term| rank::offered(term, request, offer, one));
        (allowed && feasible(&request.spec, offer)).then(terms)
    };
    let then = |a: &Offer, b: &Offer| {
        let value = |offer: &Offer, term| rank::offered(term, request, offer, None);
        let ordering = rest.iter().map(|&term| value(a, term).cmp(&value(b, term))).find(|ordering| ordering.is_ne());
        ordering.unwrap_or(Ordering::Equal)
    };
    tree.least(first, then, takes)
}

/// The best of all where one is the best that the field knows of, which does not know of homes: that, the worker of
/// the session's last turn, or one of those that may know a part of the prompt. Whoever else there is, is behind them.
pub(crate) fn at_home<'w>(
    rules: PlacementRules,
    request: &Request,
    best: WorkerId,
    candidate: impl Fn(WorkerId) -> Option<Candidate<'w>>,
) -> Option<WorkerId> {
    let homes = request.home.into_iter().chain(request.known.iter().map(|known| known.worker));
    let homes = homes.filter(|home| *home != best).filter_map(&candidate);
    let could = homes.filter(|home| filter(rules, request, home).is_none());
    let values = |of: &Candidate<'_>| rank::whole(rules.policy).map(|term| rank::value(term, request, of));
    could.chain(candidate(best)).min_by_key(values).map(|of| of.worker.id)
}

/// Workers that take tasks, serve the model or could load it, and are allowed; and the model there.
pub(crate) fn hosts<'w>(
    world: &'w World,
    rules: &'w Rules,
    model: ModelId,
    placement: &'w Placement,
) -> impl Iterator<Item = (&'w Worker, ModelFacts)> + 'w {
    let allowed = allowed(world, rules, model, placement);
    allowed.filter_map(move |worker| Some((worker, eviction::host(rules, worker, model)?)))
}

/// Whether one that is allowed is on its way up, or will be told to begin again, or tried again, within the time
/// that a model's tasks would wait for its workers.
pub(crate) fn comes_back(world: &World, rules: &Rules, model: ModelId, placement: &Placement) -> bool {
    let latest = world.core.now + rules.health.no_worker_grace;
    let soon = |due: Option<Tick>| due.is_some_and(|due| due <= latest);
    allowed(world, rules, model, placement).any(|worker| match worker.state {
        WorkerState::Starting | WorkerState::Loading => true,
        WorkerState::Failed => soon(worker.restarts.due),
        WorkerState::Ready => !worker.takes() && soon(worker.breaker.due()),
        WorkerState::Draining | WorkerState::Stopped => false,
    })
}

/// Every worker of the model's pools that is allowed, whatever its state.
pub(super) fn allowed<'w>(
    world: &'w World,
    rules: &'w Rules,
    model: ModelId,
    placement: &'w Placement,
) -> impl Iterator<Item = &'w Worker> + 'w {
    let pools = eviction::pools(world, rules, model).filter(|&pool| placement.bans_pool(pool).is_none());
    let workers = pools.flat_map(|pool| world.crews.of_pool(pool)).filter_map(|id| world.worker(id));
    workers.filter(|worker| placement.bans(worker).is_none())
}
