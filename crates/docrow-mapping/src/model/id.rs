//! An `_id` in a document, and its canonical form: one for all that MongoDB takes for the same.

use bson::{RawDocument, RawDocumentBuf, raw::RawIter, spec::ElementType};

use super::bson_number::{CanonicalNumber, Decimal};
use crate::error::{Error, Kind, Result};

/// An `_id` as stored in a document, in whatever encoding its text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// Its type.
    pub kind: ElementType,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Id<'a> {
    /// The `_id` of a document, or of an event's `documentKey`.
    pub fn of(document: &'a RawDocument) -> Result<Self> {
        let missing = || Error::bug("read a document: it has no _id");
        // A document begins with its length, an element with its type and name.
        let mut at = 4;
        for element in document.iter_elements() {
            let element = element.map_err(|e| Error::caused(Kind::Bug, "read a document", e))?;
            let start = at + 1 + element.key().as_str().len() + 1;
            at = start + element.size();
            if element.key().as_str() == "_id" {
                let bytes = document.as_bytes().get(start..at).ok_or_else(missing)?;
                return Ok(Self { kind: element.element_type(), bytes });
            }
        }
        Err(missing())
    }

    /// A document with this `_id` and nothing else.
    pub fn document(&self) -> Result<RawDocumentBuf> {
        let element = [&[self.kind as u8], b"_id\0".as_slice(), self.bytes, &[0]].concat();
        let too_long = |e| Error::caused(Kind::Bug, "keep an _id: it is too long", e);
        let length = i32::try_from(4 + element.len()).map_err(too_long)?;
        let document = RawDocumentBuf::from_bytes([&length.to_le_bytes(), &*element].concat());
        document.map_err(|e| Error::caused(Kind::Bug, "keep an _id", e))
    }

    /// The canonical one of all `_id`s that equal this, if it differs: a whole number as an int32 if it fits,
    /// else as an int64; another number as a double if that represents it, else as a `Decimal128`; a symbol
    /// as a string; and so within embedded documents and arrays. Bytes that are no valid BSON stay as they
    /// are.
    pub(crate) fn canonical(&self) -> Option<(ElementType, Vec<u8>)> {
        if self.is_plain() {
            return None;
        }
        let canonical = CanonicalForm::form_of(*self)?;
        (canonical.0 != self.kind || canonical.1 != self.bytes).then_some(canonical)
    }

    /// Whether it is certainly canonical, by its type alone or those of its fields: most are.
    fn is_plain(&self) -> bool {
        use ElementType as T;
        let is_plain = |kind| {
            matches!(
                kind,
                T::Int32 | T::String | T::ObjectId | T::Boolean | T::Null | T::DateTime | T::Binary
            )
        };
        match self.kind {
            ElementType::EmbeddedDocument => RawDocument::from_bytes(self.bytes).is_ok_and(|document| {
                document.iter_elements().all(|field| field.is_ok_and(|field| is_plain(field.element_type())))
            }),
            kind => is_plain(kind),
        }
    }

    pub(super) fn number(&self) -> Option<CanonicalNumber> {
        Some(match self.kind {
            ElementType::Int32 => CanonicalNumber::Int(i32::from_le_bytes(self.array()).into()),
            ElementType::Int64 => CanonicalNumber::Int(i64::from_le_bytes(self.array())),
            ElementType::Double => f64::from_le_bytes(self.array()).into(),
            ElementType::Decimal128 => Decimal::from_bytes(self.array()).into(),
            _ => return None,
        })
    }

    fn array<const N: usize>(&self) -> [u8; N] {
        self.bytes.first_chunk().copied().unwrap_or([0; N])
    }
}

/// The canonical form of a value, as far as it is written.
#[derive(Default)]
struct CanonicalForm<'a> {
    out: Vec<u8>,
    open: Vec<OpenContainer<'a>>,
}

/// A document or array that is being read, and where its canonical form begins.
struct OpenContainer<'a> {
    elements: RawIter<'a>,
    bytes: &'a [u8],
    /// The offset of the next element in its bytes.
    next: usize,
    /// How many elements of an array have been read.
    index: Option<usize>,
    start: usize,
    /// Where the code begins that this scope belongs to.
    code: Option<usize>,
}

impl<'a> CanonicalForm<'a> {
    fn form_of(id: Id<'a>) -> Option<(ElementType, Vec<u8>)> {
        let mut writer = Self::default();
        let kind = writer.value(id)?;
        // With an explicit stack: no depth of nesting can overflow the thread's.
        while let Some(open) = writer.open.last_mut() {
            let Some(element) = open.elements.next() else {
                let (start, code) = (open.start, open.code);
                writer.open.pop();
                writer.out.push(0);
                [Some(start), code].into_iter().flatten().try_for_each(|start| writer.fill_in(start))?;
                continue;
            };
            let element = element.ok()?;
            let (name, start) = (element.key().as_str(), open.next);
            // An element begins with its type and name.
            let at = start + 1 + name.len() + 1;
            open.next = at + element.size();
            let id = Id { kind: element.element_type(), bytes: open.bytes.get(at..open.next)? };
            let place = writer.out.len();
            writer.out.push(0);
            match &mut open.index {
                None => writer.out.extend_from_slice(name.as_bytes()),
                Some(index) => {
                    writer.out.extend_from_slice(index.to_string().as_bytes());
                    *index += 1;
                }
            }
            writer.out.push(0);
            let kind = writer.value(id)?;
            *writer.out.get_mut(place)? = kind as u8;
        }
        Some((kind, writer.out))
    }

    /// Appends a value; for a document or array only the beginning. Returns its type.
    fn value(&mut self, id: Id<'a>) -> Option<ElementType> {
        if let Some(number) = id.number() {
            return Some(self.number(number));
        }
        match id.kind {
            ElementType::EmbeddedDocument => self.open(id.bytes, None, None)?,
            ElementType::Array => self.open(id.bytes, Some(0), None)?,
            ElementType::JavaScriptCodeWithScope => {
                // Its length, then the code, with its own length, and the scope.
                let length = id.bytes.get(4..8)?.first_chunk().copied().map(i32::from_le_bytes)?;
                let scope = usize::try_from(length).ok()?.checked_add(8)?;
                let (code, scope) = id.bytes.split_at_checked(scope)?;
                let start = self.out.len();
                self.out.extend_from_slice(code);
                self.open(scope, None, Some(start))?;
            }
            ElementType::Symbol => {
                self.out.extend_from_slice(id.bytes);
                return Some(ElementType::String);
            }
            _ => self.out.extend_from_slice(id.bytes),
        }
        Some(id.kind)
    }

    fn open(&mut self, bytes: &'a [u8], index: Option<usize>, code: Option<usize>) -> Option<()> {
        let elements = RawDocument::from_bytes(bytes).ok()?.iter_elements();
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        self.open.push(OpenContainer { elements, bytes, next: 4, index, start, code });
        Some(())
    }

    fn number(&mut self, number: CanonicalNumber) -> ElementType {
        let mut put = |bytes: &[u8]| self.out.extend_from_slice(bytes);
        match number {
            CanonicalNumber::Int(value) => match i32::try_from(value) {
                Ok(value) => {
                    put(&value.to_le_bytes());
                    ElementType::Int32
                }
                Err(_) => {
                    put(&value.to_le_bytes());
                    ElementType::Int64
                }
            },
            CanonicalNumber::Double(value) => {
                put(&value.to_le_bytes());
                ElementType::Double
            }
            CanonicalNumber::Decimal { negative, coefficient, exponent } => {
                put(&Decimal::Finite { negative, coefficient, exponent }.to_bytes());
                ElementType::Decimal128
            }
        }
    }

    /// Fills in the length of the value that begins at `start`.
    fn fill_in(&mut self, start: usize) -> Option<()> {
        let length = i32::try_from(self.out.len() - start).ok()?;
        self.out.get_mut(start..start + 4)?.copy_from_slice(&length.to_le_bytes());
        Some(())
    }
}
