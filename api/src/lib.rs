//! The door and the pendulum: HTTP and SSE, the pulse that steps the core, the journal that records it.
//!
//! Start with [`port`]: the lanes into the pulse and what the binary fills in.

pub mod auth;
pub mod bundle;
mod clock;
pub mod door;
pub mod explain;
#[cfg(test)]
mod fixture;
mod http;
pub(crate) mod jobs;
pub mod journal;
pub mod port;
pub mod problem;
mod progress;
pub mod pulse;
pub mod recording;
pub mod recovery;
pub mod replay;
pub mod serve;
pub mod spool;
mod sse;
pub mod switchboard;
mod task_entry;
pub mod telemetry;
pub mod token_log;
#[cfg(test)]
mod whole;
mod wording;

pub use http::fields::sampling_of;
