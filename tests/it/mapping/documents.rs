//! Arbitrary documents, down to what no driver writes but MongoDB may hold: fields of one name, invalid
//! UTF-8, odd bits.

use mongodb::bson::{Decimal128, RawDocumentBuf};
use proptest::{collection::vec, prelude::*, sample::select};

/// A field: its name and value.
pub(super) type Field = (Vec<u8>, Value);

/// A value by its type and bytes, or by what is in it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Leaf(u8, Vec<u8>),
    Document(Vec<Field>),
    Array(Vec<Value>),
    CodeWithScope(Vec<u8>, Vec<Field>),
}

/// A whole document.
pub(super) fn document(fields: &[Field]) -> RawDocumentBuf {
    RawDocumentBuf::from_bytes(framed(fields.iter().map(|(name, value)| (name.clone(), value)))).unwrap()
}

fn framed<'a>(fields: impl Iterator<Item = (Vec<u8>, &'a Value)>) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for (name, value) in fields {
        let (kind, value) = value.encoded();
        bytes.extend([&[kind], &name[..], b"\0", &value].concat());
    }
    bytes.push(0);
    let length = i32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes
}

impl Value {
    fn encoded(&self) -> (u8, Vec<u8>) {
        match self {
            Value::Leaf(kind, bytes) => (*kind, bytes.clone()),
            Value::Document(fields) => {
                (0x03, framed(fields.iter().map(|(name, value)| (name.clone(), value))))
            }
            Value::Array(elements) => (
                0x04,
                framed(elements.iter().enumerate().map(|(i, value)| (i.to_string().into_bytes(), value))),
            ),
            Value::CodeWithScope(code, scope) => {
                let inner =
                    [text(code), framed(scope.iter().map(|(name, value)| (name.clone(), value)))].concat();
                (0x0f, [&i32::try_from(inner.len() + 4).unwrap().to_le_bytes()[..], &inner].concat())
            }
        }
    }
}

/// A string's bytes, after its length.
pub(super) fn text(text: &[u8]) -> Vec<u8> {
    [&i32::try_from(text.len() + 1).unwrap().to_le_bytes()[..], text, b"\0"].concat()
}

fn leaf<T: std::fmt::Debug>(
    kind: u8,
    values: impl Strategy<Value = T> + 'static,
    bytes: impl Fn(T) -> Vec<u8> + 'static,
) -> BoxedStrategy<Value> {
    values.prop_map(move |value| Value::Leaf(kind, bytes(value))).boxed()
}

fn double() -> impl Strategy<Value = u64> {
    let awkward = [
        0.0,
        -0.0,
        1.0,
        -5.0,
        0.5,
        0.1,
        1e15,
        1e16,
        -1e22,
        9_007_199_254_740_993.0,
        9.3e18,
        2_147_483_648.0,
        5e-324,
        1e308,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE,
    ];
    let odd = [0xfff8_0000_0000_0000, 0x7ff8_0000_0000_0012, 0x7ff0_0000_0000_0001];
    prop_oneof![any::<u64>(), select(awkward.to_vec()).prop_map(f64::to_bits), select(odd.to_vec())]
}

fn string() -> impl Strategy<Value = Vec<u8>> {
    let awkward: [&[u8]; 17] = [
        b"",
        b"a\0b",
        b"\0",
        b"0123456789abcdef01234567",
        b"0123456789ABCDEF01234567",
        b"null",
        b"true",
        b"{",
        b"{}",
        b"[1]",
        b"\"a\"",
        b"\xff",
        b"a\xed\xa0\x80",
        "é".as_bytes(),
        "😀\u{feff}\u{fffe}".as_bytes(),
        b"\\u0000 \\ \" \n\x01\x7f",
        b"$a",
    ];
    prop_oneof![
        "(?s).{0,8}".prop_map(String::into_bytes),
        select(awkward.map(<[u8]>::to_vec).to_vec()),
        vec(any::<u8>(), 0..6),
    ]
}

/// Text without NUL.
fn c_string() -> impl Strategy<Value = Vec<u8>> {
    string().prop_map(|text| text.into_iter().filter(|&byte| byte != 0).collect())
}

fn decimal() -> impl Strategy<Value = Vec<u8>> {
    let awkward = [
        "0",
        "-0",
        "0.00",
        "1",
        "1.0",
        "-1.50",
        "1E+3",
        "1E-7",
        "123456789012345678.9012345678901234",
        "9.999E+6144",
        "9999999999999999999999999999999999",
        "1E-6176",
        "0E+6111",
        "0E-6176",
        "1E+6111",
        "NaN",
        "Infinity",
        "-Infinity",
        "2147483648",
    ];
    let usual = (any::<bool>(), any::<u64>(), -20_i32..3).prop_map(|(negative, digits, exponent)| {
        format!("{}{digits}E{exponent}", if negative { "-" } else { "" })
    });
    let parsed = |text: &str| text.parse::<Decimal128>().unwrap().bytes().to_vec();
    prop_oneof![
        any::<[u8; 16]>().prop_map(|bytes| bytes.to_vec()),
        select(awkward.to_vec()).prop_map(parsed),
        usual.prop_map(move |text| parsed(&text)),
    ]
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    let size = select(vec![0_usize, 1, 3, 4, 11, 12, 16, 20]);
    let bytes = size.prop_flat_map(|size| vec(any::<u8>(), size));
    let subtype = select(vec![0_u8, 0, 1, 2, 2, 3, 4, 5, 6, 9, 0x80]);
    (subtype, bytes, any::<bool>()).prop_map(|(subtype, bytes, consistent)| {
        let length = |bytes: &[u8]| i32::try_from(bytes.len()).unwrap().to_le_bytes();
        let content = if subtype == 2 && consistent { [&length(&bytes)[..], &bytes].concat() } else { bytes };
        [&length(&content)[..], &[subtype], &content].concat()
    })
}

fn number() -> BoxedStrategy<Value> {
    prop_oneof![
        leaf(0x10, prop_oneof![any::<i32>(), -3..4_i32], |value| value.to_le_bytes().to_vec()),
        leaf(0x12, prop_oneof![any::<i64>(), -3..4_i64, any::<i32>().prop_map(i64::from)], |value| value
            .to_le_bytes()
            .to_vec()),
        leaf(0x01, double(), |value| value.to_le_bytes().to_vec()),
        leaf(0x13, decimal(), |value| value),
    ]
    .boxed()
}

/// A value without others in it, of any type.
pub(super) fn scalar() -> BoxedStrategy<Value> {
    let dates = [
        0,
        -1,
        253_402_300_799_999,
        253_402_300_800_000,
        -210_866_803_200_000,
        -210_866_803_200_001,
        i64::MAX,
    ];
    prop_oneof![
        4 => number(),
        3 => leaf(0x02, string(), |value| text(&value)),
        2 => leaf(0x05, binary(), |value| value),
        2 => leaf(0x07, any::<[u8; 12]>(), |value| value.to_vec()),
        1 => leaf(0x08, any::<bool>(), |value| vec![value.into()]),
        1 => leaf(0x09, prop_oneof![any::<i64>(), select(dates.to_vec()), 0..4_000_000_000_000_i64], |value| value.to_le_bytes().to_vec()),
        2 => leaf(0x0a, Just(()), |()| vec![]),
        1 => leaf(0x11, any::<u64>(), |value| value.to_le_bytes().to_vec()),
        1 => leaf(0x0b, (c_string(), c_string()), |(pattern, options)| [&pattern[..], b"\0", &options, b"\0"].concat()),
        1 => leaf(0x0c, (string(), any::<[u8; 12]>()), |(namespace, id)| [&text(&namespace)[..], &id].concat()),
        2 => (select(vec![0x0d_u8, 0x0e]), string()).prop_map(|(kind, code)| Value::Leaf(kind, text(&code))),
        1 => select(vec![0x06_u8, 0x7f, 0xff]).prop_map(|kind| Value::Leaf(kind, vec![])),
    ]
    .boxed()
}

/// Names that are likely to be mapped, and such that are trouble.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let usual = ["a", "b", "c", "n", "s", "o", "m", "g", "z", "k", "w", "x", "y", "firstName", "first_name"];
    let long = "long ".repeat(40);
    let awkward = [
        "",
        "0",
        "1",
        "_id",
        "_extra",
        "_ord",
        "x.y",
        ".",
        "\\",
        "a\\1",
        "a\\",
        "$a",
        "$ref",
        "$id",
        "$docrow",
        "$numberInt",
        "é",
        "😀",
        "\"; DROP TABLE t; --",
        &long,
    ]
    .map(|name| name.as_bytes().to_vec());
    prop_oneof![
        6 => select(usual.map(|name| name.as_bytes().to_vec()).to_vec()),
        2 => select(awkward.to_vec()),
        1 => vec(1_u8.., 0..3),
    ]
}

/// Any value, four levels deep.
fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 24, 4, |inner| {
        let fields = vec((name(), inner.clone()), 0..4).boxed();
        prop_oneof![
            2 => vec(inner, 0..4).prop_map(Value::Array),
            4 => fields.clone().prop_map(Value::Document),
            1 => (string(), fields).prop_map(|(code, scope)| Value::CodeWithScope(code, scope)),
        ]
    })
}

/// A field that is what its name promises, so that mappings take it apart; or anything. `columns` are more
/// names.
fn field(columns: &[&str]) -> impl Strategy<Value = Field> + use<> {
    let object = vec((name(), value()), 0..4).prop_map(Value::Document).boxed();
    let nested = (vec(object.clone(), 0..3), object.clone(), scalar()).prop_map(|(k, o, x)| {
        let fields = [("k", Value::Array(k)), ("o", o), ("x", x)];
        Value::Document(fields.map(|(name, value)| (name.as_bytes().to_vec(), value)).to_vec())
    });
    let objects =
        vec(prop_oneof![4 => nested.clone(), 2 => object.clone(), 1 => value()], 0..4).prop_map(Value::Array);
    let arrays = vec(prop_oneof![4 => objects.clone(), 1 => value()], 0..3).prop_map(Value::Array);
    let numbers =
        vec(prop_oneof![3 => number(), 1 => leaf(0x0a, Just(()), |()| vec![])], 0..4).prop_map(Value::Array);
    let column = select(
        columns.iter().map(|name| name.as_bytes().to_vec()).chain([b"n".to_vec()]).collect::<Vec<_>>(),
    );
    let named = |name: &str, value: BoxedStrategy<Value>| (Just(name.as_bytes().to_vec()), value);
    prop_oneof![
        3 => (name(), value()),
        2 => (column.clone(), scalar()),
        1 => (column, vec(scalar(), 0..3).prop_map(Value::Array)),
        1 => named("n", numbers.boxed()),
        1 => named("o", prop_oneof![object, nested.clone()].boxed()),
        1 => named("z", nested.boxed()),
        2 => named("m", objects.boxed()),
        1 => named("g", arrays.boxed()),
    ]
}

fn id() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => scalar(),
        3 => leaf(0x07, any::<[u8; 12]>(), |value| value.to_vec()),
        1 => leaf(0x05, any::<[u8; 16]>(), |value| [&[16, 0, 0, 0, 4][..], &value].concat()),
        1 => vec((name(), scalar()), 0..3).prop_map(Value::Document),
        1 => (-3..4_i32).prop_map(|id| Value::Leaf(0x10, id.to_le_bytes().to_vec())),
    ]
}

/// A document whose fields are often called like `columns`. Its `_id` may be anywhere in it, and anything.
pub(super) fn any_document(columns: &[&str]) -> impl Strategy<Value = RawDocumentBuf> + use<> {
    let fields = vec(field(columns), 0..8);
    (id(), fields, any::<proptest::sample::Index>(), 0..4).prop_map(|(id, mut fields, at, anywhere)| {
        let at = if anywhere == 0 { at.index(fields.len() + 1) } else { 0 };
        fields.insert(at, (b"_id".to_vec(), id));
        document(&fields)
    })
}
