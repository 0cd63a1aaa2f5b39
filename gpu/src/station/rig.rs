//! What a test of the station needs: one on a generated model, what it is asked, and an ear for what it says.

use super::*;
use crate::engine::{EngineOptions, Level};
use crate::generate::{GenSpec, generate};
use crate::gguf::Gguf;
use crate::grammar::Grammars;
use orchestrion_world::payload::{Grammar, Likelihood, Output, Sampling};
use orchestrion_world::protocol::{Class, Usage};
use orchestrion_world::units::Permille;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    Report(Report),
    Token { task: TaskId, index: u32, id: u32, text: String, likelihood: Option<Likelihood> },
    Vector { task: TaskId, id: u32, vector: Box<[u32]> },
}

/// Keeps everything it hears, in order.
#[derive(Default)]
pub(super) struct Ear {
    pub(super) heard: Mutex<Vec<Event>>,
    pub(super) more: Condvar,
    /// Panics at the token of this index.
    pub(super) bomb: Option<u32>,
    /// Readers have another token in the place of this one.
    pub(super) contradicts: Option<(Attempt, u32)>,
}

impl Outlet for Ear {
    fn report(&self, report: Report) {
        self.heard.lock().unwrap().push(Event::Report(report));
        self.more.notify_all();
    }

    fn token(&self, task: TaskId, attempt: Attempt, token: Token<'_>) -> Reception {
        let Token { index, id, text, likelihood, vector } = token;
        assert!(self.bomb != Some(index), "boom");
        self.heard.lock().unwrap().push(match vector {
            Some(vector) => Event::Vector { task, id, vector },
            None => Event::Token { task, index, id, text: text.to_owned(), likelihood },
        });
        self.more.notify_all();
        if self.contradicts == Some((attempt, index)) { Reception::Contradicted } else { Reception::Taken }
    }

    fn contexts(&self, _: WorkerId, held: Bytes, bound: Bytes) {
        assert!(held <= bound);
    }

    fn verifying(&self, _: WorkerId, _: ModelId, seen: Option<(Bytes, Bytes)>) {
        assert!(seen.is_none_or(|(done, all)| done < all));
    }
}

impl Ear {
    /// Everything heard, once `done` holds of it.
    pub(super) fn wait(&self, done: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut heard = self.heard.lock().unwrap();
        while !done(&heard) {
            let left = deadline.checked_duration_since(Instant::now()).expect("nothing came in a minute");
            heard = self.more.wait_timeout(heard, left).unwrap().0;
        }
        heard.clone()
    }
}

pub(super) fn ends(events: &[Event]) -> Vec<(TaskId, Result<Usage, FaultClass>)> {
    events
        .iter()
        .filter_map(|e| match e {
            Event::Report(Report::Finished { task, usage, .. }) => Some((*task, Ok(*usage))),
            Event::Report(Report::Faulted { task, class, .. }) => Some((*task, Err(*class))),
            _ => None,
        })
        .collect()
}

pub(super) fn tokens(events: &[Event], of: TaskId) -> Vec<(u32, String)> {
    let made: Vec<(u32, u32, &String)> = events
        .iter()
        .filter_map(|e| match e {
            Event::Token { task, index, id, text, .. } if *task == of => Some((*index, *id, text)),
            _ => None,
        })
        .collect();
    assert!(made.iter().enumerate().all(|(i, (index, ..))| i as u32 == *index), "tokens come in order");
    made.into_iter().map(|(_, id, text)| (id, text.clone())).collect()
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) arch: &'static str,
    pub(super) level: Level,
    pub(super) threads: usize,
    pub(super) slots: u16,
    pub(super) prefill_chunk: u32,
    pub(super) draft_tokens: u32,
    /// Of context; none for as many as are asked for.
    pub(super) pages: Option<u64>,
}

pub(super) const SETUP: Setup = Setup {
    arch: "llama",
    level: Level::Scalar,
    threads: 1,
    slots: 8,
    prefill_chunk: 64,
    draft_tokens: 0,
    pages: None,
};
pub(super) const EPOCH: Epoch = Epoch(3);
pub(super) const MODEL: ModelId = ModelId(7);

pub(super) fn model(setup: Setup) -> StationModel {
    let gguf = Gguf::parse(generate(&GenSpec::of(setup.arch).unwrap()).unwrap()).unwrap();
    let options = EngineOptions { level: setup.level, threads: setup.threads, ctx_max: 600 };
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
    let mut engine = Engine::load(&gguf, options).unwrap();
    if let Some(pages) = setup.pages {
        engine.limit_contexts(Bytes(engine.kv_per_token().0 * 32 * pages));
    }
    let grammars = Arc::new(Grammars::new(tokenizer.clone()));
    let (digest, fingerprint, took) = (gguf.digest(), "a file and an engine".into(), Duration::from_millis(1));
    StationModel { id: MODEL, engine, grammars, tokenizer, digest, fingerprint, took }
}

pub(super) fn spec(setup: Setup) -> StationSpec {
    StationSpec {
        worker: WorkerId(1),
        pool: PoolId(2),
        device: DeviceId(0),
        epoch: EPOCH,
        device_capacity: Bytes(1 << 30),
        slots: setup.slots,
        prefill_chunk: setup.prefill_chunk,
        verify_round: Duration::from_secs(3_600),
        draft_tokens: setup.draft_tokens,
    }
}

pub(super) fn station(setup: Setup, ear: &Arc<Ear>) -> Station {
    Station::spawn(spec(setup), model(setup), None, ear.clone()).unwrap()
}

/// Prompts of 1 to 300 tokens with their own seeds; every third answer is greedy, every fourth penalised, every
/// fifth JSON.
pub(super) fn payload(i: u64) -> Payload {
    let mut noise = crate::numerics::noise::Noise(i);
    let len = if i % 4 == 3 { 200 + noise.below(100) } else { 1 + noise.below(40) };
    Payload {
        prompt: (0..len).map(|_| noise.below(500) as u32).collect(),
        stop: Arc::new([]),
        sampling: Sampling {
            seed: i,
            temperature: Permille(if i.is_multiple_of(3) { 0 } else { 800 }),
            top_k: if i.is_multiple_of(2) { 40 } else { 0 },
            top_p: Permille(950),
            min_p: Permille(0),
            repetition_penalty: Permille(if i % 4 == 1 { 1100 } else { 1000 }),
        },
        bias: Arc::new([]),
        logprobs: None,
        grammar: (i % 5 == 2).then(|| Arc::new(Grammar::JsonSchema(SCHEMA.into()))),
        max_tokens: 24,
        class: if i.is_multiple_of(2) { Class::Interactive } else { Class::Batch },
        salt: Some(0),
        output: Output::Text,
    }
}

const SCHEMA: &str =
    r#"{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}"#;

pub(super) fn task(i: u64) -> TaskId {
    TaskId(u128::from(i) + 1)
}

pub(super) type Stream = Vec<(u32, String)>;

/// The answers to `of`, asked all at once as far as there are slots, else one after another.
pub(super) fn answers(setup: Setup, of: &[u64]) -> BTreeMap<u64, Stream> {
    let ear = Arc::new(Ear::default());
    let station = station(setup, &ear);
    let mut ended = 0;
    for group in of.chunks(usize::from(setup.slots)) {
        for i in group {
            station.start((task(*i), Attempt::of(1, 1)), EPOCH, MODEL, payload(*i)).unwrap();
        }
        ended += group.len();
        ear.wait(|heard| ends(heard).len() == ended);
    }
    station.stop();
    let heard = ear.wait(|_| true);
    assert!(ends(&heard).iter().all(|(_, end)| end.is_ok()), "{:?}", ends(&heard));
    of.iter().map(|i| (*i, tokens(&heard, task(*i)))).collect()
}
