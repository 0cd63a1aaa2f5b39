//! Days that were made by simulation, so that what they cost is known.

use super::*;
use crate::cli::Half;
use orchestrion_api::recording::{Course, Courses, Event, Gauged};
use orchestrion_scenarios::cost::Cost;
use orchestrion_world::config::{PoolRules, Rules};
use orchestrion_world::id::{DeviceId, ModelId, PoolId, TaskId, TenantId, WorkerId};
use orchestrion_world::protocol::{CancelReason, Class, Determinism, DeviceShare, ModelFacts, TaskSpec, WorkerFacts};
use orchestrion_world::time::{Tick, Ticks};
use orchestrion_world::units::{Bytes, Digest, Permille, Sha256};

const COST: Cost = Cost {
    take_up: 700_000,
    step: 9_000_000,
    prompt_token: 400_000,
    row: 2_500_000,
    context: 6_000_000,
    load: 0,
    load_mib: 0,
    chunk: 64,
};

fn facts(slots: u16) -> WorkerFacts {
    let (prefill, decode) = COST.rates();
    let model = ModelFacts {
        digest: Sha256([7; 32]),
        fingerprint: Sha256([8; 32]),
        weights: Bytes(100 << 20),
        kv_per_token: Bytes(1 << 10),
        ctx_max: 4_096,
        prefill,
        decode,
    };
    let devices = vec![DeviceShare { device: DeviceId(0), capacity: Bytes(4 << 30), share: Permille(1000) }];
    WorkerFacts { pool: PoolId(0), devices, slots, came_with: Some((ModelId(0), model)), loader: None }
}

/// Arrivals of both classes, some of them cancelled, at about two thirds of what a worker of four slots does.
fn arrivals() -> Recording {
    let mut rules = Rules { models: vec!["tiny".into()], ..Rules::default() };
    rules.pools.push(PoolRules { name: "a".into(), model: "tiny".into() });
    let mut events = vec![(Tick(0), Event::Up(WorkerId(1), facts(4)))];
    let (mut at, mut state) = (1_000, 12_345u64);
    // Numerical Recipes' generator: the low bits are poor, the high ones good enough.
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for n in 1..=240 {
        at += draw(900);
        let class = if draw(3) == 0 { Class::Batch } else { Class::Interactive };
        let spec = TaskSpec {
            model: ModelId(0),
            tenant: TenantId::DEFAULT,
            session: None,
            class,
            prompt_tokens: 8 + draw(300) as u32,
            prompt_digest: Sha256::default(),
            prefix: Box::default(),
            max_tokens: 4 + draw(60) as u32,
            deadline: None,
            seed: 0,
            determinism: Determinism::BestEffort,
            placement: None,
        };
        events.push((Tick(at), Event::Submit(TaskId(n), spec)));
        if n % 20 == 0 {
            events.push((Tick(at + 200), Event::Cancel(TaskId(n), CancelReason::Client)));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    let (courses, gauged) = (Courses::default(), Gauged::default());
    let (begins, ends, steps, state) = (Tick(0), Tick(at + 60_000), 0, Digest(0));
    Recording { seed: 1, rules, begins, ends, events, courses, gauged, steps, state, torn: None }
}

/// A day at a known cost, as it would be read from its journal.
fn day() -> Recording {
    let arrivals = arrivals();
    let again = again(&arrivals, &[], &Costs::one("a", COST)).unwrap();
    let Again { courses, gauged, steps, state, ended: _ } = again;
    Recording { courses, gauged, steps, state, ..arrivals }
}

fn courses(courses: &Courses) -> Vec<(TaskId, &Course)> {
    courses.iter().collect()
}

#[test]
fn the_same_day_at_the_same_cost_comes_out_the_same() {
    let day = day();
    assert_eq!(day.courses.iter().filter(|(_, course)| course.done().is_some()).count(), 228);
    let once_more = again(&day, &[], &Costs::one("a", COST)).unwrap();
    assert_eq!(courses(&once_more.courses), courses(&day.courses));
    assert_eq!((once_more.state, once_more.gauged), (day.state, day.gauged));
}

#[test]
fn a_cost_fitted_to_the_first_half_predicts_the_second() {
    let day = day();
    let (costs, residuals) = Costs::fit(&day, halves(&day, Some(Half::First))).unwrap();
    let [residual] = &residuals[..] else { panic!("{residuals:?}") };
    assert!(residual.attempts > 80 && residual.prefill_p90_permille < 20 && residual.decode_p90_permille < 40);
    let span = halves(&day, Some(Half::Second));
    let predicted = again(&day, &[], &costs).unwrap();
    let [was, is] =
        [&day.courses, &predicted.courses].map(|courses| Figures::of(courses, &Gauged::default(), span).classes);
    for (was, is) in was.iter().zip(&is) {
        assert_eq!((was.tasks, was.done), (is.tasks, is.done));
        for (was, is) in [(was.total_ms, is.total_ms), (was.first_token_ms, is.first_token_ms)] {
            for (was, is) in [(was.p50, is.p50), (was.p90, is.p90)] {
                let (was, is) = (was.unwrap(), is.unwrap());
                assert!(was.abs_diff(is) * 100 <= was * 5, "{was} ms recorded, {is} ms predicted");
            }
        }
    }
}

#[test]
fn changed_rules_change_the_day_and_the_table_says_by_how_much() {
    let day = day();
    let set = vec![("queue.interactive_max".to_owned(), "0".to_owned()), ("queue.batch_max".into(), "2".into())];
    let costs = Costs::one("a", COST);
    let changed = again(&day, &set, &costs).unwrap();
    let span = halves(&day, None);
    let told = Told {
        set: set.clone(),
        recorded: Figures::of(&day.courses, &day.gauged, span),
        simulated: Figures::of(&day.courses, &day.gauged, span),
        changed: Some(Figures::of(&changed.courses, &changed.gauged, span)),
        predicted_start: Prediction::of(&day.courses, span),
        costs,
    };
    let refused = told.changed.as_ref().unwrap().classes[1].refused;
    assert!(refused > 0 && told.recorded.classes[1].refused == 0);
    let text = text(&told, &day);
    let row = text.lines().find(|line| line.starts_with("interactive: refused")).unwrap();
    assert_eq!(
        row.split_whitespace().collect::<Vec<_>>(),
        ["interactive:", "refused", "0", "0", &refused.to_string(), "new"]
    );
    assert!(text.contains("changed: queue.interactive_max=0, queue.batch_max=2"), "{text}");
    let title = format!("What if: {}", settings(&set));
    let html = page(&title, day.seed, &[recorded_day(&day), changed.day("changed", &day)], span);
    assert!(html.contains("<h1>What if: queue.interactive_max=0, queue.batch_max=2</h1>"));
    assert!(html.contains("<h2>recorded</h2>") && html.contains("<h2>changed</h2>") && html.contains("<svg"));
    assert!(html.contains(&format!("refused {}", told.changed.as_ref().unwrap().classes[0].refused)), "{html}");
    let wrong = again(&day, &[("queue.max".to_owned(), "1".to_owned())], &told.costs).unwrap_err();
    assert!(wrong.to_string().contains("there is no rule `queue.max`"), "{wrong}");
}

#[test]
fn a_worker_that_was_lost_is_lost_again_and_comes_back() {
    let mut arrivals = arrivals();
    let lost = [(Tick(40_000), Event::Down(WorkerId(1))), (Tick(45_000), Event::Up(WorkerId(1), facts(4)))];
    arrivals.events.extend(lost);
    arrivals.events.sort_by_key(|(at, _)| *at);
    let again = again(&arrivals, &[], &Costs::one("a", COST)).unwrap();
    let figures = Figures::of(&again.courses, &again.gauged, halves(&day(), None));
    let all = &figures.classes[0];
    assert_eq!(all.done + all.failed + all.cancelled + all.refused, all.tasks);
    assert!(all.refused + all.failed > 0 && all.done > 200, "{all:?}");
}

#[test]
fn a_prediction_is_held_against_what_came() {
    let day = day();
    let whole = Prediction::of(&day.courses, halves(&day, None));
    assert!(whole.tasks > 228 && whole.waited > 5 && whole.early <= whole.waited, "{whole:?}");
    assert_eq!(Prediction::of(&day.courses, figures::Span { from: Tick(0), to: Tick(0) }).tasks, 0);
    assert_eq!(
        figures::spread((1..=200).collect()),
        figures::Spread { p50: Some(100), p90: Some(180), p99: Some(198) }
    );
    assert_eq!(figures::spread(vec![]), figures::Spread::default());
    assert_eq!(day.courses.get(TaskId(1)).and_then(Course::wait), Some(Ticks(1)));
}

#[test]
fn a_rule_that_is_none_is_a_bad_configuration() {
    let set = [("queue.size".to_owned(), "1".to_owned())];
    assert_eq!(changed(&Rules::default(), &set).unwrap_err().code(), Code::BadConfig);
}
