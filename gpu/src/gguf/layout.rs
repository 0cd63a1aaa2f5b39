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

/// Refuses a tensor that holds a NaN or an infinity: as a value of F32 and F16, as a block's scale or
/// minimum of the quantized kinds. Linear in the bytes; part of loading, not of parsing.
pub fn check_finite(tensor: &Tensor<'_>) -> Result<(), GgufError> {
    /// Where the f16 numbers of a block stand.
    const ONE: &[usize] = &[0];
    const TWO: &[usize] = &[0, 2];
    let half = |block: &[u8], at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let wide = |block: &[u8]| u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    let scales = match tensor.kind {
        TensorKind::F32 => &[],
        TensorKind::F16 | TensorKind::Q8_0 => ONE,
        TensorKind::Q4_1 => TWO,
    };
    let block_bytes = tensor.kind.block_bytes() as usize;
    for (i, block) in tensor.bytes.chunks_exact(block_bytes).enumerate() {
        let bad = if scales.is_empty() {
            (wide(block) & 0x7f80_0000 == 0x7f80_0000).then_some((0, wide(block) & 0x007f_ffff == 0))
        } else {
            let is_bad = |at: &&usize| half(block, **at) & 0x7c00 == 0x7c00;
            scales.iter().find(is_bad).map(|at| (*at, half(block, *at) & 0x03ff == 0))
        };
        if let Some((at, infinite)) = bad {
            return Err(GgufError::NonFinite {
                field: if tensor.kind.block_elems() == 1 { "weight" } else { "weight scale" },
                offset: tensor.offset + (i * block_bytes + at) as u64,
                found: if infinite { "an infinity" } else { "NaN" },
            });
        }
    }
    Ok(())
}
