//! What the commands that operate a running server understand.

use super::{Output, ServerArgs};
use clap::Args;

/// A running server, and how its answer is told.
#[derive(Args, Debug)]
pub(crate) struct AnswerArgs {
    /// How to tell it
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    pub output: Output,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// A pool of a running server, and how to wait for its job.
#[derive(Args, Debug)]
pub(crate) struct PoolJobArgs {
    /// The pool; without it, the only one that the server has
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Print the job's id once it is begun, and leave
    #[arg(long)]
    pub detach: bool,
    #[command(flatten)]
    pub answer: AnswerArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch pools                                         all of a server on this machine
  orch pools --url http://10.0.0.7:8080 -o json      as the server tells it")]
pub(crate) struct PoolsArgs {
    #[command(flatten)]
    pub answer: AnswerArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch drain                                 the only pool; its tasks have 30 s to end
  orch drain --pool a --deadline 600000      one of several, with more time")]
pub(crate) struct DrainArgs {
    /// End what still runs after so many milliseconds [default: 30000]
    #[arg(long = "deadline", value_name = "MS")]
    pub deadline_ms: Option<u64>,
    #[command(flatten)]
    pub job: PoolJobArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch resume                after a drain or a purge; loads the model where it is gone
  orch resume --pool a       also after too many restarts, a quarantine or an open breaker")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub job: PoolJobArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch reload tiny                                one of the names of `GET /v1/models`
  orch reload tiny --pool a --deadline 600000     what runs has ten minutes to end
  orch reload tiny --detach                       prints the job's id and leaves")]
pub(crate) struct ReloadArgs {
    /// The model that the pool is to serve; where it does not load, the old one is loaded again
    pub model: String,
    /// End what still runs after so many milliseconds [default: 30000]
    #[arg(long = "deadline", value_name = "MS")]
    pub deadline_ms: Option<u64>,
    #[command(flatten)]
    pub job: PoolJobArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch verify                     the only pool, one model of one worker after another; it goes on serving
  orch verify --pool a -o json    with the digest, the bytes and the seal of each")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub job: PoolJobArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  orch purge             drains the only pool and gives its memory back; `orch resume` loads the model again
  orch purge --force     ends what runs at once")]
pub(crate) struct PurgeArgs {
    /// End what still runs after so many milliseconds [default: 30000]
    #[arg(long = "deadline", value_name = "MS")]
    pub deadline_ms: Option<u64>,
    /// End what runs at once instead of draining first
    #[arg(long, conflicts_with = "deadline_ms")]
    pub force: bool,
    #[command(flatten)]
    pub job: PoolJobArgs,
}
