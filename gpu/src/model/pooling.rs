//! One vector for a whole text: the last hidden states of its tokens, normalised as for the output head, pooled as the
//! model's file says, and scaled to length one.
//!
//! A sequence's rows come in ascending order and are added one by one, so that the vector does not depend on
//! how its prompt was cut or on what ran beside it.

use super::Decoder;
use super::forward::Buffers;
use crate::kernel::Kernels;
use crate::numerics::sum_squares;

/// What becomes of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    /// That of the first token, which encoders are trained to say all in.
    First,
    /// That of the last token, which has seen all others: of a decoder whose file does not say.
    Last,
}

/// The hidden states so far: their sum, or the last.
#[derive(Debug, Default)]
pub(crate) struct Pooled(Vec<f32>);

impl Pooled {
    pub(super) fn take(&mut self, pooling: Pooling, hidden: Vec<f32>) {
        match pooling {
            Pooling::Mean if !self.0.is_empty() => self.0.iter_mut().zip(hidden).for_each(|(sum, x)| *sum += x),
            Pooling::First if !self.0.is_empty() => {}
            Pooling::Mean | Pooling::First | Pooling::Last => self.0 = hidden,
        }
    }

    /// Of length one, to which a sum and a mean come alike; `None` where nothing was read or it has no length.
    pub(crate) fn vector(&self) -> Option<Vec<f32>> {
        let length = sum_squares(&self.0).sqrt();
        let is_one = length > 0.0 && length.is_finite();
        is_one.then(|| self.0.iter().map(|x| x / length).collect())
    }
}

impl Decoder {
    /// Takes up row `row` of the pass that `buffers` holds.
    pub(crate) fn pool(&self, kernels: &Kernels, buffers: &Buffers, row: usize, pooled: &mut Pooled) {
        let width = self.hyper.width;
        let mut hidden = vec![0.0; width];
        (kernels.rms_norm)(&buffers.x[row * width..][..width], &self.norm, self.hyper.eps, &mut hidden);
        pooled.take(self.hyper.pooling, hidden);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_the_mean_or_the_last_at_length_one() {
        let of = |pooling| {
            let mut pooled = Pooled::default();
            [[3.0, 0.0], [3.0, 8.0]].into_iter().for_each(|hidden| pooled.take(pooling, hidden.to_vec()));
            pooled.vector().unwrap()
        };
        assert_eq!(of(Pooling::Mean), [0.6, 0.8]);
        assert_eq!(of(Pooling::First), [1.0, 0.0]);
        assert_eq!(of(Pooling::Last), [3.0f32, 8.0].map(|x| x / 73.0f32.sqrt()));
        assert_eq!(Pooled::default().vector(), None);
        assert_eq!(Pooled(vec![0.0; 3]).vector(), None);
        assert_eq!(Pooled(vec![f32::MAX; 3]).vector(), None);
    }
}
