//! Attention of one query over the keys and values of its sequence.
//!
//! Positions are cut into splits of 256 at absolute positions, so that neither the batch nor the
//! chunking of a prompt moves a cut. In a split the maximum is exact, weights are exp(score − maximum),
//! their sum is the 256-lane tree (a lane for each position) and values are added in segments of 32
//! positions. Splits are rescaled to the common maximum and chained in ascending order; one division
//! for each output ends it.
//!
//! Reads keys and values through `Cache`. Scaling of the query by 1/√head_dim is the caller's.

use super::{LANES, exp, tree};

/// Positions in a split: as many as the lanes of the sum.
pub(crate) const SPLIT: usize = LANES;
/// Dims in a segment of a score, positions in a segment of a value.
pub(crate) const SEGMENT: usize = 32;

/// Keys and values of one head of one layer of one sequence, already exact f32.
pub(crate) trait Cache {
    fn key(&self, position: usize, dim: usize) -> f32;
    fn value(&self, position: usize, dim: usize) -> f32;
}

/// A running softmax over splits: maximum, sum, and the unnormalised output.
pub(crate) struct Chain<'a> {
    max: f32,
    sum: f32,
    out: &'a mut [f32],
}

impl<'a> Chain<'a> {
    pub(crate) fn new(out: &'a mut [f32]) -> Self {
        Chain { max: f32::NEG_INFINITY, sum: 0.0, out }
    }

    /// Takes the next split up: the first as it is, later ones by one fma on the product of the smaller.
    #[inline(always)]
    pub(crate) fn add(&mut self, first: bool, max: f32, sum: f32, values: &[f32]) {
        if first {
            (self.max, self.sum) = (max, sum);
            self.out.copy_from_slice(values);
            return;
        }
        let top = if max > self.max { max } else { self.max };
        let (old, new) = (exp(self.max - top), exp(max - top));
        self.sum = self.sum.mul_add(old, sum * new);
        for (o, v) in self.out.iter_mut().zip(values) {
            *o = o.mul_add(old, *v * new);
        }
        self.max = top;
    }

    /// The division.
    #[inline(always)]
    pub(crate) fn finish(self) {
        for o in self.out {
            *o /= self.sum;
        }
    }
}

/// `out` = Σ softmax(query · keyⱼ) valueⱼ over positions 0 … count − 1.
pub(crate) fn attend(query: &[f32], cache: &impl Cache, count: usize, out: &mut [f32]) {
    let mut chain = Chain::new(out);
    let mut values = vec![0.0; query.len()];
    for start in (0..count).step_by(SPLIT) {
        let end = count.min(start + SPLIT);
        let mut weights = [0.0; SPLIT];
        let mut max = f32::NEG_INFINITY;
        for position in start..end {
            let s = score(query, cache, position);
            weights[position - start] = s;
            max = if s > max { s } else { max };
        }
        for w in &mut weights[..end - start] {
            *w = exp(*w - max);
        }
        for (dim, v) in values.iter_mut().enumerate() {
            *v = 0.0;
            for segment in (start..end).step_by(SEGMENT) {
                let positions = segment..end.min(segment + SEGMENT);
                *v += positions.fold(0.0, |p, j| weights[j - start].mul_add(cache.value(j, dim), p));
            }
        }
        chain.add(start == 0, max, tree(&mut weights), &values);
    }
    chain.finish();
}

/// query · key in segments of 32 dims.
fn score(query: &[f32], cache: &impl Cache, position: usize) -> f32 {
    let mut tot = 0.0;
    for start in (0..query.len()).step_by(SEGMENT) {
        let dims = start..query.len().min(start + SEGMENT);
        tot += dims.fold(0.0, |p, dim| query[dim].mul_add(cache.key(position, dim), p));
    }
    tot
}
