//! Bundles of recorded tasks: they tell the same, and nothing that they should not.

use super::*;
use crate::explain::{Explanation, explain};
use crate::fixture::{Recorder, config, life, rules, spec, submit, up};
use crate::journal::Writer;
use crate::replay::{ReplayOptions, replay};
use orchestrion_world::config::Rules;
use orchestrion_world::id::{Attempt, Epoch, SessionId, WorkerId};
use orchestrion_world::protocol::{CancelReason, FaultClass, Report, TaskSpec};
use orchestrion_world::tenant::TenantRules;

/// As a server gives them: the front of the id is when it came.
const ID: u128 = 0x019a_a5c1_7a3e_7c5d_8d4a_2f6b_1c9e_0a11;

/// What an explanation tells, without the names that a bundle replaces.
fn told(explanation: &Explanation, task: &str) -> Vec<(u64, u64, String)> {
    let without = |what: &str| {
        let names = [("model-00000", "tiny"), ("pool-00000", "left"), ("pool-00001", "right")];
        names.iter().fold(what.replace(&explanation.task, task), |what, (new, old)| what.replace(new, old))
    };
    let moment = |m: &crate::explain::Moment| {
        let decision = m.decision.as_ref().map(|decision| without(&decision.to_string()));
        (m.seq, m.tick, format!("{}: {decision:?}", without(&m.what)))
    };
    explanation.timeline.iter().map(moment).collect()
}

fn bundled(recorder: &Recorder, task: u128) -> (tempfile::TempDir, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    let journal = recorder.writer.path().parent().unwrap();
    let manifest = bundle(journal, TaskId(task), &dir.path().join("bundle.orj")).unwrap();
    (dir, manifest)
}

#[test]
fn a_bundle_replays_and_explains_as_the_journal_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(1_000, (0..40).map(|n| ID + n));
    let (_kept, manifest) = bundled(&recorder, ID + 20);
    let report = replay(&manifest.file, ReplayOptions::default()).unwrap();
    assert_eq!((report.steps, report.final_state), (4, manifest.last_state.clone()));
    assert_eq!((manifest.first_seq, manifest.last_seq, manifest.ids), (83, 86, Ids::Renumbered));
    let was = explain(dir.path(), TaskId(ID + 20), 0).unwrap();
    let is = explain(&manifest.file, manifest.task.parse().unwrap(), 0).unwrap();
    assert_eq!(told(&is, &was.task), told(&was, &was.task));
    assert_eq!(is.summary, was.summary);
    assert_eq!(fs::metadata(&manifest.file).unwrap().len(), manifest.bytes);
    assert!(manifest.to_string().contains(&manifest.commands[1]), "{manifest}");
}

#[test]
fn a_bundle_holds_no_name_no_digest_no_id_and_no_date() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    let acme = TenantRules::new("acme", 2);
    let rules = Input::SetRules(Box::new(Rules { tenants: vec![acme.clone()], ..rules() }));
    recorder.step(0, vec![Input::Boot { wall_ms: 1_763_719_200_000 }, rules, up(1, 0, 2, 50_000)]);
    // It waits among others, so that the state before it holds tasks as well.
    let session = SessionId(ID << 1);
    for n in 0..9 {
        let spec = TaskSpec { tenant: acme.id(), session: Some(session), ..spec() };
        let submit = Input::Intent(Intent::Submit { task: TaskId(ID + n), spec });
        recorder.step(1_000 + n as u64, vec![submit]);
    }
    let cancel = Intent::Cancel { task: TaskId(ID + 8), reason: CancelReason::Client };
    recorder.step(2_000, vec![Input::Intent(cancel)]);
    let (_kept, manifest) = bundled(&recorder, ID + 8);
    let whole = fs::read(recorder.writer.path()).unwrap();
    let bytes = fs::read(&manifest.file).unwrap();
    let holds = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
    let id = postcard::to_stdvec(&TaskId(ID + 8)).unwrap();
    let wall = postcard::to_stdvec(&1_763_719_200_000u64).unwrap();
    let (tenant, session) = (postcard::to_stdvec(&acme.id()).unwrap(), postcard::to_stdvec(&session).unwrap());
    let names = [&b"tiny"[..], b"left", b"right", b"acme"];
    for secret in names.into_iter().chain([&[7; 32], &[8; 32], &[1; 32], &id[..], &wall, &tenant, &session]) {
        assert!(holds(&whole, secret), "{secret:?} is in the journal");
        assert!(!holds(&bytes, secret), "{secret:?} is in the bundle");
    }
    let told = explain(&manifest.file, manifest.task.parse().unwrap(), 0).unwrap();
    assert_eq!(told.submitted_unix_ms, Some(1_008), "since the boot");
    assert_eq!(manifest.tasks, 9);
}

#[test]
fn where_a_retry_rests_on_the_id_it_is_kept_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(1_000, 1..=20);
    recorder.step(5_000, vec![submit(ID)]);
    let (worker, epoch, attempt) = (WorkerId(2), Epoch(1), Attempt::of(21, 1));
    let fault = Report::Faulted { worker, epoch, task: TaskId(ID), attempt, class: FaultClass::Transient };
    recorder.step(5_010, vec![Input::Report(fault)]);
    let orders = recorder.step(5_500, vec![]);
    assert_eq!(orders.len(), 1, "it is tried again");
    life(orders[0].worker(), epoch, TaskId(ID), Attempt::of(21, 2)).into_iter().for_each(|report| {
        recorder.step(5_600, vec![Input::Report(report)]);
    });
    let (_kept, manifest) = bundled(&recorder, ID);
    assert_eq!((manifest.ids, manifest.task.parse()), (Ids::Kept, Ok(TaskId(ID))));
    assert!(manifest.to_string().contains("keep their ids"), "{manifest}");
    let was = explain(dir.path(), TaskId(ID), 0).unwrap();
    let is = explain(&manifest.file, TaskId(ID), 0).unwrap();
    assert_eq!(told(&is, &was.task), told(&was, &was.task));
}

#[test]
fn a_story_of_two_runs_becomes_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=3);
    recorder.step(1_000, vec![submit(ID)]);
    let ledger = recorder.simulation.ledger();
    drop(recorder);
    let writer = Writer::open(config(dir.path()), "next", ledger.clone()).unwrap();
    let mut next = Recorder::over(writer, Simulation::restore(&ledger).unwrap());
    next.step(2_000, vec![Input::Boot { wall_ms: 1_763_719_300_000 }]);
    next.step(3_000, vec![Input::Intent(Intent::Cancel { task: TaskId(ID), reason: CancelReason::Client })]);
    let (_kept, manifest) = bundled(&next, ID);
    assert_eq!((manifest.first_seq, manifest.last_seq), (15, 17));
    replay(&manifest.file, ReplayOptions::default()).unwrap();
    let told = explain(&manifest.file, manifest.task.parse().unwrap(), 0).unwrap();
    assert_eq!(told.summary, explain(dir.path(), TaskId(ID), 0).unwrap().summary);
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_of_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, [ID]);
    let (kept, manifest) = bundled(&recorder, ID);
    let before = fs::read(&manifest.file).unwrap();
    let again = bundle(dir.path(), TaskId(ID), &manifest.file).unwrap_err();
    assert!(matches!(again, BundleError::Write { .. }), "{again}");
    assert_eq!(fs::read(&manifest.file).unwrap(), before);
    let unknown = bundle(dir.path(), TaskId(1), &kept.path().join("other.orj")).unwrap_err();
    assert!(matches!(unknown, BundleError::Explain(ExplainError::Unknown { .. })), "{unknown}");
    assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 1);
}
