//! A document that is being assembled, piece by piece, in any order.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{
    bson::{self, ARRAY, CODE_WITH_SCOPE, DOCUMENT, ParsedField},
    compile::{MappedNode, MappedObject},
    extended_json_parse,
    extended_json_write::is_reserved,
    key_column::in_order,
};

/// A place in a document, and its content so far.
#[derive(Debug, Default)]
pub(super) enum DocumentTree {
    /// Nothing yet.
    #[default]
    Missing,
    /// A value of this type, by its bytes.
    Value(u8, Vec<u8>),
    /// Something to leave out.
    Withheld,
    Object(BTreeMap<Vec<u8>, SameNamed>),
    Array(BTreeMap<usize, DocumentTree>),
}

/// The fields of one name.
#[derive(Debug, Default)]
pub(super) struct SameNamed {
    /// The one that counts.
    pub(super) value: DocumentTree,
    /// The others, each with its number among all of them, from 1.
    pub(super) copies: Vec<(usize, DocumentTree)>,
}

/// Where a path of a note ends.
pub(super) enum TreeSpot<'a> {
    Field(&'a mut SameNamed),
    Element(&'a mut DocumentTree),
}

/// The mapping's shape of a place that is still empty.
#[derive(Clone, Copy)]
pub(super) enum MappedShape<'a> {
    Object(&'a MappedObject),
    Array(&'a MappedNode),
    /// Neither an object nor an array to be taken apart.
    Whole,
}

impl<'a> MappedShape<'a> {
    fn from_node(node: &'a MappedNode) -> Self {
        match node {
            MappedNode::Object(object) => Self::Object(object),
            MappedNode::Array(element) => Self::Array(element),
            _ => Self::Whole,
        }
    }

    fn field(self, name: &[u8]) -> Self {
        let Self::Object(object) = self else { return Self::Whole };
        object.find(&[name, b"\0"].concat()).map_or(Self::Whole, |(_, field)| Self::from_node(&field.node))
    }

    fn element(self) -> Self {
        if let Self::Array(element) = self { Self::from_node(element) } else { Self::Whole }
    }
}

impl DocumentTree {
    /// What `read` appends and returns.
    pub(super) fn read(read: impl FnOnce(&mut Vec<u8>) -> Option<ParsedField>) -> Option<Self> {
        let mut bytes = Vec::new();
        Some(match read(&mut bytes)? {
            ParsedField::Value(kind) => Self::Value(kind, bytes),
            ParsedField::Withheld => Self::Withheld,
        })
    }

    /// The value of `json`, with its objects and arrays taken apart.
    pub(super) fn from_json(json: &Json) -> Option<Self> {
        Some(match json {
            Json::Object(fields) if !fields.keys().any(|name| is_reserved(name.as_bytes())) => {
                let field = |(name, json): (&String, &Json)| {
                    let (value, copies) = (Self::from_json(json)?, Vec::new());
                    Some((name.clone().into_bytes(), SameNamed { value, copies }))
                };
                Self::Object(fields.iter().map(field).collect::<Option<_>>()?)
            }
            Json::Array(elements) => {
                let elements = elements.iter().enumerate();
                Self::Array(
                    elements.map(|(i, json)| Some((i, Self::from_json(json)?))).collect::<Option<_>>()?,
                )
            }
            _ => Self::read(|out| extended_json_parse::value(out, json))?,
        })
    }

    /// Whether this can be a whole document.
    pub(super) fn is_document(&self) -> bool {
        matches!(self, Self::Object(_) | Self::Value(DOCUMENT, _))
    }

    /// This, with fields in the order of `key`, an equal value; `key` itself, if this is still empty. `None`:
    /// it is not equal.
    pub(super) fn in_order_of(self, key: Self) -> Option<Self> {
        if let Self::Missing = self {
            return Some(key);
        }
        let value = Self::read(|out| self.write(out))?;
        match (value, key) {
            (Self::Value(kind @ (DOCUMENT | ARRAY | CODE_WITH_SCOPE), values), Self::Value(own, key))
                if kind == own =>
            {
                let mut bytes = Vec::with_capacity(values.len());
                in_order(&mut bytes, kind, &key, &values)?;
                Some(Self::Value(kind, bytes))
            }
            (value, _) => Some(value),
        }
    }

    /// The fields of one name, if this is an object, or can become one.
    pub(super) fn field(&mut self, name: &[u8]) -> Option<&mut SameNamed> {
        if !self.is_object() {
            return None;
        }
        let Self::Object(fields) = self else { return None };
        if !fields.contains_key(name) {
            fields.insert(name.to_vec(), SameNamed::default());
        }
        fields.get_mut(name)
    }

    /// The element with this index, if this is an array, or can become one.
    pub(super) fn element(&mut self, index: usize) -> Option<&mut Self> {
        if let Self::Missing = self {
            *self = Self::Array(BTreeMap::new());
        }
        let Self::Array(elements) = self else { return None };
        Some(elements.entry(index).or_default())
    }

    /// Whether this is an object; if it is still empty, it becomes one.
    pub(super) fn is_object(&mut self) -> bool {
        if let Self::Missing = self {
            *self = Self::Object(BTreeMap::new());
        }
        matches!(self, Self::Object(_))
    }

    /// The place at the end of `path`. The tree, or if it is empty there `shape`, determines whether a step
    /// is a field's name or an element's index.
    pub(super) fn at(&mut self, path: &[Vec<u8>], shape: MappedShape<'_>) -> Option<TreeSpot<'_>> {
        let (name, rest) = path.split_first()?;
        let is_array = match self {
            Self::Array(_) => true,
            Self::Object(_) => false,
            _ => matches!(shape, MappedShape::Array(_)),
        };
        if is_array {
            let element = self.element(index(name)?)?;
            return if rest.is_empty() {
                Some(TreeSpot::Element(element))
            } else {
                element.at(rest, shape.element())
            };
        }
        if matches!((&*self, shape), (Self::Missing, MappedShape::Whole)) {
            return None;
        }
        let field = self.field(name)?;
        if rest.is_empty() { Some(TreeSpot::Field(field)) } else { field.value.at(rest, shape.field(name)) }
    }

    /// The bytes of the document, its `_id` first; `None` if elements of an array are missing, or it is too
    /// long.
    pub(super) fn document(self) -> Option<Vec<u8>> {
        let mut fields = match self {
            Self::Object(fields) => fields,
            Self::Value(DOCUMENT, bytes) => return Some(bytes),
            _ => return None,
        };
        let mut out = Vec::new();
        let start = bson::begin(&mut out);
        let id = fields.remove_entry(&b"_id"[..]);
        for (name, field) in id.into_iter().chain(fields) {
            field.write(&mut out, &name)?;
        }
        bson::end(&mut out, start)?;
        Some(out)
    }

    fn write(&self, out: &mut Vec<u8>) -> Option<ParsedField> {
        let start = out.len();
        Some(ParsedField::Value(match self {
            Self::Missing | Self::Withheld => return Some(ParsedField::Withheld),
            Self::Value(kind, bytes) => {
                out.extend_from_slice(bytes);
                *kind
            }
            Self::Object(fields) => {
                bson::begin(out);
                for (name, field) in fields {
                    field.write(out, name)?;
                }
                bson::end(out, start)?;
                DOCUMENT
            }
            Self::Array(elements) => {
                bson::begin(out);
                let mut count = 0_usize;
                for (expected, (index, element)) in elements.iter().enumerate() {
                    if *index != expected {
                        return None;
                    }
                    let mut name = itoa::Buffer::new();
                    let told = bson::element(out, name.format(count).as_bytes(), |out| element.write(out))?;
                    count += usize::from(told != ParsedField::Withheld);
                }
                bson::end(out, start)?;
                ARRAY
            }
        }))
    }
}

impl SameNamed {
    /// Appends the fields in their order: the one that counts has the missing number.
    fn write(&self, out: &mut Vec<u8>, name: &[u8]) -> Option<()> {
        let mut all: Vec<_> = self.copies.iter().map(|(number, value)| (*number, value)).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        let before = all.iter().zip(1..).take_while(|((number, _), expected)| number == expected).count();
        all.insert(before, (0, &self.value));
        for (_, value) in all {
            bson::element(out, name, |out| value.write(out))?;
        }
        Some(())
    }
}

/// Takes a note's path apart: its steps, and the number of the field among those of its name, 0 for the one
/// that counts. The other direction of [`super::trail::render`], after JSON's own escapes.
pub(super) fn steps(path: &str) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut steps = vec![Vec::new()];
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let step = steps.last_mut()?;
        rest = after;
        match (byte, after) {
            (b'.', _) => steps.push(Vec::new()),
            (b'\\', [escaped @ (b'.' | b'\\'), after @ ..]) => {
                step.push(*escaped);
                rest = after;
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                step.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest = after;
            }
            (b'\\', number) => return Some((steps, index(number).filter(|number| *number > 0)?)),
            _ => step.push(byte),
        }
    }
    Some((steps, 0))
}

/// A number, as written in a path.
fn index(digits: &[u8]) -> Option<usize> {
    let plain = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
    plain.then_some(digits).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::mapping::trail::render;

    #[test]
    fn takes_paths_apart() {
        let path = |names: &[&[u8]], copy| Some((names.iter().map(|name| name.to_vec()).collect(), copy));
        assert_eq!(steps(""), path(&[b""], 0));
        assert_eq!(steps("."), path(&[b"", b""], 0));
        assert_eq!(steps(r"a.3.b\.c\\.d\xff"), path(&[b"a", b"3", b"b.c\\", b"d\xff"], 0));
        assert_eq!(steps(r"a.b\12"), path(&[b"a", b"b"], 12));
        for wrong in [r"a\", r"a\0", r"a\01", r"a\1.b", r"a\b", r"a\xg0", r"a\x1"] {
            assert_eq!(steps(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_taken_apart(names in prop::collection::vec(prop::collection::vec(prop_oneof![any::<u8>(), Just(b'.'), Just(b'\\'), Just(b'"')], 0..6), 1..4)) {
            let mut path = BytesMut::new();
            for (i, name) in names.iter().enumerate() {
                path.extend_from_slice(if i == 0 { b"" } else { b"." });
                render(&mut path, name);
            }
            let json = [b"\"", &path[..], b"\""].concat();
            let path: String = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(steps(&path), Some((names, 0)));
        }
    }
}
