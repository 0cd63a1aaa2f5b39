//! Linear layers: rows of weights against one row of activations, and the int8 form of activations.
//!
//! A row's sum runs over segments of 256 elements: each segment is one chain of fma from +0, segments
//! are added in ascending order. The block dot inside is an exact integer, so any instruction that
//! multiplies bytes gives the same value. The order needs two accumulators for each output and lets a
//! GPU split a row by segments. F16 and F32 weights use the same segments with one fma per element
//! and activations that stay f32.
//!
//! Reads rows as GGUF stores them. Does not repack, tile or thread: see `kernel`.

use super::from_f16;
use crate::gguf::TensorKind;

/// Elements in a block: one scale for weights and for activations.
pub(crate) const BLOCK: usize = 32;
/// Blocks in a segment.
pub(crate) const SEGMENT: usize = 8;

/// Whether activations are quantized for weights of this kind.
pub(crate) fn is_quantized(kind: TensorKind) -> bool {
    kind.block_elems() == BLOCK as u64
}

/// Bytes of a row of `cols` elements, a whole number of blocks.
pub(crate) fn row_bytes(kind: TensorKind, cols: usize) -> usize {
    cols / kind.block_elems() as usize * kind.block_bytes() as usize
}

/// One row of activations: as it came, and in int8 blocks (empty where no weight needs them).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActRow<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) q: &'a [[i8; BLOCK]],
    /// Scale of each block.
    pub(crate) d: &'a [f32],
    /// Σ q of each block.
    pub(crate) g: &'a [f32],
}

/// What `quantize` answers for a row that holds an infinity or a NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NonFinite;

/// Whether all of `x` is finite.
#[inline(always)]
pub(crate) fn check_finite(x: &[f32]) -> Result<(), NonFinite> {
    let largest = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
    if largest >= 0x7f80_0000 { Err(NonFinite) } else { Ok(()) }
}

/// x ≈ d · q in blocks of 32: d = amax/127, q = x · (127/amax) rounded to nearest even, within ±127.
/// A block below 2⁻⁹⁶ is zero, so that 127/amax stays finite.
#[inline(always)]
pub(crate) fn quantize(x: &[f32], q: &mut [[i8; BLOCK]], d: &mut [f32], g: &mut [f32]) -> Result<(), NonFinite> {
    check_finite(x)?;
    for (((x, q), d), g) in x.as_chunks::<BLOCK>().0.iter().zip(q).zip(d).zip(g) {
        let amax = x.iter().fold(0, |m: u32, v| m.max(v.to_bits() & 0x7fff_ffff));
        if amax < 0x0f80_0000 {
            (*q, *d, *g) = ([0; BLOCK], 0.0, 0.0);
            continue;
        }
        let amax = f32::from_bits(amax);
        *d = amax / 127.0;
        let id = 127.0 / amax;
        let mut sum = 0;
        for (q, v) in q.iter_mut().zip(x) {
            // SAFE RANGE: |v · id| ≤ 127 · (1 + 2⁻²³), which rounds to 127 at most.
            let n = (*v * id).round_ties_even() as i32;
            sum += n;
            *q = n as i8;
        }
        *g = sum as f32;
    }
    Ok(())
}

/// One output of a linear layer.
pub(crate) fn dot(kind: TensorKind, row: &[u8], x: ActRow<'_>) -> f32 {
    match kind {
        TensorKind::F32 => segments(x.x.len(), SEGMENT * BLOCK, |i, p| x.x[i].mul_add(f32_at(row, i * 4), p)),
        TensorKind::F16 => segments(x.x.len(), SEGMENT * BLOCK, |i, p| x.x[i].mul_add(f16_at(row, i * 2), p)),
        TensorKind::Q4_1 => {
            segments(x.q.len(), SEGMENT, |b, p| x.d[b].mul_add(q4_1(&row[b * 20..], &x.q[b], x.g[b]), p))
        }
        TensorKind::Q8_0 => segments(x.q.len(), SEGMENT, |b, p| x.d[b].mul_add(q8_0(&row[b * 34..], &x.q[b]), p)),
    }
}

/// tot = +0; for each segment { p = +0; for each of its items: p = step(item, p); tot = tot + p }.
fn segments(items: usize, per_segment: usize, step: impl Fn(usize, f32) -> f32) -> f32 {
    let mut tot = 0.0;
    for start in (0..items).step_by(per_segment) {
        let end = items.min(start + per_segment);
        tot += (start..end).fold(0.0, |p, i| step(i, p));
    }
    tot
}

/// u = d · Σ w·q + m · Σ q, one rounding of the product m·Σq, one of the fma.
fn q4_1(block: &[u8], q: &[i8; BLOCK], g: f32) -> f32 {
    let (d, m) = (f16_at(block, 0), f16_at(block, 2));
    let mut sum = 0i32;
    for (i, byte) in block[4..20].iter().enumerate() {
        sum += i32::from(byte & 15) * i32::from(q[i]) + i32::from(byte >> 4) * i32::from(q[i + 16]);
    }
    d.mul_add(sum as f32, m * g)
}

/// u = d · Σ w·q.
fn q8_0(block: &[u8], q: &[i8; BLOCK]) -> f32 {
    let sum: i32 = block[2..34].iter().zip(q).map(|(w, q)| i32::from(*w as i8) * i32::from(*q)).sum();
    f16_at(block, 0) * sum as f32
}

/// A row as f32: every product of an f16 scale and a small integer is exact, so the only rounding is
/// that of Q4_1's addition.
pub(crate) fn dequantize(kind: TensorKind, row: &[u8], out: &mut [f32]) {
    for (i, o) in out.iter_mut().enumerate() {
        let (block, j) = (i / BLOCK, i % BLOCK);
        *o = match kind {
            TensorKind::F32 => f32_at(row, i * 4),
            TensorKind::F16 => f16_at(row, i * 2),
            TensorKind::Q4_1 => {
                let b = &row[block * 20..];
                let nibble = if j < 16 { b[4 + j] & 15 } else { b[4 + j - 16] >> 4 };
                f16_at(b, 0).mul_add(f32::from(nibble), f16_at(b, 2))
            }
            TensorKind::Q8_0 => {
                let b = &row[block * 34..];
                f16_at(b, 0) * f32::from(b[2 + j] as i8)
            }
        };
    }
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    from_f16(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

pub(crate) fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
