//! Tokens a second of the host engine, its load time and memory, beside what the machine could do at most.
//!
//! Everything is measured once in each run, so that a machine that others use too distorts all figures alike; told
//! are the medians. No prompt is needed: which tokens are read changes no speed.

use super::clock::{Mark, Spent, median};
use crate::cli::BenchEngineArgs;
use crate::configuration;
use crate::failure::{Code, Failure};
use crate::progress::{Progress, stage_of};
use orchestrion_gpu::engine::{Ceilings, Engine, EngineOptions, Level, Wants, Work};
use orchestrion_gpu::supply::{self, ModelRef};
use orchestrion_gpu::tokenizer::Tokenizer;
use orchestrion_planner::{ALONE, CHUNK};
use rustix::time::ClockId;
use serde::Serialize;
use std::fmt;

/// Tokens of the prompt.
const PROMPT: usize = 512;
/// Of one step of it, as the server cuts a prompt that delays no answer.
const STEP: usize = (CHUNK * ALONE) as usize;
/// Tokens of an answer.
const ANSWER: usize = 64;
/// Answers at a time.
const BATCHES: [usize; 4] = [1, 4, 8, 16];

/// A speed: by wall time, and by CPU time of the whole process.
#[derive(Debug, Serialize)]
struct Speed {
    tokens_per_s: f64,
    tokens_per_cpu_s: f64,
}

#[derive(Debug, Serialize)]
struct Batch {
    answers: usize,
    #[serde(flatten)]
    speed: Speed,
    /// Read by the steps, which read all weights once each.
    weights_gb_per_s: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Rows {
    model: String,
    kernels: String,
    threads: usize,
    runs: u32,
    /// From the file to an engine with its tokenizer.
    load_ms: f64,
    load_cpu_ms: f64,
    file_bytes: u64,
    weights_bytes: u64,
    /// The most the process has had in memory once it had loaded the model and answered once.
    peak_rss_bytes: u64,
    prefill: Speed,
    prefill_gmac_per_s: f64,
    decode: Vec<Batch>,
    read_gb_per_s: f64,
    int8_gmac_per_s: f64,
}

/// What one run came to.
struct Run {
    load: Spent,
    prefill: Spent,
    decode: [Spent; BATCHES.len()],
    ceilings: Ceilings,
}

pub(super) fn measure(args: &BenchEngineArgs) -> Result<Rows, Failure> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    let level = args.simd.level();
    let (mut engine, file_bytes) = load(&args.model, level, threads)?;
    if engine.is_encoder() {
        let problem = format!("{}: it makes no text; name a model that answers prompts", args.model);
        return Err(Failure::new(Code::BadConfig, problem));
    }
    prefill(&mut engine)?;
    decode(&mut engine, 1)?;
    let peak_rss_bytes = crate::memory::peak()?;
    let (weights_bytes, products) = (engine.weights().0, engine.products_per_token());
    let weights_read = engine.weights_read().0;
    let mut progress = Progress::default();
    let mut runs = vec![];
    for done in 0..args.runs {
        progress.show("measuring the engine", u64::from(done), u64::from(args.runs));
        // Two engines at a time would not be what a server has.
        drop(engine);
        let mark = Mark::of(ClockId::ProcessCPUTime);
        engine = load(&args.model, level, threads)?.0;
        let load = mark.spent();
        let prefill = prefill(&mut engine)?;
        let mut spent = [Spent::default(); BATCHES.len()];
        for (spent, answers) in spent.iter_mut().zip(BATCHES) {
            *spent = decode(&mut engine, answers)?;
        }
        let ceilings = Ceilings::measure(level, threads).map_err(Failure::of(Code::BadConfig))?;
        runs.push(Run { load, prefill, decode: spent, ceilings });
    }
    progress.finish();
    let middle = |figure: &dyn Fn(&Run) -> f64| median(runs.iter().map(figure).collect());
    let speed = |tokens: usize, of: &dyn Fn(&Run) -> Spent| Speed {
        tokens_per_s: middle(&|run| tokens as f64 / of(run).wall.as_secs_f64()),
        tokens_per_cpu_s: middle(&|run| tokens as f64 / of(run).cpu.as_secs_f64()),
    };
    let prefill = speed(PROMPT, &|run| run.prefill);
    let decode = BATCHES.into_iter().enumerate().map(|(i, answers)| {
        let speed = speed(ANSWER * answers, &|run| run.decode[i]);
        let weights_gb_per_s = speed.tokens_per_s / answers as f64 * weights_read as f64 / 1e9;
        Batch { answers, speed, weights_gb_per_s }
    });
    Ok(Rows {
        model: args.model.clone(),
        kernels: level.to_string(),
        threads,
        runs: args.runs,
        load_ms: middle(&|run| run.load.wall.as_secs_f64() * 1e3),
        load_cpu_ms: middle(&|run| run.load.cpu.as_secs_f64() * 1e3),
        file_bytes,
        weights_bytes,
        peak_rss_bytes,
        prefill_gmac_per_s: prefill.tokens_per_s * products as f64 / 1e9,
        prefill,
        decode: decode.collect(),
        read_gb_per_s: middle(&|run| run.ceilings.read_bytes) / 1e9,
        int8_gmac_per_s: middle(&|run| run.ceilings.products) / 1e9,
    })
}

/// An engine with all that serving it takes, and the length of its file.
fn load(model: &str, level: Level, threads: usize) -> Result<(Engine, u64), Failure> {
    let options = supply::Options::from_env(configuration::cache_dir()?);
    let mut progress = Progress::default();
    let mut show = |stage: supply::Stage, done, total| progress.show(&stage_of(model, stage), done, total);
    let supplied = supply::load(&ModelRef::from(model), &options, &mut show).map_err(Failure::of(Code::Unavailable))?;
    progress.finish();
    let gguf = supplied.gguf;
    let file_bytes = gguf.file_bytes();
    Tokenizer::from_gguf(&gguf).map_err(Failure::of(Code::BadData))?;
    let options = EngineOptions { level, threads, ctx_max: u32::MAX };
    Ok((Engine::load(&gguf, options).map_err(Failure::of(Code::BadData))?, file_bytes))
}

fn token(engine: &Engine, i: usize) -> u32 {
    (i as u32).wrapping_mul(7919).wrapping_add(13) % engine.vocab()
}

fn prefill(engine: &mut Engine) -> Result<Spent, Failure> {
    let prompt: Vec<u32> = (0..PROMPT).map(|i| token(engine, i)).collect();
    let sequence = engine.open();
    let mark = Mark::of(ClockId::ProcessCPUTime);
    for tokens in prompt.chunks(STEP) {
        engine.step(&[Work { sequence, tokens, wants: Wants::Nothing }]).map_err(Failure::of(Code::Failed))?;
    }
    let spent = mark.spent();
    engine.close(sequence);
    Ok(spent)
}

fn decode(engine: &mut Engine, answers: usize) -> Result<Spent, Failure> {
    let answer: Vec<u32> = (0..ANSWER).map(|i| token(engine, i)).collect();
    let sequences: Vec<_> = (0..answers).map(|_| engine.open()).collect();
    let mark = Mark::of(ClockId::ProcessCPUTime);
    for tokens in answer.chunks(1) {
        let work = sequences.iter().map(|&sequence| Work { sequence, tokens, wants: Wants::Last });
        engine.step(&work.collect::<Vec<_>>()).map_err(Failure::of(Code::Failed))?;
    }
    let spent = mark.spent();
    sequences.into_iter().for_each(|sequence| engine.close(sequence));
    Ok(spent)
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| crate::memory::size(bytes);
        writeln!(
            f,
            "{}: {} kernels, {} threads; medians of {} runs",
            self.model, self.kernels, self.threads, self.runs
        )?;
        writeln!(
            f,
            "load {:.0} ms ({:.0} of CPU), file {}, weights {}, peak RSS {}",
            self.load_ms,
            self.load_cpu_ms,
            mib(self.file_bytes),
            mib(self.weights_bytes),
            mib(self.peak_rss_bytes)
        )?;
        writeln!(
            f,
            "this machine reads {:.1} GB/s and makes {:.0} int8 GMAC/s",
            self.read_gb_per_s, self.int8_gmac_per_s
        )?;
        writeln!(f)?;
        writeln!(f, "{:>14} {:>9} {:>13} {:>16} {:>8}", "", "tokens/s", "by CPU time", "weights, GB/s", "GMAC/s")?;
        let Speed { tokens_per_s, tokens_per_cpu_s } = self.prefill;
        let prefill = format!("prefill {PROMPT}");
        write!(
            f,
            "{prefill:>14} {tokens_per_s:>9.1} {tokens_per_cpu_s:>13.1} {:>16} {:>8.1}",
            "", self.prefill_gmac_per_s
        )?;
        for Batch { answers, speed: Speed { tokens_per_s, tokens_per_cpu_s }, weights_gb_per_s } in &self.decode {
            let name = format!("{answers} at a time");
            write!(f, "\n{name:>14} {tokens_per_s:>9.1} {tokens_per_cpu_s:>13.1} {weights_gb_per_s:>16.1}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::configuration::Simd;
    use orchestrion_gpu::generate::{GenSpec, generate};

    #[test]
    fn a_generated_model_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, generate(&GenSpec { context: 1024, ..GenSpec::default() }).unwrap()).unwrap();
        let model = path.display().to_string();
        let args = BenchEngineArgs { model, threads: Some(2), simd: Simd::Auto, runs: 1, output: Output::Json };
        let rows = measure(&args).unwrap_or_else(|failure| unreachable!("{failure}"));
        assert_eq!(rows.decode.len(), BATCHES.len());
        assert!(rows.prefill.tokens_per_s > 0.0 && rows.decode.iter().all(|batch| batch.speed.tokens_per_s > 0.0));
        assert!(rows.peak_rss_bytes > rows.weights_bytes && rows.read_gb_per_s > 0.0);
        assert!(rows.to_string().contains("16 at a time"), "{rows}");
        std::fs::write(&path, generate(&GenSpec::of("bert").unwrap()).unwrap()).unwrap();
        let error = measure(&args).unwrap_err().to_string();
        assert!(error.ends_with("it makes no text; name a model that answers prompts"), "{error}");
    }
}
