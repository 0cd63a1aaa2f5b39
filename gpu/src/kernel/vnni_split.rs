//! A head's groups by the upper halves of their codes, at the AVX-512 VNNI level: bounds, as `split` defines them.
// An index names a register here; iterators over arrays of registers say less.
#![allow(clippy::needless_range_loop)]

use super::split::{Asker, Peak, Split};
use super::vnni_load::{load_bytes, widen};
use super::vnni_tile::{ahead, codes, dot};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn look(head: &Split, group: usize, askers: &[Asker<'_>], peaks: &mut [Peak]) {
    let (eights, rest) = askers.as_chunks::<8>();
    let (outs, peaks) = peaks.split_at_mut(eights.len() * 8);
    for (askers, peaks) in eights.iter().zip(outs.as_chunks_mut().0) {
        each::<8>(head, group, askers, peaks);
    }
    let (fours, rest) = rest.as_chunks::<4>();
    let (outs, peaks) = peaks.split_at_mut(fours.len() * 4);
    for (askers, peaks) in fours.iter().zip(outs.as_chunks_mut().0) {
        each::<4>(head, group, askers, peaks);
    }
    for (asker, peak) in rest.as_chunks::<1>().0.iter().zip(peaks.as_chunks_mut().0) {
        each::<1>(head, group, asker, peak);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn each<const T: usize>(head: &Split, group: usize, askers: &[Asker<'_>; T], peaks: &mut [Peak; T]) {
    let ([high, _], scales) = (head.codes(group), head.scales(group));
    let (mut centre, mut reach) = ([_mm512_setzero_ps(); T], [_mm512_setzero_ps(); T]);
    for (b, (high, scale)) in high.iter().zip(scales).enumerate() {
        ahead(high);
        let d = widen(&scale.d);
        let rest = _mm512_mul_ps(_mm512_abs_ps(d), load_bytes(&scale.rest));
        let x: [_; T] = std::array::from_fn(|t| &askers[t].blocks[b]);
        let sums = dot::<T, 0, 8>(&codes(high), x, [_mm512_setzero_si512(); T]);
        for t in 0..T {
            let (by, off) = (_mm512_set1_ps(16.0 * x[t].d), _mm512_set1_ps(-120.5 * x[t].d * x[t].g));
            let of = _mm512_fmadd_ps(by, _mm512_cvtepi32_ps(sums[t]), off);
            centre[t] = _mm512_fmadd_ps(d, of, centre[t]);
            reach[t] = _mm512_fmadd_ps(_mm512_set1_ps(askers[t].reach[b]), rest, reach[t]);
        }
    }
    for t in 0..T {
        let upper = _mm512_reduce_max_ps(_mm512_add_ps(centre[t], reach[t]));
        peaks[t] = Peak { centre: _mm512_reduce_max_ps(centre[t]), upper };
    }
}
