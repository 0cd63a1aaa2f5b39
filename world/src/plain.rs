//! How a value stands in a digest: its fields in order, each at its own width, little endian.
//!
//! Only ever hashed, never read back, so it need not be short: the varints of a journal take three times as
//! long to write. Nothing is ambiguous among values of one type: an option and a variant say which they are,
//! what has no fixed length says how long it is.

use serde::ser::{
    Impossible, Serialize, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};
use std::fmt;

/// Appends the value's bytes. The types of the core hold no maps and no floats, and nothing else fails.
#[expect(clippy::expect_used, reason = "a type that cannot be digested is found by the first test that runs it")]
pub(crate) fn write(value: &impl Serialize, buffer: &mut Vec<u8>) {
    value.serialize(Plain(buffer)).expect("the core's types are digested");
}

struct Plain<'b>(&'b mut Vec<u8>);

/// A type that has no place in the core.
#[derive(Debug)]
struct Foreign(String);

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Foreign {}

impl serde::ser::Error for Foreign {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Foreign(message.to_string())
    }
}

fn foreign<T>(what: &str) -> Result<T, Foreign> {
    Err(Foreign(format!("the core has no {what}")))
}

macro_rules! integers {
    ($($method:ident: $int:ty),*) => {$(
        fn $method(self, n: $int) -> Result<(), Foreign> {
            self.0.extend_from_slice(&n.to_le_bytes());
            Ok(())
        }
    )*};
}

impl<'b> Serializer for Plain<'b> {
    type Ok = ();
    type Error = Foreign;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Impossible<(), Foreign>;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    integers!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_u128: u128
    );

    fn serialize_u8(self, n: u8) -> Result<(), Foreign> {
        self.0.push(n);
        Ok(())
    }

    fn serialize_bool(self, value: bool) -> Result<(), Foreign> {
        self.serialize_u8(value.into())
    }

    fn serialize_char(self, value: char) -> Result<(), Foreign> {
        self.serialize_u32(value.into())
    }

    #[expect(clippy::disallowed_types, reason = "serde asks for it, and it refuses")]
    fn serialize_f32(self, _: f32) -> Result<(), Foreign> {
        foreign("floats")
    }

    #[expect(clippy::disallowed_types, reason = "serde asks for it, and it refuses")]
    fn serialize_f64(self, _: f64) -> Result<(), Foreign> {
        foreign("floats")
    }

    fn serialize_str(self, text: &str) -> Result<(), Foreign> {
        self.serialize_bytes(text.as_bytes())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Foreign> {
        self.0.extend_from_slice(&bytes.len().to_le_bytes());
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Foreign> {
        self.serialize_u8(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Foreign> {
        self.0.push(1);
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Foreign> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Foreign> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, variant: u32, _: &'static str) -> Result<(), Foreign> {
        self.serialize_u32(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Foreign> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Foreign> {
        self.0.extend_from_slice(&variant.to_le_bytes());
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Foreign> {
        let Some(len) = len else { return foreign("lists of unknown length") };
        self.0.extend_from_slice(&(len as u64).to_le_bytes());
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Foreign> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Foreign> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Foreign> {
        self.0.extend_from_slice(&variant.to_le_bytes());
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Foreign> {
        foreign("maps")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Foreign> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        variant: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Foreign> {
        self.0.extend_from_slice(&variant.to_le_bytes());
        Ok(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

macro_rules! parts {
    ($($trait:ident: $method:ident $(($key:ident))?),*) => {$(
        impl $trait for Plain<'_> {
            type Ok = ();
            type Error = Foreign;

            fn $method<T: Serialize + ?Sized>(&mut self, $(_: &'static $key,)? value: &T) -> Result<(), Foreign> {
                value.serialize(Plain(self.0))
            }

            fn end(self) -> Result<(), Foreign> {
                Ok(())
            }
        }
    )*};
}
parts!(
    SerializeSeq: serialize_element, SerializeTuple: serialize_element, SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field, SerializeStruct: serialize_field(str),
    SerializeStructVariant: serialize_field(str)
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TaskId;
    use crate::protocol::CancelReason;
    use crate::units::Sha256;

    fn bytes(value: &impl Serialize) -> Vec<u8> {
        let mut buffer = vec![];
        write(value, &mut buffer);
        buffer
    }

    #[test]
    fn each_field_has_its_width_and_what_varies_says_how() {
        assert_eq!(bytes(&(1u8, 2u16, 3u32)), [1, 2, 0, 3, 0, 0, 0]);
        assert_eq!(bytes(&TaskId(1 << 120)).len(), 16);
        assert_eq!(bytes(&Sha256([9; 32])), [9; 32]);
        assert_eq!(bytes(&[Some(1u8), None]), [1, 1, 0]);
        assert_eq!(bytes(&CancelReason::Abandoned), [2, 0, 0, 0]);
        assert_ne!(bytes(&(vec![1u8], vec![2u8, 3])), bytes(&(vec![1u8, 2], vec![3u8])));
        assert_ne!(bytes(&("a", "bc")), bytes(&("ab", "c")));
    }
}
