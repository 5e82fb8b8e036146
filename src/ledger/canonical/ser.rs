//! The serde serializer behind `to_string` and `write`.

use std::fmt::Display;
use std::ops::Range;

use serde::ser::{self, Serialize};

use super::NotCanonical;
use super::scan::check_order;
use super::text::{push_f64, push_i64, push_str, push_u64};

type Result<T = ()> = std::result::Result<T, NotCanonical>;

impl ser::Error for NotCanonical {
    fn custom<T: Display>(message: T) -> Self {
        NotCanonical::Custom(message.to_string())
    }
}

/// Serializes one value.
pub(super) struct Serializer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Serializer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Writes `{"variant":`, the start of an externally tagged variant.
    fn open_variant(self, variant: &str) -> &'a mut Vec<u8> {
        self.out.push(b'{');
        push_str(self.out, variant);
        self.out.push(b':');
        self.out
    }
}

impl<'a> ser::Serializer for Serializer<'a> {
    type Ok = ();
    type Error = NotCanonical;
    type SerializeSeq = Array<'a>;
    type SerializeTuple = Array<'a>;
    type SerializeTupleStruct = Array<'a>;
    type SerializeTupleVariant = Array<'a>;
    type SerializeMap = Map<'a>;
    type SerializeStruct = Struct<'a>;
    type SerializeStructVariant = Struct<'a>;

    fn serialize_bool(self, value: bool) -> Result {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result {
        push_i64(self.out, value);
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result {
        push_u64(self.out, value);
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result {
        if !value.is_finite() {
            return Err(NotCanonical::NotFinite(match value {
                f64::INFINITY => "Infinity",
                f64::NEG_INFINITY => "-Infinity",
                _ => "NaN",
            }));
        }
        push_f64(self.out, value);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result {
        push_str(self.out, value);
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result {
        Err(NotCanonical::Unsupported("a byte string"))
    }

    fn serialize_none(self) -> Result {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result {
        let out = self.open_variant(variant);
        value.serialize(Serializer::new(out))?;
        out.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Array<'a>> {
        Ok(Array::open(self.out, "]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Array<'a>> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Array<'a>> {
        self.serialize_seq(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Array<'a>> {
        Ok(Array::open(self.open_variant(variant), "]}"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'a>> {
        self.out.push(b'{');
        Ok(Map { out: self.out, last: None })
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Struct<'a>> {
        // serde_json's RawValue and the like serialize arbitrary text, which need not be canonical.
        if name.starts_with("$serde_json::private") {
            return Err(NotCanonical::Unsupported("raw JSON"));
        }
        Ok(Struct::open(self.out, "}"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Struct<'a>> {
        Ok(Struct::open(self.open_variant(variant), "}}"))
    }
}

/// Serializes the items of an array.
pub(super) struct Array<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    close: &'static str,
}

impl<'a> Array<'a> {
    fn open(out: &'a mut Vec<u8>, close: &'static str) -> Self {
        out.push(b'[');
        Self { out, first: true, close }
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        value.serialize(Serializer::new(self.out))
    }

    fn close(self) -> Result {
        self.out.extend_from_slice(self.close.as_bytes());
        Ok(())
    }
}

impl ser::SerializeSeq for Array<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.item(value)
    }

    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeTuple for Array<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.item(value)
    }

    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeTupleStruct for Array<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.item(value)
    }

    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeTupleVariant for Array<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        self.item(value)
    }

    fn end(self) -> Result {
        self.close()
    }
}

/// Serializes the fields of a struct, which must be in order.
pub(super) struct Struct<'a> {
    out: &'a mut Vec<u8>,
    last: Option<&'static str>,
    close: &'static str,
}

impl<'a> Struct<'a> {
    fn open(out: &'a mut Vec<u8>, close: &'static str) -> Self {
        out.push(b'{');
        Self { out, last: None, close }
    }

    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result {
        match self.last.replace(key) {
            None => {}
            Some(after) if after < key => self.out.push(b','),
            Some(after) => return Err(NotCanonical::KeyOrder { key: key.into(), after: after.into() }),
        }
        push_str(self.out, key);
        self.out.push(b':');
        value.serialize(Serializer::new(self.out))
    }

    fn close(self) -> Result {
        self.out.extend_from_slice(self.close.as_bytes());
        Ok(())
    }
}

impl ser::SerializeStruct for Struct<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result {
        self.field(key, value)
    }

    fn end(self) -> Result {
        self.close()
    }
}

impl ser::SerializeStructVariant for Struct<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result {
        self.field(key, value)
    }

    fn end(self) -> Result {
        self.close()
    }
}

/// Serializes the entries of a map, whose keys must be strings in order.
pub(super) struct Map<'a> {
    out: &'a mut Vec<u8>,
    /// Range of the last key's literal in `out`.
    last: Option<Range<usize>>,
}

impl ser::SerializeMap for Map<'_> {
    type Ok = ();
    type Error = NotCanonical;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        if self.last.is_some() {
            self.out.push(b',');
        }
        let start = self.out.len();
        key.serialize(Serializer::new(self.out))?;
        if self.out.get(start) != Some(&b'"') {
            return Err(NotCanonical::KeyNotString);
        }
        let key = start..self.out.len();
        if let Some(after) = self.last.replace(key.clone()) {
            check_order(literal(&self.out[after])?, literal(&self.out[key])?)?;
        }
        self.out.push(b':');
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(Serializer::new(self.out))
    }

    fn end(self) -> Result {
        self.out.push(b'}');
        Ok(())
    }
}

fn literal(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| NotCanonical::KeyNotString)
}
