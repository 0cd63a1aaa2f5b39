//! `[[faults]]`: what breaks when.

use super::cluster::Resolved;
use super::{FileError, MS_MAX, Reading};
use crate::simulate::Fault;
use orchestrion_world::id::WorkerId;
use orchestrion_world::protocol::ShardFault;
use orchestrion_world::time::{Tick, Ticks};
use serde::Deserialize;
use toml::Spanned;

/// At `at_ms`, and again `every_ms` so many `times`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub kind: Kind,
    pub at_ms: u64,
    #[serde(default = "super::one")]
    pub times: u64,
    pub every_ms: Option<u64>,
    /// Whom it hits: a pool's first so many workers.
    pub pool: Option<Spanned<String>>,
    pub workers: Option<usize>,
    /// How long it lasts; without it, to the end, but for a crash: a moment.
    pub for_ms: Option<u64>,
    /// Of `slow`: thousandths of its pace.
    pub pace_permille: Option<u32>,
    /// Of `clock-jump`: forward, or back where negative.
    pub by_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The process ends and says so, and so does each new one for `for_ms`.
    Crash,
    /// The worker finds its weights damaged.
    CorruptShard,
    /// Its weights are damaged, and nobody knows until they are verified.
    BitFlip,
    /// What it is told to load comes to nothing, or arrives damaged.
    FailedLoad,
    CorruptLoad,
    /// It does nothing.
    Hang,
    /// It runs at `pace_permille`.
    Slow,
    /// It works, and its beats are lost.
    LostBeats,
    /// The server's clock jumps by `by_ms`.
    ClockJump,
}

/// With `times`, a line may stand for many.
const FAULTS_MAX: usize = 100_000;

pub(super) fn resolve(
    read: &Reading<'_>,
    entries: &[Entry],
    cluster: &Resolved,
) -> Result<Vec<(Tick, Fault)>, FileError> {
    let mut faults = vec![];
    for (n, entry) in entries.iter().enumerate() {
        let key = |key: &str| format!("faults[{n}].{key}");
        let missing = |name: &str| FileError::Key { key: key(name), problem: "is missing here".to_owned() };
        read.within(&key("at_ms"), entry.at_ms, 0, MS_MAX)?;
        read.within(&key("for_ms"), entry.for_ms.unwrap_or(1), 1, MS_MAX)?;
        read.within(&key("pace_permille"), entry.pace_permille.unwrap_or(1).into(), 1, 1_000_000)?;
        read.within(&key("by_ms"), entry.by_ms.unwrap_or(0).unsigned_abs(), 0, MS_MAX)?;
        read.within(&key("times"), entry.times, 1, FAULTS_MAX as u64)?;
        let every = match (entry.times, entry.every_ms) {
            (1, _) => 0,
            (_, every) => every.ok_or_else(|| missing("every_ms"))?,
        };
        read.within(&key("every_ms"), every, 0, MS_MAX)?;
        let hit = whom(read, entry, cluster)?;
        read.within(
            "faults in all",
            (faults.len() as u64) + entry.times * hit.len().max(1) as u64,
            0,
            FAULTS_MAX as u64,
        )?;
        for time in 0..entry.times {
            let at = Tick(entry.at_ms + time * every);
            if entry.kind == Kind::ClockJump {
                faults.push((at, Fault::Jump(entry.by_ms.ok_or_else(|| missing("by_ms"))?)));
                continue;
            }
            for worker in &hit {
                faults.push((at, fault(entry, *worker).ok_or_else(|| missing("pace_permille"))?));
                if let (Kind::Slow, Some(length)) = (entry.kind, entry.for_ms) {
                    faults.push((at + Ticks(length), Fault::Pace(*worker, 1_000)));
                }
            }
        }
    }
    Ok(faults)
}

/// What happens to a worker; `None` where it lacks its pace.
fn fault(entry: &Entry, worker: WorkerId) -> Option<Fault> {
    let length = entry.for_ms.map(Ticks);
    let to_the_end = length.unwrap_or(Ticks(MS_MAX * 2));
    Some(match entry.kind {
        Kind::Crash => Fault::Crash(worker, length.unwrap_or(Ticks(0))),
        Kind::CorruptShard => Fault::Corrupt(worker),
        Kind::BitFlip => Fault::Flip(worker),
        Kind::FailedLoad => Fault::Load(worker, ShardFault::Transient, to_the_end),
        Kind::CorruptLoad => Fault::Load(worker, ShardFault::Corrupt, to_the_end),
        Kind::Hang => Fault::Hang(worker, to_the_end),
        Kind::LostBeats => Fault::Mute(worker, to_the_end),
        Kind::Slow => Fault::Pace(worker, entry.pace_permille?),
        Kind::ClockJump => Fault::Jump(entry.by_ms?),
    })
}

fn whom(read: &Reading<'_>, entry: &Entry, cluster: &Resolved) -> Result<Vec<WorkerId>, FileError> {
    if entry.kind == Kind::ClockJump {
        return Ok(vec![]);
    }
    let ids = cluster.workers.iter().map(|(id, _)| *id).zip(&cluster.pools);
    let of: Vec<WorkerId> = match &entry.pool {
        Some(pool) => {
            let mut known: Vec<&str> = cluster.pools.iter().map(String::as_str).collect();
            known.dedup();
            let pool = known[read.find("pool", pool, &known)?];
            ids.filter(|(_, of)| of.as_str() == pool).map(|(id, _)| id).collect()
        }
        None => ids.map(|(id, _)| id).collect(),
    };
    Ok(of[..entry.workers.unwrap_or(1).min(of.len())].to_vec())
}
