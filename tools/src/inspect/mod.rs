//! `orch inspect`: what a model file holds, and whether, where and how fast it would run.
//!
//! Reads the file as the server does and loads it as the server would, so that its word is the server's: a
//! file that is refused here is refused there, for the reason that is said. What it needs of memory is
//! counted, how fast it may be is an estimate (`fit`). Nothing is served and nothing is kept.

mod fit;

use crate::cli::{InspectArgs, Output};
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::memory::size;
use crate::output;
use crate::progress::{Progress, stage_of};
use fit::{Memory, Shape, Speed};
use orchestrion_gpu::engine::{Engine, EngineOptions, Level, Makes};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::supply::{self, ModelRef, Supplied, SupplyError};
use orchestrion_gpu::template::{Template, TemplateError};
use orchestrion_gpu::tokenizer::Tokenizer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

/// Everything that can be said; what could not be found out is absent.
#[derive(Debug, Serialize)]
struct Inspection {
    file: String,
    contents: Option<Contents>,
    memory: Option<Memory>,
    speed: Option<Speed>,
    /// Why it does not run here; absent where it does.
    refused: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Contents {
    bytes: u64,
    digest: String,
    architecture: String,
    parameters: u64,
    /// By the name of their type.
    types: BTreeMap<&'static str, Tensors>,
    #[serde(flatten)]
    shape: Shape,
    /// `gpt2 (smollm)`: the kind and, where the file names one, the pre-tokenizer.
    tokenizer: String,
    tokens: usize,
    template: String,
}

/// The tensors of one type.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Tensors {
    tensors: u64,
    parameters: u64,
    bytes: u64,
}

pub(crate) fn run(args: &InspectArgs) -> Result<(), Failure> {
    let inspection = inspect(args)?;
    match args.output {
        Output::Text => writeln!(std::io::stdout(), "{inspection}")?,
        Output::Json => output::json(&inspection)?,
    }
    match inspection.refused {
        None => Ok(()),
        Some(reason) => Err(Failure::new(Code::BadData, format!("{} does not run here: {reason}", args.model))),
    }
}

fn inspect(args: &InspectArgs) -> Result<Inspection, Failure> {
    let options = supply::Options::from_env(configuration::cache_dir()?);
    let mut progress = Progress::default();
    let mut show = |stage: supply::Stage, done, total| progress.show(&stage_of(&args.model, stage), done, total);
    let supplied = supply::load(&ModelRef::from(args.model.as_str()), &options, &mut show);
    progress.finish();
    match supplied {
        Ok(Supplied { gguf, path, .. }) => Ok(examine(&gguf, path.display().to_string(), args)),
        Err(SupplyError::Gguf { path, source }) => Ok(Inspection {
            file: path.display().to_string(),
            contents: None,
            memory: None,
            speed: None,
            refused: Some(source.to_string()),
        }),
        Err(error) => Err(Failure::new(Code::Unavailable, error)),
    }
}

fn examine(gguf: &Gguf, file: String, args: &InspectArgs) -> Inspection {
    let (mut contents, mut refused) = contents(gguf);
    let plan = |weights| Memory::plan(weights, &contents.shape, args.slots, args.ctx);
    // As the file has them, which is nearly what they take; exactly, once they are loaded.
    let mut memory = plan(contents.types.values().map(|of| of.bytes).sum());
    refused = refused.or_else(|| memory.as_ref().and_then(too_large));
    let mut makes = Makes::Text;
    if refused.is_none() {
        let options = EngineOptions { level: Level::detect(), threads: 1, ctx_max: u32::MAX };
        match Engine::load(gguf, options) {
            Err(error) => refused = Some(error.to_string()),
            Ok(engine) => {
                makes = engine.makes();
                memory = plan(engine.weights().0);
                refused = memory.as_ref().and_then(too_large);
            }
        }
    }
    match makes {
        Makes::Text => {}
        Makes::Vectors => contents.template = "none: it makes vectors of texts, by `POST /v1/embeddings`".to_owned(),
        Makes::Scores => contents.template = "none: it scores pairs of texts, by `POST /v1/rerank`".to_owned(),
    }
    // What reads its weights once for many tokens is not bound by memory.
    let answers = refused.is_none() && makes == Makes::Text;
    let speed = if answers { Some(Speed::estimate(gguf)) } else { None };
    Inspection { file, contents: Some(contents), memory, speed, refused }
}

fn too_large(memory: &Memory) -> Option<String> {
    let (needed, available) = (size(memory.needed), size(memory.available));
    let problem = || format!("it needs {needed} of memory, and {available} are available; lower `--ctx` or `--slots`");
    (!memory.fits).then(problem)
}

/// What the file holds, and what of it would be refused before the weights are looked at.
fn contents(gguf: &Gguf) -> (Contents, Option<String>) {
    let word = |key: &str| gguf.opt_str(key).ok().flatten().map(str::to_owned);
    let mut types: BTreeMap<&'static str, Tensors> = BTreeMap::new();
    for tensor in gguf.tensors() {
        let of = types.entry(tensor.kind.name()).or_default();
        of.tensors += 1;
        of.parameters += tensor.ne.iter().product::<u64>();
        of.bytes += tensor.bytes.len() as u64;
    }
    let tokenizer = Tokenizer::from_gguf(gguf);
    let template = Template::from_gguf(gguf);
    let kind = word("tokenizer.ggml.model").unwrap_or_else(|| "none".to_owned());
    let contents = Contents {
        bytes: gguf.file_bytes(),
        digest: gguf.digest().to_string(),
        architecture: word("general.architecture").unwrap_or_else(|| "none".to_owned()),
        parameters: types.values().map(|of| of.parameters).sum(),
        types,
        shape: Shape::of(gguf),
        tokenizer: word("tokenizer.ggml.pre").map_or(kind.clone(), |pre| format!("{kind} ({pre})")),
        tokens: tokenizer.as_ref().map_or(0, Tokenizer::vocab_len),
        template: match &template {
            Ok(template) => template.origin().to_string(),
            Err(error) => error.to_string(),
        },
    };
    let template = template.err().filter(|error| !matches!(error, TemplateError::Absent { .. }));
    let refused = tokenizer.err().map(|error| error.to_string());
    (contents, refused.or_else(|| template.map(|error| error.to_string())))
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "file          {}", self.file)?;
        if let Some(contents) = &self.contents {
            writeln!(f, "{contents}")?;
        }
        if let Some(memory) = &self.memory {
            writeln!(f, "memory        {memory}")?;
        }
        if let Some(speed) = &self.speed {
            writeln!(f, "speed         {speed}")?;
        }
        match &self.refused {
            None => write!(f, "verdict       runs on this machine's host engine ({})", Level::detect()),
            Some(reason) => write!(f, "verdict       refused: {reason}"),
        }
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Contents { bytes, digest, architecture, parameters, types, shape, tokenizer, tokens, template } = self;
        writeln!(f, "size          {} ({bytes} bytes)", size(*bytes))?;
        writeln!(f, "digest        {digest}")?;
        writeln!(f, "architecture  {architecture}, {shape}")?;
        writeln!(f, "parameters    {:.1} million", *parameters as f64 / 1e6)?;
        for (name, Tensors { tensors, parameters, bytes }) in types {
            let millions = *parameters as f64 / 1e6;
            writeln!(f, "  {name:<6}      {tensors:>5} tensors, {millions:>9.1} million, {}", size(*bytes))?;
        }
        writeln!(f, "tokenizer     {tokenizer}, {tokens} tokens")?;
        write!(f, "template      {template}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orchestrion_gpu::generate::{GenSpec, generate};
    use orchestrion_gpu::gguf::TensorKind;
    use orchestrion_gpu::gguf::write::{Meta, Writer};

    fn args(slots: u64, ctx: Option<u64>) -> InspectArgs {
        InspectArgs { model: "tiny.gguf".to_owned(), slots, ctx, output: Output::Text }
    }

    #[test]
    fn a_file_that_runs_is_told_in_full() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let inspection = examine(&gguf, "tiny.gguf".to_owned(), &args(4, None));
        assert_eq!(inspection.refused, None);
        let contents = inspection.contents.as_ref().unwrap();
        assert_eq!(contents.types.values().map(|of| of.parameters).sum::<u64>(), contents.parameters);
        assert_eq!((contents.tokens, contents.tokenizer.as_str()), (512, "gpt2 (smollm)"));
        let options = EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 16 };
        let engine = Engine::load(&gguf, options).unwrap();
        let memory = inspection.memory.as_ref().unwrap();
        assert_eq!((memory.weights, memory.kv_per_token), (engine.weights().0, engine.kv_per_token().0));
        assert_eq!(memory.needed, engine.weights().0 + 4 * 2_048 * engine.kv_per_token().0);
        assert!(inspection.speed.as_ref().is_some_and(|speed| speed.tokens_per_s > 0.0));
        let text = inspection.to_string();
        for line in [
            "architecture  llama, 4 layers",
            "template      the file's own chat template",
            "estimate",
            "verdict       runs",
        ] {
            assert!(text.contains(line), "no `{line}` in:\n{text}");
        }
    }

    #[test]
    fn an_encoder_has_no_template_and_gives_no_answers() {
        for (head, route) in [(None, "POST /v1/embeddings"), (Some(TensorKind::Q8_0), "POST /v1/rerank")] {
            let spec = GenSpec { head, ..GenSpec::of("bert").unwrap() };
            let gguf = Gguf::parse(generate(&spec).unwrap()).unwrap();
            let text = examine(&gguf, "e.gguf".to_owned(), &args(4, None)).to_string();
            assert!(text.contains(route) && text.contains("verdict       runs"), "{text}");
            assert!(!text.contains("completions") && !text.contains("tokens/s"), "{text}");
        }
    }

    #[test]
    fn what_is_refused_is_said_with_the_reason() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        let large = examine(&gguf, "tiny.gguf".to_owned(), &args(1 << 40, None));
        assert!(large.refused.is_some_and(|reason| reason.starts_with("it needs ")));
        assert!(large.speed.is_none());
        let mut other = Writer::default();
        other.pair("general.architecture", Meta::Str("elephant".to_owned()));
        other.pair("tokenizer.ggml.model", Meta::Str("t5".to_owned()));
        let other = examine(&Gguf::parse(other.finish()).unwrap(), "e.gguf".to_owned(), &args(1, None));
        let text = other.to_string();
        assert!(text.contains("architecture  elephant"), "{text}");
        assert!(
            text.contains(
                "verdict       refused: tokenizer.ggml.model: expected `gpt2`, `llama` or `bert`, found `t5`"
            ),
            "{text}"
        );
        assert!(other.memory.is_none() && other.speed.is_none());
    }
}
