//! This machine's memory, and bytes in words.

use std::io::{Error, ErrorKind, Result};

/// Bytes of memory, of which some are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub total: u64,
    /// What new work can have without pushing anything out.
    pub available: u64,
}

/// As the kernel tells it.
pub(crate) fn memory() -> Result<Memory> {
    let info = std::fs::read_to_string("/proc/meminfo")?;
    let bytes = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB"));
        let kib = line.and_then(|kib| kib.parse::<u64>().ok());
        kib.map(|kib| kib << 10)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, format!("/proc/meminfo names no {name}")))
    };
    Ok(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

/// What models and their contexts may take where nobody says: the rest is for what reads and serves them.
pub(crate) fn budget() -> Result<u64> {
    Ok(memory()?.available / 4 * 3)
}

/// The most that this process has had in memory at a time.
pub(crate) fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    line.and_then(|kib| kib.trim().parse::<u64>().ok())
        .map(|kib| kib << 10)
        .ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/self/status names no VmHWM"))
}

/// For people.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_and_bytes_have_units() {
        let Memory { total, available } = memory().unwrap();
        assert!(available > 0 && available <= total);
        let words = [size(1_023), size(1_536), size(5 << 20), size((3 << 30) + (1 << 29))];
        assert_eq!(words, ["1023 B", "1.5 KiB", "5.0 MiB", "3.5 GiB"]);
    }
}
