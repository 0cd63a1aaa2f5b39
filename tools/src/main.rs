//! `orch`: the composition root. The one place that knows both the door and the execution layer.
//!
//! Each subcommand is a file. Data goes to stdout, progress and logs to stderr; an error says what
//! happened and what to do, and decides the exit code.

mod bench;
mod bundle;
mod calibrate;
mod chat;
mod cli;
mod client;
mod configuration;
mod control;
mod doctor;
mod explain;
mod failure;
mod generate;
mod inspect;
mod memory;
mod nearest;
mod output;
mod progress;
mod pull;
mod replay;
mod selftest;
mod serve;
mod simulate;
mod storm;
mod submit;
mod tidy;
mod version;
mod whatif;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Chat(args) => chat::run(&args),
        Command::Submit(args) => submit::run(&args),
        Command::Pools(args) => control::pools(&args),
        Command::Drain(args) => control::drain(&args),
        Command::Resume(args) => control::resume(&args),
        Command::Reload(args) => control::reload(&args),
        Command::Purge(args) => control::purge(&args),
        Command::Verify(args) => control::verify(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Storm(args) => storm::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Whatif(args) => whatif::run(&args),
        Command::Bundle(args) => bundle::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Gen(args) => generate::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => {
            clap_complete::generate(args.shell, &mut Cli::command(), "orch", &mut std::io::stdout());
            Ok(())
        }
        Command::Version(args) => version::run(&args),
        Command::Tidy(args) => tidy::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}
