//! A dry run: what a mapping would make of documents, by value and path, without making rows.
//!
//! [`super::walk`] puts misfits aside as it goes, and need not know the reason; here the same trie is walked
//! to find the reason. The two agree because both use [`value::column`] and the same nodes. A document that
//! [`Encoder`] refuses is a dead letter.
//!
//! Only types of values are kept (G12), and the number of paths is bounded, whatever the documents.

use std::{collections::BTreeMap, sync::Arc};

use ::bson::RawDocument;
use bytes::BytesMut;

use super::{
    bson::{ARRAY, BsonElements, DOCUMENT, EncodeFault, NULL, Read, ValueAt, type_name},
    compile::{MappedField, MappedNode, MappedObject, Mapping, PlannedColumn},
    encode::Encoder,
    extended_json_write::JsonWriter,
    rows::{Framing, Rows},
    value::{self, Fit},
};
use crate::shown;

/// How many different paths are distinguished, of each kind.
const MAX_PATHS: usize = 300;

/// Tests documents. Holds at most one document's rows.
#[derive(Debug)]
pub struct Trial {
    mapping: Arc<Mapping>,
    encoder: Encoder,
    rows: Rows,
    counter: LeftCounter,
    tried: Tried,
}

/// The result.
#[derive(Clone, Debug, Default)]
pub struct Tried {
    /// How many documents were tested.
    pub documents: u64,
    /// About how many bytes their rows have.
    pub row_bytes: u64,
    /// How many have a place for every value.
    pub whole: u64,
    /// How many can't have rows: they would be dead letters.
    pub dead: u64,
    /// Whether the first of these would stop the collection instead.
    pub stops: bool,
    /// The values that do not fit, and those without a mapping, by path and type.
    pub left: Tally<Left>,
    /// Why documents can't have rows, by path and reason.
    pub refused: Tally<&'static str>,
}

/// Why a value is not in a column, and its BSON type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// It does not fit its column, or is no object or array although there are tables for one.
    Misfit(&'static str),
    /// No column and no table is mapped to its field.
    Unmapped(&'static str),
}

/// Counts by path. An array's elements have the path `lines[]`.
#[derive(Clone, Debug)]
pub struct Tally<T> {
    counts: BTreeMap<(String, T), u64>,
    /// How many more there were, at other paths.
    pub others: u64,
}

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), others: 0 }
    }
}

impl<T: Ord + Copy> Tally<T> {
    /// The counts, the largest first.
    pub fn counts(&self) -> Vec<(&str, T, u64)> {
        let mut counts: Vec<_> =
            self.counts.iter().map(|((path, what), count)| (&**path, *what, *count)).collect();
        counts.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        counts
    }

    fn add(&mut self, path: &str, what: T) {
        let is_full = self.counts.len() >= MAX_PATHS;
        let key = (shown::path(path), what);
        match self.counts.get_mut(&key) {
            Some(count) => *count += 1,
            None if is_full => self.others += 1,
            None => {
                self.counts.insert(key, 1);
            }
        }
    }
}

impl Trial {
    /// A dry run of `mapping`.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        let encoder = Encoder::new(mapping.clone(), Framing::Copy);
        let rows = Rows::new(mapping.tables().len());
        Self { mapping, encoder, rows, counter: LeftCounter::default(), tried: Tried::default() }
    }

    /// Tests one document.
    pub fn observe(&mut self, document: &RawDocument) {
        let Self { mapping, encoder, rows, counter, tried } = self;
        tried.documents += 1;
        rows.clear();
        if let Err(unfit) = encoder.encode(document, rows) {
            tried.dead += 1;
            tried.stops |= unfit.stops;
            tried.refused.add(&unfit.path, unfit.reason);
            return;
        }
        tried.row_bytes += u64::try_from(rows.byte_len()).unwrap_or(0);
        counter.left.clear();
        counter.path.clear();
        // In document mode the whole document is in one column.
        let walked = match mapping.document() {
            Some(_) => Ok(()),
            None => counter.object(mapping, &mapping.root, document.as_bytes(), 0),
        };
        if walked.is_ok() && counter.left.is_empty() {
            tried.whole += 1;
        }
        for (path, why) in counter.left.drain(..) {
            tried.left.add(&path, why);
        }
    }

    /// The result.
    pub fn tried(self) -> Tried {
        self.tried
    }
}

/// Finds the values of one document that are not in a column.
#[derive(Debug, Default)]
struct LeftCounter {
    left: Vec<(String, Left)>,
    path: String,
    column: BytesMut,
    json: JsonWriter,
}

impl LeftCounter {
    fn object(&mut self, mapping: &Mapping, object: &MappedObject, doc: &[u8], at: usize) -> Read<()> {
        let mut elements = BsonElements::at(doc, at)?;
        while let Some(element) = elements.advance(doc)? {
            let name = doc.get(element.name.0..=element.name.1).ok_or(EncodeFault::Malformed)?;
            let before = self.path.len();
            if before > 0 {
                self.path.push('.');
            }
            self.path.push_str(&String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)));
            let value = ValueAt { doc, kind: element.kind, at: element.at };
            match object.find(name) {
                Some((_, field)) => self.field(mapping, field, value)?,
                None => self.unmapped(value)?,
            }
            self.path.truncate(before);
        }
        Ok(())
    }

    fn field(&mut self, mapping: &Mapping, field: &MappedField, value: ValueAt<'_>) -> Read<()> {
        match &field.node {
            // A masked or omitted value goes nowhere else.
            _ if field.hidden => Ok(()),
            MappedNode::Column => {
                let plan = mapping.plans.get(field.slot.table);
                let column = plan.and_then(|plan| plan.columns.get(field.slot.slot));
                column.map_or(Ok(()), |column| self.column(column, value))
            }
            node => self.node(mapping, node, value),
        }
    }

    fn column(&mut self, column: &PlannedColumn, value: ValueAt<'_>) -> Read<()> {
        self.column.clear();
        if value.kind != NULL
            && value::column(&mut self.column, column.ty, value, &mut self.json)? == Fit::Misfit
        {
            self.left.push((self.path.clone(), Left::Misfit(type_name(value.kind))));
        }
        Ok(())
    }

    fn node(&mut self, mapping: &Mapping, node: &MappedNode, value: ValueAt<'_>) -> Read<()> {
        let ValueAt { doc, kind, at } = value;
        match node {
            MappedNode::Key | MappedNode::Column | MappedNode::Omitted => Ok(()),
            node if !node.is_mapped() => self.unmapped(value),
            MappedNode::Object(object) if kind == DOCUMENT => self.object(mapping, object, doc, at),
            MappedNode::Array(inner) if kind == ARRAY => {
                let before = self.path.len();
                self.path.push_str("[]");
                let mut elements = BsonElements::at(doc, at)?;
                while let Some(element) = elements.advance(doc)? {
                    self.node(mapping, inner, ValueAt { doc, kind: element.kind, at: element.at })?;
                }
                self.path.truncate(before);
                Ok(())
            }
            node if node.is_bare(doc, kind, at)? => Ok(()),
            _ => {
                self.left.push((self.path.clone(), Left::Misfit(type_name(kind))));
                Ok(())
            }
        }
    }

    /// Null, and empty values, have no place of their own anyway.
    fn unmapped(&mut self, ValueAt { doc, kind, at }: ValueAt<'_>) -> Read<()> {
        let telling = match kind {
            NULL => false,
            DOCUMENT | ARRAY => !BsonElements::at(doc, at)?.is_empty(),
            _ => true,
        };
        if telling {
            self.left.push((self.path.clone(), Left::Unmapped(type_name(kind))));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ::bson::{Document, RawDocumentBuf, doc};

    use super::*;
    use crate::schema::MappingSpec;

    const MAPPING: &str = "collection = 'shop.orders'\ntable = 'orders'\nextra = '_extra'\nomit = ['secret']\n\n\
        [key]\ncolumn = 'id'\ntype = 'bigint'\n\n[columns]\nn = { path = 'n', type = 'bigint' }\n\
        city = { path = 'address.city', type = 'text' }\nmail = { path = 'mail', type = 'text', mask = 'redact' }\n\n\
        [[tables]]\ntable = 'lines'\npath = 'lines[]'\nparent = 'id'\nordinals = ['line']\n\
        columns = { qty = { path = 'qty', type = 'bigint' } }\n";

    fn tried(mapping: &str, documents: &[Document]) -> Tried {
        let spec = MappingSpec::parse(mapping, "orders.toml").unwrap();
        let mut trial = Trial::new(Arc::new(Mapping::compile(&spec)));
        for document in documents {
            trial.observe(&RawDocumentBuf::try_from(document).unwrap());
        }
        trial.tried()
    }

    #[test]
    fn misfits_are_counted_by_path_and_type() {
        let lines = |qty: &str| doc! { "_id": 1, "lines": [{ "qty": 1 }, { "qty": qty }, "x", null] };
        let found = tried(
            MAPPING,
            &[
                doc! { "_id": 1, "n": 1, "address": { "city": "Turin" }, "mail": 7, "secret": "s", "lines": [] },
                doc! { "_id": 2, "n": "1", "address": "Turin" },
                doc! { "_id": 3, "n": 1.5, "address": { "city": null, "zip": 1 } },
                lines("two"),
                lines("three"),
                doc! { "_id": 4, "new": "x", "empty": {}, "none": null },
            ],
        );
        assert_eq!((found.documents, found.whole, found.dead), (6, 1, 0));
        let counts = found.left.counts();
        let count =
            |path, why| counts.iter().find(|(at, is, _)| (*at, *is) == (path, why)).map(|found| found.2);
        assert_eq!(count("n", Left::Misfit("string")), Some(1));
        assert_eq!(count("n", Left::Misfit("double")), Some(1));
        assert_eq!(count("address", Left::Misfit("string")), Some(1));
        assert_eq!(count("address.zip", Left::Unmapped("int")), Some(1));
        assert_eq!(count("lines[].qty", Left::Misfit("string")), Some(2));
        assert_eq!(count("lines[]", Left::Misfit("string")), Some(2));
        assert_eq!(count("new", Left::Unmapped("string")), Some(1));
        assert_eq!(counts.len(), 7, "{counts:?}");
        assert!(found.row_bytes > 0);
    }

    #[test]
    fn dead_letters_are_counted_by_path_and_reason() {
        let strict = MAPPING.replace("extra = '_extra'", "extra = '_extra'\non_unfit = 'dead_letter'");
        let found = tried(
            &strict,
            &[
                doc! { "_id": "x" },
                doc! { "_id": 1, "n": "x" },
                doc! { "_id": 2, "n": "y" },
                doc! { "_id": 3 },
            ],
        );
        assert_eq!((found.documents, found.whole, found.dead), (4, 1, 3));
        let refused = found.refused.counts();
        assert_eq!(
            refused.iter().map(|(path, _, count)| (*path, *count)).collect::<Vec<_>>(),
            [("n", 2), ("_id", 1)]
        );
    }

    /// Paths may be data: memory is bounded.
    #[test]
    fn paths_are_bounded() {
        let many: Document = (0..2000).map(|i| (format!("f{i}"), i.into())).collect();
        let found = tried(MAPPING, &[doc! { "_id": 1 }.into_iter().chain(many).collect()]);
        assert_eq!((found.left.counts().len(), found.left.others), (MAX_PATHS, 2000 - MAX_PATHS as u64));
    }
}
