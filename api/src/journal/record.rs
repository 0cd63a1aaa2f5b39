//! Frames: how a header or a record stands in the file, and what can be wrong with one.
//!
//! Pure functions over bytes; the layout is on the page of [`super`]. The CRC finds what a disk or a
//! crash did, cheaply and for each frame alone; the chain finds what was removed, exchanged or edited.

use orchestrion_world::protocol::Input;
use orchestrion_world::time::Tick;
use orchestrion_world::units::Digest;
use serde::{Deserialize, Serialize};

/// Bytes before a frame's body.
pub(crate) const HEAD: usize = 52;
/// The part of the head that CRC and chain cover.
const COVERED: usize = 16;
/// A ledger of a million tasks fits; a length beyond it is a damaged length.
pub(crate) const HEADER_MAX: usize = 256 << 20;
/// A batch of inputs is far smaller; a length beyond it is a damaged length.
pub(crate) const RECORD_MAX: usize = 16 << 20;

/// The records whose number this divides hold the state's digest. Decisions are digested in each, so that a
/// replay names the step where they differ; a difference that decides nothing yet is found this much later at most.
pub const STATE_EVERY: u64 = 64;

/// A link of the hash chain.
pub type Chain = [u8; 32];

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Header,
    Record,
}

impl Kind {
    pub(crate) fn marker(self) -> [u8; 4] {
        match self {
            Kind::Header => *b"ORJH",
            Kind::Record => *b"ORJR",
        }
    }

    fn max(self) -> usize {
        match self {
            Kind::Header => HEADER_MAX,
            Kind::Record => RECORD_MAX,
        }
    }
}

/// One step, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Counts the steps of a run from 1.
    pub seq: u64,
    pub tick: Tick,
    pub inputs: Vec<Input>,
    pub outcome: Outcome,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Digests of the effects and, in every [`STATE_EVERY`]th record, of the state after it.
    Stepped { decisions: Digest, state: Option<Digest> },
    /// The step broke an invariant and the process ended. Kept, because its inputs show the fault again.
    Broke { audit: String },
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the file ends within the frame ({have} bytes of {need})")]
    Short { have: u64, need: u64 },
    #[error("no frame begins here")]
    Marker,
    #[error("a length of {len} bytes exceeds the format's {max}")]
    Length { len: u64, max: u64 },
    #[error("its CRC is {found:08x}, its bytes have {computed:08x}")]
    Crc { found: u32, computed: u32 },
    #[error("its number is {found} where {expected} is due")]
    Number { found: u64, expected: u64 },
    #[error("its hash does not continue the chain")]
    Chain,
    #[error("the ledger it starts from does not have the digest it states")]
    Ledger,
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    covered: [u8; COVERED],
    pub(crate) len: usize,
    pub(crate) number: u64,
    crc: u32,
    chain: Chain,
}

impl Head {
    /// Reads a head; nothing may be allocated by its length before `max` of its kind was checked, which
    /// this does.
    pub(crate) fn read(bytes: &[u8; HEAD], kind: Kind) -> Result<Head, Flaw> {
        let (marker, rest) = take::<4>(bytes);
        let (len, rest) = take::<4>(rest);
        let (number, rest) = take::<8>(rest);
        let (crc, rest) = take::<4>(rest);
        let (chain, _) = take::<32>(rest);
        if marker != kind.marker() {
            return Err(Flaw::Marker);
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > kind.max() {
            return Err(Flaw::Length { len: len as u64, max: kind.max() as u64 });
        }
        let (covered, _) = take::<COVERED>(bytes);
        Ok(Head { covered, len, number: u64::from_le_bytes(number), crc: u32::from_le_bytes(crc), chain })
    }

    /// Whether the bytes are the ones that were written.
    pub(crate) fn check_crc(&self, body: &[u8]) -> Result<(), Flaw> {
        let computed = crc(&self.covered, body);
        if computed == self.crc { Ok(()) } else { Err(Flaw::Crc { found: self.crc, computed }) }
    }

    /// Whether the frame follows the one whose chain is `previous`; its own chain.
    pub(crate) fn check_chain(&self, body: &[u8], previous: &Chain) -> Result<Chain, Flaw> {
        if link(previous, &self.covered, body) == self.chain { Ok(self.chain) } else { Err(Flaw::Chain) }
    }
}

/// Encodes a frame whose body `write` appends into `frame` (cleared first, its allocation reused).
/// Returns its chain, or the body's length where that exceeds the format.
pub(crate) fn encode(
    frame: &mut Vec<u8>,
    kind: Kind,
    number: u64,
    previous: &Chain,
    write: impl FnOnce(&mut Vec<u8>),
) -> Result<Chain, usize> {
    frame.clear();
    frame.resize(HEAD, 0);
    write(frame);
    let len = frame.len() - HEAD;
    if len > kind.max() {
        return Err(len);
    }
    let (head, body) = frame.split_at_mut(HEAD);
    head[..4].copy_from_slice(&kind.marker());
    head[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    let (covered, _) = take::<COVERED>(head);
    head[16..20].copy_from_slice(&crc(&covered, body).to_le_bytes());
    let chain = link(previous, &covered, body);
    head[20..].copy_from_slice(&chain);
    Ok(chain)
}

/// Appends postcard of `value`.
#[expect(clippy::expect_used, reason = "postcard fails on a full buffer only, and a Vec grows")]
pub(crate) fn postcard_into(out: &mut Vec<u8>, value: &impl Serialize) {
    *out = postcard::to_extend(value, std::mem::take(out)).expect("plain data serialises");
}

impl Record {
    pub(crate) fn encode(&self, frame: &mut Vec<u8>, previous: &Chain) -> Result<Chain, usize> {
        let Record { seq, tick, inputs, outcome } = self;
        encode(frame, Kind::Record, *seq, previous, |out| postcard_into(out, &(tick, inputs, outcome)))
    }

    pub(crate) fn decode(seq: u64, body: &[u8]) -> Result<Record, postcard::Error> {
        let ((tick, inputs, outcome), rest) = postcard::take_from_bytes(body)?;
        if rest.is_empty() { Ok(Record { seq, tick, inputs, outcome }) } else { Err(postcard::Error::SerdeDeCustom) }
    }
}

fn crc(covered: &[u8; COVERED], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(covered);
    hasher.update(body);
    hasher.finalize()
}

fn link(previous: &Chain, covered: &[u8; COVERED], body: &[u8]) -> Chain {
    *blake3::Hasher::new().update(previous).update(covered).update(body).finalize().as_bytes()
}

/// The first `N` bytes and the rest; zeros where there are fewer, which no caller has.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    match bytes.split_first_chunk::<N>() {
        Some((first, rest)) => (*first, rest),
        None => ([0; N], &[]),
    }
}
