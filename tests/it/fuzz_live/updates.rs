//! Random writes as MongoDB's own commands: every update operator, pipelines, replacements, deletes, several
//! at once. Pure.
//!
//! Not all of them succeed: commands that the server refuses, it refuses each time.

use fastrand::Rng;
use mongodb::bson::{Bson, Document, RawArrayBuf, RawBson, RawDocumentBuf, doc, rawdoc};

use super::documents::{
    FIELDS, Ids, Kind, ODD, anything, document, fields, id, number, one_of, put, rarely, value,
};

/// Where updates go.
const PATHS: [&str; 24] = [
    "n",
    "total",
    "price",
    "name",
    "at",
    "ok",
    "home",
    "home.city",
    "home.zip",
    "home.geo.lat",
    "home.new",
    "lines",
    "lines.0.qty",
    "lines.1",
    "lines.3.sku",
    "lines.0.parts.0.qty",
    "tags",
    "tags.0",
    "nums.2",
    "grid.0.1",
    "any",
    "any.x",
    "12",
    "any.0",
];

/// Arrays in documents.
const ARRAYS: [&str; 6] = ["lines", "tags", "nums", "grid", "lines.0.parts", "any"];

/// The usual value at such a path.
fn kind_at(path: &str) -> Kind {
    match path {
        "home.city" | "home.new" | "lines.3.sku" | "tags.0" | "any.0" => Kind::Text,
        "home.geo.lat" => Kind::Double,
        "lines.1" => Kind::Home,
        "lines.0.parts" => Kind::Lines,
        _ => FIELDS.iter().find(|(name, _)| *name == path).map_or(Kind::Int, |(_, kind)| *kind),
    }
}

/// One write, or some, to a collection, as a command.
pub(super) fn write(rng: &mut Rng, collection: &str, ids: Ids) -> RawDocumentBuf {
    let some = if rarely(rng, 4) { rng.usize(2..9) } else { 1 };
    let list = |rng: &mut Rng, make: &mut dyn FnMut(&mut Rng) -> RawDocumentBuf| {
        let mut list = RawArrayBuf::new();
        (0..some).for_each(|_| list.push(make(rng)));
        list
    };
    match rng.u8(..20) {
        0..6 => {
            let documents = list(rng, &mut |rng| document(rng, ids));
            rawdoc! { "insert": collection, "documents": documents, "ordered": false }
        }
        6..8 => {
            let deletes = list(rng, &mut |rng| delete(rng, ids));
            rawdoc! { "delete": collection, "deletes": deletes, "ordered": false }
        }
        _ => {
            let updates = list(rng, &mut |rng| update(rng, ids));
            rawdoc! { "update": collection, "updates": updates, "ordered": false }
        }
    }
}

fn by_id(rng: &mut Rng, ids: Ids) -> RawDocumentBuf {
    let mut filter = RawDocumentBuf::new();
    put(&mut filter, "_id", id(rng, ids));
    filter
}

fn delete(rng: &mut Rng, ids: Ids) -> RawDocumentBuf {
    if rarely(rng, 8) {
        return rawdoc! { "q": { "n": { "$gt": rng.i32(40..100) } }, "limit": 0 };
    }
    rawdoc! { "q": by_id(rng, ids), "limit": 1 }
}

fn update(rng: &mut Rng, ids: Ids) -> RawDocumentBuf {
    let filter = by_id(rng, ids);
    match rng.u8(..20) {
        // The `_id` need not be unchanged, only equal.
        0..3 => rawdoc! { "q": filter, "u": document(rng, ids), "upsert": rng.bool() },
        3 => rawdoc! { "q": equal(rng, &filter), "u": replacement(rng, filter), "upsert": rng.bool() },
        4..6 => rawdoc! { "q": filter, "u": pipeline(rng) },
        6 => rawdoc! { "q": { "n": { "$gte": rng.i32(..100) } }, "u": simple(rng), "multi": true },
        7 => rawdoc! { "q": filter, "u": fields(rng), "upsert": true },
        8 => positional(rng, filter),
        9 => filtered(rng, filter),
        _ => rawdoc! { "q": filter, "u": operators(rng), "upsert": rarely(rng, 4) },
    }
}

/// A filter for the same document by an equal `_id`.
fn equal(rng: &mut Rng, filter: &RawDocumentBuf) -> RawDocumentBuf {
    let id = match filter.get("_id").unwrap() {
        Some(value) => Bson::try_from(value).unwrap(),
        None => Bson::Null,
    };
    let id = match id {
        Bson::Int32(n) => number(rng, n),
        Bson::Document(fields) => {
            let fields = fields.into_iter().map(|(name, value)| match value {
                Bson::Int32(n) => (name, number(rng, n)),
                other => (name, other),
            });
            Bson::Document(fields.collect())
        }
        other => other,
    };
    let mut equal = RawDocumentBuf::new();
    put(&mut equal, "_id", RawBson::try_from(id).unwrap());
    equal
}

fn replacement(rng: &mut Rng, id: RawDocumentBuf) -> RawDocumentBuf {
    let mut document = id;
    for field in fields(rng).iter() {
        let (name, value) = field.unwrap();
        document.append(name, value);
    }
    document
}

fn simple(rng: &mut Rng) -> RawDocumentBuf {
    match rng.u8(..4) {
        0 => rawdoc! { "$inc": { "n": 1 } },
        1 => rawdoc! { "$set": { "home.zip": rng.i32(..) } },
        2 => rawdoc! { "$push": { "nums": rng.i32(..9) } },
        _ => {
            let mut set = RawDocumentBuf::new();
            put(&mut set, &format!("new{}", rng.u8(..6)), value(rng, Kind::Int));
            rawdoc! { "$set": set }
        }
    }
}

/// By `$`.
fn positional(rng: &mut Rng, mut filter: RawDocumentBuf) -> RawDocumentBuf {
    put(&mut filter, "lines.qty", RawBson::Document(rawdoc! { "$gte": -50 }));
    let mut set = RawDocumentBuf::new();
    put(&mut set, one_of(rng, &["lines.$.qty", "lines.$.sku", "lines.$.extra"]), value(rng, Kind::Int));
    rawdoc! { "q": filter, "u": { "$set": set } }
}

/// By `$[]` and array filters.
fn filtered(rng: &mut Rng, filter: RawDocumentBuf) -> RawDocumentBuf {
    match rng.u8(..4) {
        0 => rawdoc! { "q": filter, "u": { "$inc": { "nums.$[]": 1 } } },
        1 => rawdoc! { "q": filter, "u": { "$set": { "lines.$[].qty": rng.i32(..9) } } },
        2 => rawdoc! {
            "q": filter, "u": { "$inc": { "nums.$[e]": 5 } }, "arrayFilters": [{ "e": { "$gte": 10 } }],
        },
        _ => rawdoc! {
            "q": filter, "u": { "$set": { "lines.$[e].parts": [{ "sku": "new" }] } },
            "arrayFilters": [{ "e.qty": { "$lt": 40 } }],
        },
    }
}

/// One or two operators.
fn operators(rng: &mut Rng) -> RawDocumentBuf {
    let mut update = RawDocumentBuf::new();
    let mut names = Vec::new();
    for _ in 0..=usize::from(rarely(rng, 3)) {
        let (name, operand) = operator(rng);
        if !names.contains(&name) {
            put(&mut update, name, RawBson::Document(operand));
            names.push(name);
        }
    }
    update
}

fn path(rng: &mut Rng) -> (String, Kind) {
    match rng.u8(..12) {
        0 => (format!("new{}", rng.u8(..6)), Kind::Int),
        1 => (one_of(rng, &ODD).to_owned(), Kind::Any),
        2 => {
            let (name, kind) = one_of(rng, &FIELDS);
            (name.to_owned(), kind)
        }
        _ => {
            let path = one_of(rng, &PATHS);
            (path.to_owned(), kind_at(path))
        }
    }
}

fn operator(rng: &mut Rng) -> (&'static str, RawDocumentBuf) {
    if rng.u8(..22) >= 15 {
        return on_array(rng);
    }
    let mut operand = RawDocumentBuf::new();
    let (path, kind) = path(rng);
    let numeric = one_of(rng, &["n", "total", "price", "home.zip", "lines.0.qty", "nums.1", "fresh"]);
    let mut set = |path: &str, value: RawBson| put(&mut operand, path, value);
    let name = match rng.u8(..15) {
        0..6 => {
            set(&path, value(rng, kind));
            if rng.bool() {
                let other = one_of(rng, &PATHS);
                set(other, value(rng, kind_at(other)));
            }
            "$set"
        }
        6..8 => {
            set(&path, RawBson::String(String::new()));
            "$unset"
        }
        8 | 9 => {
            let by = rng.i32(-9..9);
            set(numeric, RawBson::try_from(number(rng, by)).unwrap());
            "$inc"
        }
        10 => {
            set(numeric, one_of(rng, &[RawBson::Int32(2), RawBson::Double(0.5)]));
            "$mul"
        }
        11 => {
            set(&path, value(rng, kind));
            one_of(rng, &["$min", "$max"])
        }
        12 => {
            let to = one_of(rng, &["n", "moved", "home.moved", "any", "name"]);
            set(&path, RawBson::String(to.to_owned()));
            "$rename"
        }
        13 => {
            let ty = one_of(rng, &["date", "timestamp"]);
            set(one_of(rng, &["at", "n", "home.at"]), RawBson::Document(rawdoc! { "$type": ty }));
            "$currentDate"
        }
        _ => {
            set(&path, value(rng, kind));
            "$setOnInsert"
        }
    };
    (name, operand)
}

fn on_array(rng: &mut Rng) -> (&'static str, RawDocumentBuf) {
    let mut operand = RawDocumentBuf::new();
    let array = one_of(rng, &ARRAYS);
    let of = kind_at(array);
    let mut set = |path: &str, value: RawBson| put(&mut operand, path, value);
    let name = match rng.u8(..7) {
        0 | 1 => {
            set(array, push(rng, of));
            "$push"
        }
        2 => {
            set(array, pull(rng, array));
            "$pull"
        }
        3 => {
            let all = RawBson::try_from(Bson::Array(vec![1.into(), 2.into(), 3.into()]));
            set("nums", all.unwrap());
            "$pullAll"
        }
        4 => {
            set(array, RawBson::Int32(one_of(rng, &[1, -1])));
            "$pop"
        }
        5 => {
            let mut each = RawDocumentBuf::new();
            put(&mut each, "$each", elements(rng, of));
            set(array, RawBson::Document(each));
            "$addToSet"
        }
        _ => {
            let how = one_of(rng, &["and", "or", "xor"]);
            let mut bits = RawDocumentBuf::new();
            put(&mut bits, how, RawBson::Int32(rng.i32(..64)));
            set(one_of(rng, &["n", "nums.0"]), RawBson::Document(bits));
            "$bit"
        }
    };
    (name, operand)
}

/// Some elements for an array.
fn elements(rng: &mut Rng, kind: Kind) -> RawBson {
    match value(rng, kind) {
        array @ RawBson::Array(_) => array,
        other => {
            let mut array = RawArrayBuf::new();
            array.push(other);
            RawBson::Array(array)
        }
    }
}

fn push(rng: &mut Rng, kind: Kind) -> RawBson {
    let mut operand = RawDocumentBuf::new();
    put(&mut operand, "$each", elements(rng, kind));
    if rarely(rng, 3) {
        put(&mut operand, "$position", RawBson::Int32(rng.i32(-2..3)));
    }
    if rarely(rng, 3) {
        put(&mut operand, "$slice", RawBson::Int32(one_of(rng, &[3, -3, 5, 0])));
    }
    if rarely(rng, 4) {
        let by = if matches!(kind, Kind::Lines) {
            RawBson::Document(rawdoc! { "qty": one_of(rng, &[1, -1]) })
        } else {
            RawBson::Int32(one_of(rng, &[1, -1]))
        };
        put(&mut operand, "$sort", by);
    }
    RawBson::Document(operand)
}

fn pull(rng: &mut Rng, array: &str) -> RawBson {
    if array.starts_with("lines") {
        RawBson::Document(rawdoc! { "qty": { "$lt": rng.i32(-50..50) } })
    } else {
        value(rng, one_of(&mut rng.clone(), &[Kind::Int, Kind::Text]))
    }
}

/// An update that computes the new value.
fn pipeline(rng: &mut Rng) -> RawArrayBuf {
    let stage = |document: Document| RawDocumentBuf::try_from(&document).unwrap();
    let mut stages = RawArrayBuf::new();
    for _ in 0..=rng.usize(..2) {
        stages.push(match rng.u8(..8) {
            0 => stage(doc! { "$set": { "n": { "$add": [{ "$ifNull": ["$n", 0] }, 1] } } }),
            1 => {
                stage(doc! { "$set": { "name": { "$concat": [{ "$toString": "$n" }, "!"] }, "home.zip": 5 } })
            }
            2 => stage(doc! { "$unset": one_of(rng, &["home.city", "lines", "tags", "any", "lines.qty"]) }),
            3 => stage(doc! { "$set": { "lines.qty": rng.i32(..9) } }),
            4 => stage(
                doc! { "$set": { "nums": { "$concatArrays": [{ "$ifNull": ["$nums", []] }, [1, 2]] } } },
            ),
            5 => stage(doc! { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "any": { "x": "$name" } }] } }),
            6 => {
                let mut literal = RawDocumentBuf::new();
                put(&mut literal, "$literal", anything(rng, 2));
                let field = one_of(rng, &ODD);
                let mut set = RawDocumentBuf::new();
                put(&mut set, "field", RawBson::Document(rawdoc! { "$literal": field }));
                put(&mut set, "input", RawBson::String("$$ROOT".to_owned()));
                put(&mut set, "value", RawBson::Document(literal));
                rawdoc! { "$replaceWith": { "$setField": set } }
            }
            _ => stage(doc! { "$replaceWith": { "n": "$n", "name": "$name", "lines": "$lines" } }),
        });
    }
    stages
}
