//! Parses Extended JSON, canonical and relaxed, in the form in which [`super::extended_json_write`] writes it
//! and PostgreSQL returns it.
//!
//! Of numbers without a wrapper, one with a decimal point is a double; one without is an int32 if it fits,
//! else an int64 if it fits, else a double. An object with a key that begins with `$`, other than those of a
//! DBRef, is a wrapper. Anything that docrow does not write is `None`.

use ::bson::{DateTime, Decimal128, oid::ObjectId};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Map, Number, Value};

use super::{
    bson::{
        self, ARRAY, BINARY, BOOLEAN, CODE, CODE_WITH_SCOPE, DATE, DB_POINTER, DECIMAL, DOCUMENT, DOUBLE,
        INT32, INT64, MAX_KEY, MIN_KEY, NULL, OBJECT_ID, ParsedField, REGEX, STRING, SYMBOL, TIMESTAMP,
        UNDEFINED,
    },
    extended_json_write::is_reserved,
};

/// MongoDB accepts no document of more than 200 levels; a code's scope takes two levels here. Deeper nesting
/// could overflow the stack.
const MAX_DEPTH: usize = 512;

/// JSON text as a value. Numbers are not rounded, keys stay in order.
pub(super) fn json(text: &[u8]) -> Option<Value> {
    if depth(text) > MAX_DEPTH {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_slice(text);
    reader.disable_recursion_limit();
    let value = Value::deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// The JSON in a `jsonb`, whose binary form begins with a version.
pub(super) fn jsonb(bytes: &[u8]) -> Option<Value> {
    json(bytes.strip_prefix(b"\x01")?)
}

/// How deep arrays and objects nest in JSON text.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Appends the bytes of the BSON value that `json` means; nothing for one that is withheld.
pub(super) fn value(out: &mut Vec<u8>, json: &Value) -> Option<ParsedField> {
    let kind = match json {
        Value::Null => NULL,
        Value::Bool(value) => put(out, BOOLEAN, [u8::from(*value)]),
        Value::Number(value) => number(out, value)?,
        Value::String(text) => string(out, STRING, text.as_bytes())?,
        Value::Array(elements) => {
            let start = bson::begin(out);
            let mut index = 0;
            for element in elements {
                let mut name = itoa::Buffer::new();
                let told = bson::element(out, name.format(index).as_bytes(), |out| value(out, element))?;
                index += usize::from(told != ParsedField::Withheld);
            }
            bson::end(out, start)?;
            ARRAY
        }
        Value::Object(fields) if fields.keys().any(|name| is_reserved(name.as_bytes())) => {
            return wrapped(out, fields);
        }
        Value::Object(fields) => document(out, fields)?,
    };
    Some(ParsedField::Value(kind))
}

fn document(out: &mut Vec<u8>, fields: &Map<String, Value>) -> Option<u8> {
    let start = bson::begin(out);
    for (name, json) in fields {
        bson::element(out, name.as_bytes(), |out| value(out, json))?;
    }
    bson::end(out, start)?;
    Some(DOCUMENT)
}

fn put<const N: usize>(out: &mut Vec<u8>, kind: u8, bytes: [u8; N]) -> u8 {
    out.extend_from_slice(&bytes);
    kind
}

fn number(out: &mut Vec<u8>, number: &Number) -> Option<u8> {
    Some(match number.as_i64() {
        Some(whole) => match i32::try_from(whole) {
            Ok(whole) => put(out, INT32, whole.to_le_bytes()),
            Err(_) => put(out, INT64, whole.to_le_bytes()),
        },
        None => put(out, DOUBLE, number.as_f64()?.to_le_bytes()),
    })
}

fn string(out: &mut Vec<u8>, kind: u8, text: &[u8]) -> Option<u8> {
    bson::put_text(out, text).map(|()| kind)
}

/// An object that stands for something else.
fn wrapped(out: &mut Vec<u8>, fields: &Map<String, Value>) -> Option<ParsedField> {
    if fields.len() == 2 {
        return code_with_scope(out, fields);
    }
    let (name, json) = only(fields)?;
    let kind = match (name, json) {
        ("$docrow", Value::Object(fields)) => return own(out, fields),
        ("$numberInt", Value::String(text)) => put(out, INT32, text.parse::<i32>().ok()?.to_le_bytes()),
        ("$numberLong", Value::String(text)) => put(out, INT64, text.parse::<i64>().ok()?.to_le_bytes()),
        ("$numberDouble", Value::String(text)) => put(out, DOUBLE, text.parse::<f64>().ok()?.to_le_bytes()),
        ("$numberDecimal", Value::String(text)) => {
            put(out, DECIMAL, text.parse::<Decimal128>().ok()?.bytes())
        }
        ("$oid", json) => put(out, OBJECT_ID, object_id(json)?),
        ("$date", json) => put(out, DATE, date(json)?.to_le_bytes()),
        ("$timestamp", Value::Object(fields)) => {
            let [time, increment] = all(fields, ["t", "i"])?.map(|part| u32::try_from(part.as_u64()?).ok());
            put(out, TIMESTAMP, (u64::from(time?) << 32 | u64::from(increment?)).to_le_bytes())
        }
        ("$undefined", Value::Bool(true)) => UNDEFINED,
        ("$minKey", Value::Number(_)) => MIN_KEY,
        ("$maxKey", Value::Number(_)) => MAX_KEY,
        ("$code", json) => string(out, CODE, &text(json)?)?,
        ("$symbol", json) => string(out, SYMBOL, &text(json)?)?,
        ("$binary", Value::Object(fields)) => binary(out, fields)?,
        ("$regularExpression", Value::Object(fields)) => {
            for part in all(fields, ["pattern", "options"])? {
                let part = text(part)?;
                out.extend_from_slice(&part);
                out.push(0);
            }
            REGEX
        }
        ("$dbPointer", Value::Object(fields)) => {
            let [namespace, id] = all(fields, ["$ref", "$id"])?;
            string(out, DB_POINTER, &text(namespace)?)?;
            let Value::Object(id) = id else { return None };
            put(out, DB_POINTER, object_id(id.get("$oid")?)?)
        }
        _ => return None,
    };
    Some(ParsedField::Value(kind))
}

/// One of docrow's own forms.
fn own(out: &mut Vec<u8>, fields: &Map<String, Value>) -> Option<ParsedField> {
    let (name, json) = only(fields)?;
    if name == "withheld" {
        return Some(ParsedField::Withheld);
    }
    let bytes = base64(json)?;
    let kind = match name {
        "string" => return string(out, STRING, &bytes).map(ParsedField::Value),
        "double" => DOUBLE,
        "decimal" => DECIMAL,
        "binary" => BINARY,
        "document" => DOCUMENT,
        _ => return None,
    };
    out.extend_from_slice(&bytes);
    (bson::end_of(kind, &bytes, 0) == Ok(bytes.len())).then_some(ParsedField::Value(kind))
}

fn code_with_scope(out: &mut Vec<u8>, fields: &Map<String, Value>) -> Option<ParsedField> {
    let [code, scope] = all(fields, ["$code", "$scope"])?;
    let start = bson::begin(out);
    string(out, CODE, &text(code)?)?;
    let told = value(out, scope)?;
    bson::fill_in(out, start)?;
    (told == ParsedField::Value(DOCUMENT)).then_some(ParsedField::Value(CODE_WITH_SCOPE))
}

fn binary(out: &mut Vec<u8>, fields: &Map<String, Value>) -> Option<u8> {
    let [bytes, subtype] = all(fields, ["base64", "subType"])?;
    let bytes = base64(bytes)?;
    let subtype = u8::from_str_radix(subtype.as_str()?, 16).ok()?;
    let old_length = i32::try_from(bytes.len()).ok()?.to_le_bytes();
    let old = if subtype == 2 { &old_length[..] } else { &[] };
    bson::put_binary(out, subtype, &[old, &bytes].concat()).map(|()| BINARY)
}

fn date(json: &Value) -> Option<i64> {
    match json {
        Value::String(text) => Some(DateTime::parse_rfc3339_str(text).ok()?.timestamp_millis()),
        Value::Object(fields) => match only(fields)? {
            ("$numberLong", Value::String(millis)) => millis.parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

fn object_id(json: &Value) -> Option<[u8; 12]> {
    Some(ObjectId::parse_str(json.as_str()?).ok()?.bytes())
}

/// The bytes of a string.
fn text(json: &Value) -> Option<Vec<u8>> {
    match json {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Object(fields) => match only(fields)? {
            ("$docrow", Value::Object(fields)) => match only(fields)? {
                ("string", bytes) => base64(bytes),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

fn base64(json: &Value) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(json.as_str()?).ok()
}

/// The only field.
fn only(fields: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, value) = fields.iter().next()?;
    (fields.len() == 1).then_some((name, value))
}

/// The fields of these names, if there are no others.
fn all<'a, const N: usize>(fields: &'a Map<String, Value>, names: [&str; N]) -> Option<[&'a Value; N]> {
    if fields.len() != N || names.iter().any(|name| !fields.contains_key(*name)) {
        return None;
    }
    Some(names.map(|name| fields.get(name).unwrap_or(&Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(ParsedField, Vec<u8>)> {
        let mut out = Vec::new();
        let told = value(&mut out, &json(text.as_bytes())?)?;
        Some((told, out))
    }

    fn reads(text: &str, kind: u8, bytes: &[u8]) {
        assert_eq!(read(text), Some((ParsedField::Value(kind), bytes.to_vec())), "{text}");
    }

    #[test]
    fn a_number_is_the_least_that_it_can_be() {
        reads("5", INT32, &5_i32.to_le_bytes());
        reads("-2147483648", INT32, &i32::MIN.to_le_bytes());
        reads("2147483648", INT64, &(1_i64 << 31).to_le_bytes());
        reads("9223372036854775807", INT64, &i64::MAX.to_le_bytes());
        reads("9223372036854775808", DOUBLE, &9_223_372_036_854_775_808.0_f64.to_le_bytes());
        reads("5.0", DOUBLE, &5.0_f64.to_le_bytes());
        reads("0.1", DOUBLE, &0.1_f64.to_le_bytes());
        // The nearest double, not the nearest but one.
        reads("1.7976931348623157e308", DOUBLE, &f64::MAX.to_le_bytes());
        reads("8.41e21", DOUBLE, &8.41e21_f64.to_le_bytes());
    }

    #[test]
    fn keys_keep_their_order() {
        let (_, bytes) = read(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(bytes, ::bson::rawdoc! { "b": 1, "a": 2 }.as_bytes());
    }

    #[test]
    fn what_is_withheld_is_left_out() {
        let withheld = r#"{"$docrow":{"withheld":true}}"#;
        assert_eq!(read(withheld), Some((ParsedField::Withheld, vec![])));
        let (_, bytes) = read(&format!(r#"{{"a":{withheld},"b":[{withheld},1]}}"#)).unwrap();
        assert_eq!(bytes, ::bson::rawdoc! { "b": [1] }.as_bytes());
    }

    #[test]
    fn a_quoted_bracket_is_no_depth() {
        assert_eq!(depth(br#"{"[[[\"[{":["\\",[]]}"#), 3);
        assert!(json(format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH)).as_bytes()).is_some());
        assert!(json(format!("[{}{}]", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH)).as_bytes()).is_none());
    }

    #[test]
    fn what_docrow_does_not_write_is_not_read() {
        for text in [
            "",
            "{",
            "1 2",
            r#"{"$numberInt":5}"#,
            r#"{"$numberInt":"2147483648"}"#,
            r#"{"$numberLong":"1.5"}"#,
            r#"{"$numberDouble":"x"}"#,
            r#"{"$oid":"ab"}"#,
            r#"{"$date":"yesterday"}"#,
            r#"{"$timestamp":{"t":1}}"#,
            r#"{"$timestamp":{"t":-1,"i":0}}"#,
            r#"{"$binary":{"base64":"?","subType":"00"}}"#,
            r#"{"$binary":{"base64":"","subType":"100"}}"#,
            r#"{"$code":"f","$scope":1}"#,
            r#"{"$code":"f","x":{}}"#,
            r#"{"$regularExpression":{"pattern":"a"}}"#,
            r#"{"$undefined":false}"#,
            r#"{"$numberInt":"1","x":1}"#,
            r#"{"$set":1}"#,
            r#"{"$docrow":{}}"#,
            r#"{"$docrow":{"int":"AA=="}}"#,
            r#"{"$docrow":{"decimal":"AA=="}}"#,
            r#"{"$docrow":{"binary":"AAAAAA=="}}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
