//! Stable names for everything the core decides about.
//!
//! Decisions, snapshots, journals, logs and the API speak these ids and only these: bevy's `Entity` is
//! an address inside one world, it differs between a run and its replay, and it never leaves the core.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::xxh3_64;

/// A task: the UUID its client knows it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u128);

impl fmt::Display for TaskId {
    /// The hyphenated form of RFC 9562.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (v >> 96) as u32,
            (v >> 80) as u16,
            (v >> 64) as u16,
            (v >> 48) as u16,
            v & 0xffff_ffff_ffff
        )
    }
}

/// A text that is no UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task's id is a UUID, such as 0192f0c1-7a3e-7c5d-8d4a-2f6b1c9e0a11")]
pub struct NoTaskId;

impl FromStr for TaskId {
    type Err = NoTaskId;

    /// The hyphenated form, in either case.
    fn from_str(text: &str) -> Result<TaskId, NoTaskId> {
        let hyphens = text.char_indices().filter(|(_, c)| *c == '-').map(|(at, _)| at);
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        if text.len() != 36 || digits.len() != 32 || !hyphens.eq([8, 13, 18, 23]) {
            return Err(NoTaskId);
        }
        u128::from_str_radix(&digits, 16).map(TaskId).map_err(|_| NoTaskId)
    }
}

/// People and JSON see the UUID, which no number of theirs could hold; journals its 128 bits.
impl Serialize for TaskId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<TaskId, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(D::Error::custom)
        } else {
            u128::deserialize(d).map(TaskId)
        }
    }
}

/// A worker: one engine process or thread that holds one model on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

/// A device: one GPU, or the host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub u32);

/// A pool, by its place in `Rules::pools`, which is sorted by name: the order of ids is the
/// lexicographic order of names that the last tie-break of placement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId(pub u16);

/// A model, by its place in `Rules::models`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ModelId(pub u16);

/// Whose work it is: a digest of the tenant's name, so that it stays when the configuration changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u64);

impl TenantId {
    /// Everybody who is not named.
    pub const DEFAULT: TenantId = TenantId(0);
    /// What the rules call it.
    pub const DEFAULT_NAME: &str = "default";

    /// The tenant of this name.
    pub fn of(name: &str) -> TenantId {
        if name == Self::DEFAULT_NAME { Self::DEFAULT } else { TenantId(xxh3_64(name.as_bytes()).max(1)) }
    }
}

/// A session: a digest of its tenant and of what the client calls it, made at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u128);

/// An order to load or free a model: the how-manieth of its worker. Its answer names it, so that an answer that
/// comes late or again is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardOrder(pub u32);

/// A job that an operator began; made at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// People and JSON see 16 hexadecimal digits; journals the number.
impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(&format_args!("{:016x}", self.0)) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<TenantId, D::Error> {
        if !d.is_human_readable() {
            return u64::deserialize(d).map(TenantId);
        }
        u64::from_str_radix(&String::deserialize(d)?, 16).map(TenantId).map_err(D::Error::custom)
    }
}

/// People and JSON see 32 hexadecimal digits, since JSON has no number that wide; journals the number.
impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(&format_args!("{:032x}", self.0)) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SessionId, D::Error> {
        if !d.is_human_readable() {
            return u128::deserialize(d).map(SessionId);
        }
        u128::from_str_radix(&String::deserialize(d)?, 16).map(SessionId).map_err(D::Error::custom)
    }
}

/// Which life of a worker a message is about. A worker that comes back announces a higher one, and
/// what an older life still says is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

/// Which try at a task a message is about. At most one is live, and none ever has the name of another: the name
/// of a task that ended may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt {
    /// Which admission the task was.
    pub ordinal: u64,
    /// From 1 for each task.
    pub number: u32,
}

impl Attempt {
    /// A try of the task that was admitted as this one.
    pub const fn of(ordinal: u64, number: u32) -> Attempt {
        Attempt { ordinal, number }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_id_prints_and_reads_as_a_uuid() {
        let id = TaskId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!("01234567-89AB-cdef-0123-456789abcdef".parse(), Ok(id));
        for no in [
            "",
            "0123456789abcdef0123456789abcdef",
            "0123456-789ab-cdef-0123-456789abcdef",
            "01234567-89ab-cdef-0123-456789abcdeg",
        ] {
            assert_eq!(no.parse::<TaskId>(), Err(NoTaskId), "{no}");
        }
    }

    #[test]
    fn a_task_id_is_a_number_in_a_journal() {
        let id = TaskId(u128::MAX);
        let bytes = postcard::to_stdvec(&id).unwrap();
        assert_eq!((bytes.len(), postcard::from_bytes(&bytes)), (19, Ok(id)), "a varint of 128 bits");
    }
}
