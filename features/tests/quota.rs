//! A full disk for one server, without a disk: a limit on the size of its files, which needs no rights.

use super::server::Server;
use std::process::Command;

/// How much its files can grow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Room {
    None,
    Plenty,
}

pub(crate) fn leave(room: Room, server: &Server) {
    let bytes = match room {
        Room::None => "0",
        Room::Plenty => "unlimited",
    };
    let (pid, limit) = (server.child.id().to_string(), format!("--fsize={bytes}:unlimited"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
}
