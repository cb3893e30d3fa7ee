//! Documents with their bytes flipped, cut and spliced: malformed ones are refused, never a panic.

use docrow::demo::users;
use mongodb::bson::RawDocumentBuf;
use proptest::{prelude::*, sample::Index};

use super::{any_bytes::check, documents::any_document};

/// A modification of bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    /// A length, or a number, that is off by a little.
    Shift(Index, i32),
    Cut(Index, Index),
    Repeat(Index, Index, u8),
    Splice(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let types =
        prop::sample::select(vec![0_u8, 1, 2, 3, 4, 5, 7, 8, 0x0b, 0x0c, 0x0f, 0x10, 0x13, 0x7f, 0xff]);
    let (at, to) = (any::<Index>, any::<Index>);
    prop_oneof![
        (at(), types).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (at(), -9..9_i32).prop_map(|(at, by)| Damage::Shift(at, by)),
        (at(), to()).prop_map(|(from, to)| Damage::Cut(from, to)),
        (at(), to(), 1..4_u8).prop_map(|(from, to, times)| Damage::Repeat(from, to, times)),
        (at(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(at, bytes)| Damage::Splice(at, bytes)),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let end = bytes.len();
        let range = |from: &Index, to: &Index| {
            let (from, to) = (from.index(end + 1), to.index(end + 1));
            from.min(to)..from.max(to)
        };
        match self {
            _ if end == 0 => {}
            Self::Set(at, byte) => bytes[at.index(end)] = *byte,
            Self::Flip(at, bit) => bytes[at.index(end)] ^= 1 << bit,
            Self::Shift(at, by) => {
                if let Some(number) = bytes[at.index(end)..].first_chunk_mut() {
                    *number = i32::from_le_bytes(*number).wrapping_add(*by).to_le_bytes();
                }
            }
            Self::Cut(from, to) => drop(bytes.drain(range(from, to))),
            Self::Repeat(from, to, times) => {
                let range = range(from, to);
                let part = bytes[range.clone()].repeat((*times).into());
                drop(bytes.splice(range.end..range.end, part));
            }
            Self::Splice(at, inserted) => {
                let at = at.index(end + 1);
                drop(bytes.splice(at..at, inserted.iter().copied()));
            }
        }
    }
}

/// The bytes as a document's elements: with the length and the end that all documents have.
fn framed(elements: &[u8]) -> Vec<u8> {
    let length = u32::try_from(elements.len() + 5).unwrap().to_le_bytes();
    [&length, elements, b"\0"].concat()
}

fn elements(document: &RawDocumentBuf) -> Vec<u8> {
    document.as_bytes()[4..document.as_bytes().len() - 1].to_vec()
}

/// Documents whose columns are called as those of the mappings are, and users.
fn document() -> impl Strategy<Value = RawDocumentBuf> {
    const NAMES: &[&str] = &["f0", "f3", "f9", "f21", "f25", "a", "b", "t", "n", "o", "m", "gone"];
    prop_oneof![4 => any_document(NAMES), 1 => any::<i32>().prop_map(|id| users::user(1, id))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Issue: "raw BSON bytes (malformed too): no panic, no unbounded recursion or memory".
    #[test]
    fn damaged_documents_are_encoded_or_refused(
        number: usize,
        document in document(),
        other in document(),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let mut bytes = elements(&document);
        for damage in &damages {
            damage.apply(&mut bytes);
        }
        check(number, &framed(&bytes));
        bytes.truncate(bytes.len() / 2);
        check(number, &framed(&[bytes, elements(&other)].concat()));
    }

    #[test]
    fn noise_is_encoded_or_refused(number: usize, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        check(number, &framed(&[b"\x10_id\0\x01\0\0\0", &noise[..]].concat()));
    }

    /// The same, for documents that are whole.
    #[test]
    fn any_document_is_encoded(number: usize, document in document()) {
        check(number, document.as_bytes());
    }
}
