//! The cache's side of a download: one at a time, whole or not at all.
//!
//! A lock file for each model makes concurrent starts wait; it is the operating system's lock, so that a
//! killed process leaves none behind. Bytes go to a `.part` file, hashed on the way, which takes its name in
//! the cache only when its digest is right and it is on the disk. What a killed download left is removed by
//! the next one.

use super::{Failure, Problem, SupplyError};
use orchestrion_world::units::Sha256;
use sha2::Digest as _;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// The right to fetch one model into one cache.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Released when it is closed.
    _file: File,
    part: PathBuf,
    folder: PathBuf,
}

impl Lock {
    /// Takes the lock, making the cache if need be; `waiting` is called if somebody else has it.
    pub(crate) fn take(cache: &Path, digest: Sha256, waiting: impl FnOnce()) -> Result<Lock, SupplyError> {
        let broken = |path: &Path, kind| match kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => SupplyError::NoSpace { path: path.into(), needed: 0 },
            kind => SupplyError::Cache { path: path.into(), kind },
        };
        fs::create_dir_all(cache).map_err(|e| broken(cache, e.kind()))?;
        let path = cache.join(format!("{digest}.lock"));
        let options = File::options().create(true).truncate(false).write(true).open(&path);
        let file = options.map_err(|e| broken(&path, e.kind()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(|e| broken(&path, e.kind()))?;
            }
            Err(TryLockError::Error(e)) => return Err(broken(&path, e.kind())),
        }
        let lock = Lock {
            _file: file,
            part: cache.join(format!("{digest}.part")),
            folder: cache.join(format!("{digest}.wheel")),
        };
        lock.clean();
        Ok(lock)
    }

    /// A folder for a source that needs one; empty now, and gone after [`Lock::clean`].
    pub(crate) fn folder(&self) -> Result<&Path, Failure> {
        self.clean_folder();
        fs::create_dir(&self.folder).map_err(|e| Failure::Disk(e.kind()))?;
        Ok(&self.folder)
    }

    pub(crate) fn clean_folder(&self) {
        let _ = fs::remove_dir_all(&self.folder); // most often there is none
    }

    fn clean(&self) {
        let _ = fs::remove_file(&self.part);
        self.clean_folder();
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.clean();
    }
}

/// A file on its way into the cache; removed with its [`Lock`] if it does not arrive.
pub(crate) struct Partial<'l> {
    lock: &'l Lock,
    file: File,
    hasher: sha2::Sha256,
    written: u64,
    expected: u64,
}

impl<'l> Partial<'l> {
    /// Starts anew; `expected` is the length in bytes.
    pub(crate) fn create(lock: &'l Lock, expected: u64) -> Result<Partial<'l>, Failure> {
        let file = File::create(&lock.part).map_err(|e| Failure::Disk(e.kind()))?;
        Ok(Partial { lock, file, hasher: sha2::Sha256::new(), written: 0, expected })
    }

    /// Bytes so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Appends; more than the expected length cannot be the file and is not written.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        if self.written > self.expected {
            let (done, expected) = (self.written, self.expected);
            return Err(Problem::Interrupted { done, expected, what: "it is too long".to_owned() }.into());
        }
        self.file.write_all(bytes).map_err(|e| Failure::Disk(e.kind()))
    }

    /// Checks the digest, brings everything to the disk and gives the file its name.
    pub(crate) fn publish(self, expected: Sha256, path: &Path) -> Result<(), Failure> {
        let Partial { lock, file, hasher, .. } = self;
        let found = Sha256(hasher.finalize().into());
        if found != expected {
            return Err(Problem::Digest { expected, found }.into());
        }
        let durable = || {
            file.sync_all()?;
            fs::rename(&lock.part, path)?;
            // The name has to survive a power cut as well.
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        durable().map_err(|e| Failure::Disk(e.kind()))
    }
}
