//! What a mapping file that was changed asks of the tables that were made with it before.
//!
//! New tables and columns, and columns that become wider, can be had: the values are in `extra`. Anything else would
//! leave rows that are of neither mapping, and is refused with a list of what differs.

use super::{ColumnSpec, FieldPath, MappingSpec, OnDelete, TableSpec};
use crate::mapping::{Reading, Scalar};

/// How a mapping differs from the one before it, where it only adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Additions {
    /// The fields that now have a column or a table of their own, or a wider column: their values are to be taken out of
    /// `extra`.
    pub fields: Vec<FieldPath>,
}

/// What `new` adds to `old`. Errors: everything that is not an addition, a line each.
pub fn additions(old: &MappingSpec, new: &MappingSpec) -> Result<Additions, Vec<String>> {
    let mut change = Change::default();
    change.same("extra", &old.extra(), &new.extra());
    change.same("the key", old.key(), new.key());
    change.same("document mode", &old.document(), &new.document());
    change.same("omit", &old.omit(), &new.omit());
    if (old.on_delete(), new.on_delete()) == (OnDelete::Soft, OnDelete::Delete) {
        change.refused.push("on_delete: rows that are marked as deleted would stay".into());
    }
    if old.foreign_keys() && !new.foreign_keys() {
        change.refused.push("foreign_keys: those that exist would stay".into());
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
        change
            .refused
            .push("a mapping that masks or omits fields can't be added to: its rows don't tell all".into());
    }
    if change.refused.is_empty() { Ok(change.added) } else { Err(change.refused) }
}

impl MappingSpec {
    /// `new`, which adds to this mapping, with the column types of this one. `None`: then it adds nothing.
    pub fn unwidened(&self, new: &MappingSpec) -> Option<MappingSpec> {
        let mut narrow = new.clone();
        for table in std::iter::once(&mut narrow.root).chain(&mut narrow.children) {
            let Some(before) = self.tables().find(|before| before.table == table.table) else { continue };
            for column in &mut table.columns {
                if let Some(before) = before.columns.iter().find(|before| before.name == column.name) {
                    column.ty = before.ty;
                }
            }
        }
        (narrow != *self).then_some(narrow)
    }
}

#[derive(Default)]
struct Change {
    added: Additions,
    refused: Vec<String>,
}

impl Change {
    fn same<T: PartialEq>(&mut self, what: &str, old: &T, new: &T) {
        if old != new {
            self.refused.push(format!("{what} differs"));
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
            self.refused.push(format!("{full}: its path was \"{}\"", old.path));
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

/// Whether every value of the column reads back from the new one as what it was.
fn widens(old: &ColumnSpec, new: &ColumnSpec) -> bool {
    let is = |column: &ColumnSpec, scalar, reading| {
        !column.ty.array && column.ty.scalar == scalar && column.ty.reading == reading
    };
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
        assert_eq!(added(A, &A.replace("integer", "bigint")), ["a"]);
    }

    #[test]
    fn what_is_new_can_be_had_without_what_is_wider() {
        let wide = A.replace("integer", "bigint");
        assert_eq!(spec(A).unwidened(&spec(&wide)), None);
        let more = "b = { path = \"b\", type = \"text\" }\n";
        let narrow = spec(A).unwidened(&spec(&format!("{wide}{more}")));
        assert_eq!(narrow, Some(spec(&format!("{A}{more}"))));
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
