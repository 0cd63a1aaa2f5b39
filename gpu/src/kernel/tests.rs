//! Every level gives the bits of the scalar definition: whole matrices, ragged shapes, poisoned outputs,
//! any number of threads.

use super::drive::{Acts, Exec, Write};
use super::matrix::{Matrix, Packing};
use super::pool::Pool;
use super::*;
use crate::gguf::TensorKind;
use crate::kv::{KvShape, Kvs, PAGE, Pages};
use crate::numerics::noise::{self, Noise};
use crate::numerics::{attention, linear};
use proptest::prelude::*;
use std::ops::Range;

/// The levels to compare with the definition, as far as this processor has them.
fn levels() -> Vec<&'static Kernels> {
    Level::ALL[1..].iter().filter_map(|level| Kernels::of(*level).ok()).collect()
}

const POISON: f32 = f32::from_bits(0x7fc0_dead);

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn kinds() -> impl Strategy<Value = TensorKind> {
    prop::sample::select(TensorKind::all().collect::<Vec<_>>())
}

/// `count` rows through one linear layer of a level.
fn through(
    kernels: &'static Kernels,
    threads: usize,
    matrix: &Matrix,
    x: &[f32],
    count: usize,
    write: Write,
) -> Vec<f32> {
    let mut exec = Exec { kernels, pool: Pool::new(threads).unwrap() };
    let mut acts = Acts::default();
    let mut faulted = vec![false; count];
    let cols = matrix.cols;
    exec.activate(&mut acts, (count, cols), &[matrix], &mut faulted, &|row, out| {
        out.copy_from_slice(&x[row * cols..][..cols]);
    });
    assert!(!faulted.contains(&true));
    // Wider than the outputs: what lies between must stay as it is.
    let stride = matrix.rows + 3;
    let fill = if write == Write::Add { 0.75 } else { POISON };
    let mut out = vec![fill; count * stride];
    exec.linear(&[(matrix, 2)], &acts, count, (&mut out, stride), write);
    for row in out.chunks(stride) {
        assert_eq!(bits(&[row[0], row[1], row[stride - 1]]), bits(&[fill; 3]));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn linear_layers_are_bit_identical(
        kind in kinds(), rows in 1usize..70, blocks in 1usize..30, count in prop_oneof![8 => 1usize..20, 1 => 60usize..80],
        threads in 1usize..4,
        loud: bool, seed: u64,
    ) {
        let mut noise = Noise(seed);
        let cols = (blocks * 32).next_multiple_of(kind.block_elems() as usize);
        let (bytes, x) = if loud {
            (noise.loud_weights(kind, rows * cols), noise.loud(count * cols))
        } else {
            (noise.weights(kind, rows * cols), noise.wild(count * cols))
        };
        let scalar = Kernels::of(Level::Scalar).unwrap();
        let native = Matrix::new(&mut Packing::new(Level::Scalar, 1), kind, rows, cols, &bytes);
        for kernels in levels() {
            let matrix = Matrix::new(&mut Packing::new(kernels.level, threads), kind, rows, cols, &bytes);
            for write in [Write::Set, Write::Add] {
                let expected = through(scalar, 1, &native, &x, count, write);
                let found = through(kernels, threads, &matrix, &x, count, write);
                prop_assert_eq!(bits(&expected), bits(&found));
            }
            let (mut a, mut b) = (vec![POISON; cols], vec![POISON; cols]);
            for row in 0..rows {
                native.row(row, &mut a);
                matrix.row(row, &mut b);
                prop_assert_eq!(bits(&a), bits(&b));
            }
        }
    }

    #[test]
    fn attention_is_bit_identical(
        head_dim in prop_oneof![Just(8usize), Just(40), Just(64), Just(80), Just(128), Just(256), Just(6)],
        longest in prop_oneof![1usize..40, 200usize..300, 500usize..800],
        fewer in prop_oneof![prop::collection::vec(0usize..300, 1..9), prop::collection::vec(0usize..8, 1..9)],
        window in prop::option::of(prop_oneof![1usize..40, 200usize..300, 500usize..600]),
        seed: u64,
    ) {
        let mut noise = Noise(seed);
        let shape = KvShape { layers: 1, heads: 2, head_dim };
        let mut pages = Pages::new(shape);
        let mut table: Vec<_> = (0..longest.div_ceil(PAGE)).filter_map(|_| pages.take()).collect();
        table.reverse();
        table.iter().for_each(|page| pages.store_mut().poison(*page));
        let mut kvs = Kvs { store: pages.store_mut(), tables: vec![&table] };
        for position in 0..longest {
            kvs.write(0, 0, position, &noise.halves(2 * head_dim), &noise.halves(2 * head_dim));
        }
        let views: Vec<Range<usize>> =
            fewer.iter().map(|n| attention::seen(longest.saturating_sub(*n).max(1) - 1, window)).collect();
        let asks: Vec<Vec<f32>> = views.iter().map(|_| noise.evens(head_dim)).collect();
        let answer = |kernels: &Kernels| {
            let mut outs = vec![vec![POISON; head_dim]; views.len()];
            let mut queries: Vec<Query<'_>> = outs
                .iter_mut()
                .zip(&asks)
                .zip(&views)
                .map(|((out, query), seen)| Query { query, seen: seen.clone(), out })
                .collect();
            (kernels.attend)(&mut queries, kvs.head(0, 0, 1));
            bits(&outs.concat())
        };
        let expected = answer(Kernels::of(Level::Scalar).unwrap());
        for kernels in levels() {
            prop_assert_eq!(&expected, &answer(kernels));
        }
    }

    #[test]
    fn elementwise_kernels_are_bit_identical(n in 1usize..700, seed: u64) {
        let mut noise = Noise(seed);
        let n = n * 2;
        let (x, y) = (noise.wild(n), noise.evens(n));
        let table: Vec<[f32; 2]> = (0..n / 2).map(|_| [noise.even(), noise.even()]).collect();
        let all = |kernels: &Kernels| {
            let blocks = n / 32;
            let mut outs = vec![vec![POISON; n]; 8];
            (kernels.rms_norm)(&x, &y, 1e-6, &mut outs[0]);
            (kernels.swiglu)(&x, &y, &mut outs[1]);
            outs[2].copy_from_slice(&x);
            (kernels.rope)(&mut outs[2], &table);
            outs[3].copy_from_slice(&x);
            (kernels.rope_halves)(&mut outs[3], &table);
            (kernels.geglu)(&x, &y, &mut outs[4]);
            outs[5].copy_from_slice(&x);
            (kernels.rms_norm_each)(&mut outs[5], &y[..n / 2], 1e-6);
            (kernels.biased_gelu)(&x, &y, &mut outs[6]);
            outs[7].copy_from_slice(&x);
            (kernels.layer_norm)(&mut outs[7], &y, &x, 1e-6);
            let mut narrow = vec![0xdead; n];
            (kernels.narrow)(&x, &mut narrow);
            let poison = Rounded { q: [99; 32], d: POISON, g: POISON, halves: [POISON; 2], starts: [99; 3] };
            let mut rounded = vec![poison; blocks];
            assert_eq!((kernels.quantize)(&x[..blocks * 32], &mut rounded), Ok(()));
            let factors: Vec<f32> = rounded.iter().flat_map(|b| [b.d, b.g, b.halves[0], b.halves[1]]).collect();
            (bits(&outs.concat()), narrow, rounded.iter().map(|b| (b.q, b.starts)).collect::<Vec<_>>(), bits(&factors))
        };
        let expected = all(Kernels::of(Level::Scalar).unwrap());
        for kernels in levels() {
            prop_assert_eq!(&expected, &all(kernels));
        }
    }

    /// Any bit pattern, so that every branch of exp is met, and clamping in f16.
    #[test]
    fn any_finite_numbers_are_bit_identical(patterns in prop::collection::vec(any::<u32>(), 1..200)) {
        let x: Vec<f32> = patterns.iter().map(|p| f32::from_bits(*p)).filter(|v| v.is_finite()).collect();
        let all = |kernels: &Kernels| {
            let (mut out, mut narrow) = (vec![POISON; x.len()], vec![0xdead; x.len()]);
            (kernels.swiglu)(&x, &vec![1.0; x.len()], &mut out);
            let mut gelu = vec![POISON; x.len()];
            (kernels.geglu)(&x, &vec![1.0; x.len()], &mut gelu);
            let mut exact = vec![POISON; x.len()];
            (kernels.biased_gelu)(&x, &vec![0.0; x.len()], &mut exact);
            (kernels.narrow)(&x, &mut narrow);
            (bits(&out), bits(&gelu), bits(&exact), narrow)
        };
        let expected = all(Kernels::of(Level::Scalar).unwrap());
        for kernels in levels() {
            prop_assert_eq!(&expected, &all(kernels));
        }
    }
}

/// Extremes of the integer part: all codes, scales and activations at their largest, of either sign, for
/// each number of rows a kernel takes.
#[test]
fn saturated_blocks_are_bit_identical() {
    const COLS: usize = 512;
    // A pair of groups and one more.
    const ROWS: usize = 48;
    let scalar = Kernels::of(Level::Scalar).unwrap();
    for (kernels, kind) in levels().into_iter().flat_map(|k| TensorKind::all().map(move |kind| (k, kind))) {
        if !linear::is_quantized(kind) {
            continue;
        }
        for (byte, small) in [(0xff, 0xff), (0x00, 0x80), (0x80, 0x7f), (0x7f, 0x7f)] {
            let mut bytes = vec![byte; linear::row_bytes(kind, COLS) * ROWS];
            for block in bytes.chunks_mut(kind.block_bytes() as usize) {
                match kind {
                    TensorKind::Q4_K | TensorKind::Q5_K => block[4..16].fill(small),
                    TensorKind::Q6_K => block[192..208].fill(small),
                    TensorKind::Q2_K => block[..16].fill(small),
                    TensorKind::Q3_K => block[96..108].fill(small),
                    TensorKind::IQ4_XS => block[2..8].fill(small),
                    TensorKind::MXFP4 => block[0] = 100 + small % 32,
                    _ => {}
                }
                for (at, scale) in noise::scales(kind).iter().zip([0.5, -3.0]) {
                    block[*at..at + 2].copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
                }
            }
            let [native, packed] =
                [Level::Scalar, kernels.level].map(|l| Matrix::new(&mut Packing::new(l, 1), kind, ROWS, COLS, &bytes));
            // Eleven times six, or seventeen times four, and the rest in fours, twos and ones.
            let counts = (1..=TILE).chain([71, 75]);
            for (sign, count) in [1.0, -1.0].into_iter().flat_map(|sign| counts.clone().map(move |n| (sign, n))) {
                let x = vec![sign; count * COLS];
                let expected = through(scalar, 1, &native, &x, count, Write::Set);
                let found = through(kernels, 1, &packed, &x, count, Write::Set);
                assert_eq!(bits(&expected), bits(&found), "{} {byte:#x}", kind.name());
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_is_marked_and_disturbs_no_other() {
    let mut noise = Noise(9);
    let bytes = noise.weights(TensorKind::Q8_0, 16 * 64);
    let kernels = Kernels::of(Level::detect()).unwrap();
    let matrix = Matrix::new(&mut Packing::new(kernels.level, 1), TensorKind::Q8_0, 16, 64, &bytes);
    let good = noise.evens(64);
    let alone = through(kernels, 1, &matrix, &good, 1, Write::Set);
    let mut exec = Exec { kernels, pool: Pool::new(2).unwrap() };
    let (mut acts, mut faulted) = (Acts::default(), [false; 2]);
    exec.activate(&mut acts, (2, 64), &[&matrix], &mut faulted, &|row, out| {
        out.copy_from_slice(&good);
        if row == 0 {
            out[3] = f32::INFINITY;
        }
    });
    assert_eq!(faulted, [true, false]);
    let mut out = vec![POISON; 32];
    exec.linear(&[(&matrix, 0)], &acts, 2, (&mut out, 16), Write::Set);
    assert_eq!(bits(&out[..16]), [0; 16]);
    assert_eq!(bits(&out[16..]), bits(&alone[2..18]));
}

#[test]
fn levels_have_names() {
    for level in Level::ALL {
        assert_eq!(level.to_string().parse(), Ok(level));
    }
    assert_eq!("sse9".parse::<Level>(), Err(LevelError::Unknown("sse9".to_owned())));
    assert!(Level::detect().is_supported());
}
