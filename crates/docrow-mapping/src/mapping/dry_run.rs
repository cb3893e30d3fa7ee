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
    bson::{ARRAY, BsonElements, DOCUMENT, EncodeFault, EncodeResult, NULL, ValueAt, type_name},
    compile::{MappedField, MappedNode, MappedObject, Mapping, PlannedColumn},
    encode::Encoder,
    extended_json_write::JsonWriter,
    rows::{Framing, Rows},
    value::{self, ValueFit},
};
use crate::shown;

/// How many different paths are distinguished, of each kind.
const MAX_PATHS: usize = 300;

/// Tests documents. Holds at most one document's rows.
#[derive(Debug)]
pub struct DryRun {
    mapping: Arc<Mapping>,
    encoder: Encoder,
    rows: Rows,
    counter: LeftCounter,
    result: DryRunResult,
}

/// The result.
#[derive(Clone, Debug, Default)]
pub struct DryRunResult {
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
    pub left: PathTally<NotInColumn>,
    /// Why documents can't have rows, by path and reason.
    pub refused: PathTally<&'static str>,
}

/// Why a value is not in a column, and its BSON type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotInColumn {
    /// It does not fit its column, or is no object or array although there are tables for one.
    Misfit(&'static str),
    /// No column and no table is mapped to its field.
    Unmapped(&'static str),
}

/// Counts by path. An array's elements have the path `lines[]`.
#[derive(Clone, Debug)]
pub struct PathTally<T> {
    counts: BTreeMap<(String, T), u64>,
    /// How many more there were, at other paths.
    pub others: u64,
}

impl<T> Default for PathTally<T> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), others: 0 }
    }
}

impl<T: Ord + Copy> PathTally<T> {
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

impl DryRun {
    /// A dry run of `mapping`.
    pub fn new(mapping: Arc<Mapping>) -> Self {
        let encoder = Encoder::new(mapping.clone(), Framing::Copy);
        let rows = Rows::new(mapping.tables().len());
        Self { mapping, encoder, rows, counter: LeftCounter::default(), result: DryRunResult::default() }
    }

    /// Tests one document.
    pub fn observe(&mut self, document: &RawDocument) {
        let Self { mapping, encoder, rows, counter, result } = self;
        result.documents += 1;
        rows.clear();
        if let Err(unfit) = encoder.encode(document, rows) {
            result.dead += 1;
            result.stops |= unfit.stops;
            result.refused.add(&unfit.path, unfit.reason);
            return;
        }
        result.row_bytes += u64::try_from(rows.byte_len()).unwrap_or(0);
        counter.left.clear();
        counter.path.clear();
        // In document mode the whole document is in one column.
        let walked = match mapping.document() {
            Some(_) => Ok(()),
            None => counter.object(mapping, &mapping.root, document.as_bytes(), 0),
        };
        if walked.is_ok() && counter.left.is_empty() {
            result.whole += 1;
        }
        for (path, why) in counter.left.drain(..) {
            result.left.add(&path, why);
        }
    }

    /// The result.
    pub fn result(self) -> DryRunResult {
        self.result
    }
}

/// Finds the values of one document that are not in a column.
#[derive(Debug, Default)]
struct LeftCounter {
    left: Vec<(String, NotInColumn)>,
    path: String,
    column: BytesMut,
    json: JsonWriter,
}

impl LeftCounter {
    fn object(
        &mut self,
        mapping: &Mapping,
        object: &MappedObject,
        doc: &[u8],
        at: usize,
    ) -> EncodeResult<()> {
        let mut elements = BsonElements::at(doc, at)?;
        while let Some(element) = elements.advance(doc)? {
            let name = doc.get(element.name.start..=element.name.end).ok_or(EncodeFault::Malformed)?;
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

    fn field(&mut self, mapping: &Mapping, field: &MappedField, value: ValueAt<'_>) -> EncodeResult<()> {
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

    fn column(&mut self, column: &PlannedColumn, value: ValueAt<'_>) -> EncodeResult<()> {
        self.column.clear();
        if value.kind != NULL
            && value::column(&mut self.column, column.ty, value, &mut self.json)? == ValueFit::Misfit
        {
            self.left.push((self.path.clone(), NotInColumn::Misfit(type_name(value.kind))));
        }
        Ok(())
    }

    fn node(&mut self, mapping: &Mapping, node: &MappedNode, value: ValueAt<'_>) -> EncodeResult<()> {
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
                self.left.push((self.path.clone(), NotInColumn::Misfit(type_name(kind))));
                Ok(())
            }
        }
    }

    /// Null, and empty values, have no place of their own anyway.
    fn unmapped(&mut self, ValueAt { doc, kind, at }: ValueAt<'_>) -> EncodeResult<()> {
        let telling = match kind {
            NULL => false,
            DOCUMENT | ARRAY => !BsonElements::at(doc, at)?.is_empty(),
            _ => true,
        };
        if telling {
            self.left.push((self.path.clone(), NotInColumn::Unmapped(type_name(kind))));
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

    fn dry_run(mapping: &str, documents: &[Document]) -> DryRunResult {
        let spec = MappingSpec::parse(mapping, "orders.toml").unwrap();
        let mut dry_run = DryRun::new(Arc::new(Mapping::compile(&spec)));
        for document in documents {
            dry_run.observe(&RawDocumentBuf::try_from(document).unwrap());
        }
        dry_run.result()
    }

    #[test]
    fn misfits_are_counted_by_path_and_type() {
        let lines = |qty: &str| doc! { "_id": 1, "lines": [{ "qty": 1 }, { "qty": qty }, "x", null] };
        let found = dry_run(
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
        assert_eq!(count("n", NotInColumn::Misfit("string")), Some(1));
        assert_eq!(count("n", NotInColumn::Misfit("double")), Some(1));
        assert_eq!(count("address", NotInColumn::Misfit("string")), Some(1));
        assert_eq!(count("address.zip", NotInColumn::Unmapped("int")), Some(1));
        assert_eq!(count("lines[].qty", NotInColumn::Misfit("string")), Some(2));
        assert_eq!(count("lines[]", NotInColumn::Misfit("string")), Some(2));
        assert_eq!(count("new", NotInColumn::Unmapped("string")), Some(1));
        assert_eq!(counts.len(), 7, "{counts:?}");
        assert!(found.row_bytes > 0);
    }

    #[test]
    fn dead_letters_are_counted_by_path_and_reason() {
        let strict = MAPPING.replace("extra = '_extra'", "extra = '_extra'\non_unfit = 'dead_letter'");
        let found = dry_run(
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
        let found = dry_run(MAPPING, &[doc! { "_id": 1 }.into_iter().chain(many).collect()]);
        assert_eq!((found.left.counts().len(), found.left.others), (MAX_PATHS, 2000 - MAX_PATHS as u64));
    }
}
