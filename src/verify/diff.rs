//! The exact differences between the rows that a document should have and those that it has. Pure.

use std::collections::HashMap;

use super::{Difference, DifferenceKind};
use crate::{
    mapping::{Rows, TableRows, Tuple, same_value, value_text},
    model::{
        document_key,
        table::{Scalar, Table},
    },
};
use mongodb::bson::RawDocument;

/// The maximum length of a shown value, in bytes.
const SHOWN: usize = 10_000;

/// The differences of one document.
#[derive(Clone, Debug, Default)]
pub(super) struct DocumentDifferences {
    /// Their number.
    pub(super) count: u64,
    /// The first of them.
    pub(super) kept: Vec<Difference>,
}

/// How differences are reported.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiffOptions {
    /// The maximum number per document.
    pub(super) most: usize,
    /// Whether with values.
    pub(super) values: bool,
}

/// What a document should have.
#[derive(Clone, Copy, Debug)]
pub(super) enum WantedDocument<'a> {
    /// These rows, laid out by [`Framing::Copy`](crate::mapping::Framing::Copy).
    Rows(&'a Rows),
    /// A dead letter, and no rows.
    DeadLetter,
    /// Nothing: the document does not exist.
    Nothing,
}

/// What a document has.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundDocument<'a> {
    /// Its rows.
    pub(super) rows: Option<&'a Rows>,
    /// Whether it has a dead letter.
    pub(super) is_dead: bool,
}

impl DocumentDifferences {
    /// Compares. `key`: as in the key column; `id`: the document's `_id`, if it can have no key.
    pub(super) fn between(
        tables: &[Table],
        key: Option<&[u8]>,
        id: Option<&RawDocument>,
        wanted: WantedDocument<'_>,
        actual: FoundDocument<'_>,
        telling: DiffOptions,
    ) -> Self {
        let mut found = Self::default();
        let Some(root) = tables.first() else { return found };
        let none = TableRows::default();
        let id = || id.and_then(|id| document_key::id_text(id).ok());
        for (number, table) in tables.iter().enumerate() {
            let rows = actual.rows.and_then(|rows| rows.tables.get(number)).unwrap_or(&none);
            match wanted {
                WantedDocument::Rows(wanted) if !actual.is_dead => {
                    found.compare(table, wanted.tables.get(number).unwrap_or(&none), rows, telling);
                }
                WantedDocument::Nothing if rows.count > 0 => {
                    let key = key.map(|key| shown(key, root));
                    found.add(telling, || difference(&table.name, key, DifferenceKind::NoDocument));
                }
                WantedDocument::Nothing => {}
                _ => found.compare(table, &none, rows, telling),
            }
        }
        match wanted {
            WantedDocument::DeadLetter if !actual.is_dead => {
                let key = key.map(|key| shown(key, root)).or_else(id);
                found.add(telling, || difference(&root.name, key, DifferenceKind::NoDeadLetter));
            }
            WantedDocument::Nothing if actual.is_dead => {
                found.add(telling, || difference("docrow.dead_letters", id(), DifferenceKind::NoDocument));
            }
            _ => {}
        }
        found
    }

    fn compare(&mut self, table: &Table, wanted: &TableRows, actual: &TableRows, telling: DiffOptions) {
        let mut missing: HashMap<Vec<u8>, Tuple<'_>> = HashMap::with_capacity(wanted.count);
        for tuple in wanted.tuples() {
            missing.insert(primary_key(tuple, table), tuple);
        }
        for is in actual.tuples() {
            let Some(should) = missing.remove(&primary_key(is, table)) else {
                self.add(telling, || of_row(table, is, DifferenceKind::ExtraRow));
                continue;
            };
            for (column, (should, value)) in table.columns.iter().zip(should.columns().zip(is.columns())) {
                if !same_value(column.ty, should, value) {
                    self.add(telling, || {
                        let text = |value: Option<&[u8]>| {
                            value.filter(|_| telling.values).map(|value| cut(value_text(column.ty, value)))
                        };
                        let (expected, actual) = (text(should), text(value));
                        Difference {
                            expected,
                            actual,
                            ..of_row(table, is, DifferenceKind::Column(column.name.clone()))
                        }
                    });
                }
            }
        }
        // In the order of the rows.
        for tuple in wanted.tuples() {
            if missing.contains_key(&primary_key(tuple, table)) {
                self.add(telling, || of_row(table, tuple, DifferenceKind::MissingRow));
            }
        }
    }

    fn add(&mut self, telling: DiffOptions, difference: impl FnOnce() -> Difference) {
        self.count += 1;
        if self.kept.len() < telling.most {
            self.kept.push(difference());
        }
    }
}

/// A value may have 16 MB, and many are kept (G11).
fn cut(mut text: String) -> String {
    if text.len() > SHOWN {
        let end = (0..=SHOWN).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

fn of_row(table: &Table, row: Tuple<'_>, what: DifferenceKind) -> Difference {
    let mut columns = table.columns.iter().zip(row.columns()).take(table.key_columns);
    let key = columns.next().map(|(_, key)| shown(key.unwrap_or_default(), table));
    let ordinals = columns.map(|(column, value)| {
        (column.name.clone(), value.map_or_else(String::new, |value| value_text(column.ty, value)))
    });
    Difference { row: ordinals.collect(), ..difference(&table.name, key, what) }
}

/// A difference without values.
pub(super) fn difference(table: &str, key: Option<String>, what: DifferenceKind) -> Difference {
    let (expected, actual) = (None, None);
    Difference { table: table.to_owned(), key, row: Vec::new(), what, expected, actual, mended: false }
}

/// The leading columns of a row in one piece.
fn primary_key(row: Tuple<'_>, table: &Table) -> Vec<u8> {
    let mut key = Vec::new();
    for column in row.columns().take(table.key_columns).map(Option::unwrap_or_default) {
        key.extend_from_slice(&column.len().to_be_bytes());
        key.extend_from_slice(column);
    }
    key
}

/// A key for people.
fn shown(key: &[u8], table: &Table) -> String {
    match table.columns.first().map(|column| column.ty) {
        Some(ty) if ty.scalar == Scalar::Bigint || ty.scalar == Scalar::Integer => value_text(ty, key),
        Some(ty) if ty.scalar == Scalar::Text => String::from_utf8_lossy(key).into_owned(),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table::{Column, ColumnType};

    fn table(name: &str, key_columns: usize, columns: &[(&str, Scalar)]) -> Table {
        let column = |&(name, ty): &(&str, Scalar)| Column { name: name.into(), ty: ColumnType::scalar(ty) };
        let columns = columns.iter().map(column).collect();
        Table { name: name.into(), columns, key_columns, soft_delete: false }
    }

    fn rows(tables: [&[&[Option<&[u8]>]]; 2]) -> Rows {
        let mut rows = Rows::new(2);
        for (table, tuples) in rows.tables.iter_mut().zip(tables) {
            assert!(tuples.iter().all(|tuple| table.push(tuple)));
        }
        rows
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(cut("ab".repeat(SHOWN / 2)).len(), SHOWN);
        let long = cut(format!("x{}", "ü".repeat(SHOWN)));
        assert!(long.ends_with("ü…") && long.len() <= SHOWN + '…'.len_utf8(), "{}", long.len());
    }

    #[test]
    fn every_difference_is_told() {
        let tables = [
            table("t", 1, &[("id", Scalar::Bigint), ("n", Scalar::Text)]),
            table("c", 2, &[("id", Scalar::Bigint), ("_ord", Scalar::Bigint), ("n", Scalar::Text)]),
        ];
        let [seven, zero, one] = [7_i64, 0, 1].map(i64::to_be_bytes);
        let (k, o0, o1) = (Some(&seven[..]), Some(&zero[..]), Some(&one[..]));
        let wanted = rows([&[&[k, Some(b"a")]], &[&[k, o0, Some(b"x")]]]);
        let telling = DiffOptions { most: 10, values: true };
        let tell = |wanted, rows, is_dead| {
            let actual = FoundDocument { rows, is_dead };
            let found = DocumentDifferences::between(&tables, k, None, wanted, actual, telling);
            assert_eq!(found.count, u64::try_from(found.kept.len()).unwrap());
            found.kept.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(tell(WantedDocument::Rows(&wanted), Some(&wanted), false), none);
        let other = rows([&[&[k, None]], &[&[k, o1, Some(b"x")]]]);
        assert_eq!(
            tell(WantedDocument::Rows(&wanted), Some(&other), false),
            [
                "t, key 7: column n differs: NULL, not \"a\"",
                "c, key 7, _ord 1: unexpected row",
                "c, key 7, _ord 0: missing row"
            ]
        );
        assert_eq!(tell(WantedDocument::Rows(&wanted), None, false).len(), 2);
        assert_eq!(tell(WantedDocument::Rows(&wanted), None, true), none, "a dead letter has no rows");
        assert_eq!(tell(WantedDocument::Rows(&wanted), Some(&wanted), true).len(), 2);
        assert_eq!(tell(WantedDocument::DeadLetter, None, true), none);
        assert_eq!(
            tell(WantedDocument::DeadLetter, None, false),
            ["t, key 7: can't have rows, but is not a dead letter"]
        );
        assert_eq!(tell(WantedDocument::Nothing, None, false), none);
        assert_eq!(
            tell(WantedDocument::Nothing, Some(&wanted), false),
            ["t, key 7: no such document", "c, key 7: no such document"]
        );
    }
}
