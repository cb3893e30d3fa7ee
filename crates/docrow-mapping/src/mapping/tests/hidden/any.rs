//! Any document with secrets in it.

use proptest::prelude::*;

use super::*;

/// A document with any fields in any order, also several of one name.
#[derive(Clone, Debug)]
enum AnyTree {
    Leaf(Bson),
    Object(Vec<(String, AnyTree)>),
    Array(Vec<AnyTree>),
}

impl AnyTree {
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
            AnyTree::Leaf(value) => {
                let one = RawDocumentBuf::try_from(&doc! { "": value.clone() }).unwrap().into_bytes();
                (one[4], one[6..one.len() - 1].to_vec())
            }
            AnyTree::Object(fields) => {
                whole(3, fields.iter().map(|(name, value)| (name.clone(), value.bytes())).collect())
            }
            AnyTree::Array(elements) => whole(
                4,
                elements.iter().enumerate().map(|(i, value)| (i.to_string(), value.bytes())).collect(),
            ),
        }
    }

    fn document(&self) -> RawDocumentBuf {
        RawDocumentBuf::from_bytes(self.bytes().1).unwrap()
    }

    /// Puts `secret` at the end of `path`, through arrays of any depth.
    fn replace(&mut self, path: &[&str], secret: &Bson) {
        match (self, path.split_first()) {
            (tree, None) => *tree = AnyTree::Leaf(secret.clone()),
            (AnyTree::Object(fields), Some((first, rest))) => {
                let named = fields.iter_mut().filter(|(name, _)| name == first);
                named.for_each(|(_, value)| value.replace(rest, secret));
            }
            (AnyTree::Array(elements), Some(_)) => {
                elements.iter_mut().for_each(|element| element.replace(path, secret));
            }
            (AnyTree::Leaf(_), Some(_)) => {}
        }
    }

    /// The document with all its secrets replaced.
    fn with(&self, secret: &Bson) -> RawDocumentBuf {
        let mut tree = self.clone();
        SECRETS.iter().for_each(|path| tree.replace(path, secret));
        tree.document()
    }
}

fn any_tree() -> impl Strategy<Value = AnyTree> {
    let leaf = prop_oneof![
        Just(Bson::Null),
        Just(Bson::Int32(1)),
        Just(Bson::Int64(2)),
        Just(Bson::Double(0.5)),
        "[a-z]{0,3}".prop_map(Bson::String),
    ];
    leaf.prop_map(AnyTree::Leaf).prop_recursive(4, 24, 4, |inner| {
        let name = prop::sample::select(vec![
            "o", "p", "m", "g", "k", "u", "v", "gone", "nick", "body", "pin", "c", "x",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(AnyTree::Array),
            prop::collection::vec((name, inner), 0..4).prop_map(|fields| AnyTree::Object(
                fields.into_iter().map(|(name, value)| (name.into(), value)).collect()
            )),
        ]
    })
}

/// A field on the path to a secret: with the expected values, or in arrays where there should be none, or
/// without the arrays that should be there.
fn any_secret() -> impl Strategy<Value = (String, AnyTree)> {
    let step = (0..5, any_tree(), any_tree());
    (0..SECRETS.len(), prop::collection::vec(step, 3), any_tree()).prop_map(|(secret, steps, end)| {
        let path = SECRETS[secret];
        let wrapped = path.iter().zip(steps).rev().fold(end, |value, (name, (form, beside, other))| {
            let object = |value| AnyTree::Object(vec![("x".into(), beside.clone()), ((*name).into(), value)]);
            match form {
                0 => AnyTree::Object(vec![((*name).into(), value)]),
                1 => object(value),
                2 => object(AnyTree::Array(vec![value])),
                3 => object(AnyTree::Array(vec![other, value])),
                _ => object(AnyTree::Array(vec![AnyTree::Array(vec![value])])),
            }
        });
        match wrapped {
            AnyTree::Object(mut fields) => fields.pop().unwrap(),
            _ => unreachable!("the last step makes an object"),
        }
    })
}

/// Documents that have secrets in the right and in the wrong places, and several fields of one name.
fn secrets() -> impl Strategy<Value = AnyTree> {
    let name = prop::sample::select(vec!["o", "m", "g", "q", "u", "z", "card", "c", "x"]);
    let other = (name, any_tree()).prop_map(|(name, value)| (name.to_owned(), value));
    prop::collection::vec(prop_oneof![2 => any_secret(), 1 => other], 0..6).prop_map(|fields| {
        let id = ("_id".to_owned(), AnyTree::Leaf(Bson::Int32(1)));
        AnyTree::Object(std::iter::once(id).chain(fields).collect())
    })
}

/// The fields and their values, ordered by name; fields of one name keep their order.
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

    /// Masked and omitted values have no effect: whatever they are, and wherever their names lead through
    /// objects and arrays, everything that leaves the process is the same. So it contains them in no form.
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

    /// Everything that is not hidden is kept: if nothing was withheld, the rows rebuild the censored
    /// document.
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
