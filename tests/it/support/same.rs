//! Whether a document is the one that was encoded, bit by bit. Shares no code with docrow.
//!
//! What the rows of a document do not preserve is removed from both first: the order of fields of different
//! names, and the names of the elements of arrays.

/// The difference, if the documents are not the same.
pub(crate) fn difference(rebuilt: &[u8], original: &[u8]) -> Option<String> {
    let (rebuilt, original) = (normal(0x03, rebuilt), normal(0x03, original));
    (rebuilt != original).then(|| format!("rebuilt:  {}\noriginal: {}", shown(&rebuilt), shown(&original)))
}

/// Bytes as text in which a difference can be found.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A value of a type with its fields sorted by name, those of one name in their order.
fn normal(kind: u8, value: &[u8]) -> Vec<u8> {
    match kind {
        0x03 | 0x04 => {
            let mut elements = elements(value);
            elements.iter_mut().for_each(|(kind, _, value)| *value = normal(*kind, value));
            if kind == 0x03 {
                elements.sort_by(|left, right| left.1.cmp(&right.1));
            } else {
                elements.iter_mut().for_each(|(_, name, _)| name.clear());
            }
            let element =
                |(kind, name, value): &(u8, Vec<u8>, Vec<u8>)| [&[*kind], &name[..], b"\0", value].concat();
            [&elements.iter().flat_map(element).collect::<Vec<_>>()[..], b"\0"].concat()
        }
        0x0f => {
            let code = 4 + 4 + length(&value[4..]);
            [&value[4..code], &normal(0x03, &value[code..])].concat()
        }
        _ => value.to_vec(),
    }
}

/// The types, names and values in a document or array.
fn elements(document: &[u8]) -> Vec<(u8, Vec<u8>, Vec<u8>)> {
    assert_eq!(length(document), document.len());
    let mut rest = &document[4..];
    let mut elements = Vec::new();
    while rest != [0] {
        let end = 1 + rest[1..].iter().position(|&byte| byte == 0).unwrap();
        let (kind, name) = (rest[0], rest[1..end].to_vec());
        rest = &rest[end + 1..];
        let (value, after) = rest.split_at(size(kind, rest));
        elements.push((kind, name, value.to_vec()));
        rest = after;
    }
    elements
}

fn length(bytes: &[u8]) -> usize {
    i32::from_le_bytes(bytes[..4].try_into().unwrap()).try_into().unwrap()
}

/// The length of the value with which `bytes` begin (<https://bsonspec.org/spec.html>).
fn size(kind: u8, bytes: &[u8]) -> usize {
    let c_string = |bytes: &[u8]| bytes.iter().position(|&byte| byte == 0).unwrap() + 1;
    match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => 4 + length(bytes),
        0x05 => 4 + 1 + length(bytes),
        0x0c => 4 + length(bytes) + 12,
        0x03 | 0x04 | 0x0f => length(bytes),
        0x0b => {
            let pattern = c_string(bytes);
            pattern + c_string(&bytes[pattern..])
        }
        _ => panic!("no type {kind:#x}"),
    }
}

#[test]
fn what_is_not_kept_makes_no_difference_and_all_else_does() {
    use bson::{Bson, Document, doc};
    let is_same = |left: &[u8], right: &[u8]| difference(left, right).is_none();
    let bytes = |document: Document| document.to_vec().unwrap();
    let document = bytes(doc! { "a": 1, "b": [1, { "x": 1, "y": 2 }], "c": "x" });
    assert!(is_same(&document, &bytes(doc! { "c": "x", "b": [1, { "y": 2, "x": 1 }], "a": 1 })));
    for other in [
        doc! { "a": 1_i64, "b": [1, { "x": 1, "y": 2 }], "c": "x" },
        doc! { "a": 1, "b": [{ "x": 1, "y": 2 }, 1], "c": "x" },
        doc! { "a": 1, "b": [1, { "x": 1 }], "c": "x" },
        doc! { "a": 1, "b": [1, { "x": 1, "y": 2 }], "c": Bson::Symbol("x".into()) },
        doc! { "a": 1, "b": { "0": 1, "1": { "x": 1, "y": 2 } }, "c": "x" },
    ] {
        assert!(!is_same(&document, &bytes(other)));
    }
    let mut renamed = document.clone();
    let at = renamed.windows(3).position(|window| window == b"\x100\0").unwrap();
    renamed[at + 1] = b'7';
    assert!(is_same(&renamed, &document));
}
