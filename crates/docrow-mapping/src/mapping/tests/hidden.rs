//! Masked and omitted fields: that they are nowhere, and that everything else still is.

use ::bson::RawBsonRef;

use super::*;

const OMIT: &str = "omit = [\"gone\", \"o.p.gone\", \"q[].gone\", \"u.v.gone\", \"m[].gone\"]";

const COLUMNS: &str = "[columns]\ncard = { path = \"card\", type = \"text\", mask = \"redact\" }\n\
    born = { path = \"born\", type = \"timestamptz\", mask = \"redact\" }\n\
    list = { path = \"list\", type = \"text[]\", mask = \"redact\" }\n\
    nick = { path = \"o.nick\", type = \"text\", mask = \"redact\" }\n\
    c = { path = \"o.c\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"m\"\npath = \"m[]\"\nparent = \"p\"\nordinals = [\"n\"]\n\
    [tables.columns]\nbody = { path = \"body\", type = \"text\", mask = \"redact\" }\nx = { path = \"x\", type = \"bigint\" }\n\
    [[tables]]\ntable = \"z\"\npath = \"z\"\nparent = \"p\"\n\
    [tables.columns]\npin = { path = \"pin\", type = \"text\", mask = \"redact\" }\n\
    [[tables]]\ntable = \"g\"\npath = \"g[][]\"\nparent = \"p\"\nordinals = [\"n\", \"o\"]\n\
    [tables.columns]\npin = { path = \"k.pin\", type = \"bigint\", mask = \"redact\" }\n";

/// The names on the ways to all that is masked or omitted.
const SECRETS: [&[&str]; 12] = [
    &["gone"],
    &["o", "p", "gone"],
    &["q", "gone"],
    &["u", "v", "gone"],
    &["m", "gone"],
    &["card"],
    &["born"],
    &["list"],
    &["o", "nick"],
    &["m", "body"],
    &["z", "pin"],
    &["g", "k", "pin"],
];

fn secretive(options: &str) -> Arc<Mapping> {
    mapped(&format!("{options}\n{OMIT}"), "bigint", COLUMNS)
}

fn hidden() -> Arc<Mapping> {
    secretive("extra = \"_extra\"")
}

fn withheld() -> Value {
    json!({ "$docrow": { "withheld": true } })
}

/// Only the masked column says anything of a masked value, and nothing of an omitted one.
#[test]
fn hidden_values_are_nowhere() {
    let mapping = hidden();
    let document = rawdoc! {
        "_id": 1, "gone": 1, "card": "4111", "born": DateTime::from_millis(0), "list": ["a"],
        "o": { "nick": "ada", "c": 7, "p": { "gone": [1], "kept": true } },
        "m": [{ "body": 5, "x": 1, "gone": "x" }, { "body": null }],
        "z": { "pin": "1" }, "q": [{ "gone": 1, "a": 2 }, { "gone": 2 }], "u": { "v": { "gone": 1 }, "w": 1 },
    };
    let rows = encode(&mapping, &document).unwrap();
    let redacted = Some(b"***".to_vec());
    let root = &rows["t"][0];
    assert_eq!(root[1..5], [redacted.clone(), None, None, redacted.clone()]);
    assert_eq!([&rows["m"][0][2], &rows["m"][1][2], &rows["z"][0][1]], [&redacted, &None, &redacted]);
    let two = json!({ "$numberInt": "2" });
    assert_eq!(
        extra(&mapping, &document),
        json!({ "o.p": { "kept": true }, "q": [{ "a": two }, {}], "u": { "v": {}, "w": { "$numberInt": "1" } } })
    );
    let expected = rawdoc! {
        "_id": 1, "o": { "c": 7, "p": { "kept": true } }, "m": [{ "x": 1 }, {}], "z": {},
        "q": [{ "a": 2 }, {}], "u": { "v": {}, "w": 1 },
    };
    assert_eq!(mapping.censored(&document).unwrap(), expected.as_bytes());
    same_in_both_framings(&mapping, &document);
}

/// An object of which nothing is left is still there.
#[test]
fn an_object_with_nothing_but_secrets_is_kept() {
    let mapping = hidden();
    let document = rawdoc! { "_id": 1, "o": { "nick": "ada" }, "u": { "v": { "gone": 1 } } };
    assert_eq!(extra(&mapping, &document), json!({ "o": {}, "u": { "v": {} } }));
    assert_eq!(encode(&mapping, &document).unwrap()["t"][0][4], Some(b"***".to_vec()));
    // A row says that there was an object.
    assert_eq!(extra(&mapping, &rawdoc! { "_id": 1, "z": { "pin": 1 } }), Value::Null);
    assert_eq!(
        extra(&mapping, &rawdoc! { "_id": 1, "g": [[{ "k": { "pin": 1 } }]] }),
        json!({ "g.0.0.k": {} })
    );
}

/// A value that is not what the mapping takes it for might hold a secret anywhere.
#[test]
fn what_can_not_be_taken_apart_is_withheld() {
    let mapping = hidden();
    let note = |document: RawDocumentBuf| extra(&mapping, &document);
    assert_eq!(note(rawdoc! { "_id": 1, "o": [{ "nick": "ada" }] }), json!({ "o": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": "ada" }), json!({ "o": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "o": { "p": [1] } }), json!({ "o.p": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "m": { "body": 1 } }), json!({ "m": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "m": [[{ "body": 1 }]] }), json!({ "m.0": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "q": [{}, { "a": 1 }, [2]] }), json!({ "q": withheld() }));
    assert_eq!(note(rawdoc! { "_id": 1, "g": [{ "k": 1 }] }), json!({ "g.0": withheld() }));
    assert_eq!(
        note(rawdoc! { "_id": 1, "o": null, "m": [], "u": null, "q": [] }),
        json!({ "o": null, "m": [], "u": null, "q": [] })
    );
    let twice = with_duplicates(&[
        ("_id", 1.into()),
        ("card", "a".into()),
        ("card", "b".into()),
        ("o", doc! { "c": 1, "nick": "a" }.into()),
        ("o", doc! { "c": 2, "nick": "b" }.into()),
        ("o", vec![doc! { "nick": "c" }].into()),
    ]);
    // That a masked field was there before, and not what it was.
    assert_eq!(
        note(twice.clone()),
        json!({ r"card\1": withheld(), r"o\2": { "c": { "$numberInt": "2" } }, r"o\3": withheld() })
    );
    let marker = doc! { "$docrow": { "withheld": true } };
    let left = with_duplicates(&[
        ("_id", 1.into()),
        ("o", doc! { "c": 1 }.into()),
        ("o", doc! { "c": 2 }.into()),
        ("o", marker.into()),
    ]);
    assert_eq!(mapping.censored(&twice).unwrap(), left.as_bytes());
}

/// A masked value never makes a dead letter; what can't be taken apart does, without saying what it is.
#[test]
fn masked_values_always_fit() {
    let strict = secretive("on_unfit = \"fail\"");
    let document = rawdoc! {
        "_id": 1, "card": [1], "gone": 1, "born": "x", "o": { "nick": 1.5 }, "u": { "v": { "gone": 1 } },
    };
    let unfit = encode(&strict, &document).unwrap_err().to_string();
    assert_eq!(unfit, "u: no column holds the field, and the mapping has no extra column");
    let document = rawdoc! { "_id": 1, "card": [1], "gone": 1, "born": "x", "o": { "nick": 1.5 }, "z": { "pin": 1 }, "u": null };
    assert!(encode(&strict, &document).is_ok());
    let letters = secretive("extra = \"_extra\"\non_unfit = \"dead_letter\"");
    assert!(encode(&letters, &document).is_ok());
    let unfit = encode(&letters, &rawdoc! { "_id": 1, "o": "4111" }).unwrap_err();
    assert_eq!(unfit.to_string(), "o: the value does not fit its column or table");
}

/// HMAC-SHA-256, as in RFC 4231; equal strings are equal in every column, and null stays NULL.
#[test]
fn a_hash_hides_a_value() {
    let columns = "[columns]\na = { path = \"a\", type = \"text\", mask = \"sha256\" }\nb = { path = \"b\", type = \"text\", mask = \"sha256\" }";
    let spec = format!(
        "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"id\"\ntype = \"bigint\"\n{columns}"
    );
    let spec = MappingSpec::parse(&spec, "t.toml").unwrap();
    let mapping = Mapping::compile(&spec);
    assert!(mapping.needs_mask_key() && !hidden().needs_mask_key());
    let keyed = Arc::new(mapping.with_mask_key(MaskKey::new(b"Jefe")));
    let hashes = |a: Bson, b: Bson| {
        let document = RawDocumentBuf::try_from(&doc! { "_id": 1, "a": a, "b": b }).unwrap();
        assert_eq!(extra(&keyed, &document), Value::Null);
        let row = encode(&keyed, &document).unwrap()["t"][0].clone();
        let text = |column: &Option<Vec<u8>>| column.clone().map(|bytes| String::from_utf8(bytes).unwrap());
        (text(&row[1]), text(&row[2]))
    };
    let hash = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    let question = || Bson::from("what do ya want for nothing?");
    assert_eq!(hashes(question(), question()), (Some(hash.into()), Some(hash.into())));
    assert_eq!(hashes(question(), Bson::Null), (Some(hash.into()), None));
    let id = ObjectId::from_bytes([0xab; 12]);
    let (id, hex) = hashes(id.into(), id.to_hex().into());
    assert_eq!(id, hex);
    let (int, text) = hashes(5.into(), "{\"$numberInt\":\"5\"}".into());
    assert_eq!(int, text);
    let (long, document) = hashes(5_i64.into(), doc! { "x": 5 }.into());
    assert!(long != int && document != long && document.unwrap().len() == 64);
    let unkeyed = Arc::new(Mapping::compile(&spec));
    assert_eq!(encode(&unkeyed, &rawdoc! { "_id": 1, "a": "x" }).unwrap()["t"][0][1], None);
    let debug = format!("{:?}", MaskKey::new(b"Jefe"));
    assert_eq!(debug, "MaskKey(..)");
}

/// Omitting works on whole documents, too.
#[test]
fn a_whole_document_is_without_what_is_omitted() {
    let options = "extra = \"_extra\"\nomit = [\"a.b\", \"c\"]";
    for form in ["relaxed", "canonical"] {
        let mapping = mapped(options, "text", &format!("[document]\njson = \"{form}\""));
        let full = rawdoc! { "_id": 1, "a": { "b": 1, "x": 5_i64 }, "c": 2, "d": -0.0 };
        let left = rawdoc! { "_id": 1, "a": { "x": 5_i64 }, "d": -0.0 };
        assert_eq!(encode(&mapping, &full), encode(&mapping, &left));
        let odd = rawdoc! { "_id": 1, "a": [{ "b": 1 }] };
        let marked = rawdoc! { "_id": 1, "a": { "$docrow": { "withheld": true } } };
        assert_eq!(encode(&mapping, &odd), encode(&mapping, &marked));
        assert_eq!(mapping.censored(&odd).unwrap(), marked.as_bytes());
    }
}

/// Trap: deep nesting. Only the mapping's paths are followed.
#[test]
fn a_deep_document_is_censored() {
    let mut deep = rawdoc! { "gone": 1 };
    for _ in 0..20_000 {
        deep = rawdoc! { "v": deep };
    }
    let document = rawdoc! { "_id": 1, "gone": 1, "u": deep };
    let censored = hidden().censored(&document).unwrap();
    assert_eq!(censored.len(), document.as_bytes().len() - b"\x10gone\0\x01\0\0\0".len());
}

#[test]
fn without_secrets_a_document_is_kept_as_it_is() {
    let plain = mapping("[columns]\na = { path = \"a\", type = \"bigint\" }");
    let twice = with_duplicates(&[("_id", 1.into()), ("a", 1.into()), ("a", "x".into())]);
    assert_eq!(plain.censored(&twice).unwrap(), twice.as_bytes());
    let mut broken = rawdoc! { "_id": 1, "a": "abc", "gone": 1 }.into_bytes();
    let at = broken.windows(3).position(|window| window == b"abc").unwrap();
    broken[at - 1] = 0x7f;
    let broken = RawDocumentBuf::from_bytes(broken).unwrap();
    assert_eq!(plain.censored(&broken).unwrap(), broken.as_bytes());
    assert_eq!(hidden().censored(&broken), None);
}

/// A document with any fields in any order, several of one name too.
#[derive(Clone, Debug)]
enum Tree {
    Leaf(Bson),
    Object(Vec<(String, Tree)>),
    Array(Vec<Tree>),
}

impl Tree {
    /// The type and the bytes of the value.
    fn bytes(&self) -> (u8, Vec<u8>) {
        let whole = |kind, members: Vec<(String, (u8, Vec<u8>))>| {
            let mut bytes = vec![0; 4];
            for (name, (kind, value)) in members {
                bytes.push(kind);
                bytes.extend_from_slice(name.as_bytes());
                bytes.push(0);
                bytes.extend_from_slice(&value);
            }
            bytes.push(0);
            let length = i32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            (kind, bytes)
        };
        match self {
            Tree::Leaf(value) => {
                let one = RawDocumentBuf::try_from(&doc! { "": value.clone() }).unwrap().into_bytes();
                (one[4], one[6..one.len() - 1].to_vec())
            }
            Tree::Object(fields) => {
                whole(3, fields.iter().map(|(name, value)| (name.clone(), value.bytes())).collect())
            }
            Tree::Array(elements) => whole(
                4,
                elements.iter().enumerate().map(|(i, value)| (i.to_string(), value.bytes())).collect(),
            ),
        }
    }

    fn document(&self) -> RawDocumentBuf {
        RawDocumentBuf::from_bytes(self.bytes().1).unwrap()
    }

    /// Puts `secret` at the end of `path`, wherever that leads, through arrays of any depth.
    fn replace(&mut self, path: &[&str], secret: &Bson) {
        match (self, path.split_first()) {
            (tree, None) => *tree = Tree::Leaf(secret.clone()),
            (Tree::Object(fields), Some((first, rest))) => {
                let named = fields.iter_mut().filter(|(name, _)| name == first);
                named.for_each(|(_, value)| value.replace(rest, secret));
            }
            (Tree::Array(elements), Some(_)) => {
                elements.iter_mut().for_each(|element| element.replace(path, secret));
            }
            (Tree::Leaf(_), Some(_)) => {}
        }
    }

    /// The document with all its secrets exchanged.
    fn with(&self, secret: &Bson) -> RawDocumentBuf {
        let mut tree = self.clone();
        SECRETS.iter().for_each(|path| tree.replace(path, secret));
        tree.document()
    }
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        Just(Bson::Null),
        Just(Bson::Int32(1)),
        Just(Bson::Int64(2)),
        Just(Bson::Double(0.5)),
        "[a-z]{0,3}".prop_map(Bson::String),
    ];
    leaf.prop_map(Tree::Leaf).prop_recursive(4, 24, 4, |inner| {
        let name = prop::sample::select(vec![
            "o", "p", "m", "g", "k", "u", "v", "gone", "nick", "body", "pin", "c", "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Array),
            prop::collection::vec((name, inner), 0..4).prop_map(|fields| Tree::Object(
                fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
            )),
        ]
    })
}

/// A field on the way to a secret: with the values that are expected there, or in arrays where there should be none,
/// or in none where there should be some.
fn any_secret() -> impl Strategy<Value = (String, Tree)> {
    let step = (0..5, any_tree(), any_tree());
    (0..SECRETS.len(), prop::collection::vec(step, 3), any_tree()).prop_map(|(secret, steps, end)| {
        let path = SECRETS[secret];
        let wrapped = path.iter().zip(steps).rev().fold(end, |value, (name, (form, beside, other))| {
            let object = |value| Tree::Object(vec![("x".into(), beside.clone()), ((*name).into(), value)]);
            match form {
                0 => Tree::Object(vec![((*name).into(), value)]),
                1 => object(value),
                2 => object(Tree::Array(vec![value])),
                3 => object(Tree::Array(vec![other, value])),
                _ => object(Tree::Array(vec![Tree::Array(vec![value])])),
            }
        });
        match wrapped {
            Tree::Object(mut fields) => fields.pop().unwrap(),
            _ => unreachable!("the last step makes an object"),
        }
    })
}

/// Documents that hold secrets where they belong and where not, and several fields of one name.
fn secrets() -> impl Strategy<Value = Tree> {
    let name = prop::sample::select(vec!["o", "m", "g", "q", "u", "z", "card", "c", "x"]);
    let other = (name, any_tree()).prop_map(|(name, value)| (name.to_owned(), value));
    prop::collection::vec(prop_oneof![2 => any_secret(), 1 => other], 0..6).prop_map(|fields| {
        let id = ("_id".to_owned(), Tree::Leaf(Bson::Int32(1)));
        Tree::Object(std::iter::once(id).chain(fields).collect())
    })
}

/// The fields and their values, ordered by name; those of one name in their order.
fn ordered(document: &[u8]) -> String {
    let fields = RawDocument::from_bytes(document).unwrap().iter().map(|field| match field.unwrap() {
        (name, RawBsonRef::Document(inner)) => (name.to_string(), ordered(inner.as_bytes())),
        (name, RawBsonRef::Array(inner)) => (name.to_string(), format!("[{}]", ordered(inner.as_bytes()))),
        (name, other) => (name.to_string(), format!("{other:?}")),
    });
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|left, right| left.0.cmp(&right.0));
    format!("{fields:?}")
}

fn tells(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == b"SECRET")
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 50_000, ..ProptestConfig::with_cases(1500) })]

    /// Masked and omitted values reach nothing: whatever they are, and wherever their names lead through objects and
    /// arrays, all that leaves the process is the same. So no form of them can be in it.
    #[test]
    fn secrets_make_no_difference(tree in secrets()) {
        let one = tree.with(&Bson::String("SECRET".into()));
        let other = tree.with(&Bson::Array(vec![Bson::Int32(7), Bson::Document(doc! { "x": 1, "gone": 2 })]));
        for options in [
            "extra = \"_extra\"",
            "extra = \"_extra\"\non_unfit = \"dead_letter\"",
            "on_unfit = \"fail\"",
        ] {
            let mapping = secretive(options);
            let rows = encode(&mapping, &one);
            prop_assert_eq!(&rows, &encode(&mapping, &other));
            let columns = rows.iter().flat_map(|rows| rows.values().flatten().flatten().flatten());
            prop_assert!(columns.into_iter().all(|column| !tells(column)));
        }
        let mapping = hidden();
        let censored = mapping.censored(&one).unwrap();
        prop_assert_eq!(Some(censored.clone()), mapping.censored(&other));
        prop_assert!(!tells(&censored));
        let document = RawDocumentBuf::from_bytes(censored.clone()).unwrap();
        prop_assert_eq!(mapping.censored(&document), Some(censored));
        // In document mode the same fields can only be omitted.
        let paths = "[\"gone\", \"card\", \"born\", \"list\", \"o.p.gone\", \"o.nick\", \"q[].gone\", \"u.v.gone\", \
            \"m[].gone\", \"m[].body\", \"z.pin\", \"g[][].k.pin\"]";
        let mapping = mapped(&format!("extra = \"_extra\"\nomit = {paths}"), "bigint", "[document]");
        prop_assert_eq!(encode(&mapping, &one), encode(&mapping, &other));
    }

    /// What is not hidden is all there: if nothing had to be withheld, the rows rebuild what censoring leaves.
    #[test]
    fn all_that_is_no_secret_is_kept(tree in secrets()) {
        let mapping = hidden();
        let document = tree.document();
        let censored = mapping.censored(&document).unwrap();
        prop_assume!(!censored.windows(8).any(|window| window == b"withheld"));
        let mut rows = Rows::new(mapping.tables().len());
        Encoder::new(Arc::clone(&mapping), Framing::Copy).encode(&document, &mut rows).unwrap();
        let rebuilt = Rebuilder::new(&mapping).document(&rows).unwrap();
        prop_assert_eq!(ordered(rebuilt.as_bytes()), ordered(&censored));
    }

    #[test]
    fn censoring_never_panics(tree in secrets(), position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = tree.document().into_bytes();
        let at = position.index(bytes.len());
        bytes[at] = byte;
        if let Ok(document) = RawDocumentBuf::from_bytes(bytes) {
            let _ = hidden().censored(&document);
            let _ = encode(&hidden(), &document);
        }
    }
}
