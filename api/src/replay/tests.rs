//! Replays of recorded runs: equal ones, forged ones, and ones under other rules.

use super::*;
use crate::fixture::{Recorder, config, submit};
use crate::journal::{JournalConfig, Outcome, Record};
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;

fn plain(path: &Path) -> Result<ReplayReport, ReplayError> {
    replay(path, ReplayOptions::default())
}

#[test]
fn a_recorded_run_replays_to_the_same_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let last = recorder.serve(10, 1..=30);
    let report = plain(dir.path()).unwrap();
    assert_eq!((report.runs, report.steps, report.tasks), (1, recorder.written.len() as u64, 30));
    assert_eq!(report.recorded_ms, last);
    let (record, _) = recorder.written.last().unwrap();
    let Outcome::Stepped { state, .. } = &record.outcome else { panic!() };
    assert_eq!(Some(report.final_state.clone()), state.map(|state| state.to_string()));
    let shown = report.to_string();
    assert!(shown.starts_with("1 run replayed: 122 steps, ") && shown.contains("30 tasks"), "{shown}");
}

#[test]
fn every_segment_replays_alone_from_its_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(JournalConfig { segment_bytes: 3000, ..config(dir.path()) });
    recorder.serve(10, 1..=30);
    let whole = plain(dir.path()).unwrap();
    let segments = runs(dir.path()).unwrap().remove(0).segments;
    let mut steps = 0;
    for segment in &segments {
        steps += plain(&segment.path).unwrap().steps;
    }
    assert_eq!(steps, whole.steps);
    let options = ReplayOptions { from: Some(60), to: Some(70), ..ReplayOptions::default() };
    let part = replay(dir.path(), options).unwrap();
    let begins = segments.iter().map(|s| s.origin.first_seq).filter(|first| *first <= 60).max().unwrap();
    assert_eq!(part.steps, 71 - begins);
    let none = |from, to| replay(dir.path(), ReplayOptions { from, to, ..ReplayOptions::default() });
    let error = none(Some(99_999), None).unwrap_err().to_string();
    assert_eq!(error, "the newest run in the journal holds no step 99999: it ends with step 122");
    assert!(matches!(none(Some(70), Some(60)), Err(ReplayError::Backwards { from: 70, to: 60 })));
    assert!(matches!(none(None, Some(0)), Err(ReplayError::Backwards { from: 1, to: 0 })));
}

#[test]
fn all_runs_of_a_folder_replay() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        Recorder::booted(config(dir.path())).serve(10, 1..=4);
    }
    let report = plain(dir.path()).unwrap();
    assert_eq!((report.runs, report.tasks), (3, 12));
}

#[test]
fn a_step_that_came_out_otherwise_is_named_with_what_it_decides_now() {
    for lie_about_decisions in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::booted(config(dir.path()));
        let step = recorder.simulation.step(Tick(9), vec![submit(5)]);
        let outcome = match lie_about_decisions {
            true => Outcome::Stepped { decisions: Digest(1), state: Some(recorder.simulation.state()) },
            false => Outcome::Stepped { decisions: step.decisions, state: Some(Digest(1)) },
        };
        recorder.writer.append(&Record { seq: 3, tick: Tick(9), inputs: vec![submit(5)], outcome }).unwrap();
        let error = plain(dir.path()).unwrap_err();
        let ReplayError::Diverged(divergence) = &error else { panic!("{error}") };
        assert_eq!((divergence.place.seq, divergence.tick), (Some(3), Tick(9)));
        let shown = error.to_string();
        assert!(shown.contains("record 3 at byte"), "{shown}");
        assert!(shown.contains("was placed on worker w2 of pool right (attempt 1)"), "{shown}");
        let kind =
            if lie_about_decisions { "something else is decided" } else { "the same was decided, but the state" };
        assert!(shown.contains(kind), "{shown}");
    }
}

#[test]
fn a_broken_invariant_that_does_not_break_again_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let outcome = Outcome::Broke { audit: "leases_equal_slots".into() };
    recorder.writer.append(&Record { seq: 3, tick: Tick(9), inputs: vec![submit(5)], outcome }).unwrap();
    let error = plain(dir.path()).unwrap_err();
    assert!(matches!(error, ReplayError::NoLongerBreaks { .. }), "{error}");
    assert!(error.to_string().contains("leases_equal_slots"));
}

#[test]
fn changed_rules_are_told_by_the_first_decision_they_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    // Beside a first task, the fast worker 2 would end later than worker 1 alone; packing prefers it.
    recorder.step(10, vec![submit(1)]);
    recorder.step(11, vec![submit(2)]);
    let with = |key: &str, value: &str| {
        let overrides = vec![(key.to_owned(), value.to_owned())];
        replay(dir.path(), ReplayOptions { overrides, ..ReplayOptions::default() })
    };
    let report = with("placement.policy", "pack").unwrap();
    let change = report.change.clone().unwrap();
    assert_eq!((change.place.seq, change.task.as_deref()), (Some(4), Some("00000000-0000-0000-0000-000000000002")));
    assert!(change.recorded.iter().any(|what| what.contains("placed on worker w1")), "{change}");
    assert!(change.changed.iter().any(|what| what.contains("placed on worker w2")), "{change}");
    assert_eq!(report.steps, 4, "the recorded run is verified to its end");
    let same = with("queue.batch_max", "99").unwrap();
    assert_eq!(same.change, None);
    assert!(same.to_string().ends_with("\nWith the changed rules, no decision differs."), "{same}");
    assert!(plain(dir.path()).unwrap().to_string().ends_with(&same.final_state));
    assert!(matches!(with("queue.size", "99"), Err(ReplayError::Override(OverrideError::UnknownKey { .. }))));
    assert!(matches!(with("retry.jitter_permille", "1001"), Err(ReplayError::Override(OverrideError::Rules(_)))));
}

#[test]
fn another_overload_policy_is_told_by_who_would_have_given_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    // Two workers with two slots each, and a queue of sixteen: one too many.
    (1..=21).for_each(|task| drop(recorder.step(10 + task as u64, vec![submit(task)])));
    let with = |policy: &str| {
        let overrides = vec![("queue.policy".to_owned(), policy.to_owned())];
        replay(dir.path(), ReplayOptions { overrides, ..ReplayOptions::default() }).unwrap().change
    };
    assert_eq!(with("reject"), None);
    let change = with("drop-lru").unwrap();
    assert_eq!(change.place.seq, Some(23));
    assert!(change.recorded.iter().any(|what| what.contains("the queue is full (16 tasks)")), "{change}");
    // Interactive work takes the places of batch work before anybody goes.
    assert!(change.changed.iter().any(|what| what.contains("was accepted with 16 tasks ahead")), "{change}");
}

#[test]
fn progress_ends_within_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=2500);
    assert!(recorder.written.len() > 8192, "{} steps", recorder.written.len());
    let mut told = vec![];
    let mut progress = |done: u64, total: u64| told.push((done, total));
    replay(dir.path(), ReplayOptions { progress: Some(&mut progress), ..ReplayOptions::default() }).unwrap();
    assert!(told.len() == 1 && told.iter().all(|(done, total)| 0 < *done && done <= total), "{told:?}");
}
