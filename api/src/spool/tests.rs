//! The spool against crashes and disks: torn ends, flipped bits, full disks, and writing anew.

use super::*;
use crate::fixture::config;
use crate::journal::{Fsync, JournalConfig, JournalError};
use orchestrion_world::payload::{Likelihood, Likely};
use orchestrion_world::protocol::Finish;
use orchestrion_world::protocol::Usage;
use orchestrion_world::units::Permille;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn card(task: u128) -> Card {
    Card {
        task: TaskId(task),
        body: [task as u8; 32],
        class: Class::Batch,
        fingerprint: "model/engine".into(),
        seed: 7,
        prompt_tokens: 3,
        max_tokens: 9,
        logprobs: true,
        dropped: Dropped { messages: 1, tokens: 5 },
        part: None,
        position: 1,
        predicted_start: Ticks(20),
    }
}

pub(crate) fn wanted(task: u128) -> Wanted {
    let off = Permille(1000);
    let sampling = Sampling {
        seed: 7,
        temperature: Permille(800),
        top_k: 4,
        top_p: off,
        min_p: Permille(0),
        repetition_penalty: off,
    };
    let grammar = Some(Grammar::Regex("a+".into()));
    let (prompt, bias) = (vec![1, 2, task as u32], vec![Bias { token: 3, by: -500 }]);
    Wanted { card: card(task), prompt, stop: vec!["\n".into()], sampling, bias, logprobs: Some(1), grammar }
}

/// A part of the task `of`.
pub(crate) fn part(of: u128, index: u32, count: u32) -> Part {
    let form = Form::Embedding { base64: false, dimensions: None };
    Part { of: TaskId(of), index, count, model: "m".into(), form, document: Some("{}".into()) }
}

pub(crate) fn finished(task: u128) -> Finished {
    let usage =
        Usage { finish: Finish::Stop, tokens_in: 3, tokens_cached: 1, tokens_out: 2, prefill_us: 1, decode_us: 2 };
    let likely = |bytes: &str| Likely { bytes: bytes.as_bytes().into(), micro_logprob: -7 };
    Finished {
        card: Card { part: Some(part(task, 0, 1)), ..card(task) },
        worker: Some(WorkerId(1)),
        outcome: Outcome::Done(usage),
        broken: false,
        cut: false,
        answer: Arc::new(Answer {
            ends: vec![4, 8],
            text: "eins, zwei".into(),
            likelihoods: vec![Likelihood { drawn: likely("eins"), top: vec![likely("drei")] }],
            vector: [0.6f32.to_bits(), f32::MIN_POSITIVE.to_bits()].into(),
        }),
        wall_ms: 5,
    }
}

fn write(dir: &Path, tasks: std::ops::Range<u128>) -> Spool {
    let mut spool = Spool::begin(&config(dir), []).unwrap();
    for task in tasks {
        spool.stage(&Line::Wanted(Box::new(wanted(task)))).unwrap();
        spool.commit().unwrap();
    }
    spool
}

fn thin(spool: &mut Spool, keeps: impl Fn(TaskId) -> bool) {
    spool.thin(keeps).unwrap();
    while spool.is_thinning() {
        spool.settle().unwrap();
    }
}

fn tasks(dir: &Path) -> BTreeSet<u128> {
    load(dir).unwrap().wanted.keys().map(|task| task.0).collect()
}

#[test]
fn what_was_committed_is_there_again_and_nobody_else_may_read_it() {
    for fsync in [Fsync::Never, Fsync::Interval, Fsync::Always] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::begin(&JournalConfig { fsync, ..config(dir.path()) }, []).unwrap();
        spool.stage(&Line::Wanted(Box::new(wanted(1)))).unwrap();
        spool.stage(&Line::Finished(Box::new(finished(2)))).unwrap();
        assert!(load(dir.path()).unwrap().wanted.is_empty(), "not before the commit");
        spool.commit().unwrap();
        spool.sync().unwrap();
        drop(spool);
        let found = load(dir.path()).unwrap();
        assert_eq!(found.wanted.into_values().collect::<Vec<_>>(), [wanted(1)]);
        assert_eq!(found.finished.into_values().collect::<Vec<_>>(), [finished(2)]);
        let mode = fs::metadata(dir.path().join("spool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_folder_without_a_spool_has_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()).unwrap().bytes_lost, 0);
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_rest_stands() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), 1..3));
    let two = fs::metadata(dir.path().join("spool")).unwrap().len() as usize;
    drop(write(dir.path(), 1..4));
    let whole = fs::read(dir.path().join("spool")).unwrap();
    for len in two..whole.len() {
        fs::write(dir.path().join("spool"), &whole[..len]).unwrap();
        let found = load(dir.path()).unwrap();
        assert_eq!((found.wanted.len(), found.damaged), (2, 0), "cut at {len}");
        assert_eq!(found.bytes_lost, (len - two) as u64);
    }
}

#[test]
fn a_flipped_bit_costs_its_line_or_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    drop(write(dir.path(), 1..6));
    let path = dir.path().join("spool");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        fs::write(&path, damaged).unwrap();
        match load(dir.path()) {
            Ok(found) => {
                assert_eq!(found.wanted.len(), 4, "bit {at}");
                assert!(found.wanted.values().all(|found| *found == wanted(found.card.task.0)));
                assert!(found.bytes_lost > 0);
            }
            Err(JournalError::Spool { problem, .. }) => assert!(at < 64 && problem.contains("ORSPOOL4"), "{problem}"),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn an_intact_line_of_another_build_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = frame::MAGIC.to_vec();
    let body = [9, 9, 9];
    bytes.extend_from_slice(b"ORSL");
    bytes.extend_from_slice(&3u32.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[8..]);
    crc.update(&body);
    bytes.extend_from_slice(&crc.finalize().to_le_bytes());
    bytes.extend_from_slice(&body);
    fs::write(dir.path().join("spool"), bytes).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("another build") && error.contains("spool"), "{error}");
}

#[test]
fn writing_anew_leaves_what_is_kept_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = write(dir.path(), 1..50);
    spool.stage(&Line::Finished(Box::new(finished(3)))).unwrap();
    spool.commit().unwrap();
    let before = fs::metadata(dir.path().join("spool")).unwrap().len();
    thin(&mut spool, |task| task.0 % 10 == 3);
    assert!(fs::metadata(dir.path().join("spool")).unwrap().len() < before / 5);
    assert_eq!(tasks(dir.path()), BTreeSet::from([13, 23, 33, 43]));
    assert_eq!(load(dir.path()).unwrap().finished.len(), 1, "its words are gone, its result is kept");
    spool.stage(&Line::Wanted(Box::new(wanted(99)))).unwrap();
    spool.commit().unwrap();
    thin(&mut spool, |task| task.0 > 40);
    assert_eq!(tasks(dir.path()), BTreeSet::from([43, 99]));
    // What a crash left of writing anew is in nobody's way.
    fs::write(dir.path().join("spool.new"), "half").unwrap();
    thin(&mut spool, |_| true);
    assert_eq!(tasks(dir.path()), BTreeSet::from([43, 99]));
}

#[test]
fn a_spool_that_doubled_asks_to_be_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::begin(&config(dir.path()), []).unwrap();
    let mut long = finished(1);
    Arc::make_mut(&mut long.answer).text = "x".repeat(1 << 20);
    while !spool.is_full() {
        spool.stage(&Line::Finished(Box::new(long.clone()))).unwrap();
        spool.commit().unwrap();
    }
    let full = fs::metadata(dir.path().join("spool")).unwrap().len();
    assert!((4 << 20..6 << 20).contains(&full), "{full}");
    thin(&mut spool, |_| true);
    assert!(!spool.is_full() && fs::metadata(dir.path().join("spool")).unwrap().len() < 2 << 20);
}

#[test]
fn what_comes_while_it_is_written_anew_is_in_the_new_one_and_a_crash_leaves_the_old() {
    for fsync in [Fsync::Never, Fsync::Interval, Fsync::Always] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::begin(&JournalConfig { fsync, ..config(dir.path()) }, []).unwrap();
        let add = |spool: &mut Spool, line: Line| {
            spool.stage(&line).unwrap();
            spool.commit().unwrap();
        };
        (1..50).for_each(|task| add(&mut spool, Line::Wanted(Box::new(wanted(task)))));
        spool.thin(|task| task.0 % 10 == 3).unwrap();
        add(&mut spool, Line::Wanted(Box::new(wanted(77))));
        add(&mut spool, Line::Finished(Box::new(finished(23))));
        // Whoever reads now reads the old one.
        assert_eq!(load(dir.path()).unwrap().wanted.len(), 50);
        while spool.is_thinning() {
            spool.settle().unwrap();
        }
        let found = load(dir.path()).unwrap();
        assert_eq!(tasks(dir.path()), BTreeSet::from([3, 13, 23, 33, 43, 77]));
        assert_eq!((found.finished.len(), found.bytes_lost), (1, 0));
        // Its lines stand where it thinks they do.
        thin(&mut spool, |task| [23, 77].contains(&task.0));
        assert_eq!(tasks(dir.path()), BTreeSet::from([77]));
        assert_eq!(load(dir.path()).unwrap().finished.into_values().collect::<Vec<_>>(), [finished(23)]);
    }
}

#[test]
fn a_spool_that_cannot_be_written_anew_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = write(dir.path(), 1..5);
    // A folder in the place of the file stands for whatever keeps it from being written.
    fs::create_dir(dir.path().join("spool.new")).unwrap();
    spool.thin(|_| false).unwrap();
    let error = loop {
        match spool.settle() {
            Ok(()) if spool.is_thinning() => {}
            result => break result.unwrap_err(),
        }
    };
    assert!(error.may_pass() && error.to_string().contains("cannot write anew"), "{error}");
    spool.stage(&Line::Wanted(Box::new(wanted(9)))).unwrap();
    spool.commit().unwrap();
    assert_eq!(tasks(dir.path()), BTreeSet::from([1, 2, 3, 4, 9]));
}
