//! What a file says of an encoder, and its weights.
//!
//! Everything that the pass would not do is refused with its key; every tensor is one the pass uses.

use super::head::Head;
use crate::gguf::Gguf;
use crate::kernel::matrix::{Matrix, Packing};
use crate::model::LoadError;
use crate::model::arch;
use crate::model::hyper::Keys;
use crate::model::layer::Loader;
use crate::model::pooling::Pooling;
use crate::seal;

/// The sizes of one encoder.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Hyper {
    pub(super) layers: usize,
    pub(crate) width: usize,
    pub(super) feed: usize,
    pub(super) heads: usize,
    /// Positions it has embeddings for: the longest input.
    pub(crate) context: usize,
    /// The token behind each text of a pair.
    pub(super) separator: Option<u32>,
    pub(super) pooling: Pooling,
    /// Its head makes a number of what is pooled.
    pub(super) scores: bool,
    pub(super) eps: f32,
}

impl Hyper {
    pub(super) fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    fn read(gguf: &Gguf) -> Result<Hyper, LoadError> {
        let keys = Keys { gguf, arch: arch::ENCODER };
        let (layers, width) = (keys.within("block_count", 1, 512)?, keys.within("embedding_length", 1, 1 << 20)?);
        let feed = keys.within("feed_forward_length", 1, 1 << 20)?;
        let heads = keys.within("attention.head_count", 1, 1 << 12)?;
        if keys.or("attention.head_count_kv", heads, 1, heads)? != heads {
            return Err(keys.refuse("attention.head_count_kv", "keys and values for each head"));
        }
        if width % heads != 0 || (width / heads) % 2 != 0 {
            return Err(keys.refuse("attention.head_count", "heads of an even size that fill the width"));
        }
        for key in ["attention.key_length", "attention.value_length"] {
            if keys.or(key, width / heads, 0, usize::MAX)? != width / heads {
                return Err(keys.refuse(key, "the width's share of a head"));
            }
        }
        if gguf.opt_bool(&keys.key("attention.causal"))? != Some(false) {
            return Err(keys.refuse("attention.causal", "false: an input is seen as a whole"));
        }
        let (pooling, scores) = match keys.within("pooling_type", 0, usize::MAX)? {
            1 => (Pooling::Mean, false),
            2 => (Pooling::First, false),
            3 => (Pooling::Last, false),
            4 => (Pooling::First, true),
            _ => {
                let expected = "the mean (1), the first token (2), the last (3) or a head that scores pairs (4)";
                return Err(keys.refuse("pooling_type", expected));
            }
        };
        let eps = gguf.f32(&keys.key("attention.layer_norm_epsilon"))?;
        if !(0.0..1.0).contains(&eps) {
            return Err(keys.refuse("attention.layer_norm_epsilon", "an epsilon in [0, 1)"));
        }
        let context = keys.within("context_length", 1, 1 << 20)?;
        // The key's spelling is the format's.
        let separator = gguf.opt_u32("tokenizer.ggml.seperator_token_id")?;
        Ok(Hyper { layers, width, feed, heads, context, separator, pooling, scores, eps })
    }
}

/// Scale and shift of a layer norm.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Norm {
    fn vectors(&self) -> [&Vec<f32>; 2] {
        [&self.weight, &self.bias]
    }

    fn vectors_mut(&mut self) -> [&mut Vec<f32>; 2] {
        [&mut self.weight, &mut self.bias]
    }

    pub(super) fn bytes(&self) -> usize {
        (self.weight.len() + self.bias.len()) * size_of::<f32>()
    }
}

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) q: Matrix,
    pub(super) k: Matrix,
    pub(super) v: Matrix,
    /// Of queries, keys and values, side by side.
    pub(super) qkv_bias: Vec<f32>,
    pub(super) o: Matrix,
    pub(super) o_bias: Vec<f32>,
    pub(super) attn_norm: Norm,
    pub(super) up: Matrix,
    pub(super) up_bias: Vec<f32>,
    pub(super) down: Matrix,
    pub(super) down_bias: Vec<f32>,
    pub(super) ffn_norm: Norm,
}

impl Layer {
    pub(super) fn matrices(&self) -> [&Matrix; 6] {
        [&self.q, &self.k, &self.v, &self.o, &self.up, &self.down]
    }

    /// Their bytes as they lie in memory.
    fn stretches(&self) -> impl Iterator<Item = &[u8]> {
        let norms = [&self.attn_norm, &self.ffn_norm].into_iter().flat_map(Norm::vectors);
        let biases = [&self.qkv_bias, &self.o_bias, &self.up_bias, &self.down_bias];
        let vectors = biases.into_iter().chain(norms).map(|vector| seal::of(vector));
        self.matrices().into_iter().flat_map(Matrix::stretches).chain(vectors)
    }

    fn stretches_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let matrices = [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.up, &mut self.down];
        let norms = [&mut self.attn_norm, &mut self.ffn_norm].into_iter().flat_map(Norm::vectors_mut);
        let biases = [&mut self.qkv_bias, &mut self.o_bias, &mut self.up_bias, &mut self.down_bias];
        let vectors = biases.into_iter().chain(norms).map(|vector| seal::of_mut(vector));
        matrices.into_iter().flat_map(Matrix::stretches_mut).chain(vectors)
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        let biases = [&self.qkv_bias, &self.o_bias, &self.up_bias, &self.down_bias];
        let biases = biases.map(|bias| bias.len() * size_of::<f32>()).iter().sum::<usize>();
        let norms = self.attn_norm.bytes() + self.ffn_norm.bytes();
        self.matrices().map(Matrix::bytes).iter().sum::<usize>() + biases + norms
    }
}

/// A loaded encoder.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) hyper: Hyper,
    pub(crate) vocab: usize,
    pub(super) tokens: Matrix,
    pub(super) positions: Matrix,
    pub(super) types: Matrix,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
    pub(super) head: Option<Head>,
}

impl Encoder {
    pub(crate) fn load(gguf: &Gguf, packing: Packing) -> Result<Encoder, LoadError> {
        let hyper = Hyper::read(gguf)?;
        let mut load = Loader { gguf, packing, used: 0 };
        let rows = |name: &str| Ok::<_, LoadError>(gguf.tensor(name)?.ne[1] as usize);
        let (vocab, types) = (rows("token_embd.weight")?, rows("token_types.weight")?);
        let encoder = Encoder {
            hyper,
            vocab,
            tokens: load.matrix("token_embd.weight", hyper.width, vocab)?,
            positions: load.matrix("position_embd.weight", hyper.width, hyper.context)?,
            types: load.matrix("token_types.weight", hyper.width, types)?,
            norm: load.norm("token_embd_norm", hyper.width)?,
            layers: (0..hyper.layers).map(|i| load.encoding(i, &hyper)).collect::<Result<_, _>>()?,
            head: hyper.scores.then(|| Head::load(&mut load, hyper.width)).transpose()?,
        };
        load.all_used()?;
        Ok(encoder)
    }

    pub(crate) fn stretches(&self) -> Vec<&[u8]> {
        let ends = [&self.tokens, &self.positions, &self.types].into_iter().flat_map(Matrix::stretches);
        let norm = self.norm.vectors().map(|vector| seal::of(vector));
        let layers = self.layers.iter().flat_map(Layer::stretches);
        ends.chain(norm).chain(layers).chain(self.head.iter().flat_map(Head::stretches)).collect()
    }

    pub(crate) fn stretches_mut(&mut self) -> Vec<&mut [u8]> {
        let ends = [&mut self.tokens, &mut self.positions, &mut self.types].into_iter().flat_map(Matrix::stretches_mut);
        let norm = self.norm.vectors_mut().map(|vector| seal::of_mut(vector));
        let layers = self.layers.iter_mut().flat_map(Layer::stretches_mut);
        ends.chain(norm).chain(layers).chain(self.head.iter_mut().flat_map(Head::stretches_mut)).collect()
    }
}

impl Loader<'_> {
    fn norm(&mut self, name: &str, width: usize) -> Result<Norm, LoadError> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        Ok(Norm { weight, bias: self.vector(&format!("{name}.bias"), width)? })
    }

    fn encoding(&mut self, i: usize, hyper: &Hyper) -> Result<Layer, LoadError> {
        let (width, feed) = (hyper.width, hyper.feed);
        let name = |part: &str| format!("blk.{i}.{part}");
        let weight = |part: &str| format!("blk.{i}.{part}.weight");
        let bias = |part: &str| format!("blk.{i}.{part}.bias");
        let mut qkv_bias = Vec::new();
        for part in ["attn_q", "attn_k", "attn_v"] {
            qkv_bias.extend(self.vector(&bias(part), width)?);
        }
        Ok(Layer {
            q: self.matrix(&weight("attn_q"), width, width)?,
            k: self.matrix(&weight("attn_k"), width, width)?,
            v: self.matrix(&weight("attn_v"), width, width)?,
            qkv_bias,
            o: self.matrix(&weight("attn_output"), width, width)?,
            o_bias: self.vector(&bias("attn_output"), width)?,
            attn_norm: self.norm(&name("attn_output_norm"), width)?,
            up: self.matrix(&weight("ffn_up"), width, feed)?,
            up_bias: self.vector(&bias("ffn_up"), feed)?,
            down: self.matrix(&weight("ffn_down"), feed, width)?,
            down_bias: self.vector(&bias("ffn_down"), width)?,
            ffn_norm: self.norm(&name("layer_output_norm"), width)?,
        })
    }
}
