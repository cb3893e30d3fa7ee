//! Detects unmapped data: fields that no column and no table has, and a fraction in a column of whole
//! numbers. Each is reported once; memory is bounded, so that field names that are data cost nothing in the
//! end.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    bson::{ARRAY, BsonElements, DOCUMENT, DOUBLE, EncodeResult, NULL, ValueAt},
    compile::PlannedColumn,
};
use crate::model::table::Scalar;

/// How many discoveries one encoder makes. Later ones are for its successor, which has a newer mapping.
const MAX_SEEN: usize = 4096;

/// The discoveries.
#[derive(Debug, Default)]
pub(super) struct FieldWatch {
    /// Hashes, sorted.
    seen: Vec<u64>,
    /// Whether the current document has something new.
    pub(super) discovered: bool,
}

impl FieldWatch {
    /// A field that the object numbered `object` has and the mapping has not. Null and empty values mean
    /// nothing.
    pub(super) fn field(
        &mut self,
        object: u32,
        name: &[u8],
        ValueAt { doc, kind, at }: ValueAt<'_>,
    ) -> EncodeResult<()> {
        let telling = match kind {
            NULL => false,
            DOCUMENT | ARRAY => !BsonElements::at(doc, at)?.is_empty(),
            _ => true,
        };
        if telling {
            self.meet(object, name, kind);
        }
        Ok(())
    }

    /// A value that does not fit its column in the table numbered `table`. Only for a fraction among whole
    /// numbers it is known where it would fit.
    pub(super) fn misfit(&mut self, table: usize, column: &PlannedColumn, kind: u8) {
        if kind == DOUBLE && column.ty.scalar == Scalar::Bigint && !column.ty.array {
            let place = u32::try_from(table).map_or(u32::MAX, |table| u32::MAX - table);
            self.meet(place, &column.path, kind);
        }
    }

    fn meet(&mut self, place: u32, name: &[u8], kind: u8) {
        let hash = xxh3_64_with_seed(name, u64::from(place) << 8 | u64::from(kind));
        if let (Err(at), true) = (self.seen.binary_search(&hash), self.seen.len() < MAX_SEEN) {
            self.seen.insert(at, hash);
            self.discovered = true;
        }
    }
}
