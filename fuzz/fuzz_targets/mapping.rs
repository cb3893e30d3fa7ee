//! Any bytes under mappings of every kind. The first byte chooses the mapping, and whether the rest is a
//! document's bytes or what [`grown`] grows one from.

#![no_main]
#[path = "../../tests/it/mapping/any_bytes.rs"]
mod any_bytes;
mod grown;
#[path = "../../tests/it/support/same.rs"]
mod same;
mod seeds;
#[path = "../../src/demo/users/documents.rs"]
mod users;

mod support {
    pub(crate) use crate::same;
}

use libfuzzer_sys::fuzz_target;

/// Set in the first byte, if the rest is not a document itself.
const GROWN: u8 = 0x80;

fuzz_target!(init: seeds::plant(), |data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let number = usize::from(choice & !GROWN);
    if choice & GROWN == 0 {
        any_bytes::check(number, &framed(rest));
    } else {
        any_bytes::check(number, &grown::document(rest));
    }
});

/// The bytes as a document's elements: with the length and the end that all documents have.
fn framed(elements: &[u8]) -> Vec<u8> {
    let length = u32::try_from(elements.len() + 5).unwrap_or_default().to_le_bytes();
    [&length, elements, b"\0"].concat()
}
