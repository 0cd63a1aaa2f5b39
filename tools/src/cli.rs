//! What `orch` understands. Every flag that has a place in the configuration overrides it there.

mod bench;
mod control;
mod recorded;

pub(crate) use bench::{
    BenchArgs, BenchEngineArgs, BenchJournalArgs, BenchSchedulerArgs, BenchTopic, Device, SelftestArgs,
};
pub(crate) use control::{DrainArgs, PoolJobArgs, PoolsArgs, PurgeArgs, ReloadArgs, ResumeArgs, VerifyArgs};
pub(crate) use recorded::{BundleArgs, CalibrateArgs, ExplainArgs, Half, ReplayArgs, WhatifArgs};

use crate::configuration::THREADS;
use clap::{Args, Parser, Subcommand, ValueEnum};
use orchestrion_gpu::gguf::TensorKind;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serves language models with a scheduler whose every decision is recorded, replays and explains itself.
#[derive(Debug, Parser)]
#[command(name = "orch", version = crate::version::line(), max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve models over HTTP; without arguments, a small demo model on this machine's CPU.
    Serve(ServeArgs),
    /// Talk to a running server.
    Chat(ChatArgs),
    /// Give a task to a running server's queue and follow it to its end.
    Submit(SubmitArgs),
    /// Show the pools of a running server and their workers.
    Pools(PoolsArgs),
    /// Have a pool take no new tasks and finish those that run.
    Drain(DrainArgs),
    /// Have a pool take tasks again, whatever kept it from it.
    Resume(ResumeArgs),
    /// Have a pool serve another model of the server.
    Reload(ReloadArgs),
    /// Drain a pool and give its memory back.
    Purge(PurgeArgs),
    /// Look whether the weights that a pool serves from are what was loaded, while it serves.
    Verify(VerifyArgs),
    /// Execute a journal again and compare every decision and state with the record.
    Replay(ReplayArgs),
    /// Tell what happened to a task and why, and prove it by re-execution.
    Explain(ExplainArgs),
    /// Fit the cost of a station's work to what a journal recorded.
    Calibrate(CalibrateArgs),
    /// Run a recorded day again under other rules, simulated, and compare.
    Whatif(WhatifArgs),
    /// Write the part of a journal that one task's story takes, without names, to show to others.
    Bundle(BundleArgs),
    /// Throw drawn clusters, loads and faults at the scheduler, and demand what must hold of all.
    Storm(StormArgs),
    /// Say what a model file holds, and whether and how fast it would run here.
    Inspect(InspectArgs),
    /// Run a scenario file in virtual time and say whether it keeps what it promises.
    Simulate(SimulateArgs),
    /// Fetch a model of the catalog into the cache.
    Pull(PullArgs),
    /// Write a tiny model with random weights, for tests.
    Gen(GenArgs),
    /// Say whether `orch serve` would work here, what is wrong and how to mend it.
    Doctor(DoctorArgs),
    /// Whether this machine computes what the definition says, whatever shares a step.
    Selftest(SelftestArgs),
    /// Measure how fast the scheduler and its journal are on this machine.
    Bench(BenchArgs),
    /// Print a shell's completions.
    Completions(CompletionsArgs),
    /// Print the version.
    Version(VersionArgs),
    /// Check the source tree against the rules of the house (for developers).
    Tidy(TidyArgs),
}

#[derive(Args, Debug, Default)]
#[command(after_help = "\
Examples:
  orch serve                                     the demo model on http://127.0.0.1:8080
  orch serve --model ./my-model.gguf --slots 8   a GGUF file
  orch serve --config orchestrion.toml           pools, bounds and policies from a file
  ORCHESTRION_SERVER__BIND=127.0.0.1:9000 orch serve")]
pub(crate) struct ServeArgs {
    /// A catalog name or the path of a GGUF file; one pool is made for it
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The address to listen on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<SocketAddr>,
    /// Tasks at a time on each worker [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub slots: Option<u16>,
    /// Threads that compute on each worker [default: one per core]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// The folder of the journal [default: $XDG_STATE_HOME/orchestrion/journal]
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// A configuration file [default: ./orchestrion.toml, then $XDG_CONFIG_HOME/orchestrion/config.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch chat \"Name three colours.\"      one question, the answer streamed to stdout
  orch chat                            a conversation; an empty line or Ctrl-D ends it")]
pub(crate) struct ChatArgs {
    /// What to ask; without it, questions are read from the terminal
    pub prompt: Vec<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    /// The model; without it, the first by name that answers prompts
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// At most this many tokens of answer
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_tokens: u32,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.7, value_name = "T")]
    pub temperature: f32,
}

/// A running server.
#[derive(Args, Debug)]
pub(crate) struct ServerArgs {
    /// The server
    #[arg(long, env = "ORCH_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub url: String,
    /// The token of a server that asks for one; the environment keeps it out of the list of processes
    #[arg(long, env = "ORCH_KEY", hide_env_values = true, value_name = "TOKEN")]
    pub key: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch submit \"Name three colours.\"                 the answer, streamed to stdout
  orch submit --priority batch --detach < letter     prints the task's id and leaves
  orch submit --follow 0192f0c1-7a3e-7c5d-8d4a-2f6b1c9e0a11
  orch submit -o json --deadline 5000 \"Hurry.\"      the whole result as JSON")]
pub(crate) struct SubmitArgs {
    /// What to ask; without it, stdin is read to its end
    pub prompt: Vec<String>,
    /// Follow this task from its beginning and submit none
    #[arg(long, value_name = "TASK", conflicts_with_all = ["prompt", "detach"])]
    pub follow: Option<String>,
    /// Print the id once the task is admitted, and leave; an interactive one that nobody ever reads runs all the same
    #[arg(long)]
    pub detach: bool,
    /// Who goes first when slots are short
    #[arg(long, default_value = "interactive", value_name = "CLASS")]
    pub priority: Priority,
    /// End it where it is not done after so many milliseconds
    #[arg(long = "deadline", value_name = "MS")]
    pub deadline_ms: Option<u64>,
    /// The model; without it, the first by name that answers prompts
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// At most this many tokens of answer
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_tokens: u32,
    /// The same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// 0 always takes the likeliest token [default: the server's]
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Continue the prompt as it stands instead of answering it as a message
    #[arg(long)]
    pub raw: bool,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
    #[command(flatten)]
    pub server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Priority {
    Interactive,
    Batch,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch storm --seed 7                      one seed, with what befalls it
  orch storm --seeds 2000 --ticks 20000    as the soak does
  orch storm --minutes 60                  from a seed that nobody chose
  orch storm storm-7.scn                   what an earlier storm found, or any scenario")]
pub(crate) struct StormArgs {
    /// A scenario to run with every proof, instead of seeds
    #[arg(value_name = "FILE", conflicts_with_all = ["seed", "seeds", "minutes"])]
    pub file: Option<PathBuf>,
    /// The first seed [default: drawn]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// So many seeds
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Virtual milliseconds of each before it heals
    #[arg(long, default_value_t = 20_000, value_name = "T", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub ticks: u64,
    /// As many seeds as this time allows
    #[arg(long, value_name = "M", conflicts_with = "seeds")]
    pub minutes: Option<u64>,
    /// Where a finding is written
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch inspect ./my-model.gguf                    with the model's whole context on 4 slots
  orch inspect ./my-model.gguf --ctx 8192 --slots 16
  orch inspect ./my-model.gguf -o json | jq .memory.largest_context")]
pub(crate) struct InspectArgs {
    /// A catalog name or the path of a GGUF file
    pub model: String,
    /// Tasks at a time
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub slots: u64,
    /// Tokens of prompt and answer [default: what the model was trained for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub ctx: Option<u64>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch simulate scenarios/library/overload.toml
  orch simulate my.toml --set queue.policy=drop-lru --seed 7
  orch simulate my.toml --report out.html        charts, in one file
  orch simulate my.toml -o json | jq .groups

Exits with 1 where an expectation is not met. `docs/simulation.md` explains the file.")]
pub(crate) struct SimulateArgs {
    /// A scenario file
    pub file: PathBuf,
    /// Another seed than the file's
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Change a rule of the file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Write a page with tables and charts to this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  orch pull smollm2-135m     prints the path of the file")]
pub(crate) struct PullArgs {
    /// A name of the catalog
    #[arg(default_value = crate::configuration::DEMO_MODEL)]
    pub model: String,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch gen tiny.gguf --seed 7 && orch serve --model tiny.gguf
  orch gen small.gguf --arch gemma3 --type Q5_K --dim 256")]
pub(crate) struct GenArgs {
    /// The file to write
    pub out: PathBuf,
    /// The same seed gives the same bytes, on every machine
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// llama, qwen2, qwen3, phi3, gemma3 or bert
    #[arg(long, default_value = "llama", value_name = "NAME")]
    pub arch: String,
    /// Layers
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub layers: u32,
    /// Width; a multiple of 32, of 256 with types that end in _K
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub dim: u32,
    /// The type of all matrices, as Q5_K [default: Q8_0 for the embedding, Q4_1 for the others]
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<TensorKind>,
    /// Context in tokens
    #[arg(long, default_value_t = 2048, value_name = "N")]
    pub context: u32,
    /// Positions each layer sees, of an architecture whose layers may all have a window
    #[arg(long, value_name = "N")]
    pub window: Option<u32>,
    /// An encoder that scores pairs of texts, with a head for it
    #[arg(long)]
    pub rank: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch doctor                                what `orch serve` would find
  orch doctor --config /etc/orchestrion.toml -o json")]
pub(crate) struct DoctorArgs {
    /// The configuration file, as for `orch serve`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address, as for `orch serve`
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<SocketAddr>,
    /// The folder of the journal, as for `orch serve`
    #[arg(long, value_name = "DIR")]
    pub journal: Option<PathBuf>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch completions bash > ~/.local/share/bash-completion/completions/orch
  orch completions fish > ~/.config/fish/completions/orch.fish")]
pub(crate) struct CompletionsArgs {
    /// Whose
    pub shell: clap_complete::Shell,
}

#[derive(Args, Debug)]
pub(crate) struct VersionArgs {
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct TidyArgs {
    /// The root of the source tree
    #[arg(default_value = ".")]
    pub root: PathBuf,
}

fn threads(text: &str) -> Result<usize, String> {
    let (least, most) = (THREADS.start(), THREADS.end());
    let threads = text.parse().ok().filter(|threads| THREADS.contains(threads));
    threads.map(|threads: u64| threads as usize).ok_or_else(|| format!("expected {least} to {most}"))
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| format!("`{text}` is not of the form key=value, as in placement.policy=least-loaded"))
}
