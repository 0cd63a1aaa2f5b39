//! `orch`: the composition root. The one place that knows both the door and the execution layer.
//!
//! Each subcommand is a file. Data goes to stdout, progress and logs to stderr; an error says what
//! happened and what to do, and decides the exit code.

mod chat;
mod cli;
mod configuration;
mod explain;
mod failure;
mod generate;
mod inspect;
mod progress;
mod pull;
mod replay;
mod serve;
mod tidy;
mod version;

use clap::Parser;
use cli::{Cli, Command};
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Chat(args) => chat::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Gen(args) => generate::run(&args),
        Command::Version => version::run(),
        Command::Tidy(args) => tidy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}
