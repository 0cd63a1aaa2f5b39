//! Which architectures run, as data.
//!
//! A decoder is a row of `ARCHS`; the forward pass is one function over it, and so is the generator
//! of test models. Encoders are one architecture, whose pass is in `encoder`. What a row says was read from llama.cpp's graphs, and is compared with them by
//! `.ci/oracle`.

/// What the forward pass has to know about an architecture.
#[derive(Debug, PartialEq)]
pub(crate) struct ArchSpec {
    /// `general.architecture`, and the prefix of its keys.
    pub(crate) name: &'static str,
    pub(crate) rope: Rope,
    pub(crate) factors: Factors,
    /// Queries, keys and values are rows of one tensor, `attn_qkv`, and gate and up of another, `ffn_up`.
    pub(crate) fused: bool,
    /// Queries, keys and values have a bias.
    pub(crate) qkv_bias: bool,
    /// Each head's query and key are normalised before the rotary embedding.
    pub(crate) qk_norm: bool,
    /// What attention and feed-forward make is normalised before it joins the residual stream.
    pub(crate) post_norms: bool,
    pub(crate) gate: Gate,
    /// Embeddings are scaled by √width; a tied head is not.
    pub(crate) scaled_embedding: bool,
    pub(crate) windows: Windows,
    /// A number of layers that stands for a variant with another scale of its queries, which no key tells.
    pub(crate) other_query_scale: Option<usize>,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rope {
    /// (2i, 2i+1): the converter has permuted q and k for it.
    Adjacent,
    /// (i, i + half), as GPT-NeoX has them.
    Halves,
}

/// What divides the frequencies of the rotary embedding, where the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factors {
    None,
    /// `rope_freqs.weight`.
    One,
    /// `rope_factors_short.weight`, or `rope_factors_long.weight` where the engine's context is longer than the one
    /// the model was first trained for; with a factor for what is turned, and a part of each head that is not.
    ShortAndLong,
}

/// What the gate of a feed-forward layer goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Silu,
    /// GELU in its tanh form.
    Gelu,
}

/// Which layers see a window only.
#[derive(Debug, PartialEq)]
pub(crate) enum Windows {
    None,
    /// All of them, where the file gives a size that its context reaches.
    All,
    /// All but each `pattern`-th, where the file does not say otherwise; with a rope base of their own.
    Pattern {
        pattern: usize,
        rope_base: f32,
    },
}

/// The encoders that run: BERT and what has its shape.
pub(crate) const ENCODER: &str = "bert";

/// The decoders that run. All are pre-norm decoders with grouped-query attention and a gated
/// feed-forward layer; the output head is the embedding where the file has none.
pub(crate) const ARCHS: [ArchSpec; 5] = [
    // Mistral's models are llamas too, the first of them with a window.
    ArchSpec {
        name: "llama",
        rope: Rope::Adjacent,
        factors: Factors::One,
        fused: false,
        qkv_bias: false,
        qk_norm: false,
        post_norms: false,
        gate: Gate::Silu,
        scaled_embedding: false,
        windows: Windows::All,
        other_query_scale: None,
    },
    ArchSpec {
        name: "qwen2",
        rope: Rope::Halves,
        factors: Factors::None,
        fused: false,
        qkv_bias: true,
        qk_norm: false,
        post_norms: false,
        gate: Gate::Silu,
        scaled_embedding: false,
        windows: Windows::None,
        other_query_scale: None,
    },
    ArchSpec {
        name: "qwen3",
        rope: Rope::Halves,
        factors: Factors::None,
        fused: false,
        qkv_bias: false,
        qk_norm: true,
        post_norms: false,
        gate: Gate::Silu,
        scaled_embedding: false,
        windows: Windows::None,
        other_query_scale: None,
    },
    // llama.cpp leaves the window of these files out.
    ArchSpec {
        name: "phi3",
        rope: Rope::Halves,
        factors: Factors::ShortAndLong,
        fused: true,
        qkv_bias: false,
        qk_norm: false,
        post_norms: false,
        gate: Gate::Silu,
        scaled_embedding: false,
        windows: Windows::All,
        other_query_scale: None,
    },
    // The converter has added the 1 of gemma's (1 + w) norms to their weights.
    ArchSpec {
        name: "gemma3",
        rope: Rope::Halves,
        factors: Factors::None,
        fused: false,
        qkv_bias: false,
        qk_norm: true,
        post_norms: true,
        gate: Gate::Gelu,
        scaled_embedding: true,
        windows: Windows::Pattern { pattern: 6, rope_base: 10_000.0 },
        // The 27B model scales by 1/√(width / heads); its files are told by their layers alone.
        other_query_scale: Some(62),
    },
];

impl ArchSpec {
    pub(crate) fn named(name: &str) -> Option<&'static ArchSpec> {
        ARCHS.iter().find(|arch| arch.name == name)
    }
}

/// The names, as messages list them.
pub(crate) fn names() -> String {
    let decoders = ARCHS.map(|arch| arch.name).join(", ");
    format!("{decoders}, {ENCODER}")
}
