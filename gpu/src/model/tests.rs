//! What a file must be to become a model, and that a pass does not depend on how it was cut.

use super::*;
use crate::engine::{Engine, EngineOptions, StepError, Work};
use crate::generate::{GenSpec, generate};
use crate::gguf::write::{Meta, Writer};
use proptest::prelude::*;
use std::sync::LazyLock;

/// The generated model with other metadata or other tensors.
fn altered(change: impl FnOnce(&mut Vec<(String, Meta)>, &mut Vec<(String, TensorKind, Vec<u64>, Vec<u8>)>)) -> Gguf {
    let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
    let mut pairs = vec![("general.architecture".to_owned(), Meta::Str("llama".to_owned()))];
    for key in gguf.keys().filter(|k| k.starts_with("llama.")) {
        let value = match gguf.opt_u32(key) {
            Ok(Some(n)) => Meta::U32(n),
            _ => Meta::F32(gguf.f32(key).unwrap()),
        };
        pairs.push((key.to_owned(), value));
    }
    let mut tensors = gguf
        .tensors()
        .map(|t| (t.name.to_owned(), t.kind, t.ne.into_iter().take_while(|n| *n > 1).collect(), t.bytes.to_vec()))
        .collect();
    change(&mut pairs, &mut tensors);
    let mut writer = Writer::default();
    pairs.into_iter().for_each(|(key, value)| writer.pair(key, value));
    tensors.into_iter().for_each(|(name, kind, ne, bytes)| writer.tensor(name, kind, &ne, bytes));
    Gguf::parse(writer.finish()).unwrap()
}

fn refusal(change: impl FnOnce(&mut Vec<(String, Meta)>, &mut Vec<(String, TensorKind, Vec<u64>, Vec<u8>)>)) -> String {
    Model::load(&altered(change), Level::Scalar).unwrap_err().to_string()
}

#[test]
fn what_would_run_as_something_else_is_refused() {
    assert!(Model::load(&altered(|_, _| {}), Level::Scalar).is_ok());
    let set = |key: &'static str, value: Meta| {
        refusal(|pairs, _| {
            pairs.retain(|(k, _)| k != key);
            pairs.push((key.to_owned(), value));
        })
    };
    let text = |s: &str| Meta::Str(s.to_owned());
    assert_eq!(
        set("general.architecture", text("mamba\n<2>")),
        "architecture `mamba2` is not supported: expected llama"
    );
    assert!(set("llama.rope.scaling.type", text("yarn")).contains("llama.rope.scaling.type"));
    assert!(set("llama.expert_count", Meta::U32(8)).contains("expected no experts"));
    assert!(set("llama.attention.value_length", Meta::U32(8)).contains("expected the head size"));
    assert!(set("llama.rope.dimension_count", Meta::U32(8)).contains("expected the head size"));
    assert!(set("llama.context_length", Meta::U32(0)).contains("llama.context_length"));
    assert!(set("llama.attention.key_length", Meta::U32(7)).contains("of an even size"));
    assert!(set("llama.attention.layer_norm_rms_epsilon", Meta::F32(2.0)).contains("an epsilon in [0, 1)"));
    assert!(set("llama.feed_forward_length", Meta::U32(96)).contains("blk.0.ffn_gate.weight"));
}

#[test]
fn tensors_are_the_right_ones() {
    let missing = refusal(|_, tensors| tensors.retain(|(name, ..)| name != "blk.1.attn_k.weight"));
    assert_eq!(missing, "the file has no tensor `blk.1.attn_k.weight`");
    let one_more = refusal(|_, tensors| {
        tensors.push(("blk.0.attn_q.bias".to_owned(), TensorKind::F32, vec![64], vec![0; 256]));
    });
    assert_eq!(one_more, "the file has 1 tensors that the model does not use");
    let infinite = refusal(|_, tensors| {
        let (.., bytes) = tensors.iter_mut().find(|(name, ..)| name == "blk.2.ffn_up.weight").unwrap();
        bytes[..2].copy_from_slice(&0x7c00u16.to_le_bytes());
    });
    assert!(infinite.contains("finite"), "{infinite}");
    let halves = refusal(|_, tensors| {
        let norm = tensors.iter_mut().find(|(name, ..)| name == "output_norm.weight").unwrap();
        (norm.1, norm.3) = (TensorKind::F16, vec![0; 128]);
    });
    assert!(halves.contains("expected a tensor of F32"), "{halves}");
}

#[test]
fn rope_factors_are_used() {
    let factors = |value: f32| {
        let gguf = altered(|_, tensors| {
            let bytes = value.to_le_bytes().repeat(8);
            tensors.push(("rope_freqs.weight".to_owned(), TensorKind::F32, vec![8], bytes));
        });
        logits(&mut engine(&gguf, Level::Scalar, 1), &[5, 6, 7], &[3])
    };
    let plain = logits(&mut engine(&altered(|_, _| {}), Level::Scalar, 1), &[5, 6, 7], &[3]);
    assert_eq!(factors(1.0), plain);
    assert_ne!(factors(4.0), plain);
}

fn engine(gguf: &Gguf, level: Level, threads: usize) -> Engine {
    Engine::load(gguf, EngineOptions { level, threads, ctx_max: 700 }).unwrap()
}

/// Bits of the logits after `tokens`, read in pieces of the given lengths (the last is the rest).
fn logits(engine: &mut Engine, tokens: &[u32], pieces: &[usize]) -> Vec<u32> {
    let sequence = engine.open();
    let (mut rest, mut last) = (tokens, Vec::new());
    for piece in pieces.iter().copied().chain([usize::MAX]) {
        let (now, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        if now.is_empty() {
            continue;
        }
        let step = engine.step(&[Work { sequence, tokens: now, wants_logits: true }]).unwrap();
        last = step.logits(0).unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
    }
    engine.close(sequence);
    last
}

#[test]
fn work_that_cannot_run_changes_nothing() {
    let mut engine = engine(&altered(|_, _| {}), Level::Scalar, 1);
    let (sequence, closed) = (engine.open(), engine.open());
    engine.close(closed);
    let mut refused =
        |sequence, tokens: &[u32]| engine.step(&[Work { sequence, tokens, wants_logits: true }]).unwrap_err();
    assert_eq!(refused(closed, &[1]), StepError::UnknownSequence);
    assert_eq!(refused(sequence, &[512]), StepError::UnknownToken { token: 512, vocab: 512 });
    assert_eq!(refused(sequence, &[1; 701]), StepError::ContextExceeded { position: 700, ctx_max: 700 });
    assert!(engine.step(&[Work { sequence, tokens: &[1; 700], wants_logits: false }]).is_ok());
}

/// Loaded once: level, threads, and every kind of matrix in one file.
static GGUF: LazyLock<Vec<Gguf>> = LazyLock::new(|| {
    TensorKind::all()
        .map(|kind| {
            let head = (kind == TensorKind::F16).then_some(TensorKind::Q4_1);
            let (dim, ffn) = if kind.block_elems() == 256 { (256, 256) } else { (64, 128) };
            let spec = GenSpec { dim, ffn, matrices: kind, embedding: kind, head, layers: 2, ..GenSpec::default() };
            Gguf::parse(generate(&spec).unwrap()).unwrap()
        })
        .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// One prompt, read whole by the scalar level on one thread, and in pieces beside another sequence
    /// by the fastest level on several.
    #[test]
    fn pieces_company_level_and_threads_change_no_bit(
        kind in 0..TensorKind::all().count(),
        tokens in prop_oneof![prop::collection::vec(0u32..512, 1..40), prop::collection::vec(0u32..512, 250..330)],
        pieces in prop::collection::vec(1usize..70, 0..6),
        threads in 1usize..4,
    ) {
        let expected = logits(&mut engine(&GGUF[kind], Level::Scalar, 1), &tokens, &[]);
        let mut fast = engine(&GGUF[kind], Level::detect(), threads);
        prop_assert_eq!(&logits(&mut fast, &tokens, &pieces), &expected);
        // All at once beside a neighbour, one item for each piece.
        let (mine, other) = (fast.open(), fast.open());
        let mut work = vec![Work { sequence: other, tokens: &[7, 8, 9], wants_logits: true }];
        let mut rest = tokens.as_slice();
        for piece in pieces.iter().copied().chain([usize::MAX]) {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            work.push(Work { sequence: mine, tokens: now, wants_logits: rest.is_empty() && !now.is_empty() });
        }
        let at = work.iter().skip(1).position(|w| w.wants_logits).unwrap() + 1;
        let step = fast.step(&work).unwrap();
        let found: Vec<u32> = step.logits(at).unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
        prop_assert_eq!(&found, &expected);
    }
}
