//! What a changed mapping file means for the tables that were created with the previous one.
//!
//! New tables and columns, and columns that become wider, are possible: the values are in `extra`
//! ([`super::widening`]). Any other change would leave rows that match neither mapping, and is refused with a
//! list of the differences.

use super::{ColumnSpec, FieldPath, MappingSpec, OnDelete, TableSpec};
use crate::{
    model::table::{ColumnType, Reading, Scalar},
    shown,
};

/// How a mapping differs from the previous one, if it only adds to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingAdditions {
    /// The fields that now have a column or a table, or a wider column: their values must be moved
    /// out of `extra`.
    pub fields: Vec<FieldPath>,
}

/// What `new` adds to `old`. Errors: everything that is not an addition, one line each.
pub fn additions(old: &MappingSpec, new: &MappingSpec) -> Result<MappingAdditions, Vec<String>> {
    let mut change = MappingDifferences::default();
    change.goes_on(old, new);
    let (old, new) = (&old.settled(), &new.settled());
    change.same("extra", &old.extra(), &new.extra());
    change.same("the key", old.key(), new.key());
    change.same("document mode", &old.document(), &new.document());
    change.same("omit", &old.omit(), &new.omit());
    if (old.on_delete(), new.on_delete()) == (OnDelete::Soft, OnDelete::Delete) {
        change.refused.push("on_delete: rows that are already marked as deleted would stay".into());
    }
    if old.foreign_keys() && !new.foreign_keys() {
        change.refused.push("foreign_keys: existing ones would stay".into());
    }
    for before in old.tables() {
        match new.tables().find(|after| after.table == before.table) {
            Some(after) => change.table(before, after),
            None => change.refused.push(format!("table {} is gone", before.table)),
        }
    }
    let is_new = |table: &&TableSpec| old.tables().all(|before| before.table != table.table);
    change.added.fields.extend(new.tables().filter(is_new).map(|table| table.path.clone()));
    let hides = |spec: &MappingSpec| {
        let mut columns = spec.tables().flat_map(|table| &table.columns);
        !spec.omit().is_empty() || columns.any(|column| column.mask.is_some())
    };
    if !change.added.fields.is_empty() && (hides(old) || hides(new)) {
        change.refused.push(
            "a mapping that masks or omits fields can't grow: its rows don't contain all values".into(),
        );
    }
    if change.refused.is_empty() { Ok(change.added) } else { Err(change.refused) }
}

#[derive(Default)]
struct MappingDifferences {
    added: MappingAdditions,
    refused: Vec<String>,
}

impl MappingDifferences {
    fn same<T: PartialEq>(&mut self, what: &str, old: &T, new: &T) {
        if old != new {
            self.refused.push(format!("{what} differs"));
        }
    }

    /// A column that is about to replace another is not widened again.
    fn goes_on(&mut self, old: &MappingSpec, new: &MappingSpec) {
        for (before, after) in
            old.tables().filter_map(|old| Some((old, new.tables().find(|new| new.table == old.table)?)))
        {
            for column in before.columns.iter().filter(|column| column.was.is_some()) {
                let name = column.settled_name();
                let after = after.columns.iter().find(|after| after.settled_name() == name);
                if after.is_some_and(|after| after.ty != column.ty) {
                    let (table, ty) = (&before.table, column.ty.sql());
                    self.refused.push(format!(
                        "column {table}.{name} is currently becoming {ty}: let docrow run finish that"
                    ));
                }
            }
        }
    }

    fn table(&mut self, old: &TableSpec, new: &TableSpec) {
        let name = &old.table;
        if (&old.path, &old.parent, &old.ordinals) != (&new.path, &new.parent, &new.ordinals) {
            self.refused.push(format!("table {name}: its path, parent or ordinals differ"));
        }
        for before in &old.columns {
            match new.columns.iter().find(|after| after.name == before.name) {
                Some(after) => self.column(old, before, after),
                None => self.refused.push(format!("column {name}.{} is gone", before.name)),
            }
        }
        let is_new = |column: &&ColumnSpec| old.columns.iter().all(|before| before.name != column.name);
        self.added.fields.extend(new.columns.iter().filter(is_new).map(|column| new.path.join(&column.path)));
    }

    fn column(&mut self, table: &TableSpec, old: &ColumnSpec, new: &ColumnSpec) {
        let full = format!("column {}.{}", table.table, old.name);
        if old.path != new.path {
            self.refused.push(format!("{full}: its path was \"{}\"", shown::name(&old.path.to_string())));
        } else if old.mask != new.mask {
            self.refused.push(format!("{full}: its mask differs"));
        } else if old.ty != new.ty {
            if !widens(old, new) {
                self.refused.push(format!("{full}: its type was {}", old.ty.sql()));
            }
            self.added.fields.push(table.path.join(&old.path));
        }
    }
}

/// Whether the column may become the other: values of the old one that the new one does not hold are rare.
fn widens(old: &ColumnSpec, new: &ColumnSpec) -> bool {
    let (from, to) = (old.ty, new.ty);
    let widens = match to.scalar {
        Scalar::Jsonb => from.scalar != Scalar::Jsonb || from.array,
        wider => {
            let reads_alike = from.scalar.other_reading() == wider.other_reading();
            from.scalar.widens_to().contains(&wider)
                && (!reads_alike || from.reading == to.reading)
                && !from.array
        }
    };
    widens && !to.array && new.mask.is_none()
}

/// Whether rows represent the same values when only the type of their column changes: each value reads back
/// unchanged.
pub(super) fn keeps_rows(old: ColumnType, new: ColumnType) -> bool {
    let is = |ty: ColumnType, scalar, reading| !ty.array && ty.scalar == scalar && ty.reading == reading;
    let same = |reading| is(old, Scalar::Integer, reading) && is(new, Scalar::Bigint, reading);
    let to_number = is(old, Scalar::Bigint, Reading::Usual) && is(new, Scalar::Double, Reading::Number);
    same(Reading::Usual) || same(Reading::Long) || to_number
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"id\"\ntype = \"bigint\"\n";

    fn spec(rest: &str) -> MappingSpec {
        MappingSpec::parse(&format!("{HEAD}{rest}"), "t.toml").unwrap()
    }

    fn added(old: &str, new: &str) -> Vec<String> {
        let added = additions(&spec(old), &spec(new)).unwrap();
        added.fields.iter().map(FieldPath::to_string).collect()
    }

    fn refused(old: &str, new: &str) -> String {
        additions(&spec(old), &spec(new)).unwrap_err().join("; ")
    }

    const A: &str = "[columns]\na = { path = \"a\", type = \"integer\" }\n";
    const CHILD: &str = "[[tables]]\ntable = \"c\"\npath = \"list[]\"\nparent = \"p\"\nordinals = [\"n\"]\n";

    #[test]
    fn new_columns_tables_and_wider_types_are_additions() {
        assert!(added(A, A).is_empty());
        assert_eq!(added(A, &format!("{A}b = {{ path = \"x.b\", type = \"text\" }}\n")), ["x.b"]);
        assert_eq!(added(A, &format!("{A}{CHILD}")), ["list[]"]);
        let columns = "columns = { v = { path = \"v\", type = \"text\" } }\n";
        assert_eq!(added(&format!("{A}{CHILD}"), &format!("{A}{CHILD}{columns}")), ["list[].v"]);
        for wider in ["bigint", "double precision", "numeric", "jsonb"] {
            assert_eq!(added(A, &A.replace("integer", wider)), ["a"]);
        }
    }

    #[test]
    fn what_is_being_widened_is_not_widened_once_more() {
        let wide = |ty: &str| spec(&A.replace("integer", ty));
        let under_way = spec(A).beside(&wide("numeric"));
        assert_eq!(additions(&under_way, &wide("numeric")), Ok(MappingAdditions::default()));
        let refused = additions(&under_way, &wide("double precision")).unwrap_err().join("; ");
        assert!(refused.starts_with("column t.a is currently becoming numeric"), "{refused}");
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(refused(A, ""), "column t.a is gone");
        assert_eq!(refused(A, &A.replace("\"a\"", "\"z\"")), "column t.a: its path was \"a\"");
        assert_eq!(refused(A, &A.replace("integer", "text")), "column t.a: its type was integer");
        assert_eq!(refused(CHILD, ""), "table c is gone");
        let renamed = CHILD.replace("\"p\"", "\"q\"");
        assert_eq!(refused(CHILD, &renamed), "table c: its path, parent or ordinals differ");
        let masked = A.replace("integer\"", "text\", mask = \"redact\"");
        let more = format!("{masked}b = {{ path = \"b\", type = \"text\" }}\n");
        assert!(refused(&masked, &more).starts_with("a mapping that masks or omits"));
    }
}
