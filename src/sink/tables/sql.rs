//! The text of the SQL statements that read and write rows of user tables. Pure. Names reach SQL through
//! [`quote`] alone.

pub use crate::sink::identifiers::{qualified, quote};
use crate::{
    model::table::{Column, DELETED_AT, Scalar, Table},
    sink::connection::fence_entry::ENTERED,
};

/// A column's name and type.
pub fn definition(column: &Column) -> String {
    format!("{} {}", quote(&column.name), column.ty.sql())
}

/// Receives tuples of [`Framing::Copy`](crate::mapping::Framing::Copy), between COPY's header and trailer.
pub fn copy_in(schema: &str, table: &Table) -> String {
    let columns = names("", &table.columns);
    format!("COPY {} ({columns}) FROM STDIN WITH (FORMAT binary)", qualified(schema, &table.name))
}

/// Creates the session's composite type for rows of a table. The table's own row type would also work, until
/// a column is added to the table.
pub fn create_row_type(row_type: &str, table: &Table) -> String {
    let columns = list(table.columns.iter().map(definition));
    format!("CREATE TYPE pg_temp.{} AS ({columns})", quote(row_type))
}

/// `$1`: an array of rows, no key twice. Inserts new ones, updates those that differ. `*<>` compares the
/// stored bytes: because for `=` numeric 1.0 equals 1.00, it would leave the older value. (The casts keep the
/// parser from splitting the comparison into one for each column.)
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

/// `$1`: an array of rows of a root table, each with the columns of these fields of its document; `$2`: their
/// number. Updates those columns, and the entries of these fields in the column `extra`. If a row is missing
/// or marked as deleted, or has one of the fields several times, the statement fails, by a division by zero.
/// `fields` must not be empty.
pub fn patch(schema: &str, root: &Table, row_type: &str, fields: &[Box<str>]) -> String {
    let Some((columns, extra)) = root.patched() else { return String::new() };
    let (target, key, extra) = (qualified(schema, &root.name), names("", key(root)), quote(&extra.name));
    let row = format!("unnest($1::pg_temp.{}[]) AS r", quote(row_type));
    let marked =
        if root.soft_delete { format!(" AND t.{} IS NULL", quote(DELETED_AT)) } else { String::new() };
    let any = |condition: fn(&str) -> String| {
        fields.iter().map(|field| condition(field)).collect::<Vec<_>>().join(" OR ")
    };
    let (of_fields, copies) = (any(is_of_field), any(is_copy_of_field));
    // If a document has several fields of one name, an update changes the first, and its new value is not all
    // that must be written.
    let once = format!(
        "(t.{extra} IS NULL OR NOT EXISTS (SELECT FROM jsonb_object_keys(t.{extra}) AS k WHERE {copies}))"
    );
    let found = format!("t.{key} = r.{key}{marked} AND {once}");
    let new_extra = format!(
        "CASE WHEN t.{extra} IS NULL THEN r.{extra} \
         WHEN r.{extra} IS NULL AND NOT EXISTS (SELECT FROM jsonb_object_keys(t.{extra}) AS k WHERE {of_fields}) THEN t.{extra} \
         ELSE nullif(coalesce((SELECT jsonb_object_agg(k, v) FROM jsonb_each(t.{extra}) AS e (k, v) WHERE NOT ({of_fields})), \
         '{{}}') || coalesce(r.{extra}, '{{}}'), '{{}}') END"
    );
    let assert = "SELECT 1 / (count(*) = $2::bigint)::integer FROM found";
    if columns.is_empty() {
        return format!(
            "WITH found AS (SELECT FROM {row} JOIN {target} AS t ON {found}), \
             written AS (UPDATE {target} AS t SET {extra} = {new_extra} FROM {row} \
             WHERE {found} AND t.{extra} IS DISTINCT FROM {new_extra} AND {ENTERED}) {assert}"
        );
    }
    let (old, new) = (names("", columns), names("r.", columns));
    format!(
        "WITH found AS (UPDATE {target} AS t SET ({old}, {extra}) = ROW({new}, {new_extra}) FROM {row} \
         WHERE {found} AND {ENTERED} RETURNING 1) {assert}"
    )
}

/// Whether `k`, a key of an `extra` object, belongs to this top-level field: the field itself, something in
/// it, or another occurrence.
fn is_of_field(field: &str) -> String {
    let [itself, inside] = ["", "."].map(|end| literal(field, end));
    format!("k = {itself} OR starts_with(k, {inside}) OR {}", is_copy_of_field(field))
}

/// Whether `k` is another occurrence of this top-level field than the first: `field\2`.
fn is_copy_of_field(field: &str) -> String {
    let copy = literal(field, r"\\");
    format!("starts_with(k, {copy}) AND ascii(substr(k, length({copy}) + 1)) BETWEEN 48 AND 57")
}

/// A field's name without backslashes, and a suffix. In E'…' a backslash is doubled, whatever the server's
/// settings.
fn literal(field: &str, end: &str) -> String {
    format!("E'{}{end}'", field.replace('\'', "''"))
}

/// `$1`: an array of document keys; `$2`: an array of all rows of those documents in this child table, no key
/// twice. Deletes the rows that no longer exist, inserts new ones, updates those that differ. Most arrays of
/// most updated documents are unchanged, and comparing costs much less than deleting and inserting.
///
/// Existing rows are read once, by document, and a full join, which is always executed by hashing or sorting,
/// finds the differences: no index is searched for every row, and no bad estimate of their number makes the
/// server compare each with each. The column names of the differences, `d`, are generated, so that they can't
/// be a table column's.
pub fn merge(schema: &str, table: &Table, row_type: &str) -> String {
    let target = qualified(schema, &table.name);
    let (key, rest) = (key(table), table.columns.get(table.key_columns..).unwrap_or_default());
    let [new, gone] = [("x", table.columns.len()), ("g", key.len())]
        .map(|(name, n)| list((1..=n).map(|i| format!("{name}{i}"))));
    let (differs, update) = if rest.is_empty() {
        (String::new(), "NOTHING".to_owned())
    } else {
        let update = format!("UPDATE SET ({}) = ROW({})", names("", rest), names("EXCLUDED.", rest));
        (format!(" OR {}", differs(rest)), update)
    };
    let of_gone = list((1..=key.len()).map(|i| format!("d.g{i}")));
    let first = names("", key.get(..1).unwrap_or_default());
    format!(
        "WITH d ({new}, {gone}) AS MATERIALIZED (SELECT {}, {} \
         FROM (SELECT * FROM unnest($2::pg_temp.{}[]) WHERE {ENTERED}) AS r \
         FULL JOIN (SELECT * FROM {target} WHERE {} AND {ENTERED}) AS c ON ROW({}) = ROW({}) \
         WHERE r.{first} IS NULL OR c.{first} IS NULL{differs}), \
         gone AS (DELETE FROM {target} AS t USING d WHERE d.x1 IS NULL AND ROW({}) = ROW({of_gone})) \
         INSERT INTO {target} AS t ({}) SELECT {new} FROM d WHERE x1 IS NOT NULL ON CONFLICT ({}) DO {update}",
        names("r.", &table.columns),
        names("c.", key),
        quote(row_type),
        of_keys(table),
        names("c.", key),
        names("r.", key),
        names("t.", key),
        names("", &table.columns),
        names("", key),
    )
}

/// Whether these columns differ between `c` and `r` in any byte. For types whose `=` is true only for equal
/// bytes, it is used, because it is faster than comparing records.
fn differs(columns: &[Column]) -> String {
    let by_bytes = |column: &&Column| !column.ty.scalar.equal_is_same();
    let (by_bytes, by_value): (Vec<&Column>, Vec<&Column>) = columns.iter().partition(by_bytes);
    let by_value = by_value.into_iter().map(|column| {
        let collation = if column.ty.scalar == Scalar::Text { " COLLATE \"C\"" } else { "" };
        let name = quote(&column.name);
        format!("c.{name} IS DISTINCT FROM r.{name}{collation}")
    });
    let by_bytes = (!by_bytes.is_empty()).then(|| {
        let [old, new] =
            ["c.", "r."].map(|prefix| list(by_bytes.iter().map(|c| format!("{prefix}{}", quote(&c.name)))));
        format!("ROW({old})::record OPERATOR(pg_catalog.*<>) ROW({new})::record")
    });
    by_value.chain(by_bytes).collect::<Vec<_>>().join(" OR ")
}

/// `$1`: an array of document keys. Deletes their rows.
pub fn delete(schema: &str, table: &Table) -> String {
    format!("DELETE FROM {} WHERE {} AND {ENTERED}", qualified(schema, &table.name), of_keys(table))
}

/// `$1`: an array of document keys. Of a child table's rows, deletes those without a row in the root table.
pub fn delete_rootless(schema: &str, root: &Table, table: &Table) -> String {
    let [Some(key), Some(own)] = [root, table].map(|table| table.columns.first()) else {
        return String::new();
    };
    let (root, key, own) = (qualified(schema, &root.name), quote(&key.name), quote(&own.name));
    format!(
        "DELETE FROM {} t WHERE {} AND NOT EXISTS (SELECT FROM {root} d WHERE d.{key} = t.{own}) AND {ENTERED}",
        qualified(schema, &table.name),
        of_keys(table)
    )
}

/// `$1`: an array of document keys. Marks the rows of deleted documents, which stay; rows that are already
/// marked keep their time.
pub fn mark_deleted(schema: &str, root: &Table) -> String {
    let (table, mark) = (qualified(schema, &root.name), quote(DELETED_AT));
    format!("UPDATE {table} SET {mark} = now() WHERE {} AND {mark} IS NULL AND {ENTERED}", of_keys(root))
}

/// A condition on the rows `t` of a table: they do not belong to a deleted document whose rows stay.
pub fn is_live(schema: &str, root: &Table, table: &Table) -> String {
    let [Some(key), Some(own)] = [root, table].map(|table| table.columns.first()) else {
        return "true".to_owned();
    };
    if !root.soft_delete {
        return "true".to_owned();
    }
    let (root, key, own) = (qualified(schema, &root.name), quote(&key.name), quote(&own.name));
    format!(
        "NOT EXISTS (SELECT FROM {root} d WHERE d.{key} = t.{own} AND d.{} IS NOT NULL)",
        quote(DELETED_AT)
    )
}

/// `$1`: an array of document keys. All columns of their rows that satisfy `condition`, in the order of the
/// primary key; in the condition, the table is `t`.
pub fn select(schema: &str, table: &Table, condition: &str) -> String {
    format!("{} ORDER BY {}", select_unordered(schema, table, condition), names("", key(table)))
}

/// The same, in any order.
pub fn select_unordered(schema: &str, table: &Table, condition: &str) -> String {
    format!(
        "SELECT {} FROM {} AS t WHERE {} AND {condition}",
        names("", &table.columns),
        qualified(schema, &table.name),
        of_keys(table),
    )
}

fn insert(schema: &str, table: &Table, row_type: &str) -> String {
    format!(
        "INSERT INTO {} AS t ({}) SELECT {} FROM unnest($1::pg_temp.{}[]) AS r WHERE {ENTERED}",
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

pub(super) fn key(table: &Table) -> &[Column] {
    table.columns.get(..table.key_columns).unwrap_or(&table.columns)
}

pub(super) fn names(prefix: &str, columns: &[Column]) -> String {
    list(columns.iter().map(|column| format!("{prefix}{}", quote(&column.name))))
}

pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
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
    fn a_name_stays_a_name() {
        assert_eq!(quote(r#"x"; DROP TABLE y; --"#), r#""x""; DROP TABLE y; --""#);
        assert_eq!(qualified("a.b", "c"), r#""a.b"."c""#);
    }

    #[test]
    fn an_upsert_updates_what_differs() {
        assert_eq!(
            upsert("s", &table(1, &[("k", Scalar::Text), ("n", Scalar::Numeric)]), "r1"),
            r#"INSERT INTO "s"."t" AS t ("k", "n") SELECT r."k", r."n" FROM unnest($1::pg_temp."r1"[]) AS r "#
                .to_owned()
                + &format!("WHERE {ENTERED} ")
                + r#"ON CONFLICT ("k") DO UPDATE SET ("n") = ROW(EXCLUDED."n") "#
                + r#"WHERE ROW(t."n")::record OPERATOR(pg_catalog.*<>) ROW(EXCLUDED."n")::record"#
        );
        assert!(
            upsert("s", &table(1, &[("k", Scalar::Text)]), "r1").ends_with(r#"ON CONFLICT ("k") DO NOTHING"#)
        );
    }

    /// The column that marks deleted documents is identified by its position, not by its name.
    #[test]
    fn a_patch_writes_all_columns_but_the_mark() {
        let (mark, x) = ((DELETED_AT, Scalar::Timestamptz), ("x", Scalar::Jsonb));
        let set = |root: &Table| {
            let text = patch("s", root, "r1", &["a".into()]);
            text.split_once("SET (").and_then(|(_, set)| Some(set.split_once(')')?.0.to_owned())).unwrap()
        };
        let key = ("k", Scalar::Text);
        assert_eq!(set(&table(1, &[key, mark, ("n", Scalar::Text), x])), r#""_deleted_at", "n", "x""#);
        let marked = Table { soft_delete: true, ..table(1, &[key, ("n", Scalar::Text), x, mark]) };
        assert_eq!(set(&marked), r#""n", "x""#);
    }

    #[test]
    fn a_merge_deletes_what_is_no_more_and_writes_what_differs() {
        let columns =
            [("p", Scalar::Text), ("_ord", Scalar::Bigint), ("n", Scalar::Text), ("x", Scalar::Double)];
        let child = table(2, &columns);
        let expected = [
            r#"WITH d (x1, x2, x3, x4, g1, g2) AS MATERIALIZED (SELECT r."p", r."_ord", r."n", r."x", c."p", c."_ord""#,
            &format!(r#"FROM (SELECT * FROM unnest($2::pg_temp."r1"[]) WHERE {ENTERED}) AS r"#),
            &format!(r#"FULL JOIN (SELECT * FROM "s"."t" WHERE "p" = ANY($1::text[]) AND {ENTERED}) AS c"#),
            r#"ON ROW(c."p", c."_ord") = ROW(r."p", r."_ord")"#,
            r#"WHERE r."p" IS NULL OR c."p" IS NULL OR c."n" IS DISTINCT FROM r."n" COLLATE "C""#,
            r#"OR ROW(c."x")::record OPERATOR(pg_catalog.*<>) ROW(r."x")::record),"#,
            r#"gone AS (DELETE FROM "s"."t" AS t USING d WHERE d.x1 IS NULL AND ROW(t."p", t."_ord") = ROW(d.g1, d.g2))"#,
            r#"INSERT INTO "s"."t" AS t ("p", "_ord", "n", "x") SELECT x1, x2, x3, x4 FROM d WHERE x1 IS NOT NULL"#,
            r#"ON CONFLICT ("p", "_ord") DO UPDATE SET ("n", "x") = ROW(EXCLUDED."n", EXCLUDED."x")"#,
        ];
        assert_eq!(merge("s", &child, "r1"), expected.join(" "));
    }

    #[test]
    fn deleted_documents_are_marked_once_where_their_rows_stay() {
        let mut root = table(1, &[("k", Scalar::Text), (DELETED_AT, Scalar::Timestamptz)]);
        let child = Table { name: "c".into(), ..table(2, &[("p", Scalar::Text), ("_ord", Scalar::Bigint)]) };
        assert_eq!(is_live("s", &root, &child), "true");
        root.soft_delete = true;
        assert_eq!(
            mark_deleted("s", &root),
            r#"UPDATE "s"."t" SET "_deleted_at" = now() WHERE "k" = ANY($1::text[]) AND "_deleted_at" IS NULL AND "#
                .to_owned()
                + ENTERED
        );
        assert_eq!(
            is_live("s", &root, &child),
            r#"NOT EXISTS (SELECT FROM "s"."t" d WHERE d."k" = t."p" AND d."_deleted_at" IS NOT NULL)"#
        );
    }

    #[test]
    fn rows_are_found_by_document_key() {
        assert_eq!(
            delete("s", &table(2, &[("p", Scalar::Uuid), ("_ord", Scalar::Bigint)])),
            format!(r#"DELETE FROM "s"."t" WHERE "p" = ANY($1::uuid[]) AND {ENTERED}"#)
        );
    }
}
