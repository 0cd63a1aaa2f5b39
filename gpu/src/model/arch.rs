//! Which architectures run, as data, and the hyperparameters a file gives for them.
//!
//! An architecture is a row of `ARCHS`; the forward pass is one function over it. Everything a file may
//! say that the forward pass would not do (rope scaling, experts, other head sizes for values) is refused
//! with its key, so that no model runs as something it is not.
//!
//! Reads metadata only; shapes of tensors are checked where they are loaded.

use super::LoadError;
use crate::gguf::Gguf;

/// What the forward pass has to know about an architecture.
#[derive(Debug, PartialEq)]
pub(crate) struct ArchSpec {
    /// `general.architecture`, and the prefix of its keys.
    pub(crate) name: &'static str,
    /// Where `rope.freq_base` is absent.
    pub(crate) rope_base: f32,
}

/// The architectures that run. Llama: pre-norm, RoPE on adjacent pairs (the converter permutes q and k
/// for it), grouped-query attention without biases, SwiGLU, output head tied where the file has none.
pub(crate) const ARCHS: [ArchSpec; 1] = [ArchSpec { name: "llama", rope_base: 10_000.0 }];

/// The sizes of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hyper {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) feed: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Positions the model was trained for.
    pub(crate) context: u32,
    pub(crate) rope_base: f32,
    pub(crate) eps: f32,
}

impl Hyper {
    /// Query width, then key (and value) width.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(crate) fn read(gguf: &Gguf) -> Result<Hyper, LoadError> {
        let name = gguf.str("general.architecture")?;
        let arch = ARCHS.iter().find(|a| a.name == name).ok_or_else(|| LoadError::Architecture {
            found: name.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(32).collect(),
        })?;
        let keys = Keys { gguf, arch: arch.name };
        let (layers, width) = (keys.within("block_count", 1, 512)?, keys.within("embedding_length", 1, 1 << 20)?);
        let feed = keys.within("feed_forward_length", 1, 1 << 20)?;
        let heads = keys.within("attention.head_count", 1, 1 << 12)?;
        let kv_heads = keys.or("attention.head_count_kv", heads, 1, heads)?;
        let head_dim = keys.or("attention.key_length", width / heads, 2, 1024)?;
        if heads % kv_heads != 0 || head_dim % 2 != 0 {
            return Err(keys.refuse("attention.head_count_kv", "heads in equal groups, of an even size"));
        }
        for key in ["attention.value_length", "rope.dimension_count"] {
            if keys.or(key, head_dim, 0, usize::MAX)? != head_dim {
                return Err(keys.refuse(key, "the head size"));
            }
        }
        if keys.or("expert_count", 0, 0, usize::MAX)? != 0 {
            return Err(keys.refuse("expert_count", "no experts"));
        }
        let scaling = gguf.opt_str(&keys.key("rope.scaling.type"))?;
        if !matches!(scaling, None | Some("none")) {
            return Err(keys.refuse("rope.scaling.type", "no rope scaling"));
        }
        let eps = gguf.f32(&keys.key("attention.layer_norm_rms_epsilon"))?;
        let rope_base = gguf.opt_f32(&keys.key("rope.freq_base"))?.unwrap_or(arch.rope_base);
        if !(0.0..1.0).contains(&eps) || rope_base < 1.0 {
            return Err(keys.refuse("rope.freq_base", "an epsilon in [0, 1) and a base of 1 or more"));
        }
        let context = keys.within("context_length", 1, u32::MAX as usize)? as u32;
        Ok(Hyper { layers, width, feed, heads, kv_heads, head_dim, context, rope_base, eps })
    }
}

/// Keys of one architecture, with bounds.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'static str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn refuse(&self, key: &str, expected: &'static str) -> LoadError {
        LoadError::Hyper { key: self.key(key), expected }
    }

    fn within(&self, key: &str, least: usize, most: usize) -> Result<usize, LoadError> {
        self.check(key, self.gguf.u32(&self.key(key))? as usize, least, most)
    }

    fn or(&self, key: &str, default: usize, least: usize, most: usize) -> Result<usize, LoadError> {
        let found = self.gguf.opt_u32(&self.key(key))?.map_or(default, |n| n as usize);
        self.check(key, found, least, most)
    }

    fn check(&self, key: &str, found: usize, least: usize, most: usize) -> Result<usize, LoadError> {
        if (least..=most).contains(&found) { Ok(found) } else { Err(self.refuse(key, "a size within its bounds")) }
    }
}
