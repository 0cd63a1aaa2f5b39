//! A model: its weights, loaded from a GGUF file into the layout of a kernel level.
//!
//! Every tensor of the file must be one the forward pass uses, of the shape the hyperparameters ask for,
//! with finite scales: a file with anything more is another model than the one that would run.
//! GGUF lists `ne[0]`, the contiguous row length, first: a matrix is `[inputs, outputs]`.
//!
//! Reads `gguf`, writes nothing. The forward pass is in `forward`, architectures are rows of `arch`.

mod arch;
pub(crate) mod forward;

use crate::gguf::{Gguf, GgufError, Tensor, TensorKind, check_finite};
use crate::kernel::matrix::Matrix;
use crate::kernel::{Level, LevelError};
use crate::kv::KvShape;
use arch::Hyper;

/// Why a file does not become a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Level(#[from] LevelError),
    #[error("architecture `{found}` is not supported: expected llama")]
    Architecture { found: String },
    #[error("`{key}` is not supported as it stands in the file: expected {expected}")]
    Hyper { key: String, expected: &'static str },
    #[error("the file has {found} tensors that the model does not use")]
    UnknownTensors { found: usize },
    #[error("the kernel threads could not be started: {0}")]
    Threads(std::io::ErrorKind),
}

/// Weights of one layer.
#[derive(Debug)]
struct Layer {
    attn_norm: Vec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    o: Matrix,
    ffn_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) hyper: Hyper,
    pub(crate) vocab: usize,
    embed: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: the embedding, tied.
    head: Option<Matrix>,
    /// `rope_freqs.weight`: each pair's frequency is divided by its factor.
    rope_factors: Option<Vec<f32>>,
    /// Cosines and sines by position, as far as positions have been.
    angles: Vec<Vec<[f32; 2]>>,
}

impl Model {
    pub(crate) fn load(gguf: &Gguf, level: Level) -> Result<Model, LoadError> {
        let hyper = Hyper::read(gguf)?;
        let mut load = Loader { gguf, level, used: 0 };
        let vocab = gguf.tensor("token_embd.weight")?.ne[1] as usize;
        let (width, feed) = (hyper.width, hyper.feed);
        let (query, kv) = (hyper.query_width(), hyper.kv_width());
        let embed = load.matrix("token_embd.weight", width, vocab)?;
        let head = match gguf.opt_tensor("output.weight") {
            Some(_) => Some(load.matrix("output.weight", width, vocab)?),
            None => None,
        };
        let rope_factors = match gguf.opt_tensor("rope_freqs.weight") {
            Some(_) => Some(load.vector("rope_freqs.weight", hyper.head_dim / 2)?),
            None => None,
        };
        let layers = (0..hyper.layers)
            .map(|i| {
                let name = |part: &str| format!("blk.{i}.{part}.weight");
                Ok(Layer {
                    attn_norm: load.vector(&name("attn_norm"), width)?,
                    q: load.matrix(&name("attn_q"), width, query)?,
                    k: load.matrix(&name("attn_k"), width, kv)?,
                    v: load.matrix(&name("attn_v"), width, kv)?,
                    o: load.matrix(&name("attn_output"), query, width)?,
                    ffn_norm: load.vector(&name("ffn_norm"), width)?,
                    gate: load.matrix(&name("ffn_gate"), width, feed)?,
                    up: load.matrix(&name("ffn_up"), width, feed)?,
                    down: load.matrix(&name("ffn_down"), feed, width)?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        let norm = load.vector("output_norm.weight", width)?;
        let found = gguf.tensors().len().saturating_sub(load.used);
        if found > 0 {
            return Err(LoadError::UnknownTensors { found });
        }
        Ok(Model { hyper, vocab, embed, layers, norm, head, rope_factors, angles: Vec::new() })
    }

    pub(crate) fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.hyper.layers, heads: self.hyper.kv_heads, head_dim: self.hyper.head_dim }
    }

    /// What the weights take in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let layers = self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down]);
        let matrices: usize = layers.chain([&self.embed]).chain(&self.head).map(Matrix::bytes).sum();
        let norms = (2 * self.layers.len() + 1) * self.norm.len() * size_of::<f32>();
        (matrices + norms) as u64
    }
}

/// Takes tensors by name, checked, and counts them.
struct Loader<'a> {
    gguf: &'a Gguf,
    level: Level,
    used: usize,
}

impl<'a> Loader<'a> {
    fn tensor(&mut self, name: &str, ne: [u64; 4]) -> Result<Tensor<'a>, LoadError> {
        let tensor = self.gguf.tensor(name)?;
        tensor.expect_shape(ne)?;
        check_finite(&tensor)?;
        self.used += 1;
        Ok(tensor)
    }

    fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Matrix, LoadError> {
        let tensor = self.tensor(name, [inputs as u64, outputs as u64, 1, 1])?;
        Ok(Matrix::new(self.level, tensor.kind, outputs, inputs, tensor.bytes))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name, [len as u64, 1, 1, 1])?;
        if tensor.kind != TensorKind::F32 {
            return Err(LoadError::Hyper { key: name.to_owned(), expected: "a tensor of F32" });
        }
        Ok(tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

#[cfg(test)]
mod tests;
