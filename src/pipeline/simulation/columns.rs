//! The columns of rows, encoded as docrow writes them.

use std::collections::BTreeMap;

use mongodb::bson::RawDocumentBuf;
use serde_json::Value;

use crate::{
    error::{Error, Result},
    mapping::{Mapping, Rebuilder, Rows},
    model::table::Table,
};

/// The encoded columns of a row, by name. NULLs are left out.
pub(super) type RowColumns = BTreeMap<String, Vec<u8>>;

/// Rebuilds the document of a row.
pub(super) fn rebuild(mapping: &Mapping, columns: &RowColumns) -> Result<RawDocumentBuf> {
    let mut rows = Rows::new(mapping.tables().len());
    let (Some(root), Some(table)) = (mapping.tables().first(), rows.tables.first_mut()) else {
        return Err(Error::bug("simulation: a mapping without tables"));
    };
    let values: Vec<_> =
        root.columns.iter().map(|column| columns.get(&column.name).map(Vec::as_slice)).collect();
    table.push(&values);
    let document = Rebuilder::new(mapping).document(&rows);
    document.map_err(|corrupt| {
        Error::bug(format!("simulation: no document can be rebuilt from a row: {corrupt}"))
    })
}

/// The rows of a root table in [`Framing::Composite`](crate::mapping::Framing::Composite).
pub(super) fn composites<'a>(root: &'a Table, rows: &'a Rows) -> impl Iterator<Item = RowColumns> + 'a {
    let mut rest: &[u8] = rows.tables.first().map(|rows| &rows.bytes[..]).unwrap_or_default();
    std::iter::from_fn(move || {
        let (_, left) = rest.split_first_chunk::<4>()?;
        let (count, mut left) = left.split_first_chunk::<4>()?;
        let mut columns = RowColumns::new();
        for number in 0..usize::try_from(i32::from_be_bytes(*count)).unwrap() {
            let (length, value) = left[4..].split_first_chunk::<4>()?;
            left = value;
            if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
                let (value, next) = left.split_at(length);
                columns.insert(root.columns[number].name.clone(), value.to_vec());
                left = next;
            }
        }
        rest = left;
        Some(columns)
    })
}

/// The rows of a root table in [`Framing::Copy`](crate::mapping::Framing::Copy).
pub(super) fn tuples<'a>(root: &'a Table, rows: &'a Rows) -> impl Iterator<Item = RowColumns> + 'a {
    let tuples = rows.tables.first().into_iter().flat_map(|rows| rows.tuples());
    tuples.map(|tuple| {
        let columns = root.columns.iter().zip(tuple.columns());
        columns.filter_map(|(column, value)| Some((column.name.clone(), value?.to_vec()))).collect()
    })
}

/// Replaces these fields in the column `extra`, as a patch does.
pub(super) fn merge_extra(columns: &mut RowColumns, extra: &str, new: &RowColumns, fields: &[Box<str>]) {
    let object =
        |bytes: Option<&Vec<u8>>| match bytes.and_then(|bytes| serde_json::from_slice(&bytes[1..]).ok()) {
            Some(Value::Object(object)) => object,
            _ => serde_json::Map::new(),
        };
    let mut merged = object(columns.get(extra));
    let is_patched = |key: &str| {
        fields.iter().any(|field| {
            key == &**field || key.strip_prefix(&**field).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    merged.retain(|key, _| !is_patched(key));
    merged.extend(object(new.get(extra)));
    if merged.is_empty() {
        columns.remove(extra);
    } else {
        columns.insert(extra.to_owned(), [&[1], Value::Object(merged).to_string().as_bytes()].concat());
    }
}

/// The keys that a row has in `extra`.
pub(super) fn in_extra(mapping: &Mapping, columns: &RowColumns) -> Vec<String> {
    let extra = mapping.extra().and_then(|extra| columns.get(&extra.name));
    match extra.and_then(|extra| serde_json::from_slice(&extra[1..]).ok()) {
        Some(Value::Object(object)) => object.into_iter().map(|(key, _)| key).collect(),
        _ => Vec::new(),
    }
}
