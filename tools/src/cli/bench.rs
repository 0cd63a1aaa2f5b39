//! What the commands that measure and compare understand.

use super::Output;
use crate::configuration::Simd;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub topic: BenchTopic,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchTopic {
    /// Tokens a second of the host engine, its load time and memory, beside what the machine could do.
    Engine(BenchEngineArgs),
    /// Full task lifecycles a second through the core, and what an idle step costs.
    Scheduler(BenchSchedulerArgs),
    /// Inputs a second into the journal, and how long it takes to execute them again.
    Journal(BenchJournalArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch bench engine --model smollm2-135m
  orch bench engine --model model.gguf --threads 2 --simd avx2 -o json")]
pub(crate) struct BenchEngineArgs {
    /// A catalog name or the path of a GGUF file
    #[arg(long, value_name = "MODEL")]
    pub model: String,
    /// Threads that compute [default: as many as the machine has]
    #[arg(long, value_name = "N", value_parser = super::threads)]
    pub threads: Option<usize>,
    /// The kernels
    #[arg(long, default_value = "auto", value_name = "LEVEL")]
    pub simd: Simd,
    /// Runs whose median is told
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch bench scheduler                                   three clusters, with few and with a million tasks waiting
  orch bench scheduler --workers 50 --waiting 0,10000    one of 50 workers, with free slots and with a queue
  orch bench scheduler -o json")]
pub(crate) struct BenchSchedulerArgs {
    /// Workers of each cluster
    #[arg(long, default_value = "1,1000,10000", value_delimiter = ',', value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub workers: Vec<u32>,
    /// Tasks that wait in each; with 0 its slots are free, with more they are busy
    #[arg(long, default_value = "0,1000,1000000", value_delimiter = ',', value_name = "N",
          value_parser = clap::value_parser!(u32).range(..=10_000_000))]
    pub waiting: Vec<u32>,
    /// Runs whose median is told, after one to warm up
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// CPU time of each run
    #[arg(long = "ms", default_value_t = 300, value_name = "MILLISECONDS")]
    pub millis: u64,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch bench journal                         on the file system of temporary files
  orch bench journal --dir /var/lib/orch     on the disk that a journal is to stand on")]
pub(crate) struct BenchJournalArgs {
    /// Inputs of a run
    #[arg(long, default_value_t = 200_000, value_name = "N")]
    pub inputs: usize,
    /// Runs whose median is told, after one to warm up
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Where to write [default: the folder of temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch selftest                                         generated models, a covering choice of settings
  orch selftest --model smollm2-135m --simd avx2,vnni --full --prompts 64
  orch selftest -o json

Exits with 65 where a bit differs.")]
pub(crate) struct SelftestArgs {
    /// What computes
    #[arg(long, default_value = "host", value_name = "DEVICE")]
    pub device: Device,
    /// A catalog name or the path of a GGUF file; several times for several [default: two generated models]
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<String>,
    /// Kernels to compare [default: all that the processor has]
    #[arg(long, value_delimiter = ',', value_name = "LEVEL")]
    pub simd: Vec<Simd>,
    /// Every combination of settings instead of every pair of two
    #[arg(long)]
    pub full: bool,
    /// Prompts, random ones
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub prompts: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub answer: u32,
    /// Tokens of the longest prompt
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub longest: u32,
    /// What random choices are drawn from
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
}

/// What may be tested: this version computes on the host alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    Host,
}
