//! A metadata value as it is kept: a scalar by value, a string or an array as a range of the file's bytes.
//!
//! Keeping ranges means that a hostile vocabulary costs no memory beyond the file itself: sixteen million
//! empty strings are sixteen million lengths in the input and one range here. Arrays are walked once when
//! the file is parsed, so that the iterators below cannot meet anything new.

use super::cursor::{Cursor, MAX_STRING};
use super::error::GgufError;
use std::ops::Range;

/// Elements of one array at most.
pub(crate) const MAX_ARRAY: u64 = 16 << 20;

const STRING_ID: u32 = 8;
const ARRAY_ID: u32 = 9;

/// The scalar types of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Scalar {
    fn of_id(id: u32) -> Option<Scalar> {
        Some(match id {
            0 => Scalar::U8,
            1 => Scalar::I8,
            2 => Scalar::U16,
            3 => Scalar::I16,
            4 => Scalar::U32,
            5 => Scalar::I32,
            6 => Scalar::F32,
            7 => Scalar::Bool,
            10 => Scalar::U64,
            11 => Scalar::I64,
            12 => Scalar::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> u64 {
        match self {
            Scalar::U8 | Scalar::I8 | Scalar::Bool => 1,
            Scalar::U16 | Scalar::I16 => 2,
            Scalar::U32 | Scalar::I32 | Scalar::F32 => 4,
            Scalar::U64 | Scalar::I64 | Scalar::F64 => 8,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Scalar::F32 | Scalar::F64)
    }
}

/// What stands under a key.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Every integer type of the file fits.
    Int(i128),
    /// f32 and f64; an f32 passes through f64 unchanged.
    Float(f64),
    Bool(bool),
    Str(Range<usize>),
    Strs {
        count: usize,
        range: Range<usize>,
    },
    Scalars {
        of: Scalar,
        count: usize,
        range: Range<usize>,
    },
}

impl Value {
    /// What it is, in a word for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::Str(_) => "a string",
            Value::Strs { .. } => "an array of strings",
            Value::Scalars { of: Scalar::Bool, .. } => "an array of bools",
            Value::Scalars { of, .. } if of.is_float() => "an array of floats",
            Value::Scalars { .. } => "an array of integers",
        }
    }

    /// Reads the type id and the value behind it.
    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Value, GgufError> {
        const FIELD: &str = "metadata value";
        let offset = cursor.offset();
        match cursor.u32("metadata value type")? {
            STRING_ID => Ok(Value::Str(cursor.string(FIELD, MAX_STRING)?)),
            ARRAY_ID => Value::read_array(cursor),
            id => match Scalar::of_id(id) {
                Some(of) => Value::read_scalar(cursor, of, FIELD),
                None => Err(GgufError::ValueType {
                    field: "metadata value type",
                    offset,
                    expected: "a type id of 0 to 12",
                    found: id,
                }),
            },
        }
    }

    fn read_scalar(cursor: &mut Cursor<'_>, of: Scalar, field: &'static str) -> Result<Value, GgufError> {
        let offset = cursor.offset();
        Ok(match of {
            Scalar::U8 => Value::Int(cursor.u8(field)?.into()),
            Scalar::I8 => Value::Int((cursor.u8(field)? as i8).into()),
            Scalar::U16 => Value::Int(cursor.u16(field)?.into()),
            Scalar::I16 => Value::Int((cursor.u16(field)? as i16).into()),
            Scalar::U32 => Value::Int(cursor.u32(field)?.into()),
            Scalar::I32 => Value::Int((cursor.u32(field)? as i32).into()),
            Scalar::U64 => Value::Int(cursor.u64(field)?.into()),
            Scalar::I64 => Value::Int((cursor.u64(field)? as i64).into()),
            Scalar::F32 => Value::Float(f32::from_bits(cursor.u32(field)?).into()),
            Scalar::F64 => Value::Float(f64::from_bits(cursor.u64(field)?)),
            Scalar::Bool => match cursor.u8(field)? {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                found => {
                    let found = found.into();
                    return Err(GgufError::Range { field: "metadata bool", offset, least: 0, most: 1, found });
                }
            },
        })
    }

    fn read_array(cursor: &mut Cursor<'_>) -> Result<Value, GgufError> {
        const FIELD: &str = "metadata array";
        let type_offset = cursor.offset();
        let id = cursor.u32("metadata array type")?;
        let count_offset = cursor.offset();
        let count = cursor.bounded("metadata array count", 0, MAX_ARRAY)?;
        // The cheapest element of each type says how many bytes there must be at least.
        let (of, least) = match (id, Scalar::of_id(id)) {
            (STRING_ID, _) => (None, 8),
            (_, Some(of)) => (Some(of), of.bytes()),
            (found, None) => {
                return Err(GgufError::ValueType {
                    field: "metadata array type",
                    offset: type_offset,
                    expected: "a scalar or a string (arrays do not nest)",
                    found,
                });
            }
        };
        let needed =
            count.checked_mul(least).ok_or(GgufError::Overflow { field: "metadata array", offset: count_offset })?;
        let found = cursor.remaining();
        if needed > found {
            return Err(GgufError::Truncated { field: FIELD, offset: cursor.offset(), expected: needed, found });
        }
        let start = cursor.position();
        match of {
            Some(of) => {
                let range = cursor.skip(needed, FIELD)?;
                Ok(Value::Scalars { of, count: count as usize, range })
            }
            None => {
                for _ in 0..count {
                    cursor.string("metadata array string", MAX_STRING)?;
                }
                Ok(Value::Strs { count: count as usize, range: start..cursor.position() })
            }
        }
    }
}

/// The strings of an array, in the file's order.
#[derive(Clone, Debug)]
pub struct Strs<'a> {
    bytes: &'a [u8],
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Strs<'a> {
    pub(crate) fn new(bytes: &'a [u8], start: usize, count: usize) -> Strs<'a> {
        Strs { bytes, cursor: Cursor::at(bytes, start), left: count }
    }
}

impl<'a> Iterator for Strs<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let range = self.cursor.string("metadata array string", MAX_STRING).ok()?;
        std::str::from_utf8(&self.bytes[range]).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strs<'_> {}

/// The numbers of an array, in the file's order; `T` is `i128` for integers and `f64` for floats.
#[derive(Clone, Debug)]
pub struct Numbers<'a, T> {
    cursor: Cursor<'a>,
    of: Scalar,
    left: usize,
    pick: fn(Value) -> Option<T>,
}

impl<'a, T> Numbers<'a, T> {
    pub(crate) fn new(
        bytes: &'a [u8],
        start: usize,
        of: Scalar,
        count: usize,
        pick: fn(Value) -> Option<T>,
    ) -> Numbers<'a, T> {
        Numbers { cursor: Cursor::at(bytes, start), of, left: count, pick }
    }
}

impl<T> Iterator for Numbers<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.left = self.left.checked_sub(1)?;
        let value = Value::read_scalar(&mut self.cursor, self.of, "metadata array").ok()?;
        (self.pick)(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> ExactSizeIterator for Numbers<'_, T> {}
