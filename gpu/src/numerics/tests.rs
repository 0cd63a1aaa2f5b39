//! Golden vectors, and properties that any right implementation has.
//!
//! The vectors come from `.ci/oracle/golden.py`, which computes the same definition in exact rational
//! arithmetic with its own rounding. They are frozen: a change here changes every token ever promised.

use super::attention::{self, Cache};
use super::linear::{self, ActRow, BLOCK, NonFinite, Rounded, dot, quantize, row_bytes};
use super::noise::Noise;
use super::*;
use crate::gguf::TensorKind;
use proptest::prelude::*;
use std::ops::Range;

const POINTS: [u32; 8] = [0, 0x3f80_0000, 0xbf80_0000, 0x42b0_0000, 0xc2ae_0000, 0x3300_0000, 0x4123_4567, 0xc098_7654];

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// A row of activations with its own blocks.
struct Owned {
    x: Vec<f32>,
    blocks: Vec<Rounded>,
}

impl Owned {
    fn new(x: Vec<f32>) -> Self {
        let mut blocks = vec![Rounded::default(); x.len() / BLOCK];
        quantize(&x, &mut blocks).unwrap();
        Owned { x, blocks }
    }

    fn row(&self) -> ActRow<'_> {
        ActRow { x: &self.x, blocks: &self.blocks }
    }
}

#[test]
fn golden_exp_silu_and_gelu() {
    let points = POINTS.map(f32::from_bits);
    let expected =
        [0x3f80_0000, 0x402d_f854, 0x3ebc_5ab2, 0x7ef8_82b7, 0x00b3_3687, 0x3f80_0000, 0x46d3_1e04, 0x3c0b_b774];
    assert_eq!(bits(points.map(exp)), expected);
    let expected =
        [0x0000_0000, 0x3f3b_26a8, 0xbe89_b2b1, 0x42b0_0000, 0x83f3_9e20, 0x3280_0000, 0x4123_43dc, 0xbd25_02c8];
    assert_eq!(bits(points.map(silu)), expected);
    let expected =
        [0x0000_0000, 0x3f57_585c, 0xbe22_9e90, 0x42b0_0000, 0x8333_3e6e, 0x3280_0000, 0x4123_4567, 0xb58e_0621];
    assert_eq!(bits(points.map(gelu)), expected);
}

#[test]
fn golden_rms_norm() {
    let mut noise = Noise(1);
    let (x, w) = (noise.evens(300), noise.evens(300));
    let mut out = vec![f32::NAN; 300];
    rms_norm(&x, &w, 1e-5, &mut out);
    let expected =
        [0x3e51_bb8a, 0xc01f_910c, 0x3ed0_a336, 0x3fa3_528c, 0xc048_330d, 0xbeaa_d61b, 0x3fa7_0567, 0x3e07_2c6e];
    assert_eq!(bits(out.into_iter().step_by(40)), expected);
}

#[test]
fn golden_rope_angles() {
    let table = angles(777, 64, 100_000.0, None);
    let expected =
        [0xbf04_892e, 0xbf5b_0567, 0xbe92_3a12, 0x3f75_565e, 0x3f79_f218, 0xbe5d_6216, 0x3f7f_fbf0, 0x3c36_6c8c];
    assert_eq!(bits([0, 1, 7, 31].into_iter().flat_map(|i: usize| table[i])), expected);
    let factors = [2.0; 32];
    assert_eq!(angles(1554, 64, 100_000.0, Some(&factors)), table);
}

fn angles(position: u32, dims: usize, base: f32, factors: Option<&[f32]>) -> Vec<[f32; 2]> {
    let mut table = vec![[f32::NAN; 2]; dims / 2];
    rope_angles(position, &rope_frequencies(dims, base), factors, &mut table);
    table
}

#[test]
fn golden_quantization() {
    let row = Owned::new(Noise(2).evens(64));
    assert_eq!(bits(row.blocks.iter().map(|b| b.d)), [0x3c7b_ffc4, 0x3c7d_c649]);
    let every_fourth: Vec<i8> = row.blocks.iter().flat_map(|b| b.q).step_by(4).collect();
    assert_eq!(every_fourth, [24, -49, -65, 15, -78, -117, 108, -127, -60, -57, 76, 87, -84, -47, 25, 103]);
}

/// Ten blocks, one whole segment and a short one, or two whole ones where a stored block is a segment.
fn cols(kind: TensorKind) -> usize {
    if kind.block_elems() == 256 { 512 } else { 320 }
}

#[test]
fn golden_dots() {
    for (kind, expected) in [
        (TensorKind::F32, [0x408b_43b3, 0xc1ee_a012, 0x41c3_9750, 0xc08e_54da]),
        (TensorKind::F16, [0x408b_7f1a, 0xc1ee_a062, 0x41c3_a0db, 0xc08e_45a0]),
        (TensorKind::BF16, [0x408a_978d, 0xc1ee_6227, 0x41c3_3516, 0xc08c_c43a]),
        (TensorKind::Q4_0, [0x3ede_2044, 0x3d1c_3788, 0xbfc3_5cf2, 0xc00c_5c2a]),
        (TensorKind::Q4_1, [0xc08b_55c0, 0xbf9a_c8cd, 0x3ff3_776b, 0x3fe1_7976]),
        (TensorKind::Q5_0, [0x403c_faa3, 0xbf15_ecce, 0x3e3a_ec8a, 0xc021_9304]),
        (TensorKind::Q5_1, [0xc05c_a96f, 0xc0be_130f, 0x3f8b_08a4, 0x4037_cc10]),
        (TensorKind::Q8_0, [0xc037_8e2c, 0x3f89_396e, 0xc1b4_63fc, 0xc19c_18a5]),
        (TensorKind::Q4_K, [0x41cf_6bbf, 0x41eb_90b4, 0xc143_63aa, 0x4071_1390]),
        (TensorKind::Q5_K, [0x42c5_1bfc, 0x424b_5102, 0x42c4_b26e, 0x4354_970c]),
        (TensorKind::Q6_K, [0xc32e_c7fa, 0x44a5_c092, 0xc3a0_d5e8, 0x443f_2e2c]),
        (TensorKind::Q2_K, [0xc055_2fe0, 0xc029_1cea, 0xc0b9_769c, 0xbfa3_0bac]),
        (TensorKind::Q3_K, [0xc0dd_1ea6, 0x41dc_d9ea, 0x3fa6_6335, 0xc1de_ed08]),
        (TensorKind::IQ4_NL, [0x40d6_30ad, 0x3f69_3c58, 0xc19f_e690, 0xc1f3_2a51]),
        (TensorKind::IQ4_XS, [0x4457_7466, 0x4292_e462, 0xc3b7_c070, 0xc316_0ba3]),
        (TensorKind::MXFP4, [0xc1a2_5e90, 0x413c_3c9c, 0xc0b1_8a43, 0x3fa6_66d4]),
    ] {
        let mut noise = Noise(3);
        let x = Owned::new(noise.evens(cols(kind)));
        let dots = [(); 4].map(|()| dot(kind, &noise.weights(kind, cols(kind)), x.row()));
        assert_eq!(bits(dots), expected, "{}", kind.name());
    }
}

/// Sums of 16 bits and more, whose products with a scale round.
#[test]
fn golden_loud_dots() {
    for (kind, expected) in [
        (TensorKind::Q4_0, [0xc1fa_74c2, 0xc137_02a2, 0x41aa_7e3a, 0x4100_ea0d]),
        (TensorKind::Q4_1, [0x4045_ec58, 0x4110_9e39, 0x4209_8a5e, 0xc21d_cec6]),
        (TensorKind::Q5_0, [0xc100_d9e4, 0xc290_b705, 0x427f_8bc3, 0xc217_fde0]),
        (TensorKind::Q5_1, [0x42a1_02bf, 0x4231_5a89, 0xc229_08b8, 0xc38f_0b5a]),
        (TensorKind::Q8_0, [0x40c6_bcf4, 0x441b_60ee, 0x43e0_8570, 0x4343_528a]),
        (TensorKind::Q4_K, [0x458a_bc4b, 0xc4d9_81f0, 0x4612_6e20, 0xc4ca_78be]),
        (TensorKind::Q5_K, [0x45b1_789c, 0xc606_6d17, 0xc60a_4c37, 0x46db_9877]),
        (TensorKind::Q6_K, [0xc5b3_5e32, 0x4687_95e3, 0x46e2_a9c0, 0x4481_8640]),
        (TensorKind::Q2_K, [0x43d8_c968, 0x43f1_dc82, 0xc19b_b590, 0xc270_ba90]),
        (TensorKind::Q3_K, [0x4452_6c10, 0xc375_a8ee, 0xc41f_bf90, 0xc4f1_0368]),
        (TensorKind::IQ4_NL, [0xc3e0_17e4, 0xc322_aa1f, 0x4398_58bd, 0x42e3_09fa]),
        (TensorKind::IQ4_XS, [0xc694_aeac, 0x456e_a194, 0x4620_37e2, 0xc6c4_78f2]),
        (TensorKind::MXFP4, [0x437b_d656, 0x4261_b7c2, 0x4301_e3d5, 0x444b_80be]),
    ] {
        let mut noise = Noise(5);
        let x = Owned::new(noise.loud(cols(kind)));
        let dots = [(); 4].map(|()| dot(kind, &noise.loud_weights(kind, cols(kind)), x.row()));
        assert_eq!(bits(dots), expected, "{}", kind.name());
    }
}

/// Keys and values in rows of 40.
struct Rows {
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl Cache for Rows {
    fn key(&self, position: usize, dim: usize) -> f32 {
        from_f16(self.keys[position * 40 + dim])
    }

    fn value(&self, position: usize, dim: usize) -> f32 {
        from_f16(self.values[position * 40 + dim])
    }
}

/// Alone, a full split, and a split with a short second one; windows that begin within the first and
/// within the second; 40 dims are a segment and a quarter.
#[test]
fn golden_attention() {
    let mut noise = Noise(4);
    let query = noise.evens(40);
    let rows = Rows { keys: noise.halves(40 * 300), values: noise.halves(40 * 300) };
    for (seen, expected) in [
        (
            0..1,
            [0xbfbd_e000, 0xbfe9_4000, 0xbf4a_a000, 0x3fd9_c000, 0xbf42_4000, 0xbf86_a000, 0x3e09_e000, 0xbfc5_0000],
        ),
        (
            0..256,
            [0xbf1a_ef1c, 0x3e63_9ae5, 0xbf0f_fcaf, 0x3e72_4a45, 0xbe3f_39e0, 0x3f55_fc5a, 0x3f9c_dab5, 0x3ef2_513c],
        ),
        (
            0..300,
            [0xbf1b_eb46, 0x3e58_9fb8, 0xbf12_3a3c, 0x3e6c_cb4d, 0xbe31_b7e2, 0x3f57_19a8, 0x3f9c_0926, 0x3ef0_1921],
        ),
        (
            45..300,
            [0xbf21_37d1, 0x3eb6_5d38, 0xbfa6_47c1, 0x3deb_02b9, 0xbe3c_7f26, 0x3fbb_7469, 0x3fa7_0713, 0x3e45_757f],
        ),
        (
            261..300,
            [0xbf85_2136, 0x3f57_46a3, 0xbf59_de6c, 0xbe8e_42c7, 0xbd9a_808b, 0x3bbc_332c, 0x3d80_7eaf, 0x3f98_8afd],
        ),
    ] {
        let mut out = vec![f32::NAN; 40];
        attention::attend(&query, &rows, seen.clone(), &mut out);
        assert_eq!(bits(out.into_iter().step_by(5)), expected, "positions {seen:?}");
    }
}

/// Every 4,001st bit pattern against the platform's f64 exponential.
#[test]
fn exp_is_within_its_stated_error() {
    for pattern in (0..u32::MAX).step_by(4001) {
        let x = f32::from_bits(pattern);
        if !(-87.0..=88.0).contains(&x) {
            continue;
        }
        let exact = f64::from(x).exp();
        let ulp = f64::from(f32::from_bits((exact as f32).to_bits() & 0x7f80_0000)) / f64::from(1 << 23);
        let error = (f64::from(exp(x)) - exact).abs() / ulp;
        assert!(error <= 1.02, "exp({x}) is off by {error} ulp");
    }
    assert_eq!(bits([exp(f32::NEG_INFINITY), exp(-87.1), exp(1e30)]), [0, 0, 0x7ef8_82b7]);
    assert!(exp(f32::NAN).is_nan());
}

/// Against x/2 · (1 + tanh …) in f64, where 1 + tanh does not cancel.
#[test]
fn gelu_is_the_tanh_form() {
    for i in -4000..4000i16 {
        let x = f32::from(i) / 1000.0;
        let wide = f64::from(x);
        let exact = wide / 2.0 * (1.0 + (0.797_884_560_802_865_4 * (wide + 0.044_715 * wide.powi(3))).tanh());
        let error = (f64::from(gelu(x)) - exact).abs();
        assert!(error <= 2e-6 * exact.abs() + 1e-12, "gelu({x}) is off by {error}");
    }
    assert_eq!(bits([gelu(f32::INFINITY), gelu(1e30)]), bits([f32::INFINITY, 1e30]));
    assert!(gelu(-1e9).abs() < 1e-28 && gelu(f32::NAN).is_nan());
}

#[test]
fn gelu_erf_is_the_exact_form() {
    for i in -8000..8000i16 {
        let x = f32::from(i) / 1000.0;
        let wide = f64::from(x);
        let exact = wide / 2.0 * (1.0 + libm::erf(wide / std::f64::consts::SQRT_2));
        let error = (f64::from(gelu_erf(x)) - exact).abs();
        assert!(error <= 3e-7 * wide.abs() + 1e-12, "gelu_erf({x}) is off by {error}");
    }
    assert_eq!(bits([gelu_erf(1e30), gelu_erf(40.0)]), bits([1e30, 40.0]));
    assert!(gelu_erf(-1e30).abs() < 1e-7 && gelu_erf(f32::NAN).is_nan());
}

#[test]
fn a_layer_norm_has_mean_zero_and_variance_one() {
    let x = Noise(4).evens(300);
    let wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    let mean = wide.iter().sum::<f64>() / 300.0;
    let variance = wide.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 300.0;
    let mut normed = x.clone();
    layer_norm(&mut normed, &[2.0; 300], &[0.5; 300], 1e-12);
    for (found, v) in normed.iter().zip(wide) {
        assert!((f64::from(*found) - (2.0 * (v - mean) / variance.sqrt() + 0.5)).abs() < 1e-5);
    }
}

#[test]
fn a_window_counts_its_own_position() {
    assert_eq!(attention::seen(0, None), 0..1);
    assert_eq!(attention::seen(600, None), 0..601);
    assert_eq!([3, 4, 5, 600].map(|p| attention::seen(p, Some(5))), [0..4, 0..5, 1..6, 596..601]);
    assert_eq!(attention::seen(7, Some(1)), 7..8);
}

#[test]
fn what_is_not_finite_is_found_and_tiny_blocks_are_zero() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 64];
        x[40] = bad;
        assert_eq!(quantize(&x, &mut [Rounded::default(); 2]), Err(NonFinite));
        assert_eq!(linear::check_finite(&x), Err(NonFinite));
    }
    let row = Owned::new([[2.0f32.powi(-97); BLOCK], [2.0f32.powi(-96); BLOCK]].concat());
    assert_eq!(row.blocks[0], Rounded::default());
    assert_eq!((row.blocks[1].q[0], row.blocks[1].g.to_bits()), (127, (127.0 * 32.0f32).to_bits()));
    let row = Owned::new(vec![f32::MAX; BLOCK]);
    assert_eq!(row.blocks[0].q[0], 127);
}

#[test]
fn f16_is_clamped_and_rounded_to_even() {
    assert_eq!([1e9, -1e9, f32::INFINITY].map(to_f16), [0x7bff, 0xfbff, 0x7bff]);
    assert_eq!([1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0].map(to_f16), [0x3c00, 0x3c02]);
    assert!(from_f16(to_f16(f32::NAN)).is_nan());
}

proptest! {
    /// Rounding an activation moves it by half a step at most (and a hair for the scale's own rounding).
    #[test]
    fn a_quantized_activation_is_near(seed: u64) {
        let row = Owned::new(Noise(seed).wild(96));
        for (Rounded { q, d, g, halves, starts }, x) in row.blocks.iter().zip(row.x.chunks(BLOCK)) {
            prop_assert!(q.iter().all(|q| *q >= -127));
            let sums = [0..32, 0..16, 16..32].map(|part: Range<usize>| q[part].iter().map(|q| i32::from(*q)).sum::<i32>());
            prop_assert_eq!(bits([*g, halves[0], halves[1]]), bits(sums.map(|sum| sum as f32)));
            prop_assert_eq!(*starts, sums.map(|sum| -4 * sum));
            for (x, q) in x.iter().zip(q) {
                prop_assert!((x - d * f32::from(*q)).abs() <= d * 0.5001 + f32::MIN_POSITIVE);
            }
        }
    }

    /// A dot is the dot of the dequantized row and the rounded activations, up to f32's rounding.
    #[test]
    fn a_dot_is_a_dot(seed: u64, blocks in 1usize..40) {
        let mut noise = Noise(seed);
        for kind in TensorKind::all() {
            let cols = (blocks * BLOCK).next_multiple_of(kind.block_elems() as usize);
            let row = noise.weights(kind, cols);
            prop_assert_eq!(row.len(), row_bytes(kind, cols));
            let x = Owned::new(noise.evens(cols));
            let mut w = vec![0.0; cols];
            linear::dequantize(kind, &row, &mut w);
            let used = |i: usize| if linear::is_quantized(kind) {
                f64::from(x.blocks[i / BLOCK].d) * f64::from(x.blocks[i / BLOCK].q[i % BLOCK])
            } else {
                f64::from(x.x[i])
            };
            let exact: f64 = (0..cols).map(|i| used(i) * f64::from(w[i])).sum();
            let size: f64 = (0..cols).map(|i| (used(i) * f64::from(w[i])).abs()).sum();
            let error = (f64::from(dot(kind, &row, x.row())) - exact).abs();
            prop_assert!(error <= 1e-5 * size + 1e-6, "{}: {error} of {size}", kind.name());
        }
    }

    /// The halves of a head turn as adjacent elements would in their place.
    #[test]
    fn halves_turn_like_neighbours(seed: u64, position in 0u32..100_000) {
        let x = Noise(seed).evens(128);
        let table = angles(position, 64, 10_000.0, None);
        let interleave = |x: &[f32]| -> Vec<f32> {
            x.chunks(64).flat_map(|head| (0..64).map(|i| head[i / 2 + i % 2 * 32])).collect()
        };
        let (mut halves, mut adjacent) = (x.clone(), interleave(&x));
        rope_halves(&mut halves, &table);
        rope(&mut adjacent, &table);
        prop_assert_eq!(interleave(&halves), adjacent);
    }

    /// A norm in place is a norm, stretch by stretch.
    #[test]
    fn a_norm_of_each_is_each_norm(seed: u64, len in 1usize..300) {
        let mut noise = Noise(seed);
        let (x, weight) = (noise.wild(3 * len), noise.evens(len));
        let (mut each, mut apart) = (x.clone(), vec![f32::NAN; 3 * len]);
        rms_norm_each(&mut each, &weight, 1e-6);
        for (x, out) in x.chunks(len).zip(apart.chunks_mut(len)) {
            rms_norm(x, &weight, 1e-6, out);
        }
        prop_assert_eq!(bits(each), bits(apart));
    }

    /// A turned pair keeps its length, and position 0 turns nothing.
    #[test]
    fn rope_turns(seed: u64, position in 0u32..100_000) {
        let x = Noise(seed).evens(128);
        let mut turned = x.clone();
        rope(&mut turned, &angles(position, 64, 10_000.0, None));
        for (a, b) in x.chunks(2).zip(turned.chunks(2)) {
            prop_assert!((a[0].hypot(a[1]) - b[0].hypot(b[1])).abs() < 1e-5);
        }
        let mut still = x.clone();
        rope(&mut still, &angles(0, 64, 10_000.0, None));
        prop_assert_eq!(still, x);
    }
}
