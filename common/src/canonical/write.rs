//! Writes RFC 8785 straight from the value, without a tree in between: hashes are most of what planning costs.

use std::cmp::Ordering;
use std::fmt::{self, Display};
use std::ops::Range;

use serde::ser::{self, Serialize};

use super::{CanonicalError, is_safe};

/// What one resource's spec usually takes.
const USUAL_BYTES: usize = 1024;

/// `value` in canonical form.
pub(super) fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let mut writer = Writer { out: Vec::with_capacity(USUAL_BYTES), ..Writer::default() };
    value.serialize(&mut writer).map_err(|Refused(error)| error)?;
    Ok(writer.out)
}

/// Why nothing was written.
#[derive(Debug)]
struct Refused(CanonicalError);

impl Refused {
    fn number(number: impl Display) -> Self {
        Self(CanonicalError::Number(number.to_string()))
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: Display>(message: T) -> Self {
        Self(CanonicalError::Write(ser::Error::custom(message)))
    }
}

/// Where the parts of an object's entry stand in what was written.
#[derive(Debug, Clone)]
struct Entry {
    /// The key with its quotes.
    key: Range<usize>,
    /// Whether the key is ASCII without escapes: then the order of its bytes is that of UTF-16.
    is_plain: bool,
    /// Where the value ends.
    end: usize,
}

#[derive(Debug, Default)]
struct Writer {
    out: Vec<u8>,
    /// Entries of the objects that are being written, the innermost one's last.
    entries: Vec<Entry>,
    /// The object that was put in order last; kept for its memory.
    ordered: Vec<u8>,
}

impl Writer {
    /// Scalars are written as everywhere.
    fn plain<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        serde_json::to_writer(&mut self.out, value).map_err(|e| Refused(CanonicalError::Write(e)))
    }

    fn array(&mut self) -> Array<'_> {
        self.out.push(b'[');
        Array { writer: self, is_empty: true, closes_object: false }
    }

    fn object(&mut self) -> Object<'_> {
        self.out.push(b'{');
        let (begin, first) = (self.out.len(), self.entries.len());
        Object { writer: self, begin, first, closes_object: false }
    }

    /// Begins an object with one entry, whose value comes next.
    fn variant(&mut self, variant: &str) -> Result<(), Refused> {
        self.out.push(b'{');
        self.plain(variant)?;
        self.out.push(b':');
        Ok(())
    }
}

/// An array on its way.
struct Array<'a> {
    writer: &'a mut Writer,
    is_empty: bool,
    /// Whether it is the one value of an object.
    closes_object: bool,
}

impl Array<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        if !std::mem::take(&mut self.is_empty) {
            self.writer.out.push(b',');
        }
        value.serialize(&mut *self.writer)
    }

    fn finish(self) {
        self.writer.out.push(b']');
        if self.closes_object {
            self.writer.out.push(b'}');
        }
    }
}

/// An object on its way: entries are written as they come, and put in order at its end.
struct Object<'a> {
    writer: &'a mut Writer,
    /// Where its first entry begins.
    begin: usize,
    /// Its first entry among all.
    first: usize,
    /// Whether it is the one value of another object.
    closes_object: bool,
}

impl Object<'_> {
    fn key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        let writer = &mut *self.writer;
        if writer.entries.len() > self.first {
            writer.out.push(b',');
        }
        let begin = writer.out.len();
        key.serialize(&mut *writer)?;
        match writer.out.get(begin) {
            Some(b'"') => {}
            Some(b'{' | b'[' | b'n') | None => return Err(ser::Error::custom("a key that is no text")),
            // Numbers and truths, as serde_json writes them.
            Some(_) => {
                writer.out.insert(begin, b'"');
                writer.out.push(b'"');
            }
        }
        let end = writer.out.len();
        let is_plain = writer.out.iter().skip(begin).all(|c| c.is_ascii() && *c != b'\\');
        writer.entries.push(Entry { key: begin..end, is_plain, end });
        writer.out.push(b':');
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(&mut *self.writer)?;
        let end = self.writer.out.len();
        if let Some(entry) = self.writer.entries.last_mut() {
            entry.end = end;
        }
        Ok(())
    }

    fn finish(self) {
        let Writer { out, entries, ordered } = self.writer;
        let own = entries.get_mut(self.first..).unwrap_or_default();
        let written = |range: Range<usize>| out.get(range).unwrap_or_default();
        let order = |a: &Entry, b: &Entry| {
            let (a_key, b_key) = (written(a.key.clone()), written(b.key.clone()));
            if a.is_plain && b.is_plain { by_bytes(a_key, b_key) } else { by_utf16(a_key, b_key) }
        };
        if !own.is_sorted_by(|a, b| order(a, b) == Ordering::Less) {
            own.sort_by(order);
            ordered.clear();
            for (n, entry) in own.iter().enumerate() {
                // Of two entries with one key the last counts, as in any map.
                if own.get(n + 1).is_some_and(|next| order(entry, next) == Ordering::Equal) {
                    continue;
                }
                if !ordered.is_empty() {
                    ordered.push(b',');
                }
                ordered.extend_from_slice(written(entry.key.start..entry.end));
            }
            out.truncate(self.begin);
            out.extend_from_slice(ordered);
        }
        entries.truncate(self.first);
        out.push(b'}');
        if self.closes_object {
            out.push(b'}');
        }
    }
}

/// The order of two keys with their quotes, which must not count: there are characters before them.
fn by_bytes(a: &[u8], b: &[u8]) -> Ordering {
    let text = |key: &[u8]| key.len().saturating_sub(1);
    a.get(..text(a)).cmp(&b.get(..text(b)))
}

/// The order that the RFC has for all keys.
fn by_utf16(a: &[u8], b: &[u8]) -> Ordering {
    let text = |key: &[u8]| -> Vec<u16> { serde_json::from_slice::<String>(key).unwrap_or_default().encode_utf16().collect() };
    text(a).cmp(&text(b))
}

impl<'a> ser::Serializer for &'a mut Writer {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Array<'a>;
    type SerializeTuple = Array<'a>;
    type SerializeTupleStruct = Array<'a>;
    type SerializeTupleVariant = Array<'a>;
    type SerializeMap = Object<'a>;
    type SerializeStruct = Object<'a>;
    type SerializeStructVariant = Object<'a>;

    fn serialize_bool(self, v: bool) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_i8(self, v: i8) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_i16(self, v: i16) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_i32(self, v: i32) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_i64(self, v: i64) -> Result<(), Refused> {
        if is_safe(v.unsigned_abs()) { self.plain(&v) } else { Err(Refused::number(v)) }
    }
    fn serialize_u8(self, v: u8) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_u16(self, v: u16) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_u32(self, v: u32) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_u64(self, v: u64) -> Result<(), Refused> {
        if is_safe(v) { self.plain(&v) } else { Err(Refused::number(v)) }
    }
    fn serialize_f32(self, v: f32) -> Result<(), Refused> {
        Err(Refused::number(v))
    }
    fn serialize_f64(self, v: f64) -> Result<(), Refused> {
        Err(Refused::number(v))
    }
    fn serialize_char(self, v: char) -> Result<(), Refused> {
        self.plain(&v)
    }
    fn serialize_str(self, v: &str) -> Result<(), Refused> {
        self.plain(v)
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<(), Refused> {
        self.plain(v)
    }
    fn serialize_none(self) -> Result<(), Refused> {
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<(), Refused> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Refused> {
        self.plain(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.variant(variant)?;
        value.serialize(&mut *self)?;
        self.out.push(b'}');
        Ok(())
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Array<'a>, Refused> {
        Ok(self.array())
    }
    fn serialize_tuple(self, _: usize) -> Result<Array<'a>, Refused> {
        Ok(self.array())
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Array<'a>, Refused> {
        Ok(self.array())
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Array<'a>, Refused> {
        self.variant(variant)?;
        Ok(Array { closes_object: true, ..self.array() })
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Object<'a>, Refused> {
        Ok(self.object())
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Object<'a>, Refused> {
        Ok(self.object())
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Object<'a>, Refused> {
        self.variant(variant)?;
        Ok(Object { closes_object: true, ..self.object() })
    }
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Refused> {
        self.plain(&value.to_string())
    }
}

macro_rules! arrays {
    ($($part:ident::$add:ident),*) => {$(
        impl ser::$part for Array<'_> {
            type Ok = ();
            type Error = Refused;
            fn $add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
                self.item(value)
            }
            fn end(self) -> Result<(), Refused> {
                self.finish();
                Ok(())
            }
        }
    )*};
}

arrays!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

impl ser::SerializeMap for Object<'_> {
    type Ok = ();
    type Error = Refused;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.key(key)
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.value(value)
    }
    fn end(self) -> Result<(), Refused> {
        self.finish();
        Ok(())
    }
}

macro_rules! objects {
    ($($part:ident),*) => {$(
        impl ser::$part for Object<'_> {
            type Ok = ();
            type Error = Refused;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Refused> {
                self.key(key)?;
                self.value(value)
            }
            fn end(self) -> Result<(), Refused> {
                self.finish();
                Ok(())
            }
        }
    )*};
}

objects!(SerializeStruct, SerializeStructVariant);
