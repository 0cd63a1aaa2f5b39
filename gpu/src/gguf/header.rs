//! The head of a file: magic, version, counts, key-value pairs, tensor descriptions.
//!
//! Reads in the file's order and checks each number before it is used; the counts bound every allocation.
//! It leaves the placing of tensor data to `layout` and the sense of hyperparameters to `hyper`.

use super::cursor::Cursor;
use super::error::GgufError;
use super::kind::{LOADABLE, TensorKind};
use super::value::Value;
use std::ops::Range;

/// Tensors, and pairs, of one file at most.
const MAX_COUNT: u64 = 65_536;
/// A key or a tensor's name in bytes.
const MAX_NAME: u64 = 256;
const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
const ALIGNMENT_KEY: &[u8] = b"general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const LEAST_ALIGNMENT: u64 = 8;
const MOST_ALIGNMENT: u64 = 65_536;

/// One metadata pair.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) key: Range<usize>,
    /// Where the value's type id stands.
    pub(crate) offset: u64,
    pub(crate) value: Value,
}

/// One tensor description, its data not placed yet.
#[derive(Debug)]
pub(crate) struct Description {
    pub(crate) name: Range<usize>,
    pub(crate) kind: TensorKind,
    pub(crate) ne: [u64; 4],
    /// Size of the data: checked arithmetic over `ne`.
    pub(crate) size: u64,
    /// Relative to the data section, and where that number stands.
    pub(crate) relative: u64,
    pub(crate) offset: u64,
}

#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) tensors: Vec<Description>,
    pub(crate) alignment: u64,
    /// Where the head ends; the data section starts at the next multiple of the alignment.
    pub(crate) end: u64,
}

/// The first eight bytes: enough to refuse a foreign file.
pub(crate) fn magic_and_version(cursor: &mut Cursor<'_>) -> Result<(), GgufError> {
    let offset = cursor.offset();
    let found = cursor.u32("magic number")?;
    if found != MAGIC {
        return Err(GgufError::Magic { offset, expected: MAGIC, found });
    }
    let offset = cursor.offset();
    match cursor.u32("version")? {
        2 | 3 => Ok(()),
        found => Err(GgufError::Version { offset, found }),
    }
}

pub(crate) fn read(bytes: &[u8]) -> Result<Header, GgufError> {
    let cursor = &mut Cursor::new(bytes);
    magic_and_version(cursor)?;
    let tensor_count = cursor.bounded("tensor count", 0, MAX_COUNT)?;
    let pair_count = cursor.bounded("metadata count", 0, MAX_COUNT)?;

    let mut pairs = Vec::with_capacity(pair_count as usize);
    for _ in 0..pair_count {
        let key = cursor.string("metadata key", MAX_NAME)?;
        let offset = cursor.offset();
        pairs.push(Pair { key, offset, value: Value::read(cursor)? });
    }
    pairs.sort_by(|a, b| bytes[a.key.clone()].cmp(&bytes[b.key.clone()]));
    for pair in pairs.windows(2) {
        if bytes[pair[0].key.clone()] == bytes[pair[1].key.clone()] {
            return Err(duplicate("metadata key", &pair[0].key, &pair[1].key));
        }
    }
    let alignment = alignment(bytes, &pairs)?;

    let mut tensors = Vec::with_capacity(tensor_count as usize);
    for _ in 0..tensor_count {
        tensors.push(description(cursor)?);
    }
    Ok(Header { pairs, tensors, alignment, end: cursor.offset() })
}

/// The later of two equal names, and where the earlier one stands.
pub(crate) fn duplicate(field: &'static str, a: &Range<usize>, b: &Range<usize>) -> GgufError {
    GgufError::Duplicate { field, offset: a.start.max(b.start) as u64, found: a.start.min(b.start) as u64 }
}

fn alignment(bytes: &[u8], pairs: &[Pair]) -> Result<u64, GgufError> {
    let Ok(at) = pairs.binary_search_by(|pair| bytes[pair.key.clone()].cmp(ALIGNMENT_KEY)) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let Pair { offset, ref value, .. } = pairs[at];
    let Value::Int(found) = *value else {
        let key = String::from_utf8_lossy(ALIGNMENT_KEY).into_owned();
        return Err(GgufError::WrongType { key, offset, expected: "an integer", found: value.name() });
    };
    let found = u64::try_from(found).unwrap_or(0);
    let (least, most) = (LEAST_ALIGNMENT, MOST_ALIGNMENT);
    if !(least..=most).contains(&found) {
        return Err(GgufError::Range { field: "general.alignment", offset, least, most, found });
    }
    if !found.is_power_of_two() {
        return Err(GgufError::Alignment { offset, found });
    }
    Ok(found)
}

fn description(cursor: &mut Cursor<'_>) -> Result<Description, GgufError> {
    let name = cursor.string("tensor name", MAX_NAME)?;
    let dims_offset = cursor.offset();
    let n_dims = cursor.u32("tensor dimension count")?;
    if !(1..=4).contains(&n_dims) {
        let (field, found) = ("tensor dimension count", n_dims.into());
        return Err(GgufError::Range { field, offset: dims_offset, least: 1, most: 4, found });
    }
    let dims_offset = cursor.offset();
    let mut ne = [1; 4];
    for dim in ne.iter_mut().take(n_dims as usize) {
        *dim = cursor.bounded("tensor dimension", 1, u64::MAX)?;
    }
    let kind_offset = cursor.offset();
    let id = cursor.u32("tensor type")?;
    let kind = TensorKind::of_id(id).ok_or(GgufError::Kind {
        offset: kind_offset,
        expected: LOADABLE,
        name: TensorKind::refused_name(id),
        found: id,
    })?;
    if ne[0] % kind.block_elems() != 0 {
        return Err(GgufError::Multiple {
            field: "tensor row length",
            offset: dims_offset,
            expected: kind.block_elems(),
            found: ne[0],
        });
    }
    let size = ne[1..]
        .iter()
        .try_fold(ne[0] / kind.block_elems(), |blocks, dim| blocks.checked_mul(*dim))
        .and_then(|blocks| blocks.checked_mul(kind.block_bytes()))
        .ok_or(GgufError::Overflow { field: "tensor size", offset: dims_offset })?;
    let offset = cursor.offset();
    let relative = cursor.u64("tensor offset")?;
    Ok(Description { name, kind, ne, size, relative, offset })
}
