//! The station's promises, on the generated model: the same answers in any company, on any level, with any
//! threads and chunks; one end for each start; cancels, resets, stop strings, panics.

use super::rig::{EPOCH, Ear, Event, MODEL, SETUP, Setup, answers, ends, payload, station, task, tokens};
use super::*;
use crate::engine::Level;
use orchestrion_world::payload::{Bias, Grammar, Likelihood, Output, Sampling};
use orchestrion_world::protocol::{Finish, Usage};
use orchestrion_world::units::Permille;
use std::time::{Duration, Instant};

#[test]
fn answers_are_the_same_in_any_company_on_any_level_with_any_threads_and_chunks() {
    same_in_any_company("llama");
}

#[test]
fn answers_of_qwen2_are_the_same_in_any_company() {
    same_in_any_company("qwen2");
}

#[test]
fn answers_of_gemma3_are_the_same_in_any_company() {
    same_in_any_company("gemma3");
}

fn same_in_any_company(arch: &'static str) {
    let base = Setup { arch, ..SETUP };
    let all: Vec<u64> = (0..16).collect();
    let alone = answers(Setup { slots: 1, ..base }, &all);
    assert!(alone.values().all(|stream| !stream.is_empty()));
    assert!(alone.values().collect::<std::collections::BTreeSet<_>>().len() > 12, "the answers differ from each other");
    let shuffled: Vec<u64> = (0..16).map(|i| (i * 7 + 3) % 16).collect();
    for (setup, order) in [
        (base, &all),
        (base, &shuffled),
        (Setup { prefill_chunk: 7, threads: 2, ..base }, &shuffled),
        (Setup { level: Level::detect(), slots: 1, ..base }, &all),
        (Setup { level: Level::detect(), ..base }, &all),
        (Setup { level: Level::detect(), threads: 2, prefill_chunk: 300, ..base }, &shuffled),
        (Setup { level: Level::detect(), threads: 3, prefill_chunk: 1, ..base }, &all),
        // The pages of two long prompts for eight tasks: who came last makes room, and reads it all again.
        (Setup { level: Level::detect(), pages: Some(19), ..base }, &shuffled),
        (Setup { level: Level::detect(), draft_tokens: 8, slots: 1, ..base }, &all),
        (Setup { level: Level::detect(), draft_tokens: 32, pages: Some(19), ..base }, &shuffled),
    ] {
        assert_eq!(answers(setup, order), alone, "{setup:?}");
    }
}

#[test]
fn a_beginning_read_before_is_looked_up_by_its_own_and_changes_no_token() {
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    let of = |salt| Payload { salt, ..payload(3) };
    let longer = Payload { prompt: [&payload(3).prompt[..150], &[7; 20]].concat().into(), ..of(Some(1)) };
    let all = [of(Some(1)), of(Some(1)), of(Some(2)), of(None), longer.clone()];
    for (i, payload) in all.into_iter().enumerate() {
        station.start((task(i as u64), Attempt::of(1, 1)), EPOCH, MODEL, payload).unwrap();
        ear.wait(|heard| ends(heard).len() == i + 1);
    }
    station.stop();
    let heard = ear.wait(|_| true);
    let usages: Vec<Usage> = ends(&heard).into_iter().map(|(_, usage)| usage.unwrap()).collect();
    let whole = payload(3).prompt.len() as u32;
    assert_eq!(usages.iter().map(|u| u.tokens_in).collect::<Vec<_>>(), [whole, whole, whole, whole, 170]);
    assert_eq!(usages.iter().map(|u| u.tokens_cached).collect::<Vec<_>>(), [0, (whole - 1) / 32 * 32, 0, 0, 128]);
    let cold = answers(SETUP, &[3])[&3].clone();
    assert!((0..4).all(|i| tokens(&heard, task(i)) == cold));
    let ear = Arc::new(Ear::default());
    let fresh = self::station(SETUP, &ear);
    fresh.start((task(9), Attempt::of(1, 1)), EPOCH, MODEL, longer).unwrap();
    let alone = ear.wait(|heard| !ends(heard).is_empty());
    assert_eq!(tokens(&heard, task(4)), tokens(&alone, task(9)));
    fresh.stop();
}

#[test]
fn reports_come_in_the_order_of_the_contract() {
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    for i in 0..4 {
        station.start((task(i), Attempt::of(1, 1)), EPOCH, MODEL, payload(i)).unwrap();
    }
    ear.wait(|heard| ends(heard).len() == 4);
    station.stop();
    let heard = ear.wait(|_| true);
    let Event::Report(Report::WorkerUp { worker: WorkerId(1), epoch: EPOCH, facts }) = &heard[0] else {
        panic!("a worker announces itself first: {:?}", heard[0]);
    };
    let (id, model) = facts.came_with.expect("a station comes with its model");
    assert_eq!((facts.pool, id, model.ctx_max, facts.slots), (PoolId(2), MODEL, 600, 8));
    // 4 layers of 2 heads of 16: keys and values in two bytes.
    assert_eq!(model.kv_per_token, Bytes(4 * 2 * 16 * 2 * 2));
    assert!(model.prefill.0 > 0 && model.decode.0 > 0 && model.weights.0 > 100_000);
    assert_eq!(
        heard.last(),
        Some(&Event::Report(Report::WorkerDown { worker: WorkerId(1), epoch: EPOCH, error: None }))
    );
    for i in 0..4 {
        let at = |found: &dyn Fn(&Event) -> bool| heard.iter().position(found).expect("it was reported");
        let started = at(&|e| matches!(e, Event::Report(Report::Started { task: t, .. }) if *t == task(i)));
        let counted = at(
            &|e| matches!(e, Event::Report(Report::Progress { made, .. }) if made.iter().any(|(t, ..)| *t == task(i))),
        );
        let first = at(&|e| matches!(e, Event::Token { task: t, .. } if *t == task(i)));
        let ended = at(&|e| matches!(e, Event::Report(Report::Finished { task: t, .. }) if *t == task(i)));
        assert!(started < counted && counted < first && first < ended);
        let made: u32 = heard
            .iter()
            .filter_map(|e| match e {
                Event::Report(Report::Progress { made, .. }) => made.iter().find(|(t, ..)| *t == task(i)).map(|m| m.2),
                _ => None,
            })
            .sum();
        let (_, usage) = ends(&heard).into_iter().find(|(t, _)| *t == task(i)).unwrap();
        let usage = usage.unwrap();
        assert_eq!((usage.tokens_in as usize, usage.tokens_out), (payload(i).prompt.len(), made));
        assert_eq!(tokens(&heard, task(i)).len(), made as usize);
    }
}

#[test]
fn a_cancel_ends_an_answer_once_and_no_token_follows() {
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    let endless = |i| Payload { max_tokens: 500, ..payload(i) };
    for i in [0, 1] {
        station.start((task(i), Attempt::of(1, 1)), EPOCH, MODEL, endless(i)).unwrap();
    }
    ear.wait(|heard| tokens(heard, task(0)).len() > 3);
    station.cancel(task(0), Attempt::of(1, 1)).unwrap();
    station.cancel(task(0), Attempt::of(1, 1)).unwrap();
    station.cancel(task(9), Attempt::of(1, 1)).unwrap();
    // The slot is free: another runs, and the neighbour is not disturbed.
    station.start((task(2), Attempt::of(1, 1)), EPOCH, MODEL, payload(2)).unwrap();
    ear.wait(|heard| ends(heard).len() == 3);
    station.stop();
    let heard = ear.wait(|_| true);
    assert_eq!(ends(&heard).len(), 3);
    let (_, usage) = ends(&heard).into_iter().find(|(t, _)| *t == task(0)).unwrap();
    let usage = usage.unwrap();
    assert_eq!((usage.finish, usage.tokens_out as usize), (Finish::Cancelled, tokens(&heard, task(0)).len()));
    let end = heard.iter().position(|e| matches!(e, Event::Report(Report::Finished { task: t, .. }) if *t == task(0)));
    let last = heard.iter().rposition(|e| matches!(e, Event::Token { task: t, .. } if *t == task(0)));
    assert!(last < end);
    assert_eq!(tokens(&heard, task(2)), answers(SETUP, &[2])[&2]);
}

#[test]
fn a_reset_drops_the_work_and_starts_a_new_life() {
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    station.start((task(0), Attempt::of(1, 1)), EPOCH, MODEL, Payload { max_tokens: 500, ..payload(0) }).unwrap();
    ear.wait(|heard| tokens(heard, task(0)).len() > 2);
    station.reset(Epoch(4)).unwrap();
    // What is meant for the old life is nobody's.
    station.start((task(1), Attempt::of(1, 1)), EPOCH, MODEL, payload(1)).unwrap();
    station.start((task(2), Attempt::of(1, 2)), Epoch(4), MODEL, payload(2)).unwrap();
    let heard = ear.wait(|heard| !ends(heard).is_empty());
    station.stop();
    assert_eq!(ends(&heard).len(), 1);
    assert_eq!(ends(&heard)[0].0, task(2));
    let ups: Vec<Epoch> = heard
        .iter()
        .filter_map(|e| match e {
            Event::Report(Report::WorkerUp { epoch, .. }) => Some(*epoch),
            _ => None,
        })
        .collect();
    assert_eq!(ups, [EPOCH, Epoch(4)]);
}

#[test]
fn what_cannot_run_is_refused() {
    let ear = Arc::new(Ear::default());
    let station = station(Setup { slots: 1, ..SETUP }, &ear);
    let base = payload(0);
    let penalty = Sampling { repetition_penalty: Permille(0), ..base.sampling };
    let bad = [
        Payload { prompt: Arc::new([]), ..base.clone() },
        Payload { prompt: Arc::new([9999]), ..base.clone() },
        Payload { prompt: vec![1; 600].into(), ..base.clone() },
        Payload { max_tokens: 0, ..base.clone() },
        Payload { sampling: penalty, ..base.clone() },
    ];
    for (i, payload) in bad.into_iter().enumerate() {
        station.start((task(i as u64), Attempt::of(1, 1)), EPOCH, MODEL, payload).unwrap();
        let heard = ear.wait(|heard| ends(heard).len() == i + 1);
        assert_eq!(ends(&heard)[i], (task(i as u64), Err(FaultClass::InvalidInput)));
    }
    // More than its slots.
    station.start((task(50), Attempt::of(1, 1)), EPOCH, MODEL, Payload { max_tokens: 500, ..base.clone() }).unwrap();
    station.start((task(51), Attempt::of(1, 1)), EPOCH, MODEL, base).unwrap();
    let heard = ear.wait(|heard| ends(heard).len() == 6);
    assert_eq!(ends(&heard)[5], (task(51), Err(FaultClass::Retryable)));
    station.stop();
}

/// Alone, beside answers, and in chunks of another size: the same bits, at length one.
#[test]
fn an_embedding_is_one_token_with_a_vector_that_company_does_not_change() {
    let vectors = |setup: Setup, beside: u64| {
        let ear = Arc::new(Ear::default());
        let station = station(setup, &ear);
        (1..=beside).for_each(|i| station.start((task(i), Attempt::of(1, 1)), EPOCH, MODEL, payload(i)).unwrap());
        let asked = Payload { output: Output::Embedding, max_tokens: 1, ..payload(3) };
        station.start((task(0), Attempt::of(1, 1)), EPOCH, MODEL, asked).unwrap();
        let heard = ear.wait(|heard| ends(heard).len() as u64 == 1 + beside);
        station.stop();
        let usage = ends(&heard).into_iter().find(|(of, _)| *of == task(0)).unwrap().1.unwrap();
        assert_eq!(
            (usage.finish, usage.tokens_in as usize, usage.tokens_out),
            (Finish::Stop, payload(3).prompt.len(), 1)
        );
        let vectors: Vec<_> = heard.iter().filter(|event| matches!(event, Event::Vector { .. })).cloned().collect();
        assert_eq!(vectors.len(), 1);
        let counts = |event: &Event| matches!(event, Event::Report(Report::Progress { made, .. }) if made.iter().any(|(of, ..)| *of == task(0)));
        assert!(!heard.iter().any(counts), "it is told with its end");
        vectors
    };
    let alone = vectors(SETUP, 0);
    let Event::Vector { vector, .. } = &alone[0] else { panic!("no vector") };
    let length: f32 = vector.iter().map(|bits| f32::from_bits(*bits).powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert_eq!(vectors(SETUP, 2), alone);
    assert_eq!(vectors(Setup { prefill_chunk: 7, ..SETUP }, 2), alone);
}

#[test]
fn likelihoods_come_with_each_token_and_change_none() {
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    let greedy = Payload { bias: [Bias { token: 7, by: 100_000 }].into(), ..payload(0) };
    station.start((task(0), Attempt::of(1, 1)), EPOCH, MODEL, Payload { logprobs: Some(3), ..payload(0) }).unwrap();
    station.start((task(1), Attempt::of(1, 1)), EPOCH, MODEL, Payload { logprobs: Some(1), ..greedy }).unwrap();
    let heard = ear.wait(|heard| ends(heard).len() == 2);
    station.stop();
    assert_eq!(tokens(&heard, task(0)), answers(SETUP, &[0])[&0]);
    let told = |of| {
        heard.iter().filter_map(move |e| match e {
            Event::Token { task, likelihood: Some(likelihood), .. } if *task == of => Some(likelihood),
            _ => None,
        })
    };
    // Prompt 0 is answered greedily: what was drawn is the likeliest.
    assert!(told(task(0)).count() >= 23);
    for Likelihood { drawn, top } in told(task(0)) {
        assert!(top.len() == 3 && top[0] == *drawn && top[0].micro_logprob <= 0, "{top:?}");
        assert!(top.is_sorted_by_key(|likely| -likely.micro_logprob));
    }
    // The bias forces token 7; the figures are the model's own, to which it is nothing special.
    assert!(tokens(&heard, task(1)).iter().all(|(id, _)| *id == 7));
    assert!(told(task(1)).any(|likelihood| likelihood.drawn != likelihood.top[0]));
}

#[test]
fn a_stop_string_ends_the_text_before_it_and_the_context_ends_any() {
    let whole = &answers(SETUP, &[2])[&2];
    let text: String = whole.iter().map(|(_, text)| text.as_str()).collect();
    let chars: Vec<char> = text.chars().collect();
    let stop: String = chars[chars.len() / 2..chars.len() / 2 + 3].iter().collect();
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    let stops: Arc<[Box<str>]> = Arc::new(["never said".into(), stop.clone().into_boxed_str()]);
    station.start((task(2), Attempt::of(1, 1)), EPOCH, MODEL, Payload { stop: stops, ..payload(2) }).unwrap();
    let full = Payload { prompt: vec![5; 590].into(), max_tokens: 100, ..payload(3) };
    station.start((task(3), Attempt::of(1, 1)), EPOCH, MODEL, full).unwrap();
    let heard = ear.wait(|heard| ends(heard).len() == 2);
    station.stop();
    let said: String = tokens(&heard, task(2)).into_iter().map(|(_, text)| text).collect();
    assert_eq!(said, text[..text.find(&stop).unwrap()]);
    let end = |i| ends(&heard).into_iter().find(|(t, _)| *t == task(i)).unwrap().1.unwrap();
    assert_eq!(end(2).finish, Finish::Stop);
    assert!(end(2).tokens_out < 24);
    assert_eq!((end(3).finish, end(3).tokens_out), (Finish::Length, 10));
}

#[test]
fn a_grammar_shapes_its_answer_and_ends_it() {
    let ear = Arc::new(Ear::default());
    let station = station(SETUP, &ear);
    let schema = r#"{"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}}, "required": ["a", "b"], "additionalProperties": false}"#;
    let grammars =
        [Grammar::Regex("yes|no".into()), Grammar::JsonSchema(schema.into()), Grammar::Regex("a{100}".into())];
    // The last is of no kind that admission lets pass.
    for (i, grammar) in grammars.into_iter().chain([Grammar::Regex("(".into())]).enumerate() {
        let (grammar, i) = (Some(Arc::new(grammar)), i as u64);
        let asked = Payload { grammar, max_tokens: 30, ..payload(1) };
        station.start((task(i), Attempt::of(1, 1)), EPOCH, MODEL, asked).unwrap();
    }
    let heard = ear.wait(|heard| ends(heard).len() == 4);
    station.stop();
    let said = |i| tokens(&heard, task(i)).into_iter().map(|(_, text)| text).collect::<String>();
    let end = |i| ends(&heard).into_iter().find(|(t, _)| *t == task(i)).unwrap().1;
    assert!(["yes", "no"].contains(&said(0).as_str()), "{}", said(0));
    let value: serde_json::Value = serde_json::from_str(&said(1)).unwrap();
    assert!([1, 2].map(serde_json::Value::from).contains(&value["a"]) && value["b"].is_boolean(), "{value}");
    assert_eq!([0, 1, 2].map(|i| end(i).unwrap().finish), [Finish::Stop, Finish::Stop, Finish::Length]);
    assert!(said(2).len() >= 30 && said(2).bytes().all(|byte| byte == b'a'), "{}", said(2));
    assert_eq!(end(3), Err(FaultClass::InvalidInput));
}

#[test]
fn an_attempt_that_contradicts_another_is_at_fault_and_its_neighbour_is_not() {
    let ear = Arc::new(Ear { contradicts: Some((Attempt::of(1, 2), 5)), ..Ear::default() });
    let station = station(SETUP, &ear);
    for (i, attempt) in [(0, Attempt::of(1, 2)), (1, Attempt::of(1, 1))] {
        station.start((task(i), attempt), EPOCH, MODEL, payload(i)).unwrap();
    }
    let heard = ear.wait(|heard| ends(heard).len() == 2);
    station.stop();
    let end = |i| ends(&heard).into_iter().find(|(t, _)| *t == task(i)).unwrap().1;
    assert_eq!(end(0), Err(FaultClass::Diverged));
    assert_eq!(tokens(&heard, task(0)).len(), 6, "no token after the one that was contradicted");
    assert!(end(1).is_ok());
}

#[test]
fn a_panic_becomes_a_fatal_worker_down() {
    let ear = Arc::new(Ear { bomb: Some(3), ..Ear::default() });
    let station = station(SETUP, &ear);
    station.start((task(0), Attempt::of(1, 1)), EPOCH, MODEL, payload(0)).unwrap();
    let down = Report::WorkerDown { worker: WorkerId(1), epoch: EPOCH, error: Some(FaultClass::Fatal) };
    ear.wait(|heard| heard.last() == Some(&Event::Report(down.clone())));
    // The queue is gone with the thread.
    while station.start((task(1), Attempt::of(1, 1)), EPOCH, MODEL, payload(1)) != Err(OrderError::Gone) {
        std::thread::yield_now();
    }
    station.stop();
}

/// Slow, since idle beats are five seconds apart.
#[test]
fn an_idle_station_beats_every_five_seconds() {
    let ear = Arc::new(Ear::default());
    let station = station(Setup { threads: 2, ..SETUP }, &ear);
    ear.wait(|heard| !heard.is_empty());
    let begun = Instant::now();
    ear.wait(|heard| heard.iter().any(|e| matches!(e, Event::Report(Report::Beat { .. }))));
    let waited = begun.elapsed();
    assert!((Duration::from_millis(4500)..Duration::from_secs(8)).contains(&waited), "{waited:?}");
    station.stop();
}
