//! The hot decision: pure, over candidates, without allocation. [`super::explain`] makes the same one at
//! leisure; a property test holds them together.

use super::rank::{self, Term};
use crate::prefixes::Known;
use orchestrion_world::config::PlacementRules;
use orchestrion_world::field::{Offer, Tree};
use orchestrion_world::health::WorkerState;
use orchestrion_world::id::{TaskId, WorkerId};
use orchestrion_world::placement::{Ban, Claim};
use orchestrion_world::protocol::TaskSpec;
use orchestrion_world::task::Task;
use orchestrion_world::units::{Bytes, Sha256};
use orchestrion_world::vram::Resident;
use orchestrion_world::worker::Worker;
use std::cmp::Ordering;

/// What is to be placed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub task: TaskId,
    pub spec: TaskSpec,
    /// Readers were shown tokens of such a worker.
    pub fingerprint: Option<Sha256>,
    /// The worker that its last attempt failed on.
    pub failed_on: Option<WorkerId>,
    /// Where its session's last turn went.
    pub home: Option<WorkerId>,
    /// Who may know how much of its prompt.
    pub known: Vec<Known>,
    /// Older tasks that wait for certain workers, while it does not have to.
    pub claims: Vec<Claim>,
}

impl Request {
    pub(crate) fn of(task: &Task) -> Self {
        let (fingerprint, failed_on) = (task.fingerprint, task.failed_on);
        let (task, spec) = (task.id, task.spec.clone());
        Request { task, spec, fingerprint, failed_on, home: None, known: vec![], claims: vec![] }
    }

    /// Whether its client lets it go there, and nobody older claims the place.
    pub(crate) fn may_have(&self, worker: &Worker) -> bool {
        self.spec.placement.as_ref().is_none_or(|placement| placement.bans(worker).is_none())
            && self.claims.iter().all(|claim| claim.placement.bans(worker).is_some())
    }

    /// Tokens of its prompt that a worker may know.
    pub(crate) fn known_on(&self, worker: WorkerId) -> u32 {
        self.known.iter().find(|known| known.worker == worker).map_or(0, |known| known.tokens)
    }

    /// The context it takes at its longest.
    pub(crate) fn tokens(&self) -> u64 {
        self.spec.tokens()
    }
}

/// Where it may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'w> {
    pub worker: &'w Worker,
    /// The model that is asked for, where the worker takes tasks of it.
    pub serving: Option<&'w Resident>,
    /// The most that can be free on all its devices in their shares.
    pub residual: Bytes,
}

/// Why a candidate is out, with the figures compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Filter {
    /// Its client wants the task elsewhere.
    NotAllowed {
        ban: Ban,
    },
    NotReady {
        state: WorkerState,
    },
    /// Its tasks failed one after the other.
    BreakerOpen,
    /// The model does not stand there, or takes no tasks.
    NotResident,
    NoFreeSlot {
        slots: u16,
    },
    /// Batch tasks hold the slots that they may; what is free is for interactive work.
    BatchShareHeld {
        held: u16,
        may: u16,
        slots: u16,
    },
    /// It still holds a revoked lease of a task with this id.
    LettingGo,
    /// Its tokens may be others than those that readers were shown.
    OtherFingerprint,
    ContextTooShort {
        needed: u64,
        ctx_max: u32,
    },
    NotEnoughMemory {
        needed: Bytes,
        free: Bytes,
    },
    /// An older task waits that may go to this worker and not to every one.
    Claimed {
        by: TaskId,
    },
}

/// The first filter that removes the candidate.
pub(crate) fn filter(rules: PlacementRules, request: &Request, candidate: &Candidate<'_>) -> Option<Filter> {
    let Candidate { worker, serving, residual } = *candidate;
    if let Some(ban) = request.spec.placement.as_ref().and_then(|placement| placement.bans(worker)) {
        return Some(Filter::NotAllowed { ban });
    }
    if worker.state != WorkerState::Ready {
        return Some(Filter::NotReady { state: worker.state });
    }
    if !worker.takes() {
        return Some(Filter::BreakerOpen);
    }
    let Some(Resident { facts, .. }) = serving else { return Some(Filter::NotResident) };
    let needed = request.tokens();
    let memory = facts.kv_for(needed);
    if worker.free_slots() == 0 {
        Some(Filter::NoFreeSlot { slots: worker.offered() })
    } else if worker.room(request.spec.class, rules.batch_share) == 0 {
        let (held, may) = (worker.batch_leases(), worker.batch_slots(rules.batch_share));
        Some(Filter::BatchShareHeld { held, may, slots: worker.facts.slots })
    } else if worker.leases.binary_search_by_key(&request.task, |l| l.task).is_ok() {
        Some(Filter::LettingGo)
    } else if request.fingerprint.is_some_and(|shown| shown != facts.fingerprint) {
        Some(Filter::OtherFingerprint)
    } else if needed > u64::from(facts.ctx_max) {
        Some(Filter::ContextTooShort { needed, ctx_max: facts.ctx_max })
    } else if memory > residual {
        Some(Filter::NotEnoughMemory { needed: memory, free: residual })
    } else {
        let claim = request.claims.iter().find(|claim| claim.placement.bans(worker).is_none())?;
        Some(Filter::Claimed { by: claim.task })
    }
}

/// The best feasible worker of those in the tree, if any. What an offer does not tell of a worker, `takes` does:
/// that no filter removes it.
pub(crate) fn choose(
    rules: PlacementRules,
    request: &Request,
    tree: &Tree<Offer>,
    takes: impl Fn(WorkerId) -> bool,
) -> Option<WorkerId> {
    // The first two terms tell most workers apart; the others are computed only where they tie.
    let [past, main, rest @ ..] = rank::terms(rules.policy);
    let first = |offer: &Offer, one: Option<WorkerId>| {
        feasible(&request.spec, offer).then(|| [past, main].map(|&term| rank::offered(term, request, offer, one)))
    };
    let value = |term: &Term, offer: &Offer| rank::offered(*term, request, offer, None);
    let then = |a: &Offer, b: &Offer| {
        let ordering = rest.iter().map(|term| value(term, a).cmp(&value(term, b))).find(|ordering| ordering.is_ne());
        ordering.unwrap_or(Ordering::Equal)
    };
    tree.least(first, then, takes)
}

/// The least busy worker that could take the task now, if any; of several the first by name, whoever came first.
pub(crate) fn roomiest(spec: &TaskSpec, tree: &Tree<Offer>) -> Option<WorkerId> {
    let by_name = |a: &Offer, b: &Offer| a.worker.cmp(&b.worker);
    tree.least(|offer, _| feasible(spec, offer).then_some(offer.load), by_name, |_| true)
}

/// The filters, as far as they can be told from an offer.
pub(super) fn feasible(spec: &TaskSpec, offer: &Offer) -> bool {
    offer.room(spec.class) > 0 && offer.holds(spec.tokens())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::bound;
    use crate::placement::explain::{Considered, explain};
    use crate::placement::flip::Flip;
    use orchestrion_world::config::{PlacementRule, PoolRules, Rules};
    use orchestrion_world::field::Best;
    use orchestrion_world::health::Breaker;
    use orchestrion_world::id::{Attempt, DeviceId, Epoch, ModelId, PoolId, TaskId, TenantId};
    use orchestrion_world::placement::{Aim, Fallback, Placement};
    use orchestrion_world::protocol::{Class, Determinism, DeviceShare, ModelFacts, WorkerFacts};
    use orchestrion_world::time::Tick;
    use orchestrion_world::units::{MilliRate, Permille};
    use orchestrion_world::vram::Residence;
    use orchestrion_world::worker::Lease;
    use proptest::prelude::*;

    fn rules() -> Rules {
        let pool = |name: &str| PoolRules { name: name.into(), model: "m".into() };
        Rules { models: vec!["m".into(), "n".into()], pools: vec![pool("a"), pool("b")], ..Rules::default() }
    }

    /// Few distinct values, so that ties are common.
    fn worker() -> impl Strategy<Value = (Worker, Bytes)> {
        (
            (0u16..2, 0u16..2, any::<bool>(), 0u8..2),
            (1u16..5, 0usize..5, 0u128..5),
            (1u64..4, 1u64..4),
            (0u64..4, 1u32..4),
        )
            .prop_map(
                |((pool, model, ready, print), (slots, used, batch), (prefill, decode), (residual, ctx))| {
                    let class = |n| if n < batch { Class::Batch } else { Class::Interactive };
                    let lease = |n| Lease {
                        task: TaskId(n),
                        attempt: Attempt::of(1, 1),
                        model: ModelId(model),
                        class: class(n),
                        kv: Bytes(0),
                        unread: 0,
                        revoked: n % 2 == 1,
                        called_back: n % 4 == 1,
                    };
                    let facts = ModelFacts {
                        digest: Sha256::default(),
                        fingerprint: Sha256([print; 32]),
                        weights: Bytes(0),
                        kv_per_token: Bytes(1),
                        ctx_max: ctx * 40,
                        prefill: MilliRate(prefill * 1000),
                        decode: MilliRate(decode * 1000),
                    };
                    let resident = Resident {
                        model: ModelId(model),
                        life: Residence::Sealed,
                        order: None,
                        facts,
                        pinned: true,
                        since: Tick(0),
                        used: Tick(0),
                        uses: 0,
                        failures: 0,
                    };
                    let came_with = Some((ModelId(model), facts));
                    let device = DeviceId((pool + model).into());
                    let devices = vec![DeviceShare { device, capacity: Bytes(0), share: Permille(1000) }];
                    let facts = WorkerFacts { pool: PoolId(pool), devices, slots, came_with, loader: None };
                    let mut worker = Worker::new(WorkerId(0), Epoch(1), facts, vec![resident], Tick(0));
                    let turn = if ready { WorkerState::Ready } else { WorkerState::Failed };
                    worker.state.advance(turn).unwrap();
                    worker.breaker = match residual {
                        0 => Breaker::Open { until: Tick(1) },
                        1 => Breaker::HalfOpen { closes: None },
                        _ => Breaker::CLOSED,
                    };
                    worker.leases = (0..used.min(slots.into()) as u128).map(lease).collect();
                    (worker, Bytes(residual * 40))
                },
            )
    }

    fn placement() -> impl Strategy<Value = Placement> {
        let pools = || prop::collection::vec((0u16..3).prop_map(PoolId), 0..3);
        let prefer = |fallback| pools().prop_map(move |pools| Aim::Prefer { pools, fallback });
        let aim = prop_oneof![
            Just(Aim::Auto),
            (0u16..3).prop_map(|pool| Aim::Pin(PoolId(pool))),
            prefer(Fallback::Allowed),
            prefer(Fallback::Never),
        ];
        let devices = prop::option::weighted(0.3, (0u32..3).prop_map(|device| vec![DeviceId(device)]));
        let avoid = prop_oneof![Just(vec![]), pools()];
        (aim, avoid, devices).prop_map(|(aim, avoid, devices)| Placement { aim, avoid, devices })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(20_000), ..ProptestConfig::default() })]
        #[test]
        fn choose_and_explain_decide_alike(
            mut workers in prop::collection::vec(worker(), 0..24),
            task in 0u128..6,
            prompt in 1u32..60,
            answer in 1u32..60,
            policy in prop::sample::select(vec![PlacementRule::PredictedEnd, PlacementRule::LeastLoaded, PlacementRule::Pack]),
            class in prop::sample::select(vec![Class::Interactive, Class::Batch]),
            batch_share in 1u32..=1000,
            (shown, failed_on, home) in (prop::option::of(0u8..2), prop::option::of(0u32..8), prop::option::of(0u32..8)),
            (wanted, claimed) in (prop::option::of(placement()), prop::option::weighted(0.3, placement())),
            known in prop::collection::btree_map(0u32..8, 1u32..60, 0..4),
        ) {
            workers.iter_mut().enumerate().for_each(|(n, (w, _))| w.id = WorkerId(n as u32));
            let spec = TaskSpec {
                model: ModelId(0), class, tenant: TenantId::DEFAULT, session: None, prompt_tokens: prompt, prompt_digest: Sha256::default(), prefix: Box::default(),
                max_tokens: answer, deadline: None, seed: 0, determinism: Determinism::Strict,
                placement: wanted.map(Box::new),
            };
            let claims = claimed.into_iter().map(|placement| Claim { task: TaskId(98), placement }).collect();
            let fingerprint = shown.map(|print| Sha256([print; 32]));
            let (failed_on, home) = (failed_on.map(WorkerId), home.map(WorkerId));
            let known = known.into_iter().map(|(worker, tokens)| Known { worker: WorkerId(worker), tokens: tokens.min(prompt - 1) });
            let known = known.collect();
            let request = Request { task: TaskId(task), spec, fingerprint, failed_on, home, known, claims };
            let all: Vec<_> = workers
                .iter()
                .map(|(worker, residual)| Candidate { worker, serving: worker.serving(ModelId(0)), residual: *residual })
                .collect();
            let placement = PlacementRules { policy, batch_share: Permille(batch_share), preempt_max: 0, prefixes_max: 0 };
            let log = explain(&Rules { placement, ..rules() }, Tick(0), &request, &all);
            // Where a worker stands in the tree is no matter.
            let mut tree = Tree::default();
            for Candidate { worker, serving, residual } in all.iter().rev() {
                let leaf = tree.push();
                let serving = serving.filter(|_| worker.takes());
                tree.set(leaf, serving.map_or(Offer::NONE, |s| Offer::of(worker, s, *residual, placement.batch_share)));
            }
            prop_assert!(tree.adds_up());
            let takes = |id: WorkerId| filter(placement, &request, &all[id.0 as usize]).is_none();
            let best = match &request.spec.placement {
                None => choose(placement, &request, &tree, takes),
                Some(wanted) => bound::choose(placement, &request, wanted, &tree, takes),
            };
            let at = |id: WorkerId| all.get(id.0 as usize).copied();
            prop_assert_eq!(best.and_then(|best| bound::at_home(placement, &request, best, at)), log.chosen);
            // A newcomer has no past that speaks against a worker.
            let spec = TaskSpec { placement: None, ..request.spec.clone() };
            let newcomer = Request { task: TaskId(99), spec, fingerprint: None, failed_on: None, known: vec![], claims: vec![], ..request };
            let room = all.iter().any(|c| filter(placement, &newcomer, c).is_none());
            prop_assert_eq!(roomiest(&newcomer.spec, &tree).is_some(), room);
            prop_assert_eq!(log.candidates.len(), all.len(), "the log names every candidate");
            prop_assert_eq!(log.chosen.is_none(), log.candidates.iter().all(|c| c.removed_by.is_some()));
            let runs = |c: &Considered| c.predicted_run.is_some() == all[c.worker.0 as usize].serving.is_some();
            prop_assert!(log.candidates.iter().all(runs));
            prop_assert!(!log.to_string().is_empty());
            // The named change flips the choice; one smaller by a unit does not.
            if let Some(Flip { worker, figure, is, needed }) = log.flip {
                let decide = |value| {
                    let at = worker.0 as usize;
                    let (changed, residual) = figure.set(&request, all[at].worker, all[at].residual, value);
                    let mut others = all.clone();
                    others[at] = Candidate { worker: &changed, serving: changed.serving(ModelId(0)), residual };
                    explain(&Rules { placement, ..rules() }, Tick(0), &request, &others).chosen
                };
                prop_assert_eq!(decide(is), log.chosen);
                prop_assert_eq!(decide(needed), Some(worker));
                prop_assert_eq!(decide(if needed > is { needed - 1 } else { needed + 1 }), log.chosen);
            }
        }
    }
}
