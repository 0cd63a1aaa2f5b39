//! Snapshots of recorded runs: each leads to the same state, and whatever happens to one, another does.

use super::*;
use crate::fixture::{Recorder, config, rules, submit, up};
use crate::journal::{Fsync, Outcome, Record, Taken};
use crate::recovery::{RecoverError, recover};
use crate::replay::{ReplayOptions, replay};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::Input;
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn recovered(dir: &Path) -> Result<Ledger, RecoverError> {
    recover(&Taken::take(config(dir)).unwrap(), &rules(), 1).map(|recovered| recovered.ledger)
}

/// A run of several segments, with tasks that wait, run and have ended at each border.
fn recorded(config: JournalConfig) -> Ledger {
    let mut recorder = Recorder::booted(JournalConfig { segment_records: 20, ..config });
    let mut tick = 10;
    for round in 0..12u128 {
        tick = recorder.serve(tick, round * 100 + 1..round * 100 + 7);
        recorder.step(tick + 1, vec![submit(round * 100 + 50)]);
    }
    recorder.simulation.ledger()
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "ors"));
    found.sort();
    found
}

#[test]
fn every_snapshot_with_the_records_since_comes_to_what_the_whole_journal_does() {
    let dir = tempfile::tempdir().unwrap();
    let state = recorded(config(dir.path()));
    let snapshots = snapshots(dir.path());
    assert!(snapshots.len() >= 5, "{snapshots:?}");
    let kept: Vec<Vec<u8>> = snapshots.iter().map(|path| fs::read(path).unwrap()).collect();
    snapshots.iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_eq!(recovered(dir.path()).unwrap(), state, "the whole journal");
    let whole = replay(dir.path(), ReplayOptions::default()).unwrap();
    assert_eq!(whole.final_state, full_digest(&state).to_string());
    for (path, bytes) in snapshots.iter().zip(&kept) {
        fs::write(path, bytes).unwrap();
        assert_eq!(recovered(dir.path()).unwrap(), state, "from {}", path.display());
        let part = replay(dir.path(), ReplayOptions { from: Some(whole.steps), ..ReplayOptions::default() }).unwrap();
        assert_eq!(part.final_state, whole.final_state);
        fs::remove_file(path).unwrap();
    }
    // With all of them, a replay of the whole holds each against the state it comes to.
    snapshots.iter().zip(&kept).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    assert_eq!(replay(dir.path(), ReplayOptions::default()).unwrap().final_state, whole.final_state);
}

#[test]
fn a_snapshot_that_is_cut_or_damaged_anywhere_counts_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let state = recorded(config(dir.path()));
    let newest = snapshots(dir.path()).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    for len in (0..whole.len()).step_by(61) {
        fs::write(&newest, &whole[..len]).unwrap();
        assert_eq!(recovered(dir.path()).unwrap(), state, "cut at {len}");
        let mut damaged = whole.clone();
        damaged[len] ^= 1 << (len % 8);
        fs::write(&newest, damaged).unwrap();
        assert_eq!(recovered(dir.path()).unwrap(), state, "flipped at {len}");
    }
    fs::copy(&snapshots(dir.path())[0], &newest).unwrap();
    assert_eq!(recovered(dir.path()).unwrap(), state, "that of another segment");
}

#[test]
fn a_kill_inside_the_writing_of_a_snapshot_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = recorded(config(dir.path()));
    let newest = snapshots(dir.path()).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    fs::remove_file(&newest).unwrap();
    let fresh = dir.path().join("snapshot.new");
    for len in (0..=whole.len()).step_by(97).chain([whole.len()]) {
        fs::write(&fresh, &whole[..len]).unwrap();
        assert_eq!(recovered(dir.path()).unwrap(), state, "killed at {len}");
    }
    // The next one is written over what is left there.
    let taken = Taken::take(config(dir.path())).unwrap();
    let writer = Writer::begin(taken, "next", state.clone()).unwrap();
    let mut next = Recorder::over(writer, Simulation::restore(&state).unwrap());
    next.step(9_000_000, vec![submit(7_000)]);
    next.rotate().unwrap();
    next.follower.follow().unwrap();
    assert!(!fresh.exists());
    fs::remove_file(dir.path().join("00000001.orj")).unwrap();
    let after = next.simulation.ledger();
    drop(next);
    assert_eq!(recovered(dir.path()).unwrap(), after);
}

#[test]
fn a_snapshot_that_cannot_be_written_is_left_out_and_the_next_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    // A folder in the place of the file stands for whatever keeps it from being written.
    fs::create_dir(dir.path().join("snapshot.new")).unwrap();
    for task in 1..=2 {
        recorder.serve(task * 1_000, [u128::from(task)]);
        recorder.rotate().unwrap();
        recorder.follower.follow().unwrap();
        assert_eq!(snapshots(dir.path()).len(), if task == 1 { 0 } else { 1 });
        if task == 1 {
            fs::remove_dir(dir.path().join("snapshot.new")).unwrap();
        }
    }
    let state = recorder.simulation.ledger();
    drop(recorder);
    assert_eq!(recovered(dir.path()).unwrap(), state);
}

#[test]
fn without_a_snapshot_and_the_segments_before_it_is_said_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    recorded(config(dir.path()));
    snapshots(dir.path()).iter().for_each(|path| fs::remove_file(path).unwrap());
    fs::remove_file(dir.path().join("00000001.orj")).unwrap();
    let error = recovered(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no snapshot says from what state") && error.contains("`journal.dir`"), "{error}");
    let error = replay(dir.path(), ReplayOptions::default()).unwrap_err().to_string();
    assert!(error.contains("00000002.orj goes on from the segment before it"), "{error}");
}

#[test]
fn retention_leaves_what_recovery_needs_and_one_snapshot_more() {
    let dir = tempfile::tempdir().unwrap();
    for keep in [
        JournalConfig { retain_bytes: Some(0), ..config(dir.path()) },
        JournalConfig { retain_age: Some(Duration::ZERO), ..config(dir.path()) },
    ] {
        let state = recorded(keep);
        let left = snapshots(dir.path());
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(runs(dir.path()).unwrap().last().unwrap().segments.len(), 2);
        assert_eq!(recovered(dir.path()).unwrap(), state);
        fs::remove_file(&left[1]).unwrap();
        assert_eq!(recovered(dir.path()).unwrap(), state, "the newest is not the only one");
        replay(dir.path(), ReplayOptions::default()).unwrap();
    }
}

#[test]
fn where_no_snapshot_can_be_written_what_is_not_needed_goes_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let mut tick = 10;
    let mut close = |recorder: &mut Recorder, task| {
        tick = recorder.serve(tick, [task]);
        recorder.rotate().unwrap();
        recorder.follower.follow().unwrap();
        runs(dir.path()).unwrap().last().unwrap().segments.len()
    };
    assert_eq!((1..=4).map(|task| close(&mut recorder, task)).last(), Some(5));
    fs::create_dir(dir.path().join("snapshot.new")).unwrap();
    recorder.follower.config.retain_bytes = Some(0);
    // Snapshots 4 and 5 are the last two; the segments from 4 to the open one stay.
    assert_eq!((close(&mut recorder, 5), close(&mut recorder, 6)), (3, 4));
    assert!(!dir.path().join("00000003.orj").exists());
    let state = recorder.simulation.ledger();
    drop(recorder);
    assert_eq!(recovered(dir.path()).unwrap(), state);
}

#[test]
fn retention_goes_on_when_the_shadow_follows_no_more() {
    let dir = tempfile::tempdir().unwrap();
    drop(Recorder::booted(config(dir.path())));
    let earlier = dir.path().join("00000001.orj");
    let bytes = fs::read(&earlier).unwrap();
    let keep = JournalConfig { retain_bytes: Some(bytes.len() as u64), ..config(dir.path()) };
    let mut recorder = Recorder::booted(keep);
    let shadow = Shadow::start(&recorder.writer).unwrap();
    let outcome = Outcome::Stepped { decisions: Digest(1), state: Some(Digest(2)) };
    recorder.writer.append(&Record { seq: 3, tick: Tick(9), inputs: vec![submit(5)], outcome }).unwrap();
    for _ in 0..2 {
        assert!(earlier.exists());
        shadow.closed(recorder.rotate().unwrap());
        (0..1_000).take_while(|_| earlier.exists()).for_each(|_| std::thread::sleep(Duration::from_millis(10)));
        assert!(!earlier.exists(), "it is over its size and nobody's need");
        fs::write(&earlier, &bytes).unwrap();
    }
    drop(shadow);
    assert_eq!(snapshots(dir.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn a_journal_that_would_not_replay_is_noticed_when_its_segment_closes() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let outcome = Outcome::Stepped { decisions: Digest(1), state: Some(Digest(2)) };
    recorder.writer.append(&Record { seq: 3, tick: Tick(9), inputs: vec![submit(5)], outcome }).unwrap();
    recorder.rotate().unwrap();
    let error = recorder.follower.follow().unwrap_err();
    assert!(error.to_string().contains("differs from the record") && error.to_string().contains("record 3"), "{error}");
    assert_eq!(snapshots(dir.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn the_shadow_follows_while_the_writer_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let shadow = Shadow::start(&recorder.writer).unwrap();
    let mut tick = 10;
    for task in 1..=20 {
        tick = recorder.serve(tick, [task]);
        shadow.closed(recorder.rotate().unwrap());
    }
    let newest = dir.path().join("00000021.ors");
    for _ in 0..1_000 {
        if newest.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(shadow);
    assert_eq!(snapshots(dir.path()).last(), Some(&newest));
    assert_eq!(snapshots(dir.path()).len(), 20);
}

/// The pulse rotates between two steps, so that every client waits for what is written there. How long that took is
/// printed.
#[test]
fn a_header_is_no_longer_with_100_000_resident_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::new(JournalConfig { fsync: Fsync::Interval, ..config(dir.path()) });
    let mut many = rules();
    many.queue.interactive_max = 200_000;
    recorder.step(0, vec![Input::Boot { wall_ms: 1 }, Input::SetRules(Box::new(many))]);
    recorder.step(5, vec![up(1, 0, 2, 50_000)]);
    let step = |recorder: &mut Recorder, from: u128, tasks: u128| {
        let inputs: Vec<Input> = (from..from + tasks).map(submit).collect();
        let step = recorder.simulation.step(Tick(10), inputs.clone());
        let outcome = Outcome::Stepped { decisions: step.decisions, state: None };
        let record = Record { seq: recorder.writer.next_seq(), tick: Tick(10), inputs, outcome };
        recorder.writer.append(&record).unwrap();
    };
    let rotate = |recorder: &mut Recorder| {
        let began = Instant::now();
        recorder.rotate().unwrap();
        let took = began.elapsed();
        let began = Instant::now();
        recorder.follower.follow().unwrap();
        (took, began.elapsed(), fs::metadata(recorder.writer.path()).unwrap().len())
    };
    step(&mut recorder, 1, 1);
    let (few, _, header) = rotate(&mut recorder);
    (0..100).for_each(|n| step(&mut recorder, 10 + n * 1_000, 1_000));
    recorder.writer.sync().unwrap();
    let (many, behind, header_of_many) = rotate(&mut recorder);
    println!("a rotation: {few:?} with 1 task, {many:?} with 100,000; behind it, records and snapshot: {behind:?}");
    assert_eq!(recorder.simulation.ledger().tasks.len(), 100_001);
    assert!(header_of_many <= header + 8, "a header of {header_of_many} bytes, {header} before");
}
