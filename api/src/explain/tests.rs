//! Stories of recorded tasks.

use super::*;
use crate::fixture::{Recorder, beat, config, life, rules, spec, submit, up, usage};
use crate::journal::JournalConfig;
use orchestrion_world::config::OverloadPolicy;
use orchestrion_world::id::{Attempt, Epoch};
use orchestrion_world::protocol::{CancelReason, Class, Finish, TaskSpec, Usage};
use orchestrion_world::units::Permille;

fn explain(path: &Path, task: TaskId) -> Result<Explanation, ExplainError> {
    super::explain(path, task, 0)
}

#[test]
fn of_several_inputs_one_is_told_whole_and_of_each_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let tick = recorder.serve(10, [7]);
    let ids: Vec<TaskId> = (0..4).map(|index| Part::id(TaskId(1), index)).collect();
    recorder.step(tick + 1, ids[..2].iter().map(|id| submit(id.0)).collect());
    recorder.step(tick + 2, vec![submit(ids[2].0)]);
    let cancel = |id: TaskId| Input::Intent(Intent::Cancel { task: id, reason: CancelReason::Client });
    // The first ends before the last comes, as where a client's long list goes in piece by piece.
    recorder.step(tick + 3, vec![cancel(ids[2])]);
    let lease = recorder.simulation.ledger().workers[1].leases[0];
    for report in life(WorkerId(2), Epoch(1), lease.task, lease.attempt) {
        recorder.step(tick + 4, vec![Input::Report(report)]);
    }
    recorder.rotate().unwrap();
    recorder.step(tick + 5, vec![submit(ids[3].0)]);
    recorder.step(tick + 6, vec![cancel(ids[3])]);
    let told = super::explain(dir.path(), TaskId(1), 3).unwrap();
    let text = told.to_string();
    for (index, sentence) in [
        (0, ") ended, done: 5 tokens read in 5 ms, 16 tokens made in 40 ms"),
        (1, ") has not ended in the part that is recorded.\n"),
        (2, ") ended, cancelled after 0 tokens: the client asked.\n"),
        (3, ", told below) ended, cancelled after 0 tokens: the client asked.\n\nTask "),
    ] {
        let line = format!("Input {index} (task {}{sentence}", ids[index]);
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert_eq!(told.task, ids[3].to_string());
    let first = explain(dir.path(), TaskId(1)).unwrap();
    assert_eq!((&first.inputs, &first.proof.last_seq), (&told.inputs, &told.proof.last_seq));
    // An input alone is found by the id that it is told with, as any task.
    let alone = explain(dir.path(), ids[3]).unwrap();
    assert_eq!((alone.inputs.len(), &alone.timeline), (0, &told.timeline));
    let none = |task, input| super::explain(dir.path(), TaskId(task), input).unwrap_err().to_string();
    assert!(none(1, 4).ends_with("has 4 inputs, counted from 0; there is no input 4"), "{}", none(1, 4));
    assert!(none(7, 1).ends_with("has 1 input, counted from 0; there is no input 1"), "{}", none(7, 1));
}

#[test]
fn a_served_task_is_told_from_submission_to_end_with_its_proof() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(1_000, 1..=3);
    let explanation = explain(dir.path(), TaskId(2)).unwrap();
    let shown = explanation.to_string();
    for told in [
        "Task 00000000-0000-0000-0000-000000000002 ended, done: 5 tokens read in 5 ms, 16 tokens made in 40 ms",
        "It was submitted at 2025-11-21T10:00:01.032Z.",
        "It was submitted as interactive work for model tiny: 5 tokens of prompt, at most 16 tokens of answer",
        "It was accepted with 0 tasks ahead",
        "w2 was chosen (rule PredictedEnd)",
        "The smallest change: w1 would have been chosen ",
        "It was placed on worker w2 of pool right (attempt 1) (step 7).\n            At tick 1032, tiny",
        "It was taken up by worker w2",
        "It had got 16 tokens from worker w2",
        "Proof: steps 1 to 10 were executed again",
    ] {
        assert!(shown.contains(told), "missing: {told}\n{shown}");
    }
    assert_eq!(explanation.timeline.iter().filter(|moment| moment.decision.is_some()).count(), 1);
    serde_json::to_value(&explanation).unwrap();
    assert!(explanation.timeline.windows(2).all(|pair| pair[0].seq <= pair[1].seq));
}

#[test]
fn a_task_is_followed_from_its_own_segment_and_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(JournalConfig { segment_bytes: 1500, ..config(dir.path()) });
    let tick = recorder.serve(10, 1..=20);
    recorder.step(tick + 1, vec![submit(21)]);
    recorder.serve(tick + 2, 22..=30);
    let cancel = Intent::Cancel { task: TaskId(21), reason: CancelReason::Client };
    recorder.step(tick + 5_000, vec![Input::Intent(cancel)]);
    let explanation = explain(dir.path(), TaskId(21)).unwrap();
    assert!(explanation.proof.first_seq > 60 && explanation.proof.first_seq <= 83, "{:?}", explanation.proof);
    assert!(explanation.to_string().contains("was to be cancelled: the client asked"), "{explanation}");
    // What is left when the segment it came in was removed.
    let came_in = explanation.proof.first_seq;
    for segment in &runs(dir.path()).unwrap()[0].segments {
        if segment.origin.first_seq <= came_in {
            std::fs::remove_file(&segment.path).unwrap();
        }
    }
    let rest = explain(dir.path(), TaskId(21)).unwrap();
    assert_eq!(rest.submitted_unix_ms, None);
    assert!(rest.to_string().contains("It was submitted before the part of the journal that is kept."), "{rest}");
    assert_eq!(rest.summary, explanation.summary);
}

#[test]
fn a_live_journal_is_read_up_to_its_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.step(10, vec![submit(1)]);
    let half = std::fs::read(recorder.writer.path()).unwrap();
    let open = explain(dir.path(), TaskId(1)).unwrap();
    assert_eq!(open.summary, "has not ended in the part that is recorded");
    // The next record is being written.
    std::fs::write(recorder.writer.path(), [&half[..], b"ORJR\x40\0\0\0"].concat()).unwrap();
    assert_eq!(explain(dir.path(), TaskId(1)).unwrap(), open);
    assert!(matches!(explain(dir.path(), TaskId(9)), Err(ExplainError::Unknown { task: TaskId(9) })));
}

#[test]
fn an_explanation_with_a_real_id_is_json() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, [u128::MAX]);
    let json = serde_json::to_value(explain(dir.path(), TaskId(u128::MAX)).unwrap()).unwrap();
    assert_eq!(json["task"], "ffffffff-ffff-ffff-ffff-ffffffffffff");
}

#[test]
fn a_task_that_waits_is_told_what_it_waits_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    for task in 1..=5 {
        recorder.step(10, vec![submit(task)]);
    }
    recorder.step(11, vec![submit(6)]);
    let explanation = explain(dir.path(), TaskId(5)).unwrap();
    let waits = explanation.timeline.iter().filter(|moment| moment.what.starts_with("found no worker"));
    assert!(waits.count() <= 1, "{explanation}");
}

#[test]
fn who_gave_way_and_who_took_the_place_both_hear_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    let mut rules = rules();
    rules.queue.interactive_max = 1;
    rules.queue.batch_max = 0;
    rules.queue.policy = OverloadPolicy::DropLru;
    recorder.step(0, vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(rules)), up(1, 0, 1, 50_000)]);
    for task in 1..=3 {
        recorder.step(task as u64 * 10, vec![submit(task)]);
    }
    let victim = explain(dir.path(), TaskId(2)).unwrap().to_string();
    let policy = "by its policy, drop-lru";
    let gave = format!("the queue was full, and {policy}, it gave its place to task {}", TaskId(3));
    assert!(victim.contains(&gave), "{victim}");
    let newcomer = explain(dir.path(), TaskId(3)).unwrap().to_string();
    let took = format!("It found the queue full; {policy}, task {} gave way to it (step 4).", TaskId(2));
    assert!(newcomer.contains(&took), "{newcomer}");
    assert!(newcomer.find(&took) < newcomer.find("It was accepted"), "{newcomer}");
}

#[test]
fn dates_are_read_off_unix_time() {
    assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(utc(951_782_400_123), "2000-02-29T00:00:00.123Z");
    assert_eq!(utc(1_763_719_200_000), "2025-11-21T10:00:00.000Z");
    assert_eq!(utc(4_102_444_799_999), "2099-12-31T23:59:59.999Z");
}

#[test]
fn a_task_that_a_boot_took_over_is_told_from_where_it_came_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=3);
    recorder.step(1_000, vec![submit(9)]);
    let ledger = recorder.simulation.ledger();
    drop(recorder);
    let writer = crate::journal::Writer::open(config(dir.path()), "next", ledger.clone()).unwrap();
    let simulation = orchestrion_systems::Simulation::restore(&ledger).unwrap();
    let mut next = Recorder::over(writer, simulation);
    next.step(2_000, vec![Input::Boot { wall_ms: 1_763_719_300_000 }]);
    let cancel = Intent::Cancel { task: TaskId(9), reason: CancelReason::Client };
    next.step(3_000, vec![Input::Intent(cancel)]);
    let explanation = explain(dir.path(), TaskId(9)).unwrap();
    let shown = explanation.to_string();
    assert_eq!((explanation.proof.runs, explanation.proof.last_seq), (2, 2));
    assert!(shown.contains("It was submitted at 2025-11-21T10:00:01.000Z."), "{shown}");
    assert!(shown.contains("was to be cancelled: the client asked") && shown.contains("of 2 runs"), "{shown}");
}

#[test]
fn who_was_put_back_and_for_whom_and_whose_time_was_over_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(config(dir.path()));
    let mut rules = rules();
    rules.placement.batch_share = Permille(1000);
    rules.timeouts.first_token = Ticks(1_000);
    recorder.step(0, vec![Input::Boot { wall_ms: 0 }, Input::SetRules(Box::new(rules)), up(1, 0, 1, 50_000)]);
    let batch = TaskSpec { class: Class::Batch, ..spec() };
    recorder.step(10, vec![Input::Intent(Intent::Submit { task: TaskId(1), spec: batch })]);
    recorder.step(20, vec![submit(2)]);
    recorder.step(30, vec![beat(1)]);
    let usage = Usage { finish: Finish::Cancelled, ..usage() };
    let (worker, epoch, attempt) = (WorkerId(1), Epoch(1), Attempt::of(1, 1));
    let let_go = Report::Finished { worker, epoch, task: TaskId(1), attempt, usage };
    recorder.step(40, vec![Input::Report(let_go)]);
    recorder.step(1_040, vec![beat(1)]);
    let told = |task, sentence: &str| {
        let story = explain(dir.path(), TaskId(task)).unwrap().to_string();
        assert!(story.contains(sentence), "{sentence}\n{story}");
    };
    let (one, two) = (TaskId(1), TaskId(2));
    let why = format!("because interactive work, task {two} first, had no slot");
    told(1, &format!("It was put back from worker w1, attempt 1, {why}; it waits in its old place"));
    told(2, &format!("It found no slot, so worker w1 was told to let go of batch task {one} (step 3)."));
    told(2, "It was placed on worker w1 of pool left (attempt 1) (step 5).");
    told(2, "It lost attempt 1, because no first token came in the time allowed, and waits until tick");
}
