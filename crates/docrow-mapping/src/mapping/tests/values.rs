//! Each value in each type of column.

use super::*;

#[test]
fn values_that_fit() {
    let micros = |unix_millis: i64| ((unix_millis - 946_684_800_000) * 1000).to_be_bytes();
    fits("boolean", true, &[1]);
    fits("integer", -5, &(-5_i32).to_be_bytes());
    fits("bigint", i64::MIN, &i64::MIN.to_be_bytes());
    fits("double precision", 0.1, &0.1_f64.to_be_bytes());
    fits("double precision", f64::NEG_INFINITY, &f64::NEG_INFINITY.to_be_bytes());
    fits("numeric", decimal("1.50"), &[0, 2, 0, 0, 0, 0, 0, 2, 0, 1, 0x13, 0x88]);
    fits("numeric", decimal("NaN"), &[0, 0, 0, 0, 0xc0, 0, 0, 0]);
    fits("text", "é", "é".as_bytes());
    fits("text", ObjectId::from_bytes([0xab; 12]), b"abababababababababababab");
    fits("bytea", ObjectId::from_bytes([0xab; 12]), &[0xab; 12]);
    fits("bytea", Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2] }, &[1, 2]);
    fits("uuid", Binary { subtype: BinarySubtype::Uuid, bytes: vec![9; 16] }, &[9; 16]);
    fits("timestamptz", DateTime::from_millis(0), &micros(0));
    fits("timestamptz", DateTime::from_millis(-1), &micros(-1));
    fits(
        "jsonb",
        doc! { "b": 1, "a": [true, Bson::Null] },
        b"\x01{\"b\":{\"$numberInt\":\"1\"},\"a\":[true,null]}",
    );
    fits("jsonb", Bson::Null, b"\x01null");
    fits("text[]", Vec::<String>::new(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25]);
    let array = [
        0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 23, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255,
        255,
    ];
    fits("integer[]", vec![Bson::Int32(7), Bson::Null], &array);
}

/// Traps: 3.5, numbers out of range, NUL, dates and subtypes that PostgreSQL lacks. The column is NULL, and
/// `extra` has the value.
#[test]
fn values_that_do_not_fit() {
    misfit("bigint", 3.5, json!({ "$numberDouble": "3.5" }));
    misfit("bigint", 9_223_372_036_854_775_808.0, json!({ "$numberDouble": "9.223372036854776e18" }));
    misfit("integer", 1_i64 << 31, json!({ "$numberLong": "2147483648" }));
    misfit("double precision", 9_007_199_254_740_993_i64, json!({ "$numberLong": "9007199254740993" }));
    misfit("double precision", decimal("0.1"), json!({ "$numberDecimal": "0.1" }));
    misfit("numeric", 0.1, json!({ "$numberDouble": "0.1" }));
    misfit("numeric", decimal("-Infinity"), json!({ "$numberDecimal": "-Infinity" }));
    misfit("text", "a\0b", json!({ "$docrow": { "string": "YQBi" } }));
    misfit("text", 1, json!({ "$numberInt": "1" }));
    misfit("text", true, json!(true));
    misfit("text", Bson::Null, json!(null));
    misfit("boolean", 1, json!({ "$numberInt": "1" }));
    let millis = |millis: i64| json!({ "$date": { "$numberLong": millis.to_string() } });
    for outside in [i64::MAX, i64::MIN, -210_866_803_200_001, 9_224_318_016_000_000] {
        misfit("timestamptz", DateTime::from_millis(outside), millis(outside));
    }
    misfit("timestamptz", Timestamp { time: 1, increment: 2 }, json!({ "$timestamp": { "t": 1, "i": 2 } }));
    let binary = |subtype, bytes: &[u8]| Binary { subtype, bytes: bytes.to_vec() };
    misfit(
        "uuid",
        binary(BinarySubtype::UuidOld, &[0; 3]),
        json!({ "$binary": { "base64": "AAAA", "subType": "03" } }),
    );
    misfit(
        "bytea",
        binary(BinarySubtype::Md5, &[0; 3]),
        json!({ "$binary": { "base64": "AAAA", "subType": "05" } }),
    );
    misfit("integer[]", vec![Bson::Int32(1), Bson::String("x".into())], json!([{ "$numberInt": "1" }, "x"]));
    misfit("integer[]", 1, json!({ "$numberInt": "1" }));
    misfit("integer[]", vec![Bson::Array(vec![])], json!([[]]));
    misfit("integer", vec![1], json!([{ "$numberInt": "1" }]));
}

/// The first and last instants that PostgreSQL can represent.
#[test]
fn dates_at_the_limits_fit() {
    for inside in [-210_866_803_200_000, 9_224_318_015_999_999] {
        assert!(column("timestamptz", DateTime::from_millis(inside)).0.is_some(), "{inside}");
    }
}

/// What `numeric` and `bigint` can't represent of a Decimal128 or of -0 is noted beside the value.
#[test]
fn values_that_are_more_than_their_column_says() {
    let noted = |ty, value: Bson, note| {
        let (bytes, extra) = column(ty, value);
        assert!(bytes.is_some());
        assert_eq!(extra, json!({ "a": note }));
    };
    noted("numeric", decimal("1E+3").into(), json!({ "$numberDecimal": "1E+3" }));
    noted("numeric", decimal("-0.0").into(), json!({ "$numberDecimal": "-0.0" }));
    noted("numeric", (-0.0).into(), json!({ "$numberDouble": "-0.0" }));
    noted("bigint", (-0.0).into(), json!({ "$numberDouble": "-0.0" }));
    noted("bigint", decimal("7.00").into(), json!({ "$numberDecimal": "7.00" }));
    noted("double precision", decimal("0.50").into(), json!({ "$numberDecimal": "0.50" }));
}

/// Every BSON type has a canonical Extended JSON form.
#[test]
fn extra_holds_every_type() {
    let document = doc! {
        "_id": 1,
        "double": 1.5, "nan": f64::NAN, "text": "q\"\\\n\u{1}é", "object": { "x": 1_i64 }, "array": [1, [2]], "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![255; 16] },
        "undefined": Bson::Undefined, "oid": ObjectId::from_bytes([1; 12]), "bool": false, "date": DateTime::from_millis(-1), "null": Bson::Null,
        "regex": Regex { pattern: "^a\"".try_into().unwrap(), options: "ix".try_into().unwrap() },
        "code": Bson::JavaScriptCode("x".into()), "symbol": Bson::Symbol("s".into()),
        "scope": JavaScriptCodeWithScope { code: "c".into(), scope: doc! { "a": { "b": 1 } } },
        "timestamp": Timestamp { time: u32::MAX, increment: 2 }, "min": Bson::MinKey, "max": Bson::MaxKey,
        "decimals": (["1.50", "1E+3", "-1.5E-10", "0.00001", "1234E-2", "0E-7"].map(|text| Bson::Decimal128(decimal(text))).to_vec()),
    };
    let note = extra(&mapping(""), &RawDocumentBuf::try_from(&document).unwrap());
    let decimals = ["1.50", "1E+3", "-1.5E-10", "0.00001", "12.34", "0E-7"]
        .map(|text| json!({ "$numberDecimal": text }));
    let expected = json!({
        "double": { "$numberDouble": "1.5" }, "nan": { "$numberDouble": "NaN" }, "text": "q\"\\\n\u{1}é", "object": { "x": { "$numberLong": "1" } },
        "array": [{ "$numberInt": "1" }, [{ "$numberInt": "2" }]], "uuid": { "$binary": { "base64": "/////////////////////w==", "subType": "04" } },
        "undefined": { "$undefined": true }, "oid": { "$oid": "010101010101010101010101" }, "bool": false, "date": { "$date": { "$numberLong": "-1" } },
        "null": null, "regex": { "$regularExpression": { "pattern": "^a\"", "options": "ix" } }, "code": { "$code": "x" }, "symbol": { "$symbol": "s" },
        "scope": { "$code": "c", "$scope": { "a": { "b": { "$numberInt": "1" } } } }, "timestamp": { "$timestamp": { "t": u32::MAX, "i": 2 } },
        "min": { "$minKey": 1 }, "max": { "$maxKey": 1 },
        "decimals": decimals,
    });
    assert_eq!(note, expected);
}

/// This crate's text of a Decimal128 is the specification's.
#[test]
fn decimals_are_written_as_the_specification_says() {
    for text in [
        "0",
        "-0",
        "0.000001",
        "1E-7",
        "12345678901234567890.1234",
        "9.999999999999999999999999999999999E+6144",
        "1E-6176",
        "0E+6111",
    ] {
        let value = decimal(text);
        assert_eq!(column("text", value).1, json!({ "a": { "$numberDecimal": value.to_string() } }));
    }
}

#[test]
fn a_db_pointer_is_kept() {
    let mut document = rawdoc! { "_id": 1 }.into_bytes();
    document.pop();
    document.extend_from_slice(b"\x0cp\0\x03\0\0\0ns\0abcdefghijkl\0");
    let length = i32::try_from(document.len()).unwrap();
    document[..4].copy_from_slice(&length.to_le_bytes());
    let document = RawDocumentBuf::from_bytes(document).unwrap();
    let id = ObjectId::from_bytes(*b"abcdefghijkl").to_hex();
    assert_eq!(
        extra(&mapping(""), &document),
        json!({ "p": { "$dbPointer": { "$ref": "ns", "$id": { "$oid": id } } } })
    );
}
