//! The same prompts under many settings: every logit of every step is compared with those of the first setting,
//! which is one answer at a time, its prompt whole, on the slowest of the levels asked for.

use super::digest;
use crate::engine::{Engine, EngineOptions, Level, LoadError, NumericFault, SequenceId, Wants, Work};
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
    /// Whether steps run drafts, right and wrong ones.
    pub drafted: bool,
    /// Whether answers give their pages back at a random moment and read again what they had.
    pub preempted: bool,
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

/// Company, in this order: cancelled, cached, drafted, preempted.
const COMPANY: [[bool; 4]; 7] = {
    let (no, yes) = (false, true);
    [
        [no, no, no, no],
        [yes, no, no, no],
        [no, yes, no, no],
        [yes, yes, no, no],
        [no, no, yes, no],
        [no, yes, no, yes],
        [yes, yes, yes, yes],
    ]
};
/// Tokens of the longest draft.
const DRAFT: usize = 5;

/// An answer's tokens, each with a digest of the logits that it was drawn from.
type Answer = Vec<([u8; 32], u32)>;

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
            run(&mut current, &prompts, (plan.answer, &expected), *setting, &mut dice);
        }
        let answers = run(&mut current, &prompts, (plan.answer, &expected), *setting, &mut dice);
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
                    all.extend(COMPANY.map(|[cancelled, cached, drafted, preempted]| {
                        let level = *level;
                        Setting { level, threads, chunk, batch, cancelled, cached, drafted, preempted }
                    }));
                }
            }
        }
    }
    all
}

/// The first, and of the others always the one with the most pairs that none so far has.
fn pairs(all: &[Setting]) -> Vec<Setting> {
    let of = |s: &Setting| {
        let flags = [s.cancelled, s.cached, s.drafted, s.preempted].map(usize::from);
        let choices = [s.level as usize, s.threads, s.chunk, s.batch].into_iter().chain(flags);
        let choices: Vec<(usize, usize)> = choices.enumerate().collect();
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
    /// The prompt, and the answer so far.
    tokens: Vec<u32>,
    /// Of those, what was run, or known.
    read: usize,
}

impl Asked {
    fn new(engine: &mut Engine, prompt: usize, tokens: Vec<u32>, cached: bool) -> Asked {
        let (sequence, read) = if cached { engine.open_after(CACHE, &tokens) } else { (engine.open(), 0) };
        Asked { prompt, sequence, tokens, read: read as usize }
    }

    /// What it runs next: a chunk, or its last token and a draft of what may follow, of which half is right.
    fn next(&self, setting: Setting, right: &[([u8; 32], u32)], dice: &mut Dice) -> (Vec<u32>, Wants) {
        let rest = &self.tokens[self.read..];
        let chunk = if setting.chunk == 0 { usize::MAX } else { setting.chunk };
        if rest.len() > chunk {
            return (rest[..chunk].to_vec(), Wants::Nothing);
        }
        let most = if setting.drafted { right.len().min(DRAFT) } else { 0 };
        let draft = dice.below(most + 1);
        let guess = right.iter().take(draft).map(|(_, token)| if dice.below(6) == 0 { 0 } else { *token });
        (rest.iter().copied().chain(guess).collect(), Wants::Draft(draft))
    }

    /// Draws from the logits of a step, as far as the draft was right; gives how much of it that was.
    fn take_up<'a>(
        &mut self,
        (tokens, wants): &(Vec<u32>, Wants),
        logits: impl Fn(usize) -> Result<Option<&'a [f32]>, NumericFault>,
        answer: &mut Answer,
        length: usize,
    ) -> usize {
        let draft = if let Wants::Draft(draft) = wants { &tokens[tokens.len() - draft..] } else { &[] };
        self.read += tokens.len() - draft.len();
        for at in 0..=draft.len() {
            let Ok(logits) = logits(at) else {
                answer.resize(length, ([0; 32], 0));
                return at;
            };
            let Some(logits) = logits else { return at };
            let next = best(logits);
            answer.push((digest(logits), next));
            self.tokens.push(next);
            if answer.len() == length || draft.get(at) != Some(&next) {
                return at;
            }
            self.read += 1;
        }
        draft.len()
    }
}

/// Answers all prompts greedily, in a random order, of which some begin while others are at it. `right` is what
/// they are expected to answer, where it is known.
fn run(
    engine: &mut Engine,
    prompts: &[Vec<u32>],
    (length, right): (usize, &[Answer]),
    setting: Setting,
    dice: &mut Dice,
) -> Vec<Answer> {
    let mut answers: Vec<Answer> = vec![vec![]; prompts.len()];
    let mut waiting: Vec<usize> = (0..prompts.len()).collect();
    let (mut asked, mut others): (Vec<Asked>, Vec<SequenceId>) = (vec![], vec![]);
    while !waiting.is_empty() || !asked.is_empty() {
        while asked.len() < setting.batch && !waiting.is_empty() && (asked.is_empty() || dice.below(2) == 0) {
            let prompt = waiting.swap_remove(dice.below(waiting.len()));
            asked.push(Asked::new(engine, prompt, prompts[prompt].clone(), setting.cached));
        }
        if setting.cancelled {
            disturb(engine, &mut others, dice);
        }
        for a in asked.iter_mut().filter(|_| setting.preempted) {
            if dice.below(12) == 0 {
                engine.close(a.sequence);
                *a = Asked::new(engine, a.prompt, std::mem::take(&mut a.tokens), setting.cached);
            }
        }
        let expected = |a: &Asked| right.get(a.prompt).map_or(&[][..], |right| &right[answers[a.prompt].len()..]);
        let runs: Vec<(Vec<u32>, Wants)> = asked.iter().map(|a| a.next(setting, expected(a), dice)).collect();
        let noise: Vec<u32> = (0..4).map(|_| dice.below(engine.vocab() as usize) as u32).collect();
        let own = asked.iter().zip(&runs);
        let own = own.map(|(a, (tokens, wants))| Work { sequence: a.sequence, tokens, wants: *wants });
        let noisy = |&sequence| Work { sequence, tokens: &noise, wants: Wants::Nothing };
        let work: Vec<Work<'_>> = own.chain(others.iter().map(noisy)).collect();
        // Tokens are below the vocabulary's size and positions within the context; a fault is an answer as well.
        let step = engine.step(&work);
        let mut accepted = vec![0; asked.len()];
        for (i, a) in asked.iter_mut().enumerate() {
            let logits = |at| step.as_ref().map_or(Err(NumericFault), |step| step.logits(i, at));
            accepted[i] = a.take_up(&runs[i], logits, &mut answers[a.prompt], length);
        }
        drop(step);
        asked.iter().zip(accepted).for_each(|(a, accepted)| engine.accept(a.sequence, accepted));
        asked.retain(|a| {
            let goes_on = answers[a.prompt].len() < length;
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
        Plan { levels, coverage, prompts: 6, answer: 6, longest: 90, seed: 7 }
    }

    #[test]
    fn generated_models_answer_the_same_under_every_pair_of_settings() {
        for arch in ["llama", "gemma3"] {
            let gguf =
                Gguf::parse(generate(&GenSpec { context: 4096, ..GenSpec::of(arch).unwrap() }).unwrap()).unwrap();
            let found = determinism(&gguf, &plan(Coverage::Pairs), &mut |_, _| ()).unwrap();
            assert_eq!(found.differences, []);
            assert_eq!(found.comparisons, (found.settings as u64 - 1) * 6 * 6);
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
            Setting {
                level: Level::Scalar,
                threads: 1,
                chunk: 0,
                batch: 1,
                cancelled: false,
                cached: false,
                drafted: false,
                preempted: false
            }
        );
        assert!(few.len() < all.len() / 4);
        for chunk in CHUNKS {
            for batch in BATCHES {
                assert!(few.iter().any(|s| (s.chunk, s.batch) == (chunk, batch)));
            }
        }
    }
}
