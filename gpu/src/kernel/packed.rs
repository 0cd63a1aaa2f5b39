//! Quantized weights as SIMD kernels read them: 16 rows interleaved, codes and scales in two streams.
//!
//! A register's lane is a row, so that no sum ever crosses lanes. A [`Line`] is a dword of each row, a cache line
//! in all; a [`Lane`] is one f16, or small integers, of each row. A code is `n` plus the form's offset, so that it
//! is not negative; a code of eight bits is `n` itself, and one of a table is its place there.
//!
//! A block has as many lines as a code has bits, in planes of 8, 4, 2 or 1 bits of each code, the lowest bits
//! first. A plane of `w` bits takes `w` lines; dword k of its 32 codes is in line k mod w, from bit w·(k / w) of
//! each byte up. What a type's scales and codes are, `form` says; where they stand within a GGUF block,
//! `numerics::block`. Every type keeps the size it has in the file, about.

use super::arena::Stretch;
use super::matrix::{GROUP, Packing};
use crate::gguf::TensorKind;
use crate::numerics::block::{Block, E2M1, UNEVEN};
use crate::numerics::linear::{self, BLOCK, SEGMENT, from_bf16};
use crate::numerics::{from_f16, to_f16};
use crate::seal;
use std::ops::Range;

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
    /// Each block: d as bf16.
    Power,
    /// Each block: d, m.
    DM,
    /// Each eight blocks: d, m, and eight times two i8: scale (low byte) and min of a block.
    Super,
    /// The same with the scales of a block's halves.
    Halves,
    /// The same with four nibbles: scales of a block's halves, then what is taken off them.
    HalvesAndMins,
}

/// Lanes of eight blocks in the last three forms.
pub(crate) const SUPER_LANES: usize = 2 + SEGMENT;

/// What is worth a thread of its own: it is packed in a fraction of a millisecond.
const THREAD_BYTES: usize = 64 << 10;

/// What a code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    /// n plus this.
    Offset(i8),
    /// The place of n.
    Table(&'static [i8; 16]),
}

struct Form {
    /// Of a code, and lines of a block.
    bits: usize,
    code: Code,
    scales: Scales,
}

#[inline(always)]
fn form(kind: TensorKind) -> Form {
    let (bits, code, scales) = match kind {
        TensorKind::Q2_K => (2, Code::Offset(0), Scales::HalvesAndMins),
        TensorKind::Q3_K => (3, Code::Offset(4), Scales::Halves),
        TensorKind::Q4_0 => (4, Code::Offset(8), Scales::D),
        TensorKind::Q4_1 => (4, Code::Offset(0), Scales::DM),
        TensorKind::Q4_K => (4, Code::Offset(0), Scales::Super),
        TensorKind::IQ4_NL => (4, Code::Table(&UNEVEN), Scales::D),
        TensorKind::IQ4_XS => (4, Code::Table(&UNEVEN), Scales::Super),
        TensorKind::MXFP4 => (4, Code::Table(&E2M1), Scales::Power),
        TensorKind::Q5_0 => (5, Code::Offset(16), Scales::D),
        TensorKind::Q5_1 => (5, Code::Offset(0), Scales::DM),
        TensorKind::Q5_K => (5, Code::Offset(0), Scales::Super),
        TensorKind::Q6_K => (6, Code::Offset(32), Scales::Halves),
        TensorKind::Q8_0 => (8, Code::Offset(0), Scales::D),
        TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => unreachable!("{} has no codes", kind.name()),
    };
    Form { bits, code, scales }
}

/// A matrix; the last group is filled up with zero rows whose outputs nobody reads.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) kind: TensorKind,
    groups: usize,
    codes: Stretch<Line>,
    scales: Stretch<Lane>,
}

impl Packed {
    /// Takes rows of `cols` elements as GGUF stores them.
    pub(crate) fn new(packing: &mut Packing, kind: TensorKind, rows: usize, cols: usize, bytes: &[u8]) -> Packed {
        let (stored, blocks, groups) = (linear::row_bytes(kind, cols), cols / BLOCK, rows.div_ceil(GROUP));
        let Form { bits, scales, .. } = form(kind);
        let lanes = match scales {
            Scales::D | Scales::Power => blocks,
            Scales::DM => 2 * blocks,
            Scales::Super | Scales::Halves | Scales::HalvesAndMins => blocks / SEGMENT * SUPER_LANES,
        };
        let mut codes = packing.arena.take(groups * blocks * bits);
        let mut scales = packing.arena.take(groups * lanes);
        let per = groups.div_ceil(packing.threads);
        let parts = codes.chunks_mut(per * blocks * bits).zip(scales.chunks_mut(per * lanes));
        std::thread::scope(|scope| {
            for ((codes, scales), bytes) in parts.zip(bytes.chunks(per * GROUP * stored)) {
                let mut pack = move || {
                    let outs = codes.chunks_mut(blocks * bits).zip(scales.chunks_mut(lanes));
                    for (rows, (codes, scales)) in bytes.chunks(GROUP * stored).zip(outs) {
                        pack_group(kind, rows, stored, codes, scales);
                    }
                };
                // A small matrix is packed before a thread has started.
                if per < groups && bytes.len() >= THREAD_BYTES { drop(scope.spawn(pack)) } else { pack() }
            }
        });
        Packed { kind, groups, codes, scales }
    }

    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.codes) + size_of_val(&*self.scales)
    }

    /// Its bytes as they lie in memory.
    pub(crate) fn stretches(&self) -> [&[u8]; 2] {
        [seal::of(&self.codes), seal::of(&self.scales)]
    }

    /// Of these, what belongs to some groups.
    pub(crate) fn lines(&self, groups: Range<usize>) -> [&[u8]; 2] {
        self.stretches().map(|stretch| {
            let group = stretch.len() / self.groups;
            &stretch[groups.start * group..groups.end * group]
        })
    }

    pub(crate) fn stretches_mut(&mut self) -> [&mut [u8]; 2] {
        [seal::of_mut(&mut self.codes), seal::of_mut(&mut self.scales)]
    }

    /// What is added to `n` to make a code.
    pub(crate) fn offset(&self) -> i8 {
        match form(self.kind).code {
            Code::Offset(offset) => offset,
            Code::Table(_) => 0,
        }
    }

    /// What codes name, where they are places in a table.
    pub(crate) fn table(&self) -> &'static [i8; 16] {
        match form(self.kind).code {
            Code::Table(table) => table,
            Code::Offset(_) => unreachable!("{} has no table", self.kind.name()),
        }
    }

    /// Codes of a group's blocks, `BITS` lines of each.
    pub(crate) fn codes<const BITS: usize>(&self, group: usize) -> &[[Line; BITS]] {
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
        let Form { bits, code, scales } = form(self.kind);
        let (codes, lanes) = (self.codes::<1>(group), self.scales::<1>(group));
        for (b, (codes, out)) in codes.chunks(bits).zip(out.as_chunks_mut().0).enumerate() {
            let n = take(codes, r).map(|place| code.n(place));
            let lane = |i: usize| lanes[i][0][r];
            let of = |d: f32, scale, m: f32, min| Block { n, d, scale, m, min };
            let block = match scales {
                Scales::D => of(from_f16(lane(b)), [1; 2], 0.0, [0; 2]),
                Scales::Power => of(from_bf16(lane(b)), [1; 2], 0.0, [0; 2]),
                Scales::DM => of(from_f16(lane(2 * b)), [1; 2], from_f16(lane(2 * b + 1)), [1; 2]),
                Scales::Super | Scales::Halves | Scales::HalvesAndMins => {
                    let first = b / SEGMENT * SUPER_LANES;
                    let [scale, min] = scales.factors(lane(first + 2 + b % SEGMENT));
                    of(from_f16(lane(first)), scale, from_f16(lane(first + 1)), min)
                }
            };
            block.dequantize(out);
        }
    }
}

impl Scales {
    /// A block's small integers in the last three forms.
    fn small(self, block: &Block) -> u16 {
        let Block { scale: [low, high], min: [min, above], .. } = *block;
        match self {
            Scales::Halves => u16::from_le_bytes([low, high].map(|n| n as u8)),
            Scales::HalvesAndMins => {
                u16::from_le_bytes([low | high << 4, -min | -above << 4].map(|nibbles| nibbles as u8))
            }
            Scales::Super | Scales::D | Scales::Power | Scales::DM => u16::from_le_bytes([low, min].map(|n| n as u8)),
        }
    }

    /// Scales and minima of what `small` made.
    fn factors(self, small: u16) -> [[i8; 2]; 2] {
        let [low, high] = small.to_le_bytes();
        match self {
            Scales::Halves => [[low, high].map(|n| n as i8), [0; 2]],
            Scales::HalvesAndMins => {
                let nibbles = |byte: u8| [(byte & 15) as i8, (byte >> 4) as i8];
                [nibbles(low), nibbles(high).map(|min| -min)]
            }
            Scales::Super | Scales::D | Scales::Power | Scales::DM => [[low as i8; 2], [high as i8; 2]],
        }
    }
}

impl Code {
    #[inline(always)]
    fn all(self, n: [i8; BLOCK]) -> [u8; BLOCK] {
        match self {
            Code::Offset(offset) => n.map(|n| (n + offset) as u8),
            Code::Table(table) => n.map(|n| table.iter().position(|known| *known == n).unwrap_or_default() as u8),
        }
    }

    fn n(self, code: u8) -> i8 {
        match self {
            Code::Offset(offset) => code as i8 - offset,
            Code::Table(table) => table[usize::from(code)],
        }
    }
}

/// Planes of codes of so many bits: how many of them each has, and how many are below. The lower ones, whose
/// planes are wider, come first, and a plane's first line has the number of the bits below.
fn planes(bits: usize) -> impl Iterator<Item = (usize, usize)> {
    [8, 4, 2, 1].into_iter().filter(move |width| bits & width != 0).map(move |width| (width, bits & !(2 * width - 1)))
}

/// The bits of a plane in each byte of a dword.
fn mask(width: usize) -> u32 {
    0x0101_0101 * ((1 << width) - 1)
}

/// Packs up to 16 rows of `stored` bytes. The types that most files are made of have code of their own, in which the
/// compiler knows the form: it packs several times as fast.
fn pack_group(kind: TensorKind, rows: &[u8], stored: usize, codes: &mut [Line], lanes: &mut [Lane]) {
    match kind {
        TensorKind::Q4_0 => pack_rows(TensorKind::Q4_0, rows, stored, codes, lanes),
        TensorKind::Q4_1 => pack_rows(TensorKind::Q4_1, rows, stored, codes, lanes),
        TensorKind::Q5_0 => pack_rows(TensorKind::Q5_0, rows, stored, codes, lanes),
        TensorKind::Q8_0 => pack_rows(TensorKind::Q8_0, rows, stored, codes, lanes),
        TensorKind::Q4_K => pack_rows(TensorKind::Q4_K, rows, stored, codes, lanes),
        TensorKind::Q6_K => pack_rows(TensorKind::Q6_K, rows, stored, codes, lanes),
        kind => pack_rows(kind, rows, stored, codes, lanes),
    }
}

#[inline(always)]
fn pack_rows(kind: TensorKind, rows: &[u8], stored: usize, codes: &mut [Line], lanes: &mut [Lane]) {
    let Form { bits, code, scales } = form(kind);
    let mut lanes = lanes.iter_mut();
    for (b, lines) in codes.chunks_exact_mut(bits).enumerate() {
        let [mut d, mut m, mut small] = [[0; GROUP]; 3];
        for (r, row) in rows.chunks_exact(stored).enumerate() {
            let block = Block::of(kind, row, b);
            put(bits, lines, r, code.all(block.n));
            d[r] = if scales == Scales::Power { (block.d.to_bits() >> 16) as u16 } else { to_f16(block.d) };
            (m[r], small[r]) = (to_f16(block.m), scales.small(&block));
        }
        let made: &[Lane] = match scales {
            Scales::D | Scales::Power => &[d],
            Scales::DM => &[d, m],
            _ if b % SEGMENT == 0 => &[d, m, small],
            _ => &[small],
        };
        made.iter().zip(lanes.by_ref()).for_each(|(made, lane)| *lane = *made);
    }
}

/// Writes a row's codes of `bits` bits into the lines of a block.
#[inline(always)]
fn put(bits: usize, lines: &mut [Line], r: usize, codes: [u8; BLOCK]) {
    let dwords: [u32; 8] = std::array::from_fn(|k| u32::from_le_bytes(codes.as_chunks().0[k]));
    for (width, below) in planes(bits) {
        for (at, line) in lines[below..][..width].iter_mut().enumerate() {
            let parts = (at..8).step_by(width).map(|k| (dwords[k] >> below & mask(width)) << (width * (k / width)));
            line.0[r] = parts.fold(0, |line, part| line | part);
        }
    }
}

/// Reads what `put` wrote.
fn take(lines: &[[Line; 1]], r: usize) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    for (width, below) in planes(lines.len()) {
        for (k, four) in codes.as_chunks_mut().0.iter_mut().enumerate() {
            let bits = lines[below + k % width][0].0[r] >> (width * (k / width)) & mask(width);
            *four = (u32::from_le_bytes(*four) | bits << below).to_le_bytes();
        }
    }
    codes
}
