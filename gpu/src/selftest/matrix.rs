//! The same prompts under many settings: every logit of every step is compared with those of the first setting,
//! which is one answer at a time, its prompt whole, on the slowest of the levels asked for.

use super::digest;
use crate::engine::{Engine, EngineOptions, Level, LoadError, SequenceId, Work};
use crate::generate::weights::Weights;
use crate::gguf::Gguf;
use serde::Serialize;

/// What may differ between two runs of a prompt and must not change its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    #[serde(serialize_with = "name")]
    pub level: Level,
    pub threads: usize,
    /// Tokens of a prompt in a step; 0 is all of them.
    pub chunk: usize,
    /// Answers at a time.
    pub batch: usize,
    /// Whether others come in between and are cancelled at a random moment.
    pub cancelled: bool,
    /// Whether prompts have been read before, so that their beginnings are known.
    pub cached: bool,
}

fn name<S: serde::Serializer>(level: &Level, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(level)
}

/// Which settings are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// As few as have each pair of two choices in one of them.
    Pairs,
    All,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub levels: Vec<Level>,
    pub coverage: Coverage,
    pub prompts: usize,
    /// Tokens of each answer.
    pub answer: usize,
    /// The longest prompt.
    pub longest: usize,
    pub seed: u64,
}

/// The first difference of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub setting: Setting,
    pub prompt: usize,
    pub token: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Determinism {
    pub settings: usize,
    /// Vectors of logits that were compared.
    pub comparisons: u64,
    pub differences: Vec<Difference>,
}

const THREADS: [usize; 2] = [1, 2];
const CHUNKS: [usize; 4] = [0, 16, 64, 256];
const BATCHES: [usize; 5] = [1, 2, 4, 8, 32];

/// Whose cache it is.
const CACHE: u64 = 1;

/// Digests of an answer's logits, token by token.
type Answer = Vec<[u8; 32]>;

/// Runs the plan; `progress` hears settings done and all of them.
pub fn determinism(gguf: &Gguf, plan: &Plan, progress: &mut dyn FnMut(u64, u64)) -> Result<Determinism, LoadError> {
    let mut settings = settings(&plan.levels);
    if plan.coverage == Coverage::Pairs {
        settings = pairs(&settings);
    }
    let mut dice = Dice(Weights::new(plan.seed));
    let mut found = Determinism { settings: settings.len(), comparisons: 0, differences: vec![] };
    let mut engine: Option<Engine> = None;
    let (mut prompts, mut expected): (Vec<Vec<u32>>, Vec<Answer>) = (vec![], vec![]);
    for (done, setting) in settings.iter().enumerate() {
        progress(done as u64, settings.len() as u64);
        let fits = |e: &Engine| (e.level(), e.threads()) == (setting.level, setting.threads);
        let mut current = match engine.take().filter(fits) {
            Some(engine) => engine,
            None => {
                let (level, threads) = (setting.level, setting.threads);
                Engine::load(gguf, EngineOptions { level, threads, ctx_max: u32::MAX })?
            }
        };
        if prompts.is_empty() {
            let vocab = current.vocab() as usize;
            prompts = (0..plan.prompts)
                .map(|_| (0..=dice.below(plan.longest)).map(|_| dice.below(vocab) as u32).collect())
                .collect();
        }
        if setting.cached {
            run(&mut current, &prompts, plan.answer, *setting, &mut dice);
        }
        let answers = run(&mut current, &prompts, plan.answer, *setting, &mut dice);
        engine = Some(current);
        if expected.is_empty() {
            expected = answers;
            continue;
        }
        for (prompt, (found_answer, expected)) in answers.iter().zip(&expected).enumerate() {
            found.comparisons += expected.len() as u64;
            if let Some(token) = (0..expected.len()).find(|i| found_answer.get(*i) != expected.get(*i)) {
                found.differences.push(Difference { setting: *setting, prompt, token });
            }
        }
    }
    progress(settings.len() as u64, settings.len() as u64);
    Ok(found)
}

/// Every setting; those of one level and number of threads stand together.
fn settings(levels: &[Level]) -> Vec<Setting> {
    let mut all = vec![];
    for level in levels {
        for threads in THREADS {
            for batch in BATCHES {
                for chunk in CHUNKS {
                    for (cancelled, cached) in [(false, false), (true, false), (false, true), (true, true)] {
                        all.push(Setting { level: *level, threads, chunk, batch, cancelled, cached });
                    }
                }
            }
        }
    }
    all
}

/// The first, and of the others always the one with the most pairs that none so far has.
fn pairs(all: &[Setting]) -> Vec<Setting> {
    let of = |s: &Setting| {
        let flags = [s.cancelled, s.cached].map(usize::from);
        let choices = [s.level as usize, s.threads, s.chunk, s.batch, flags[0], flags[1]];
        let choices: Vec<(usize, usize)> = choices.into_iter().enumerate().collect();
        let pairs = choices.iter().enumerate().flat_map(|(i, a)| choices[i + 1..].iter().map(move |b| (*a, *b)));
        pairs.collect::<Vec<_>>()
    };
    let mut covered = std::collections::BTreeSet::new();
    let mut chosen = vec![];
    loop {
        let fresh = |s: &Setting| of(s).iter().filter(|pair| !covered.contains(*pair)).count();
        // Of equals the first.
        let Some(best) = all.iter().rev().max_by_key(|s| fresh(s)).filter(|s| fresh(s) > 0) else { break };
        covered.extend(of(best));
        chosen.push(*best);
    }
    chosen.sort_by_key(|s| (s.level, s.threads));
    // What all others are compared with: alone, whole, undisturbed.
    if let Some(at) = chosen.iter().position(|s| *s == all[0]) {
        chosen.swap(0, at);
    }
    chosen
}

/// A prompt on its way.
struct Asked {
    prompt: usize,
    sequence: SequenceId,
    /// Tokens of the prompt that were run, or known.
    read: usize,
    next: u32,
}

/// Answers all prompts greedily, in a random order, of which some begin while others are at it.
fn run(engine: &mut Engine, prompts: &[Vec<u32>], answer: usize, setting: Setting, dice: &mut Dice) -> Vec<Answer> {
    let mut answers: Vec<Answer> = vec![vec![]; prompts.len()];
    let mut waiting: Vec<usize> = (0..prompts.len()).collect();
    let (mut asked, mut others): (Vec<Asked>, Vec<SequenceId>) = (vec![], vec![]);
    while !waiting.is_empty() || !asked.is_empty() {
        while asked.len() < setting.batch && !waiting.is_empty() && (asked.is_empty() || dice.below(2) == 0) {
            let prompt = waiting.swap_remove(dice.below(waiting.len()));
            let (sequence, read) = match setting.cached {
                true => engine.open_after(CACHE, &prompts[prompt]),
                false => (engine.open(), 0),
            };
            asked.push(Asked { prompt, sequence, read: read as usize, next: 0 });
        }
        if setting.cancelled {
            disturb(engine, &mut others, dice);
        }
        let chunk = if setting.chunk == 0 { usize::MAX } else { setting.chunk };
        let noise: Vec<u32> = (0..4).map(|_| dice.below(engine.vocab() as usize) as u32).collect();
        let mut work: Vec<Work<'_>> = asked
            .iter()
            .map(|a| {
                let rest = &prompts[a.prompt][a.read..];
                let part = &rest[..rest.len().min(chunk)];
                let tokens = if rest.is_empty() { std::slice::from_ref(&a.next) } else { part };
                Work { sequence: a.sequence, tokens, wants_logits: part.len() == rest.len() }
            })
            .collect();
        work.extend(others.iter().map(|&sequence| Work { sequence, tokens: &noise, wants_logits: false }));
        let lengths: Vec<usize> = work.iter().map(|w| w.tokens.len()).collect();
        // Tokens are below the vocabulary's size and positions within the context; a fault is an answer as well.
        let step = engine.step(&work);
        for (i, a) in asked.iter_mut().enumerate() {
            a.read = (a.read + lengths[i]).min(prompts[a.prompt].len());
            let logits = step.as_ref().ok().map(|step| step.logits(i));
            match logits {
                Some(Ok(None)) => {}
                Some(Ok(Some(logits))) => {
                    answers[a.prompt].push(digest(logits));
                    a.next = best(logits);
                }
                Some(Err(_)) | None => answers[a.prompt].resize(answer, [0; 32]),
            }
        }
        drop(step);
        asked.retain(|a| {
            let goes_on = answers[a.prompt].len() < answer;
            if !goes_on {
                engine.close(a.sequence);
            }
            goes_on
        });
    }
    others.into_iter().for_each(|sequence| engine.close(sequence));
    answers
}

/// Others come and go; none stays long enough to fill its context.
fn disturb(engine: &mut Engine, others: &mut Vec<SequenceId>, dice: &mut Dice) {
    if others.len() < 3 && dice.below(2) == 0 {
        others.push(engine.open());
    }
    if !others.is_empty() && dice.below(4) == 0 {
        engine.close(others.swap_remove(dice.below(others.len())));
    }
}

/// The likeliest token, of equals the first.
fn best(logits: &[f32]) -> u32 {
    let best =
        logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, l)| if *l > best.1 { (i, *l) } else { best });
    best.0 as u32
}

struct Dice(Weights);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next() % n.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{GenSpec, generate};

    fn plan(coverage: Coverage) -> Plan {
        let levels: Vec<Level> = Level::ALL.into_iter().filter(|level| level.is_supported()).collect();
        Plan { levels, coverage, prompts: 6, answer: 4, longest: 90, seed: 7 }
    }

    #[test]
    fn generated_models_answer_the_same_under_every_pair_of_settings() {
        for arch in ["llama", "gemma3"] {
            let gguf =
                Gguf::parse(generate(&GenSpec { context: 4096, ..GenSpec::of(arch).unwrap() }).unwrap()).unwrap();
            let found = determinism(&gguf, &plan(Coverage::Pairs), &mut |_, _| ()).unwrap();
            assert_eq!(found.differences, []);
            assert_eq!(found.comparisons, (found.settings as u64 - 1) * 6 * 4);
            assert!(found.settings >= CHUNKS.len() * BATCHES.len(), "{}", found.settings);
        }
    }

    #[test]
    fn pairs_are_all_there_and_the_first_is_alone() {
        let all = settings(&Level::ALL);
        let few = pairs(&all);
        assert_eq!(few[0], all[0]);
        assert_eq!(
            all[0],
            Setting { level: Level::Scalar, threads: 1, chunk: 0, batch: 1, cancelled: false, cached: false }
        );
        assert!(few.len() < all.len() / 4);
        for chunk in CHUNKS {
            for batch in BATCHES {
                assert!(few.iter().any(|s| (s.chunk, s.batch) == (chunk, batch)));
            }
        }
    }
}
