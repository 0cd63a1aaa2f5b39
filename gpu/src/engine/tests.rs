//! What is looked up is what would have been computed, bit by bit; and pages are exactly accounted for.

use super::*;
use crate::generate::{GenSpec, generate};
use crate::gguf::TensorKind;
use proptest::prelude::*;
use std::sync::LazyLock;

static GGUF: LazyLock<Vec<Gguf>> = LazyLock::new(|| {
    ["llama", "gemma3"].map(|arch| Gguf::parse(generate(&GenSpec::of(arch).unwrap()).unwrap()).unwrap()).into()
});

fn engine(arch: usize, level: Level) -> Engine {
    Engine::load(&GGUF[arch], EngineOptions { level, threads: 1, ctx_max: 700 }).unwrap()
}

/// Bits of the logits after the tokens, read in chunks.
fn finish(engine: &mut Engine, sequence: SequenceId, tokens: &[u32], chunk: usize) -> Vec<u32> {
    let mut last = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let step = engine.step(&[Work { sequence, tokens, wants: Wants::Last }]).unwrap();
        last = step.logits(0, 0).unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
    }
    last
}

fn alone(engine: &mut Engine, tokens: &[u32]) -> Vec<u32> {
    let sequence = engine.open();
    let logits = finish(engine, sequence, tokens, usize::MAX);
    engine.close(sequence);
    logits
}

fn prompt(seed: u64, len: usize) -> Vec<u32> {
    let mut noise = crate::numerics::noise::Noise(seed);
    (0..len).map(|_| noise.below(500) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Prompts that share beginnings, some of them in a pool that is too small to keep all, each after the
    /// others and beside one that still runs: logits as if it had been read alone.
    #[test]
    fn a_known_beginning_changes_no_bit(
        arch in 0usize..2,
        trunk in 1usize..330,
        branches in prop::collection::vec((0usize..330, 1usize..80, 1usize..90), 1..6),
        pages in prop_oneof![Just(1000u64), 30u64..60],
        salts in 1u64..3,
    ) {
        let level = Level::detect();
        let (mut plain, mut cached) = (engine(arch, level), engine(arch, level));
        cached.limit_contexts(Bytes(cached.kv_per_token().0 * PAGE as u64 * pages));
        let trunk = prompt(1, trunk);
        let mut running = None;
        for (n, (shared, rest, chunk)) in branches.into_iter().enumerate() {
            let tokens = [&trunk[..shared.min(trunk.len())], &prompt(n as u64 + 2, rest)].concat();
            let (sequence, known) = cached.open_after(n as u64 % salts, &tokens);
            prop_assert!((known as usize) < tokens.len());
            let found = finish(&mut cached, sequence, &tokens[known as usize..], chunk);
            prop_assert_eq!(found, alone(&mut plain, &tokens), "{} of {} known", known, tokens.len());
            if let Some(before) = running.replace(sequence) {
                cached.close(before);
            }
            let held = tokens.len().div_ceil(PAGE);
            prop_assert_eq!(cached.pages().held, held);
        }
        running.into_iter().for_each(|sequence| cached.close(sequence));
        prop_assert_eq!(cached.pages().held, 0);
        prop_assert_eq!(cached.pages().available() as u64, pages);
    }
}

#[test]
fn a_prompt_read_before_is_known_but_for_its_last_token() {
    let mut engine = engine(0, Level::detect());
    let tokens = prompt(5, 96);
    let (first, known) = engine.open_after(7, &tokens);
    assert_eq!(known, 0);
    let expected = finish(&mut engine, first, &tokens, 40);
    // Beside the first, which still holds them: the page that is written to is a copy, and then the same again.
    let (second, known) = engine.open_after(7, &tokens);
    assert_eq!((known, engine.pages().held), (95, 3));
    assert!(engine.reserve(second, 96));
    assert_eq!(engine.pages().held, 4);
    assert_eq!(finish(&mut engine, second, &tokens[95..], 1), expected);
    assert_eq!(engine.pages().held, 3);
    // Both go on, each on pages of its own.
    let longer = [tokens.as_slice(), &[9, 9]].concat();
    let after = alone(&mut engine, &longer);
    for sequence in [first, second] {
        assert_eq!(finish(&mut engine, sequence, &[9, 9], 1), after);
    }
    assert_eq!(engine.pages().held, 5);
    engine.close(first);
    engine.close(second);
    assert_eq!((engine.pages().held, engine.pages().idle), (0, 3));
    // Another salt knows nothing of it; a longer prompt knows the whole of it; half a prompt its whole blocks.
    assert_eq!(engine.open_after(8, &tokens).1, 0);
    assert_eq!(engine.open_after(7, &longer).1, 96);
    assert_eq!(engine.open_after(7, &tokens[..50]).1, 32);
}

#[test]
fn pages_run_out_by_the_bound_and_a_context_is_no_longer_than_they_are() {
    let mut engine = engine(0, Level::detect());
    engine.limit_contexts(Bytes(engine.kv_per_token().0 * 32 * 10 + 1));
    assert_eq!((engine.ctx_max(), engine.pages().bound), (320, 10));
    let (one, two) = (engine.open(), engine.open());
    let tokens = prompt(3, 300);
    let work = |sequence, tokens| Work { sequence, tokens, wants: Wants::Last };
    engine.step(&[work(one, &tokens[..250])]).unwrap();
    let refused = engine.step(&[work(two, &tokens[..60]), work(one, &tokens[..40])]).unwrap_err();
    assert_eq!(refused, StepError::OutOfPages { wanted: 4, available: 2, bound: 10 });
    assert!(!engine.reserve(two, 65) && engine.reserve(two, 64));
    assert_eq!(engine.pages().available(), 0);
    engine.step(&[work(two, &tokens[..64]), work(one, &tokens[..6])]).unwrap();
    engine.close(one);
    assert_eq!(engine.pages(), PageCount { bound: 10, held: 2, idle: 0, made: 10 });
}

/// What a sequence with a number that is not finite has made is of no use to others.
#[test]
fn what_is_not_finite_is_not_shared() {
    let mut sequence = Sequence::after(&mut Pages::new(engine(0, Level::Scalar).model.kv_shape()), 1, &[1; 40]);
    let mut pages = Pages::new(engine(0, Level::Scalar).model.kv_shape());
    sequence.grow(&mut pages, 40);
    sequence.spoil();
    sequence.advance(&mut pages, [1; 40].into_iter());
    pages.let_all_go(&sequence.table);
    assert_eq!((pages.held(), pages.idle()), (0, 0));
}

/// What a draft writes is gone where it was wrong, and is what reading it would have been where it was right.
#[test]
fn drafts_are_read_as_far_as_they_are_accepted() {
    for arch in 0..2 {
        let mut engine = engine(arch, Level::detect());
        let tokens = prompt(9, 140);
        let right: Vec<Vec<u32>> = (60..=140).map(|end| alone(&mut engine, &tokens[..end])).collect();
        let (sequence, _) = engine.open_after(3, &tokens);
        let mut read = 59;
        finish(&mut engine, sequence, &tokens[..read], 40);
        for (draft, accepted) in [(5, 5), (7, 0), (6, 3), (1, 1), (0, 0), (30, 30), (12, 2)] {
            let mut run = tokens[read..=read + draft].to_vec();
            run[accepted + 1..].fill(499);
            let step = engine.step(&[Work { sequence, tokens: &run, wants: Wants::Draft(draft) }]).unwrap();
            for at in 0..=accepted {
                let found: Vec<u32> = step.logits(0, at).unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
                assert!(found == right[read + at - 59], "{draft} after {read}: {at}");
            }
            engine.accept(sequence, accepted);
            read += 1 + accepted;
        }
        assert!(finish(&mut engine, sequence, &tokens[read..], 7) == right[80]);
        // The blocks that others may look up are those of what was read.
        assert_eq!(engine.open_after(3, &tokens).1, 128);
        let within = [&tokens[..1], &tokens[..1]].map(|tokens| Work { sequence, tokens, wants: Wants::Draft(1) });
        assert_eq!(engine.step(&within).unwrap_err(), StepError::DraftWithin);
    }
}

/// Bits of the vectors of these inputs, all read in the same steps, each in parts of `chunk` tokens.
fn vectors(engine: &mut Engine, inputs: &[Vec<u32>], chunk: usize) -> Vec<Vec<u32>> {
    let open: Vec<_> = inputs.iter().map(|input| engine.open_pooled(input.len() as u32)).collect();
    for at in (0..inputs.iter().map(Vec::len).max().unwrap()).step_by(chunk) {
        let part = |input: &'_ [u32]| at.min(input.len())..(at + chunk).min(input.len());
        let work: Vec<Work<'_>> = inputs
            .iter()
            .zip(&open)
            .map(|(input, sequence)| Work { sequence: *sequence, tokens: &input[part(input)], wants: Wants::Nothing })
            .filter(|work| !work.tokens.is_empty())
            .collect();
        let step = engine.step(&work).unwrap();
        (0..work.len()).for_each(|i| assert_eq!(step.logits(i, 0), Ok(None)));
    }
    let bits = |sequence: &SequenceId| engine.pooled(*sequence).unwrap().iter().map(|x| x.to_bits()).collect();
    let vectors = open.iter().map(bits).collect();
    open.into_iter().for_each(|sequence| engine.close(sequence));
    assert_eq!(engine.pages().held, 0);
    vectors
}

#[test]
fn what_an_input_comes_to_depends_on_nothing_else() {
    let kinds = [TensorKind::F32, TensorKind::Q8_0];
    for (kind, head) in kinds.into_iter().flat_map(|kind| [(kind, None), (kind, Some(kind))]) {
        let spec = GenSpec { matrices: kind, embedding: kind, head, ..GenSpec::of("bert").unwrap() };
        let gguf = Gguf::parse(generate(&spec).unwrap()).unwrap();
        let encoder = |level, threads| Engine::load(&gguf, EngineOptions { level, threads, ctx_max: 600 }).unwrap();
        let inputs: Vec<Vec<u32>> = [1, 290, 40, 8].into_iter().map(|len| prompt(len as u64, len)).collect();
        let mut scalar = encoder(Level::Scalar, 1);
        let alone: Vec<Vec<u32>> =
            inputs.iter().flat_map(|input| vectors(&mut scalar, std::slice::from_ref(input), 1000)).collect();
        assert_ne!(alone[0], alone[1]);
        for level in Level::ALL.into_iter().filter(|level| level.is_supported()) {
            for (threads, chunk) in [(1, 1000), (2, 64)] {
                assert_eq!(vectors(&mut encoder(level, threads), &inputs, chunk), alone, "{level}, {threads}, {chunk}");
            }
        }
    }
}

#[test]
fn every_token_of_an_input_counts_and_so_does_its_place() {
    let gguf = Gguf::parse(generate(&GenSpec::of("bert").unwrap()).unwrap()).unwrap();
    let mut engine = Engine::load(&gguf, EngineOptions { level: Level::detect(), threads: 1, ctx_max: 600 }).unwrap();
    let input = prompt(1, 40);
    let mut swapped = input.clone();
    swapped.swap(0, 39);
    let mut paired = input.clone();
    // A separator: what stands behind it is of another type.
    paired[20] = 3;
    let mut last = input.clone();
    last[39] += 1;
    let all = vectors(&mut engine, &[input, swapped, paired, last], 1000);
    assert!((1..4).all(|i| !all[..i].contains(&all[i])));
}

#[test]
fn a_score_is_of_both_texts_and_of_their_order() {
    let spec = GenSpec { head: Some(TensorKind::F32), ..GenSpec::of("bert").unwrap() };
    let gguf = Gguf::parse(generate(&spec).unwrap()).unwrap();
    let mut engine = Engine::load(&gguf, EngineOptions { level: Level::detect(), threads: 1, ctx_max: 600 }).unwrap();
    assert_eq!(engine.makes(), Makes::Scores);
    let pair = |query: u32, document: u32| vec![2, query, 3, document, document, 3];
    let pairs = [pair(70, 80), pair(70, 81), pair(71, 80), pair(80, 70)];
    let scores = vectors(&mut engine, &pairs, 1000);
    for (i, score) in scores.iter().enumerate() {
        let [raw, share] = [score[0], score[1]].map(f32::from_bits);
        assert!(score.len() == 2 && (share - 1.0 / (1.0 + (-raw).exp())).abs() < 1e-6, "{raw} {share}");
        assert!(!scores[..i].contains(score));
    }
}

#[test]
fn an_encoder_refuses_what_it_cannot_read() {
    let gguf = Gguf::parse(generate(&GenSpec::of("bert").unwrap()).unwrap()).unwrap();
    let mut engine = Engine::load(&gguf, EngineOptions { level: Level::Scalar, threads: 1, ctx_max: 600 }).unwrap();
    // As the file has it; of a task, the token that carries the vector besides.
    assert_eq!((engine.ctx_max(), engine.tokens_max()), (512, 513));
    let sequence = engine.open();
    let work = Work { sequence, tokens: &[1, 2], wants: Wants::Last };
    assert_eq!(engine.step(&[work]).unwrap_err(), StepError::NotPooled);
    let (long, tokens) = (engine.open_pooled(513), prompt(1, 513));
    let work = Work { sequence: long, tokens: &tokens, wants: Wants::Nothing };
    let too_long = StepError::ContextExceeded { position: 512, ctx_max: 512 };
    assert_eq!(engine.step(&[work]).unwrap_err(), too_long);
    let whole = engine.open_pooled(512);
    engine.step(&[Work { sequence: whole, tokens: &tokens[..512], wants: Wants::Nothing }]).unwrap();
    assert!(engine.pooled(whole).is_ok());
}

#[test]
fn released_memory_holds_nothing_of_what_was_in_it() {
    for (arch, level) in [("llama", Level::Scalar), ("gemma3", Level::detect()), ("bert", Level::detect())] {
        let gguf = Gguf::parse(generate(&GenSpec::of(arch).unwrap()).unwrap()).unwrap();
        let mut engine = Engine::load(&gguf, EngineOptions { level, threads: 1, ctx_max: 600 }).unwrap();
        let seal = engine.seal();
        assert_eq!(engine.seal().root(), seal.root());
        let bytes: usize = engine.model.stretches().iter().map(|stretch| stretch.len()).sum();
        assert_eq!(bytes as u64, engine.weights().0, "all weights are sealed, and nothing else");
        // What its end does, read back before the memory is gone.
        engine.model.wipe();
        assert!(engine.model.stretches().iter().all(|stretch| stretch.iter().all(|byte| *byte == 0)));
    }
}
