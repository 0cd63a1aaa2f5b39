//! Attention of one query over the keys and values of its sequence.
//!
//! A query sees its own position and those before it, in layers with a window of W the last W of them.
//! Positions are cut into splits of 256 at absolute positions, so that neither the batch nor the
//! chunking of a prompt nor a window moves a cut: a window that begins within a split leaves the lanes
//! before it empty. In a split the maximum is exact, weights are exp(score − maximum),
//! their sum is the 256-lane tree (a lane for each position) and values are added in segments of 32
//! positions, at absolute positions too. Splits are rescaled to the common maximum and chained in ascending order; one division
//! for each output ends it.
//!
//! Reads keys and values through `Cache`. Scaling of the query by 1/√head_dim is the caller's.

use super::{LANES, exp, tree};
use std::ops::Range;

/// Positions in a split: as many as the lanes of the sum.
pub(crate) const SPLIT: usize = LANES;
/// Dims in a segment of a score, positions in a segment of a value.
pub(crate) const SEGMENT: usize = 32;

/// The positions a query at `position` sees.
pub(crate) fn seen(position: usize, window: Option<usize>) -> Range<usize> {
    let end = position + 1;
    window.map_or(0, |window| end.saturating_sub(window))..end
}

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

/// `out` = Σ softmax(query · keyⱼ) valueⱼ over the positions `seen`, of which there is one at least.
pub(crate) fn attend(query: &[f32], cache: &impl Cache, seen: Range<usize>, out: &mut [f32]) {
    let mut chain = Chain::new(out);
    let mut values = vec![0.0; query.len()];
    for split in seen.start / SPLIT..seen.end.div_ceil(SPLIT) {
        let base = split * SPLIT;
        let here = seen.start.max(base)..seen.end.min(base + SPLIT);
        let mut weights = [0.0; SPLIT];
        let mut max = f32::NEG_INFINITY;
        for position in here.clone() {
            let s = score(query, cache, position);
            weights[position - base] = s;
            max = if s > max { s } else { max };
        }
        for w in &mut weights[here.start - base..here.end - base] {
            *w = exp(*w - max);
        }
        for (dim, v) in values.iter_mut().enumerate() {
            *v = 0.0;
            for segment in (base..here.end).step_by(SEGMENT) {
                let positions = segment.max(here.start)..here.end.min(segment + SEGMENT);
                *v += positions.fold(0.0, |p, j| weights[j - base].mul_add(cache.value(j, dim), p));
            }
        }
        chain.add(base <= seen.start, max, tree(&weights), &values);
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
