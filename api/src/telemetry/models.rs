//! On how many workers each model is in which state, for the metrics. Read from the state of the world between two
//! steps when somebody scrapes, and no more often than once a second: scrapes may come from anybody.

use orchestrion_systems::view::{PoolView, WorkerView};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(1);
/// Those of [`orchestrion_world::vram::Residence`].
const STATES: [&str; 6] = ["loading", "serving", "yielding", "evicting", "corrupt", "failed"];

/// Models are those of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByModelAndState {
    model: String,
    state: &'static str,
}

/// The gauge, and when somebody last looked.
#[derive(Debug, Default)]
pub(crate) struct Models {
    pub(super) states: Family<ByModelAndState, Gauge>,
    looked: Mutex<Option<Instant>>,
}

impl Models {
    /// Whether it is time to look again; who is told so does.
    pub(crate) fn is_due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let due = looked.is_none_or(|at| at.elapsed() >= EVERY);
        if due {
            *looked = Some(Instant::now());
        }
        due
    }

    /// What was seen: each model, by id, in each state; nothing where nobody answered.
    pub(crate) fn show(&self, names: impl Iterator<Item = String>, pools: Option<&[PoolView]>) {
        let Some(pools) = pools else { return self.states.clear() };
        let workers = || pools.iter().flat_map(|pool| &pool.workers);
        for (n, model) in names.enumerate() {
            for state in STATES {
                let count = workers().filter(|worker| state_on(worker, n) == Some(state)).count();
                let labels = ByModelAndState { model: model.clone(), state };
                self.states.get_or_create_owned(&labels).set(count as i64);
            }
        }
    }
}

/// A worker on its way loads what it will have.
fn state_on(worker: &WorkerView, model: usize) -> Option<&'static str> {
    let held = worker.models.iter().find(|held| usize::from(held.model.0) == model)?;
    match worker.state {
        state if state.is_up() => Some(held.life.label()),
        state if state.is_coming() => Some("loading"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_systems::view::ModelView;
    use orchestrion_world::health::{Breaker, WorkerState};
    use orchestrion_world::id::{Epoch, ModelId, PoolId, WorkerId};
    use orchestrion_world::time::Tick;
    use orchestrion_world::units::Bytes;
    use orchestrion_world::vram::Residence;

    fn worker(state: WorkerState, models: &[(u16, Residence)]) -> WorkerView {
        let held = |&(model, life)| ModelView { model: ModelId(model), life, bytes: Bytes(1), leases: 0 };
        WorkerView {
            id: WorkerId(1),
            epoch: Epoch(1),
            devices: vec![],
            state,
            breaker: Breaker::CLOSED,
            quarantined: false,
            loss: None,
            leases: 0,
            slots: 1,
            ctx_max: 1,
            models: models.iter().map(held).collect(),
        }
    }

    #[test]
    fn each_model_is_counted_in_each_state_and_nothing_is_told_that_nobody_saw() {
        use Residence::*;
        let workers = vec![
            worker(WorkerState::Ready, &[(0, Sealed), (1, Staging)]),
            worker(WorkerState::Draining, &[(0, Sealed)]),
            worker(WorkerState::Loading, &[(0, Sealed)]),
            worker(WorkerState::Failed, &[(0, Sealed)]),
        ];
        let pool =
            PoolView { id: PoolId(0), model: ModelId(0), ready: 1, closed: false, halted: false, job: None, workers };
        let models = Models::default();
        assert_eq!([models.is_due(), models.is_due()], [true, false]);
        let names = || ["a", "b"].map(str::to_owned).into_iter();
        models.show(names(), Some(&[pool]));
        let of = |model: &str| {
            STATES.map(|state| {
                let labels = ByModelAndState { model: model.to_owned(), state };
                models.states.get(&labels).map(|gauge| gauge.get())
            })
        };
        assert_eq!(of("a"), [1, 2, 0, 0, 0, 0].map(Some));
        assert_eq!(of("b"), [1, 0, 0, 0, 0, 0].map(Some));
        models.show(names(), None);
        assert_eq!([of("a"), of("b")], [[None; 6]; 2]);
    }

    #[test]
    fn the_states_are_those_of_a_resident() {
        use Residence::*;
        let (to, until) = (ModelId(0), Tick(0));
        let all = [Staging, Sealed, Yielding { to }, Evicting { to: None }, Condemned, Failed { until }];
        assert_eq!(all.map(Residence::label), STATES);
    }
}
