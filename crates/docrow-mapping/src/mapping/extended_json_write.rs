//! Canonical and relaxed Extended JSON (version 2), written directly from raw BSON, with an explicit stack:
//! no depth of nesting can overflow the thread's.
//! [`super::extended_json_values`](super::extended_json_values) writes the values without fields.
//!
//! A document that JSON would change or that would read back as another value is
//! `{"$docrow":{"document":"<its BSON in base64>"}}`: one with two fields of one name, with a field name of
//! invalid UTF-8, or with a name that begins with `$` and does not belong to a DBRef.
//!
//! Relaxed JSON is for people: values in the scope of a code are canonical there, too, because no path leads
//! into it. [`super::extended_json_parse`](super::extended_json_parse) reads both back.

use bytes::BytesMut;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    bson::{
        self, ARRAY, BINARY, BOOLEAN, BsonElements, CODE, CODE_WITH_SCOPE, DATE, DB_POINTER, DECIMAL,
        DOCUMENT, DOUBLE, EncodeFault, EncodeResult, INT32, INT64, MAX_KEY, MIN_KEY, NULL, OBJECT_ID, REGEX,
        STRING, SYMBOL, TIMESTAMP, UNDEFINED,
    },
    extended_json_values,
    reclaim::clear,
    trail::TrailStep,
};

/// Writes values; keeps only the memory of its stacks.
#[derive(Debug, Default)]
pub(super) struct JsonWriter {
    open: Vec<OpenJson>,
    /// Hashes of the field names of one document.
    names: Vec<u64>,
    /// The path to the value that is being written, if it is requested.
    trail: Vec<TrailStep>,
}

/// A document in canonical Extended JSON, in the form of values in `extra`; `None` if its bytes are
/// malformed.
pub fn document_json(document: &[u8]) -> Option<String> {
    let mut out = BytesMut::new();
    JsonWriter::default().write(&mut out, document, DOCUMENT, 0).ok()?;
    String::from_utf8(out.to_vec()).ok()
}

/// A document or array that is being written.
#[derive(Debug)]
struct OpenJson {
    next: usize,
    end: usize,
    array: bool,
    relaxed: bool,
    /// How many elements have been written.
    count: usize,
    /// What closes it: its own bracket, and that of its wrapper.
    tail: &'static [u8],
}

/// A value to be written, by type and offset.
#[derive(Clone, Copy)]
struct Value {
    kind: u8,
    at: usize,
    relaxed: bool,
}

impl JsonWriter {
    /// Appends the value of type `kind` at `at`, in canonical form.
    pub(super) fn write(&mut self, out: &mut BytesMut, doc: &[u8], kind: u8, at: usize) -> EncodeResult<()> {
        self.run(out, doc, Value { kind, at, relaxed: false }, &mut |_, _, _| {})
    }

    /// Appends the whole document in relaxed form. Passes to `inexact` the path, the type and the offset of
    /// every value that would not read back as itself: an int64 that fits an int32, and -0.
    pub(super) fn relaxed(
        &mut self,
        out: &mut BytesMut,
        doc: &[u8],
        inexact: &mut dyn FnMut(&[TrailStep], u8, usize),
    ) -> EncodeResult<()> {
        self.run(out, doc, Value { kind: DOCUMENT, at: 0, relaxed: true }, inexact)
    }

    fn run(
        &mut self,
        out: &mut BytesMut,
        doc: &[u8],
        value: Value,
        inexact: &mut dyn FnMut(&[TrailStep], u8, usize),
    ) -> EncodeResult<()> {
        clear(&mut self.open);
        clear(&mut self.trail);
        self.value(out, doc, value)?;
        while let Some(open) = self.open.last_mut() {
            let mut elements = BsonElements { next: open.next, end: open.end };
            let Some(element) = elements.advance(doc)? else {
                out.extend_from_slice(open.tail);
                self.open.pop();
                continue;
            };
            open.next = elements.next;
            if open.count > 0 {
                out.extend_from_slice(b",");
            }
            let step = if open.array {
                TrailStep::Element(open.count)
            } else {
                let step = TrailStep::Field(element.name.start, element.name.end);
                extended_json_values::quoted(out, doc.get(element.name).ok_or(EncodeFault::Malformed)?);
                out.extend_from_slice(b":");
                step
            };
            open.count += 1;
            let value = Value { kind: element.kind, at: element.at, relaxed: open.relaxed };
            if value.relaxed {
                self.trail.truncate(self.open.len() - 1);
                self.trail.push(step);
                if !reads_back(doc, value)? {
                    inexact(&self.trail, value.kind, value.at);
                }
            }
            self.value(out, doc, value)?;
        }
        Ok(())
    }

    /// Appends a value; for a document or array only the beginning.
    fn value(&mut self, out: &mut BytesMut, doc: &[u8], value: Value) -> EncodeResult<()> {
        let Value { kind, at, relaxed } = value;
        match kind {
            DOCUMENT => self.open(out, doc, value, b"{", b"}")?,
            ARRAY => self.open(out, doc, value, b"[", b"]")?,
            STRING => extended_json_values::string(out, bson::text(doc, at)?),
            INT32 if relaxed => extended_json_values::integer(out, bson::int32(doc, at)?.into()),
            INT32 => extended_json_values::int(out, bson::int32(doc, at)?),
            INT64 if relaxed => extended_json_values::integer(out, bson::int64(doc, at)?),
            INT64 => extended_json_values::long(out, bson::int64(doc, at)?),
            DOUBLE if relaxed => extended_json_values::relaxed_double(out, bson::double(doc, at)?),
            DOUBLE => extended_json_values::double(out, bson::double(doc, at)?),
            DECIMAL => extended_json_values::decimal_of(out, bson::array_at(doc, at)?),
            BOOLEAN if bson::boolean(doc, at)? => out.extend_from_slice(b"true"),
            BOOLEAN => out.extend_from_slice(b"false"),
            NULL => out.extend_from_slice(b"null"),
            UNDEFINED => out.extend_from_slice(b"{\"$undefined\":true}"),
            MIN_KEY => out.extend_from_slice(b"{\"$minKey\":1}"),
            MAX_KEY => out.extend_from_slice(b"{\"$maxKey\":1}"),
            OBJECT_ID => extended_json_values::object_id(out, bson::array_at(doc, at)?),
            DATE if relaxed => extended_json_values::relaxed_date(out, bson::int64(doc, at)?),
            DATE => extended_json_values::date(out, bson::int64(doc, at)?),
            TIMESTAMP => extended_json_values::timestamp(out, bson::array_at(doc, at)?),
            BINARY => extended_json_values::binary(out, doc, at)?,
            REGEX => extended_json_values::regex(out, doc, at)?,
            CODE => extended_json_values::wrapped_string(out, b"{\"$code\":", bson::text(doc, at)?),
            SYMBOL => extended_json_values::wrapped_string(out, b"{\"$symbol\":", bson::text(doc, at)?),
            DB_POINTER => extended_json_values::db_pointer(out, doc, at)?,
            CODE_WITH_SCOPE => {
                let code = bson::text(doc, at + 4)?;
                let scope = Value { kind: DOCUMENT, at: at + 4 + 4 + code.len() + 1, relaxed: false };
                if BsonElements::at(doc, scope.at)?.end + 1 != bson::end_of(kind, doc, at)? {
                    return Err(EncodeFault::Malformed);
                }
                out.extend_from_slice(b"{\"$code\":");
                extended_json_values::string(out, code);
                out.extend_from_slice(b",\"$scope\":");
                self.open(out, doc, scope, b"{", b"}}")?;
            }
            _ => return Err(EncodeFault::Malformed),
        }
        Ok(())
    }

    fn open(
        &mut self,
        out: &mut BytesMut,
        doc: &[u8],
        Value { at, relaxed, .. }: Value,
        head: &'static [u8],
        tail: &'static [u8],
    ) -> EncodeResult<()> {
        let BsonElements { next, end } = BsonElements::at(doc, at)?;
        let array = head == b"[";
        if !array && !self.is_plain(doc, at)? {
            extended_json_values::own(out, "document", doc.get(at..=end).ok_or(EncodeFault::Malformed)?);
            // The wrapper's; it has no bracket of its own.
            out.extend_from_slice(tail.get(1..).unwrap_or_default());
            return Ok(());
        }
        self.open.push(OpenJson { next, end, array, relaxed, count: 0, tail });
        out.extend_from_slice(head);
        Ok(())
    }

    /// Whether JSON represents the names of the document's fields completely.
    fn is_plain(&mut self, doc: &[u8], at: usize) -> EncodeResult<bool> {
        clear(&mut self.names);
        let mut elements = BsonElements::at(doc, at)?;
        while let Some(element) = elements.advance(doc)? {
            let name = doc.get(element.name).ok_or(EncodeFault::Malformed)?;
            if is_reserved(name) || std::str::from_utf8(name).is_err() {
                return Ok(false);
            }
            self.names.push(xxh3_64(name));
        }
        // Equal hashes of different names would do no harm: the other form is just as exact.
        self.names.sort_unstable();
        Ok(self.names.windows(2).all(|pair| pair.first() != pair.last()))
    }
}

/// Whether Extended JSON gives a field name a meaning, except for those of a DBRef, which is a document.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    name.first() == Some(&b'$') && !matches!(name, b"$ref" | b"$id" | b"$db")
}

/// Whether the relaxed form of a value without fields reads back as the value.
fn reads_back(doc: &[u8], Value { kind, at, .. }: Value) -> EncodeResult<bool> {
    Ok(match kind {
        INT64 => i32::try_from(bson::int64(doc, at)?).is_err(),
        // Numbers in jsonb have no negative zero.
        DOUBLE => bson::double(doc, at)?.to_bits() != (-0.0_f64).to_bits(),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use ::bson::{Binary, Bson, DateTime, JavaScriptCodeWithScope, RawDocumentBuf, doc, spec::BinarySubtype};

    use super::*;
    use crate::mapping::trail::render_trail;

    /// The relaxed form, and the paths that it does not represent exactly.
    fn relaxed(value: impl Into<Bson>) -> (String, Vec<String>) {
        let document = RawDocumentBuf::try_from(&doc! { "a": value.into() }).unwrap();
        let (mut out, mut noted) = (BytesMut::new(), Vec::new());
        let mut note = |trail: &[TrailStep], _, _| {
            let mut path = BytesMut::new();
            render_trail(&mut path, document.as_bytes(), trail);
            noted.push(String::from_utf8(path.to_vec()).unwrap());
        };
        JsonWriter::default().relaxed(&mut out, document.as_bytes(), &mut note).unwrap();
        let text = String::from_utf8(out.to_vec()).unwrap();
        (text.strip_prefix("{\"a\":").unwrap().strip_suffix('}').unwrap().to_owned(), noted)
    }

    fn exactly(value: impl Into<Bson>, text: &str) {
        assert_eq!(relaxed(value), (text.to_owned(), vec![]));
    }

    #[test]
    fn relaxed_numbers_tell_their_types() {
        exactly(5, "5");
        exactly(1_i64 << 31, "2147483648");
        exactly(i64::MIN, "-9223372036854775808");
        exactly(5.0, "5.0");
        exactly(0.1, "0.1");
        exactly(-1e-7, "-1e-7");
        exactly(1e16, "10000000000000000.0");
        exactly(-1e22, "-10000000000000000000000.0");
        exactly(f64::MAX, &format!("{}.0", f64::MAX));
        exactly(f64::NAN, r#"{"$numberDouble":"NaN"}"#);
        exactly(f64::NEG_INFINITY, r#"{"$numberDouble":"-Infinity"}"#);
        exactly(f64::from_bits(0xfff8_0000_0000_0001), r#"{"$docrow":{"double":"AQAAAAAA+P8="}}"#);
        assert_eq!(relaxed(5_i64), ("5".into(), vec!["a".into()]));
        assert_eq!(relaxed(i64::from(i32::MIN)), ("-2147483648".into(), vec!["a".into()]));
        assert_eq!(relaxed(-0.0), ("-0.0".into(), vec!["a".into()]));
        assert_eq!(
            relaxed(vec![doc! { "x.y": 5_i64, "z": [1, -0.0] }]),
            (r#"[{"x.y":5,"z":[1,-0.0]}]"#.into(), vec![r"a.0.x\\.y".into(), "a.0.z.1".into()])
        );
    }

    /// "Relaxed" of the Extended JSON v2 specification: ISO 8601 from 1970 to 9999, three decimals or none.
    #[test]
    fn relaxed_dates_are_for_people() {
        let date = |millis| Bson::DateTime(DateTime::from_millis(millis));
        exactly(date(0), r#"{"$date":"1970-01-01T00:00:00Z"}"#);
        exactly(date(1_356_351_330_501), r#"{"$date":"2012-12-24T12:15:30.501Z"}"#);
        exactly(date(951_782_400_007), r#"{"$date":"2000-02-29T00:00:00.007Z"}"#);
        exactly(date(253_402_300_799_999), r#"{"$date":"9999-12-31T23:59:59.999Z"}"#);
        exactly(date(-1), r#"{"$date":{"$numberLong":"-1"}}"#);
        exactly(date(253_402_300_800_000), r#"{"$date":{"$numberLong":"253402300800000"}}"#);
        for days in 0..3_000_000 {
            let (year, month, day) = extended_json_values::civil(days);
            let next = extended_json_values::civil(days + 1);
            let same_month = next == (year, month, day + 1) && day < 31;
            let next_month = next == (year, month + 1, 1) && (28..=31).contains(&day);
            assert!(same_month || next_month || ((month, day), next) == ((12, 31), (year + 1, 1, 1)));
        }
    }

    #[test]
    fn a_scope_is_canonical() {
        let scope = JavaScriptCodeWithScope { code: "c".into(), scope: doc! { "x": [5_i64], "y": 5 } };
        exactly(
            vec![Bson::from(scope), 1.into()],
            r#"[{"$code":"c","$scope":{"x":[{"$numberLong":"5"}],"y":{"$numberInt":"5"}}},1]"#,
        );
    }

    #[test]
    fn an_old_binary_has_its_inner_length_left_out() {
        let old = |bytes: &[u8]| Binary { subtype: BinarySubtype::BinaryOld, bytes: bytes.to_vec() };
        exactly(old(b"abc"), r#"{"$binary":{"base64":"YWJj","subType":"02"}}"#);
        let mut odd = RawDocumentBuf::try_from(&doc! { "a": old(b"abc") }).unwrap().into_bytes();
        odd[4 + 3 + 5] = 2;
        let mut out = BytesMut::new();
        JsonWriter::default().write(&mut out, &odd, DOCUMENT, 0).unwrap();
        assert_eq!(&out[..], br#"{"a":{"$docrow":{"binary":"BwAAAAICAAAAYWJj"}}}"#);
    }
}
