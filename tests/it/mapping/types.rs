//! Every BSON type in every column type; PostgreSQL shows what the column holds.

use std::{collections::BTreeMap, env, fs, path::Path, sync::LazyLock};

use docrow::{
    mapping::Mapping,
    model::table::{Reading, Scalar},
};
use mongodb::bson::{Decimal128, RawDocumentBuf};
use serde_json::Value as Json;

use super::{
    compile,
    documents::{Value, document, text},
    stored::Store,
};
use crate::support::{self, connect, same::difference};

/// The table: for each value and column the result of `column::text`; `~` before it: the column would read
/// back as another value, so the value is also noted; `-`: the column is NULL, the value is noted.
const TABLE: &str = "types.txt";

/// The table for people.
const DOCUMENTATION: &str = "docs/mapping.md";

/// The columns of the table: a type, and what its values read back as.
static COLUMNS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let columns_of = |scalar: Scalar| {
        let (name, word) = (scalar.sql(), scalar.other_reading().and_then(Reading::word));
        [Some(name.to_owned()), word.map(|word| format!("{name} {word}"))]
    };
    Scalar::ALL.into_iter().flat_map(columns_of).flatten().collect()
});

fn values() -> Vec<(&'static str, Value)> {
    let leaf = |kind, bytes: &[u8]| Value::Leaf(kind, bytes.to_vec());
    let int = |value: i32| leaf(0x10, &value.to_le_bytes());
    let long = |value: i64| leaf(0x12, &value.to_le_bytes());
    let double = |value: f64| leaf(0x01, &value.to_le_bytes());
    let decimal = |value: &str| leaf(0x13, &value.parse::<Decimal128>().unwrap().bytes());
    let string = |value: &[u8]| leaf(0x02, &text(value));
    let binary = |subtype: u8, bytes: &[u8]| {
        leaf(0x05, &[&i32::try_from(bytes.len()).unwrap().to_le_bytes()[..], &[subtype], bytes].concat())
    };
    let date = |millis: i64| leaf(0x09, &millis.to_le_bytes());
    let object = |fields: &[(&str, Value)]| {
        Value::Document(
            fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect(),
        )
    };
    let id = [0xab; 12];
    vec![
        ("true", leaf(0x08, &[1])),
        ("int 5", int(5)),
        ("int min", int(i32::MIN)),
        ("long 5", long(5)),
        ("long 2^31", long(1 << 31)),
        ("long 2^53 + 1", long((1 << 53) + 1)),
        ("long min", long(i64::MIN)),
        ("double 5.0", double(5.0)),
        ("double 0.5", double(0.5)),
        ("double 0.1", double(0.1)),
        ("double 0.0", double(0.0)),
        ("double -0.0", double(-0.0)),
        ("double 2^31", double(2_147_483_648.0)),
        ("double 2^63", double(9_223_372_036_854_775_808.0)),
        ("double 1e300", double(1e300)),
        ("double Infinity", double(f64::INFINITY)),
        ("double NaN", double(f64::NAN)),
        ("double NaN, odd", double(f64::from_bits(0xfff8_0000_0000_0012))),
        ("decimal 5", decimal("5")),
        ("decimal 5.0", decimal("5.0")),
        ("decimal 0.10", decimal("0.10")),
        ("decimal 5E+3", decimal("5E+3")),
        ("decimal -0", decimal("-0")),
        ("decimal 1E-7", decimal("1E-7")),
        ("decimal 34 nines", decimal("-9999999999999999999999999999999999")),
        ("decimal Infinity", decimal("Infinity")),
        ("decimal NaN", decimal("NaN")),
        ("decimal 0, odd", leaf(0x13, &(0x6c10_u128 << 112 | 7).to_le_bytes())),
        ("string", string("é".as_bytes())),
        ("string, empty", string(b"")),
        ("string of an id", string(b"abababababababababababab")),
        ("string with NUL", string(b"a\0b")),
        ("string, no UTF-8", string(b"\xff")),
        ("ObjectId", leaf(0x07, &id)),
        ("binary 0", binary(0, &[1, 2])),
        ("binary 0, 12 bytes", binary(0, &id)),
        ("binary 2", binary(2, b"\x01\0\0\0\x07")),
        ("binary 2, odd", binary(2, b"\x02\0\0\0\x07")),
        ("binary 3, 16 bytes", binary(3, &[0x33; 16])),
        ("binary 4, 16 bytes", binary(4, &[0x44; 16])),
        ("binary 4, 1 byte", binary(4, &[4])),
        ("date", date(1_700_000_000_123)),
        ("date of 4714 BC", date(-210_866_803_200_000)),
        ("date before that", date(-210_866_803_200_001)),
        ("date, latest", date(i64::MAX)),
        ("timestamp", leaf(0x11, &[2, 0, 0, 0, 1, 0, 0, 0])),
        ("regex", leaf(0x0b, b"^a\0i\0")),
        ("code", leaf(0x0d, &text(b"f()"))),
        ("code with scope", Value::CodeWithScope(b"f()".to_vec(), vec![(b"x".to_vec(), int(1))])),
        ("symbol", leaf(0x0e, &text(b"s"))),
        ("dbPointer", leaf(0x0c, &[&text(b"a.b")[..], &id].concat())),
        ("undefined", leaf(0x06, b"")),
        ("minKey", leaf(0xff, b"")),
        ("maxKey", leaf(0x7f, b"")),
        ("null", leaf(0x0a, b"")),
        ("object", object(&[("x", long(5))])),
        ("object, empty", object(&[])),
        ("object with $", object(&[("$x", int(5))])),
        ("array", Value::Array(vec![int(5), string(b"x")])),
        ("array, empty", Value::Array(vec![])),
    ]
}

/// The field `s0` has a column of the first type, `a0` one of an array of it, and so on.
fn mapping() -> String {
    let mut text = "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"_id\"\ntype = \"integer\"\n[columns]\n".to_owned();
    for (i, column) in COLUMNS.iter().enumerate() {
        let (ty, bson) = match column.rsplit_once(' ') {
            Some((ty, reading @ ("long" | "number"))) => (ty, format!(", bson = \"{reading}\"")),
            _ => (column.as_str(), String::new()),
        };
        text.push_str(&format!("s{i} = {{ path = \"s{i}\", type = \"{ty}\"{bson} }}\n"));
        text.push_str(&format!("a{i} = {{ path = \"a{i}\", type = \"{ty}[]\"{bson} }}\n"));
    }
    text
}

/// The same value in every field.
fn row(id: usize, value: &Value) -> RawDocumentBuf {
    let id = Value::Leaf(0x10, i32::try_from(id).unwrap().to_le_bytes().to_vec());
    let mut fields = vec![(b"_id".to_vec(), id)];
    for i in 0..COLUMNS.len() {
        fields.push((format!("s{i}").into_bytes(), value.clone()));
        fields.push((format!("a{i}").into_bytes(), Value::Array(vec![value.clone()])));
    }
    document(&fields)
}

/// G4: every value is in a typed column or, exactly, in `_extra`, so that it comes back unchanged.
#[tokio::test]
async fn every_type_in_every_column() {
    let mut store = Store::new("types").await;
    let mapping = compile(&mapping());
    let values = values();
    let documents: Vec<_> = values.iter().enumerate().map(|(i, (_, value))| row(i, value)).collect();
    let stored = store.pass(&mapping, &documents).await;
    for ((name, _), (rebuilt, document)) in values.iter().zip(stored.documents.iter().zip(&documents)) {
        let difference = difference(rebuilt.as_ref().unwrap().as_bytes(), document.as_bytes());
        assert!(difference.is_none(), "{name}: {}", difference.unwrap());
    }
    let cells = cells(store.uri(), &stored.schema, &mapping).await;
    let mut shown: Vec<Vec<String>> =
        vec![["value".to_owned()].into_iter().chain(COLUMNS.iter().cloned()).collect()];
    for (i, (name, value)) in values.iter().enumerate() {
        let mut line = vec![(*name).to_owned()];
        for (j, column) in COLUMNS.iter().enumerate() {
            let scalar = &cells[&(i, format!("s{j}"))];
            // In an array a value is the same as alone; but null is NULL.
            let is_null = matches!(value, Value::Leaf(0x0a, _)) && *column != Scalar::Jsonb.sql();
            let in_array = if is_null { "NULL" } else { scalar };
            assert_eq!(cells[&(i, format!("a{j}"))], in_array, "{name} in {column}[]");
            line.push(scalar.clone());
        }
        shown.push(line);
    }
    support::golden(TABLE, &format!("{}\n", aligned(&shown)));
}

/// The text of each column of each document.
async fn cells(uri: &str, schema: &str, mapping: &Mapping) -> BTreeMap<(usize, String), String> {
    let client = connect(uri).await;
    client.batch_execute(&format!("SET search_path = {schema}; SET timezone = 'UTC'")).await.unwrap();
    let names: Vec<_> = mapping.tables()[0].columns.iter().map(|column| column.name.clone()).collect();
    let shown = names.iter().map(|name| match name.strip_prefix('a') {
        Some(_) => format!("CASE WHEN {name} IS NOT NULL THEN coalesce({name}[1]::text, 'NULL') END"),
        None => format!("{name}::text"),
    });
    let question = format!("SELECT {} FROM t", shown.collect::<Vec<_>>().join(", "));
    let mut cells = BTreeMap::new();
    for row in client.query(&question, &[]).await.unwrap() {
        let id: usize = row.get::<_, &str>(0).parse().unwrap();
        let extra: Json = row
            .get::<_, Option<&str>>(names.len() - 1)
            .map_or(Json::Null, |extra| serde_json::from_str(extra).unwrap());
        for (at, name) in names.iter().enumerate().skip(1).take(names.len() - 2) {
            let noted = if extra.get(name).is_some() { "~" } else { "" };
            let cell = match row.get::<_, Option<&str>>(at) {
                None => "-".to_owned(),
                Some("") => format!("{noted}''"),
                Some(text) => format!("{noted}{text}"),
            };
            assert!(noted == "~" || cell != "-", "{name} of {id} is lost");
            cells.insert((id, name.clone()), cell);
        }
    }
    cells
}

fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap();
    let line = |line: &Vec<String>| {
        let cells =
            line.iter().enumerate().map(|(column, cell)| format!("{cell:width$}", width = width(column)));
        cells.collect::<Vec<_>>().join(" | ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What docs/mapping.md says of the types is what the table of types says, and `make golden` writes it there.
#[test]
fn the_documentation_has_every_type() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENTATION);
    let text = fs::read_to_string(&path).unwrap();
    let start = text.find("| column | holds |").unwrap();
    let end = start + text[start..].find("\n\n").unwrap();
    let line =
        |scalar: Scalar| format!("| `{}` | {} | {} |\n", scalar.sql(), scalar.holds(), scalar.exactly());
    let table = format!(
        "| column | holds | of these exactly; the rest is noted besides |\n|---|---|---|\n{}\
         | `T[]` | an array of such values and nulls; empty too | of elements that fit exactly |",
        Scalar::ALL.map(line).concat()
    );
    if env::var("DOCROW_GOLDEN").is_ok_and(|mode| mode == "rewrite") {
        return fs::write(path, [&text[..start], &table, &text[end..]].concat()).unwrap();
    }
    assert_eq!(&text[start..end], table, "`make golden` rewrites {DOCUMENTATION}");
    let keys = Scalar::ALL.into_iter().filter(|scalar| scalar.is_key());
    let keys: Vec<_> = keys.map(|scalar| format!("`{}`", scalar.sql())).collect();
    assert!(
        text.contains(&format!("| `[key]` | `column`, `type` ({}), `bson` |", keys.join(", "))),
        "{keys:?}"
    );
}
