//! Quantized weights as SIMD kernels read them: 16 rows interleaved, codes and scales in two streams.
//!
//! A register's lane is a row, so that no sum ever crosses lanes. A [`Line`] is a dword of each row, four codes
//! in it, a cache line in all; a [`Lane`] is one f16, or two small integers, of each row. Codes of four and
//! five bits are unsigned (`n` plus the form's offset), codes of eight bits are `n` itself.
//!
//! What a type's scales and codes are, `FORM` says; where they stand within a GGUF block, `numerics::block`.
//! Four- and five-bit types keep the size they have in the file; Q6_K takes a byte for each weight.

use super::matrix::GROUP;
use crate::gguf::TensorKind;
use crate::numerics::block::Block;
use crate::numerics::linear::{self, BLOCK, SEGMENT};

/// One dword of each of 16 rows.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u32; GROUP]);

/// 16 bits of each of 16 rows.
pub(crate) type Lane = [u16; GROUP];

/// Scales of a type, in lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scales {
    /// Each block: d.
    D,
    /// Each block: d, m.
    DM,
    /// Each eight blocks: d, m, and eight times two i8: scale (low byte) and min of a block.
    Super,
    /// The same with the scales of a block's halves.
    SuperHalves,
}

/// Lanes of eight blocks in the last two forms.
pub(crate) const SUPER_LANES: usize = 2 + SEGMENT;

/// Lines of a block: 4 (nibbles: dword k low, dword k + 4 high), 5 (and a line whose bit k of byte j is the
/// fifth bit of element 4k + j) or 8 (dword k); what is added to `n`; the scales.
fn form(kind: TensorKind) -> (usize, i8, Scales) {
    match kind {
        TensorKind::Q4_0 => (4, 8, Scales::D),
        TensorKind::Q4_1 => (4, 0, Scales::DM),
        TensorKind::Q4_K => (4, 0, Scales::Super),
        TensorKind::Q5_0 => (5, 16, Scales::D),
        TensorKind::Q5_1 => (5, 0, Scales::DM),
        TensorKind::Q5_K => (5, 0, Scales::Super),
        TensorKind::Q8_0 => (8, 0, Scales::D),
        TensorKind::Q6_K => (8, 0, Scales::SuperHalves),
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} has no codes", kind.name()),
    }
}

/// A matrix; the last group is filled up with zero rows whose outputs nobody reads.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) kind: TensorKind,
    groups: usize,
    blocks: usize,
    codes: Vec<Line>,
    scales: Vec<Lane>,
}

impl Packed {
    /// Takes rows of `cols` elements as GGUF stores them.
    pub(crate) fn new(kind: TensorKind, rows: usize, cols: usize, bytes: &[u8]) -> Packed {
        let (stored, blocks, groups) = (linear::row_bytes(kind, cols), cols / BLOCK, rows.div_ceil(GROUP));
        let (lines, offset, scales) = form(kind);
        let lanes = match scales {
            Scales::D => blocks,
            Scales::DM => 2 * blocks,
            Scales::Super | Scales::SuperHalves => blocks / SEGMENT * SUPER_LANES,
        };
        let codes = Vec::with_capacity(groups * blocks * lines);
        let mut packed = Packed { kind, groups, blocks, codes, scales: Vec::with_capacity(groups * lanes) };
        for group in bytes.chunks(GROUP * stored) {
            for b in 0..blocks {
                let (mut codes, [mut d, mut m, mut small]) = ([Line([0; GROUP]); 8], [[0; GROUP]; 3]);
                for (r, row) in group.chunks_exact(stored).enumerate() {
                    let block = Block::of(kind, row, b);
                    put(&mut codes[..lines], r, dwords(&block.n, offset));
                    let second = if scales == Scales::SuperHalves { block.scale[1] } else { block.min };
                    (d[r], m[r]) = (block.d, block.m);
                    small[r] = u16::from_le_bytes([block.scale[0] as u8, second as u8]);
                }
                packed.codes.extend(&codes[..lines]);
                match scales {
                    Scales::D => packed.scales.push(d),
                    Scales::DM => packed.scales.extend([d, m]),
                    Scales::Super | Scales::SuperHalves if b % SEGMENT == 0 => packed.scales.extend([d, m, small]),
                    Scales::Super | Scales::SuperHalves => packed.scales.push(small),
                }
            }
        }
        packed
    }

    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.codes.as_slice()) + size_of_val(self.scales.as_slice())
    }

    /// What is added to `n` to make a code.
    pub(crate) fn offset(&self) -> i8 {
        form(self.kind).1
    }

    /// Blocks of a row.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Codes of a group's blocks, `LINES` of each.
    pub(crate) fn codes<const LINES: usize>(&self, group: usize) -> &[[Line; LINES]] {
        let lines = self.codes.len() / self.groups;
        self.codes[group * lines..][..lines].as_chunks().0
    }

    /// Scales of a group, `LANES` of each block or of each eight.
    pub(crate) fn scales<const LANES: usize>(&self, group: usize) -> &[[Lane; LANES]] {
        let lanes = self.scales.len() / self.groups;
        self.scales[group * lanes..][..lanes].as_chunks().0
    }

    /// Row `r` of a group as f32.
    pub(crate) fn row(&self, group: usize, r: usize, out: &mut [f32]) {
        let (lines, offset, scales) = form(self.kind);
        let (codes, lanes) = (self.codes::<1>(group), self.scales::<1>(group));
        for (b, (codes, out)) in codes.chunks(lines).zip(out.as_chunks_mut().0).enumerate() {
            let n = integers(codes, r, offset);
            let lane = |i: usize| lanes[i][0][r];
            let block = match scales {
                Scales::D => Block { n, d: lane(b), scale: [1; 2], m: 0, min: 0 },
                Scales::DM => Block { n, d: lane(2 * b), scale: [1; 2], m: lane(2 * b + 1), min: 1 },
                Scales::Super | Scales::SuperHalves => {
                    let first = b / SEGMENT * SUPER_LANES;
                    let [scale, second] = lane(first + 2 + b % SEGMENT).to_le_bytes().map(|byte| byte as i8);
                    let (scale, min) =
                        if scales == Scales::Super { ([scale; 2], second) } else { ([scale, second], 0) };
                    Block { n, d: lane(first), scale, m: lane(first + 1), min }
                }
            };
            block.dequantize(out);
        }
    }
}

const NIBBLES: u32 = 0x0f0f_0f0f;
const BITS: u32 = 0x0101_0101;

/// Four codes to a dword.
fn dwords(n: &[i8; BLOCK], offset: i8) -> [u32; 8] {
    let four = n.as_chunks::<4>().0;
    std::array::from_fn(|k| u32::from_le_bytes(four[k].map(|n| (n + offset) as u8)))
}

/// Writes a row's codes into the lines of a block.
fn put(lines: &mut [Line], r: usize, codes: [u32; 8]) {
    if lines.len() == 8 {
        lines.iter_mut().zip(codes).for_each(|(line, code)| line.0[r] = code);
        return;
    }
    for k in 0..4 {
        lines[k].0[r] = codes[k] & NIBBLES | (codes[k + 4] & NIBBLES) << 4;
    }
    if let Some(fifth) = lines.get_mut(4) {
        fifth.0[r] = (0..8).fold(0, |bits, k| bits | (codes[k] >> 4 & BITS) << k);
    }
}

/// Reads what `put` wrote.
fn integers(lines: &[[Line; 1]], r: usize, offset: i8) -> [i8; BLOCK] {
    let dword = |k: usize| lines[k][0].0[r];
    std::array::from_fn(|i| {
        let k = i / 4;
        let four = match lines.len() {
            8 => dword(k),
            4 => dword(k % 4) >> (k / 4 * 4) & NIBBLES,
            _ => dword(k % 4) >> (k / 4 * 4) & NIBBLES | (dword(4) >> k & BITS) << 4,
        };
        four.to_le_bytes()[i % 4] as i8 - offset
    })
}
