//! Every bound of the HTTP door in one place, so that tests can shorten them and operators can see them.
//!
//! Times are milliseconds, sizes are bytes. The defaults are those of the attack suite: a client that is
//! merely slow never meets them, one that holds resources without using them does.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bounds of connections, heads, bodies and writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A request's head must be complete this long after its first byte, the first one after the accept.
    pub header_read_ms: u64,
    /// Of HTTP/2 too, as the next two are.
    pub header_count: usize,
    /// The whole head.
    pub header_bytes: usize,
    /// One line of it, or one field.
    pub line_bytes: usize,
    pub body_bytes: u64,
    /// `POST /v1/tasks` carries batch prompts.
    pub task_body_bytes: u64,
    /// What all bodies together may hold until their words are tokens; beyond it, requests are refused.
    pub bodies_bytes: u64,
    /// A body may be slower than the minimum rate for this long.
    pub body_grace_ms: u64,
    pub body_bytes_per_s: u64,
    /// Objects and arrays inside each other.
    pub json_depth: usize,
    pub keep_alive_ms: u64,
    pub connections: usize,
    pub connections_per_address: usize,
    pub h2_streams: u32,
    pub h2_stream_window: u32,
    pub h2_connection_window: u32,
    /// Streams reset before they were taken up.
    pub h2_pending_resets: usize,
    /// More streams reset than this in `h2_reset_window_ms` end the connection.
    pub h2_resets: u32,
    pub h2_reset_window_ms: u64,
    /// A write that makes no progress for this long ends the connection.
    pub write_stall_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_read_ms: 10_000,
            header_count: 64,
            header_bytes: 32 * 1024,
            line_bytes: 8 * 1024,
            body_bytes: 1024 * 1024,
            task_body_bytes: 8 * 1024 * 1024,
            bodies_bytes: 256 * 1024 * 1024,
            body_grace_ms: 5_000,
            body_bytes_per_s: 1024,
            json_depth: 64,
            keep_alive_ms: 75_000,
            connections: 4_096,
            connections_per_address: 256,
            h2_streams: 100,
            h2_stream_window: 64 * 1024,
            h2_connection_window: 1024 * 1024,
            h2_pending_resets: 20,
            h2_resets: 200,
            h2_reset_window_ms: 10_000,
            write_stall_ms: 30_000,
        }
    }
}

impl Limits {
    pub(crate) fn header_read(&self) -> Duration {
        Duration::from_millis(self.header_read_ms)
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        Duration::from_millis(self.keep_alive_ms)
    }

    pub(crate) fn write_stall(&self) -> Duration {
        Duration::from_millis(self.write_stall_ms)
    }
}
