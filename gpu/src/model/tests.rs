//! What a file must be to become a model, and that a pass does not depend on how it was cut.

use super::*;
use crate::engine::{Engine, EngineOptions, StepError, Wants, Work};
use crate::generate::{GenSpec, generate};
use crate::gguf::TensorKind;
use crate::gguf::write::{Meta, Writer};
use crate::kernel::Level;
use proptest::prelude::*;
use std::sync::LazyLock;

type Pairs = Vec<(String, Meta)>;
type Tensors = Vec<(String, TensorKind, Vec<u64>, Vec<u8>)>;

/// The generated model with other metadata or other tensors.
fn altered(change: impl FnOnce(&mut Pairs, &mut Tensors)) -> Gguf {
    altered_of("llama", change)
}

fn altered_of(arch: &str, change: impl FnOnce(&mut Pairs, &mut Tensors)) -> Gguf {
    let gguf = Gguf::parse(generate(&GenSpec::of(arch).unwrap()).unwrap()).unwrap();
    let mut pairs = vec![("general.architecture".to_owned(), Meta::Str(arch.to_owned()))];
    for key in gguf.keys().filter(|k| k.starts_with(&format!("{arch}."))) {
        let value = match gguf.opt_u32(key) {
            Ok(Some(n)) => Meta::U32(n),
            _ if gguf.opt_bool(key).is_ok() => Meta::Bool(gguf.opt_bool(key).unwrap().unwrap()),
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

fn refusal(change: impl FnOnce(&mut Pairs, &mut Tensors)) -> String {
    Model::load(&altered(change), Packing::new(Level::Scalar, 1), u32::MAX).unwrap_err().to_string()
}

/// Another value for a key.
fn set(pairs: &mut Pairs, key: &str, value: Meta) {
    pairs.retain(|(k, _)| k != key);
    pairs.push((key.to_owned(), value));
}

#[test]
fn what_would_run_as_something_else_is_refused() {
    assert!(Model::load(&altered(|_, _| {}), Packing::new(Level::Scalar, 1), u32::MAX).is_ok());
    let set = |key: &str, value: Meta| refusal(|pairs, _| set(pairs, key, value));
    let text = |s: &str| Meta::Str(s.to_owned());
    assert_eq!(
        set("general.architecture", text("mamba\n<2>")),
        "architecture `mamba2` is not supported: expected one of llama, qwen2, qwen3, phi3, gemma3, bert"
    );
    assert!(set("llama.rope.scaling.type", text("yarn")).contains("llama.rope.scaling.type"));
    assert!(set("llama.expert_count", Meta::U32(8)).contains("expected no experts"));
    assert!(set("llama.attention.value_length", Meta::U32(8)).contains("expected the head size"));
    assert!(set("llama.rope.dimension_count", Meta::U32(8)).contains("expected the head size"));
    assert!(set("llama.context_length", Meta::U32(0)).contains("llama.context_length"));
    assert!(set("llama.attention.key_length", Meta::U32(7)).contains("an even size"));
    assert!(set("llama.attention.layer_norm_rms_epsilon", Meta::F32(2.0)).contains("an epsilon in [0, 1)"));
    assert!(set("llama.feed_forward_length", Meta::U32(96)).contains("blk.0.ffn_gate.weight"));
    assert!(set("llama.feed_forward_length", Meta::U32(1 << 20)).contains("at most 64 times the width"));
    let wide = refusal(|pairs, _| {
        self::set(pairs, "llama.attention.head_count", Meta::U32(4096));
        self::set(pairs, "llama.attention.key_length", Meta::U32(1024));
    });
    assert!(wide.contains("heads of at most 64 times"), "{wide}");
    assert!(set("llama.rope.freq_base", Meta::F32(0.5)).contains("a base of 1 or more"));
    let windowed = altered_of("qwen2", |pairs, _| {
        pairs.push(("qwen2.attention.sliding_window".to_owned(), Meta::U32(512)));
    });
    let refused = Model::load(&windowed, Packing::new(Level::Scalar, 1), u32::MAX).unwrap_err();
    assert!(refused.to_string().contains("expected no window"));
    assert!(set("llama.rope.scaling.attn_factor", Meta::F32(1.2)).contains("expected no such factor"));
    assert!(set("llama.attention.causal", Meta::Bool(false)).contains("llama.attention.causal"));
    for key in ["attn_logit_softcapping", "final_logit_softcapping", "attention.scale", "rope.scaling.factor"] {
        let key = format!("llama.{key}");
        assert!(set(&key, Meta::F32(30.0)).contains(&key));
    }
    // What says nothing is not refused.
    let quiet = altered(|pairs, _| {
        for (key, value) in [
            ("final_logit_softcapping", Meta::F32(0.0)),
            ("rope.scaling.factor", Meta::F32(1.0)),
            ("attention.sliding_window", Meta::U32(2048)),
            ("attention.causal", Meta::Bool(true)),
        ] {
            pairs.push((format!("llama.{key}"), value));
        }
    });
    assert!(Model::load(&quiet, Packing::new(Level::Scalar, 1), u32::MAX).is_ok());
}

#[test]
fn a_window_is_what_the_file_says_and_else_what_gemma_has() {
    let read = |change: &dyn Fn(&mut Pairs)| Hyper::read(&altered_of("gemma3", |pairs, _| change(pairs)));
    let drop = |pairs: &mut Pairs, key: &str| pairs.retain(|(k, _)| k != key);
    let sees = |hyper: &Hyper| -> Vec<Option<usize>> {
        (0..hyper.layers).map(|layer| hyper.window_of(layer).map(|w| w.size)).collect()
    };
    let hyper = read(&|_| ()).unwrap();
    assert_eq!(sees(&hyper), [Some(24), Some(24), None, Some(24)]);
    assert_eq!((hyper.rope_base, hyper.window.unwrap().rope_base), (1e6, Some(1e4)));
    let hyper = read(&|pairs| {
        drop(pairs, "gemma3.attention.sliding_window_pattern");
        set(pairs, "gemma3.rope.freq_base_swa", Meta::F32(5e4));
        set(pairs, "gemma3.block_count", Meta::U32(13));
    })
    .unwrap();
    let windowed = sees(&hyper).into_iter().map(|window| window.is_some()).collect::<Vec<_>>();
    assert_eq!(windowed, [[true; 5].as_slice(), &[false], &[true; 5], &[false], &[true]].concat());
    assert_eq!(hyper.window.unwrap().rope_base, Some(5e4));
    let refused = |change: &dyn Fn(&mut Pairs)| read(change).unwrap_err().to_string();
    assert!(refused(&|p| drop(p, "gemma3.attention.sliding_window")).contains("gemma3.attention.sliding_window"));
    assert!(refused(&|p| set(p, "gemma3.attention.sliding_window", Meta::U32(0))).contains("within its bounds"));
    assert!(refused(&|p| set(p, "gemma3.attention.key_length_swa", Meta::U32(16))).contains("the head size"));
    assert!(refused(&|p| set(p, "gemma3.block_count", Meta::U32(62))).contains("gemma3.block_count"));
}

/// Each part that an architecture adds is asked for by name, and moves the answer.
#[test]
fn what_an_architecture_adds_is_used() {
    for (arch, part) in [
        ("qwen2", "attn_q.bias"),
        ("qwen2", "attn_k.bias"),
        ("qwen2", "attn_v.bias"),
        ("qwen3", "attn_q_norm.weight"),
        ("qwen3", "attn_k_norm.weight"),
        ("gemma3", "attn_q_norm.weight"),
        ("gemma3", "attn_k_norm.weight"),
        ("gemma3", "post_attention_norm.weight"),
        ("gemma3", "post_ffw_norm.weight"),
    ] {
        let name = format!("blk.1.{part}");
        let missing = altered_of(arch, |_, tensors| tensors.retain(|(found, ..)| *found != name));
        let refused = Model::load(&missing, Packing::new(Level::Scalar, 1), u32::MAX).unwrap_err().to_string();
        assert_eq!(refused, format!("the file has no tensor `{name}`"));
        let other = altered_of(arch, |_, tensors| {
            let (.., bytes) = tensors.iter_mut().find(|(found, ..)| *found == name).unwrap();
            // One element only: a softmax does not see what moves all scores alike.
            bytes[..4].copy_from_slice(&3.0f32.to_le_bytes());
        });
        let [plain, moved] = [altered_of(arch, |_, _| {}), other]
            .map(|gguf| logits(&mut engine(&gguf, Level::Scalar, 1), &[5, 6, 7], &[3]));
        assert_ne!(plain, moved, "{arch} {part}");
    }
    // Factors of the rotary embedding are llama's alone.
    let factors = altered_of("qwen2", |_, tensors| {
        tensors.push(("rope_freqs.weight".to_owned(), TensorKind::F32, vec![8], 1f32.to_le_bytes().repeat(8)));
    });
    let refused = Model::load(&factors, Packing::new(Level::Scalar, 1), u32::MAX).unwrap_err();
    assert_eq!(refused, LoadError::UnknownTensors { found: 1 });
}

#[test]
fn a_llama_with_a_window_sees_no_further() {
    let windowed = |size: u32| {
        altered_of("llama", |pairs, _| pairs.push(("llama.attention.sliding_window".to_owned(), Meta::U32(size))))
    };
    let after = |gguf: &Gguf, tokens: &[u32]| logits(&mut engine(gguf, Level::Scalar, 1), tokens, &[2]);
    let (three, whole) = (windowed(3), altered(|_, _| {}));
    assert_eq!(after(&three, &[5, 6, 7]), after(&whole, &[5, 6, 7]));
    assert_ne!(after(&three, &[5, 6, 7, 8]), after(&whole, &[5, 6, 7, 8]));
    // A window as long as the context is none.
    assert_eq!(after(&windowed(2048), &[5, 6, 7, 8]), after(&whole, &[5, 6, 7, 8]));
}

#[test]
fn two_sets_of_rope_factors_one_attention_factor_and_a_part_of_each_head() {
    let gguf = altered_of("phi3", |_, _| {});
    let after = |gguf: &Gguf, ctx_max| {
        let mut engine = Engine::load(gguf, EngineOptions { level: Level::Scalar, threads: 1, ctx_max }).unwrap();
        let tokens = logits(&mut engine, &[5, 6, 7], &[]);
        (engine.definition(), tokens)
    };
    let (short, long) = (after(&gguf, 256), after(&gguf, 257));
    assert_ne!(short.1, long.1);
    // Who compares answers by what makes them sees that it is not the same.
    assert!(short.0.ends_with("/short") && long.0.ends_with("/long"));
    let moved = |name: &str| {
        altered_of("phi3", |_, tensors| {
            let (.., bytes) = tensors.iter_mut().find(|(found, ..)| *found == name).unwrap();
            bytes[..4].copy_from_slice(&9.0f32.to_le_bytes());
        })
    };
    let other = moved("rope_factors_short.weight");
    assert!(after(&other, 256) != short && after(&other, 257) == long);
    let other = moved("rope_factors_long.weight");
    assert!(after(&other, 256) == short && after(&other, 257) != long);
    for (key, value) in [("rope.scaling.attn_factor", Meta::F32(1.5)), ("rope.dimension_count", Meta::U32(10))] {
        let key = format!("phi3.{key}");
        let other = altered_of("phi3", |pairs, tensors| {
            if matches!(value, Meta::U32(_)) {
                // Factors are as many as pairs.
                tensors.iter_mut().filter(|(name, ..)| name.starts_with("rope_factors")).for_each(|(.., ne, bytes)| {
                    ne[0] = 5;
                    bytes.truncate(20);
                });
            }
            set(pairs, &key, value.clone());
        });
        assert_ne!(after(&other, 256), short, "{key}");
    }
    let one_set = altered_of("phi3", |_, tensors| tensors.retain(|(name, ..)| name != "rope_factors_long.weight"));
    let refused = Model::load(&one_set, Packing::new(Level::Scalar, 1), 256).unwrap_err().to_string();
    assert_eq!(refused, "the file has no tensor `rope_factors_long.weight`");
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
        let step = engine.step(&[Work { sequence, tokens: now, wants: Wants::Last }]).unwrap();
        last = step.logits(0, 0).unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
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
        |sequence, tokens: &[u32]| engine.step(&[Work { sequence, tokens, wants: Wants::Last }]).unwrap_err();
    assert_eq!(refused(closed, &[1]), StepError::UnknownSequence);
    assert_eq!(refused(sequence, &[512]), StepError::UnknownToken { token: 512, vocab: 512 });
    assert_eq!(refused(sequence, &[1; 701]), StepError::ContextExceeded { position: 700, ctx_max: 700 });
    assert!(engine.step(&[Work { sequence, tokens: &[1; 700], wants: Wants::Nothing }]).is_ok());
}

/// Loaded once: every kind of matrix, every architecture. Three layers of gemma have both views.
static GGUF: LazyLock<Vec<Gguf>> = LazyLock::new(|| {
    let kinds = TensorKind::all().map(|kind| ("llama", kind, 2));
    let archs = [("qwen2", TensorKind::Q8_0, 2), ("qwen3", TensorKind::Q8_0, 2), ("phi3", TensorKind::Q5_0, 2)];
    let gemmas = [("gemma3", TensorKind::Q8_0, 3), ("gemma3", TensorKind::F32, 3)];
    kinds
        .chain(archs)
        .chain(gemmas)
        .map(|(arch, kind, layers)| {
            let head = (kind == TensorKind::F16).then_some(TensorKind::Q4_1);
            let (dim, ffn) = if kind.block_elems() == 256 { (256, 256) } else { (64, 128) };
            let sizes = GenSpec { dim, ffn, layers, ..GenSpec::of(arch).unwrap() };
            let spec = GenSpec { matrices: kind, embedding: kind, head, ..sizes };
            Gguf::parse(generate(&spec).unwrap()).unwrap()
        })
        .collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// One prompt, read whole by the scalar level on one thread, and in pieces beside another sequence
    /// by the fastest level on several.
    #[test]
    fn pieces_company_level_and_threads_change_no_bit(
        kind in 0usize..GGUF.len(),
        tokens in prop_oneof![prop::collection::vec(0u32..512, 1..40), prop::collection::vec(0u32..512, 250..330)],
        pieces in prop::collection::vec(1usize..70, 0..6),
        threads in 1usize..4,
    ) {
        let expected = logits(&mut engine(&GGUF[kind], Level::Scalar, 1), &tokens, &[]);
        let mut fast = engine(&GGUF[kind], Level::detect(), threads);
        prop_assert_eq!(&logits(&mut fast, &tokens, &pieces), &expected);
        // All at once beside a neighbour, one item for each piece.
        let (mine, other) = (fast.open(), fast.open());
        let mut work = vec![Work { sequence: other, tokens: &[7, 8, 9], wants: Wants::Last }];
        let mut rest = tokens.as_slice();
        for piece in pieces.iter().copied().chain([usize::MAX]) {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            let wants = if rest.is_empty() && !now.is_empty() { Wants::Last } else { Wants::Nothing };
            work.push(Work { sequence: mine, tokens: now, wants });
        }
        let at = work.iter().skip(1).position(|w| w.wants == Wants::Last).unwrap() + 1;
        let step = fast.step(&work).unwrap();
        let found: Vec<u32> = step.logits(at, 0).unwrap().unwrap().iter().map(|v| v.to_bits()).collect();
        prop_assert_eq!(&found, &expected);
    }
}

#[test]
fn an_encoder_that_would_run_as_something_else_is_refused() {
    let load = |gguf: &Gguf| Model::load(gguf, Packing::new(Level::Scalar, 1), u32::MAX);
    assert!(load(&altered_of("bert", |_, _| {})).is_ok());
    for (key, value) in [
        ("bert.attention.causal", Meta::Bool(true)),
        ("bert.pooling_type", Meta::U32(0)),
        ("bert.pooling_type", Meta::U32(5)),
        ("bert.attention.head_count", Meta::U32(5)),
        ("bert.attention.head_count_kv", Meta::U32(2)),
        ("bert.attention.key_length", Meta::U32(8)),
        ("bert.attention.layer_norm_epsilon", Meta::F32(1.0)),
    ] {
        let refused = load(&altered_of("bert", |pairs, _| set(pairs, key, value))).unwrap_err().to_string();
        let named = key.strip_prefix("bert.").unwrap();
        assert!(refused.contains(named), "{key}: {refused}");
    }
    let short = altered_of("bert", |pairs, _| set(pairs, "bert.context_length", Meta::U32(511)));
    assert!(load(&short).unwrap_err().to_string().contains("position_embd.weight"));
    let fewer = altered_of("bert", |pairs, _| set(pairs, "bert.block_count", Meta::U32(3)));
    assert_eq!(load(&fewer).unwrap_err(), LoadError::UnknownTensors { found: 16 });
    for missing in ["blk.0.attn_k.bias", "blk.1.layer_output_norm.bias", "token_types.weight"] {
        let without = altered_of("bert", |_, tensors| tensors.retain(|(name, ..)| name != missing));
        assert!(load(&without).unwrap_err().to_string().contains(missing));
    }
}

#[test]
fn a_head_that_scores_pairs_is_one_and_is_asked_for() {
    let load = |gguf: &Gguf| Model::load(gguf, Packing::new(Level::Scalar, 1), u32::MAX).map(|_| ());
    let headless = altered_of("bert", |pairs, _| set(pairs, "bert.pooling_type", Meta::U32(4)));
    assert_eq!(load(&headless).unwrap_err().to_string(), "the file has no tensor `cls.output.weight`");
    let tensor = |name: &str, ne: &[u64]| {
        let zeros = vec![0; 4 * ne.iter().product::<u64>() as usize];
        (name.to_owned(), TensorKind::F32, ne.to_vec(), zeros)
    };
    let headed = |pooling: u32, more: &[(&str, &[u64])]| {
        load(&altered_of("bert", |pairs, tensors| {
            set(pairs, "bert.pooling_type", Meta::U32(pooling));
            tensors.extend(more.iter().map(|(name, ne)| tensor(name, ne)));
        }))
    };
    let output: (&str, &[u64]) = ("cls.output.weight", &[64, 1]);
    assert_eq!(headed(4, &[output]), Ok(()));
    assert_eq!(headed(4, &[output, ("cls.weight", &[64, 64])]), Ok(()));
    // Three classes are no score, a bias alone is no layer, and who pools has no use for a head.
    let classes = headed(4, &[("cls.output.weight", &[64, 3])]).unwrap_err().to_string();
    assert!(classes.contains("`cls.output.weight`") && classes.contains("one output"), "{classes}");
    assert_eq!(headed(4, &[output, ("cls.bias", &[64])]), Err(LoadError::UnknownTensors { found: 1 }));
    assert_eq!(headed(1, &[output]), Err(LoadError::UnknownTensors { found: 1 }));
}
