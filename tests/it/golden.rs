//! The cases of `testdata/mapping`: documents, a mapping, and the rows in PostgreSQL. `make golden` rewrites
//! the rows; read the diff.
//!
//! A case is a text file of sections, each headed by `== name`. Before the first is a description of the
//! case. Then `mapping`: a mapping file, or `automatic` and the collection's name; `documents`: one per line,
//! in canonical Extended JSON, or, if that can't represent them, as hexadecimal BSON after `0x`; `#` begins a
//! comment. This test writes the rest.

use std::{fs, path::Path, sync::Arc};

use docrow::{
    mapping::{Mapping, MaskKey},
    model::{
        change::Namespace,
        table::{Scalar, Table},
    },
    schema::{MappingSpec, Names, Sample},
};
use mongodb::bson::{Bson, RawDocumentBuf};

use crate::{
    mapping::{encode, stored::Store},
    support::{connect, golden, same::difference},
};

/// Wider rows are shown with one column per line.
const MAX_WIDTH: usize = 130;

struct Case {
    /// The part that is written by hand.
    head: String,
    mapping: Arc<Mapping>,
    documents: Vec<RawDocumentBuf>,
    /// The mapping file, if it was generated from the documents.
    made: Option<String>,
    /// Whether the documents can be rebuilt from their rows.
    exact: bool,
}

impl Case {
    fn read(text: &str) -> Self {
        let (about, rest) = text.split_once("== mapping\n").expect("a case has a mapping");
        let (mapping, rest) = rest.split_once("\n== documents\n").expect("a case has documents");
        let documents = rest.split("\n== ").next().unwrap().trim_end();
        let head = format!("{about}== mapping\n{mapping}\n== documents\n{documents}\n");
        let lines = documents.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let documents: Vec<_> = lines.map(document).collect();
        let made = mapping.trim().strip_prefix("automatic").map(|name| automatic(name.trim(), &documents));
        let file = made.as_deref().unwrap_or(mapping);
        let spec = MappingSpec::parse(file, "mapping").unwrap_or_else(|e| panic!("{e}"));
        let exact = !["mask =", "omit =", "\"fail\""].iter().any(|lossy| file.contains(lossy));
        let mapping = Arc::new(Mapping::compile(&spec).with_mask_key(MaskKey::new(b"golden")));
        Self { head, mapping, documents, made, exact }
    }
}

fn document(line: &str) -> RawDocumentBuf {
    let bytes = match line.strip_prefix("0x") {
        Some(hex) => {
            let hex: Vec<_> = hex.bytes().filter(|byte| *byte != b' ').collect();
            hex.chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        }
        None => {
            let json: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let Bson::Document(document) = Bson::try_from(json).unwrap() else {
                panic!("no document: {line}")
            };
            document.to_vec().unwrap()
        }
    };
    RawDocumentBuf::from_bytes(bytes).unwrap()
}

fn automatic(collection: &str, documents: &[RawDocumentBuf]) -> String {
    let mut sample = Sample::new();
    documents.iter().for_each(|document| sample.observe(document));
    sample.spec(&Namespace::new("shop", collection), &mut Names::new()).to_toml()
}

/// G4, in readable form.
#[tokio::test]
async fn documents_become_the_rows_that_are_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/mapping");
    let mut store = Store::new("golden").await;
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15, "only {} cases", files.len());
    for path in files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let case = Case::read(&fs::read_to_string(&path).unwrap());
        let mut text = case.head.clone();
        if let Some(made) = &case.made {
            text.push_str(&format!("\n== made for them\n{made}"));
        }
        let stored = store.pass(&case.mapping, &case.documents).await;
        for table in case.mapping.tables() {
            text.push_str(&format!(
                "\n== {}\n{}",
                table.name,
                rows(store.uri(), &stored.schema, table).await
            ));
        }
        let mut refused = String::new();
        for (i, (rebuilt, document)) in stored.documents.iter().zip(&case.documents).enumerate() {
            match (rebuilt, encode(&case.mapping, document)) {
                (_, Err(unfit)) => {
                    let outcome = if unfit.stops { "stops the collection" } else { "is a dead letter" };
                    refused.push_str(&format!("document {} {outcome}: {unfit}\n", i + 1));
                }
                (Some(rebuilt), _) if case.exact => {
                    let difference = difference(rebuilt.as_bytes(), document.as_bytes());
                    assert!(difference.is_none(), "{name}: {}", difference.unwrap());
                }
                (Some(_), _) => {}
                (None, _) => panic!("{name}: two documents have one key"),
            }
        }
        if !refused.is_empty() {
            text.push_str(&format!("\n== refused\n{refused}"));
        }
        golden(&format!("mapping/{name}"), &text);
    }
}

/// The rows of a table in the order of its key: in aligned columns if they are narrow.
async fn rows(uri: &str, schema: &str, table: &Table) -> String {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let client = connect(uri).await;
    client.batch_execute("SET timezone = 'UTC'").await.unwrap();
    let columns: Vec<_> = table.columns.iter().map(|column| quote(&column.name)).collect();
    let shown: Vec<_> = columns.iter().map(|column| format!("{column}::text")).collect();
    // By the column's own order, not by that of the displayed text, which has the same name.
    let mut key: Vec<_> = columns[..table.key_columns].iter().map(|column| format!("t.{column}")).collect();
    if table.columns[0].ty.scalar == Scalar::Text {
        key[0].push_str(" COLLATE \"C\"");
    }
    let question = format!(
        "SELECT {} FROM {}.{} AS t ORDER BY {}",
        shown.join(", "),
        quote(schema),
        quote(&table.name),
        key.join(", "),
    );
    let mut lines = vec![
        table.columns.iter().map(|column| format!("{} {}", column.name, column.ty.sql())).collect::<Vec<_>>(),
    ];
    for row in client.query(&question, &[]).await.unwrap() {
        let cell = |at| {
            row.get::<_, Option<String>>(at).map_or_else(
                || "NULL".to_owned(),
                |text| if text.is_empty() { "''".to_owned() } else { text },
            )
        };
        lines.push((0..columns.len()).map(cell).collect());
    }
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap();
    let widths: Vec<_> = (0..columns.len()).map(width).collect();
    let by_row = widths.iter().sum::<usize>() + 3 * columns.len() > MAX_WIDTH;
    let mut text = String::new();
    if by_row {
        let name = lines[0].iter().map(|name| name.chars().count()).max().unwrap();
        for (i, line) in lines.iter().enumerate().skip(1) {
            let pair = |(head, cell): (&String, &String)| format!("{head:name$} | {cell}\n");
            let gap = if i > 1 { "\n" } else { "" };
            text.push_str(&format!("{gap}{}", lines[0].iter().zip(line).map(pair).collect::<String>()));
        }
        if lines.len() == 1 {
            text.push_str(&format!("{}\n", lines[0].join(" | ")));
        }
    } else {
        for line in &lines {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(&format!("{}\n", cells.collect::<Vec<_>>().join(" | ").trim_end()));
        }
    }
    text
}
