//! One vector for a whole text: the last hidden states of its tokens, normalised as for the output head, pooled as the
//! model's file says, and scaled to length one. Of a pair that is scored, the score.
//!
//! A sequence's rows come in ascending order and are added one by one, so that the vector does not depend on
//! how its prompt was cut or on what ran beside it.

use super::Decoder;
use super::forward::Buffers;
use crate::kernel::Kernels;
use crate::numerics::{sigmoid, sum_squares};

/// What becomes of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    /// That of the first token, which encoders are trained to say all in.
    First,
    /// That of the last token, which has seen all others: of a decoder whose file does not say.
    Last,
}

#[derive(Debug)]
pub(crate) enum Pooled {
    /// The hidden states so far: their sum, or the last.
    Hidden(Vec<f32>),
    /// What a head made of them.
    Score(f32),
}

impl Default for Pooled {
    fn default() -> Pooled {
        Pooled::Hidden(Vec::new())
    }
}

impl Pooled {
    pub(super) fn take(&mut self, pooling: Pooling, hidden: Vec<f32>) {
        // A score is of a whole input: nothing follows.
        let Pooled::Hidden(held) = self else { return };
        match pooling {
            Pooling::Mean if !held.is_empty() => held.iter_mut().zip(hidden).for_each(|(sum, x)| *sum += x),
            Pooling::First if !held.is_empty() => {}
            Pooling::Mean | Pooling::First | Pooling::Last => *held = hidden,
        }
    }

    /// Of length one, to which a sum and a mean come alike; `None` where nothing was read or it has no length. Or a
    /// score as it is, and as a share of one.
    pub(crate) fn vector(&self) -> Option<Vec<f32>> {
        let hidden = match self {
            Pooled::Hidden(hidden) => hidden,
            Pooled::Score(score) => return score.is_finite().then(|| vec![*score, sigmoid(*score)]),
        };
        let length = sum_squares(hidden).sqrt();
        let is_one = length > 0.0 && length.is_finite();
        is_one.then(|| hidden.iter().map(|x| x / length).collect())
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
        assert_eq!(Pooled::Hidden(vec![0.0; 3]).vector(), None);
        assert_eq!(Pooled::Hidden(vec![f32::MAX; 3]).vector(), None);
        assert_eq!(Pooled::Score(0.0).vector(), Some(vec![0.0, 0.5]));
        assert_eq!(Pooled::Score(f32::NAN).vector(), None);
    }
}
