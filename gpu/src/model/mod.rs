//! A model: its weights, loaded from a GGUF file into the layout of a kernel level.
//!
//! Every tensor of the file must be one the forward pass uses, of the shape the hyperparameters ask for,
//! with finite scales: a file with anything more is another model than the one that would run.
//! GGUF lists `ne[0]`, the contiguous row length, first: a matrix is `[inputs, outputs]`.
//!
//! Reads `gguf`, writes nothing. Decoders are rows of `arch`, `hyper` reads what a file says of one,
//! `layer` takes the tensors, the forward pass is in `forward`. Encoders are in `encoder`.

pub(crate) mod arch;
pub(crate) mod encoder;
pub(crate) mod forward;
mod hyper;
pub(crate) mod layer;
pub(crate) mod pooling;

use crate::gguf::{Gguf, GgufError};
use crate::kernel::LevelError;
use crate::kernel::drive::Exec;
use crate::kernel::matrix::{Matrix, Packing};
use crate::kv::KvShape;
use crate::numerics::{rope_angles, rope_frequencies};
use crate::seal;
use encoder::Encoder;
use hyper::Hyper;
use layer::{Layer, Loader, Set};

/// Why a file does not become a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Level(#[from] LevelError),
    #[error("architecture `{found}` is not supported: expected one of {expected}")]
    Architecture { found: String, expected: String },
    #[error("`{key}` is not supported as it stands in the file: expected {expected}")]
    Hyper { key: String, expected: &'static str },
    #[error("the file has {found} tensors that the model does not use")]
    UnknownTensors { found: usize },
    #[error("the kernel threads could not be started: {0}")]
    Threads(std::io::ErrorKind),
}

/// A loaded model.
#[derive(Debug)]
pub(crate) enum Model {
    Decoder(Box<Decoder>),
    Encoder(Box<Encoder>),
}

impl Model {
    /// `ctx_max`: of the engine, by which a model with two sets of rope factors takes one.
    pub(crate) fn load(gguf: &Gguf, packing: Packing, ctx_max: u32) -> Result<Model, LoadError> {
        if gguf.str("general.architecture")? == arch::ENCODER {
            return Encoder::load(gguf, packing).map(|encoder| Model::Encoder(Box::new(encoder)));
        }
        Decoder::load(gguf, packing, ctx_max).map(|decoder| Model::Decoder(Box::new(decoder)))
    }

    /// Positions that it was trained for.
    pub(crate) fn context(&self) -> u32 {
        match self {
            Model::Decoder(model) => model.hyper.context,
            Model::Encoder(model) => model.hyper.context as u32,
        }
    }

    pub(crate) fn vocab(&self) -> usize {
        match self {
            Model::Decoder(model) => model.vocab,
            Model::Encoder(model) => model.vocab,
        }
    }

    /// Of two sets of rope factors, the one that it has.
    pub(crate) fn set(&self) -> Option<Set> {
        match self {
            Model::Decoder(model) => model.set,
            Model::Encoder(_) => None,
        }
    }

    /// Numbers of a hidden state, and of a vector.
    pub(crate) fn width(&self) -> usize {
        match self {
            Model::Decoder(model) => model.hyper.width,
            Model::Encoder(model) => model.hyper.width,
        }
    }

    pub(crate) fn kv_shape(&self) -> KvShape {
        match self {
            Model::Decoder(model) => model.kv_shape(),
            Model::Encoder(model) => model.kv_shape(),
        }
    }

    /// The weights' bytes as they lie in memory.
    pub(crate) fn stretches(&self) -> Vec<&[u8]> {
        match self {
            Model::Decoder(model) => model.stretches(),
            Model::Encoder(model) => model.stretches(),
        }
    }

    pub(crate) fn stretches_mut(&mut self) -> Vec<&mut [u8]> {
        match self {
            Model::Decoder(model) => model.stretches_mut(),
            Model::Encoder(model) => model.stretches_mut(),
        }
    }

    /// Nothing of the weights is left.
    pub(crate) fn wipe(&mut self) {
        for stretch in self.stretches_mut() {
            stretch.fill(0);
            // Somebody might read them: a compiler that thinks otherwise would leave them as they are.
            std::hint::black_box(stretch);
        }
    }

    /// What a pass reads: all but embeddings, unless they are the output head too.
    pub(crate) fn bytes_read(&self) -> u64 {
        match self {
            Model::Decoder(model) => model.bytes_read(),
            Model::Encoder(model) => model.bytes_read(),
        }
    }

    /// Elements of the layers' matrices.
    pub(crate) fn products(&self) -> u64 {
        match self {
            Model::Decoder(model) => model.products(),
            Model::Encoder(model) => model.products(),
        }
    }

    /// What the weights take in memory.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Model::Decoder(model) => model.bytes(),
            Model::Encoder(model) => model.bytes(),
        }
    }
}

/// A model that goes on from what it has read, token by token.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) hyper: Hyper,
    pub(crate) vocab: usize,
    embed: Matrix,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// `None`: the embedding, tied.
    head: Option<Matrix>,
    set: Option<Set>,
    /// Of layers that see everything, and of all where there are no others.
    angles: Angles,
    /// Of layers with a window, where they differ.
    windowed_angles: Option<Angles>,
}

/// Cosines and sines by position, as far as positions have been.
#[derive(Debug)]
struct Angles {
    /// Of each pair.
    frequencies: Vec<f64>,
    /// Cosines and sines are multiplied by it.
    scale: f32,
    /// Each pair's frequency is divided by its factor.
    factors: Option<Vec<f32>>,
    /// Of one position after another, cosine and sine of each pair.
    known: Vec<f32>,
}

impl Angles {
    fn at(&self, position: u32) -> &[[f32; 2]] {
        let dims = 2 * self.frequencies.len();
        self.known[position as usize * dims..][..dims].as_chunks().0
    }

    fn reach(&mut self, exec: &mut Exec, position: u32) {
        let Angles { frequencies, scale, factors, known } = self;
        let (dims, before) = (2 * frequencies.len(), known.len());
        known.resize(before.max((position as usize + 1) * dims), 0.0);
        exec.each_row(&mut known[before..], dims, &|row, out| {
            rope_angles((before / dims + row) as u32, frequencies, factors.as_deref(), out.as_chunks_mut().0);
            out.iter_mut().for_each(|x| *x *= *scale);
        });
    }
}

impl Decoder {
    fn load(gguf: &Gguf, packing: Packing, ctx_max: u32) -> Result<Decoder, LoadError> {
        let hyper = Hyper::read(gguf)?;
        let mut load = Loader { gguf, packing, used: 0 };
        let vocab = gguf.tensor("token_embd.weight")?.ne[1] as usize;
        let embed = load.matrix("token_embd.weight", hyper.width, vocab)?;
        let head = match gguf.opt_tensor("output.weight") {
            Some(_) => Some(load.matrix("output.weight", hyper.width, vocab)?),
            None => None,
        };
        let (factors, set) = load.factors(&hyper, ctx_max)?;
        let layers = (0..hyper.layers).map(|i| load.layer(i, &hyper)).collect::<Result<_, _>>()?;
        let norm = load.vector("output_norm.weight", hyper.width)?;
        load.all_used()?;
        let frequencies = |base| rope_frequencies(hyper.rope_dims, base);
        let angles = |base, factors| {
            let (frequencies, scale) = (frequencies(base), hyper.rope_scale);
            Angles { frequencies, scale, factors, known: Vec::new() }
        };
        let windowed_angles = hyper.window.and_then(|window| window.rope_base).map(|base| angles(base, None));
        let angles = angles(hyper.rope_base, factors);
        Ok(Decoder { hyper, vocab, embed, layers, norm, head, set, angles, windowed_angles })
    }

    fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.hyper.layers, heads: self.hyper.kv_heads, head_dim: self.hyper.head_dim }
    }

    fn stretches(&self) -> Vec<&[u8]> {
        let ends = [&self.embed].into_iter().chain(&self.head).flat_map(Matrix::stretches);
        let layers = self.layers.iter().flat_map(Layer::stretches);
        let vectors = [&self.norm].into_iter().chain(&self.angles.factors).map(|vector| seal::of(vector));
        ends.chain(layers).chain(vectors).collect()
    }

    fn stretches_mut(&mut self) -> Vec<&mut [u8]> {
        let ends = [&mut self.embed].into_iter().chain(&mut self.head).flat_map(Matrix::stretches_mut);
        let layers = self.layers.iter_mut().flat_map(Layer::stretches_mut);
        let vectors = [&mut self.norm].into_iter().chain(&mut self.angles.factors).map(|vector| seal::of_mut(vector));
        ends.chain(layers).chain(vectors).collect()
    }

    fn bytes_read(&self) -> u64 {
        self.bytes() - if self.head.is_some() { self.embed.bytes() as u64 } else { 0 }
    }

    fn products(&self) -> u64 {
        self.layers.iter().flat_map(Layer::matrices).map(|m| (m.rows * m.cols) as u64).sum()
    }

    fn bytes(&self) -> u64 {
        let layers: usize = self.layers.iter().map(Layer::bytes).sum();
        let ends: usize = [&self.embed].into_iter().chain(&self.head).map(Matrix::bytes).sum();
        let vectors = self.norm.len() + self.angles.factors.as_ref().map_or(0, Vec::len);
        (layers + ends + vectors * size_of::<f32>()) as u64
    }
}

/// Memory goes back without what was in it.
impl Drop for Model {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests;
