//! Files that were made to hurt: each family of parser bugs, truncation at every byte, seeded mutations.
//!
//! A refusal has to be typed and name its place; nothing may panic, here or in what reads a parsed file
//! (tokenizer, template, finite check).

use super::*;
use crate::generate::{GenSpec, generate};
use crate::template::{Chat, Message, Template};
use crate::tokenizer::Tokenizer;

/// Raw bytes of a file, written field by field.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn head(tensors: u64, pairs: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(3).u64(tensors).u64(pairs)
    }
    fn u32(mut self, n: u32) -> Raw {
        self.0.extend(n.to_le_bytes());
        self
    }
    fn u64(mut self, n: u64) -> Raw {
        self.0.extend(n.to_le_bytes());
        self
    }
    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }
    fn string(self, s: &str) -> Raw {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }
    fn tensor(self, name: &str, ne: &[u64], kind: u32, offset: u64) -> Raw {
        let dims = ne.iter().fold(self.string(name).u32(ne.len() as u32), |raw, dim| raw.u64(*dim));
        dims.u32(kind).u64(offset)
    }
    /// Pads to the data section and adds that many bytes of data.
    fn data(mut self, len: usize) -> Raw {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len, 0);
        self
    }
    fn refusal(self) -> GgufError {
        Gguf::parse(self.0).expect_err("a hostile file was accepted")
    }
}

#[test]
fn size_arithmetic() {
    for ne in [[1 << 32, 1 << 32, 1, 1], [u64::MAX, 2, 1, 1], [u64::MAX / 4 + 1, 1, 1, 1]] {
        let err = Raw::head(1, 0).tensor("t", &ne, 0, 0).data(64).refusal();
        assert_eq!(err, GgufError::Overflow { field: "tensor size", offset: 37 }, "{ne:?}");
    }
    let wraps_to_nothing = Raw::head(1, 0).tensor("t", &[32, 1 << 59], 8, 0).data(64).refusal();
    assert!(matches!(wraps_to_nothing, GgufError::Overflow { field: "tensor size", .. }));
}

#[test]
fn count_times_element() {
    let array = |of: u32, count: u64| Raw::head(0, 1).string("a").u32(9).u32(of).u64(count).u64(0).refusal();
    let range = GgufError::Range { field: "metadata array count", offset: 41, least: 0, most: 1 << 24, found: 1 << 61 };
    assert_eq!(array(10, 1 << 61), range);
    let short = |field, expected| GgufError::Truncated { field, offset: 49, expected, found: 8 };
    assert_eq!(array(10, 2), short("metadata array", 16));
    assert_eq!(array(8, 1 << 24), short("metadata array", 8 << 24));
    let counts = [(u64::MAX, 0, "tensor count"), (0, 65_537, "metadata count")];
    for (tensors, pairs, name) in counts {
        let err = Raw::head(tensors, pairs).refusal();
        assert!(matches!(err, GgufError::Range { field, .. } if field == name), "{err}");
    }
}

#[test]
fn offset_plus_size() {
    let at = |offset: u64| Raw::head(1, 0).tensor("t", &[32], 0, offset).data(128).refusal();
    assert_eq!(at(u64::MAX - 31), GgufError::Overflow { field: "tensor offset", offset: 49 });
    assert_eq!(at(u64::MAX - 127), GgufError::Overflow { field: "tensor offset", offset: 49 });
    let beyond = GgufError::Truncated { field: "tensor data", offset: 96, expected: 128, found: 96 };
    assert_eq!(at(32), beyond);
    assert_eq!(at(7), GgufError::Multiple { field: "tensor offset", offset: 49, expected: 32, found: 7 });
    let shared = Raw::head(2, 0).tensor("a", &[16], 0, 0).tensor("b", &[16], 0, 32).data(128).refusal();
    assert_eq!(shared, GgufError::Overlap { offset: 128, expected: 160 });
}

#[test]
fn string_length() {
    let key = |len: u64| Raw::head(0, 1).u64(len).bytes(b"abc").refusal();
    let range = |found| GgufError::Range { field: "metadata key", offset: 24, least: 0, most: 256, found };
    assert_eq!(key(u64::MAX), range(u64::MAX));
    assert_eq!(key(257), range(257));
    assert_eq!(key(4), GgufError::Truncated { field: "metadata key", offset: 32, expected: 4, found: 3 });
    let value = |len: u64| Raw::head(0, 1).string("k").u32(8).u64(len).bytes(b"abc").refusal();
    assert!(matches!(value((16 << 20) + 1), GgufError::Range { field: "metadata value", most: 0x100_0000, .. }));
    assert!(matches!(value(16 << 20), GgufError::Truncated { field: "metadata value", found: 3, .. }));
    let not_utf8 = Raw::head(0, 1).string("k").u32(8).u64(3).bytes(b"a\xffb").refusal();
    assert_eq!(not_utf8, GgufError::Utf8 { field: "metadata value", offset: 45, found: 46 });
}

#[test]
fn types_and_dimensions() {
    let nested = Raw::head(0, 1).string("a").u32(9).u32(9).u64(1).u64(0).refusal();
    assert!(matches!(nested, GgufError::ValueType { found: 9, .. }));
    let unknown = Raw::head(0, 1).string("a").u32(13).refusal();
    assert!(matches!(unknown, GgufError::ValueType { found: 13, .. }));
    let half_true = Raw::head(0, 1).string("a").u32(7).bytes(&[2]).refusal();
    assert!(matches!(half_true, GgufError::Range { field: "metadata bool", found: 2, .. }));
    for ne in [&[][..], &[1, 1, 1, 1, 1]] {
        let err = Raw::head(1, 0).tensor("t", ne, 0, 0).data(64).refusal();
        assert!(matches!(err, GgufError::Range { field: "tensor dimension count", .. }));
    }
    let zero = Raw::head(1, 0).tensor("t", &[4, 0], 0, 0).data(64).refusal();
    assert!(matches!(zero, GgufError::Range { field: "tensor dimension", least: 1, found: 0, .. }));
    let ragged = Raw::head(1, 0).tensor("t", &[48], 8, 0).data(64).refusal();
    assert!(matches!(ragged, GgufError::Multiple { field: "tensor row length", expected: 32, found: 48, .. }));
    let kind = Raw::head(1, 0).tensor("t", &[256], 15, 0).data(256).refusal();
    assert_eq!(
        kind.to_string(),
        "tensor type at byte 45: expected one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, \
         IQ4_NL, IQ4_XS, BF16, MXFP4, found Q8_K (id 15)"
    );
}

#[test]
fn names_alignment_version() {
    let keys = Raw::head(0, 2).string("k").u32(0).bytes(&[1]).string("k").u32(0).bytes(&[2]).refusal();
    assert_eq!(keys, GgufError::Duplicate { field: "metadata key", offset: 46, found: 32 });
    let tensors = Raw::head(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).data(128).refusal();
    assert!(matches!(tensors, GgufError::Duplicate { field: "tensor name", .. }));
    let align = |n: u32| Raw::head(0, 1).string("general.alignment").u32(4).u32(n).refusal();
    for n in [0, 4, 131_072] {
        assert!(matches!(align(n), GgufError::Range { field: "general.alignment", .. }));
    }
    assert!(matches!(align(24), GgufError::Alignment { found: 24, .. }));
    for version in [1u32, 4, 3 << 24] {
        let err = Raw(b"GGUF".to_vec()).u32(version).u64(0).u64(0).refusal();
        assert_eq!(err, GgufError::Version { offset: 4, found: version });
    }
}

#[test]
fn hyperparameters() {
    let llama = || Raw::head(0, 3).string("general.architecture").u32(8).string("llama");
    let heads = |q: u32, kv: u32| {
        let raw = llama().string("llama.attention.head_count").u32(4).u32(q);
        raw.string("llama.attention.head_count_kv").u32(4).u32(kv)
    };
    assert!(Gguf::parse(heads(9, 3).0).is_ok());
    assert!(matches!(heads(9, 4).refusal(), GgufError::Multiple { expected: 4, found: 9, .. }));
    assert!(matches!(heads(9, 0).refusal(), GgufError::Range { field: "attention.head_count_kv", .. }));
    let blocks = llama().string("llama.block_count").u32(4).u32(513).string("x").u32(0).bytes(&[0]);
    assert!(matches!(blocks.refusal(), GgufError::Range { field: "block_count", most: 512, found: 513, .. }));
    let nan = llama().string("llama.rope.freq_base").u32(6).u32(0x7fc0_0000).string("x").u32(0).bytes(&[0]);
    assert!(matches!(nan.refusal(), GgufError::NonFinite { field: "hyperparameter", found: "NaN", .. }));
}

#[test]
fn getters_name_the_key() {
    let gguf = Gguf::parse(Raw::head(0, 1).string("a").u32(5).u32(u32::MAX).0).unwrap();
    assert_eq!(gguf.u32("b"), Err(GgufError::Missing { key: "b".to_owned(), expected: "an integer" }));
    let wrong = gguf.u32("a").unwrap_err().to_string();
    assert_eq!(wrong, "`a` at byte 33: expected an integer of 0 to 4294967295, found an integer");
    assert!(matches!(gguf.str("a"), Err(GgufError::WrongType { found: "an integer", .. })));
    assert!(matches!(gguf.tensor("t"), Err(GgufError::MissingTensor { .. })));
    let floats = Raw::head(0, 1).string("f").u32(9).u32(6).u64(2).u32(1.5f32.to_bits()).u32(2.5f32.to_bits());
    let gguf = Gguf::parse(floats.0).unwrap();
    assert_eq!(gguf.floats("f").unwrap().collect::<Vec<_>>(), [1.5, 2.5]);
    assert!(gguf.ints("f").is_err());
}

#[test]
fn non_finite_weights_are_found_where_they_stand() {
    for (kind, bad, at, found) in [
        (TensorKind::F32, &[0, 0, 0x80, 0x7f][..], 4, "an infinity"),
        (TensorKind::F16, &[1, 0xfc], 6, "NaN"),
        (TensorKind::F32, &[1, 0, 0x80, 0xff], 8, "NaN"),
        (TensorKind::BF16, &[0x80, 0xff], 2, "an infinity"),
        (TensorKind::BF16, &[0x81, 0x7f], 4, "NaN"),
        (TensorKind::Q4_0, &[0, 0xfc], 18, "an infinity"),
        (TensorKind::Q4_1, &[0xff, 0xff], 22, "NaN"),
        (TensorKind::Q5_0, &[1, 0x7c], 44, "NaN"),
        (TensorKind::Q5_1, &[0, 0x7c], 50, "an infinity"),
        (TensorKind::Q8_0, &[0, 0x7c], 34, "an infinity"),
        (TensorKind::Q4_K, &[0, 0x7c], 144, "an infinity"),
        (TensorKind::Q5_K, &[0, 0x7c], 178, "an infinity"),
        (TensorKind::Q6_K, &[0, 0x7c], 208, "an infinity"),
        (TensorKind::Q2_K, &[0, 0x7c], 82, "an infinity"),
        (TensorKind::Q3_K, &[1, 0x7c], 218, "NaN"),
        (TensorKind::IQ4_NL, &[0, 0xfc], 18, "an infinity"),
        (TensorKind::IQ4_XS, &[0, 0x7c], 136, "an infinity"),
        // 6 · 2^(253 − 127) is above f32; 255 is no number.
        (TensorKind::MXFP4, &[253], 17, "an infinity"),
        (TensorKind::MXFP4, &[255], 34, "NaN"),
    ] {
        let mut bytes = vec![0; 4 * kind.block_bytes() as usize];
        let clean = Tensor { name: "t", kind, ne: [128, 1, 1, 1], bytes: &bytes, offset: 1_000 };
        check_finite(&clean).unwrap();
        bytes[at..at + bad.len()].copy_from_slice(bad);
        let tensor = Tensor { name: "t", kind, ne: [128, 1, 1, 1], bytes: &bytes, offset: 1_000 };
        let field = if kind.block_elems() == 1 { "weight" } else { "weight scale" };
        assert_eq!(check_finite(&tensor), Err(GgufError::NonFinite { field, offset: 1_000 + at as u64, found }));
    }
}

/// The smallest generated file: everything a real one has, in a few kilobytes.
fn small() -> Vec<u8> {
    let spec = GenSpec { layers: 1, dim: 32, heads: 2, kv_heads: 1, ffn: 32, vocab: 270, ..GenSpec::default() };
    generate(&spec).unwrap()
}

/// Parses and, where that works, reads everything there is.
fn read_all(bytes: Vec<u8>) -> Result<(), GgufError> {
    let gguf = Gguf::parse(bytes)?;
    gguf.tensors().for_each(|tensor| {
        let _ = check_finite(&tensor);
        assert!(gguf.opt_tensor(tensor.name).is_some());
    });
    for key in gguf.keys() {
        let _ = (gguf.opt_u32(key), gguf.opt_u64(key), gguf.opt_f32(key), gguf.opt_bool(key), gguf.opt_str(key));
        let _ = gguf.opt_strs(key).map(|array| array.map_or(0, Iterator::count));
        let _ = gguf.opt_ints(key).map(|array| array.map_or(0, Iterator::count));
        let _ = gguf.opt_floats(key).map(|array| array.map_or(0, Iterator::count));
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let ids = tokenizer.encode("<|im_start|>user\nthe barrel organ 12 字<|im_end|>", true);
        assert!(ids.iter().all(|id| (*id as usize) < tokenizer.vocab_len()));
    }
    if let Ok(template) = Template::from_gguf(&gguf) {
        let messages = [Message { role: "user", content: "hello", more: &[] }];
        let _ = template.render(&Chat { messages: &messages, tools: &[], add_generation_prompt: true, now_unix_s: 0 });
    }
    Ok(())
}

#[test]
fn truncation_at_every_byte() {
    let whole = small();
    read_all(whole.clone()).unwrap();
    for len in 0..whole.len() {
        let err = read_all(whole[..len].to_vec()).expect_err("a truncated file was accepted");
        assert!(matches!(err, GgufError::Truncated { .. }), "at {len}: {err}");
    }
}

#[test]
fn ten_thousand_mutations() {
    let whole = small();
    let mut state = 0x6f72_6368_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) as usize) % below.max(1)
    };
    const LENGTHS: [u64; 8] = [0, 1, 255, 65_537, 16 << 20, u32::MAX as u64 + 1, i64::MAX as u64 + 1, u64::MAX - 7];
    let mut refused = 0;
    for round in 0..10_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + draw(3) {
            // Most of the time in the head, where the numbers that matter stand.
            let reach = if draw(4) == 0 { bytes.len() } else { bytes.len().min(1_500) };
            let at = draw(reach.saturating_sub(8));
            match round % 4 {
                0 => bytes[at] ^= 1 << draw(8),
                1 => bytes[at..at + 8].copy_from_slice(&LENGTHS[draw(LENGTHS.len())].to_le_bytes()),
                2 => {
                    let from = draw(bytes.len() - 64);
                    let piece = bytes[from..from + 1 + draw(63)].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let end = (at + 1 + draw(63)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        refused += usize::from(read_all(bytes).is_err());
    }
    assert!(refused > 5_000, "only {refused} of 10,000 mutations were refused: do they still hit the head?");
}
