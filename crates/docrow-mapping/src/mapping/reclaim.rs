//! Scratch memory: emptied for the next document, and given back if one document needed much of it.

use bytes::BytesMut;

/// Scratch memory above this is freed after the document that needed it.
const KEEP: usize = 1 << 20;

/// Empties scratch memory, and frees the excess.
pub(super) fn clear<T>(scratch: &mut Vec<T>) {
    scratch.clear();
    scratch.shrink_to(KEEP / size_of::<T>().max(1));
}

/// The same.
pub(super) fn clear_bytes(scratch: &mut BytesMut) {
    scratch.clear();
    if scratch.capacity() > KEEP {
        *scratch = BytesMut::new();
    }
}
