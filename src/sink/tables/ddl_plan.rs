//! What is to be done to a collection's tables: from those that are wanted and those that are there, to steps, or to what
//! stands in their way. Pure; `catalog` finds out what is there, `ddl` takes the steps.
//!
//! A table is the collection's own if a stored version of its mapping names it: whatever it lacks is added. A table that
//! is nobody's is adopted as it stands, if it is empty and has exactly what rows need; else it is an obstacle. Nothing is
//! ever dropped, emptied or narrowed, and what is there besides is left alone.

use super::sql::{self, Action};
use crate::model::table::{Column, ColumnType, Scalar, Table};

/// The largest table that is rewritten to widen a column: nobody can write to it meanwhile.
pub(super) const REWRITTEN: u64 = 64 << 20;

/// How many obstacles an error names.
const SHOWN: usize = 6;

/// What a collection's mapping wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The tables, root first.
    pub tables: &'a [Table],
    /// Whether the other tables refer to the root by foreign keys.
    pub foreign_keys: bool,
}

/// What is there, as far as it concerns a collection's tables.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The relations that have the name of a wanted table.
    pub relations: Vec<Relation>,
    /// All tables of the versions of the collection's mapping that are stored.
    pub own: Vec<OwnTable>,
    /// The foreign keys that refer to the root.
    pub references: Vec<Reference>,
}

/// A foreign key of one column.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The table that it is of.
    pub table: String,
    /// The column.
    pub column: String,
}

/// A table that a stored version of the collection's mapping names.
#[derive(Clone, Debug)]
pub struct OwnTable {
    /// Its name, with its schema.
    pub name: String,
    /// Whether it is there.
    pub exists: bool,
}

/// A relation that has the name of a wanted table.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub whose: Whose,
    /// What keeps docrow from writing to it, whatever its columns are.
    pub barrier: Option<Obstacle>,
    /// Whether it has rows; only looked at where it is nobody's.
    pub has_rows: bool,
    /// Its size.
    pub bytes: u64,
    /// Its columns.
    pub columns: Vec<Attribute>,
    /// Its primary key.
    pub key: Option<PrimaryKey>,
    /// Whether a key can be added to it: its owner can.
    pub alterable: bool,
}

/// To whom a table belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// To the collection.
    Own,
    /// To another collection or pipeline, named here.
    Other(String),
    /// To no pipeline: somebody made it.
    Nobody,
}

/// A column that is there.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its type in SQL.
    pub ty: String,
    /// The type's OID.
    pub oid: u32,
    /// Whether it holds all values of the type, and tells them apart: without a precision, a length, a collation for
    /// which different texts are equal.
    pub plain: bool,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// Whether a row can be inserted without a value for it, in spite of `not_null`.
    pub default: bool,
    /// Whether it gives itself its values: generated, or an identity.
    pub generated: bool,
    /// Whether it holds a value that is no int32; only looked at where it would be widened to `double precision`.
    pub beyond_int4: bool,
}

/// A primary key that is there.
#[derive(Clone, Debug)]
pub struct PrimaryKey {
    /// Its columns.
    pub columns: Vec<String>,
    /// Whether it is deferrable; then no upsert can use it.
    pub deferrable: bool,
}

/// What is to be done for a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each wanted table, in their order.
    pub tables: Vec<TablePlan>,
    /// Tables of earlier versions of the mapping, which stay and are no longer written.
    pub left: Vec<String>,
}

/// What is to be done for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlan {
    /// The table, with its schema.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// What stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// The columns that are not docrow's, and stay.
    pub others: Vec<String>,
}

/// Where a table comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is not there yet.
    Created,
    /// It is the collection's.
    Own,
    /// It was nobody's.
    Adopted,
}

/// A step: one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its SQL.
    pub sql: String,
    /// When it is taken.
    pub when: When,
}

/// When a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With all other steps, in one transaction.
    AtOnce,
    /// After the snapshot, for it is faster then.
    AfterCopy,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What there is.
    pub there: String,
    /// What is wanted.
    pub wanted: String,
}

impl Plan {
    /// The plan for `wanted` tables in `schema`.
    pub fn of(schema: &str, wanted: Wanted<'_>, found: &Found) -> Self {
        let relation = |table: &Table| found.relations.iter().find(|relation| relation.name == table.name);
        let mut own = wanted.tables.iter().filter_map(relation).filter(|r| r.whose == Whose::Own).peekable();
        // Otherwise the snapshot is still to come, or under way.
        let keyed = own.peek().is_some() && own.all(|relation| relation.key.is_some());
        let tables = wanted.tables.iter().enumerate().map(|(at, table)| {
            let mut plan = match relation(table) {
                Some(relation) => TablePlan::of(schema, table, relation, keyed),
                None => TablePlan::created(schema, table, keyed),
            };
            let root = wanted.tables.first().filter(|_| wanted.foreign_keys && at > 0);
            if let Some(root) = root.filter(|_| !found.references.iter().any(|there| there.is_of(table))) {
                plan.steps.push(Step::after_copy(sql::add_foreign_key(schema, table, root)));
            }
            plan
        });
        let mut plan = Self { tables: tables.collect(), left: Vec::new() };
        let is_wanted = |own: &OwnTable| plan.tables.iter().any(|table| table.name == own.name);
        let left = found.own.iter().filter(|own| own.exists && !is_wanted(own));
        plan.left = left.map(|own| own.name.clone()).collect();
        plan.stay_where_it_is(&found.own);
        plan
    }

    /// A collection whose rows are elsewhere must not go on in an empty table.
    fn stay_where_it_is(&mut self, own: &[OwnTable]) {
        let Some(root) = self.tables.first_mut() else { return };
        if !self.left.is_empty() && own.iter().all(|own| own.name != root.name) {
            let advice =
                "restore [target] schema and the table's name, or copy anew under another pipeline name";
            let there = format!("the collection's rows, in {}", self.left.join(", "));
            root.obstacles.push(Obstacle::new(there, format!("the same tables: {advice}")));
        }
    }

    /// What stands in the way, with the table that it is about.
    pub fn obstacles(&self) -> impl Iterator<Item = (&TablePlan, &Obstacle)> {
        self.tables.iter().flat_map(|table| table.obstacles.iter().map(move |obstacle| (table, obstacle)))
    }

    /// Why the plan is refused, on one line, if anything stands in its way.
    pub(super) fn refusal(&self) -> Option<String> {
        let mut refusal = String::new();
        for (count, (table, Obstacle { there, wanted })) in self.obstacles().enumerate() {
            if count == SHOWN {
                refusal.push_str(&format!("; and {} more", self.obstacles().count() - SHOWN));
                break;
            }
            let separator = if count == 0 { "" } else { "; " };
            refusal.push_str(&format!("{separator}{}: {there} where {wanted} is wanted", table.name));
        }
        let advice = "`docrow plan` shows it all: change what is there, rename it, or choose another table name in a \
            mapping file, or another target schema";
        (!refusal.is_empty()).then(|| format!("{refusal}: {advice}"))
    }

    /// The tables that are there and are changed at once.
    pub(super) fn changed(&self) -> impl Iterator<Item = &str> {
        let is_changed = |table: &&TablePlan| {
            table.origin != Origin::Created && table.steps.iter().any(|step| step.when == When::AtOnce)
        };
        self.tables.iter().filter(is_changed).map(|table| table.name.as_str())
    }

    /// The steps that are taken at `when`.
    pub fn steps(&self, when: When) -> impl Iterator<Item = &Step> {
        self.tables.iter().flat_map(|table| &table.steps).filter(move |step| step.when == when)
    }
}

impl TablePlan {
    fn created(schema: &str, table: &Table, keyed: bool) -> Self {
        let mut steps = vec![Step::at_once(sql::create_table(schema, table, keyed))];
        if !keyed {
            steps.push(Step::after_copy(sql::add_primary_key(schema, table)));
        }
        let name = sql::qualified(schema, &table.name);
        Self { name, origin: Origin::Created, steps, obstacles: Vec::new(), others: Vec::new() }
    }

    fn of(schema: &str, table: &Table, relation: &Relation, keyed: bool) -> Self {
        let origin = if relation.whose == Whose::Own { Origin::Own } else { Origin::Adopted };
        let name = sql::qualified(schema, &table.name);
        let mut plan = Self { name, origin, steps: Vec::new(), obstacles: Vec::new(), others: Vec::new() };
        plan.obstacles.extend(barrier(relation));
        if !plan.obstacles.is_empty() {
            return plan;
        }
        if relation.has_rows {
            plan.obstacles.push(Obstacle::new("rows", "an empty table"));
        }
        let mut actions = Vec::new();
        for (at, column) in table.columns.iter().enumerate() {
            match relation.columns.iter().find(|there| there.name == column.name) {
                Some(there) => match fit(column, at < table.key_columns, there, relation) {
                    Fit::AsIs => {}
                    Fit::Widen => actions.push(Action::Widen(column)),
                    Fit::Not(obstacle) => plan.obstacles.push(obstacle),
                },
                // Rows that are there would have no value for it.
                None if origin == Origin::Own && at >= table.key_columns => actions.push(Action::Add(column)),
                None => plan.obstacles.push(Obstacle::new("no such column", sql::definition(column))),
            }
        }
        if !actions.is_empty() {
            plan.steps.push(Step::at_once(sql::alter_table(schema, table, &actions)));
        }
        plan.key(schema, table, relation, keyed);
        for other in
            relation.columns.iter().filter(|there| table.columns.iter().all(|c| c.name != there.name))
        {
            if other.not_null && !other.default {
                plan.obstacles.push(Obstacle::new(other.shown(), "a default for it, or NULL allowed"));
            } else {
                plan.others.push(other.shown());
            }
        }
        plan
    }

    fn key(&mut self, schema: &str, table: &Table, relation: &Relation, keyed: bool) {
        let names = table.columns.iter().take(table.key_columns).map(|column| &column.name);
        match &relation.key {
            Some(key) if key.columns.iter().eq(names.clone()) && !key.deferrable => {}
            Some(key) => {
                let deferrable = if key.deferrable { " DEFERRABLE" } else { "" };
                let there = format!("PRIMARY KEY ({}){deferrable}", sql::quoted(&key.columns));
                self.obstacles.push(Obstacle::new(there, format!("PRIMARY KEY ({})", sql::quoted(names))));
            }
            None if relation.alterable => {
                let sql = sql::add_primary_key(schema, table);
                self.steps.push(if keyed { Step::at_once(sql) } else { Step::after_copy(sql) });
            }
            None => {
                let wanted =
                    format!("PRIMARY KEY ({}), which only the table's owner can add", sql::quoted(names));
                self.obstacles.push(Obstacle::new("no primary key", wanted));
            }
        }
    }
}

fn barrier(relation: &Relation) -> Option<Obstacle> {
    match &relation.whose {
        Whose::Other(whose) => {
            Some(Obstacle::new(format!("a table of {whose}"), "a table for this collection alone"))
        }
        Whose::Own | Whose::Nobody => relation.barrier.clone(),
    }
}

/// Whether a column can hold what is written to it.
enum Fit {
    AsIs,
    Widen,
    Not(Obstacle),
}

fn fit(wanted: &Column, is_key: bool, there: &Attribute, relation: &Relation) -> Fit {
    let own = relation.whose == Whose::Own;
    let not = |there: String| Fit::Not(Obstacle::new(there, sql::definition(wanted)));
    if there.generated {
        return not(format!("{} that gives itself its values", there.shown()));
    }
    if there.oid == wanted.ty.oid() && there.plain {
        // What somebody forbids in a table that docrow made is a wish, and each document's misfortune.
        return if there.not_null && !is_key && !own { not(there.shown()) } else { Fit::AsIs };
    }
    match widening(wanted.ty, there) {
        Some(_) if !own => not(there.shown()),
        None => not(there.shown()),
        Some(_) if relation.bytes > REWRITTEN => {
            not(format!("{} in a table of more than 64 MB, which is not rewritten", there.shown()))
        }
        Some(Widening::IfSmall) if there.beyond_int4 => {
            not(format!("{} with values that a double would not give back as they were", there.shown()))
        }
        Some(_) => Fit::Widen,
    }
}

/// A change of type that changes no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Widening {
    Always,
    /// If all values are within int32: as such, not as int64, a double is read back.
    IfSmall,
}

/// How a column that is there can come to have a wanted type.
pub(super) fn widening(wanted: ColumnType, there: &Attribute) -> Option<Widening> {
    let oid = |scalar, array| ColumnType { array, ..ColumnType::scalar(scalar) }.oid();
    match (wanted.scalar, wanted.array) {
        (Scalar::Bigint, array) if there.oid == oid(Scalar::Integer, array) => Some(Widening::Always),
        (Scalar::Double, false) if there.oid == oid(Scalar::Bigint, false) => Some(Widening::IfSmall),
        _ => None,
    }
}

impl Reference {
    /// Whether it is that of a child table to its root.
    pub(super) fn is_of(&self, child: &Table) -> bool {
        self.table == child.name && child.columns.first().is_some_and(|column| column.name == self.column)
    }
}

impl Attribute {
    /// As SQL would define it.
    fn shown(&self) -> String {
        let Self { name, ty, not_null, .. } = self;
        format!("{} {ty}{}", sql::quote(name), if *not_null { " NOT NULL" } else { "" })
    }
}

impl Step {
    fn at_once(sql: String) -> Self {
        Self { sql, when: When::AtOnce }
    }

    fn after_copy(sql: String) -> Self {
        Self { sql, when: When::AfterCopy }
    }
}

impl Obstacle {
    /// Something that is `there` in place of what is `wanted`.
    pub(super) fn new(there: impl Into<String>, wanted: impl Into<String>) -> Self {
        Self { there: there.into(), wanted: wanted.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Whose = Whose::Nobody;

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

    fn attribute(column: &Column, not_null: bool) -> Attribute {
        Attribute {
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

    /// A relation that is as `table` is wanted, with a key.
    fn relation(table: &Table, whose: Whose) -> Relation {
        let columns = table.columns.iter().enumerate();
        let names = table.columns.iter().take(table.key_columns).map(|column| column.name.clone());
        Relation {
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

    fn plan(relations: Vec<Relation>) -> Plan {
        let found = Found { relations, ..Found::default() };
        Plan::of("s", Wanted { tables: &tables(), foreign_keys: false }, &found)
    }

    fn sql(plan: &Plan, when: When) -> Vec<&str> {
        plan.steps(when).map(|step| step.sql.as_str()).collect()
    }

    #[track_caller]
    fn assert_obstacle(change: impl FnOnce(&mut Relation), whose: Whose, there: &str, wanted: &str) {
        let mut users = relation(&tables()[0], whose);
        change(&mut users);
        let plan = plan(vec![users]);
        let found: Vec<_> = plan.obstacles().map(|(_, obstacle)| obstacle.clone()).collect();
        assert_eq!(found, [Obstacle::new(there, wanted)]);
        assert!(
            plan.refusal().unwrap().contains(&format!(r#""s"."users": {there} where {wanted} is wanted"#))
        );
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
        for whose in [Whose::Own, NOBODY] {
            let plan = plan(tables().iter().map(|table| relation(table, whose.clone())).collect());
            assert_eq!((sql(&plan, When::AtOnce), sql(&plan, When::AfterCopy)), (vec![], vec![]));
            assert_eq!(plan.refusal(), None);
        }
    }

    /// After the snapshot there is nothing to wait for.
    #[test]
    fn a_later_table_gets_its_key_at_once() {
        let [users, tags] = tables().try_into().unwrap();
        let created = plan(vec![relation(&users, Whose::Own)]);
        assert!(sql(&created, When::AtOnce)[0].contains(r#"PRIMARY KEY ("user_id", "ord")"#));
        let adopted = Relation { key: None, ..relation(&tags, NOBODY) };
        let adopted = plan(vec![relation(&users, Whose::Own), adopted]);
        assert!(sql(&adopted, When::AtOnce)[0].contains("ADD PRIMARY KEY"));
        let bare = Relation { key: None, ..relation(&users, Whose::Own) };
        assert!(!sql(&plan(vec![bare]), When::AtOnce)[0].contains("PRIMARY KEY"));
    }

    #[test]
    fn own_tables_are_widened_and_get_what_they_lack() {
        let mut users = relation(&tables()[0], Whose::Own);
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
        let bigint = |relation: &mut Relation| {
            relation.columns[2] = attribute(&column("score", Scalar::Bigint), false);
        };
        let there = r#""score" bigint in a table of more than 64 MB, which is not rewritten"#;
        assert_obstacle(|r| (bigint(r), r.bytes = REWRITTEN + 1).0, Whose::Own, there, wanted);
        let there = r#""score" bigint with values that a double would not give back as they were"#;
        assert_obstacle(|r| (bigint(r), r.columns[2].beyond_int4 = true).0, Whose::Own, there, wanted);
        assert_obstacle(bigint, NOBODY, r#""score" bigint"#, wanted);
        let narrower = |r: &mut Relation| r.columns[2] = attribute(&column("score", Scalar::Text), false);
        assert_obstacle(narrower, Whose::Own, r#""score" text"#, wanted);
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
                    Attribute { ty: "character varying(9)".into(), oid: 1043, ..r.columns[1].clone() };
            },
            NOBODY,
            r#""name" character varying(9)"#,
            name,
        );
        // A numeric(10,2) has the OID of numeric, and rounds.
        assert_obstacle(|r| r.columns[1].plain = false, NOBODY, r#""name" text"#, name);
        let there = r#""name" text that gives itself its values"#;
        assert_obstacle(|r| r.columns[1].generated = true, NOBODY, there, name);
        let theirs = || attribute(&column("theirs", Scalar::Text), true);
        let wanted = "a default for it, or NULL allowed";
        assert_obstacle(|r| r.columns.push(theirs()), NOBODY, r#""theirs" text NOT NULL"#, wanted);
        assert_obstacle(|r| r.columns.push(theirs()), Whose::Own, r#""theirs" text NOT NULL"#, wanted);
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
        let other = Whose::Other("collection a.b of pipeline p".into());
        let wanted = "a table for this collection alone";
        assert_obstacle(|_| {}, other, "a table of collection a.b of pipeline p", wanted);
    }

    #[test]
    fn what_is_not_docrows_is_left_alone() {
        let mut users = relation(&tables()[0], Whose::Own);
        users.columns[1].not_null = true;
        let default = Attribute { default: true, ..attribute(&column("made", Scalar::Timestamptz), true) };
        users.columns.extend([attribute(&column("note", Scalar::Text), false), default]);
        let own = ["users", "tags", "old", "gone"]
            .map(|name| OwnTable { name: format!("\"s\".\"{name}\""), exists: name != "gone" });
        let found = Found { relations: vec![users], own: own.into(), ..Found::default() };
        let plan = Plan::of("s", Wanted { tables: &tables(), foreign_keys: false }, &found);
        assert_eq!(plan.refusal(), None);
        assert_eq!(plan.tables[0].others, [r#""note" text"#, r#""made" timestamptz NOT NULL"#]);
        assert_eq!(plan.left, [r#""s"."old""#]);
    }

    #[test]
    fn a_collection_does_not_go_on_in_another_schema() {
        let own = vec![OwnTable { name: r#""before"."users""#.into(), exists: true }];
        let found = Found { own, ..Found::default() };
        let plan = Plan::of("s", Wanted { tables: &tables(), foreign_keys: false }, &found);
        assert!(plan.refusal().unwrap().contains(r#"rows, in "before"."users""#));
    }

    #[test]
    fn children_refer_to_the_root_once() {
        let wanted = tables();
        let references = vec![Reference { table: "tags".into(), column: "user_id".into() }];
        for (references, expected) in [(Vec::new(), 1), (references, 0)] {
            let relations = wanted.iter().map(|table| relation(table, Whose::Own)).collect();
            let found = Found { relations, references, ..Found::default() };
            let plan = Plan::of("s", Wanted { tables: &wanted, foreign_keys: true }, &found);
            let added = sql(&plan, When::AfterCopy);
            assert_eq!(added.len(), expected);
            let foreign =
                r#"ALTER TABLE "s"."tags" ADD FOREIGN KEY ("user_id") REFERENCES "s"."users" ("id")"#;
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
}
