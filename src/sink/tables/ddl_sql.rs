//! The text of the SQL that creates and changes user tables. Pure.

use super::sql::{definition, key, list, names, qualified, quote};
use crate::model::table::{Column, Table};

/// A change of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnChange<'a> {
    /// Adds this column, with NULL in existing rows.
    Add(&'a Column),
    /// Changes this column to this type, which changes no value.
    Widen(&'a Column),
}

/// Creates the table, without indexes, on several lines. If `keyed` is false, the columns of the later
/// primary key are only `NOT NULL`.
pub fn create_table(schema: &str, table: &Table, keyed: bool) -> String {
    let columns = table.columns.iter().enumerate().map(|(i, column)| {
        format!("{}{}", definition(column), if i < table.key_columns { " NOT NULL" } else { "" })
    });
    let key = keyed.then(|| format!("PRIMARY KEY ({})", names("", key(table))));
    let lines: Vec<String> = columns.chain(key).collect();
    format!("CREATE TABLE {} (\n    {}\n)", qualified(schema, &table.name), lines.join(",\n    "))
}

/// Changes columns.
pub fn alter_table(schema: &str, table: &Table, actions: &[ColumnChange<'_>]) -> String {
    let action = |action: &ColumnChange<'_>| match action {
        ColumnChange::Add(column) => format!("ADD COLUMN {}", definition(column)),
        ColumnChange::Widen(column) => {
            format!("ALTER COLUMN {} TYPE {}", quote(&column.name), column.ty.sql())
        }
    };
    format!("ALTER TABLE {} {}", qualified(schema, &table.name), list(actions.iter().map(action)))
}

/// Makes the first column of a child table refer to that of the root.
pub fn add_foreign_key(schema: &str, child: &Table, root: &Table) -> String {
    let first = |table: &Table| names("", table.columns.get(..1).unwrap_or_default());
    let (table, referenced) = (qualified(schema, &child.name), qualified(schema, &root.name));
    format!(
        "ALTER TABLE {table} ADD FOREIGN KEY ({}) REFERENCES {referenced} ({})",
        first(child),
        first(root)
    )
}

/// Names, quoted, in a list.
pub fn quoted(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    list(names.into_iter().map(|name| quote(name.as_ref())))
}

/// Adds the primary key.
pub fn add_primary_key(schema: &str, table: &Table) -> String {
    format!("ALTER TABLE {} ADD PRIMARY KEY ({})", qualified(schema, &table.name), names("", key(table)))
}

/// Gathers the planner's statistics.
pub fn analyze(schema: &str, table: &Table) -> String {
    format!("ANALYZE {}", qualified(schema, &table.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::table::{ColumnType, Scalar};

    fn table(key_columns: usize, columns: &[(&str, Scalar)]) -> Table {
        let columns =
            columns.iter().map(|&(name, ty)| Column { name: name.into(), ty: ColumnType::scalar(ty) });
        Table { name: "t".into(), columns: columns.collect(), key_columns, soft_delete: false }
    }

    #[test]
    fn tables_are_created_bare() {
        assert_eq!(
            create_table("s", &table(1, &[("_id", Scalar::Bigint), ("n", Scalar::Text)]), false),
            "CREATE TABLE \"s\".\"t\" (\n    \"_id\" bigint NOT NULL,\n    \"n\" text\n)"
        );
    }

    #[test]
    fn columns_are_added_and_widened_in_one_statement() {
        let table = table(1, &[("_id", Scalar::Bigint), ("a", Scalar::Text), ("b", Scalar::Double)]);
        let actions = [ColumnChange::Add(&table.columns[1]), ColumnChange::Widen(&table.columns[2])];
        assert_eq!(
            alter_table("s", &table, &actions),
            r#"ALTER TABLE "s"."t" ADD COLUMN "a" text, ALTER COLUMN "b" TYPE double precision"#
        );
    }
}
