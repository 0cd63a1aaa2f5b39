//! Whether the pulse can take work, for the door and for readiness probes.
//!
//! Written by the pulse thread, read by anyone; holds no history.

use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How the pulse is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "condition", rename_all = "snake_case")]
pub enum Condition {
    /// Steps are taken and recorded.
    Well,
    /// The last step could not be recorded (a full disk, most often). It is tried again; meanwhile
    /// nothing is taken and nothing acknowledged.
    JournalUnwritable { problem: String },
    /// The pulse has ended; the process is about to.
    Ended,
}

/// A view of the pulse's condition, shared.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The common answer, without a lock.
    well: AtomicBool,
    condition: Mutex<Condition>,
}

impl Health {
    pub(crate) fn well() -> Health {
        Health(Arc::new(Shared { well: AtomicBool::new(true), condition: Mutex::new(Condition::Well) }))
    }

    /// Whether new work is taken.
    pub fn is_well(&self) -> bool {
        self.0.well.load(Ordering::Acquire)
    }

    pub fn condition(&self) -> Condition {
        if self.is_well() { Condition::Well } else { self.lock().clone() }
    }

    pub(crate) fn set(&self, condition: Condition) {
        let well = condition == Condition::Well;
        *self.lock() = condition;
        self.0.well.store(well, Ordering::Release);
    }

    /// The value is whole at every moment, so a poisoned lock is a lock.
    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.0.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
