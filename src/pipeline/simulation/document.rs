//! Documents, as versions of a few fields, and the events that writes to them cause.
//!
//! Whatever decides about patches is the program's own ([`partial_update`](crate::model::partial_update)),
//! and sees ordinary documents. One of the fields is mostly written by a dotted path, and one has a dot in
//! its name.

use fastrand::Rng;
use mongodb::bson::{
    RawArrayBuf, RawDocument, RawDocumentBuf,
    raw::{CStr, cstr},
    rawdoc,
};

use crate::model::{change::Op, partial_update::Patch};

/// The names of the fields.
pub(super) const FIELD_NAMES: [&CStr; 4] = [cstr!("a"), cstr!("b"), cstr!("c"), cstr!("d.e")];

/// The version of each field. Zero: the field is missing. No other version is ever written twice.
pub(super) type FieldVersions = [i32; FIELD_NAMES.len()];

/// The state of a document or a row. `None`: it does not exist.
pub(super) type DocumentState = Option<FieldVersions>;

/// Builds the document with these fields.
pub(super) fn document(key: &RawDocument, fields: &FieldVersions) -> RawDocumentBuf {
    let mut document = key.to_owned();
    let there = FIELD_NAMES.iter().zip(fields).filter(|(_, version)| **version > 0);
    there.for_each(|(name, version)| document.append(name, *version));
    document
}

/// The fields of a document.
pub(super) fn fields_of(document: &RawDocument) -> FieldVersions {
    FIELD_NAMES.map(|name| document.get_i32(name).unwrap_or(0))
}

/// All fields that are in use, each of this version.
pub(super) fn fields_of_version(version: i32, used: usize) -> FieldVersions {
    std::array::from_fn(|number| if number < used { version } else { 0 })
}

/// Writes `version` to some of the first `used` fields of a document, or deletes it. Returns the operation in
/// the event, and the new state.
pub(super) fn write(
    rng: &mut Rng,
    key: &RawDocument,
    before: DocumentState,
    version: i32,
    used: usize,
) -> (Op, DocumentState) {
    let Some(fields) = before else { return replace(rng, key, version, used) };
    match rng.u8(..10) {
        0 | 1 => replace(rng, key, version, used),
        2 | 3 => (Op::Delete, None),
        _ => update(rng, key, fields, version, used),
    }
}

fn replace(rng: &mut Rng, key: &RawDocument, version: i32, used: usize) -> (Op, DocumentState) {
    let all = fields_of_version(version, used);
    let often = [4, 4, 4, 1];
    let fields = std::array::from_fn(|number| if rng.u8(..5) < often[number] { all[number] } else { 0 });
    (Op::Whole(document(key, &fields)), Some(fields))
}

fn update(
    rng: &mut Rng,
    key: &RawDocument,
    mut fields: FieldVersions,
    version: i32,
    used: usize,
) -> (Op, DocumentState) {
    let (mut updated, mut removed) = (RawDocumentBuf::new(), RawArrayBuf::new());
    let one = rng.usize(..used.min(3));
    for (number, (name, field)) in FIELD_NAMES.iter().zip(&mut fields).enumerate().take(used) {
        let rarity = if number < 3 { 4 } else { 16 };
        if number != one && rng.u8(..rarity) > 0 {
            continue;
        }
        if *field > 0 && rng.u8(..6) == 0 {
            *field = 0;
            removed.push(name.as_str());
        } else {
            let is_nested = *name == cstr!("c") && *field > 0;
            updated.append(if is_nested { cstr!("c.x") } else { name }, version);
            *field = version;
        }
    }
    let description = rawdoc! { "updatedFields": updated, "removedFields": removed };
    let patch = Patch::of_event(&description, key).filter(|_| rng.u8(..8) > 0);
    (patch.map_or(Op::Update, Op::Patch), Some(fields))
}

/// A state as the story shows it.
pub(super) fn shorthand(state: DocumentState) -> String {
    let Some(fields) = state else { return "gone".to_owned() };
    let there = FIELD_NAMES.iter().zip(fields).filter(|(_, version)| *version > 0);
    there.map(|(name, version)| format!("{}{version}", name.as_str())).collect::<Vec<_>>().join(",")
}
