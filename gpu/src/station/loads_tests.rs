//! Models that come and go beside the work, and what they share.

use super::rig::{EPOCH, Ear, Event, MODEL, SETUP, Setup, answers, ends, model, payload, spec, task, tokens};
use super::*;
use crate::engine::EngineOptions;
use crate::generate::{GenSpec, generate};
use crate::gguf::Gguf;
use orchestrion_world::protocol::WorkerFacts;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Gives the models of a shelf, each once asked for; none where the shelf has none.
struct Shelf(Mutex<BTreeMap<ModelId, StationModel>>);

impl Source for Shelf {
    fn load(&self, _: WorkerId, model: ModelId) -> Result<StationModel, ShardFault> {
        assert_ne!(model, ModelId(99), "nobody can load that");
        self.0.lock().unwrap().remove(&model).ok_or(ShardFault::Missing)
    }
}

const OTHER: ModelId = ModelId(8);

fn other(setup: Setup) -> StationModel {
    let gguf = Gguf::parse(generate(&GenSpec { seed: 5, ..GenSpec::of(setup.arch).unwrap() }).unwrap()).unwrap();
    let options = EngineOptions { level: setup.level, threads: setup.threads, ctx_max: 600 };
    let mut engine = Engine::load(&gguf, options).unwrap();
    engine.limit_contexts(Bytes(engine.page().0 * 24));
    StationModel { id: OTHER, engine, digest: gguf.digest(), ..model(setup) }
}

fn loading(setup: Setup, capacity: Bytes, ear: &Arc<Ear>) -> Station {
    let shelf = Shelf(Mutex::new([(OTHER, other(setup))].into()));
    let spec = StationSpec { device_capacity: capacity, ..spec(setup) };
    Station::spawn(spec, model(setup), Some(Arc::new(shelf)), ear.clone()).unwrap()
}

fn of_shards(heard: &[Event]) -> Vec<Report> {
    let shard = |event: &Event| match event {
        Event::Report(
            report @ (Report::ShardLoaded { .. } | Report::ShardFailed { .. } | Report::ShardFreed { .. }),
        ) => Some(report.clone()),
        _ => None,
    };
    heard.iter().filter_map(shard).collect()
}

#[test]
fn a_model_comes_beside_the_work_answers_as_ever_and_goes() {
    let ear = Arc::new(Ear::default());
    let (station, worker, epoch) = (loading(SETUP, Bytes(1 << 30), &ear), WorkerId(1), EPOCH);
    let begin = |i, model| station.start((task(i), Attempt::of(1, 1)), EPOCH, model, payload(i)).unwrap();
    begin(0, MODEL);
    // Not there yet.
    begin(1, OTHER);
    station.load(EPOCH, OTHER, ShardOrder(1)).unwrap();
    let heard = ear.wait(|heard| of_shards(heard).len() == 1);
    let [Report::ShardLoaded { model: OTHER, order: ShardOrder(1), facts, .. }] = of_shards(&heard)[..] else {
        panic!("{:?}", of_shards(&heard));
    };
    assert!(facts.weights.0 > 0 && facts.prefill.0 > 0 && facts.ctx_max == 600, "{facts:?}");
    (2..6).for_each(|i| begin(i, if i % 2 == 0 { MODEL } else { OTHER }));
    // It is in use.
    station.free(EPOCH, OTHER, ShardOrder(2)).unwrap();
    ear.wait(|heard| ends(heard).len() == 6);
    station.free(EPOCH, OTHER, ShardOrder(3)).unwrap();
    // Those of another life are nobody's; one that is not to be had fails, one that panics too.
    station.load(Epoch(2), OTHER, ShardOrder(4)).unwrap();
    station.load(EPOCH, ModelId(9), ShardOrder(5)).unwrap();
    station.load(EPOCH, ModelId(99), ShardOrder(6)).unwrap();
    let heard = ear.wait(|heard| of_shards(heard).len() == 5);
    station.stop();
    let failed = |model, order, fault| Report::ShardFailed { worker, epoch, model, order: ShardOrder(order), fault };
    let mut told = of_shards(&heard)[1..].to_vec();
    // What goes and what comes do so beside each other.
    told.sort_by_key(|report| format!("{report:?}"));
    let expected = [
        failed(OTHER, 2, ShardFault::Fixed),
        failed(ModelId(9), 5, ShardFault::Missing),
        failed(ModelId(99), 6, ShardFault::Transient),
        Report::ShardFreed { worker, epoch, model: OTHER, order: ShardOrder(3) },
    ];
    let key = |report: &Report| format!("{report:?}");
    let mut expected = expected.to_vec();
    expected.sort_by_key(key);
    assert_eq!(told, expected);
    let end = |i| ends(&heard).into_iter().find(|(of, _)| *of == task(i)).unwrap().1;
    assert_eq!(end(1), Err(FaultClass::Retryable));
    assert_eq!(tokens(&heard, task(2)), answers(SETUP, &[2])[&2]);
    assert!(tokens(&heard, task(3)) != answers(SETUP, &[3])[&3], "the other model answers otherwise");
}

#[test]
fn contexts_of_two_models_share_what_their_weights_leave() {
    let weights = model(SETUP).engine.weights().0 + other(SETUP).engine.weights().0;
    let page = model(SETUP).engine.page().0;
    let ear = Arc::new(Ear::default());
    // Room for a few pages beside the weights; prompts of one model leave known ones that the other needs.
    let station = loading(SETUP, Bytes(weights + 14 * page), &ear);
    station.load(EPOCH, OTHER, ShardOrder(1)).unwrap();
    ear.wait(|heard| of_shards(heard).len() == 1);
    for i in 0..12 {
        let payload = Payload { salt: Some(i), ..payload(3) };
        let model = if i % 2 == 0 { MODEL } else { OTHER };
        station.start((task(i), Attempt::of(1, 1)), EPOCH, model, payload).unwrap();
        ear.wait(|heard| ends(heard).len() as u64 == i + 1);
    }
    let heard = ear.wait(|heard| ends(heard).len() == 12);
    station.stop();
    let first = answers(SETUP, &[3])[&3].clone();
    assert!((0..12).step_by(2).all(|i| tokens(&heard, task(i)) == first));
    assert!((3..12).step_by(2).all(|i| tokens(&heard, task(i)) == tokens(&heard, task(1))));
}

#[test]
fn a_reset_leaves_the_model_that_the_station_came_with() {
    let ear = Arc::new(Ear::default());
    let station = loading(SETUP, Bytes(1 << 30), &ear);
    station.load(EPOCH, OTHER, ShardOrder(1)).unwrap();
    ear.wait(|heard| of_shards(heard).len() == 1);
    station.free(EPOCH, MODEL, ShardOrder(2)).unwrap();
    ear.wait(|heard| of_shards(heard).len() == 2);
    station.reset(Epoch(4)).unwrap();
    station.start((task(1), Attempt::of(1, 1)), Epoch(4), OTHER, payload(1)).unwrap();
    let heard = ear.wait(|heard| !ends(heard).is_empty());
    station.stop();
    let ups: Vec<WorkerFacts> = heard
        .iter()
        .filter_map(|event| match event {
            Event::Report(Report::WorkerUp { facts, .. }) => Some(facts.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(ups.iter().map(|facts| facts.came_with.is_some()).collect::<Vec<_>>(), [true, false]);
    assert!(ups.iter().all(|facts| facts.loader.as_ref().is_some_and(|loader| loader.answer.0 > 0)));
    assert_eq!(ends(&heard)[0].1, Err(FaultClass::Retryable), "nothing of the old life stands");
}
