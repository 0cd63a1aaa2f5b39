//! Which architectures run, as data.
//!
//! An architecture is a row of `ARCHS`; the forward pass is one function over it, and so is the generator
//! of test models. What a row says was read from llama.cpp's graphs, and is compared with them by
//! `.ci/oracle`.

/// What the forward pass has to know about an architecture.
#[derive(Debug, PartialEq)]
pub(crate) struct ArchSpec {
    /// `general.architecture`, and the prefix of its keys.
    pub(crate) name: &'static str,
    pub(crate) rope: Rope,
    /// Whether `rope_freqs.weight` may divide the frequencies.
    pub(crate) rope_factors: bool,
    /// Queries, keys and values have a bias.
    pub(crate) qkv_bias: bool,
    /// Each head's query and key are normalised before the rotary embedding.
    pub(crate) qk_norm: bool,
    /// What attention and feed-forward make is normalised before it joins the residual stream.
    pub(crate) post_norms: bool,
    pub(crate) gate: Gate,
    /// Embeddings are scaled by √width; a tied head is not.
    pub(crate) scaled_embedding: bool,
    /// What a window on attention is where the file does not say.
    pub(crate) window: Option<WindowDefaults>,
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

/// What the gate of a feed-forward layer goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Silu,
    /// GELU in its tanh form.
    Gelu,
}

/// Windowed layers: all but each `pattern`-th.
#[derive(Debug, PartialEq)]
pub(crate) struct WindowDefaults {
    pub(crate) pattern: usize,
    /// The rope base of windowed layers.
    pub(crate) rope_base: f32,
}

/// The architectures that run. All are pre-norm decoders with grouped-query attention and a gated
/// feed-forward layer; the output head is the embedding where the file has none.
pub(crate) const ARCHS: [ArchSpec; 3] = [
    ArchSpec {
        name: "llama",
        rope: Rope::Adjacent,
        rope_factors: true,
        qkv_bias: false,
        qk_norm: false,
        post_norms: false,
        gate: Gate::Silu,
        scaled_embedding: false,
        window: None,
        other_query_scale: None,
    },
    ArchSpec {
        name: "qwen2",
        rope: Rope::Halves,
        rope_factors: false,
        qkv_bias: true,
        qk_norm: false,
        post_norms: false,
        gate: Gate::Silu,
        scaled_embedding: false,
        window: None,
        other_query_scale: None,
    },
    // The converter has added the 1 of gemma's (1 + w) norms to their weights.
    ArchSpec {
        name: "gemma3",
        rope: Rope::Halves,
        rope_factors: false,
        qkv_bias: false,
        qk_norm: true,
        post_norms: true,
        gate: Gate::Gelu,
        scaled_embedding: true,
        window: Some(WindowDefaults { pattern: 6, rope_base: 10_000.0 }),
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
    ARCHS.map(|arch| arch.name).join(", ")
}
