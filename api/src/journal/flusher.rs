//! Forces what was written to disk in the background, for `fsync: interval` and the parts of `never`.
//!
//! The writer marks the segment dirty; this thread syncs it within [`INTERVAL`] and then sleeps until
//! the next write. An idle journal wakes nobody. A failed sync is kept for the writer, who must not go
//! on: after one, the kernel may have dropped the pages, and a second sync that succeeds proves nothing.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a power loss can take: the records of this long.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    /// One mark is enough: whatever was written before the sync is in it.
    wake: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file: Mutex<Arc<File>>,
    dirty: AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Flusher {
    pub(crate) fn start(file: Arc<File>) -> io::Result<Flusher> {
        let shared = Arc::new(Shared {
            file: Mutex::new(file),
            dirty: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        let (wake, woken) = flume::bounded::<()>(1);
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("journal-sync".into()).spawn(move || {
            while woken.recv().is_ok() {
                // Collects what is written meanwhile; cut short when the writer closes.
                let closing = woken.recv_timeout(INTERVAL) == Err(flume::RecvTimeoutError::Disconnected);
                if closing {
                    return;
                }
                for_thread.sync();
            }
        })?;
        Ok(Flusher { shared, wake: Some(wake), thread: Some(thread) })
    }

    /// Something was written.
    pub(crate) fn mark(&self) {
        if !self.shared.dirty.swap(true, Ordering::AcqRel)
            && let Some(wake) = &self.wake
        {
            // Full means a wake-up is under way already.
            let _ = wake.try_send(());
        }
    }

    /// From here on `file` is what is synced; the writer has synced the one before itself.
    pub(crate) fn turn_to(&self, file: Arc<File>) {
        *lock(&self.shared.file) = file;
    }

    /// The failure of an earlier sync, once.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        if self.shared.failed.load(Ordering::Acquire) { lock(&self.shared.failure).take() } else { None }
    }
}

impl Shared {
    fn sync(&self) {
        // Cleared first: a write during the sync marks it again.
        self.dirty.store(false, Ordering::Release);
        let file = Arc::clone(&lock(&self.file));
        if let Err(error) = file.sync_data() {
            *lock(&self.failure) = Some(error);
            self.failed.store(true, Ordering::Release);
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The values behind these locks are whole at every moment, so a poisoned lock is a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
