//! `orch pull`: fetches a model into the cache, checks its digest, and prints where it is.

use crate::cli::PullArgs;
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::progress::{Progress, stage_of};
use orchestrion_gpu::supply::{self, ModelRef};
use std::io::Write;

pub(crate) fn run(args: &PullArgs) -> Result<(), Failure> {
    let options = supply::Options::from_env(configuration::cache_dir()?);
    let mut progress = Progress::default();
    let mut show = |stage: supply::Stage, done, total| progress.show(&stage_of(&args.model, stage), done, total);
    let model = ModelRef::Alias(args.model.clone());
    let supplied = supply::load(&model, &options, &mut show).map_err(Failure::of(Code::Unavailable))?;
    progress.finish();
    writeln!(std::io::stdout(), "{}", supplied.path.display())?;
    Ok(())
}
