//! What every number of the engine is: the scalar, executable definition of canonical numerics.
//!
//! Each function here is a formula with its rounding steps and its order of additions; a faster kernel
//! is right when it gives the same bits (see `kernel`). Written to be read, and inlined by the SIMD
//! kernels where the compiler finds the vector form by itself: Rust never reorders or contracts floats,
//! so the same text compiled for wider registers stays the same function.
//!
//! Reads and writes slices. Knows no threads, no files, no architectures. NaN payloads are outside the
//! contract: a non-finite activation is found by `linear::quantize` and ends its request.

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod linear;

use half::f16;

/// Names the definition: tokens of one model, prompt and seed are the same under one name. Changes with
/// every change that could move a bit.
pub const DEFINITION: &str = "canonical-1";

/// Partial sums of every reduction: element i belongs to lane i mod 256.
pub(crate) const LANES: usize = 256;

/// e^x by Cody and Waite's reduction (n·ln 2 in two parts) and Cephes' `expf` polynomial, all in fma:
/// at most 1.01 units in the last place. Below −87 it is +0, above 88 it stays e^88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = f32::from_bits(0x3fb8_aa3b);
    const LN2_HI: f32 = f32::from_bits(0x3f31_7200);
    const LN2_LO: f32 = f32::from_bits(0x35bf_be8e);
    /// 1.5 · 2^23: adding it rounds to an integer and leaves that integer in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    const P: [f32; 6] = [
        f32::from_bits(0x3950_6967),
        f32::from_bits(0x3ab7_43ce),
        f32::from_bits(0x3c08_8908),
        f32::from_bits(0x3d2a_a9c1),
        f32::from_bits(0x3e2a_aaaa),
        f32::from_bits(0x3f00_0000),
    ];
    let t = x.mul_add(LOG2_E, MAGIC);
    let n = t - MAGIC;
    let r = n.mul_add(-LN2_HI, x);
    let r = n.mul_add(-LN2_LO, r);
    let mut p = P[0];
    p = p.mul_add(r, P[1]);
    p = p.mul_add(r, P[2]);
    p = p.mul_add(r, P[3]);
    p = p.mul_add(r, P[4]);
    p = p.mul_add(r, P[5]);
    let y = 1.0 + (r * r).mul_add(p, r);
    let y = y * f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000));
    let y = if x < -87.0 { 0.0 } else { y };
    if x > 88.0 { f32::from_bits(0x7ef8_82b7) } else { y }
}

/// x / (1 + e^−x).
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// 1 − 2 / (1 + e^2x): near 0 it is off by 10⁻⁷, not by a part of itself.
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// 1 / (1 + e^−x).
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// GELU in its tanh form, x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³))), which is x / (1 + e^−2z) with z the
/// argument of tanh: no tanh is needed.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    /// 2·√(2/π), rounded.
    const SLOPE: f32 = f32::from_bits(0x3fcc_422a);
    x / (1.0 + exp(-SLOPE * (x * (x * x).mul_add(0.044_715, 1.0))))
}

/// GELU in its exact form, x·Φ(x) with the normal distribution's Φ, by the rational approximation 7.1.26 of Abramowitz
/// and Stegun: Φ is off by 3·10⁻⁷ at most, with what f32 rounds.
#[inline(always)]
pub(crate) fn gelu_erf(x: f32) -> f32 {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    /// Highest power first, each halved.
    const A: [f32; 5] = [0.530_702_7, -0.726_576, 0.710_706_9, -0.142_248_37, 0.127_414_8];
    let size = x.abs();
    let t = 1.0 / size.mul_add(P, 1.0);
    let p = A[0].mul_add(t, A[1]).mul_add(t, A[2]).mul_add(t, A[3]).mul_add(t, A[4]) * t;
    let beyond = p * exp(-0.5 * (x * x));
    let positive = if x > 0.0 { x } else { 0.0 };
    positive - size * beyond
}

/// out = gelu_erf(x + bias).
#[inline(always)]
pub(crate) fn biased_gelu(x: &[f32], bias: &[f32], out: &mut [f32]) {
    for ((o, x), b) in out.iter_mut().zip(x).zip(bias) {
        *o = gelu_erf(*x + *b);
    }
}

/// out = silu(gate) · up, the gated half of a feed-forward layer.
#[inline(always)]
pub(crate) fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = silu(*g) * *u;
    }
}

/// out = gelu(gate) · up.
#[inline(always)]
pub(crate) fn geglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = gelu(*g) * *u;
    }
}

/// Lanes added in halves: 128 pairs, then 64, … then one. What a block of 256 GPU threads does.
#[inline(always)]
pub(crate) fn tree(lanes: &[f32; LANES]) -> f32 {
    // Down to sixteen in one go, and the rest in a cache line: halves that go through memory wait for each other, the
    // longer where a register crosses two lines.
    #[repr(align(64))]
    struct Line([f32; 16]);
    let mut line = Line([0.0; 16]);
    for i in 0..16 {
        let two = |r: usize| lanes[16 * r + i] + lanes[16 * (r + 8) + i];
        let four = |r: usize| two(r) + two(r + 4);
        let eight = |r: usize| four(r) + four(r + 2);
        line.0[i] = eight(0) + eight(1);
    }
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            line.0[i] += line.0[i + half];
        }
        half /= 2;
    }
    line.0[0]
}

/// Σ x², lane by lane in ascending order, then the tree.
#[inline(always)]
pub(crate) fn sum_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = v.mul_add(*v, *lane);
        }
    }
    tree(&lanes)
}

/// out = (x · 1/√(Σx²/n + eps)) · weight, with IEEE square root and divisions.
#[inline(always)]
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = (*v * inverse) * *w;
    }
}

/// `rms_norm` in place, of each stretch of `x` as long as `weight`: the heads of a row, or a whole row.
#[inline(always)]
pub(crate) fn rms_norm_each(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let inverse = inverse_rms(x, eps);
        for (v, w) in x.iter_mut().zip(weight) {
            *v = (*v * inverse) * *w;
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_squares(x) / x.len() as f32 + eps).sqrt()
}

/// x = (x − mean) · 1/√(Σ(x − mean)²/n + eps) · weight + bias in place, the last two in one fma. The mean is summed as
/// the squares are.
#[inline(always)]
pub(crate) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let mut lanes = [0.0; LANES];
    for chunk in x.chunks(LANES) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += *v;
        }
    }
    let mean = tree(&lanes) / x.len() as f32;
    x.iter_mut().for_each(|v| *v -= mean);
    let inverse = inverse_rms(x, eps);
    for ((v, w), b) in x.iter_mut().zip(weight).zip(bias) {
        *v = (*v * inverse).mul_add(*w, *b);
    }
}

/// Rotates the adjacent pairs (2i, 2i+1) of each head of `x` by the angles whose cosines and sines are
/// in `table` (one `[cos, sin]` for each pair): x0' = x0·c − x1·s, x1' = x1·c + x0·s, one fma each.
#[inline(always)]
pub(crate) fn rope(x: &mut [f32], table: &[[f32; 2]]) {
    for head in x.chunks_exact_mut(table.len() * 2) {
        for (pair, [c, s]) in head.as_chunks_mut::<2>().0.iter_mut().zip(table) {
            let [x0, x1] = *pair;
            *pair = [x0.mul_add(*c, -(x1 * *s)), x1.mul_add(*c, x0 * *s)];
        }
    }
}

/// `rope` on the pairs (i, i + half) of each head.
#[inline(always)]
pub(crate) fn rope_halves(x: &mut [f32], table: &[[f32; 2]]) {
    for head in x.chunks_exact_mut(table.len() * 2) {
        let (low, high) = head.split_at_mut(table.len());
        for ((x0, x1), [c, s]) in low.iter_mut().zip(high).zip(table) {
            (*x0, *x1) = (x0.mul_add(*c, -(*x1 * *s)), x1.mul_add(*c, *x0 * *s));
        }
    }
}

/// base^(−2i/dims) for each pair i, in f64 by the pinned pure-Rust `libm` (the standard library calls the platform's).
pub(crate) fn rope_frequencies(dims: usize, base: f32) -> Vec<f64> {
    (0..dims / 2).map(|i| libm::pow(f64::from(base), -((2 * i) as f64) / dims as f64)).collect()
}

/// Cosine and sine of position · frequency_i / factor_i for each pair i, as `rope_frequencies`, rounded once to f32.
pub(crate) fn rope_angles(position: u32, frequencies: &[f64], factors: Option<&[f32]>, out: &mut [[f32; 2]]) {
    for (i, (frequency, out)) in frequencies.iter().zip(out).enumerate() {
        let factor = factors.map_or(1.0, |f| f64::from(f[i]));
        let (sine, cosine) = libm::sincos(f64::from(position) * frequency / factor);
        *out = [cosine as f32, sine as f32];
    }
}

/// The exact value of f16 bits.
#[inline(always)]
pub(crate) fn from_f16(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// How keys and values are kept: clamped to the largest finite f16, then rounded to nearest even.
/// NaN becomes some NaN, which the attention hands on and `linear::quantize` finds.
#[inline(always)]
pub(crate) fn to_f16(x: f32) -> u16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0)).to_bits()
}

#[cfg(test)]
pub(crate) mod noise;
#[cfg(test)]
mod tests;
