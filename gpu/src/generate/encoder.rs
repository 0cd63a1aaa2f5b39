//! A generated encoder: BERT's tensors, and a WordPiece vocabulary of characters and of the built-in text's words.

use super::vocabulary::{CONTROL_TYPE, NORMAL_TYPE, TEXT};
use super::weights::Weights;
use super::{GenError, GenSpec};
use crate::gguf::TensorKind;
use crate::gguf::write::{Meta, Writer};
use crate::model::arch::ENCODER;
use std::collections::BTreeSet;

/// In the order of BERT's files; ids of the keys below.
const CONTROL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Of two texts that are read as a pair.
const TYPES: u64 = 2;

pub(super) fn generate(spec: &GenSpec) -> Result<Vec<u8>, GenError> {
    spec.sizes()?;
    if spec.kv_heads != spec.heads {
        let (least, most, found) = (spec.heads, spec.heads, spec.kv_heads);
        return Err(GenError::Range { field: "kv_heads", least, most, found });
    }
    if spec.window.is_some() {
        return Err(GenError::Window { arch: ENCODER, expected: "none" });
    }
    let mut file = Writer::default();
    file.pair("general.architecture", Meta::Str(ENCODER.to_owned()));
    file.pair("general.type", Meta::Str("model".to_owned()));
    file.pair("general.name", Meta::Str(format!("orchestrion generated, seed {}", spec.seed)));
    file.pair("general.quantization_version", Meta::U32(2));
    let key = |key: &str| format!("{ENCODER}.{key}");
    for (name, value) in [
        ("block_count", spec.layers),
        ("context_length", spec.context),
        ("embedding_length", spec.dim),
        ("feed_forward_length", spec.ffn),
        ("attention.head_count", spec.heads),
        // The head's score, or the mean.
        ("pooling_type", if spec.head.is_some() { 4 } else { 1 }),
    ] {
        file.pair(key(name), Meta::U32(value));
    }
    file.pair(key("attention.layer_norm_epsilon"), Meta::F32(1e-12));
    file.pair(key("attention.causal"), Meta::Bool(false));
    vocabulary(&mut file, spec.vocab as usize);
    tensors(&mut file, spec);
    Ok(file.finish())
}

fn vocabulary(file: &mut Writer, size: usize) {
    let mut tokens: Vec<String> = CONTROL.map(str::to_owned).to_vec();
    let printable = || ('!'..='~').filter(|c| !c.is_ascii_uppercase());
    tokens.extend(printable().map(|c| format!("\u{2581}{c}")));
    tokens.extend(printable().filter(char::is_ascii_alphanumeric).map(String::from));
    let mut known: BTreeSet<String> = tokens.iter().cloned().collect();
    let words = TEXT.split_whitespace().map(|word| format!("\u{2581}{word}"));
    tokens.extend(words.filter(|word| known.insert(word.clone())));
    tokens.truncate(size);
    let mut types = vec![NORMAL_TYPE; tokens.len()];
    types[..CONTROL.len()].fill(CONTROL_TYPE);
    tokens.extend((tokens.len()..size).map(|id| format!("[unused{id}]")));
    types.resize(size, CONTROL_TYPE);
    file.pair("tokenizer.ggml.model", Meta::Str("bert".to_owned()));
    file.pair("tokenizer.ggml.pre", Meta::Str("default".to_owned()));
    file.pair("tokenizer.ggml.token_type_count", Meta::U32(TYPES as u32));
    file.pair("tokenizer.ggml.tokens", Meta::Strs(tokens));
    file.pair("tokenizer.ggml.token_type", Meta::I32s(types));
    for (key, id) in [("padding", 0), ("unknown", 1), ("bos", 2), ("seperator", 3), ("mask", 4)] {
        file.pair(format!("tokenizer.ggml.{key}_token_id"), Meta::U32(id));
    }
}

fn tensors(file: &mut Writer, spec: &GenSpec) {
    let [dim, ffn, vocab, context] = [spec.dim, spec.ffn, spec.vocab, spec.context].map(u64::from);
    let mut weights = Weights::new(spec.seed);
    let loud = |_: u64| false;
    for (name, kind, rows) in [
        ("token_embd.weight", spec.embedding, vocab),
        ("position_embd.weight", TensorKind::F32, context),
        ("token_types.weight", TensorKind::F32, TYPES),
    ] {
        file.tensor(name, kind, &[dim, rows], weights.matrix(kind, dim, rows, loud));
    }
    let norm = |file: &mut Writer, weights: &mut Weights, name: String| {
        file.tensor(format!("{name}.weight"), TensorKind::F32, &[dim], weights.norm(dim));
        file.tensor(format!("{name}.bias"), TensorKind::F32, &[dim], weights.matrix(TensorKind::F32, dim, 1, loud));
    };
    norm(file, &mut weights, "token_embd_norm".to_owned());
    for layer in 0..spec.layers {
        for (part, inputs, outputs) in [
            ("attn_q", dim, dim),
            ("attn_k", dim, dim),
            ("attn_v", dim, dim),
            ("attn_output", dim, dim),
            ("ffn_up", dim, ffn),
            ("ffn_down", ffn, dim),
        ] {
            let name = format!("blk.{layer}.{part}");
            let bytes = weights.matrix(spec.matrices, inputs, outputs, loud);
            file.tensor(format!("{name}.weight"), spec.matrices, &[inputs, outputs], bytes);
            let bias = weights.matrix(TensorKind::F32, outputs, 1, loud);
            file.tensor(format!("{name}.bias"), TensorKind::F32, &[outputs], bias);
        }
        for part in ["attn_output_norm", "layer_output_norm"] {
            norm(file, &mut weights, format!("blk.{layer}.{part}"));
        }
    }
    for (name, rows) in [("cls", dim), ("cls.output", 1)] {
        let Some(kind) = spec.head else { continue };
        file.tensor(format!("{name}.weight"), kind, &[dim, rows], weights.matrix(kind, dim, rows, loud));
        let bias = weights.matrix(TensorKind::F32, rows, 1, loud);
        file.tensor(format!("{name}.bias"), TensorKind::F32, &[rows], bias);
    }
}
