//! What the commands that read a recorded day understand.

use super::{Output, key_value};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch replay                                        the journal of the last servers here
  orch replay ./journal/00000003.orj                 one segment
  orch replay --set placement.policy=least-loaded    which decision would have been another")]
pub(crate) struct ReplayArgs {
    /// A journal's folder or one of its segments [default: that of `orch serve`]
    pub path: Option<PathBuf>,
    /// Change a rule, and name the first decision that comes out otherwise; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Begin with the segment that holds this step
    #[arg(long, value_name = "STEP")]
    pub from: Option<u64>,
    /// End after this step
    #[arg(long, value_name = "STEP")]
    pub to: Option<u64>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  orch explain 0192f0c1-7a3e-7c5d-8d4a-2f6b1c9e0a11")]
pub(crate) struct ExplainArgs {
    /// The task's id, as `POST /v1/tasks` or a chat completion's `id` gives it
    pub task: String,
    /// Of several inputs the one to tell whole, counted from 0
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    pub input: u32,
    /// A journal's folder or one of its segments [default: that of `orch serve`]
    #[arg(long, value_name = "PATH")]
    pub journal: Option<PathBuf>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch calibrate                                     the figures, and how far off they are
  orch calibrate ./journal --out cost.toml           to be simulated with later
  orch calibrate ./journal --half first --out cost.toml && orch whatif ./journal --half second --cost cost.toml")]
pub(crate) struct CalibrateArgs {
    /// A journal's folder or one of its segments [default: that of `orch serve`]
    pub path: Option<PathBuf>,
    /// Only tasks that came in this half of the recorded time
    #[arg(long, value_name = "HALF")]
    pub half: Option<Half>,
    /// Write the cost to this file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch whatif --set placement.policy=least-loaded
  orch whatif ./journal --set queue.interactive_max=32 --set queue.policy=drop-lru
  orch whatif --set queue.batch_max=16 --report whatif.html
  orch whatif ./journal --cost cost.toml -o json     without a change: how true the simulation is")]
pub(crate) struct WhatifArgs {
    /// A journal's folder or one of its segments [default: that of `orch serve`]
    pub path: Option<PathBuf>,
    /// Change a rule; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// A cost that `orch calibrate` wrote [default: fitted to the journal itself]
    #[arg(long, value_name = "FILE")]
    pub cost: Option<PathBuf>,
    /// Tell only of tasks that came in this half of the recorded time; all of them are run
    #[arg(long, value_name = "HALF")]
    pub half: Option<Half>,
    /// Write a page with charts of all sides to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Half {
    First,
    Second,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  orch bundle --around 0192f0c1-7a3e-7c5d-8d4a-2f6b1c9e0a11 --out slow.orj && orch replay slow.orj")]
pub(crate) struct BundleArgs {
    /// A journal's folder or one of its segments [default: that of `orch serve`]
    pub path: Option<PathBuf>,
    /// The task's id, as `POST /v1/tasks` or a chat completion's `id` gives it
    #[arg(long, value_name = "TASK")]
    pub around: String,
    /// The file to write; it must not be there yet
    #[arg(long, default_value = "bundle.orj", value_name = "FILE")]
    pub out: PathBuf,
    /// How to tell what it is
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}
