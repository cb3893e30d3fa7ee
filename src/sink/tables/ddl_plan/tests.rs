//! Which steps follow from what is wanted and what is there.

use super::*;
use crate::{
    model::table::{ColumnType, Scalar},
    sink::tables::found::{ForeignKey, PrimaryKey},
};

const NOBODY: TableOwnership = TableOwnership::Nobody;

fn column(name: &str, scalar: Scalar) -> Column {
    Column { name: name.into(), ty: ColumnType::scalar(scalar) }
}

/// `users (id, name, score)` and `tags (user_id, ord, tag)`.
fn tables() -> Vec<Table> {
    let table = |name: &str, key_columns, columns| Table {
        name: name.into(),
        columns,
        key_columns,
        soft_delete: false,
    };
    let (id, ord) = (column("id", Scalar::Bigint), column("ord", Scalar::Bigint));
    let users = vec![id.clone(), column("name", Scalar::Text), column("score", Scalar::Double)];
    let tags = vec![Column { name: "user_id".into(), ..id }, ord, column("tag", Scalar::Text)];
    vec![table("users", 1, users), table("tags", 2, tags)]
}

fn attribute(column: &Column, not_null: bool) -> FoundColumn {
    FoundColumn {
        name: column.name.clone(),
        ty: column.ty.sql(),
        oid: column.ty.oid(),
        plain: true,
        not_null,
        default: false,
        generated: false,
        beyond_int4: false,
    }
}

/// A relation that matches the wanted `table`, with a key.
fn relation(table: &Table, whose: TableOwnership) -> FoundRelation {
    let columns = table.columns.iter().enumerate();
    let names = table.columns.iter().take(table.key_columns).map(|column| column.name.clone());
    FoundRelation {
        name: table.name.clone(),
        whose,
        barrier: None,
        has_rows: false,
        bytes: 0,
        columns: columns.map(|(at, column)| attribute(column, at < table.key_columns)).collect(),
        key: Some(PrimaryKey { columns: names.collect(), deferrable: false }),
        alterable: true,
    }
}

fn plan(relations: Vec<FoundRelation>) -> Plan {
    let found = FoundTables { relations, ..FoundTables::default() };
    Plan::of("s", Wanted { tables: &tables(), foreign_keys: false }, &found)
}

fn sql(plan: &Plan, when: When) -> Vec<&str> {
    plan.steps(when).map(|step| step.sql.as_str()).collect()
}

#[track_caller]
fn assert_obstacle(
    change: impl FnOnce(&mut FoundRelation),
    whose: TableOwnership,
    there: &str,
    wanted: &str,
) {
    let mut users = relation(&tables()[0], whose);
    change(&mut users);
    let plan = plan(vec![users]);
    let found: Vec<_> = plan.obstacles().map(|(_, obstacle)| obstacle.clone()).collect();
    assert_eq!(found, [Obstacle::new(there, wanted)]);
    assert!(plan.refusal().unwrap().contains(&format!(r#""s"."users": {there} where {wanted} is wanted"#)));
    assert_eq!(plan.changed().count(), 0);
}

#[test]
fn what_is_not_there_is_created_bare() {
    let plan = plan(Vec::new());
    assert_eq!(
        sql(&plan, When::AtOnce)[1],
        "CREATE TABLE \"s\".\"tags\" (\n    \"user_id\" bigint NOT NULL,\n    \"ord\" bigint NOT NULL,\n    \"tag\" text\n)"
    );
    assert_eq!(
        sql(&plan, When::AfterCopy),
        [
            r#"ALTER TABLE "s"."users" ADD PRIMARY KEY ("id")"#,
            r#"ALTER TABLE "s"."tags" ADD PRIMARY KEY ("user_id", "ord")"#
        ]
    );
    assert_eq!(plan.refusal(), None);
}

#[test]
fn what_is_there_needs_nothing() {
    for whose in [TableOwnership::Own, NOBODY] {
        let plan = plan(tables().iter().map(|table| relation(table, whose.clone())).collect());
        assert_eq!((sql(&plan, When::AtOnce), sql(&plan, When::AfterCopy)), (vec![], vec![]));
        assert_eq!(plan.refusal(), None);
    }
}

/// After the snapshot there is nothing to wait for.
#[test]
fn a_later_table_gets_its_key_at_once() {
    let [users, tags] = tables().try_into().unwrap();
    let created = plan(vec![relation(&users, TableOwnership::Own)]);
    assert!(sql(&created, When::AtOnce)[0].contains(r#"PRIMARY KEY ("user_id", "ord")"#));
    let adopted = FoundRelation { key: None, ..relation(&tags, NOBODY) };
    let adopted = plan(vec![relation(&users, TableOwnership::Own), adopted]);
    assert!(sql(&adopted, When::AtOnce)[0].contains("ADD PRIMARY KEY"));
    let bare = FoundRelation { key: None, ..relation(&users, TableOwnership::Own) };
    assert!(!sql(&plan(vec![bare]), When::AtOnce)[0].contains("PRIMARY KEY"));
}

#[test]
fn own_tables_are_widened_and_get_what_they_lack() {
    let mut users = relation(&tables()[0], TableOwnership::Own);
    users.columns.remove(1);
    users.columns[1].oid = 20;
    let plan = plan(vec![users.clone()]);
    let change =
        r#"ALTER TABLE "s"."users" ADD COLUMN "name" text, ALTER COLUMN "score" TYPE double precision"#;
    assert_eq!(sql(&plan, When::AtOnce)[0], change);
    assert_eq!(plan.changed().collect::<Vec<_>>(), [r#""s"."users""#]);
}

#[test]
fn a_column_is_widened_only_where_it_is_cheap_and_exact() {
    let wanted = r#""score" double precision"#;
    let bigint = |relation: &mut FoundRelation| {
        relation.columns[2] = attribute(&column("score", Scalar::Bigint), false);
    };
    let there = r#""score" bigint in a table of more than 64 MB, which is not rewritten"#;
    assert_obstacle(|r| (bigint(r), r.bytes = REWRITTEN + 1).0, TableOwnership::Own, there, wanted);
    let there = r#""score" bigint with values that would not read back unchanged from a double"#;
    assert_obstacle(|r| (bigint(r), r.columns[2].beyond_int4 = true).0, TableOwnership::Own, there, wanted);
    assert_obstacle(bigint, NOBODY, r#""score" bigint"#, wanted);
    let narrower = |r: &mut FoundRelation| r.columns[2] = attribute(&column("score", Scalar::Text), false);
    assert_obstacle(narrower, TableOwnership::Own, r#""score" text"#, wanted);
}

/// Existing user tables: adopted if they fit, refused with the diff if not, never dropped.
#[test]
fn what_does_not_fit_is_an_obstacle() {
    let name = r#""name" text"#;
    assert_obstacle(|r| r.has_rows = true, NOBODY, "rows", "an empty table");
    assert_obstacle(|r| drop(r.columns.remove(1)), NOBODY, "no such column", name);
    assert_obstacle(|r| r.columns[1].not_null = true, NOBODY, r#""name" text NOT NULL"#, name);
    assert_obstacle(
        |r| {
            r.columns[1] =
                FoundColumn { ty: "character varying(9)".into(), oid: 1043, ..r.columns[1].clone() };
        },
        NOBODY,
        r#""name" character varying(9)"#,
        name,
    );
    // A numeric(10,2) has the OID of numeric, and rounds.
    assert_obstacle(|r| r.columns[1].plain = false, NOBODY, r#""name" text"#, name);
    let there = r#""name" text that generates its values"#;
    assert_obstacle(|r| r.columns[1].generated = true, NOBODY, there, name);
    let theirs = || attribute(&column("theirs", Scalar::Text), true);
    let wanted = "a default for it, or NULL allowed";
    assert_obstacle(|r| r.columns.push(theirs()), NOBODY, r#""theirs" text NOT NULL"#, wanted);
    assert_obstacle(|r| r.columns.push(theirs()), TableOwnership::Own, r#""theirs" text NOT NULL"#, wanted);
    let key = |columns: &[&str], deferrable| {
        Some(PrimaryKey { columns: columns.iter().map(|&name| name.to_owned()).collect(), deferrable })
    };
    let wanted = r#"PRIMARY KEY ("id")"#;
    let there = r#"PRIMARY KEY ("name")"#;
    assert_obstacle(|r| r.key = key(&["name"], false), NOBODY, there, wanted);
    let there = r#"PRIMARY KEY ("id") DEFERRABLE"#;
    assert_obstacle(|r| r.key = key(&["id"], true), NOBODY, there, wanted);
    let wanted = r#"PRIMARY KEY ("id"), which only the table's owner can add"#;
    assert_obstacle(|r| (r.key = None, r.alterable = false).0, NOBODY, "no primary key", wanted);
    let barrier = Some(Obstacle::new("a view", "a table"));
    assert_obstacle(|r| r.barrier = barrier, NOBODY, "a view", "a table");
    let other = TableOwnership::Other("collection a.b of pipeline p".into());
    let wanted = "a table for this collection alone";
    assert_obstacle(|_| {}, other, "a table of collection a.b of pipeline p", wanted);
}

#[test]
fn what_is_not_docrows_is_left_alone() {
    let mut users = relation(&tables()[0], TableOwnership::Own);
    users.columns[1].not_null = true;
    let default = FoundColumn { default: true, ..attribute(&column("made", Scalar::Timestamptz), true) };
    users.columns.extend([attribute(&column("note", Scalar::Text), false), default]);
    let own = ["users", "tags", "old", "gone"]
        .map(|name| OwnTable { name: format!("\"s\".\"{name}\""), exists: name != "gone" });
    let found = FoundTables { relations: vec![users], own: own.into(), ..FoundTables::default() };
    let plan = Plan::of("s", Wanted { tables: &tables(), foreign_keys: false }, &found);
    assert_eq!(plan.refusal(), None);
    assert_eq!(plan.tables[0].others, [r#""note" text"#, r#""made" timestamptz NOT NULL"#]);
    assert_eq!(plan.left, [r#""s"."old""#]);
}

#[test]
fn a_collection_does_not_go_on_in_another_schema() {
    let own = vec![OwnTable { name: r#""before"."users""#.into(), exists: true }];
    let found = FoundTables { own, ..FoundTables::default() };
    let plan = Plan::of("s", Wanted { tables: &tables(), foreign_keys: false }, &found);
    assert!(plan.refusal().unwrap().contains(r#"rows, in "before"."users""#));
}

#[test]
fn children_refer_to_the_root_once() {
    let wanted = tables();
    let references = vec![ForeignKey { table: "tags".into(), column: "user_id".into() }];
    for (references, expected) in [(Vec::new(), 1), (references, 0)] {
        let relations = wanted.iter().map(|table| relation(table, TableOwnership::Own)).collect();
        let found = FoundTables { relations, references, ..FoundTables::default() };
        let plan = Plan::of("s", Wanted { tables: &wanted, foreign_keys: true }, &found);
        let added = sql(&plan, When::AfterCopy);
        assert_eq!(added.len(), expected);
        let foreign = r#"ALTER TABLE "s"."tags" ADD FOREIGN KEY ("user_id") REFERENCES "s"."users" ("id")"#;
        assert!(added.iter().all(|sql| *sql == foreign), "{added:?}");
    }
}

#[test]
fn a_refusal_fits_on_a_screen() {
    let mut users = relation(&tables()[0], NOBODY);
    users.columns.extend((0..200).map(|n| attribute(&column(&format!("c{n}"), Scalar::Text), true)));
    let refusal = plan(vec![users]).refusal().unwrap();
    assert!(refusal.len() < 1000 && refusal.contains("; and 194 more"), "{refusal}");
}
