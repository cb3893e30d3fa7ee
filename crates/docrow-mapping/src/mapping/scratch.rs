//! The memory of an encoder, kept from document to document.

use bytes::BytesMut;

use super::{
    bson::ValueSlot,
    compile::Mapping,
    extended_json_write::JsonWriter,
    extra::ExtraNotes,
    mask::ValueMasker,
    reclaim::{clear, clear_bytes},
    trail::TrailStep,
    unknown_fields::FieldWatch,
};

/// The memory of an encoder.
#[derive(Debug, Default)]
pub(super) struct EncoderMemory {
    /// The slots of each table's open row.
    pub(super) slots: Vec<Vec<ValueSlot>>,
    /// The path from the document to the current place of the walk.
    pub(super) trail: Vec<TrailStep>,
    /// The rest of the path to the faulty value, if it is in a column.
    pub(super) culprit: BytesMut,
    /// The indexes of the arrays on that path.
    pub(super) ordinals: Vec<i64>,
    /// The key column's bytes.
    pub(super) key: BytesMut,
    pub(super) notes: ExtraNotes,
    pub(super) watch: Option<FieldWatch>,
    /// How many values did not fit, and are noted; of all documents, until they are fetched.
    pub(super) misfits: u64,
    pub(super) masker: ValueMasker,
    pub(super) json: JsonWriter,
    /// In document mode, the document without its omitted fields.
    pub(super) whole: Vec<u8>,
}

impl EncoderMemory {
    pub(super) fn new(mapping: &Mapping) -> Self {
        let slots = mapping.plans.iter().map(|plan| vec![ValueSlot::default(); plan.slots]).collect();
        Self { slots, ..Self::default() }
    }

    pub(super) fn clear(&mut self) {
        clear(&mut self.trail);
        self.culprit.clear();
        clear(&mut self.ordinals);
        clear_bytes(&mut self.key);
        self.notes.clear();
        if let Some(watch) = &mut self.watch {
            watch.discovered = false;
        }
    }
}
