//! Weights of one matrix, in the layout the level's kernels read.
//!
//! The scalar level keeps rows as GGUF stores them. SIMD levels interleave 16 rows: a register's lane
//! is a row, so that no sum ever crosses lanes. The last group is filled up with zero rows whose outputs
//! nobody reads. Quantized types are in `packed`.
//!
//! Reads GGUF bytes once, at load; that their scales are finite is checked before (`gguf::check_finite`).

use super::Level;
use super::arena::{Arena, Plain, Stretch};
use super::packed::Packed;
use crate::gguf::TensorKind;
use crate::numerics::from_f16;
use crate::numerics::linear::{self, from_bf16};
use crate::seal;

/// Rows interleaved, and the rows a kernel computes at a time.
pub(crate) const GROUP: usize = 16;

/// The bytes of a matrix. In the interleaved forms group g starts at item g · columns.
#[derive(Debug)]
pub(crate) enum Body {
    Native(TensorKind, Vec<u8>),
    Packed(Packed),
    F32(Stretch<[f32; GROUP]>),
    F16(Stretch<[u16; GROUP]>),
    BF16(Stretch<[u16; GROUP]>),
}

/// How weights are brought into a layout: the level that reads them, the threads that pack, the memory they get.
#[derive(Debug)]
pub(crate) struct Packing {
    level: Level,
    pub(super) threads: usize,
    pub(super) arena: Arena,
}

impl Packing {
    pub(crate) fn new(level: Level, threads: usize) -> Packing {
        Packing { level, threads, arena: Arena::default() }
    }
}

/// A matrix of `rows` outputs and `cols` inputs.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) body: Body,
    quantized: bool,
}

impl Matrix {
    /// Takes rows of `cols` elements as GGUF stores them; `bytes` is exactly `rows` rows.
    pub(crate) fn new(packing: &mut Packing, kind: TensorKind, rows: usize, cols: usize, bytes: &[u8]) -> Self {
        debug_assert_eq!(bytes.len(), rows * linear::row_bytes(kind, cols));
        let quantized = linear::is_quantized(kind);
        let body = match (packing.level, kind) {
            (Level::Scalar, _) => Body::Native(kind, bytes.to_vec()),
            (Level::Avx2 | Level::Vnni, _) if quantized => Body::Packed(Packed::new(packing, kind, rows, cols, bytes)),
            (Level::Avx2 | Level::Vnni, TensorKind::BF16) => {
                Body::BF16(interleave(packing, cols, bytes, u16::from_le_bytes))
            }
            (Level::Avx2 | Level::Vnni, TensorKind::F16) => {
                Body::F16(interleave(packing, cols, bytes, u16::from_le_bytes))
            }
            (Level::Avx2 | Level::Vnni, _) => Body::F32(interleave(packing, cols, bytes, f32::from_le_bytes)),
        };
        Matrix { rows, cols, body, quantized }
    }

    /// Whether its kernels read int8 activations.
    pub(crate) fn is_quantized(&self) -> bool {
        self.quantized
    }

    pub(crate) fn groups(&self) -> usize {
        self.rows.div_ceil(GROUP)
    }

    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match &self.body {
            Body::Native(_, b) => b.len(),
            Body::Packed(b) => b.bytes(),
            Body::F32(b) => size_of_val(&**b),
            Body::F16(b) | Body::BF16(b) => size_of_val(&**b),
        }
    }

    /// Its bytes as they lie in memory.
    pub(crate) fn stretches(&self) -> [&[u8]; 2] {
        match &self.body {
            Body::Native(_, b) => [b, &[]],
            Body::Packed(b) => b.stretches(),
            Body::F32(b) => [seal::of(b), &[]],
            Body::F16(b) | Body::BF16(b) => [seal::of(b), &[]],
        }
    }

    pub(crate) fn stretches_mut(&mut self) -> [&mut [u8]; 2] {
        match &mut self.body {
            Body::Native(_, b) => [b, &mut []],
            Body::Packed(b) => b.stretches_mut(),
            Body::F32(b) => [seal::of_mut(b), &mut []],
            Body::F16(b) | Body::BF16(b) => [seal::of_mut(b), &mut []],
        }
    }

    /// One row as f32: an embedding.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (group, r) = (row / GROUP, row % GROUP);
        let first = group * self.cols;
        match &self.body {
            Body::Native(kind, bytes) => {
                let stored = linear::row_bytes(*kind, self.cols);
                linear::dequantize(*kind, &bytes[row * stored..][..stored], out);
            }
            Body::Packed(b) => b.row(group, r, out),
            Body::F32(b) => out.iter_mut().zip(&b[first..]).for_each(|(o, w)| *o = w[r]),
            Body::F16(b) => out.iter_mut().zip(&b[first..]).for_each(|(o, w)| *o = from_f16(w[r])),
            Body::BF16(b) => out.iter_mut().zip(&b[first..]).for_each(|(o, w)| *o = from_bf16(w[r])),
        }
    }
}

/// For each 16 rows of `cols` numbers of `N` bytes, each column's numbers.
fn interleave<const N: usize, T: Plain>(
    packing: &mut Packing,
    cols: usize,
    bytes: &[u8],
    read: fn([u8; N]) -> T,
) -> Stretch<[T; GROUP]> {
    let numbers = bytes.as_chunks::<N>().0;
    let mut packed: Stretch<[T; GROUP]> = packing.arena.take((numbers.len() / cols).div_ceil(GROUP) * cols);
    for (group, columns) in numbers.chunks(GROUP * cols).zip(packed.chunks_exact_mut(cols)) {
        for (r, row) in group.chunks_exact(cols).enumerate() {
            columns.iter_mut().zip(row).for_each(|(column, number)| column[r] = read(*number));
        }
    }
    packed
}
