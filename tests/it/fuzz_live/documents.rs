//! Random documents, `_id`s and values: what applications write, what old drivers wrote, and what should not
//! be written. Pure.

use fastrand::Rng;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, RawArrayBuf, RawBson, RawDocumentBuf, Regex,
    Timestamp, doc, oid::ObjectId, raw::CString, rawdoc, spec::BinarySubtype,
};

/// What a field mostly holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Int,
    Double,
    Decimal,
    Text,
    Date,
    Bool,
    Oid,
    Uuid,
    Bytes,
    Home,
    Lines,
    Texts,
    Ints,
    Grid,
    Any,
}

/// The fields that documents mostly have.
pub(super) const FIELDS: [(&str, Kind); 15] = [
    ("n", Kind::Int),
    ("total", Kind::Double),
    ("price", Kind::Decimal),
    ("name", Kind::Text),
    ("at", Kind::Date),
    ("ok", Kind::Bool),
    ("ref", Kind::Oid),
    ("uuid", Kind::Uuid),
    ("raw", Kind::Bytes),
    ("home", Kind::Home),
    ("lines", Kind::Lines),
    ("tags", Kind::Texts),
    ("nums", Kind::Ints),
    ("grid", Kind::Grid),
    ("any", Kind::Any),
];

/// Names that may be mistaken for something else.
pub(super) const ODD: [&str; 20] = [
    "",
    "0",
    "12",
    "007",
    "a.b",
    ".",
    "$set",
    "$x",
    "a\\b",
    "q[]",
    "Name",
    "home_city",
    "_extra",
    "_deleted_at",
    "_ord",
    "select",
    "Ünï x",
    "x\"; DROP TABLE y; --",
    "ID",
    "lines_qty",
];

/// How the `_id`s of a collection are generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ids {
    Ints,
    Texts,
    Oids,
    Embedded,
    Mixed,
}

impl Ids {
    pub(super) const ALL: [Self; 5] = [Self::Ints, Self::Texts, Self::Oids, Self::Embedded, Self::Mixed];
}

/// A field of a document under a name that may already exist.
pub(super) fn put(document: &mut RawDocumentBuf, name: &str, value: RawBson) {
    document.append(CString::try_from(name).unwrap(), value);
}

/// One of some.
pub(super) fn one_of<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())].clone()
}

/// One in `of` times.
pub(super) fn rarely(rng: &mut Rng, of: u32) -> bool {
    rng.u32(..of) == 0
}

fn raw(value: Bson) -> RawBson {
    RawBson::try_from(value).unwrap()
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap())
}

/// A number as one of the types that MongoDB considers equal.
pub(super) fn number(rng: &mut Rng, n: i32) -> Bson {
    match rng.u8(..10) {
        0 => Bson::Int64(n.into()),
        1 => Bson::Double(n.into()),
        2 => decimal(&n.to_string()),
        3 => decimal(&format!("{n}.0")),
        _ => Bson::Int32(n),
    }
}

/// One of few `_id`s, so that the same ones are met again, and equal ones of other types.
pub(super) fn id(rng: &mut Rng, ids: Ids) -> RawBson {
    let n = rng.i32(0..24);
    let ids = if ids == Ids::Mixed { one_of(rng, &Ids::ALL) } else { ids };
    raw(match ids {
        Ids::Ints => number(rng, n),
        Ids::Texts => match n {
            0 => "".into(),
            1 => "1".into(),
            2 => "313131313131313131313131".into(),
            3 => "{\"$oid\": 1}".into(),
            4 => "a\0b".into(),
            5 => "null".into(),
            _ => format!("id {n}").into(),
        },
        Ids::Oids => ObjectId::from_bytes([n as u8; 12]).into(),
        Ids::Embedded => match n {
            0 => doc! {}.into(),
            1 => doc! { "a": 1, "b": 2 }.into(),
            2 => doc! { "b": 2, "a": 1 }.into(),
            3 => doc! { "a.b": { "c": [1, 2] } }.into(),
            _ => doc! { "t": number(rng, n), "of": { "n": number(rng, 1) } }.into(),
        },
        Ids::Mixed => match n {
            0 => Bson::Null,
            1 => Bson::MinKey,
            2 => Bson::MaxKey,
            3 => Bson::Double(f64::NAN),
            4 => decimal("NaN"),
            5 => Bson::Double(-0.0),
            6 => Bson::Int32(0),
            7 => Bson::Double(2.5),
            8 => decimal("2.50"),
            9 => Bson::Int64(i64::MAX),
            10 => Bson::Boolean(true),
            11 => DateTime::from_millis(0).into(),
            12 => DateTime::MAX.into(),
            13 => Bson::Timestamp(Timestamp { time: 7, increment: 7 }),
            14 => Bson::Symbol("1".into()),
            15 => Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }),
            16 => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 16] }),
            17 => Bson::Double(f64::INFINITY),
            18 => decimal("1E+6000"),
            _ => Bson::Boolean(false),
        },
    })
}

/// A value of a kind; sometimes anything else.
pub(super) fn value(rng: &mut Rng, kind: Kind) -> RawBson {
    if rarely(rng, 9) {
        return anything(rng, 3);
    }
    match kind {
        Kind::Int => raw(match rng.u8(..20) {
            0 => Bson::Int64(rng.i64(..)),
            1 => Bson::Double(f64::from(rng.i8(..))),
            2 => Bson::Double(f64::from(rng.i8(..)) + 0.5),
            _ => Bson::Int32(rng.i32(-100..100)),
        }),
        Kind::Double => RawBson::Double(f64::from(rng.i32(-10_000..10_000)) / 8.0),
        Kind::Decimal => raw(decimal(&format!("{}.{:02}", rng.i16(..), rng.u8(..100)))),
        Kind::Text => RawBson::String(word(rng)),
        Kind::Date => raw(DateTime::from_millis(rng.i64(0..2_000_000_000_000)).into()),
        Kind::Bool => RawBson::Boolean(rng.bool()),
        Kind::Oid => RawBson::ObjectId(ObjectId::from_bytes([rng.u8(..); 12])),
        Kind::Uuid => raw(Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: vec![rng.u8(..); 16] })),
        Kind::Bytes => {
            raw(Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![9; rng.usize(..9)] }))
        }
        Kind::Home => RawBson::Document(home(rng)),
        Kind::Lines => array(rng, 4, |rng| RawBson::Document(line(rng, true))),
        Kind::Texts => array(rng, 4, |rng| RawBson::String(word(rng))),
        Kind::Ints => array(rng, 5, |rng| RawBson::Int32(rng.i32(0..20))),
        Kind::Grid => array(rng, 3, |rng| array(rng, 3, |rng| RawBson::Int32(rng.i32(0..9)))),
        Kind::Any => anything(rng, 2),
    }
}

fn word(rng: &mut Rng) -> String {
    one_of(rng, &["pen", "ink", "cup", "Lima", "Oslo", "é", "", "7", "true", "null", "31\n\t\\\"'"])
        .to_owned()
}

fn array(rng: &mut Rng, most: usize, mut element: impl FnMut(&mut Rng) -> RawBson) -> RawBson {
    let mut array = RawArrayBuf::new();
    (0..rng.usize(..=most)).for_each(|_| array.push(element(rng)));
    RawBson::Array(array)
}

fn home(rng: &mut Rng) -> RawDocumentBuf {
    let mut home = RawDocumentBuf::new();
    put(&mut home, "city", value(rng, Kind::Text));
    if rng.bool() {
        put(&mut home, "zip", value(rng, Kind::Int));
    }
    if rng.bool() {
        put(&mut home, "geo", RawBson::Document(rawdoc! { "lat": rng.f64(), "lon": rng.i32(..) }));
    }
    strange(rng, &mut home, 16);
    home
}

fn line(rng: &mut Rng, parts: bool) -> RawDocumentBuf {
    let mut line = RawDocumentBuf::new();
    if !rarely(rng, 5) {
        put(&mut line, "sku", value(rng, Kind::Text));
    }
    if !rarely(rng, 5) {
        put(&mut line, "qty", value(rng, Kind::Int));
    }
    if parts && rarely(rng, 3) {
        put(&mut line, "parts", array(rng, 3, |rng| RawBson::Document(line_of(rng))));
    }
    strange(rng, &mut line, 16);
    line
}

fn line_of(rng: &mut Rng) -> RawDocumentBuf {
    line(rng, false)
}

/// Sometimes a field with an odd name, or the same name again.
fn strange(rng: &mut Rng, document: &mut RawDocumentBuf, seldom: u32) {
    if rarely(rng, seldom) {
        let name = one_of(rng, &ODD);
        put(document, name, anything(rng, 2));
    }
    if rarely(rng, seldom) {
        let names: Vec<String> =
            document.iter().map(|field| field.unwrap().0.to_string()).filter(|name| name != "_id").collect();
        if !names.is_empty() {
            let name = one_of(rng, &names);
            put(document, &name, anything(rng, 1));
        }
    }
}

/// A document without an `_id`.
pub(super) fn fields(rng: &mut Rng) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, kind) in FIELDS {
        if rng.u8(..10) < 4 {
            put(&mut document, name, value(rng, kind));
        }
    }
    if rarely(rng, 6) {
        let name = format!("new{}", rng.u8(..6));
        let kind = one_of(rng, &[Kind::Int, Kind::Text, Kind::Lines, Kind::Home, Kind::Texts]);
        put(&mut document, &name, value(rng, kind));
    }
    strange(rng, &mut document, 5);
    document
}

/// A document.
pub(super) fn document(rng: &mut Rng, ids: Ids) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    put(&mut document, "_id", id(rng, ids));
    let fields = fields(rng);
    for field in fields.iter() {
        let (name, value) = field.unwrap();
        document.append(name, value);
    }
    document
}

/// A value of any type.
pub(super) fn anything(rng: &mut Rng, depth: u8) -> RawBson {
    let nests = if depth == 0 { 0 } else { 8 };
    let binary = |subtype, length| Bson::Binary(Binary { subtype, bytes: vec![5; length] });
    raw(match rng.u8(..34 + nests) {
        0 => Bson::Null,
        1 => Bson::Undefined,
        2 => Bson::MinKey,
        3 => Bson::MaxKey,
        4 => Bson::Boolean(true),
        5 => Bson::Int32(one_of(rng, &[0, 1, -1, i32::MIN, i32::MAX])),
        6 => Bson::Int64(one_of(rng, &[0, 1, i64::MIN, i64::MAX, (1 << 53) + 1])),
        7 => Bson::Double(one_of(rng, &[0.0, 1.0, 0.1, 1e300, 5e-324, 9_007_199_254_740_993.0])),
        8 => Bson::Double(-0.0),
        9 => Bson::Double(f64::NAN),
        10 => Bson::Double(one_of(rng, &[f64::INFINITY, f64::NEG_INFINITY])),
        11 => decimal(one_of(rng, &["1", "1.0", "1.00", "0E-10", "1E+3", "12345678901234567890.123456789"])),
        12 => decimal(one_of(rng, &["NaN", "-0", "Infinity", "-Infinity", "1E+6000", "1E-6000", "-0.00"])),
        13 => {
            DateTime::from_millis(one_of(rng, &[0, -1, 1, 253_402_300_800_000, -62_135_596_800_001])).into()
        }
        14 => {
            one_of(rng, &[DateTime::MIN, DateTime::MAX, DateTime::from_millis(-210_866_803_200_001)]).into()
        }
        15 => "a\0b".into(),
        16 => "".into(),
        17 => one_of(rng, &["1", "null", "true", "\\", "\u{202e}x", "2020-01-01T00:00:00Z"]).into(),
        18 => "long ".repeat(one_of(rng, &[10, 600, 3000])).into(),
        19 => "313131313131313131313131".into(),
        20 => ObjectId::from_bytes([0x31; 12]).into(),
        21 => binary(BinarySubtype::Generic, rng.usize(..20)),
        22 => binary(BinarySubtype::Uuid, 16),
        23 => binary(BinarySubtype::UuidOld, 16),
        24 => binary(
            one_of(rng, &[BinarySubtype::Md5, BinarySubtype::UserDefined(0x80), BinarySubtype::Function]),
            16,
        ),
        25 => Bson::RegularExpression(Regex {
            pattern: CString::try_from("^a.b$").unwrap(),
            options: CString::try_from("im").unwrap(),
        }),
        26 => Bson::JavaScriptCode("f()".into()),
        27 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "g()".into(),
            scope: doc! { "x": 1_i64 },
        }),
        28 => Bson::Timestamp(Timestamp { time: rng.u32(..), increment: 1 }),
        29 => Bson::Symbol("symbol".into()),
        30 => Bson::Document(doc! {}),
        31 => Bson::Array(vec![]),
        32 => Bson::Document(doc! { "$oid": "x" }),
        33 => Bson::Document(doc! { "$numberInt": "1" }),
        34..38 => return array(rng, 3, |rng| anything(rng, depth - 1)),
        38..40 => return RawBson::Document(home(rng)),
        _ => {
            let mut document = RawDocumentBuf::new();
            for name in ["x", "y", "12", "a.b", "z"] {
                if rng.bool() {
                    put(&mut document, name, anything(rng, depth - 1));
                }
            }
            strange(rng, &mut document, 8);
            return RawBson::Document(document);
        }
    })
}
