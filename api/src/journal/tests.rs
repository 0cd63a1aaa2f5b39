//! The journal against what can happen to it: flipped bits, torn ends, full disks, second writers.

use super::medium::Medium;
use super::record::{HEAD, Head, Kind};
use super::*;
use crate::fixture::{Recorder, config, submit, up};
use orchestrion_world::ledger::Ledger;
use orchestrion_world::protocol::Input;
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use proptest::prelude::*;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// A journal of one closed run: its bytes, and where each frame begins.
fn small() -> (Vec<u8>, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    recorder.serve(10, 1..=1);
    let bytes = fs::read(recorder.writer.path()).unwrap();
    let starts = frames(&bytes);
    assert_eq!(starts.len(), 1 + recorder.written.len());
    (bytes, starts)
}

fn frames(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut starts) = (0, vec![]);
    while at < bytes.len() {
        starts.push(at);
        at += HEAD + u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
    }
    starts
}

/// Reads everything; the records and the torn end.
fn read_all(path: &Path) -> Result<(Vec<Record>, Option<Torn>), JournalError> {
    let (mut records, mut torn, mut chain) = (vec![], None, None);
    for run in runs(path)? {
        let mut reader = RunReader::new(&run.segments, chain);
        while let Some(entry) = reader.read()? {
            if let Entry::Step(record) = entry {
                records.push(record);
            }
        }
        torn = reader.torn().cloned();
        chain = reader.chain();
    }
    Ok((records, torn))
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        any::<u64>().prop_map(|wall_ms| Input::Boot { wall_ms }),
        any::<u128>().prop_map(submit),
        (any::<u32>(), any::<u16>(), any::<u16>(), any::<u64>()).prop_map(|(w, p, s, d)| up(w, p, s, d)),
        Just(Input::SetRules(Box::new(crate::fixture::rules()))),
    ];
    prop::collection::vec(input, 0..20)
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (any::<u128>(), any::<Option<u128>>())
            .prop_map(|(d, s)| Outcome::Stepped { decisions: Digest(d), state: s.map(Digest) }),
        ".*".prop_map(|audit| Outcome::Broke { audit }),
    ]
}

proptest! {
    #[test]
    fn a_record_comes_back_as_it_was_framed(
        seq in any::<u64>(), tick in any::<u64>(), inputs in inputs(), outcome in outcome(), previous in any::<[u8; 32]>()
    ) {
        let record = Record { seq, tick: Tick(tick), inputs, outcome };
        let mut frame = vec![];
        let chain = record.encode(&mut frame, &previous).unwrap();
        let head = Head::read(frame[..HEAD].try_into().unwrap(), Kind::Record).unwrap();
        let body = &frame[HEAD..];
        prop_assert_eq!(head.len, body.len());
        prop_assert_eq!(head.check_crc(body), Ok(()));
        prop_assert_eq!(head.check_chain(body, &previous), Ok(chain));
        prop_assert_eq!(head.check_chain(body, &chain), Err(Flaw::Chain));
        prop_assert_eq!(Record::decode(head.number, body).unwrap(), record);
    }

    #[test]
    fn whatever_a_file_holds_it_is_an_error_or_a_torn_end(
        mut bytes in prop::collection::vec(any::<u8>(), 0..400), begins_well in any::<bool>(), keep in 0usize..600
    ) {
        if begins_well {
            let (small, _) = small();
            bytes = [&small[..keep.min(small.len())], &bytes].concat();
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("00000001.orj"), &bytes).unwrap();
        let _ = read_all(dir.path());
        let _ = Writer::open(config(dir.path()), "x", Ledger::empty(1));
    }
}

#[test]
fn every_flipped_bit_is_found_and_its_record_named() {
    let (bytes, starts) = small();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000001.orj");
    fs::write(&path, &bytes).unwrap();
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    // In place: some file systems force a file to disk that is written anew.
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    for bit in 0..bytes.len() * 8 {
        put(bit / 8, bytes[bit / 8] ^ (1 << (bit % 8)));
        let found = read_all(dir.path());
        put(bit / 8, bytes[bit / 8]);
        let frame = starts.iter().rposition(|start| *start <= bit / 8).unwrap();
        let place = match found {
            Ok((_, Some(torn))) if frame + 1 == starts.len() => torn.place,
            Err(JournalError::Corrupt { place, .. }) if frame + 1 < starts.len() => place,
            // The first bytes of a file say what it is.
            Err(JournalError::NotAJournal { .. }) if bit / 8 < 4 => continue,
            Err(JournalError::Version { .. }) if (8..16).contains(&(bit / 8)) => continue,
            other => panic!("bit {bit} in frame {frame}: {other:?}"),
        };
        assert_eq!(place.offset, starts[frame] as u64, "bit {bit}");
        assert_eq!(place.seq, (frame > 0).then_some(frame as u64), "bit {bit}");
    }
}

#[test]
fn a_closed_segment_has_no_torn_end() {
    let (bytes, starts) = small();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("00000001.orj"), &bytes).unwrap();
    drop(Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap());
    assert_eq!(read_all(dir.path()).unwrap().0.len(), starts.len() - 1);
    // Cut behind a whole record: only the next segment's header can tell.
    let last = *starts.last().unwrap();
    fs::write(dir.path().join("00000001.orj"), &bytes[..last]).unwrap();
    let error = read_all(dir.path()).unwrap_err();
    assert!(matches!(&error, JournalError::Discontinued { file, .. } if file.ends_with("00000002.orj")), "{error}");
    fs::write(dir.path().join("00000001.orj"), &bytes[..last + 60]).unwrap();
    let error = read_all(dir.path()).unwrap_err();
    assert!(matches!(&error, JournalError::Corrupt { place, .. } if place.offset == last as u64), "{error}");
}

#[test]
fn an_end_torn_at_any_byte_is_cut_at_the_last_whole_record() {
    let (bytes, starts) = small();
    for len in 0..=bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000001.orj");
        fs::write(&path, &bytes[..len]).unwrap();
        let whole =
            (0..=bytes.len()).filter(|end| *end <= len && (starts.contains(end) || *end == bytes.len())).max().unwrap();
        let records = starts.iter().filter(|start| **start > 0 && **start < whole).count();
        let writer = Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap();
        assert_eq!(writer.torn().map(|torn| torn.bytes), (whole < len || len == 0).then_some((len - whole) as u64));
        let cut = fs::metadata(&path).map_or(0, |facts| facts.len());
        // A segment without a whole header is removed, and its number used again.
        assert!(cut == whole as u64 || whole == 0, "cut at {len}: {cut} bytes");
        drop(writer);
        let (read, torn) = read_all(dir.path()).unwrap();
        assert_eq!((read.len(), torn), (records, None), "cut at {len}");
    }
}

#[test]
fn a_journal_of_another_format_is_refused_with_what_to_do() {
    let (mut bytes, _) = small();
    bytes[8..16].copy_from_slice(&1u64.to_le_bytes());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("00000001.orj"), &bytes).unwrap();
    let error = Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap_err().to_string();
    assert!(error.contains("00000001.orj has format version 1, and this build reads version 7"), "{error}");
    assert!(error.contains("build that wrote it") && error.contains("`journal.dir`"), "{error}");
    assert_eq!(fs::read(dir.path().join("00000001.orj")).unwrap(), bytes, "nothing is touched");
}

#[test]
fn zeros_behind_the_last_record_are_a_torn_end() {
    let (bytes, starts) = small();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000001.orj");
    fs::write(&path, [bytes.as_slice(), &[0; 5000]].concat()).unwrap();
    assert_eq!(read_all(dir.path()).unwrap().0.len(), starts.len() - 1);
    drop(Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap());
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn damage_before_valid_records_is_named_and_nothing_is_cut() {
    let (bytes, starts) = small();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("00000001.orj");
    let mut damaged = bytes;
    damaged[starts[3] + HEAD + 2] ^= 0xff;
    fs::write(&path, &damaged).unwrap();
    let error = Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap_err();
    let JournalError::Corrupt { place, flaw: Flaw::Crc { .. } } = &error else { panic!("{error}") };
    assert_eq!((place.seq, place.offset), (Some(3), starts[3] as u64));
    assert!(error.to_string().contains("00000001.orj, record 3 at byte"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), damaged);
}

#[test]
fn a_full_segment_is_followed_by_one_that_starts_from_its_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(JournalConfig { segment_bytes: 3000, ..config(dir.path()) });
    recorder.serve(10, 1..=20);
    let written: Vec<Record> = recorder.written.iter().map(|(record, _)| record.clone()).collect();
    let found = runs(dir.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].segments.len() > 3, "{} segments", found[0].segments.len());
    let (read, torn) = read_all(dir.path()).unwrap();
    assert_eq!((read, torn), (written.clone(), None));
    // Each alone holds what went into its file, numbered as in the run.
    for segment in &found[0].segments {
        let alone = read_all(&segment.path).unwrap().0;
        let there = recorder.written.iter().filter(|(_, file)| *file == segment.path).map(|(record, _)| record.clone());
        assert_eq!(alone, there.collect::<Vec<_>>());
        assert_eq!(alone.first().map_or(segment.origin.first_seq, |record| record.seq), segment.origin.first_seq);
    }
}

#[test]
fn a_removed_segment_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(JournalConfig { segment_bytes: 3000, ..config(dir.path()) });
    recorder.serve(10, 1..=20);
    fs::remove_file(dir.path().join("00000002.orj")).unwrap();
    let error = read_all(dir.path()).unwrap_err();
    assert!(matches!(error, JournalError::Gap { missing: 2, .. }), "{error}");
}

#[test]
fn retention_takes_the_oldest_closed_segments() {
    let dir = tempfile::tempdir().unwrap();
    let keep = JournalConfig { segment_bytes: 3000, retain_bytes: Some(8000), ..config(dir.path()) };
    let mut recorder = Recorder::booted(keep);
    recorder.serve(10, 1..=40);
    let segments = &runs(dir.path()).unwrap()[0].segments;
    let closed: u64 = segments.iter().rev().skip(1).map(|segment| segment.bytes).sum();
    assert!(segments[0].origin.number > 1 && closed <= 8000 && segments.len() >= 2, "{closed} bytes are kept");
    read_all(dir.path()).unwrap();
    let age = JournalConfig { retain_age: Some(std::time::Duration::ZERO), ..config(dir.path()) };
    drop(recorder);
    let writer = Writer::open(age, "x", Ledger::empty(1)).unwrap();
    let left: Vec<_> = runs(dir.path()).unwrap().into_iter().flat_map(|run| run.segments).collect();
    assert_eq!(left.len(), 1, "everything closed was older");
    assert_eq!(left[0].path, writer.path());
}

#[test]
fn two_servers_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap();
    let error = Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap_err();
    assert!(matches!(error, JournalError::Locked { .. }), "{error}");
    drop(first);
    Writer::open(config(dir.path()), "x", Ledger::empty(1)).unwrap();
}

#[test]
fn a_boot_begins_a_run_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        Recorder::booted(config(dir.path())).serve(10, 1..=2);
    }
    let found = runs(dir.path()).unwrap();
    let numbers: Vec<(u32, u64)> =
        found.iter().map(|r| (r.segments[0].origin.number, r.segments[0].origin.first_seq)).collect();
    assert_eq!(numbers, [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(found[1].segments[0].origin.build, "test-build");
    read_all(dir.path()).unwrap();
}

#[test]
fn every_fsync_mode_records_the_same() {
    for fsync in [Fsync::Never, Fsync::Interval, Fsync::Always] {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::booted(JournalConfig { fsync, segment_bytes: 3000, ..config(dir.path()) });
        recorder.serve(10, 1..=5);
        recorder.writer.sync().unwrap();
        assert_eq!(read_all(dir.path()).unwrap().0.len(), recorder.written.len());
    }
}

#[test]
fn a_segment_is_on_the_disk_before_the_next_one_begins_whatever_the_setting() {
    for fsync in [Fsync::Never, Fsync::Interval, Fsync::Always] {
        let dir = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::booted(JournalConfig { fsync, ..config(dir.path()) });
        let broken = std::sync::Arc::new(true.into());
        recorder.writer.write_through(|disk| Box::new(Forgetful { disk, broken })).unwrap();
        let error = recorder.rotate().unwrap_err();
        assert!(matches!(error, JournalError::Sync { .. }), "{fsync:?}: {error}");
        assert!(!dir.path().join("00000002.orj").exists(), "{fsync:?}");
    }
}

/// A disk that takes everything, and from some moment on keeps nothing for sure.
#[derive(Debug)]
pub(crate) struct Forgetful {
    pub(crate) disk: Box<dyn Medium>,
    pub(crate) broken: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Medium for Forgetful {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.append(bytes)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.disk.cut(len)
    }

    fn force(&self) -> io::Result<()> {
        if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(io::Error::other("a lost page"));
        }
        self.disk.force()
    }
}

#[test]
fn a_failed_sync_is_final_whether_it_was_made_at_once_or_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(JournalConfig { fsync: Fsync::Always, ..config(dir.path()) });
    recorder
        .writer
        .write_through(|disk| Box::new(Forgetful { disk, broken: std::sync::Arc::new(true.into()) }))
        .unwrap();
    let outcome = Outcome::Stepped { decisions: Digest(1), state: Some(Digest(2)) };
    let record = Record { seq: 3, tick: Tick(9), inputs: vec![submit(1)], outcome };
    let error = recorder.writer.append(&record).unwrap_err();
    assert!(!error.may_pass() && error.to_string().contains("only a restart"), "{error}");
    // A device that cannot be synced, so that the thread's own attempt fails.
    let flusher = flusher::Flusher::start(std::sync::Arc::new(fs::File::open("/dev/null").unwrap())).unwrap();
    flusher.mark();
    let failure = (0..1_000).find_map(|_| {
        std::thread::sleep(flusher::INTERVAL / 10);
        flusher.take_failure()
    });
    assert!(failure.is_some(), "it was never told");
}

/// A disk with room for `left` more bytes.
#[derive(Debug)]
pub(crate) struct Quota {
    pub(crate) disk: Box<dyn Medium>,
    pub(crate) left: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Medium for Quota {
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::sync::atomic::Ordering::SeqCst;
        let room = self.left.load(SeqCst).min(bytes.len());
        if room == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.disk.append(&bytes[..room])?;
        self.left.fetch_sub(written, SeqCst);
        Ok(written)
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.disk.cut(len)
    }

    fn force(&self) -> io::Result<()> {
        self.disk.force()
    }
}

#[test]
fn a_full_disk_leaves_whole_records_and_the_writer_goes_on_when_there_is_room() {
    use std::sync::atomic::Ordering::SeqCst;
    let dir = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::booted(config(dir.path()));
    let before = fs::metadata(recorder.writer.path()).unwrap().len();
    let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(60));
    let quota = std::sync::Arc::clone(&left);
    recorder.writer.write_through(|disk| Box::new(Quota { disk, left: quota })).unwrap();
    let outcome = Outcome::Stepped { decisions: Digest(1), state: Some(Digest(2)) };
    let record = Record { seq: 3, tick: Tick(9), inputs: vec![submit(1)], outcome };
    for _ in 0..3 {
        let error = recorder.writer.append(&record).unwrap_err();
        assert!(error.may_pass(), "{error}");
        assert!(error.to_string().starts_with("cannot append to"), "{error}");
        assert_eq!(fs::metadata(recorder.writer.path()).unwrap().len(), before, "nothing of it stays");
    }
    left.store(1 << 20, SeqCst);
    recorder.writer.append(&record).unwrap();
    assert_eq!(read_all(dir.path()).unwrap().0.last(), Some(&record));
}
