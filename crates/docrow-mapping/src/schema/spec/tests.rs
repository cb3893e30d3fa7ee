//! Mapping files, read and written.

use proptest::prelude::*;

use super::{super::Segment, *};
use crate::model::table::{Reading, Scalar};

const USERS: &str = include_str!("../../../../../schemas/users.toml");

const HEAD: &str = "collection = \"shop.users\"\ntable = \"users\"\nextra = \"_extra\"\n\
    key.column = \"id\"\nkey.type = \"bigint\"\n";

fn parse(rest: &str) -> MappingSpec {
    MappingSpec::parse(&format!("{HEAD}{rest}"), "users.toml").unwrap()
}

fn error(rest: &str) -> String {
    MappingSpec::parse(&format!("{HEAD}{rest}"), "users.toml").unwrap_err().to_string()
}

#[test]
fn reads_the_users_mapping() {
    let spec = MappingSpec::parse(USERS, "users.toml").unwrap();
    let tables: Vec<_> = spec.tables().map(|table| table.table.as_str()).collect();
    let expected = "users addresses profiles education experience preferences settings activity_log transactions \
                    messages attachments social_media posts groups large_data";
    assert_eq!(tables, expected.split_whitespace().collect::<Vec<_>>());
    assert_eq!(spec.collection().to_string(), "sample_db.users");
    assert_eq!(spec.extra(), Some("_extra"));
    let columns: Vec<_> = spec.root().columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(columns, ["username", "email", "first_name", "last_name", "age", "created_at", "updated_at"]);
    assert_eq!(spec.children()[9].ordinals, ["message", "position"]);
}

#[test]
fn what_is_written_reads_back() {
    let spec = MappingSpec::parse(USERS, "users.toml").unwrap();
    let text = spec.to_toml();
    assert_eq!(MappingSpec::parse(&text, "users.toml").unwrap(), spec);
    assert!(text.contains("\nfirst_name = { path = \"firstName\", type = \"text\" }\n"), "{text}");
    assert!(text.contains("\n[[tables]]\ntable    = \"attachments\"\n"), "{text}");
}

#[test]
fn awkward_names_read_back() {
    let columns = "[columns]\n\"a \\\"b\\\"\" = { path = 'x\\.y\\[]', type = \"text[]\" }\n";
    let spec = MappingSpec::parse(&format!("{HEAD}{columns}"), "users.toml").unwrap();
    assert_eq!(MappingSpec::parse(&spec.to_toml(), "users.toml").unwrap(), spec);
}

#[test]
fn refuses_with_file_line_key_and_constraint() {
    let column = |path: &str, ty: &str| format!("[columns]\na = {{ path = \"{path}\", type = \"{ty}\" }}\n");
    for (rest, expected) in [
        ("[colums]\n".into(), "users.toml:6: unknown key \"colums\"; did you mean \"columns\"?"),
        (
            column("a", "bigintt"),
            "users.toml:7: columns.a.type: \"bigintt\" is not a supported type; did you mean \"bigint\"?",
        ),
        (column("a..b", "text"), "users.toml:7: columns.a.path: a path must name a field between its dots"),
        (
            column("a[]", "text"),
            "users.toml:7: columns.a.path: unnests an array, which requires a separate table",
        ),
        (
            column("_id", "text"),
            "users.toml:7: columns.a.path: _id is the document's key, which has its own column",
        ),
        (
            "[columns]\nid = { path = \"a\", type = \"text\" }".into(),
            "users.toml:7: columns.id: the name \"id\" is already in use, or differs from one in use \
                 only in case",
        ),
        (
            "[columns]\nctid = { path = \"a\", type = \"text\" }".into(),
            "users.toml:7: columns.ctid: the name \"ctid\" is already in use, or differs from one in use \
                 only in case",
        ),
        (
            "[columns]\n\"\" = { path = \"a\", type = \"text\" }".into(),
            "users.toml:7: columns.: a name can't be empty",
        ),
        (
            "[columns]\na = { path = \"x\", type = \"text\" }\nb = { path = \"x\", type = \"text\" }".into(),
            "users.toml:8: columns.b.path: \"x\" is mapped twice",
        ),
        (
            "[columns]\na = { path = \"x\", type = \"text\" }\nb = { path = \"x.y\", type = \"text\" }"
                .into(),
            "users.toml:8: columns.b.path: \"x.y\" lies in a field that is mapped to a column",
        ),
        (
            "[[tables]]\ntable = \"b\"\nparent = \"p\"\npath = \"x[]\"".into(),
            "users.toml:9: tables.b.ordinals: \"x[]\" takes 1 ordinals, one for each []",
        ),
        (
            "[[tables]]\ntable = \"users\"\nparent = \"p\"\npath = \"x\"".into(),
            "users.toml:7: tables.users: the name \"users\" is already in use, or differs from one in \
                 use only in case",
        ),
    ] {
        assert_eq!(error(&rest), expected);
    }
}

#[test]
fn refuses_to_omit_what_is_mapped() {
    for (rest, expected) in [
        ("omit = [\"_id.x\"]\n", "6: omit: _id is the document's key, which every row has"),
        ("omit = [\"a\", \"a\"]", "6: omit: \"a\" is omitted twice"),
        ("omit = [\"a\", \"a.b\"]", "6: omit: \"a.b\" lies in a field that is omitted"),
        ("omit = [\"a.b\", \"a\"]", "6: omit: parts of \"a\" are mapped or omitted elsewhere"),
        ("omit = [\"a[]\"]", "6: omit: must end with a field, which may be an array: without []"),
        ("omit = [\"a..b\"]", "6: omit: a path must name a field between its dots"),
        (
            "omit = [\n\"b\",\n\"a.x\"]\n[columns]\na = { path = \"a\", type = \"text\" }",
            "8: omit: \"a.x\" lies in a field that is mapped to a column",
        ),
        (
            "omit = [\"a\"]\n[columns]\na = { path = \"a.x\", type = \"text\" }",
            "6: omit: parts of \"a\" are mapped or omitted elsewhere",
        ),
        (
            "omit = [\"m\"]\n[[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"o\"]",
            "6: omit: parts of \"m\" are mapped or omitted elsewhere",
        ),
    ] {
        assert_eq!(error(rest), format!("users.toml:{expected}"));
    }
}

#[test]
fn refuses_options_that_do_not_go_together() {
    for (rest, expected) in [
        ("on_unfit = \"x\"", "6: on_unfit: must be \"extra\" or \"dead_letter\" or \"fail\""),
        ("on_delete = \"x\"", "6: on_delete: must be \"delete\" or \"soft\""),
        ("key.bson = \"number\"", "6: key.bson: \"number\" is for double precision, not for bigint"),
        (
            "[columns]\na = { path = \"a\", type = \"bigint\", mask = \"sha256\" }",
            "7: columns.a.mask: \"sha256\" is for text, not for bigint",
        ),
        (
            "[columns]\na = { path = \"a\", type = \"text[]\", mask = \"sha256\" }",
            "7: columns.a.mask: \"sha256\" is for text, not for text[]",
        ),
        (
            "[columns]\na = { path = \"a\", type = \"text\", mask = \"md5\" }",
            "7: columns.a.mask: must be \"sha256\" or \"redact\"",
        ),
        (
            "[columns]\na = { path = \"a\", type = \"text\", bson = \"long\" }",
            "7: columns.a.bson: \"long\" is for integer and bigint, not for text",
        ),
        (
            "[columns]\na = { path = \"a\", type = \"bigint\", bson = \"number\" }",
            "7: columns.a.bson: \"number\" is for double precision, not for bigint",
        ),
        (
            "[columns]\na = { path = \"a\", type = \"bigint\", bson = \"int\" }",
            "7: columns.a.bson: must be \"long\" or \"number\"",
        ),
        ("[document]\njson = \"bson\"", "7: document.json: must be \"relaxed\" or \"canonical\""),
        (
            "[document]\n[columns]\na = { path = \"a\", type = \"text\", mask = \"redact\" }",
            "8: columns: a mapping with [document] has no columns and no tables of its own",
        ),
        (
            "[document]\n[[tables]]\ntable = \"b\"\nparent = \"p\"\npath = \"x\"",
            "8: tables: a mapping with [document] has no columns and no tables of its own",
        ),
        (
            "[document]\ncolumn = \"_extra\"",
            "7: document.column: the name \"_extra\" is already in use, or differs from one in use only \
                 in case",
        ),
        (
            "[columns]\nName = { path = \"a\", type = \"text\" }\nname = { path = \"b\", type = \"text\" }",
            "8: columns.name: the name \"name\" is already in use, or differs from one in use only in \
                 case",
        ),
        (
            "[columns]\na = { path = \"a\", type = \"text\" }\n\"a\" = { path = \"b\", type = \"text\" }",
            "8: duplicate key",
        ),
        (
            "[[tables]]\ntable = \"b\"\nparent = \"p\"\npath = \"x\"\ncolumns.y = { path = \"y.z\", type = \"text\" }\n\
             [[tables]]\ntable = \"c\"\nparent = \"p\"\npath = \"x.y\"\ncolumns.z = { path = \"z\", type = \"text\" }",
            "15: tables.c.columns.z.path: \"x.y.z\" is mapped twice",
        ),
        (
            "on_delete = \"soft\"\n[columns]\n_deleted_at = { path = \"a\", type = \"text\" }",
            "8: columns._deleted_at: the name \"_deleted_at\" is already in use, or differs from one in \
                 use only in case",
        ),
    ] {
        assert_eq!(error(rest), format!("users.toml:{expected}"));
    }
    let doc = HEAD.replace("column = \"id\"", "column = \"doc\"");
    assert_eq!(
        MappingSpec::parse(&format!("{doc}[document]"), "users.toml").unwrap_err().to_string(),
        "users.toml:6: document.column: the name \"doc\" is already in use, or differs from one in use \
             only in case"
    );
    let without = HEAD.replace("extra = \"_extra\"\n", "");
    let parse = |rest: &str| MappingSpec::parse(&format!("{without}{rest}"), "users.toml");
    assert_eq!(
        parse("on_unfit = \"dead_letter\"").unwrap_err().to_string(),
        "users.toml:2: extra: set extra = \"_extra\": a mapping without this column must have on_unfit = \
             \"fail\""
    );
    assert_eq!(parse("on_unfit = \"fail\"").unwrap().extra(), None);
}

#[test]
fn reads_every_option() {
    let spec = parse(
        "on_unfit = \"dead_letter\"\non_delete = \"soft\"\nforeign_keys = true\nomit = [\"m[].secret\", \"b.c\"]\n\
         key.bson = \"long\"\n\
         [columns]\nn = { path = \"n\", type = \"double precision[]\", bson = \"number\" }\n\
         l = { path = \"l\", type = \"integer\", bson = \"long\" }\n\
         j = { path = \"b.j\", type = \"jsonb[]\" }\nh = { path = \"h\", type = \"text\", mask = \"sha256\" }\n\
         r = { path = \"r\", type = \"timestamptz\", mask = \"redact\" }\n\
         [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"o\"]",
    );
    assert_eq!(spec.on_unfit(), OnUnfit::DeadLetter);
    assert_eq!(spec.on_delete(), OnDelete::Soft);
    assert!(spec.foreign_keys());
    let omit: Vec<_> = spec.omit().iter().map(FieldPath::to_string).collect();
    assert_eq!(omit, ["m[].secret", "b.c"]);
    assert_eq!(spec.key().ty.reading, Reading::Long);
    let columns = &spec.root().columns;
    let readings: Vec<_> = columns.iter().map(|column| column.ty.reading).collect();
    assert_eq!(readings, [Reading::Number, Reading::Long, Reading::Usual, Reading::Usual, Reading::Usual]);
    let masks: Vec<_> = columns.iter().map(|column| column.mask).collect();
    assert_eq!(masks, [None, None, None, Some(Mask::Sha256), Some(Mask::Redact)]);
    assert_eq!(MappingSpec::parse(&spec.to_toml(), "users.toml").unwrap(), spec);
}

#[test]
fn reads_document_mode() {
    let spec = parse("omit = [\"a.b\"]\n[document]\n");
    let expected = DocumentSpec { column: "doc".into(), json: JsonForm::Relaxed };
    assert_eq!(spec.document(), Some(&expected));
    let written = spec.to_toml();
    assert!(written.ends_with("\n[document]\ncolumn = \"doc\"\njson   = \"relaxed\"\n"), "{written}");
    assert_eq!(MappingSpec::parse(&written, "users.toml").unwrap(), spec);
    let spec = parse("[document]\ncolumn = \"body\"\njson = \"canonical\"");
    let expected = DocumentSpec { column: "body".into(), json: JsonForm::Canonical };
    assert_eq!(spec.document(), Some(&expected));
    assert_eq!(MappingSpec::parse(&spec.to_toml(), "users.toml").unwrap(), spec);
}

/// Any valid mapping, with names that need quotes and paths that need escapes.
fn any_spec() -> impl Strategy<Value = MappingSpec> {
    let text = || r#"[a-c."'\\\[\]{}=# é\n\r\t\x01\x7f$-]{0,5}"#;
    let scalar = prop::sample::select(Scalar::ALL.to_vec());
    let ty = (scalar, any::<bool>(), any::<bool>(), 0..3).prop_map(|(scalar, array, read, mask)| {
        let reading = scalar.other_reading().filter(|_| read).unwrap_or_default();
        let mask = match mask {
            1 => Some(Mask::Redact),
            2 if scalar == Scalar::Text && !array => Some(Mask::Sha256),
            _ => None,
        };
        (ColumnType { scalar, array, reading }, mask)
    });
    let fields = prop::collection::vec((text(), text(), ty), 0..5);
    let table = (text(), 0_usize..3, fields.clone());
    let options = (
        prop::sample::select(vec![OnUnfit::Extra, OnUnfit::DeadLetter, OnUnfit::Fail]),
        prop::sample::select(vec![OnDelete::Delete, OnDelete::Soft]),
        prop::option::of(prop::sample::select(vec![JsonForm::Relaxed, JsonForm::Canonical])),
        (any::<bool>(), any::<bool>(), any::<bool>()),
    );
    let omit = prop::collection::vec((text(), 0_usize..3), 0..3);
    (text(), options, fields, prop::collection::vec(table, 0..3), omit).prop_map(
        |(name, (on_unfit, on_delete, document, (extra, foreign_keys, long)), fields, tables, omit)| {
            // A leading number keeps names and paths apart.
            let columns = |fields: Vec<(String, String, (ColumnType, Option<Mask>))>| {
                type Arbitrary = (String, String, (ColumnType, Option<Mask>));
                let column = |(i, (name, field, (ty, mask))): (usize, Arbitrary)| ColumnSpec {
                    name: format!("{i}{name}"),
                    path: path(&[(&format!("{i}{field}"), 0), ("x", 0)]),
                    ty,
                    was: (mask.is_none() && i % 2 == 1).then(|| ReplacedColumn {
                        name: format!("w{i}"),
                        ty: ColumnType::scalar(Scalar::Bigint),
                    }),
                    mask,
                };
                fields.into_iter().enumerate().map(column).collect::<Vec<_>>()
            };
            let children = tables.into_iter().enumerate().map(|(i, (name, arrays, fields))| TableSpec {
                table: format!("{i}{name}"),
                path: path(&[(&format!("t{i}{name}"), arrays)]),
                parent: "p".into(),
                ordinals: (0..arrays).map(|ordinal| format!("o{ordinal} ")).collect(),
                columns: columns(fields),
            });
            let omit = omit.into_iter().enumerate();
            let document = document.map(|json| DocumentSpec { column: format!("d{name}"), json });
            let reading = if long { Reading::Long } else { Reading::Usual };
            MappingSpec {
                collection: Namespace::new("shop", format!("c{name}").replace(['\0', '$'], "")),
                extra: (extra || on_unfit != OnUnfit::Fail).then(|| format!("e{name}")),
                on_unfit,
                on_delete,
                foreign_keys,
                omit: omit
                    .map(|(i, (name, arrays))| path(&[(&format!("u{i}{name}"), arrays), ("z", 0)]))
                    .collect(),
                key: KeySpec {
                    column: format!("k{name}"),
                    ty: ColumnType { reading, ..ColumnType::scalar(Scalar::Bigint) },
                },
                root: TableSpec {
                    table: format!("r{name}"),
                    path: path(&[]),
                    parent: format!("k{name}"),
                    ordinals: vec![],
                    columns: if document.is_some() { vec![] } else { columns(fields) },
                },
                children: if document.is_some() { vec![] } else { children.collect() },
                document,
            }
        },
    )
}

fn path(segments: &[(&str, usize)]) -> FieldPath {
    let segment = |&(name, arrays): &(&str, usize)| Segment { name: name.into(), arrays };
    FieldPath::new(segments.iter().map(segment).collect())
}

proptest! {
    #[test]
    fn any_mapping_that_is_written_reads_back(spec in any_spec()) {
        let text = spec.to_toml();
        prop_assert_eq!(MappingSpec::parse(&text, "users.toml").ok(), Some(spec), "{}", text);
    }
}

#[test]
fn refuses_wrong_keys_and_names() {
    let head = |change: (&str, &str)| {
        MappingSpec::parse(&HEAD.replace(change.0, change.1), "users.toml").unwrap_err().to_string()
    };
    assert_eq!(
        head(("bigint", "jsonb")),
        "users.toml:5: key.type: a key is one of integer, bigint, text, bytea, uuid"
    );
    assert_eq!(head(("shop.users", "users")), "users.toml:1: collection: must be \"database.collection\"");
    assert_eq!(head(("\"users\"\n", "\"\"\n")), "users.toml:2: table: a name can't be empty");
    let long = format!("\"{}\"\n", "é".repeat(32));
    assert_eq!(head(("\"users\"\n", &long)), "users.toml:2: table: a name has at most 63 bytes, this one 64");
    assert!(head(("key.", "kei.")).contains("did you mean \"key\"?"));
}

#[test]
fn refuses_more_columns_than_a_table_has() {
    let columns = |count| {
        let lines = (0..count).map(|i| format!("c{i} = {{ path = \"c{i}\", type = \"text\" }}\n"));
        format!("{HEAD}[columns]\n{}", lines.collect::<String>())
    };
    assert!(MappingSpec::parse(&columns(1598), "users.toml").is_ok());
    let error = MappingSpec::parse(&columns(1599), "users.toml").unwrap_err().to_string();
    assert_eq!(error, "users.toml:2: users: a table has at most 1600 columns, this one 1601");
}

#[test]
fn an_object_with_its_own_table_can_be_reached_from_the_root() {
    let text = format!(
        "{HEAD}[columns]\nlat = {{ path = \"address.lat\", type = \"double precision\" }}\n\
         [[tables]]\ntable = \"addresses\"\npath = \"address\"\nparent = \"user_id\"\n"
    );
    assert!(MappingSpec::parse(&text, "users.toml").is_ok());
    let text = text.replace("path = \"address\"", "path = \"address[]\"\nordinals = [\"n\"]");
    let error = MappingSpec::parse(&text, "users.toml").unwrap_err().to_string();
    assert!(
        error.ends_with("\"address[]\" passes a field that is mapped both as an object and as an array"),
        "{error}"
    );
}
