//! `orch pull`: fetches a model into the cache, checks its digest, and prints where it is.

use crate::cli::{Output, PullArgs};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use crate::progress::{Progress, stage_of};
use orchestrion_gpu::supply::{self, ModelRef, Supplied};
use serde_json::json;
use std::io::Write;

pub(crate) fn run(args: &PullArgs) -> Result<(), Failure> {
    let options = supply::Options::from_env(configuration::cache_dir()?);
    let mut progress = Progress::default();
    let mut show = |stage: supply::Stage, done, total| progress.show(&stage_of(&args.model, stage), done, total);
    let model = ModelRef::Alias(args.model.clone());
    let supplied = supply::load(&model, &options, &mut show).map_err(Failure::of(Code::Unavailable))?;
    progress.finish();
    let Supplied { path, origin, gguf } = supplied;
    match args.output {
        Output::Text => Ok(writeln!(std::io::stdout(), "{}", path.display())?),
        Output::Json => {
            let (origin, digest) = (origin.to_string(), gguf.digest().to_string());
            output::json(&json!({"path": path, "origin": origin, "sha256": digest}))
        }
    }
}
