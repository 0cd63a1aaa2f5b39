//! The head of an encoder that scores pairs of texts: the last hidden state of an input's first token becomes a number.
//!
//! It is BERT's classifier with one output: a dense layer with tanh, which some files leave out, and a row of weights.
//! An input's state goes through it alone, so that nothing depends on the others of its batch.

use crate::gguf::Gguf;
use crate::kernel::drive::{Exec, Write};
use crate::kernel::matrix::Matrix;
use crate::model::LoadError;
use crate::model::forward::Buffers;
use crate::model::layer::Loader;
use crate::numerics::tanh;
use crate::seal;

const DENSE: &str = "cls";
const OUTPUT: &str = "cls.output";

#[derive(Debug)]
pub(super) struct Head {
    dense: Option<Affine>,
    output: Affine,
}

/// A matrix and what is added to its products.
#[derive(Debug)]
struct Affine {
    matrix: Matrix,
    bias: Vec<f32>,
}

impl Affine {
    /// A file without the bias means zeros.
    fn load(load: &mut Loader<'_>, name: &str, inputs: usize, outputs: usize) -> Result<Affine, LoadError> {
        let bias = format!("{name}.bias");
        Ok(Affine {
            matrix: load.matrix(&weight(name), inputs, outputs)?,
            bias: match load.gguf.opt_tensor(&bias) {
                Some(_) => load.vector(&bias, outputs)?,
                None => vec![0.0; outputs],
            },
        })
    }

    /// `None` where a number of `x` is not finite.
    fn of(&self, exec: &mut Exec, x: &[f32], b: &mut Buffers) -> Option<Vec<f32>> {
        let (outputs, mut faulted) = (self.matrix.rows, [false]);
        exec.activate(&mut b.acts, (1, x.len()), &[&self.matrix], &mut faulted, &|_, out| {
            out.copy_from_slice(x);
        });
        let mut made = vec![0.0; outputs];
        exec.linear(&[(&self.matrix, 0)], &b.acts, 1, (&mut made, outputs), Write::Set);
        made.iter_mut().zip(&self.bias).for_each(|(made, bias)| *made += *bias);
        (!faulted[0]).then_some(made)
    }
}

impl Head {
    pub(super) fn load(load: &mut Loader<'_>, width: usize) -> Result<Head, LoadError> {
        if outputs(load.gguf)? != 1 {
            return Err(LoadError::Hyper { key: weight(OUTPUT), expected: "one output: the score of a pair" });
        }
        let dense =
            load.gguf.opt_tensor(&weight(DENSE)).map(|_| Affine::load(load, DENSE, width, width)).transpose()?;
        Ok(Head { dense, output: Affine::load(load, OUTPUT, width, 1)? })
    }

    /// What it makes of a hidden state; no number where that has one which is not finite.
    pub(super) fn score(&self, exec: &mut Exec, hidden: &[f32], b: &mut Buffers) -> f32 {
        let state = match &self.dense {
            None => Some(hidden.to_vec()),
            Some(dense) => dense.of(exec, hidden, b).map(|made| made.into_iter().map(tanh).collect()),
        };
        let score = state.and_then(|state| self.output.of(exec, &state, b));
        score.and_then(|score| score.first().copied()).unwrap_or(f32::NAN)
    }

    fn layers(&self) -> impl Iterator<Item = &Affine> {
        self.dense.iter().chain([&self.output])
    }

    pub(super) fn bytes(&self) -> usize {
        self.layers().map(|layer| layer.matrix.bytes() + layer.bias.len() * size_of::<f32>()).sum()
    }

    pub(super) fn stretches(&self) -> impl Iterator<Item = &[u8]> {
        self.layers().flat_map(|layer| layer.matrix.stretches().into_iter().chain([seal::of(&layer.bias)]))
    }

    pub(super) fn stretches_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let layers = self.dense.iter_mut().chain([&mut self.output]);
        layers.flat_map(|Affine { matrix, bias }| matrix.stretches_mut().into_iter().chain([seal::of_mut(bias)]))
    }
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}

fn outputs(gguf: &Gguf) -> Result<u64, LoadError> {
    Ok(gguf.tensor(&weight(OUTPUT))?.ne[1])
}
