//! The statistics of a sample of a collection's documents: which fields there are, how often, and of which
//! types.
//!
//! Memory is bounded, whatever the documents: of values, only counts are kept, and of fields, as many as fit
//! into [`MAX_BYTES`]. Fields that are not tracked are not mapped, and so go to `extra`.

use std::collections::HashMap;

use bson::{
    RawBsonRef, RawDocument,
    raw::RawElement,
    spec::{BinarySubtype, ElementType},
};

/// The maximum depth at which objects are tracked.
pub(super) const MAX_DEPTH: usize = 8;

/// The maximum number of fields tracked per object: more than make it a map, and more than a table has
/// columns.
pub(super) const MAX_FIELDS: usize = 301;

/// About how much memory a sample takes.
const MAX_BYTES: usize = 16 << 20;

/// About how much of it a field takes, besides its name, which is stored twice.
const FIELD_BYTES: usize = 512;

/// The field that is the document's key.
pub(super) const KEY: &str = "_id";

/// The statistics of a sample of a collection's documents.
#[derive(Debug, Default)]
pub struct Sample {
    pub(super) documents: SampledObjects,
    pub(super) ids: KindTally,
    bytes: usize,
}

/// The objects found at one path.
#[derive(Debug, Default)]
pub(super) struct SampledObjects {
    pub(super) count: usize,
    /// How many fields they have together.
    pub(super) occurrences: usize,
    index: HashMap<String, usize>,
    fields: Vec<(String, SampledValues)>,
    /// The fields in the documents' order.
    order: Vec<usize>,
}

/// The values found at one path.
#[derive(Debug, Default)]
pub(super) struct SampledValues {
    pub(super) nulls: u32,
    pub(super) kinds: KindTally,
    pub(super) objects: SampledObjects,
    pub(super) elements: Option<Box<SampledValues>>,
}

/// How many values there are of each [`ValueKind`].
#[derive(Debug, Default)]
pub(super) struct KindTally([u32; ValueKind::COUNT]);

/// A set of [`ValueKind`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KindSet(u32);

/// The properties of a value that determine a column's type and reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    Int32,
    /// An int64 that an int32 could hold.
    ShortLong,
    /// Any other int64.
    Long,
    /// A double that an int32 could hold.
    WholeDouble,
    /// Any other double.
    Double,
    Decimal,
    Text,
    /// A string that looks like an ObjectId.
    Hex,
    ObjectId,
    Boolean,
    Date,
    Uuid,
    Bytes,
    Object,
    /// An object that is too deep to be tracked.
    DeepObject,
    Array,
    /// An array directly in an array.
    InnerArray,
    Other,
}

impl ValueKind {
    pub(super) const COUNT: usize = Self::Other as usize + 1;

    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::Int32,
        Self::ShortLong,
        Self::Long,
        Self::WholeDouble,
        Self::Double,
        Self::Decimal,
        Self::Text,
        Self::Hex,
        Self::ObjectId,
        Self::Boolean,
        Self::Date,
        Self::Uuid,
        Self::Bytes,
        Self::Object,
        Self::DeepObject,
        Self::Array,
        Self::InnerArray,
        Self::Other,
    ];

    /// The kind of a value; none for null.
    fn of_element(element: &RawElement<'_>) -> Option<Self> {
        Some(match element.value() {
            Ok(RawBsonRef::Null) => return None,
            Ok(RawBsonRef::Int32(_)) => Self::Int32,
            Ok(RawBsonRef::Int64(value)) if i32::try_from(value).is_ok() => Self::ShortLong,
            Ok(RawBsonRef::Int64(_)) => Self::Long,
            Ok(RawBsonRef::Double(value)) if is_int32(value) => Self::WholeDouble,
            Ok(RawBsonRef::Double(_)) => Self::Double,
            Ok(RawBsonRef::Decimal128(_)) => Self::Decimal,
            Ok(RawBsonRef::String(text)) if is_hex(text) => Self::Hex,
            Ok(RawBsonRef::String(_)) => Self::Text,
            Ok(RawBsonRef::ObjectId(_)) => Self::ObjectId,
            Ok(RawBsonRef::Boolean(_)) => Self::Boolean,
            Ok(RawBsonRef::DateTime(_)) => Self::Date,
            Ok(RawBsonRef::Document(_)) => Self::Object,
            Ok(RawBsonRef::Array(_)) => Self::Array,
            Ok(RawBsonRef::Binary(binary)) => match binary.subtype {
                BinarySubtype::Uuid => Self::Uuid,
                BinarySubtype::Generic => Self::Bytes,
                _ => Self::Other,
            },
            _ => Self::Other,
        })
    }
}

/// Whether it reads back as an int32 where whole numbers do.
fn is_int32(value: f64) -> bool {
    let range = f64::from(i32::MIN)..=f64::from(i32::MAX);
    value.trunc() == value && range.contains(&value) && !(value == 0.0 && value.is_sign_negative())
}

fn is_hex(text: &str) -> bool {
    text.len() == 24 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Sample {
    /// No document yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one document to the sample.
    pub fn observe(&mut self, document: &RawDocument) {
        let Self { documents, ids, bytes } = self;
        documents.observe(document, 1, bytes);
        if let Some(id) = document.iter_elements().flatten().find(|element| element.key() == KEY) {
            ids.insert(ValueKind::of_element(&id).unwrap_or(ValueKind::Other));
        }
    }

    /// How many documents it has.
    pub fn len(&self) -> usize {
        self.documents.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SampledObjects {
    fn observe(&mut self, object: &RawDocument, depth: usize, bytes: &mut usize) {
        self.count += 1;
        let mut before = None;
        for element in object.iter_elements().flatten() {
            self.occurrences += 1;
            let name = element.key().as_str();
            let at = match self.index.get(name) {
                Some(&at) => at,
                None if self.fields.len() == MAX_FIELDS => continue,
                None if *bytes + FIELD_BYTES + 2 * name.len() > MAX_BYTES => continue,
                None => {
                    *bytes += FIELD_BYTES + 2 * name.len();
                    self.add(name, before)
                }
            };
            before = Some(at);
            if let Some((_, seen)) = self.fields.get_mut(at) {
                seen.observe(&element, depth, bytes);
            }
        }
    }

    /// Adds a field after the one that was added as number `before`.
    fn add(&mut self, name: &str, before: Option<usize>) -> usize {
        let at = self.fields.len();
        let place = before.and_then(|before| self.order.iter().position(|&field| field == before));
        self.order.insert(place.map_or(0, |place| place + 1), at);
        self.index.insert(name.to_owned(), at);
        self.fields.push((name.to_owned(), SampledValues::default()));
        at
    }

    /// The fields, in the order in which documents have them.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &SampledValues)> {
        self.order.iter().filter_map(|&at| self.fields.get(at)).map(|(name, seen)| (name.as_str(), seen))
    }

    /// One field.
    pub(super) fn field(&self, name: &str) -> Option<&SampledValues> {
        self.index.get(name).and_then(|&at| self.fields.get(at)).map(|(_, seen)| seen)
    }

    /// How many different fields they have, as far as they are tracked.
    pub(super) fn width(&self) -> usize {
        self.fields.len()
    }
}

impl SampledValues {
    fn observe(&mut self, element: &RawElement<'_>, depth: usize, bytes: &mut usize) {
        let Some(kind) = ValueKind::of_element(element) else {
            self.nulls = self.nulls.saturating_add(1);
            return;
        };
        if kind == ValueKind::Object && depth == MAX_DEPTH {
            return self.kinds.insert(ValueKind::DeepObject);
        }
        self.kinds.insert(kind);
        match element.value() {
            Ok(RawBsonRef::Document(object)) => self.objects.observe(object, depth + 1, bytes),
            Ok(RawBsonRef::Array(array)) => {
                let elements = self.elements.get_or_insert_default();
                for element in array.iter_elements().flatten() {
                    match element.element_type() {
                        ElementType::Array => elements.kinds.insert(ValueKind::InnerArray),
                        _ => elements.observe(&element, depth, bytes),
                    }
                }
            }
            _ => {}
        }
    }

    /// How many there are, null or not.
    pub(super) fn count(&self) -> u32 {
        self.kinds.total().saturating_add(self.nulls)
    }
}

impl KindTally {
    fn insert(&mut self, kind: ValueKind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// How many there are of one kind.
    pub(super) fn count(&self, kind: ValueKind) -> u32 {
        self.0.get(kind as usize).copied().unwrap_or_default()
    }

    /// How many there are of some kinds.
    pub(super) fn among(&self, kinds: KindSet) -> u32 {
        let counts = ValueKind::ALL.into_iter().filter(|&kind| kinds.has(kind)).map(|kind| self.count(kind));
        counts.fold(0, u32::saturating_add)
    }

    pub(super) fn total(&self) -> u32 {
        self.among(KindSet::ALL)
    }

    /// The kinds that occur.
    pub(super) fn kinds(&self) -> KindSet {
        let met = ValueKind::ALL.into_iter().filter(|&kind| self.count(kind) > 0);
        met.fold(KindSet::default(), |kinds, kind| kinds.or(KindSet::new(&[kind])))
    }
}

impl KindSet {
    pub(super) const ALL: Self = Self::new(&ValueKind::ALL);
    pub(super) const INTEGERS: Self = Self::new(&[ValueKind::Int32, ValueKind::ShortLong, ValueKind::Long]);
    pub(super) const DOUBLES: Self = Self::new(&[ValueKind::WholeDouble, ValueKind::Double]);
    pub(super) const TEXTS: Self = Self::new(&[ValueKind::Text, ValueKind::Hex]);

    pub(super) const fn new(kinds: &[ValueKind]) -> Self {
        match kinds {
            [] => Self(0),
            [first, rest @ ..] => Self(1 << *first as u32).or(Self::new(rest)),
        }
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(super) fn has(self, kind: ValueKind) -> bool {
        self.0 & Self::new(&[kind]).0 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of them are among `others`.
    pub(super) fn are_among(self, others: Self) -> bool {
        self.and(others) == self
    }
}

#[cfg(test)]
mod tests {
    use bson::{Document, RawDocumentBuf, doc};

    use super::*;

    fn sample(documents: impl IntoIterator<Item = Document>) -> Sample {
        let mut sample = Sample::new();
        for document in documents {
            sample.observe(&RawDocumentBuf::try_from(&document).unwrap());
        }
        sample
    }

    #[test]
    fn fields_are_in_the_documents_order() {
        let sample = sample([doc! { "b": 1, "d": 1 }, doc! { "a": 1, "b": 1, "c": 1, "d": 1, "e": 1 }]);
        let names: Vec<_> = sample.documents.fields().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn numbers_are_told_apart() {
        let values = doc! {
            "_id": 1, "Int32": 1, "ShortLong": 1_i64, "Long": 1_i64 << 31, "WholeDouble": -5.0, "Double": 0.5,
        };
        let minus_zero = doc! { "Double": -0.0 };
        let seen =
            sample([values, minus_zero, doc! { "Double": 2_147_483_648.0 }, doc! { "Double": f64::NAN }]);
        for (name, seen) in seen.documents.fields().skip(1) {
            let kinds: Vec<_> =
                ValueKind::ALL.into_iter().filter(|&kind| seen.kinds.count(kind) > 0).collect();
            assert_eq!(format!("{kinds:?}"), format!("[{name}]"));
        }
    }

    /// Memory is bounded, whatever the documents.
    #[test]
    fn a_sample_stays_small() {
        let long = "x".repeat(1 << 20);
        let named = |i: usize| doc! { format!("{i}{long}"): 1, format!("f{i}"): { "a": 1 } };
        let sample = sample((0..1000).map(named));
        assert!(sample.bytes <= MAX_BYTES);
        assert_eq!(sample.documents.width(), MAX_FIELDS);
        assert_eq!(sample.len(), 1000);
    }
}
