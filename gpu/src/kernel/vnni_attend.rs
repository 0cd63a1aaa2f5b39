//! Attention at the AVX-512 level: the sums of up to eight queries, sixteen positions or sixteen dims at a time.
//!
//! As in `avx2_attend` no sum crosses lanes. Heads whose dims fill no register go there.
#![allow(unsafe_code)]
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::attend::{Weights, tile};
use super::{Query, avx2_attend};
use crate::kv::{Head, LANE_POSITIONS, Split};
use crate::numerics::attention::SEGMENT;
use std::arch::x86_64::*;
use std::ops::Range;

/// Of a segment of dims.
const HALF: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn attend(queries: &mut [Query<'_>], head: Head<'_>) {
    if !head.dim().is_multiple_of(16) {
        return avx2_attend::attend(queries, head);
    }
    match queries {
        [] => {}
        [a] => whole([a], head),
        [a, b] => whole([a, b], head),
        [a, b, c] => whole([a, b, c], head),
        [a, b, c, d] => whole([a, b, c, d], head),
        [a, b, c, d, e, f, g, h] => whole([a, b, c, d, e, f, g, h], head),
        _ => {
            let (four, rest) = queries.split_at_mut(4);
            attend(four, head);
            attend(rest, head);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn whole<const T: usize>(queries: [&mut Query<'_>; T], head: Head<'_>) {
    tile(
        queries,
        head,
        |queries, split, seen, out| scores(queries, split, seen, out),
        |weights, split, seen, out| sum_values(weights, split, seen, out),
    );
}

/// Registers of positions, or of dims, at a time: what is broadcast of the queries or of the weights serves both.
const PAIR: usize = 2;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn scores<const T: usize>(queries: &[&[f32]; T], split: Split<'_>, seen: Range<usize>, out: &mut Weights<T>) {
    let groups = seen.start / LANE_POSITIONS..seen.end.div_ceil(LANE_POSITIONS);
    for g in groups.clone().step_by(PAIR) {
        match groups.end - g {
            1 => scores_of::<T, 1>(queries, split, g, out),
            _ => scores_of::<T, PAIR>(queries, split, g, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn scores_of<const T: usize, const G: usize>(
    queries: &[&[f32]; T],
    split: Split<'_>,
    first: usize,
    out: &mut Weights<T>,
) {
    // Sixteen dims at a time, a length the compiler knows: no index is checked within.
    let mut keys = [split.keys(first).as_chunks::<LANE_POSITIONS>().0.as_chunks::<HALF>().0; G];
    let halves = keys[0].len();
    for g in 1..G {
        keys[g] = &split.keys(first + g).as_chunks::<LANE_POSITIONS>().0.as_chunks().0[..halves];
    }
    let asks = queries.map(|query| &query.as_chunks::<HALF>().0[..halves]);
    let mut tot = [[_mm512_setzero_ps(); T]; G];
    for segment in (0..halves).step_by(SEGMENT / HALF) {
        let mut p = [[_mm512_setzero_ps(); T]; G];
        for half in segment..halves.min(segment + SEGMENT / HALF) {
            for i in 0..HALF {
                let mut k = [_mm512_setzero_ps(); G];
                for g in 0..G {
                    k[g] = widen(&keys[g][half][i]);
                }
                for t in 0..T {
                    let ask = _mm512_set1_ps(asks[t][half][i]);
                    for g in 0..G {
                        p[g][t] = _mm512_fmadd_ps(ask, k[g], p[g][t]);
                    }
                }
            }
        }
        for g in 0..G {
            for t in 0..T {
                tot[g][t] = _mm512_add_ps(tot[g][t], p[g][t]);
            }
        }
    }
    for g in 0..G {
        for t in 0..T {
            store(&mut out[t].as_chunks_mut().0[first + g], tot[g][t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_values<const T: usize>(weights: &Weights<T>, split: Split<'_>, seen: Range<usize>, out: &mut [f32]) {
    let lanes = out.len() / T / 16;
    for d in (0..lanes).step_by(PAIR) {
        match lanes - d {
            1 => sum_values_of::<T, 1>(weights, split, seen.clone(), d, out),
            _ => sum_values_of::<T, PAIR>(weights, split, seen.clone(), d, out),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_values_of<const T: usize, const G: usize>(
    weights: &Weights<T>,
    split: Split<'_>,
    seen: Range<usize>,
    d: usize,
    out: &mut [f32],
) {
    let lanes = out.len() / T / 16;
    let mut tot = [[_mm512_setzero_ps(); T]; G];
    for segment in (seen.start / SEGMENT * SEGMENT..seen.end).step_by(SEGMENT) {
        let mut p = [[_mm512_setzero_ps(); T]; G];
        let values = split.values(segment).as_chunks::<16>().0;
        for position in segment.max(seen.start)..seen.end.min(segment + SEGMENT) {
            let values = &values[(position - segment) * lanes + d..][..G];
            let mut v = [_mm512_setzero_ps(); G];
            for g in 0..G {
                v[g] = widen(&values[g]);
            }
            for t in 0..T {
                let weight = _mm512_set1_ps(weights[t][position]);
                for g in 0..G {
                    p[g][t] = _mm512_fmadd_ps(weight, v[g], p[g][t]);
                }
            }
        }
        for g in 0..G {
            for t in 0..T {
                tot[g][t] = _mm512_add_ps(tot[g][t], p[g][t]);
            }
        }
    }
    let out = out.as_chunks_mut::<16>().0;
    for g in 0..G {
        for t in 0..T {
            store(&mut out[t * lanes + d + g], tot[g][t]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widen(f16: &[u16; 16]) -> __m512 {
    // SAFETY: sixteen u16.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(f16.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [f32; 16], v: __m512) {
    // SAFETY: sixteen f32.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
}
