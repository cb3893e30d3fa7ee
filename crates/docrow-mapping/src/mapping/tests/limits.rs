//! Documents as deep and as wide as BSON allows, deeper and wider than MongoDB accepts: no stack overflows,
//! and time and memory grow with the size alone.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Far more than any of these needs, and far less than quadratic growth would need.
const SOON: Duration = Duration::from_secs(30);

/// Elements between the length and the terminator, which all documents have.
fn framed(elements: &[u8]) -> Vec<u8> {
    [&u32::try_from(elements.len() + 5).unwrap().to_le_bytes(), elements, b"\0"].concat()
}

fn document(elements: &[u8]) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(framed(&[b"\x10_id\0\x01\0\0\0", elements].concat())).unwrap()
}

/// A document in which `kinds` nest in rotation, this many levels deep.
fn deep(levels: usize, kinds: &[u8], name: &str) -> RawDocumentBuf {
    // The innermost is not empty.
    let core = b"\x10x\0\x05\0\0\0";
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    // From the inside out: the length of each level includes all levels within it.
    let mut length = core.len();
    for level in (0..levels).rev() {
        let kind = kinds[level % kinds.len()];
        let name = if level == 0 { name } else { "0" };
        let code: &[u8] = if kind == bson::CODE_WITH_SCOPE { b"\x01\0\0\0\0" } else { b"" };
        length += 5;
        let mut start = [&[kind][..], name.as_bytes(), b"\0"].concat();
        if !code.is_empty() {
            start.extend_from_slice(&u32::try_from(length + 4 + code.len()).unwrap().to_le_bytes());
            start.extend_from_slice(code);
        }
        start.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        length += start.len() - 4;
        start.reverse();
        head.extend_from_slice(&start);
        tail.push(0);
    }
    head.reverse();
    document(&[head, core.to_vec(), tail].concat())
}

/// Mappings that note it, split it into columns, hold it, and omit a part of it.
fn mappings() -> Vec<Arc<Mapping>> {
    let extra = "extra = \"_extra\"";
    let hidden = format!("{extra}\nomit = [\"o.p.gone\", \"m[].gone\", \"u.u.u.gone\", \"f7\"]");
    let json = "[columns]\no = { path = \"o\", type = \"jsonb\" }\nu = { path = \"u\", type = \"jsonb[]\" }\n\
        f7 = { path = \"f7\", type = \"integer\" }";
    vec![
        mapping(NESTED),
        mapping(json),
        mapped(&hidden, "bigint", ""),
        mapped(extra, "text", "[document]"),
        mapped(extra, "text", "[document]\njson = \"canonical\""),
        mapped(&hidden, "text", "[document]"),
    ]
}

/// Everything that can be done with a document, on a thread with a small stack. Returns whether each
/// mapping's rows rebuilt the document; none if it is too deep.
fn all_of_it(document: RawDocumentBuf) -> Vec<Option<bool>> {
    all_under(mappings(), document)
}

/// To save time, under three mappings: one made by hand, one for whole documents, and the document's own.
fn some_of_it(document: RawDocumentBuf) -> Vec<Option<bool>> {
    all_under(mappings().into_iter().step_by(3).collect(), document)
}

fn all_under(mappings: Vec<Arc<Mapping>>, document: RawDocumentBuf) -> Vec<Option<bool>> {
    let work = move || {
        let mut sample = Sample::new();
        sample.observe(&document);
        let spec = sample.spec(&Namespace::new("a", "t"), &mut Names::new());
        let sampled = Arc::new(Mapping::compile(&spec));
        let rebuilt = |mapping: &Arc<Mapping>| {
            let started = Instant::now();
            let mut rows = Rows::new(mapping.tables().len());
            Encoder::new(Arc::clone(mapping), Framing::Copy).encode(&document, &mut rows).unwrap();
            mapping.censored(&document).unwrap();
            let rebuilt = Rebuilder::new(mapping).document(&rows);
            assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
            // These documents may differ only in the order of their fields.
            let all = |rebuilt: RawDocumentBuf| rebuilt.as_bytes().len() == document.as_bytes().len();
            rebuilt.ok().map(|rebuilt| mapping.root.guarded || all(rebuilt))
        };
        mappings.iter().chain([&sampled]).map(rebuilt).collect()
    };
    thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap()
}

/// As deep as MongoDB accepts.
#[test]
fn deep_documents_come_back() {
    for name in ["o", "m", "u"] {
        for kinds in [&[bson::DOCUMENT][..], &[bson::ARRAY], &[bson::CODE_WITH_SCOPE], &[4, 3]] {
            assert_eq!(all_of_it(deep(200, kinds, name)), [Some(true); 7], "{name} {kinds:?}");
        }
    }
}

#[test]
fn deeper_documents_overflow_no_stack() {
    for name in ["o", "m", "u"] {
        for kinds in [&[bson::DOCUMENT][..], &[bson::ARRAY], &[bson::CODE_WITH_SCOPE], &[4, 3]] {
            all_of_it(deep(10_000, kinds, name));
        }
    }
}

/// 16 MB of fields that are in no mapping.
#[test]
fn a_million_fields_come_back() {
    let field = |i: u32| [b"\x10", format!("f{i}").as_bytes(), b"\0\x05\0\0\0"].concat();
    let fields = |count| (0..count).flat_map(field).collect::<Vec<_>>();
    let object = [b"\x03u\0", &framed(&fields(100_000))[..]].concat();
    assert_eq!(all_of_it(document(&object)), [Some(true); 7]);
    assert_eq!(some_of_it(document(&fields(1_000_000))), [Some(true); 3]);
}

#[test]
fn a_million_elements_come_back() {
    let element =
        |i: u32| [b"\x03", format!("{i}").as_bytes(), b"\0", &framed(b"\x10x\0\x05\0\0\0")].concat();
    let elements = framed(&(0..1_000_000).flat_map(element).collect::<Vec<_>>());
    assert_eq!(some_of_it(document(&[b"\x04m\0", &elements[..]].concat())), [Some(true); 3]);
}

/// Trap: duplicate keys are legal on the wire.
#[test]
fn a_hundred_thousand_fields_of_one_name_come_back() {
    for name in ["o", "m", "x", "f8"] {
        let field = |i: u32| [b"\x10", name.as_bytes(), b"\0", &i.to_le_bytes()].concat();
        let rebuilt = all_of_it(document(&(0..100_000).flat_map(field).collect::<Vec<_>>()));
        assert_eq!(rebuilt, [Some(true); 7], "{name}");
    }
}
