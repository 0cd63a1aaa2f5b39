//! What the machine is: memory, processor, graphics driver, limits.

use super::Finding;
use crate::memory::{Memory, size};
use orchestrion_gpu::engine::Level;
use std::fs;
use std::path::Path;

/// Free memory under which even the demo model would push others out.
const MEMORY_LEAST: u64 = 1 << 30;
/// Connections of the default limit, and files beside them.
const OPEN_FILES_LEAST: u64 = 4_096 + 256;

pub(super) fn memory() -> Finding {
    match crate::memory::memory() {
        Err(error) => Finding::wrong("memory", error.to_string(), "mount /proc; the server sizes itself by it"),
        Ok(Memory { total, available }) => {
            let found = format!("{} available of {}", size(available), size(total));
            match available < MEMORY_LEAST {
                true => Finding::warning("memory", found, "end what else runs, or serve a smaller model"),
                false => Finding::ok("memory", found),
            }
        }
    }
}

pub(super) fn processor() -> Finding {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    match Level::detect() {
        Level::Scalar => {
            let found =
                format!("{threads} threads, without AVX2, FMA and F16C: the scalar kernels, some ten times slower");
            Finding::warning("processor", found, "use an x86-64 processor of 2013 or later; the tokens are the same")
        }
        level => Finding::ok("processor", format!("{threads} threads, {level} kernels")),
    }
}

/// This build computes on the host alone; a driver is told so that nobody wonders.
pub(super) fn gpu() -> Finding {
    let version = fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let driver = version.lines().next().map(|line| line.trim_start_matches("NVRM version:").trim());
    match driver {
        None if Path::new("/dev/nvidiactl").exists() => {
            Finding::ok("gpu", "an NVIDIA device without a readable driver; this version computes on the host")
        }
        None => Finding::ok("gpu", "no NVIDIA driver; this version computes on the host"),
        Some(driver) => Finding::ok("gpu", format!("{driver}; not used: this version computes on the host")),
    }
}

pub(super) fn open_files() -> Finding {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    match soft {
        Some("unlimited") => Finding::ok("open files", "unlimited"),
        Some(soft) => match soft.parse::<u64>() {
            Ok(files) if files < OPEN_FILES_LEAST => {
                let mend = format!("`ulimit -n {OPEN_FILES_LEAST}`, or lower `server.limits.connections`");
                Finding::warning("open files", format!("at most {files}"), mend)
            }
            _ => Finding::ok("open files", format!("at most {soft}")),
        },
        None => Finding::ok("open files", "no limit is told here"),
    }
}
