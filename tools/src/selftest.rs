//! `orch selftest`: does this machine compute what the definition says, and the same whatever shares a step?
//!
//! Runs what `gpu::selftest` compares: every operation at every level the processor has, then the same prompts under
//! many settings, on generated models or on those that are named. One page; a difference makes the command fail.

use crate::cli::{Device, Output, SelftestArgs};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::output;
use crate::progress::{Progress, stage_of};
use orchestrion_gpu::engine::{DEFINITION, Engine, EngineOptions, Level};
use orchestrion_gpu::generate::{GenSpec, generate};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::selftest::{self, Coverage, Determinism, Op, Plan};
use orchestrion_gpu::supply::{self, ModelRef};
use serde::Serialize;
use std::fmt;
use std::io::Write;

#[derive(Debug, Serialize)]
struct Summary {
    definition: &'static str,
    levels: Vec<String>,
    operations: Vec<Op>,
    models: Vec<Told>,
    /// Whether nothing differs.
    same: bool,
}

#[derive(Debug, Serialize)]
struct Told {
    model: String,
    #[serde(flatten)]
    found: Determinism,
}

pub(crate) fn run(args: &SelftestArgs) -> Result<(), Failure> {
    let summary = examine(args)?;
    match args.output {
        Output::Text => writeln!(std::io::stdout(), "{summary}")?,
        Output::Json => output::json(&summary)?,
    }
    match summary.same {
        true => Ok(()),
        false => Err(Failure::new(Code::BadData, "this machine does not compute what the definition says")),
    }
}

fn examine(args: &SelftestArgs) -> Result<Summary, Failure> {
    let levels: Vec<Level> = match args.device {
        Device::Host if args.simd.is_empty() => Level::ALL.into_iter().filter(|level| level.is_supported()).collect(),
        Device::Host => args.simd.iter().map(|simd| simd.level()).collect(),
    };
    let operations = selftest::ops().map_err(Failure::of(Code::Failed))?;
    let plan = Plan {
        levels: levels.clone(),
        coverage: if args.full { Coverage::All } else { Coverage::Pairs },
        prompts: args.prompts as usize,
        answer: args.answer as usize,
        longest: args.longest as usize,
        seed: args.seed,
    };
    let mut models = vec![];
    for (model, gguf) in candidates(args)? {
        answers(&model, &gguf, args.longest + args.answer)?;
        let mut progress = Progress::default();
        let mut show = |done, total| progress.show(&format!("{model}: settings"), done, total);
        let found = selftest::determinism(&gguf, &plan, &mut show).map_err(Failure::of(Code::BadData))?;
        progress.finish();
        models.push(Told { model, found });
    }
    let same = operations.iter().all(|op| op.golden && op.differing.is_empty())
        && models.iter().all(|told| told.found.differences.is_empty());
    let levels = levels.iter().map(Level::to_string).collect();
    Ok(Summary { definition: DEFINITION, levels, operations, models, same })
}

/// That the model can give the answers which are to be compared: what it cannot run is no difference.
fn answers(model: &str, gguf: &Gguf, tokens: u32) -> Result<(), Failure> {
    let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: u32::MAX };
    let engine = Engine::load(gguf, options).map_err(Failure::of(Code::BadData))?;
    let problem = match engine.ctx_max() {
        _ if engine.is_encoder() => "it makes no text; name a model that answers prompts".to_owned(),
        ctx if ctx < tokens => {
            format!("its context is {ctx} tokens, and `--longest` and `--answer` are {tokens}; lower them")
        }
        _ => return Ok(()),
    };
    Err(Failure::new(Code::BadConfig, format!("{model}: {problem}")))
}

/// The models that were named, or two generated ones.
fn candidates(args: &SelftestArgs) -> Result<Vec<(String, Gguf)>, Failure> {
    if args.model.is_empty() {
        let generated = |arch: &str| -> Result<(String, Gguf), Failure> {
            let spec = GenSpec { context: 8192, ..GenSpec::of(arch).map_err(Failure::of(Code::Failed))? };
            let bytes = generate(&spec).map_err(Failure::of(Code::Failed))?;
            Ok((format!("generated {arch}"), Gguf::parse(bytes).map_err(Failure::of(Code::Failed))?))
        };
        return ["llama", "gemma3"].into_iter().map(generated).collect();
    }
    let options = supply::Options::from_env(configuration::cache_dir()?);
    let named = |model: &String| {
        let mut progress = Progress::default();
        let mut show = |stage: supply::Stage, done, total| progress.show(&stage_of(model, stage), done, total);
        let found = supply::load(&ModelRef::from(model.as_str()), &options, &mut show);
        progress.finish();
        Ok((model.clone(), found.map_err(Failure::of(Code::Unavailable))?.gguf))
    };
    args.model.iter().map(named).collect()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { definition, levels, operations, models, same } = self;
        writeln!(f, "definition {definition}, levels {}", levels.join(", "))?;
        for Op { name, digest, golden, differing } in operations {
            let verdict = match (golden, differing.as_slice()) {
                (true, []) => "ok".to_owned(),
                (false, _) => "NOT the frozen digest".to_owned(),
                (true, levels) => format!("DIFFERS at {}", levels.join(", ")),
            };
            writeln!(f, "{name:18} {digest}  {verdict}")?;
        }
        for Told { model, found: Determinism { settings, comparisons, differences } } in models {
            let count = differences.len();
            writeln!(
                f,
                "{model}: {settings} settings, {comparisons} vectors of logits compared, {count} answers differ"
            )?;
            for found in differences.iter().take(8) {
                writeln!(f, "  prompt {} from token {} on: {:?}", found.prompt, found.token, found.setting)?;
            }
        }
        f.write_str(if *same { "the same everywhere" } else { "DIFFERENT" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn this_machine_passes_on_generated_models() {
        let args = SelftestArgs {
            device: Device::Host,
            model: vec![],
            simd: vec![],
            full: false,
            prompts: 3,
            answer: 2,
            longest: 20,
            seed: 1,
            output: Output::Text,
        };
        let summary = examine(&args).unwrap_or_else(|failure| unreachable!("{failure}"));
        assert!(summary.same && summary.to_string().ends_with("the same everywhere"), "{summary}");
        assert!(summary.models.iter().all(|told| told.found.comparisons > 100));
    }

    #[test]
    fn what_cannot_be_compared_is_refused_and_no_difference() {
        for flag in ["--prompts", "--answer", "--longest"] {
            let parsed = |value| Cli::try_parse_from(["orch", "selftest", flag, value]).map(|_| ());
            assert!(parsed("1").is_ok() && parsed("0").is_err(), "{flag}");
        }
        let made = |spec| Gguf::parse(generate(&spec).unwrap()).unwrap();
        let small = made(GenSpec { context: 64, ..GenSpec::default() });
        assert!(answers("m", &small, 64).is_ok());
        let error = answers("m", &small, 65).unwrap_err().to_string();
        assert_eq!(error, "m: its context is 64 tokens, and `--longest` and `--answer` are 65; lower them");
        let error = answers("m", &made(GenSpec::of("bert").unwrap()), 1).unwrap_err().to_string();
        assert_eq!(error, "m: it makes no text; name a model that answers prompts");
    }
}
