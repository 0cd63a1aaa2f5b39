//! Attention of up to `TILE` queries that share a head's keys and values, but for the two sums, which are a level's.
//!
//! Queries of a tile may see different positions: where one sees fewer its weights are +0, and a product with +0
//! added to a chain changes no bit that is kept (a chain can only hold −0 by underflow, and the segment's sum
//! makes +0 of both).

use super::Query;
use crate::kv::{Head, Split};
use crate::numerics::attention::{Chain, SPLIT};
use crate::numerics::{exp, tree};
use std::ops::Range;

/// Weights of each query for each position of a split.
pub(super) type Weights<const T: usize> = [[f32; SPLIT]; T];

/// Lanes of the widest level: weights are made for whole registers.
const LANES: usize = 16;

/// `scores` writes query · key for the positions asked for, and may write more of the split; `sum_values` writes
/// Σ weight · value over them, dims of each query side by side.
#[inline(always)]
pub(super) fn tile<const T: usize>(
    queries: [&mut Query<'_>; T],
    head: Head<'_>,
    scores: impl Fn(&[&[f32]; T], Split<'_>, Range<usize>, &mut Weights<T>),
    sum_values: impl Fn(&Weights<T>, Split<'_>, Range<usize>, &mut [f32]),
) {
    let seen = queries.each_ref().map(|q| (q.seen.start, q.seen.end));
    let asks = queries.each_ref().map(|q| q.query);
    let mut chains = queries.map(|q| Chain::new(&mut *q.out));
    let any = seen.iter().map(|s| s.0).min().unwrap_or(0)..seen.iter().map(|s| s.1).max().unwrap_or(0);
    let mut values = vec![0.0f32; T * head.dim()];
    let mut weights: Weights<T> = [[0.0; SPLIT]; T];
    for split in any.start / SPLIT..any.end.div_ceil(SPLIT) {
        let base = split * SPLIT;
        let here = |(start, end): (usize, usize)| {
            start.max(base).min(base + SPLIT) - base..end.max(base).min(base + SPLIT) - base
        };
        let any = here((any.start, any.end));
        let stored = head.split(split);
        scores(&asks, stored, any.clone(), &mut weights);
        let mut maxima = [f32::NEG_INFINITY; T];
        for t in 0..T {
            let (Range { start, end }, weights) = (here(seen[t]), &mut weights[t]);
            // Whole registers, where what is not seen is no maximum and weighs nothing.
            let made = start / LANES * LANES..end.next_multiple_of(LANES);
            weights[made.start..start].fill(f32::NEG_INFINITY);
            weights[end..made.end].fill(f32::NEG_INFINITY);
            maxima[t] = maximum(&weights[made.clone()]);
            for w in &mut weights[made] {
                *w = exp(*w - maxima[t]);
            }
            weights[..start].fill(0.0);
            weights[end..].fill(0.0);
        }
        sum_values(&weights, stored, any, &mut values);
        for (t, chain) in chains.iter_mut().enumerate() {
            if !here(seen[t]).is_empty() {
                let first = base <= seen[t].0;
                chain.add(first, maxima[t], tree(&weights[t]), &values[t * head.dim()..][..head.dim()]);
            }
        }
    }
    for chain in chains {
        chain.finish();
    }
}

/// Lane by lane, so that no comparison waits for the one before: a maximum has no order.
#[inline(always)]
fn maximum(scores: &[f32]) -> f32 {
    let larger = |m: f32, s: f32| if s > m { s } else { m };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for scores in scores.as_chunks::<LANES>().0 {
        lanes = std::array::from_fn(|i| larger(lanes[i], scores[i]));
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}
