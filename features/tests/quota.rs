//! A full disk for one server, without a disk: a limit on the size of its files, which needs no rights.

use crate::server::Server;
use std::process::Command;

/// From here on, none of its files can grow beyond `bytes`; with 0 it is as if the disk were full.
pub(crate) fn limit_files(server: &Server, bytes: u64) {
    let (pid, limit) = (server.child.id().to_string(), format!("--fsize={bytes}:unlimited"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
}
