//! The text of every SQL statement about user tables. Pure. Names reach SQL through [`quote`] alone.

use crate::mapping::{Column, Table};

/// An identifier, quoted: whatever it contains, it is a name and nothing else.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table's name with its schema.
pub fn qualified(schema: &str, table: &str) -> String {
    format!("{}.{}", quote(schema), quote(table))
}

/// Creates the bare table: no keys, no indexes; the columns of the later primary key are `NOT NULL`.
pub fn create_table(schema: &str, table: &Table) -> String {
    let columns = list(table.columns.iter().enumerate().map(|(i, column)| {
        let constraint = if i < table.key_columns { " NOT NULL" } else { "" };
        format!("{} {}{constraint}", quote(&column.name), column.ty.sql())
    }));
    format!("CREATE TABLE IF NOT EXISTS {} ({columns})", qualified(schema, &table.name))
}

/// Waits until no other transaction writes to the table, or changes it, and keeps it so.
pub fn lock(schema: &str, table: &Table) -> String {
    format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", qualified(schema, &table.name))
}

/// Adds the primary key.
pub fn add_primary_key(schema: &str, table: &Table) -> String {
    format!("ALTER TABLE {} ADD PRIMARY KEY ({})", qualified(schema, &table.name), names("", key(table)))
}

/// Gathers the planner's statistics.
pub fn analyze(schema: &str, table: &Table) -> String {
    format!("ANALYZE {}", qualified(schema, &table.name))
}

/// Receives tuples of [`Framing::Copy`](crate::mapping::Framing::Copy), between COPY's header and trailer.
pub fn copy_in(schema: &str, table: &Table) -> String {
    let columns = names("", &table.columns);
    format!("COPY {} ({columns}) FROM STDIN WITH (FORMAT binary)", qualified(schema, &table.name))
}

/// Creates the session's composite type for rows of a table. The table's own row type would do until someone
/// adds a column to the table.
pub fn create_row_type(row_type: &str, table: &Table) -> String {
    let columns =
        list(table.columns.iter().map(|column| format!("{} {}", quote(&column.name), column.ty.sql())));
    format!("CREATE TYPE pg_temp.{} AS ({columns})", quote(row_type))
}

/// `$1`: an array of rows, no key twice. Inserts those that are new, updates those that differ. `*<>`
/// compares the stored bytes: where `=` says that numeric 1.0 is 1.00, it would leave the older one. (The
/// casts keep the parser from taking the comparison apart into one for each column.)
pub fn upsert(schema: &str, table: &Table, row_type: &str) -> String {
    let (insert, key) = (insert(schema, table, row_type), names("", key(table)));
    let rest = table.columns.get(table.key_columns..).unwrap_or_default();
    if rest.is_empty() {
        return format!("{insert} ON CONFLICT ({key}) DO NOTHING");
    }
    let new = names("EXCLUDED.", rest);
    format!(
        "{insert} ON CONFLICT ({key}) DO UPDATE SET ({}) = ROW({new}) \
         WHERE ROW({})::record OPERATOR(pg_catalog.*<>) ROW({new})::record",
        names("", rest),
        names("t.", rest),
    )
}

/// `$1`: an array of document keys; `$2`: an array of all rows that those documents have in this child table,
/// no key twice. Deletes the rows that are no more, inserts those that are new, updates those that differ.
/// Most arrays of most updated documents are as they were, and comparing costs much less than deleting and
/// inserting.
pub fn merge(schema: &str, table: &Table, row_type: &str) -> String {
    let target = qualified(schema, &table.name);
    let rest = table.columns.get(table.key_columns..).unwrap_or_default();
    let same_key = format!("ROW({}) = ROW({})", names("c.", key(table)), names("r.", key(table)));
    let (differs, update) = if rest.is_empty() {
        (String::new(), "NOTHING".to_owned())
    } else {
        let (old, new) = (names("c.", rest), names("r.", rest));
        (
            format!(" OR ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new})::record"),
            format!("UPDATE SET ({}) = ROW({})", names("", rest), names("EXCLUDED.", rest)),
        )
    };
    let first = names("c.", table.columns.get(..1).unwrap_or_default());
    format!(
        "WITH r AS MATERIALIZED (SELECT * FROM unnest($2::pg_temp.{}[])), \
         gone AS (DELETE FROM {target} AS c WHERE {} AND NOT EXISTS (SELECT FROM r WHERE {same_key})) \
         INSERT INTO {target} AS t ({}) SELECT {} FROM r LEFT JOIN {target} AS c ON {same_key} \
         WHERE {first} IS NULL{differs} ON CONFLICT ({}) DO {update}",
        quote(row_type),
        of_keys(table),
        names("", &table.columns),
        names("r.", &table.columns),
        names("", key(table)),
    )
}

/// `$1`: an array of document keys. Deletes their rows.
pub fn delete(schema: &str, table: &Table) -> String {
    format!("DELETE FROM {} WHERE {}", qualified(schema, &table.name), of_keys(table))
}

/// `$1`: an array of document keys. All columns of their rows, in the order of the primary key.
pub fn select(schema: &str, table: &Table) -> String {
    format!(
        "SELECT {} FROM {} WHERE {} ORDER BY {}",
        names("", &table.columns),
        qualified(schema, &table.name),
        of_keys(table),
        names("", key(table)),
    )
}

fn insert(schema: &str, table: &Table, row_type: &str) -> String {
    format!(
        "INSERT INTO {} AS t ({}) SELECT {} FROM unnest($1::pg_temp.{}[]) AS r",
        qualified(schema, &table.name),
        names("", &table.columns),
        names("r.", &table.columns),
        quote(row_type),
    )
}

fn of_keys(table: &Table) -> String {
    table.columns.first().map_or_else(String::new, |column| {
        format!("{} = ANY($1::{}[])", quote(&column.name), column.ty.sql())
    })
}

fn key(table: &Table) -> &[Column] {
    table.columns.get(..table.key_columns).unwrap_or(&table.columns)
}

fn names(prefix: &str, columns: &[Column]) -> String {
    list(columns.iter().map(|column| format!("{prefix}{}", quote(&column.name))))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{ColumnType, Scalar};

    fn table(key_columns: usize, columns: &[(&str, Scalar)]) -> Table {
        let columns =
            columns.iter().map(|&(name, ty)| Column { name: name.into(), ty: ColumnType::scalar(ty) });
        Table { name: "t".into(), columns: columns.collect(), key_columns, soft_delete: false }
    }

    #[test]
    fn a_name_stays_a_name() {
        assert_eq!(quote(r#"x"; DROP TABLE y; --"#), r#""x""; DROP TABLE y; --""#);
        assert_eq!(qualified("a.b", "c"), r#""a.b"."c""#);
    }

    #[test]
    fn tables_are_created_bare() {
        assert_eq!(
            create_table("s", &table(1, &[("_id", Scalar::Bigint), ("n", Scalar::Text)])),
            r#"CREATE TABLE IF NOT EXISTS "s"."t" ("_id" bigint NOT NULL, "n" text)"#
        );
    }

    #[test]
    fn an_upsert_updates_what_differs() {
        assert_eq!(
            upsert("s", &table(1, &[("k", Scalar::Text), ("n", Scalar::Numeric)]), "r1"),
            r#"INSERT INTO "s"."t" AS t ("k", "n") SELECT r."k", r."n" FROM unnest($1::pg_temp."r1"[]) AS r "#
                .to_owned()
                + r#"ON CONFLICT ("k") DO UPDATE SET ("n") = ROW(EXCLUDED."n") "#
                + r#"WHERE ROW(t."n")::record OPERATOR(pg_catalog.*<>) ROW(EXCLUDED."n")::record"#
        );
        assert!(
            upsert("s", &table(1, &[("k", Scalar::Text)]), "r1").ends_with(r#"ON CONFLICT ("k") DO NOTHING"#)
        );
    }

    #[test]
    fn a_merge_deletes_what_is_no_more_and_writes_what_differs() {
        let child = table(2, &[("p", Scalar::Text), ("_ord", Scalar::Bigint), ("n", Scalar::Text)]);
        let expected = [
            r#"WITH r AS MATERIALIZED (SELECT * FROM unnest($2::pg_temp."r1"[])),"#,
            r#"gone AS (DELETE FROM "s"."t" AS c WHERE "p" = ANY($1::text[])"#,
            r#"AND NOT EXISTS (SELECT FROM r WHERE ROW(c."p", c."_ord") = ROW(r."p", r."_ord")))"#,
            r#"INSERT INTO "s"."t" AS t ("p", "_ord", "n") SELECT r."p", r."_ord", r."n" FROM r"#,
            r#"LEFT JOIN "s"."t" AS c ON ROW(c."p", c."_ord") = ROW(r."p", r."_ord")"#,
            r#"WHERE c."p" IS NULL OR ROW(c."n")::record OPERATOR(pg_catalog.*<>) ROW(r."n")::record"#,
            r#"ON CONFLICT ("p", "_ord") DO UPDATE SET ("n") = ROW(EXCLUDED."n")"#,
        ];
        assert_eq!(merge("s", &child, "r1"), expected.join(" "));
    }

    #[test]
    fn rows_are_found_by_document_key() {
        assert_eq!(
            delete("s", &table(2, &[("p", Scalar::Uuid), ("_ord", Scalar::Bigint)])),
            r#"DELETE FROM "s"."t" WHERE "p" = ANY($1::uuid[])"#
        );
    }
}
