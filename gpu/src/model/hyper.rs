//! The hyperparameters a file gives for its architecture.
//!
//! Everything a file may say that the forward pass would not do (rope scaling, experts, soft caps, other
//! head sizes for values) is refused with its key, so that no model runs as something it is not.
//!
//! Reads metadata only; shapes of tensors are checked where they are loaded.

use super::LoadError;
use super::arch::{self, ArchSpec, Factors, Windows};
use super::pooling::Pooling;
use crate::gguf::Gguf;

/// Times the width that a layer's inside may be wide. Models stay below ten; a step's memory follows it, and the file, whose
/// matrices are as thin as the width, does not.
const WIDEST: usize = 64;

/// Where `rope.freq_base` is absent.
const ROPE_BASE: f32 = 10_000.0;

/// What is turned is multiplied by it.
const ATTN_FACTOR: &str = "rope.scaling.attn_factor";

/// Factors and caps the forward pass does not apply, and the value at which they change nothing; 0 says
/// the same as no key.
const NEUTRAL: [(&str, f32); 10] = [
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.scale", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
    ("rope.scaling.factor", 1.0),
    ("rope.scale_linear", 1.0),
    (ATTN_FACTOR, 1.0),
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
    /// Elements of a head that turn with the position: the first of it, an even number.
    pub(crate) rope_dims: usize,
    /// What they are multiplied by.
    pub(crate) rope_scale: f32,
    /// The context from which on long factors hold, where there are two sets of factors.
    pub(crate) short_context: u32,
    /// Positions the model was trained for.
    pub(crate) context: u32,
    pub(crate) rope_base: f32,
    pub(crate) window: Option<Window>,
    pub(crate) pooling: Pooling,
    pub(crate) eps: f32,
}

/// What layers with a bounded view see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    /// Positions, the query's own included.
    pub(crate) size: usize,
    /// Each `pattern`-th layer sees everything.
    pattern: Option<usize>,
    /// Where windowed layers have one of their own.
    pub(crate) rope_base: Option<f32>,
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
        self.window.filter(|window| !window.pattern.is_some_and(|pattern| (layer + 1).is_multiple_of(pattern)))
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
        if heads * head_dim > WIDEST * width {
            return Err(keys.refuse("attention.head_count", "heads of at most 64 times the width together"));
        }
        if feed > WIDEST * width {
            return Err(keys.refuse("feed_forward_length", "at most 64 times the width"));
        }
        if arch.other_query_scale == Some(layers) && width / heads != head_dim {
            return Err(keys.refuse("block_count", "a model whose queries are scaled by the size of a head"));
        }
        let context = keys.within("context_length", 1, u32::MAX as usize)? as u32;
        let window = keys.window(arch, context)?;
        let two_sets = arch.factors == Factors::ShortAndLong;
        let rope_dims = match two_sets {
            true => keys.or("rope.dimension_count", head_dim, 2, head_dim)?,
            false => head_dim,
        };
        if rope_dims % 2 != 0 {
            return Err(keys.refuse("rope.dimension_count", "an even number"));
        }
        let rope_scale = match gguf.opt_f32(&keys.key(ATTN_FACTOR))?.filter(|_| two_sets).unwrap_or(1.0) {
            scale if scale > 0.0 && scale < 100.0 => scale,
            _ => return Err(keys.refuse(ATTN_FACTOR, "a positive factor below 100")),
        };
        let short_context =
            keys.or("rope.scaling.original_context_length", context as usize, 1, u32::MAX as usize)? as u32;
        keys.others(arch, head_dim, rope_dims)?;
        // 0 is none at all, which is what most files of decoders say by leaving the key out.
        let pooling = match keys.or("pooling_type", 0, 0, usize::MAX)? {
            0 | 3 => Pooling::Last,
            1 => Pooling::Mean,
            _ => return Err(keys.refuse("pooling_type", "the mean (1) or the last token (3)")),
        };
        let eps = gguf.f32(&keys.key("attention.layer_norm_rms_epsilon"))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(keys.refuse("attention.layer_norm_rms_epsilon", "an epsilon in [0, 1)"));
        }
        let rope_base = keys.base("rope.freq_base", ROPE_BASE)?;
        Ok(Hyper {
            arch,
            layers,
            width,
            feed,
            heads,
            kv_heads,
            head_dim,
            rope_dims,
            rope_scale,
            short_context,
            context,
            rope_base,
            window,
            pooling,
            eps,
        })
    }
}

/// Keys of one architecture, with bounds.
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) arch: &'static str,
}

impl Keys<'_> {
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    pub(super) fn refuse(&self, key: &str, expected: &'static str) -> LoadError {
        LoadError::Hyper { key: self.key(key), expected }
    }

    /// The window, of an architecture that has one; another must not ask for one that its context reaches.
    fn window(&self, arch: &ArchSpec, context: u32) -> Result<Option<Window>, LoadError> {
        let key = "attention.sliding_window";
        let (pattern, rope_base) = match arch.windows {
            Windows::Pattern { pattern, rope_base } => (pattern, rope_base),
            Windows::None | Windows::All => {
                let size = self.or(key, 0, 0, usize::MAX)?;
                return match (1..context as usize).contains(&size) {
                    false => Ok(None),
                    true if arch.windows == Windows::All => Ok(Some(Window { size, pattern: None, rope_base: None })),
                    true => Err(self.refuse(key, "no window")),
                };
            }
        };
        Ok(Some(Window {
            size: self.within(key, 1, u32::MAX as usize)?,
            pattern: Some(self.or("attention.sliding_window_pattern", pattern, 1, 512)?),
            rope_base: Some(self.base("rope.freq_base_swa", rope_base)?),
        }))
    }

    /// What would change the model and is not done.
    fn others(&self, arch: &ArchSpec, head_dim: usize, rope_dims: usize) -> Result<(), LoadError> {
        for (key, size) in [
            ("attention.value_length", head_dim),
            ("attention.key_length_swa", head_dim),
            ("attention.value_length_swa", head_dim),
            ("rope.dimension_count", rope_dims),
            ("rope.dimension_count_swa", rope_dims),
        ] {
            if self.or(key, size, 0, usize::MAX)? != size {
                return Err(self.refuse(key, "the head size"));
            }
        }
        let two_sets = arch.factors == Factors::ShortAndLong;
        if self.or("expert_count", 0, 0, usize::MAX)? != 0 {
            return Err(self.refuse("expert_count", "no experts"));
        }
        let scaling = self.gguf.opt_str(&self.key("rope.scaling.type"))?;
        if !(matches!(scaling, None | Some("none")) || scaling == Some("longrope") && two_sets) {
            return Err(self.refuse("rope.scaling.type", "no rope scaling"));
        }
        for (key, neutral) in NEUTRAL.into_iter().filter(|(key, _)| *key != ATTN_FACTOR || !two_sets) {
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

    pub(super) fn within(&self, key: &str, least: usize, most: usize) -> Result<usize, LoadError> {
        self.check(key, self.gguf.u32(&self.key(key))? as usize, least, most)
    }

    pub(super) fn or(&self, key: &str, default: usize, least: usize, most: usize) -> Result<usize, LoadError> {
        let found = self.gguf.opt_u32(&self.key(key))?.map_or(default, |n| n as usize);
        self.check(key, found, least, most)
    }

    fn check(&self, key: &str, found: usize, least: usize, most: usize) -> Result<usize, LoadError> {
        if (least..=most).contains(&found) { Ok(found) } else { Err(self.refuse(key, "a size within its bounds")) }
    }
}
