//! A tiny random model of any architecture that runs, for every quick test and for `orch gen`.
//!
//! [`generate`] writes a complete GGUF: hyperparameters, a byte-level BPE tokenizer with chat tokens, a
//! ChatML template, weights. Which tensors there are is `model::arch`'s to say; those of an encoder, with a
//! vocabulary of its own, stand in `encoder`. It draws integers only and
//! builds each float from bits, so that one spec gives the same bytes on every machine; a golden digest
//! holds it to that. The file loads in llama.cpp too.
//!
//! What it says is noise. Rows of control tokens are scaled down, so that greedy answers practically never
//! end by themselves and a test's length is its `max_tokens`.

mod encoder;
mod vocabulary;
pub(crate) mod weights;

use crate::gguf::TensorKind;
use crate::gguf::write::{Meta, Writer};
use crate::model::arch::{self, ArchSpec, Factors, Windows};
use crate::template::CHATML;
use vocabulary::Vocabulary;
use weights::Weights;

/// What to generate. `Default` is the model of the quick tests, about 200 kB, a llama; [`GenSpec::of`] has
/// those of other architectures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenSpec {
    /// As in `general.architecture`.
    pub arch: String,
    /// Other seed, other weights; shapes and tokens stay.
    pub seed: u64,
    pub layers: u32,
    /// Embedding length; a multiple of the types' blocks (32 or 256), and of twice `heads` where `head_dim` is
    /// `None`.
    pub dim: u32,
    pub heads: u32,
    /// Divides `heads`.
    pub kv_heads: u32,
    /// An even size, with which `heads` heads are whole blocks; `None` shares `dim` among them.
    pub head_dim: Option<u32>,
    /// Feed-forward length; a multiple of the same blocks.
    pub ffn: u32,
    /// Tokens: 259 are bytes and control tokens, then what the built-in text yields, then reserved ones.
    pub vocab: u32,
    pub context: u32,
    /// Positions a windowed layer sees, and which layers see all; for architectures that have windows.
    pub window: Option<GenWindow>,
    /// The kind of attention and feed-forward matrices.
    pub matrices: TensorKind,
    /// The kind of the token embedding.
    pub embedding: TensorKind,
    /// The kind of an output head of its own; `None` ties it to the embedding. Of an encoder, of the head that scores
    /// pairs; with `None` it makes vectors.
    pub head: Option<TensorKind>,
}

/// All layers but each `pattern`-th see `size` positions; all layers where there is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenWindow {
    pub size: u32,
    pub pattern: Option<u32>,
}

impl Default for GenSpec {
    fn default() -> GenSpec {
        GenSpec {
            arch: "llama".to_owned(),
            seed: 0,
            layers: 4,
            dim: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: None,
            ffn: 128,
            vocab: 512,
            context: 2048,
            window: None,
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
    /// An architecture that does not run.
    #[error("arch: expected one of {expected}, found `{found}`")]
    Architecture { expected: String, found: String },
    /// A window that the architecture does not have, or none where it has one.
    #[error("window: `{arch}` models have {expected}")]
    Window { arch: &'static str, expected: &'static str },
}

/// Every row of a quantized matrix is a whole number of blocks; the smallest has this length.
const BLOCK: u32 = 32;
/// The context above which long rope factors hold.
const SHORT_CONTEXT: u32 = 256;

impl GenSpec {
    /// The model of the quick tests in another architecture. One with windows has them small, so that tests
    /// cross them, and heads that together are wider than the model, as gemma's are.
    pub fn of(arch: &str) -> Result<GenSpec, GenError> {
        let spec = GenSpec { arch: arch.to_owned(), ..GenSpec::default() };
        if arch == arch::ENCODER {
            return Ok(GenSpec { kv_heads: spec.heads, context: 512, ..spec });
        }
        Ok(match spec.spec()?.windows {
            Windows::Pattern { .. } => {
                let window = Some(GenWindow { size: 24, pattern: Some(3) });
                GenSpec { kv_heads: 1, head_dim: Some(32), window, ..spec }
            }
            Windows::None | Windows::All => spec,
        })
    }

    fn spec(&self) -> Result<&'static ArchSpec, GenError> {
        let refused = || GenError::Architecture { expected: arch::names(), found: self.arch.clone() };
        ArchSpec::named(&self.arch).ok_or_else(refused)
    }

    fn head(&self) -> u32 {
        self.head_dim.unwrap_or(self.dim / self.heads)
    }

    /// Where an architecture can turn a part of each head only, three quarters of it.
    fn rope_dims(&self, arch: &ArchSpec) -> u32 {
        match arch.factors {
            Factors::ShortAndLong => self.head() * 3 / 8 * 2,
            Factors::None | Factors::One => self.head(),
        }
    }

    fn check(&self) -> Result<&'static ArchSpec, GenError> {
        let arch = self.spec()?;
        let pattern = self.window.map(|window| window.pattern.is_some());
        let expected = match (&arch.windows, pattern) {
            (Windows::None, None) | (Windows::All, None | Some(false)) | (Windows::Pattern { .. }, Some(true)) => None,
            (Windows::None, Some(_)) => Some("none"),
            (Windows::All, Some(true)) => Some("one on all layers or none"),
            (Windows::Pattern { .. }, _) => Some("one on some layers"),
        };
        if let Some(expected) = expected {
            return Err(GenError::Window { arch: arch.name, expected });
        }
        self.sizes()?;
        Ok(arch)
    }

    fn sizes(&self) -> Result<(), GenError> {
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
        match self.head_dim {
            None => multiple("dim", self.dim, 2 * self.heads)?,
            Some(head) => {
                range("head_dim", head, 2, 1_024)?;
                multiple("head_dim", head, 2)?;
                multiple("heads × head_dim", self.heads * head, block)?;
            }
        }
        if let Some(GenWindow { size, pattern }) = self.window {
            range("window.size", size, 1, 1 << 20)?;
            range("window.pattern", pattern.unwrap_or(1), 1, 512)?;
        }
        Ok(())
    }
}

/// The bytes of a GGUF file; the same for the same spec, always.
pub fn generate(spec: &GenSpec) -> Result<Vec<u8>, GenError> {
    if spec.arch == arch::ENCODER {
        return encoder::generate(spec);
    }
    let arch = spec.check()?;
    let mut file = Writer::default();
    hyperparameters(&mut file, spec, arch);
    let vocabulary = Vocabulary::new(spec.vocab as usize);
    vocabulary.write(&mut file);
    file.pair("tokenizer.chat_template", Meta::Str(CHATML.to_owned()));
    tensors(&mut file, spec, arch, &vocabulary);
    Ok(file.finish())
}

fn hyperparameters(file: &mut Writer, spec: &GenSpec, arch: &ArchSpec) {
    let text = |s: &str| Meta::Str(s.to_owned());
    file.pair("general.architecture", text(&spec.arch));
    file.pair("general.type", text("model"));
    file.pair("general.name", Meta::Str(format!("orchestrion generated, seed {}", spec.seed)));
    file.pair("general.quantization_version", Meta::U32(2));
    let key = |key: &str| format!("{}.{key}", spec.arch);
    for (name, value) in [
        ("block_count", spec.layers),
        ("context_length", spec.context),
        ("embedding_length", spec.dim),
        ("feed_forward_length", spec.ffn),
        ("attention.head_count", spec.heads),
        ("attention.head_count_kv", spec.kv_heads),
        ("rope.dimension_count", spec.rope_dims(arch)),
        ("vocab_size", spec.vocab),
    ] {
        file.pair(key(name), Meta::U32(value));
    }
    if let Some(head) = spec.head_dim {
        file.pair(key("attention.key_length"), Meta::U32(head));
        file.pair(key("attention.value_length"), Meta::U32(head));
    }
    if let Some(GenWindow { size, pattern }) = spec.window {
        file.pair(key("attention.sliding_window"), Meta::U32(size));
        pattern.iter().for_each(|n| file.pair(key("attention.sliding_window_pattern"), Meta::U32(*n)));
    }
    if arch.factors == Factors::ShortAndLong {
        file.pair(key("rope.scaling.original_context_length"), Meta::U32(SHORT_CONTEXT));
        file.pair(key("rope.scaling.attn_factor"), Meta::F32(1.1875));
    }
    // Another base than that of windowed layers, which files do not give.
    let base = if matches!(arch.windows, Windows::Pattern { .. }) { 1_000_000.0 } else { 10_000.0 };
    file.pair(key("rope.freq_base"), Meta::F32(base));
    file.pair(key("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5));
}

fn tensors(file: &mut Writer, spec: &GenSpec, arch: &ArchSpec, vocabulary: &Vocabulary) {
    let [dim, ffn, vocab, head] = [spec.dim, spec.ffn, spec.vocab, spec.head()].map(u64::from);
    let (query, kv) = (head * u64::from(spec.heads), head * u64::from(spec.kv_heads));
    let mut weights = Weights::new(spec.seed);
    let quiet = |row: u64| vocabulary.is_control(row as usize);
    let loud = |_: u64| false;

    file.tensor("token_embd.weight", spec.embedding, &[dim, vocab], weights.matrix(spec.embedding, dim, vocab, quiet));
    for layer in 0..spec.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let mut norms = vec![("attn_norm", dim), ("ffn_norm", dim)];
        if arch.qk_norm {
            norms.extend([("attn_q_norm", head), ("attn_k_norm", head)]);
        }
        if arch.post_norms {
            norms.extend([("post_attention_norm", dim), ("post_ffw_norm", dim)]);
        }
        for (norm, len) in norms {
            file.tensor(name(norm), TensorKind::F32, &[len], weights.norm(len));
        }
        if arch.qkv_bias {
            for (part, len) in [("attn_q", query), ("attn_k", kv), ("attn_v", kv)] {
                file.tensor(
                    format!("blk.{layer}.{part}.bias"),
                    TensorKind::F32,
                    &[len],
                    weights.matrix(TensorKind::F32, len, 1, loud),
                );
            }
        }
        let (attention, feed): (&[_], &[_]) = match arch.fused {
            true => (&[("attn_qkv", dim, query + 2 * kv)], &[("ffn_up", dim, 2 * ffn)]),
            false => (
                &[("attn_q", dim, query), ("attn_k", dim, kv), ("attn_v", dim, kv)],
                &[("ffn_gate", dim, ffn), ("ffn_up", dim, ffn)],
            ),
        };
        let (output, down) = ([("attn_output", query, dim)], [("ffn_down", ffn, dim)]);
        for (part, inputs, outputs) in [attention, &output, feed, &down].into_iter().flatten() {
            let bytes = weights.matrix(spec.matrices, *inputs, *outputs, loud);
            file.tensor(name(part), spec.matrices, &[*inputs, *outputs], bytes);
        }
    }
    if arch.factors == Factors::ShortAndLong {
        let pairs = u64::from(spec.rope_dims(arch) / 2);
        for (set, most) in [("short", 2), ("long", 9)] {
            // From 1 up, as real ones rise from the fastest pair to the slowest.
            let factors = (0..pairs).flat_map(|i| (1.0 + (i * most) as f32 / 8.0).to_le_bytes()).collect();
            file.tensor(format!("rope_factors_{set}.weight"), TensorKind::F32, &[pairs], factors);
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
        assert_eq!(gguf.digest().to_string(), "db9f51398095a6b0449147619808dedb357a02cf2033af2a3b419840ad0bc39b");
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
    fn each_architecture_has_its_tensors_in_the_shapes_asked_for() {
        let shapes = |arch: &str, names: &[&str]| -> Vec<[u64; 2]> {
            let gguf = Gguf::parse(generate(&GenSpec::of(arch).unwrap()).unwrap()).unwrap();
            assert_eq!(gguf.str("general.architecture"), Ok(arch));
            names
                .iter()
                .map(|name| gguf.tensor(&format!("blk.3.{name}")).unwrap().ne)
                .map(|ne| [ne[0], ne[1]])
                .collect()
        };
        assert_eq!(GenSpec::of("llama"), Ok(GenSpec::default()));
        let biases = shapes("qwen2", &["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_q.weight"]);
        assert_eq!(biases, [[64, 1], [32, 1], [32, 1], [64, 64]]);
        let fused = shapes("phi3", &["attn_qkv.weight", "ffn_up.weight", "ffn_down.weight"]);
        assert_eq!(fused, [[64, 128], [64, 256], [128, 64]]);
        let norms = shapes("gemma3", &["attn_k_norm.weight", "post_ffw_norm.weight", "attn_output.weight"]);
        assert_eq!(norms, [[32, 1], [64, 1], [128, 64]]);
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
        assert_eq!(
            refused(GenSpec { head_dim: Some(12), ..spec() }),
            "heads × head_dim: expected a multiple of 32, found 48"
        );
        assert_eq!(
            refused(GenSpec { arch: "gpt5".into(), ..spec() }),
            "arch: expected one of llama, qwen2, qwen3, phi3, gemma3, bert, found `gpt5`"
        );
        assert_eq!(refused(GenSpec { arch: "bert".into(), ..spec() }), "kv_heads: expected 4 to 4, found 2");
        assert_eq!(
            refused(GenSpec { arch: "gemma3".into(), ..spec() }),
            "window: `gemma3` models have one on some layers"
        );
        let window = Some(GenWindow { size: 8, pattern: Some(2) });
        assert_eq!(refused(GenSpec { window, ..spec() }), "window: `llama` models have one on all layers or none");
        assert_eq!(refused(GenSpec { window, arch: "qwen3".into(), ..spec() }), "window: `qwen3` models have none");
        assert_eq!(refused(GenSpec { vocab: 3, ..spec() }), "vocab: expected 259 to 1048576, found 3");
    }
}
