//! What the checks against independent implementations (`.ci/oracle`) ask of the engine.
//!
//! `layers MODEL LEVEL THREADS TOKENS OUT` runs the token ids in the file TOKENS (decimal, separated by
//! white space) as one prompt and writes f32, little endian: the residual stream of all positions after
//! the embedding, then after the attention and after the whole of each layer, at last all logits (of an encoder none).
//!
//! `tokenize MODEL plain|special` reads JSON strings, one per line, from the standard input and prints the
//! ids of each as a JSON array; `special` reads control tokens in the text. `detokenize MODEL` is the way back.
//!
//! `embed MODEL TOKENS` prints the vector of the token ids in the file TOKENS, as a JSON array.
//!
//! `speed MODEL LEVEL THREADS` measures prefill and decode. Nothing here is part of the product.

use orchestrion_gpu::engine::{Engine, EngineOptions, Level, Wants, Work};
use orchestrion_gpu::gguf::Gguf;
use orchestrion_gpu::tokenizer::{Detokenizer, Tokenizer};
use std::error::Error;
use std::io::Write as _;
use std::time::Instant;

type Answer = Result<(), Box<dyn Error>>;

fn main() -> Answer {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["layers", model, level, threads, tokens, out] => layers(model, level, threads, tokens, out),
        ["tokenize", model, mode @ ("plain" | "special")] => tokenize(model, *mode == "special"),
        ["detokenize", model] => detokenize(model),
        ["embed", model, tokens] => embed(model, tokens),
        ["speed", model, level, threads] => speed(model, level, threads),
        _ => Err("usage: trace layers MODEL LEVEL THREADS TOKENS OUT | tokenize MODEL plain|special | \
                   detokenize MODEL | embed MODEL TOKENS | speed MODEL LEVEL THREADS"
            .into()),
    }
}

fn engine(model: &str, level: &str, threads: &str) -> Result<Engine, Box<dyn Error>> {
    let gguf = Gguf::parse(std::fs::read(model)?)?;
    let options = EngineOptions { level: level.parse()?, threads: threads.parse()?, ctx_max: u32::MAX };
    Ok(Engine::load(&gguf, options)?)
}

fn layers(model: &str, level: &str, threads: &str, tokens: &str, out: &str) -> Answer {
    let mut engine = engine(model, level, threads)?;
    let tokens: Vec<u32> =
        std::fs::read_to_string(tokens)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(out)?);
    let is_encoder = engine.is_encoder();
    let sequence = if is_encoder { engine.open_pooled(tokens.len() as u32) } else { engine.open() };
    // A work item for each token, so that each has its logits.
    let wants = if is_encoder { Wants::Nothing } else { Wants::Last };
    let work: Vec<Work<'_>> = tokens.chunks(1).map(|tokens| Work { sequence, tokens, wants }).collect();
    let mut written = Ok(());
    let step = engine.step_traced(&work, &mut |_, x| {
        if written.is_ok() {
            written = x.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()));
        }
    })?;
    written?;
    for i in 0..work.len() {
        let logits = step.logits(i, 0)?.unwrap_or_default();
        logits.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))?;
    }
    Ok(out.flush()?)
}

fn embed(model: &str, tokens: &str) -> Answer {
    let mut engine = engine(model, &Level::detect().to_string(), "2")?;
    let tokens: Vec<u32> =
        std::fs::read_to_string(tokens)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let sequence = engine.open_pooled(tokens.len() as u32);
    engine.step(&[Work { sequence, tokens: &tokens, wants: Wants::Nothing }])?;
    let vector = engine.pooled(sequence)?;
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&vector)?)?)
}

fn speed(model: &str, level: &str, threads: &str) -> Answer {
    let mut engine = engine(model, level, threads)?;
    let tokens: Vec<u32> = (0..512).map(|i| (i * 7919 + 13) % engine.vocab()).collect();
    let mut line = format!("{level}, {threads} threads:");
    for round in 0..3 {
        let sequence = engine.open();
        let start = Instant::now();
        for chunk in tokens.chunks(64) {
            engine.step(&[Work { sequence, tokens: chunk, wants: Wants::Nothing }])?.logits(0, 0)?;
        }
        let prefill = tokens.len() as f64 / start.elapsed().as_secs_f64();
        engine.close(sequence);
        let sequence = engine.open();
        let start = Instant::now();
        for token in tokens[..128].chunks(1) {
            engine.step(&[Work { sequence, tokens: token, wants: Wants::Last }])?.logits(0, 0)?;
        }
        let decode = 128.0 / start.elapsed().as_secs_f64();
        engine.close(sequence);
        let eight: Vec<_> = (0..8).map(|_| engine.open()).collect();
        let start = Instant::now();
        for token in tokens[..32].chunks(1) {
            let work: Vec<_> = eight.iter().map(|s| Work { sequence: *s, tokens: token, wants: Wants::Last }).collect();
            engine.step(&work)?.logits(0, 0)?;
        }
        let batched = 256.0 / start.elapsed().as_secs_f64();
        eight.into_iter().for_each(|s| engine.close(s));
        line += &format!(" [{round}] prefill {prefill:.0}, decode {decode:.1}, 8 parallel {batched:.0} tok/s;");
    }
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn tokenize(model: &str, parse_special: bool) -> Answer {
    let tokenizer = Tokenizer::from_gguf(&Gguf::parse(std::fs::read(model)?)?)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lines() {
        let text: String = serde_json::from_str(&line?)?;
        writeln!(out, "{}", serde_json::to_string(&tokenizer.encode(&text, parse_special))?)?;
    }
    Ok(out.flush()?)
}

fn detokenize(model: &str) -> Answer {
    let tokenizer = Tokenizer::from_gguf(&Gguf::parse(std::fs::read(model)?)?)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lines() {
        let (mut stream, mut text) = (Detokenizer::default(), String::new());
        serde_json::from_str::<Vec<u32>>(&line?)?.into_iter().for_each(|id| stream.push(&tokenizer, id, &mut text));
        stream.finish(&mut text);
        writeln!(out, "{}", serde_json::to_string(&text)?)?;
    }
    Ok(out.flush()?)
}
