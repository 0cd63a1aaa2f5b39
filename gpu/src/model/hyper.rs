//! The hyperparameters a file gives for its architecture.
//!
//! Everything a file may say that the forward pass would not do (rope scaling, experts, soft caps, other
//! head sizes for values) is refused with its key, so that no model runs as something it is not.
//!
//! Reads metadata only; shapes of tensors are checked where they are loaded.

use super::LoadError;
use super::arch::{self, ArchSpec};
use crate::gguf::Gguf;

/// Where `rope.freq_base` is absent.
const ROPE_BASE: f32 = 10_000.0;

/// Factors and caps the forward pass does not apply, and the value at which they change nothing; 0 says
/// the same as no key.
const NEUTRAL: [(&str, f32); 9] = [
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.scale", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
    ("rope.scaling.factor", 1.0),
    ("rope.scale_linear", 1.0),
];

/// The sizes of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hyper {
    pub(crate) arch: &'static ArchSpec,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) feed: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Positions the model was trained for.
    pub(crate) context: u32,
    pub(crate) rope_base: f32,
    pub(crate) window: Option<Window>,
    pub(crate) eps: f32,
}

/// What layers with a bounded view see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// Positions, the query's own included.
    pub(crate) size: usize,
    /// Each `pattern`-th layer sees everything.
    pattern: usize,
    pub(crate) rope_base: f32,
}

impl Hyper {
    /// Query width, then key (and value) width.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The window of a layer; `None` where it sees everything.
    pub(crate) fn window_of(&self, layer: usize) -> Option<Window> {
        self.window.filter(|window| !(layer + 1).is_multiple_of(window.pattern))
    }

    pub(crate) fn read(gguf: &Gguf) -> Result<Hyper, LoadError> {
        let name = gguf.str("general.architecture")?;
        let arch = ArchSpec::named(name).ok_or_else(|| LoadError::Architecture {
            found: name.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.".contains(*c)).take(32).collect(),
            expected: arch::names(),
        })?;
        let keys = Keys { gguf, arch: arch.name };
        let (layers, width) = (keys.within("block_count", 1, 512)?, keys.within("embedding_length", 1, 1 << 20)?);
        let feed = keys.within("feed_forward_length", 1, 1 << 20)?;
        let heads = keys.within("attention.head_count", 1, 1 << 12)?;
        let kv_heads = keys.or("attention.head_count_kv", heads, 1, heads)?;
        let head_dim = keys.or("attention.key_length", width / heads, 2, 1024)?;
        if heads % kv_heads != 0 {
            return Err(keys.refuse("attention.head_count_kv", "heads in equal groups"));
        }
        if head_dim % 2 != 0 {
            return Err(keys.refuse("attention.key_length", "an even size of heads"));
        }
        if arch.other_query_scale == Some(layers) && width / heads != head_dim {
            return Err(keys.refuse("block_count", "a model whose queries are scaled by the size of a head"));
        }
        let context = keys.within("context_length", 1, u32::MAX as usize)? as u32;
        let window = keys.window(arch, context)?;
        keys.others(head_dim)?;
        let eps = gguf.f32(&keys.key("attention.layer_norm_rms_epsilon"))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(keys.refuse("attention.layer_norm_rms_epsilon", "an epsilon in [0, 1)"));
        }
        let rope_base = keys.base("rope.freq_base", ROPE_BASE)?;
        Ok(Hyper { arch, layers, width, feed, heads, kv_heads, head_dim, context, rope_base, window, eps })
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

    /// The window, of an architecture that has one; another must not ask for one that its context reaches.
    fn window(&self, arch: &ArchSpec, context: u32) -> Result<Option<Window>, LoadError> {
        let size = "attention.sliding_window";
        let Some(default) = &arch.window else {
            return match self.or(size, 0, 0, usize::MAX)? {
                within if (1..context as usize).contains(&within) => Err(self.refuse(size, "no window")),
                _ => Ok(None),
            };
        };
        Ok(Some(Window {
            size: self.within(size, 1, u32::MAX as usize)?,
            pattern: self.or("attention.sliding_window_pattern", default.pattern, 1, 512)?,
            rope_base: self.base("rope.freq_base_swa", default.rope_base)?,
        }))
    }

    /// What would change the model and is not done.
    fn others(&self, head_dim: usize) -> Result<(), LoadError> {
        for key in [
            "attention.value_length",
            "attention.key_length_swa",
            "attention.value_length_swa",
            "rope.dimension_count",
            "rope.dimension_count_swa",
        ] {
            if self.or(key, head_dim, 0, usize::MAX)? != head_dim {
                return Err(self.refuse(key, "the head size"));
            }
        }
        if self.or("expert_count", 0, 0, usize::MAX)? != 0 {
            return Err(self.refuse("expert_count", "no experts"));
        }
        let scaling = self.gguf.opt_str(&self.key("rope.scaling.type"))?;
        if !matches!(scaling, None | Some("none")) {
            return Err(self.refuse("rope.scaling.type", "no rope scaling"));
        }
        for (key, neutral) in NEUTRAL {
            let found = self.gguf.opt_f32(&self.key(key))?;
            if found.is_some_and(|value| ![0.0, neutral].contains(&value)) {
                return Err(self.refuse(key, "no such factor"));
            }
        }
        if self.gguf.opt_bool(&self.key("attention.causal"))? == Some(false) {
            return Err(self.refuse("attention.causal", "attention to what came before"));
        }
        Ok(())
    }

    fn base(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        match self.gguf.opt_f32(&self.key(key))?.unwrap_or(default) {
            base if base >= 1.0 => Ok(base),
            _ => Err(self.refuse(key, "a base of 1 or more")),
        }
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
