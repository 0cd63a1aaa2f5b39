//! Weights of one matrix, in the layout the level's kernels read.
//!
//! The scalar level keeps rows as GGUF stores them. SIMD levels interleave 16 rows: a register's lane
//! is a row, so that no sum ever crosses lanes, and a block's scales of 16 rows lie side by side. The
//! last group is filled up with zero rows whose outputs nobody reads. Sizes stay those of the file.
//!
//! Reads GGUF bytes once, at load; that their scales are finite is checked before (`gguf::check_finite`).

use super::Level;
use crate::gguf::TensorKind;
use crate::numerics::from_f16;
use crate::numerics::linear::{self, BLOCK};

/// Rows interleaved, and the rows a kernel computes at a time.
pub(crate) const GROUP: usize = 16;

/// A block of 32 columns of 16 rows of Q4_1: dword k of row r (its bytes 4k … 4k + 3) at `q[k][4r]`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Q4x16 {
    pub(crate) d: [u16; GROUP],
    pub(crate) m: [u16; GROUP],
    pub(crate) q: [[u8; 64]; 4],
}

/// A block of 32 columns of 16 rows of Q8_0: columns 4k … 4k + 3 of row r at `q[k][4r]`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Q8x16 {
    pub(crate) d: [u16; GROUP],
    pub(crate) q: [[u8; 64]; 8],
}

/// The bytes of a matrix. In the interleaved forms group g starts at item g · (blocks or columns).
#[derive(Debug)]
pub(crate) enum Body {
    Native(TensorKind, Vec<u8>),
    Q4(Vec<Q4x16>),
    Q8(Vec<Q8x16>),
    F16(Vec<[u16; GROUP]>),
    F32(Vec<[f32; GROUP]>),
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
    pub(crate) fn new(level: Level, kind: TensorKind, rows: usize, cols: usize, bytes: &[u8]) -> Self {
        let stored = linear::row_bytes(kind, cols);
        debug_assert_eq!(bytes.len(), rows * stored);
        let body = match (level, kind) {
            (Level::Scalar, _) => Body::Native(kind, bytes.to_vec()),
            (Level::Avx2, TensorKind::Q4_1) => Body::Q4(interleave(rows, cols / BLOCK, stored, bytes, pack_q4)),
            (Level::Avx2, TensorKind::Q8_0) => Body::Q8(interleave(rows, cols / BLOCK, stored, bytes, pack_q8)),
            (Level::Avx2, TensorKind::F16) => Body::F16(interleave(rows, cols, stored, bytes, |rows, i| {
                std::array::from_fn(|r| rows[r].map_or(0, |b| u16::from_le_bytes([b[2 * i], b[2 * i + 1]])))
            })),
            (Level::Avx2, TensorKind::F32) => Body::F32(interleave(rows, cols, stored, bytes, |rows, i| {
                std::array::from_fn(|r| rows[r].map_or(0.0, |b| linear::f32_at(b, 4 * i)))
            })),
        };
        Matrix { rows, cols, body, quantized: linear::is_quantized(kind) }
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
            Body::Q4(b) => size_of_val(b.as_slice()),
            Body::Q8(b) => size_of_val(b.as_slice()),
            Body::F16(b) => size_of_val(b.as_slice()),
            Body::F32(b) => size_of_val(b.as_slice()),
        }
    }

    /// One row as f32: an embedding.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let (group, r) = (row / GROUP, row % GROUP);
        let blocks = self.cols / BLOCK;
        match &self.body {
            Body::Native(kind, bytes) => {
                let stored = linear::row_bytes(*kind, self.cols);
                linear::dequantize(*kind, &bytes[row * stored..][..stored], out);
            }
            Body::Q4(b) => {
                for (b, out) in b[group * blocks..][..blocks].iter().zip(out.as_chunks_mut::<BLOCK>().0) {
                    let (d, m) = (from_f16(b.d[r]), from_f16(b.m[r]));
                    for i in 0..BLOCK / 2 {
                        let byte = b.q[i / 4][4 * r + i % 4];
                        out[i] = d.mul_add(f32::from(byte & 15), m);
                        out[i + BLOCK / 2] = d.mul_add(f32::from(byte >> 4), m);
                    }
                }
            }
            Body::Q8(b) => {
                for (b, out) in b[group * blocks..][..blocks].iter().zip(out.as_chunks_mut::<BLOCK>().0) {
                    for (i, o) in out.iter_mut().enumerate() {
                        *o = from_f16(b.d[r]) * f32::from(b.q[i / 4][4 * r + i % 4] as i8);
                    }
                }
            }
            Body::F16(b) => {
                for (o, w) in out.iter_mut().zip(&b[group * self.cols..]) {
                    *o = from_f16(w[r]);
                }
            }
            Body::F32(b) => {
                for (o, w) in out.iter_mut().zip(&b[group * self.cols..]) {
                    *o = w[r];
                }
            }
        }
    }
}

/// For each group of 16 rows (`None` past the last) and each of its `items` blocks or columns: `pack`.
fn interleave<T>(
    rows: usize,
    items: usize,
    stored: usize,
    bytes: &[u8],
    pack: impl Fn(&[Option<&[u8]>; GROUP], usize) -> T,
) -> Vec<T> {
    let mut packed = Vec::with_capacity(rows.div_ceil(GROUP) * items);
    for first in (0..rows).step_by(GROUP) {
        let group = std::array::from_fn(|r| (first + r < rows).then(|| &bytes[(first + r) * stored..][..stored]));
        packed.extend((0..items).map(|i| pack(&group, i)));
    }
    packed
}

fn pack_q4(rows: &[Option<&[u8]>; GROUP], block: usize) -> Q4x16 {
    let mut packed = Q4x16 { d: [0; GROUP], m: [0; GROUP], q: [[0; 64]; 4] };
    for (r, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        let b = &row[block * 20..][..20];
        packed.d[r] = u16::from_le_bytes([b[0], b[1]]);
        packed.m[r] = u16::from_le_bytes([b[2], b[3]]);
        for (k, dword) in packed.q.iter_mut().enumerate() {
            dword[4 * r..4 * r + 4].copy_from_slice(&b[4 + 4 * k..8 + 4 * k]);
        }
    }
    packed
}

fn pack_q8(rows: &[Option<&[u8]>; GROUP], block: usize) -> Q8x16 {
    let mut packed = Q8x16 { d: [0; GROUP], q: [[0; 64]; 8] };
    for (r, row) in rows.iter().enumerate() {
        let Some(row) = row else { continue };
        let b = &row[block * 34..][..34];
        packed.d[r] = u16::from_le_bytes([b[0], b[1]]);
        for (k, dword) in packed.q.iter_mut().enumerate() {
            dword[4 * r..4 * r + 4].copy_from_slice(&b[2 + 4 * k..6 + 4 * k]);
        }
    }
    packed
}
