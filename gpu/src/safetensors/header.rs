//! The header of a safetensors file: eight bytes of length, JSON, then the tensors' bytes.
//!
//! Checked before a byte of data is looked at: lengths, counts, types, sizes against shapes, ranges that leave no
//! hole and share no byte, names that stand once.

use super::SafetensorsError;
use crate::gguf::TensorKind;
use crate::numerics::from_f16;
use crate::numerics::linear::from_bf16;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// Of the JSON; a thousand tensors take a tenth of it.
const HEADER_MOST: u64 = 8 << 20;
const TENSORS_MOST: usize = 1 << 16;
const DIMS_MOST: usize = 4;

/// What is no part of what runs: positions as numbers, and the pooler, which a mean leaves aside.
const IDLE: [&str; 3] = ["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"];
/// Before all names, where the encoder is a part of a model.
const PART: &str = "bert.";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// By name; a name that stands twice is an error.
#[derive(Debug)]
struct Entries(BTreeMap<String, Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else if entries.insert(name, map.next_value()?).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                    if entries.len() > TENSORS_MOST {
                        return Err(A::Error::custom("too many tensors"));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// A tensor's bytes, row-major, the last dimension contiguous.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) kind: TensorKind,
    pub(super) shape: &'a [u64],
    pub(super) bytes: &'a [u8],
}

impl Found<'_> {
    /// As F32, exactly.
    pub(super) fn widened(&self) -> Vec<u8> {
        let halves = |widen: fn(u16) -> f32| {
            let numbers = self.bytes.as_chunks::<2>().0.iter();
            numbers.flat_map(|half| widen(u16::from_le_bytes(*half)).to_le_bytes()).collect()
        };
        match self.kind {
            TensorKind::F16 => halves(from_f16),
            TensorKind::BF16 => halves(from_bf16),
            _ => self.bytes.to_vec(),
        }
    }
}

/// The tensors of a file.
#[derive(Debug)]
pub(super) struct Header<'a> {
    entries: BTreeMap<String, Entry>,
    data: &'a [u8],
}

impl<'a> Header<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Header<'a>, SafetensorsError> {
        let refused = |problem: String| SafetensorsError::Header { problem };
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(refused("the file ends within its length".to_owned()));
        };
        let length = u64::from_le_bytes(*length);
        if length > HEADER_MOST || length > rest.len() as u64 {
            let most = HEADER_MOST.min(rest.len() as u64);
            return Err(refused(format!("its length is {length}, and there is room for {most}")));
        }
        let (json, data) = rest.split_at(length as usize);
        let Entries(entries) = serde_json::from_slice(json).map_err(|e| refused(e.to_string()))?;
        let header = Header { entries, data };
        header.check().map_err(refused)?;
        Ok(header)
    }

    /// Sizes, and that the ranges are the data, whole.
    fn check(&self) -> Result<(), String> {
        let mut ranges = Vec::with_capacity(self.entries.len());
        for (at, Entry { dtype, shape, data_offsets: [begin, end] }) in self.entries.values().enumerate() {
            let size = size_of(dtype).ok_or_else(|| format!("tensor {at} has a type that is not known"))?;
            if shape.len() > DIMS_MOST {
                return Err(format!("tensor {at} has more than {DIMS_MOST} dimensions"));
            }
            let bytes = shape.iter().try_fold(size, |product, dim| product.checked_mul(*dim));
            if bytes.is_none() || end.checked_sub(*begin) != bytes {
                return Err(format!("tensor {at}: bytes {begin} to {end} are not its shape's"));
            }
            ranges.push((*begin, *end));
        }
        ranges.sort_unstable();
        let mut next = 0;
        for (begin, end) in ranges {
            if begin != next {
                return Err(format!("a tensor begins at byte {begin}, where {next} is the next"));
            }
            next = end;
        }
        match self.data.len() as u64 {
            len if len == next => Ok(()),
            len => Err(format!("the tensors have {next} bytes, and the file {len}")),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What all names begin with.
    pub(super) fn prefix(&self) -> &'static str {
        if self.entries.contains_key(&format!("{PART}embeddings.word_embeddings.weight")) { PART } else { "" }
    }

    /// How many tensors there are that nothing is made of.
    pub(super) fn idle(&self) -> usize {
        IDLE.iter().filter(|name| self.entries.contains_key(&format!("{}{name}", self.prefix()))).count()
    }

    /// A tensor of floats.
    pub(super) fn tensor(&self, name: &str) -> Option<Found<'_>> {
        let Entry { dtype, shape, data_offsets: [begin, end] } = self.entries.get(name)?;
        let kind = match dtype.as_str() {
            "F32" => TensorKind::F32,
            "F16" => TensorKind::F16,
            "BF16" => TensorKind::BF16,
            _ => return None,
        };
        // Within the data, which lies in memory.
        Some(Found { kind, shape, bytes: self.data.get(*begin as usize..*end as usize)? })
    }
}

/// Bytes of a number.
fn size_of(dtype: &str) -> Option<u64> {
    match dtype {
        "F64" | "I64" | "U64" => Some(8),
        "F32" | "I32" | "U32" => Some(4),
        "F16" | "BF16" | "I16" | "U16" => Some(2),
        "I8" | "U8" | "BOOL" => Some(1),
        _ => None,
    }
}
