//! What the server reads and writes: models, journal, port, and the disk and clock behind them.

use super::{Finding, Verdict};
use crate::configuration::{Config, Pool};
use crate::memory::{budget, size};
use orchestrion_api::journal::{JournalError, runs};
use orchestrion_gpu::supply::{self, ModelRef, Options};
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Less than the journal of a busy day.
const FREE_LEAST: u64 = 1 << 30;
/// A forced write slower than this is felt with `journal.fsync = "always"`.
const FSYNC_SLOW: Duration = Duration::from_millis(20);
const FSYNC_TRIES: usize = 5;

pub(super) fn models(config: &Config) -> Vec<Finding> {
    let dir = match config.cache_dir() {
        Ok(dir) => dir,
        Err(failure) => return vec![Finding::wrong("model cache", failure.to_string(), "set `models.cache_dir`")],
    };
    let options = Options::from_env(dir);
    let of_pools = config.pools.iter().map(|pool| model(&pool.model, &format!("pool `{}`", pool.id), &options));
    // The server goes on without those that nothing begins with.
    let loadable = config.models.loadable.iter().map(|row| {
        let finding = model(&row.model, "`models.loadable`", &options);
        Finding { verdict: finding.verdict.min(Verdict::Warning), ..finding }
    });
    of_pools.chain(loadable).chain([room(config, &options)]).collect()
}

/// Whether the models that pools begin with fit beside each other, nearly: weights take what they take in their files.
fn room(config: &Config, options: &Options) -> Finding {
    let size_of = |pool: &Pool| {
        let place = supply::place(&ModelRef::from(pool.model.as_str()), options);
        place
            .bytes
            .or_else(|| fs::metadata(place.path).ok().filter(Metadata::is_file).map(|about| about.len()))
            .unwrap_or(0)
    };
    let needed: u64 = config.pools.iter().map(size_of).sum();
    let found = |bytes| format!("the models of all pools take {} of {}", size(needed), size(bytes));
    let mend = "raise `models.memory_bytes`, or serve fewer or smaller models";
    match config.models.memory_bytes.map_or_else(budget, Ok) {
        Ok(bytes) if needed <= bytes => Finding::ok("room", found(bytes)),
        Ok(bytes) => Finding::wrong("room", found(bytes), mend),
        Err(error) => Finding::wrong("room", error.to_string(), "set `models.memory_bytes`"),
    }
}

fn model(name: &str, whose: &str, options: &Options) -> Finding {
    let asked = ModelRef::from(name);
    let place = supply::place(&asked, options);
    let said = |found: &str| format!("`{name}` of {whose} {found} {}", place.path.display());
    match (fs::metadata(&place.path), asked) {
        (Ok(about), _) if place.bytes.is_some_and(|bytes| bytes != about.len()) => {
            let found = said(&format!("has {} bytes instead of {} at", about.len(), place.bytes.unwrap_or_default()));
            Finding::warning("model", found, "nothing: the server fetches it again")
        }
        (Ok(about), _) if about.is_dir() => Finding::ok("model", said("is the folder")),
        (Ok(_), _) => match magic(&place.path) {
            Ok(magic) if &magic == b"GGUF" => Finding::ok("model", said("is at")),
            Ok(_) => {
                Finding::wrong("model", said("is no GGUF file:"), "name a GGUF file; `orch inspect FILE` says more")
            }
            Err(error) => {
                Finding::wrong("model", said(&format!("cannot be read ({error}) at")), "mend its permissions")
            }
        },
        (Err(error), ModelRef::Path(_)) => {
            Finding::wrong("model", said(&format!("is not there ({}):", error.kind())), "correct its `model`")
        }
        (Err(_), ModelRef::Alias(name)) => absent(&name, place.bytes.unwrap_or(0), &options.cache_dir),
    }
}

fn magic(path: &Path) -> std::io::Result<[u8; 4]> {
    let mut magic = [0; 4];
    match File::open(path)?.read_exact(&mut magic) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(magic),
    }
}

/// A catalog model that is still to be fetched.
fn absent(name: &str, bytes: u64, cache: &Path) -> Finding {
    let found = format!("`{name}` is not in {} yet; the first start fetches {} MB", cache.display(), bytes / 1_000_000);
    match probe(cache) {
        Err(error) => {
            Finding::wrong("model", format!("{found}, and that folder cannot be written: {error}"), writable(cache))
        }
        Ok(Probe { free, .. }) if free < bytes => Finding::wrong(
            "model",
            format!("{found}, and {} are free", size(free)),
            "make room, or set `models.cache_dir`",
        ),
        Ok(_) => Finding::warning("model", found, format!("`orch pull {name}` fetches it now")),
    }
}

pub(super) fn journal(config: &Config) -> Vec<Finding> {
    let dir = match config.journal() {
        Ok(journal) => journal.dir,
        Err(failure) => return vec![Finding::wrong("journal", failure.to_string(), "set `journal.dir`")],
    };
    let mut findings = vec![match runs(&dir) {
        Ok(runs) => {
            let segments: usize = runs.iter().map(|run| run.segments.len()).sum();
            Finding::ok("journal", format!("{} in {segments} segments of {} runs", dir.display(), runs.len()))
        }
        Err(JournalError::Nothing { .. }) => Finding::ok("journal", format!("none yet in {}", dir.display())),
        Err(error) => {
            let mend = format!("read it with the build that wrote it, or move {} away to begin anew", dir.display());
            Finding::wrong("journal", error.to_string(), mend)
        }
    }];
    match probe(&dir) {
        Err(error) => {
            let found = format!("{} cannot be written: {error}", dir.display());
            findings.push(Finding::wrong("disk", found, writable(&dir)));
        }
        Ok(Probe { free, fsync }) => findings.push(disk(&dir, free, fsync)),
    }
    findings.push(clock(&dir));
    findings
}

fn disk(dir: &Path, free: u64, fsync: Duration) -> Finding {
    let found = format!("{} free at {}, a forced write takes {} µs", size(free), dir.display(), fsync.as_micros());
    if free < FREE_LEAST {
        return Finding::warning("disk", found, "make room: a full disk refuses new work");
    }
    match fsync > FSYNC_SLOW {
        true => Finding::warning("disk", found, "keep `journal.fsync = \"interval\"`, or use a faster disk"),
        false => Finding::ok("disk", found),
    }
}

/// A clock behind the journal's last write makes deadlines of the last run look long gone, or far away.
fn clock(dir: &Path) -> Finding {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let newest = files.filter_map(|file| file.metadata().ok()?.modified().ok()).max();
    let now = SystemTime::now();
    match newest.and_then(|newest| newest.duration_since(now).ok()) {
        Some(ahead) if ahead > Duration::from_secs(2) => {
            let found = format!("{} s behind the journal's last write", ahead.as_secs());
            Finding::warning("clock", found, "set the clock, for instance by `timedatectl set-ntp true`")
        }
        _ => Finding::ok("clock", "not behind the journal"),
    }
}

pub(super) fn port(bind: SocketAddr) -> Finding {
    match TcpListener::bind(bind) {
        Ok(_) => Finding::ok("port", format!("{bind} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => match answers(bind) {
            Some(version) => Finding::ok("port", format!("{bind} is in use by Orchestrion {version}")),
            None => Finding::wrong(
                "port",
                format!("{bind} is in use by another program"),
                "end it, or choose another `--bind`",
            ),
        },
        Err(error) => {
            Finding::wrong("port", format!("{bind}: {error}"), "choose another `--bind`, such as 127.0.0.1:8080")
        }
    }
}

/// The version of the server that listens there, if it is one of ours.
fn answers(bind: SocketAddr) -> Option<String> {
    let patience = Some(Duration::from_secs(1));
    let agent = ureq::Agent::config_builder().proxy(None).timeout_global(patience).build().new_agent();
    let text = agent.get(format!("http://{bind}/version")).call().ok()?.body_mut().read_to_string().ok()?;
    let about: serde_json::Value = serde_json::from_str(&text).ok()?;
    (about["name"] == "orchestrion").then(|| about["version"].as_str().unwrap_or("?").to_owned())
}

/// What a folder, or the nearest one above it that is there, has to give.
struct Probe {
    free: u64,
    /// Median of some forced writes.
    fsync: Duration,
}

fn probe(dir: &Path) -> std::io::Result<Probe> {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let about = rustix::fs::statvfs(there)?;
    let path: PathBuf = there.join(format!(".orch-doctor-{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).open(&path)?;
    let mut took = Vec::new();
    let tried = (0..FSYNC_TRIES).try_for_each(|_| {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        took.push(began.elapsed());
        Ok(())
    });
    fs::remove_file(&path)?;
    tried.map(|()| {
        took.sort_unstable();
        Probe { free: about.f_bavail.saturating_mul(about.f_frsize), fsync: took[FSYNC_TRIES / 2] }
    })
}

fn writable(dir: &Path) -> String {
    format!("make {} writable for the user that runs the server", dir.display())
}
