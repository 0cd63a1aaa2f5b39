//! What a boot reads: segments, frames, records, ledgers, snapshots, the spool. A valid folder with something wrong in
//! one file: bytes as a disk or a crash changes them, or a body changed and sealed again with a right CRC, chain and
//! digest, which only who decodes it can refuse.
//!
//! A broken promise is a record that is read and was never written.

use super::Target;
use orchestrion_api::journal::{
    Entry, Fsync, JournalConfig, JournalError, Origin, Outcome, Record, RunReader, Writer, runs,
};
use orchestrion_api::port::Dropped;
use orchestrion_api::spool::{Card, Finished, Form, Line, Part, Wanted, load};
use orchestrion_api::token_log::Answer;
use orchestrion_scenarios::script::Script;
use orchestrion_scenarios::stage::{Plain, Run, run};
use orchestrion_scenarios::storm::draw::Draw;
use orchestrion_scenarios::storm::plan::plan;
use orchestrion_systems::Simulation;
use orchestrion_world::id::TaskId;
use orchestrion_world::ledger::{Ledger, full_digest};
use orchestrion_world::payload::Sampling;
use orchestrion_world::protocol::{CancelReason, Class, Outcome as End};
use orchestrion_world::time::Ticks;
use orchestrion_world::units::Permille;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes before a frame's body, and those of them that CRC and chain cover: `api/src/journal/mod.rs`.
const HEAD: usize = 52;
const COVERED: usize = 16;
/// The same of a spool: `api/src/spool/frame.rs`.
const MAGIC: &[u8] = b"ORSPOOL4";
const LINE_HEAD: usize = 12;
/// Storms to begin from, and the steps of each that a segment takes.
const STORMS: u64 = 8;
const STEPS: usize = 12;
const FILES: [&str; 4] = ["00000001.orj", "00000002.orj", "00000002.ors", "spool"];
const SPOOL: usize = 3;

/// A valid journal: its files, the state that it begins from, and what stands in it.
struct Journal {
    dir: PathBuf,
    files: Vec<Vec<u8>>,
    start: Ledger,
    written: Vec<Record>,
}

/// The folders, gone with whoever reads them.
struct Journals(PathBuf, Vec<Journal>);

impl Drop for Journals {
    fn drop(&mut self) {
        // What stays of a temporary folder is the system's to clear.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn target(seed: u64) -> Result<Target, Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("orch-fuzz-{}", std::process::id()));
    let mut all = Journals(dir, vec![]);
    for n in 0..STORMS {
        let journal = valid(&all.0.join(n.to_string()), seed.wrapping_add(n))?;
        all.1.extend(journal);
    }
    let all = Arc::new(all);
    let journals = Arc::clone(&all);
    Ok(Target {
        make: Box::new(move |draw| Ok(broken(&journals.1, draw))),
        read: Box::new(move |input| {
            let [journal, file, sealed, bytes @ ..] = input else { return Err("no input".to_owned()) };
            let (journal, name) = (&all.1[usize::from(*journal)], FILES[usize::from(*file)]);
            let write = |bytes: &[u8]| fs::write(journal.dir.join(name), bytes).map_err(|error| error.to_string());
            write(bytes)?;
            let end = if usize::from(*file) == SPOOL { spool(&journal.dir) } else { journal.read(*sealed == 1) };
            write(&journal.files[usize::from(*file)])?;
            end
        }),
    })
}

/// Two segments with the snapshot of the second, from the middle of a storm on, and a spool; none where little
/// happens in the storm.
fn valid(dir: &Path, seed: u64) -> Result<Option<Journal>, Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    let script: Script = plan(seed, 2_000).text.parse()?;
    let Run { steps, .. } = run(&script, &mut Plain)?;
    let middle = steps.len() / 3;
    if middle <= STEPS {
        return Ok(None);
    }
    let mut simulation = Simulation::new(script.seed);
    for (tick, inputs, ..) in &steps[..middle] {
        simulation.step(*tick, inputs.clone());
    }
    let start = simulation.ledger();
    let config = JournalConfig {
        dir: dir.to_path_buf(),
        segment_bytes: 64 << 20,
        segment_records: 10_000,
        fsync: Fsync::Never,
        retain_bytes: None,
        retain_age: None,
    };
    let mut writer = Writer::open(config, "fuzz", start.clone())?;
    let (mut written, mut between) = (vec![], start.clone());
    for (n, (tick, inputs, step, state)) in steps[middle..].iter().take(2 * STEPS).enumerate() {
        if n == STEPS {
            between = simulation.ledger();
            writer.rotate(full_digest(&between))?;
        }
        simulation.step(*tick, inputs.clone());
        let outcome = Outcome::Stepped { decisions: step.decisions, state: Some(*state) };
        let record = Record { seq: writer.next_seq(), tick: *tick, inputs: inputs.clone(), outcome };
        writer.append(&record)?;
        written.push(record);
    }
    drop(writer);
    let second = fs::read(dir.join(FILES[1]))?;
    let header = frames(&second).swap_remove(0);
    let origin: Origin = postcard::from_bytes(&header[HEAD..])?;
    fs::write(dir.join(FILES[2]), begun(&header, Origin { digest: full_digest(&between), ..origin }, &between)?)?;
    fs::write(dir.join(FILES[SPOOL]), lines()?)?;
    let files = FILES.iter().map(|name| fs::read(dir.join(name))).collect::<Result<_, _>>()?;
    Ok(Some(Journal { dir: dir.to_path_buf(), files, start, written }))
}

/// A header with a state.
fn begun(header: &[u8], origin: Origin, ledger: &Ledger) -> Result<Vec<u8>, postcard::Error> {
    let mut frame = header[..HEAD].to_vec();
    frame.extend(postcard::to_stdvec(&origin)?);
    frame.extend(postcard::to_stdvec(ledger)?);
    seal(&mut frame, &[0; 32]);
    Ok(frame)
}

/// A spool of two lines.
fn lines() -> Result<Vec<u8>, postcard::Error> {
    let card = Card {
        task: TaskId(7),
        body: [1; 32],
        class: Class::Batch,
        fingerprint: "tiny".to_owned(),
        seed: 1,
        prompt_tokens: 3,
        max_tokens: 9,
        logprobs: false,
        dropped: Dropped::default(),
        part: Some(Part {
            of: TaskId(7),
            index: 0,
            count: 2,
            model: "tiny".to_owned(),
            form: Form::Rerank { top_n: 3, raw_scores: true },
            document: Some("{\"text\":\"a\"}".to_owned()),
        }),
        position: 0,
        predicted_start: Ticks(5),
    };
    let sampling = Sampling {
        seed: 1,
        temperature: Permille(700),
        top_k: 0,
        top_p: Permille(1000),
        min_p: Permille(0),
        repetition_penalty: Permille(1000),
    };
    let (prompt, stop) = (vec![5, 6, 7], vec!["end".into()]);
    let wanted = Wanted { card: card.clone(), prompt, stop, sampling, bias: vec![], logprobs: None, grammar: None };
    let answer = Answer { ends: vec![2, 5], text: "hello".to_owned(), vector: [7, 8].into(), ..Answer::default() };
    let finished = Finished {
        card,
        worker: None,
        outcome: End::Cancelled { reason: CancelReason::Client, tokens_out: 2 },
        broken: false,
        cut: true,
        answer: Arc::new(answer),
        wall_ms: 1_700_000_000_000,
    };
    let mut spool = MAGIC.to_vec();
    for line in [Line::Wanted(Box::new(wanted)), Line::Finished(Box::new(finished))] {
        spool.extend(line_of(&postcard::to_stdvec(&line)?));
    }
    Ok(spool)
}

fn line_of(body: &[u8]) -> Vec<u8> {
    let mut line = b"ORSL".to_vec();
    line.extend((body.len() as u32).to_le_bytes());
    let crc = crc(&[&line, body]);
    line.extend(crc.to_le_bytes());
    line.extend(body);
    line
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize()
}

/// Gives a frame its length, its CRC and its chain, which is returned.
fn seal(frame: &mut [u8], previous: &[u8; 32]) -> [u8; 32] {
    let length = (frame.len() - HEAD) as u32;
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    let crc = crc(&[&frame[..COVERED], &frame[HEAD..]]);
    frame[16..20].copy_from_slice(&crc.to_le_bytes());
    let mut chain = blake3::Hasher::new();
    chain.update(previous).update(&frame[..COVERED]).update(&frame[HEAD..]);
    let chain = *chain.finalize().as_bytes();
    frame[20..HEAD].copy_from_slice(&chain);
    chain
}

/// The frames of a valid segment.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = vec![];
    while let Some(length) = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes) {
        let (frame, rest) = bytes.split_at(HEAD + length as usize);
        frames.push(frame.to_vec());
        bytes = rest;
    }
    frames
}

/// Which journal, which file of it, whether it was sealed again, and its bytes.
fn broken(journals: &[Journal], draw: &mut Draw) -> Vec<u8> {
    let (journal, file) = (draw.index(journals.len()), draw.index(FILES.len()));
    let (valid, sealed) = (&journals[journal].files[file], draw.chance(50));
    let mut bytes = match sealed {
        false => {
            let mut bytes = valid.clone();
            (0..draw.within(1, 3)).for_each(|_| damage(&mut bytes, draw));
            bytes
        }
        true if file == SPOOL => spool_again(valid, draw),
        true => segment_again(valid, draw),
    };
    bytes.splice(0..0, [journal as u8, file as u8, u8::from(sealed)]);
    bytes
}

fn spool_again(spool: &[u8], draw: &mut Draw) -> Vec<u8> {
    let (mut again, mut rest) = (MAGIC.to_vec(), &spool[MAGIC.len()..]);
    while let Some(length) = rest.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes) {
        let (line, further) = rest.split_at(LINE_HEAD + length as usize);
        let mut body = line[LINE_HEAD..].to_vec();
        change(&mut body, draw);
        again.extend(line_of(&body));
        rest = further;
    }
    again
}

/// Changes the body of one frame and seals all from there on. A state that can be decoded gets its digest.
fn segment_again(segment: &[u8], draw: &mut Draw) -> Vec<u8> {
    let mut frames = frames(segment);
    // The header as often as all records together.
    let chosen = if draw.chance(50) { 0 } else { draw.index(frames.len()) };
    let mut body = frames[chosen].split_off(HEAD);
    let state = postcard::take_from_bytes::<Origin>(&body).ok().filter(|(_, rest)| chosen == 0 && !rest.is_empty());
    match state.map(|(origin, rest)| (origin, rest.to_vec())) {
        Some((origin, mut rest)) if draw.chance(80) => {
            change(&mut rest, draw);
            let ledger = postcard::from_bytes::<Ledger>(&rest);
            let digest = ledger.map_or(origin.digest, |ledger| full_digest(&ledger));
            body = postcard::to_stdvec(&Origin { digest, ..origin }).unwrap_or_default();
            body.extend(rest);
        }
        Some(_) | None => change(&mut body, draw),
    }
    frames[chosen].extend(body);
    let mut chain = [0; 32];
    let mut bytes = vec![];
    for frame in &mut frames {
        chain = seal(frame, &chain);
        bytes.extend(&*frame);
    }
    bytes
}

/// Other values in what postcard reads.
fn change(body: &mut Vec<u8>, draw: &mut Draw) {
    for _ in 0..draw.within(1, 3) {
        let at = draw.index(body.len());
        match draw.below(6) {
            _ if body.is_empty() => body.push(draw.below(256) as u8),
            0 => body[at] ^= 1 << draw.below(8),
            1 => body[at] = draw.of(&[0, 1, 2, 127, 128, 255]),
            2 => drop(body.remove(at)),
            3 => body.insert(at, draw.below(256) as u8),
            // The longest number that is one: a length of everything.
            4 => drop(body.splice(at..=at, [255, 255, 255, 255, 255, 255, 255, 255, 255, 1])),
            _ => drop(body.splice(at..at, [255; 9])),
        }
    }
}

/// What a disk or a crash does.
fn damage(bytes: &mut Vec<u8>, draw: &mut Draw) {
    let at = draw.index(bytes.len());
    let end = (at + 1 + draw.index(64)).min(bytes.len());
    match draw.below(6) {
        _ if bytes.is_empty() => bytes.push(draw.below(256) as u8),
        0 => bytes[at] ^= 1 << draw.below(8),
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => bytes[at..end].fill(0),
        4 => bytes[at..end].fill(255),
        _ => {
            let piece = bytes[at..end].to_vec();
            let to = draw.index(bytes.len());
            bytes.splice(to..to, piece);
        }
    }
}

fn spool(dir: &Path) -> Result<&'static str, String> {
    Ok(if load(dir).is_ok() { "spool read" } else { "spool refused" })
}

impl Journal {
    /// Reads the folder as a boot does.
    fn read(&self, sealed: bool) -> Result<&'static str, String> {
        match self.follow(sealed) {
            Ok(broken) => broken,
            Err(_) => Ok("refused"),
        }
    }

    fn follow(&self, sealed: bool) -> Result<Result<&'static str, String>, JournalError> {
        let mut end = "read";
        for run in &runs(&self.dir)? {
            let mut reader = RunReader::new(&run.segments, None);
            while let Some(entry) = reader.read()? {
                match entry {
                    Entry::Segment(header) => {
                        // One that nobody wrote, though its digest is right, may be no state of a world.
                        let other = header.ledger.filter(|ledger| sealed && *ledger != self.start);
                        match other.map(|ledger| Simulation::restore(&ledger).is_ok()) {
                            Some(true) => end = "read, from another state",
                            Some(false) => return Ok(Ok("no state of a world")),
                            None => {}
                        }
                    }
                    Entry::Step(record) => {
                        let as_written = self.written.get(record.seq as usize - 1) == Some(&record);
                        if !sealed && !as_written {
                            return Ok(Err(format!("a record that nobody wrote: {record:?}")));
                        }
                    }
                }
            }
        }
        Ok(Ok(end))
    }
}
