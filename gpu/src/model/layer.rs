//! The weights of a layer, and the loader that takes tensors from a file.
//!
//! Which tensors a layer has is its architecture's to say; each is checked for its shape and for numbers
//! that are finite, and counted, so that what nobody took can be refused.

use super::LoadError;
use super::arch::Factors;
use super::hyper::Hyper;
use crate::gguf::{Gguf, Tensor, TensorKind, check_finite};
use crate::kernel::matrix::{Matrix, Packing};
use crate::numerics::linear::row_bytes;
use crate::seal;

/// Weights of one layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attn_norm: Vec<f32>,
    pub(super) q: Matrix,
    pub(super) k: Matrix,
    pub(super) v: Matrix,
    /// Of queries, keys and values, side by side.
    pub(super) qkv_bias: Option<Vec<f32>>,
    /// Of a head's query, of a head's key.
    pub(super) qk_norm: Option<[Vec<f32>; 2]>,
    pub(super) o: Matrix,
    pub(super) post_attn_norm: Option<Vec<f32>>,
    pub(super) ffn_norm: Vec<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) post_ffn_norm: Option<Vec<f32>>,
}

impl Layer {
    pub(super) fn matrices(&self) -> [&Matrix; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }

    /// Their bytes as they lie in memory, matrices first.
    pub(super) fn stretches(&self) -> Vec<&[u8]> {
        let optional = [&self.qkv_bias, &self.post_attn_norm, &self.post_ffn_norm].into_iter().flatten();
        let vectors =
            [&self.attn_norm, &self.ffn_norm].into_iter().chain(optional).chain(self.qk_norm.iter().flatten());
        let matrices = self.matrices().into_iter().flat_map(Matrix::stretches);
        matrices.chain(vectors.map(|vector| seal::of(vector))).collect()
    }

    pub(super) fn stretches_mut(&mut self) -> Vec<&mut [u8]> {
        let optional = [&mut self.qkv_bias, &mut self.post_attn_norm, &mut self.post_ffn_norm].into_iter().flatten();
        let vectors = [&mut self.attn_norm, &mut self.ffn_norm].into_iter().chain(optional);
        let vectors = vectors.chain(self.qk_norm.iter_mut().flatten()).map(|vector| seal::of_mut(vector));
        let matrices =
            [&mut self.q, &mut self.k, &mut self.v, &mut self.o, &mut self.gate, &mut self.up, &mut self.down];
        matrices.into_iter().flat_map(Matrix::stretches_mut).chain(vectors).collect()
    }

    /// What they take in memory.
    pub(super) fn bytes(&self) -> usize {
        let optional = [&self.qkv_bias, &self.post_attn_norm, &self.post_ffn_norm].into_iter().flatten();
        let vectors = [&self.attn_norm, &self.ffn_norm].into_iter().chain(optional);
        let floats: usize = vectors.chain(self.qk_norm.iter().flatten()).map(Vec::len).sum();
        self.matrices().map(Matrix::bytes).iter().sum::<usize>() + floats * size_of::<f32>()
    }
}

/// Of a file with two sets of rope factors, the one that the length of contexts asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    Short,
    Long,
}

/// Takes tensors by name, checked, and counts them.
pub(super) struct Loader<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) packing: Packing,
    pub(super) used: usize,
}

impl<'a> Loader<'a> {
    pub(super) fn layer(&mut self, i: usize, hyper: &Hyper) -> Result<Layer, LoadError> {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        let (arch, width, feed, head) = (hyper.arch, hyper.width, hyper.feed, hyper.head_dim);
        let (query, kv) = (hyper.query_width(), hyper.kv_width());
        let attn_norm = self.vector(&name("attn_norm"), width)?;
        let mut qkv_bias = arch.qkv_bias.then(Vec::new);
        if let Some(bias) = &mut qkv_bias {
            for (part, len) in [("attn_q", query), ("attn_k", kv), ("attn_v", kv)] {
                bias.extend(self.vector(&format!("blk.{i}.{part}.bias"), len)?);
            }
        }
        let qk_norm = match arch.qk_norm {
            true => Some([self.vector(&name("attn_q_norm"), head)?, self.vector(&name("attn_k_norm"), head)?]),
            false => None,
        };
        let (post_attn_norm, post_ffn_norm) = match arch.post_norms {
            true => (
                Some(self.vector(&name("post_attention_norm"), width)?),
                Some(self.vector(&name("post_ffw_norm"), width)?),
            ),
            false => (None, None),
        };
        let [q, k, v] = match arch.fused {
            true => self.stacked(&name("attn_qkv"), width, [query, kv, kv])?,
            false => [
                self.matrix(&name("attn_q"), width, query)?,
                self.matrix(&name("attn_k"), width, kv)?,
                self.matrix(&name("attn_v"), width, kv)?,
            ],
        };
        let [gate, up] = match arch.fused {
            true => self.stacked(&name("ffn_up"), width, [feed, feed])?,
            false => [self.matrix(&name("ffn_gate"), width, feed)?, self.matrix(&name("ffn_up"), width, feed)?],
        };
        Ok(Layer {
            attn_norm,
            q,
            k,
            v,
            qkv_bias,
            qk_norm,
            o: self.matrix(&name("attn_output"), query, width)?,
            post_attn_norm,
            ffn_norm: self.vector(&name("ffn_norm"), width)?,
            gate,
            up,
            down: self.matrix(&name("ffn_down"), feed, width)?,
            post_ffn_norm,
        })
    }

    /// What divides the frequencies of the rotary embedding, where the file has it, and of two sets which one.
    pub(super) fn factors(
        &mut self,
        hyper: &Hyper,
        ctx_max: u32,
    ) -> Result<(Option<Vec<f32>>, Option<Set>), LoadError> {
        const SETS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];
        let (one, len) = ("rope_freqs.weight", hyper.rope_dims / 2);
        match hyper.arch.factors {
            Factors::One if self.gguf.opt_tensor(one).is_some() => Ok((Some(self.vector(one, len)?), None)),
            Factors::ShortAndLong if SETS.iter().any(|name| self.gguf.opt_tensor(name).is_some()) => {
                let [short, long] = [self.vector(SETS[0], len)?, self.vector(SETS[1], len)?];
                let is_long = ctx_max.min(hyper.context) > hyper.short_context;
                Ok(if is_long { (Some(long), Some(Set::Long)) } else { (Some(short), Some(Set::Short)) })
            }
            Factors::None | Factors::One | Factors::ShortAndLong => Ok((None, None)),
        }
    }

    /// Refuses tensors that nobody took.
    pub(super) fn all_used(&self) -> Result<(), LoadError> {
        match self.gguf.tensors().len().saturating_sub(self.used) {
            0 => Ok(()),
            found => Err(LoadError::UnknownTensors { found }),
        }
    }

    fn tensor(&mut self, name: &str, ne: [u64; 4]) -> Result<Tensor<'a>, LoadError> {
        let tensor = self.gguf.tensor(name)?;
        tensor.expect_shape(ne)?;
        check_finite(&tensor)?;
        self.used += 1;
        Ok(tensor)
    }

    pub(super) fn matrix(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Matrix, LoadError> {
        self.stacked(name, inputs, [outputs]).map(|[matrix]| matrix)
    }

    /// Matrices whose rows stand one after another in one tensor.
    fn stacked<const N: usize>(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: [usize; N],
    ) -> Result<[Matrix; N], LoadError> {
        let tensor = self.tensor(name, [inputs as u64, outputs.iter().sum::<usize>() as u64, 1, 1])?;
        let mut rest = tensor.bytes;
        Ok(outputs.map(|rows| {
            let (bytes, others) = rest.split_at(rows * row_bytes(tensor.kind, inputs));
            rest = others;
            Matrix::new(&mut self.packing, tensor.kind, rows, inputs, bytes)
        }))
    }

    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError> {
        let tensor = self.tensor(name, [len as u64, 1, 1, 1])?;
        if tensor.kind != TensorKind::F32 {
            return Err(LoadError::Hyper { key: name.to_owned(), expected: "a tensor of F32" });
        }
        Ok(tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
