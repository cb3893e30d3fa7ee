//! The encoder: documents in, rows out. It owns the memory that [`super::walk`] works with, and ensures that
//! a document that can't have rows leaves nothing in any buffer.

use std::{fmt, sync::Arc};

use ::bson::RawDocument;
use bytes::BytesMut;

use super::{
    bson::{EncodeFault, ValueAt, ValueSlot, first_key},
    compile::Mapping,
    key_column,
    rows::{Framing, Rows},
    scratch::EncoderMemory,
    trail::render_trail,
    walk::walk,
};
use crate::{schema::OnUnfit, shown};

/// Why a document can't have rows at all: it must be kept whole, as a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// The field, in dotted notation; empty for the document itself.
    pub path: String,
    /// What is wrong with it. Never a value.
    pub reason: &'static str,
    /// Whether the mapping requires that the collection stops, instead of keeping the document as a dead
    /// letter.
    pub stops: bool,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(self.reason)
        } else {
            write!(f, "{}: {}", shown::name(&self.path), self.reason)
        }
    }
}

impl std::error::Error for EncodeError {}

/// Encodes documents into rows. One per task: it owns the scratch memory, and in the steady state allocates
/// nothing.
#[derive(Debug)]
pub struct Encoder {
    mapping: Arc<Mapping>,
    framing: Framing,
    scratch: EncoderMemory,
    /// The length of each buffer before the document.
    marks: Vec<(usize, usize)>,
}

impl Encoder {
    /// An encoder of `mapping` that lays rows out by `framing`.
    pub fn new(mapping: Arc<Mapping>, framing: Framing) -> Self {
        let scratch = EncoderMemory::new(&mapping);
        Self { mapping, framing, scratch, marks: Vec::new() }
    }

    /// From now on watches for unmapped fields: see [`Encoder::discovered`].
    pub fn watch(&mut self) {
        self.scratch.watch.get_or_insert_default();
    }

    /// Whether the document encoded last has something that this encoder has not met before and that a newer
    /// mapping could place: an unmapped field that is neither null nor empty, or a fraction in a `bigint`
    /// column. Never, if it does not [watch](Encoder::watch).
    pub fn discovered(&self) -> bool {
        self.scratch.watch.as_ref().is_some_and(|watch| watch.discovered)
    }

    /// How many values of the documents encoded since the last call did not fit their column or table, and
    /// are kept in `extra`.
    pub fn take_misfits(&mut self) -> u64 {
        std::mem::take(&mut self.scratch.misfits)
    }

    /// Appends the rows of `document` to `rows`, which has one buffer for each table of the mapping. On an
    /// error nothing is appended.
    pub fn encode(&mut self, document: &RawDocument, rows: &mut Rows) -> Result<(), EncodeError> {
        let Self { mapping, framing, scratch, marks } = self;
        let doc = document.as_bytes();
        debug_assert_eq!(rows.tables.len(), mapping.plans.len());
        let misfits = scratch.misfits;
        marks.clear();
        marks.extend(rows.tables.iter().map(|table| (table.bytes.len(), table.count)));
        let walked = walk(mapping, *framing, doc, scratch, rows);
        walked.map_err(|fault| {
            for (table, &(bytes, count)) in rows.tables.iter_mut().zip(&*marks) {
                table.bytes.truncate(bytes);
                table.count = count;
            }
            scratch.misfits = misfits;
            let mut path = BytesMut::new();
            render_trail(&mut path, doc, &scratch.trail);
            if !path.is_empty() && !scratch.culprit.is_empty() {
                path.extend_from_slice(b".");
            }
            path.extend_from_slice(&scratch.culprit);
            unfit(mapping, String::from_utf8_lossy(&path).into_owned(), fault)
        })
    }

    /// Appends the key column's bytes for the `_id` of a document, or of an event's `documentKey`, to `out`,
    /// without a length, in PostgreSQL's binary form of [`Mapping::key_type`]. On an error nothing is
    /// appended.
    pub fn encode_key(&mut self, document: &RawDocument, out: &mut BytesMut) -> Result<(), EncodeError> {
        let (doc, json) = (document.as_bytes(), &mut self.scratch.json);
        let start = out.len();
        let encoded = first_key(doc).and_then(|ValueSlot { kind, at }| {
            key_column::key(out, self.mapping.key_type(), ValueAt { doc, kind, at }, json)
        });
        encoded.map(|_| ()).map_err(|fault| {
            out.truncate(start);
            unfit(&self.mapping, String::new(), fault)
        })
    }
}

fn unfit(mapping: &Mapping, path: String, fault: EncodeFault) -> EncodeError {
    let path = if matches!(fault, EncodeFault::KeyMisfit | EncodeFault::KeyTooLong) {
        "_id".to_owned()
    } else {
        path
    };
    EncodeError { path, reason: fault.reason(), stops: mapping.on_unfit == OnUnfit::Fail }
}
