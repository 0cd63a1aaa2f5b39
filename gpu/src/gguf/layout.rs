//! Tensor data: every range is aligned, within the file, and shares no byte with another.
//!
//! Also what callers get of a tensor, and the check for numbers that no arithmetic survives. GGUF lists the
//! fastest-varying dimension first: `ne[0]` is the length of a contiguous row.

use super::Gguf;
use super::error::GgufError;
use super::header::{Description, duplicate};
use super::kind::TensorKind;
use std::ops::Range;

/// A tensor whose data was found in the file.
#[derive(Debug)]
pub(crate) struct TensorEntry {
    name: Range<usize>,
    kind: TensorKind,
    ne: [u64; 4],
    data: Range<usize>,
}

/// A tensor as callers see it: a view of the file's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub name: &'a str,
    pub kind: TensorKind,
    /// `ne[0]` is the row length in elements, contiguous; absent dimensions are 1.
    pub ne: [u64; 4],
    /// Rows one after another, each `ne[0] / block_elems × block_bytes` long; no alignment is promised.
    pub bytes: &'a [u8],
    /// Where `bytes` start in the file.
    pub offset: u64,
}

type Placed = (Vec<TensorEntry>, Vec<u32>);

/// Places each description's data; returns the tensors in the file's order and their indices by name.
pub(crate) fn place(
    bytes: &[u8],
    descriptions: Vec<Description>,
    end: u64,
    alignment: u64,
) -> Result<Placed, GgufError> {
    let by_name = names(bytes, &descriptions)?;
    let file = bytes.len() as u64;
    let data_start =
        end.checked_next_multiple_of(alignment).ok_or(GgufError::Overflow { field: "data section", offset: end })?;
    let mut tensors = Vec::with_capacity(descriptions.len());
    for Description { name, kind, ne, size, relative, offset } in descriptions {
        if relative % alignment != 0 {
            let field = "tensor offset";
            return Err(GgufError::Multiple { field, offset, expected: alignment, found: relative });
        }
        let overflow = GgufError::Overflow { field: "tensor offset", offset };
        let start = data_start.checked_add(relative).ok_or(overflow.clone())?;
        let data_end = start.checked_add(size).ok_or(overflow)?;
        if data_end > file {
            let (expected, found) = (size, file.saturating_sub(start));
            return Err(GgufError::Truncated { field: "tensor data", offset: start, expected, found });
        }
        // Within the file, which lies in memory: both fit a usize.
        tensors.push(TensorEntry { name, kind, ne, data: start as usize..data_end as usize });
    }
    let mut ranges: Vec<&Range<usize>> = tensors.iter().map(|tensor| &tensor.data).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    for pair in ranges.windows(2) {
        if pair[1].start < pair[0].end {
            return Err(GgufError::Overlap { offset: pair[1].start as u64, expected: pair[0].end as u64 });
        }
    }
    Ok((tensors, by_name))
}

fn names(bytes: &[u8], descriptions: &[Description]) -> Result<Vec<u32>, GgufError> {
    let name = |at: &u32| &bytes[descriptions[*at as usize].name.clone()];
    let mut by_name: Vec<u32> = (0..descriptions.len() as u32).collect();
    by_name.sort_by(|a, b| name(a).cmp(name(b)));
    for pair in by_name.windows(2) {
        if name(&pair[0]) == name(&pair[1]) {
            let [a, b] = [pair[0], pair[1]].map(|at| &descriptions[at as usize].name);
            return Err(duplicate("tensor name", a, b));
        }
    }
    Ok(by_name)
}

impl Gguf {
    fn view(&self, entry: &TensorEntry) -> Tensor<'_> {
        Tensor {
            name: self.str_at(&entry.name),
            kind: entry.kind,
            ne: entry.ne,
            bytes: &self.bytes[entry.data.clone()],
            offset: entry.data.start as u64,
        }
    }

    /// Every tensor, in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.tensors.iter().map(|entry| self.view(entry))
    }

    /// The tensor of that name, or `None`.
    pub fn opt_tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let key = |at: &u32| &self.bytes[self.tensors[*at as usize].name.clone()];
        let found = self.by_name.binary_search_by(|at| key(at).cmp(name.as_bytes())).ok()?;
        Some(self.view(&self.tensors[self.by_name[found] as usize]))
    }

    /// The tensor of that name; [`GgufError::MissingTensor`] where there is none.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, GgufError> {
        self.opt_tensor(name).ok_or_else(|| GgufError::MissingTensor { name: name.to_owned() })
    }
}

impl Tensor<'_> {
    /// Refuses other dimensions than `ne` (absent ones are 1) with [`GgufError::Shape`].
    pub fn expect_shape(&self, ne: [u64; 4]) -> Result<(), GgufError> {
        if self.ne == ne {
            return Ok(());
        }
        Err(GgufError::Shape { name: self.name.to_owned(), offset: self.offset, expected: ne, found: self.ne })
    }
}

/// Refuses a tensor that holds a NaN or an infinity: as a value of F32, F16 and BF16, as a block's scale or
/// minimum of the quantized kinds. Linear in the bytes; part of loading, not of parsing.
pub fn check_finite(tensor: &Tensor<'_>) -> Result<(), GgufError> {
    /// The exponent's bits, all set in what is not finite, of an upper half of an f32 and of an f16.
    const WIDE: u16 = 0x7f80;
    const HALF: u16 = 0x7c00;
    // Where those 16 bits of a block stand.
    let (places, exponent): (&[usize], u16) = match tensor.kind {
        TensorKind::F32 => (&[2], WIDE),
        TensorKind::BF16 => (&[0], WIDE),
        TensorKind::F16 | TensorKind::Q4_0 | TensorKind::Q5_0 | TensorKind::Q8_0 => (&[0], HALF),
        TensorKind::IQ4_NL | TensorKind::IQ4_XS => (&[0], HALF),
        TensorKind::Q4_1 | TensorKind::Q5_1 | TensorKind::Q4_K | TensorKind::Q5_K => (&[0, 2], HALF),
        TensorKind::Q2_K => (&[80, 82], HALF),
        TensorKind::Q3_K => (&[108], HALF),
        TensorKind::Q6_K => (&[208], HALF),
        TensorKind::MXFP4 => return check_powers(tensor),
    };
    let block_bytes = tensor.kind.block_bytes() as usize;
    for (i, block) in tensor.bytes.chunks_exact(block_bytes).enumerate() {
        let bits = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        let Some(&at) = places.iter().find(|at| bits(**at) & exponent == exponent) else { continue };
        let plain = tensor.kind.block_elems() == 1;
        // An F32 stands in four bytes, of which `bits` are the upper two.
        let (start, rest) = if tensor.kind == TensorKind::F32 { (0, bits(0)) } else { (at, 0) };
        return Err(GgufError::NonFinite {
            field: if plain { "weight" } else { "weight scale" },
            offset: tensor.offset + (i * block_bytes + start) as u64,
            found: if bits(at) & !exponent & 0x7fff == 0 && rest == 0 { "an infinity" } else { "NaN" },
        });
    }
    Ok(())
}

/// Scales of MXFP4 are powers of two, 2^(e − 127), and the largest of its numbers is 6.
fn check_powers(tensor: &Tensor<'_>) -> Result<(), GgufError> {
    const MOST: u8 = 252;
    let block_bytes = TensorKind::MXFP4.block_bytes() as usize;
    match tensor.bytes.iter().step_by(block_bytes).position(|e| *e > MOST) {
        None => Ok(()),
        Some(i) => Err(GgufError::NonFinite {
            field: "weight scale",
            offset: tensor.offset + (i * block_bytes) as u64,
            found: if tensor.bytes[i * block_bytes] == u8::MAX { "NaN" } else { "an infinity" },
        }),
    }
}
