//! Values that never leave the process: masked values, and omitted fields.
//!
//! - A masked column holds a keyed hash of its value, or nothing of it. The hash is HMAC-SHA-256 in
//!   hexadecimal: of a string's bytes, of an ObjectId's 24 hexadecimal digits, of anything else's canonical
//!   Extended JSON. So equal strings have equal hashes, in whatever column, and can be joined. Null stays
//!   NULL.
//! - Everything else is written without the document's masked and omitted fields, which are removed according
//!   to the mapping. A value of another kind than mapped, an array instead of an object, can't be separated
//!   like that and might contain such a field anywhere: [`WITHHELD`] replaces it.

use ::bson::RawDocument;
use bytes::BytesMut;

use super::{
    bson::{
        self, ARRAY, BsonElement, BsonElements, DOCUMENT, EncodeFault, EncodeResult, NULL, OBJECT_ID, STRING,
        ValueAt,
    },
    compile::{MappedNode, MappedObject, Mapping, PlannedColumn},
    extended_json_values,
    extended_json_write::JsonWriter,
    mask_key::MaskKey,
    reclaim::clear_bytes,
    value::ValueFit,
};
use crate::{model::table::Scalar, schema::Mask};

/// What remains of a redacted text.
const REDACTED: &[u8] = b"***";

/// The document `{"$docrow": {"withheld": true}}`.
const WITHHELD: &[u8] = b"\x1e\0\0\0\x03$docrow\0\x10\0\0\0\x08withheld\0\x01\0\0";

/// Memory for the text of a value that is hashed.
#[derive(Debug, Default)]
pub(super) struct ValueMasker {
    text: BytesMut,
}

impl ValueMasker {
    /// Appends the bytes of a masked column, or reports that it is NULL.
    pub(super) fn column(
        &mut self,
        out: &mut BytesMut,
        column: &PlannedColumn,
        key: Option<&MaskKey>,
        ValueAt { doc, kind, at }: ValueAt<'_>,
        json: &mut JsonWriter,
    ) -> EncodeResult<ValueFit> {
        let text = column.ty.scalar == Scalar::Text && !column.ty.array;
        if !text || kind == NULL {
            return Ok(ValueFit::Misfit);
        }
        match (column.mask, key) {
            (Some(Mask::Redact), _) => out.extend_from_slice(REDACTED),
            (Some(Mask::Sha256), Some(key)) => match kind {
                STRING => key.hash(out, bson::text(doc, at)?),
                _ => {
                    match kind {
                        OBJECT_ID => {
                            extended_json_values::hex(&mut self.text, &bson::array_at::<12>(doc, at)?)
                        }
                        _ => json.write(&mut self.text, doc, kind, at)?,
                    }
                    key.hash(out, &self.text);
                    clear_bytes(&mut self.text);
                }
            },
            (Some(Mask::Sha256), None) | (None, _) => return Ok(ValueFit::Misfit),
        }
        Ok(ValueFit::Exact)
    }
}

impl Mapping {
    /// The document without its masked and omitted fields: the part of a document without rows that may be
    /// kept. None if its bytes are no BSON, so that it is unknown where such a field is.
    pub fn censored(&self, document: &RawDocument) -> Option<Vec<u8>> {
        let doc = document.as_bytes();
        if !self.root.guarded {
            return Some(doc.to_vec());
        }
        let mut out = Vec::with_capacity(doc.len());
        censored_object(&self.root, doc, 0, &mut out).is_ok().then_some(out)
    }
}

/// What remained of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueRemainder {
    /// Everything that is not hidden.
    Everything,
    /// Parts of it were withheld.
    Parts,
    /// It was withheld itself.
    Nothing,
}

/// Appends a value without its hidden parts; a document that reports it, if they can't be separated.
pub(super) fn censored(
    node: &MappedNode,
    value: ValueAt<'_>,
    out: &mut Vec<u8>,
) -> EncodeResult<ValueRemainder> {
    let ValueAt { doc, kind, at } = value;
    match node {
        _ if kind == NULL => Ok(ValueRemainder::Everything),
        MappedNode::Object(object) if kind == DOCUMENT => censored_object(object, doc, at, out),
        MappedNode::Array(element) if kind == ARRAY => members(doc, at, out, |_| MemberAction::Open(element)),
        _ => {
            out.extend_from_slice(WITHHELD);
            Ok(ValueRemainder::Nothing)
        }
    }
}

/// As deep as the mapping's paths, not as the document.
pub(super) fn censored_object(
    object: &MappedObject,
    doc: &[u8],
    at: usize,
    out: &mut Vec<u8>,
) -> EncodeResult<ValueRemainder> {
    members(doc, at, out, |name| match object.find(name) {
        Some((_, field)) if field.hidden => MemberAction::Drop,
        Some((_, field)) if field.node.is_guarded() => MemberAction::Open(&field.node),
        _ => MemberAction::Copy,
    })
}

enum MemberAction<'a> {
    Copy,
    Drop,
    Open(&'a MappedNode),
}

/// Appends a document or an array, with each member treated by its name, which ends with its NUL.
fn members<'a>(
    doc: &[u8],
    at: usize,
    out: &mut Vec<u8>,
    action: impl Fn(&[u8]) -> MemberAction<'a>,
) -> EncodeResult<ValueRemainder> {
    let mut elements = BsonElements::at(doc, at)?;
    let mut whole = ValueRemainder::Everything;
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    while let Some(BsonElement { kind, name, at }) = elements.advance(doc)? {
        let name = doc.get(name.start..=name.end).ok_or(EncodeFault::Malformed)?;
        let action = action(name);
        if matches!(action, MemberAction::Drop) {
            continue;
        }
        let kind_at = out.len();
        out.push(kind);
        out.extend_from_slice(name);
        let MemberAction::Open(node) = action else {
            out.extend_from_slice(doc.get(at..elements.next).ok_or(EncodeFault::Malformed)?);
            continue;
        };
        match censored(node, ValueAt { doc, kind, at }, out)? {
            ValueRemainder::Everything => continue,
            ValueRemainder::Parts => {}
            ValueRemainder::Nothing => {
                if let Some(kind) = out.get_mut(kind_at) {
                    *kind = DOCUMENT;
                }
            }
        }
        whole = ValueRemainder::Parts;
    }
    out.push(0);
    let length = i32::try_from(out.len() - start).map_err(|_| EncodeFault::TooLong)?;
    if let Some(room) = out.get_mut(start..start + 4) {
        room.copy_from_slice(&length.to_le_bytes());
    }
    Ok(whole)
}
