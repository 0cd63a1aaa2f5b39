//! Recordings of small runs.

use super::*;
use crate::fixture::{Recorder, config, rules, submit, usage};
use crate::journal::Writer;
use orchestrion_systems::Simulation;
use orchestrion_world::ledger::full_digest;
use orchestrion_world::protocol::{Outcome, Refusal};
use orchestrion_world::time::Ticks;

#[test]
fn the_course_of_each_task_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=3);
    let recording = Recording::read(dir.path()).unwrap();
    assert_eq!((recording.begins, recording.ends), (Tick(0), Tick(103)));
    assert_eq!((recording.seed, recording.courses.left_out, recording.torn), (9, 0, None));
    let course = recording.courses.get(TaskId(2)).unwrap();
    assert_eq!((course.came, course.predicted_start, course.first_token), (Tick(42), Some(Ticks(0)), Some(Tick(62))));
    assert_eq!((course.wait(), course.done()), (Some(Ticks(10)), Some((Tick(72), usage()))));
    let [attempt] = &course.tries[..] else { panic!("{course:?}") };
    assert_eq!((attempt.worker, attempt.placed, attempt.started), (WorkerId(2), Tick(42), Some(Tick(52))));
    assert_eq!(attempt.finished, Some((Tick(72), usage())));
    assert_eq!((recording.steps, recording.state), (14, full_digest(&recorder.simulation.ledger())));
    assert_eq!(
        recording.gauged.vram_most,
        (2 << 30) + (32 << 10),
        "two workers, and a page for the context of one task"
    );
    let kinds: Vec<&str> = recording.events.iter().map(|(_, event)| kind(event)).collect();
    assert_eq!(kinds, ["rules", "up", "up", "submit", "submit", "submit"]);
}

fn kind(event: &Event) -> &'static str {
    match event {
        Event::Rules(_) => "rules",
        Event::Submit(..) => "submit",
        Event::Cancel(..) => "cancel",
        Event::Close(..) => "close",
        Event::Up(..) => "up",
        Event::Down(_) => "down",
    }
}

#[test]
fn refusals_cancels_and_what_has_not_ended_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    // Two workers with two slots each, and a queue of sixteen: one too many.
    (1..=21).for_each(|task| drop(recorder.step(10, vec![submit(task)])));
    let cancel = |task| Input::Intent(Intent::Cancel { task: TaskId(task), reason: CancelReason::Client });
    // A second submission of a live id changes nothing.
    recorder.step(50, vec![submit(20), cancel(20), cancel(1)]);
    let recording = Recording::read(dir.path()).unwrap();
    let course = |task| recording.courses.get(TaskId(task)).unwrap();
    assert!(matches!(course(21).refused, Some(Refusal::QueueFull { bound: 16, .. })));
    assert_eq!((course(21).predicted_start, course(21).end), (None, None));
    let (at, outcome) = course(20).end.unwrap();
    assert_eq!((at, course(20).came, course(20).wait()), (Tick(50), Tick(10), None));
    assert!(matches!(outcome, Outcome::Cancelled { tokens_out: 0, .. }));
    assert_eq!((course(1).tries[0].called_back, course(1).tries[0].finished), (Some(Tick(50)), None));
    assert_eq!(course(2).end, None);
    assert_eq!((recording.gauged.queued_most, recording.gauged.samples().last().unwrap().1.slots), (16, 4));
}

#[test]
fn a_torn_end_is_left_out_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=3);
    let bytes = std::fs::read(recorder.writer.path()).unwrap();
    std::fs::write(recorder.writer.path(), &bytes[..bytes.len() - 1]).unwrap();
    let recording = Recording::read(dir.path()).unwrap();
    assert!(recording.torn.is_some_and(|torn| torn.contains("record 14")));
    assert_eq!(recording.courses.get(TaskId(3)).unwrap().end, None);
}

#[test]
fn runs_that_go_on_are_one_recording_and_an_empty_world_begins_another() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=3);
    let ledger = recorder.simulation.ledger();
    drop(recorder);
    let writer = Writer::open(config(dir.path()), "next", ledger.clone()).unwrap();
    let mut next = Recorder::over(writer, Simulation::restore(&ledger).unwrap());
    next.serve(2_000, 4..=5);
    drop(next);
    let both = Recording::read(dir.path()).unwrap();
    assert_eq!((both.courses.iter().count(), both.begins), (5, Tick(0)));
    // The second run alone begins with the workers that were up.
    let second = Recording::read(&dir.path().join("00000002.orj")).unwrap();
    assert_eq!((second.courses.iter().count(), kind(&second.events[0].1), second.rules), (2, "up", rules()));
    Recorder::booted(config(dir.path())).serve(10, 7..=7);
    let last = Recording::read(dir.path()).unwrap();
    assert_eq!(last.courses.iter().map(|(task, _)| task).collect::<Vec<_>>(), [TaskId(7)]);
}

#[test]
fn where_nothing_was_served_there_is_nothing_to_tell() {
    let dir = tempfile::tempdir().unwrap();
    Recorder::new(config(dir.path())).step(0, vec![Input::Boot { wall_ms: 0 }]);
    assert!(matches!(Recording::read(dir.path()), Err(RecordingError::NoRules)));
}
