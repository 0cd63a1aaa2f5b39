//! A tiny random model of the llama architecture, for every quick test and for `orch gen`.
//!
//! [`generate`] writes a complete GGUF: hyperparameters, a byte-level BPE tokenizer with chat tokens, a
//! ChatML template, weights. It draws integers only and builds each float from bits, so that one spec gives
//! the same bytes on every machine; a golden digest holds it to that. The file loads in llama.cpp too.
//!
//! What it says is noise. Rows of control tokens are scaled down, so that greedy answers practically never
//! end by themselves and a test's length is its `max_tokens`.

mod vocabulary;
mod weights;

use crate::gguf::TensorKind;
use crate::gguf::write::{Meta, Writer};
use vocabulary::Vocabulary;
use weights::Weights;

/// What to generate. `Default` is the model of the quick tests, about 200 kB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenSpec {
    /// Other seed, other weights; shapes and tokens stay.
    pub seed: u64,
    pub layers: u32,
    /// Embedding length; a multiple of the types' blocks (32 or 256) and of `heads`.
    pub dim: u32,
    pub heads: u32,
    /// Divides `heads`.
    pub kv_heads: u32,
    /// Feed-forward length; a multiple of the same blocks.
    pub ffn: u32,
    /// Tokens: 259 are bytes and control tokens, then what the built-in text yields, then reserved ones.
    pub vocab: u32,
    pub context: u32,
    /// The kind of attention and feed-forward matrices.
    pub matrices: TensorKind,
    /// The kind of the token embedding.
    pub embedding: TensorKind,
    /// The kind of an output head of its own; `None` ties it to the embedding.
    pub head: Option<TensorKind>,
}

impl Default for GenSpec {
    fn default() -> GenSpec {
        GenSpec {
            seed: 0,
            layers: 4,
            dim: 64,
            heads: 4,
            kv_heads: 2,
            ffn: 128,
            vocab: 512,
            context: 2048,
            matrices: TensorKind::Q4_1,
            embedding: TensorKind::Q8_0,
            head: None,
        }
    }
}

/// Why a spec makes no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenError {
    /// A number outside its bounds; both bounds are inclusive.
    #[error("{field}: expected {least} to {most}, found {found}")]
    Range { field: &'static str, least: u32, most: u32, found: u32 },
    /// A number that has to be a multiple of another.
    #[error("{field}: expected a multiple of {expected}, found {found}")]
    Multiple { field: &'static str, expected: u32, found: u32 },
}

/// Every row of a quantized matrix is a whole number of blocks; the smallest has this length.
const BLOCK: u32 = 32;
/// ChatML, as most small instruct models have it.
const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] \
     + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

impl GenSpec {
    fn check(&self) -> Result<(), GenError> {
        let range = |field, found, least, most| match found {
            found if (least..=most).contains(&found) => Ok(()),
            found => Err(GenError::Range { field, least, most, found }),
        };
        let multiple = |field, found: u32, expected: u32| match found % expected {
            0 => Ok(()),
            _ => Err(GenError::Multiple { field, expected, found }),
        };
        range("layers", self.layers, 1, 512)?;
        range("dim", self.dim, BLOCK, 16_384)?;
        range("heads", self.heads, 1, 1_024)?;
        range("kv_heads", self.kv_heads, 1, self.heads)?;
        range("ffn", self.ffn, BLOCK, 65_536)?;
        range("vocab", self.vocab, vocabulary::LEAST, 1 << 20)?;
        range("context", self.context, 16, 1 << 20)?;
        let kinds = [Some(self.matrices), Some(self.embedding), self.head];
        let block = kinds.into_iter().flatten().map(|kind| kind.block_elems() as u32).fold(BLOCK, u32::max);
        multiple("dim", self.dim, block)?;
        multiple("ffn", self.ffn, block)?;
        multiple("heads", self.heads, self.kv_heads)?;
        // Rotary embedding turns pairs, so a head has an even number of elements.
        multiple("dim", self.dim, 2 * self.heads)
    }
}

/// The bytes of a GGUF file; the same for the same spec, always.
pub fn generate(spec: &GenSpec) -> Result<Vec<u8>, GenError> {
    spec.check()?;
    let mut file = Writer::default();
    hyperparameters(&mut file, spec);
    let vocabulary = Vocabulary::new(spec.vocab as usize);
    vocabulary.write(&mut file);
    file.pair("tokenizer.chat_template", Meta::Str(TEMPLATE.to_owned()));
    tensors(&mut file, spec, &vocabulary);
    Ok(file.finish())
}

fn hyperparameters(file: &mut Writer, spec: &GenSpec) {
    let text = |s: &str| Meta::Str(s.to_owned());
    file.pair("general.architecture", text("llama"));
    file.pair("general.type", text("model"));
    file.pair("general.name", Meta::Str(format!("orchestrion generated, seed {}", spec.seed)));
    file.pair("general.quantization_version", Meta::U32(2));
    for (key, value) in [
        ("block_count", spec.layers),
        ("context_length", spec.context),
        ("embedding_length", spec.dim),
        ("feed_forward_length", spec.ffn),
        ("attention.head_count", spec.heads),
        ("attention.head_count_kv", spec.kv_heads),
        ("rope.dimension_count", spec.dim / spec.heads),
        ("vocab_size", spec.vocab),
    ] {
        file.pair(format!("llama.{key}"), Meta::U32(value));
    }
    file.pair("llama.rope.freq_base", Meta::F32(10_000.0));
    file.pair("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
}

fn tensors(file: &mut Writer, spec: &GenSpec, vocabulary: &Vocabulary) {
    let [dim, ffn, vocab] = [spec.dim, spec.ffn, spec.vocab].map(u64::from);
    let kv_dim = dim / u64::from(spec.heads) * u64::from(spec.kv_heads);
    let mut weights = Weights::new(spec.seed);
    let quiet = |row: u64| vocabulary.is_control(row as usize);
    let loud = |_: u64| false;

    file.tensor("token_embd.weight", spec.embedding, &[dim, vocab], weights.matrix(spec.embedding, dim, vocab, quiet));
    for layer in 0..spec.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        for norm in ["attn_norm", "ffn_norm"] {
            file.tensor(name(norm), TensorKind::F32, &[dim], weights.norm(dim));
        }
        for (part, inputs, outputs) in [
            ("attn_q", dim, dim),
            ("attn_k", dim, kv_dim),
            ("attn_v", dim, kv_dim),
            ("attn_output", dim, dim),
            ("ffn_gate", dim, ffn),
            ("ffn_up", dim, ffn),
            ("ffn_down", ffn, dim),
        ] {
            let bytes = weights.matrix(spec.matrices, inputs, outputs, loud);
            file.tensor(name(part), spec.matrices, &[inputs, outputs], bytes);
        }
    }
    file.tensor("output_norm.weight", TensorKind::F32, &[dim], weights.norm(dim));
    if let Some(kind) = spec.head {
        file.tensor("output.weight", kind, &[dim, vocab], weights.matrix(kind, dim, vocab, quiet));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, check_finite};

    #[test]
    fn the_default_model_is_these_very_bytes() {
        let gguf = Gguf::parse(generate(&GenSpec::default()).unwrap()).unwrap();
        assert_eq!(gguf.digest().to_string(), "b309987d4e4e7a8377db01d91fef965c3ac7480d03cdffbff8850a254f57d8b3");
    }

    #[test]
    fn each_kind_parses_with_finite_weights_in_the_shapes_asked_for() {
        for kind in TensorKind::all() {
            let spec =
                GenSpec { dim: 256, ffn: 512, matrices: kind, embedding: kind, head: Some(kind), ..GenSpec::default() };
            let gguf = Gguf::parse(generate(&spec).unwrap()).unwrap();
            assert_eq!(gguf.tensors().len(), 2 + 9 * 4 + 1);
            for tensor in gguf.tensors() {
                check_finite(&tensor).unwrap();
            }
            gguf.tensor("blk.3.ffn_down.weight").unwrap().expect_shape([512, 256, 1, 1]).unwrap();
            gguf.tensor("output.weight").unwrap().expect_shape([256, 512, 1, 1]).unwrap();
        }
    }

    #[test]
    fn seeds_differ_in_weights_only() {
        let [a, b] = [0, 1].map(|seed| generate(&GenSpec { seed, ..GenSpec::default() }).unwrap());
        assert_ne!(a, b);
        assert_eq!(a.len(), b.len());
    }

    #[test]
    fn bad_specs_are_refused() {
        let refused = |spec: GenSpec| generate(&spec).unwrap_err().to_string();
        let spec = GenSpec::default;
        assert_eq!(refused(GenSpec { dim: 72, ..spec() }), "dim: expected a multiple of 32, found 72");
        let supers = GenSpec { matrices: TensorKind::Q5_K, ..spec() };
        assert_eq!(refused(supers), "dim: expected a multiple of 256, found 64");
        assert_eq!(refused(GenSpec { kv_heads: 3, ..spec() }), "heads: expected a multiple of 3, found 4");
        assert_eq!(refused(GenSpec { heads: 0, ..spec() }), "heads: expected 1 to 1024, found 0");
        assert_eq!(refused(GenSpec { vocab: 3, ..spec() }), "vocab: expected 259 to 1048576, found 3");
    }
}
