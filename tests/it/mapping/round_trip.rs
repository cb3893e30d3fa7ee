//! Any document, any mapping, without a server.

use std::sync::Arc;

use docrow::{
    mapping::{Mapping, Rows},
    model::{change::Namespace, table::Scalar},
    schema::{Names, Sample, evolve},
};
use mongodb::bson::RawDocumentBuf;
use proptest::prelude::*;

use super::{compile, documents::any_document, encode, rebuild};
use crate::support::same::difference;

/// Every type, every reading, scalar and array; objects with and without tables, arrays in arrays, arrays in
/// objects in arrays. The fields of the columns are called like their types.
pub(super) fn everything(key: &str) -> String {
    let mut text = format!(
        "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\ntype = \"{key}\"\n[columns]\n"
    );
    for name in COLUMNS {
        let (ty, reading) = name.split_once(", ").unwrap_or((name, ""));
        let reading = if reading.is_empty() { String::new() } else { format!(", bson = \"{reading}\"") };
        let path = name.replace("[]", "\\[]");
        text.push_str(&format!("'c {name}' = {{ path = '{path}', type = '{ty}'{reading} }}\n"));
    }
    text.push_str(TABLES);
    text
}

pub(super) const COLUMNS: &[&str] = &[
    "boolean",
    "integer",
    "bigint",
    "double precision",
    "numeric",
    "text",
    "bytea",
    "uuid",
    "timestamptz",
    "jsonb",
    "boolean[]",
    "integer[]",
    "bigint[]",
    "double precision[]",
    "numeric[]",
    "text[]",
    "bytea[]",
    "uuid[]",
    "timestamptz[]",
    "jsonb[]",
    "integer, long",
    "bigint, long",
    "double precision, number",
    "bigint[], long",
    "double precision[], number",
];

const TABLES: &str = r#"
o_x = { path = "o.x", type = "numeric" }
o_o_a = { path = "o.o.a", type = "text" }

[[tables]]
table = "z"
path = "z"
parent = "_id"
columns = { x = { path = "x", type = "bigint" }, o_x = { path = "o.x", type = "text" } }

[[tables]]
table = "z_k"
path = "z.k[]"
parent = "_id"
ordinals = ["n"]
columns = { x = { path = "x", type = "text" } }

[[tables]]
table = "m"
path = "m[]"
parent = "_id"
ordinals = ["n"]
columns = { x = { path = "x", type = "double precision", bson = "number" }, o_b = { path = "o.b", type = "text[]" } }

[[tables]]
table = "m_k"
path = "m[].k[]"
parent = "_id"
ordinals = ["n", "n2"]
columns = { x = { path = "x", type = "jsonb" } }

[[tables]]
table = "g_k"
path = "g[][].k[]"
parent = "_id"
ordinals = ["n", "n2", "n3"]
columns = { a = { path = "a", type = "numeric" }, x = { path = "x", type = "boolean" } }
"#;

/// `[document]`, with one form of JSON.
pub(super) fn whole(json: &str) -> String {
    format!(
        "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\ntype = \"text\"\n\
         [document]\ncolumn = \"doc\"\njson = \"{json}\"\n"
    )
}

/// What a sample of these documents is mapped to.
pub(super) fn inferred(documents: &[RawDocumentBuf]) -> String {
    sampled(documents).spec(&Namespace::new("a", "t"), &mut Names::new()).to_toml()
}

fn sampled(documents: &[RawDocumentBuf]) -> Sample {
    let mut sample = Sample::new();
    documents.iter().for_each(|document| sample.observe(document));
    sample
}

/// Encodes and rebuilds; a document may be refused only for its `_id`.
fn check(mapping: &Arc<Mapping>, document: &RawDocumentBuf) -> Result<(), TestCaseError> {
    match encode(mapping, document) {
        Err(unfit) => prop_assert_eq!(unfit.path, "_id"),
        Ok(rows) => same(&rebuild(mapping, &rows), document)?,
    }
    Ok(())
}

fn same(rebuilt: &RawDocumentBuf, document: &RawDocumentBuf) -> Result<(), TestCaseError> {
    match difference(rebuilt.as_bytes(), document.as_bytes()) {
        None => Ok(()),
        Some(difference) => Err(TestCaseError::fail(difference)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// G4: "the document can be rebuilt from its rows".
    #[test]
    fn documents_under_a_mapping_of_everything(document in any_document(COLUMNS)) {
        check(&compile(&everything("text")), &document)?;
    }

    /// G4, for documents of which the mapping knew nothing.
    #[test]
    fn documents_under_a_mapping_made_for_others(
        sample in prop::collection::vec(any_document(&[]), 0..5),
        document in any_document(&[]),
    ) {
        let mapping = compile(&inferred(&sample));
        for document in sample.iter().chain([&document]) {
            check(&mapping, document)?;
        }
    }

    /// G4, for rows of one column.
    #[test]
    fn documents_kept_whole(document in any_document(&[])) {
        for form in ["relaxed", "canonical"] {
            check(&compile(&whole(form)), &document)?;
        }
    }

    /// Rows written before a column or a table was added can be rebuilt with the newer mapping, and so be
    /// written again.
    #[test]
    fn rows_of_an_older_mapping_under_a_newer_one(
        document in any_document(COLUMNS),
        dropped in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let new = everything("text");
        let old = without(&new, &dropped);
        let (old, new) = (compile(&old), compile(&new));
        let Ok(rows) = encode(&old, &document) else { return Ok(()) };
        let rebuilt = rebuild(&new, &lifted(&old, &rows, &new).unwrap());
        same(&rebuilt, &document)?;
        let filled = encode(&new, &rebuilt).unwrap();
        same(&rebuild(&new, &filled), &document)?;
    }

    /// The same for what an automatic mapping becomes when other documents appear.
    #[test]
    fn rows_under_a_mapping_that_has_grown(
        before in prop::collection::vec(any_document(&[]), 0..4),
        after in prop::collection::vec(any_document(&[]), 1..4),
    ) {
        let mut names = Names::new();
        let old = sampled(&before).spec(&Namespace::new("a", "t"), &mut names);
        let Some(new) = evolve(&old, &sampled(&after), &mut names, &[]) else { return Ok(()) };
        let (old, new) = (Arc::new(Mapping::compile(&old)), Mapping::compile(&new));
        for document in before.iter().chain(&after) {
            let Ok(rows) = encode(&old, document) else { continue };
            if let Some(lifted) = lifted(&old, &rows, &new) {
                same(&rebuild(&new, &lifted), document)?;
            }
        }
    }
}

/// A mapping file without some of its columns and tables. Of an inline table of columns, all stay.
fn without(text: &str, dropped: &[prop::sample::Index]) -> String {
    let (head, rest) = text.split_once("[columns]\n").unwrap();
    let mut parts = rest.split("\n[[tables]]");
    let mut columns: Vec<_> = parts.next().unwrap().lines().filter(|line| !line.is_empty()).collect();
    let mut tables: Vec<_> = parts.collect();
    for index in dropped {
        let at = index.index(columns.len() + tables.len());
        if at < columns.len() {
            columns.remove(at);
        } else {
            tables.remove(at - columns.len());
        }
    }
    let tables: String = tables.iter().map(|table| format!("\n[[tables]]{table}")).collect();
    format!("{head}[columns]\n{}\n{tables}", columns.join("\n"))
}

/// Rows as they are read after columns and tables were added, and columns made `double precision`; none if
/// one of these holds an int64, for then it is not changed.
fn lifted(old: &Mapping, rows: &Rows, new: &Mapping) -> Option<Rows> {
    let mut lifted = Rows::new(new.tables().len());
    for (table, target) in new.tables().iter().zip(&mut lifted.tables) {
        let Some(at) = old.tables().iter().position(|old| old.name == table.name) else { continue };
        let columns = &old.tables()[at].columns;
        for tuple in rows.tables[at].tuples() {
            let values: Vec<_> = tuple.columns().collect();
            let mut row: Vec<Option<Vec<u8>>> = Vec::new();
            for new in &table.columns {
                let at = columns.iter().position(|old| old.name == new.name);
                row.push(match at.and_then(|at| Some((columns[at].ty.scalar, values[at]?))) {
                    Some((old, value)) if old != new.ty.scalar => {
                        assert_eq!((old, new.ty.scalar), (Scalar::Bigint, Scalar::Double));
                        let value = i32::try_from(i64::from_be_bytes(value.try_into().unwrap())).ok()?;
                        Some(f64::from(value).to_be_bytes().to_vec())
                    }
                    value => value.map(|(_, value)| value.to_vec()),
                });
            }
            assert!(target.push(&row.iter().map(Option::as_deref).collect::<Vec<_>>()));
        }
    }
    Some(lifted)
}

/// The comparison finds what these tests look for.
#[test]
fn a_lost_note_is_found() {
    let mapping = compile(&everything("text"));
    let document = mongodb::bson::rawdoc! { "_id": 1, "o": { "x": 5 } };
    let mut rows = encode(&mapping, &document).unwrap();
    let extra = mapping.tables()[0].columns.len() - 1;
    let mut values: Vec<Option<Vec<u8>>> =
        rows.tables[0].tuples().next().unwrap().columns().map(|value| value.map(<[u8]>::to_vec)).collect();
    values[extra] = None;
    rows.tables[0].bytes.clear();
    assert!(rows.tables[0].push(&values.iter().map(Option::as_deref).collect::<Vec<_>>()));
    assert!(same(&rebuild(&mapping, &rows), &document).is_err());
}
