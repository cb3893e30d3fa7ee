//! Plans the changes to a collection's tables: from the wanted and the existing tables, to steps, or to the
//! obstacles. Pure; `catalog` finds the existing tables, `ddl` executes the steps.
//!
//! A table belongs to the collection if a stored version of its mapping names it: missing parts are added. A
//! table without an owner is adopted as it is, if it is empty and has exactly what rows need; otherwise it is
//! an obstacle. Nothing is ever dropped, emptied or narrowed, and additional parts are left alone.

pub use super::found::Obstacle;
use super::{
    ddl_sql::{self, ColumnChange},
    found::{ColumnWidening, FoundColumn, FoundRelation, FoundTables, OwnTable, widening},
    sql,
};
use crate::{
    model::table::{Column, Table},
    sink::metadata::mapping_versions::TableOwnership,
};

#[cfg(test)]
mod tests;

/// The largest table that is rewritten to widen a column: no one can write to it meanwhile.
pub(super) const REWRITTEN: u64 = 64 << 20;

/// How many obstacles an error names.
const SHOWN: usize = 6;

/// The tables of a collection's mapping.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The tables, root first.
    pub tables: &'a [Table],
    /// Whether the other tables reference the root table by foreign keys.
    pub foreign_keys: bool,
}

/// The plan for a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One for each wanted table, in their order.
    pub tables: Vec<TablePlan>,
    /// Tables of earlier versions of the mapping, which stay but are no longer written.
    pub left: Vec<String>,
}

/// The plan for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlan {
    /// The table, with its schema.
    pub name: String,
    /// Its origin.
    pub origin: Origin,
    /// The steps, in this order.
    pub steps: Vec<DdlStep>,
    /// The obstacles.
    pub obstacles: Vec<Obstacle>,
    /// The columns that are not docrow's, and stay.
    pub others: Vec<String>,
}

/// The origin of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It does not exist yet.
    Created,
    /// It belongs to the collection.
    Own,
    /// It had no owner.
    Adopted,
}

/// A step: one statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DdlStep {
    /// Its SQL.
    pub sql: String,
    /// When it is executed.
    pub when: When,
}

/// When a step is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// With all other steps, in one transaction.
    AtOnce,
    /// After the snapshot, when it is faster.
    AfterCopy,
}

impl Plan {
    /// The plan for `wanted` tables in `schema`.
    pub fn of(schema: &str, wanted: Wanted<'_>, found: &FoundTables) -> Self {
        let relation = |table: &Table| found.relations.iter().find(|relation| relation.name == table.name);
        let mut own =
            wanted.tables.iter().filter_map(relation).filter(|r| r.whose == TableOwnership::Own).peekable();
        // Otherwise the snapshot is still to come, or in progress.
        let keyed = own.peek().is_some() && own.all(|relation| relation.key.is_some());
        let tables = wanted.tables.iter().enumerate().map(|(at, table)| {
            let mut plan = match relation(table) {
                Some(relation) => TablePlan::of(schema, table, relation, keyed),
                None => TablePlan::created(schema, table, keyed),
            };
            let root = wanted.tables.first().filter(|_| wanted.foreign_keys && at > 0);
            if let Some(root) = root.filter(|_| !found.references.iter().any(|there| there.is_of(table))) {
                plan.steps.push(DdlStep::after_copy(ddl_sql::add_foreign_key(schema, table, root)));
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

    /// A collection whose rows are elsewhere must not continue with an empty table.
    fn stay_where_it_is(&mut self, own: &[OwnTable]) {
        let Some(root) = self.tables.first_mut() else { return };
        if !self.left.is_empty() && own.iter().all(|own| own.name != root.name) {
            let advice =
                "restore [target] schema and the table's name, or copy again under another pipeline name";
            let there = format!("the collection's rows, in {}", self.left.join(", "));
            root.obstacles.push(Obstacle::new(there, format!("the same tables: {advice}")));
        }
    }

    /// The obstacles, each with its table.
    pub fn obstacles(&self) -> impl Iterator<Item = (&TablePlan, &Obstacle)> {
        self.tables.iter().flat_map(|table| table.obstacles.iter().map(move |obstacle| (table, obstacle)))
    }

    /// Why the plan is refused, on one line, if there is an obstacle.
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
        let advice = "`docrow plan` shows the differences: change or rename the existing object, or choose \
            another table name in a mapping file, or another target schema";
        (!refusal.is_empty()).then(|| format!("{refusal}: {advice}"))
    }

    /// The existing tables that are changed at once.
    pub(super) fn changed(&self) -> impl Iterator<Item = &str> {
        let is_changed = |table: &&TablePlan| {
            table.origin != Origin::Created && table.steps.iter().any(|step| step.when == When::AtOnce)
        };
        self.tables.iter().filter(is_changed).map(|table| table.name.as_str())
    }

    /// The steps that are executed at `when`.
    pub fn steps(&self, when: When) -> impl Iterator<Item = &DdlStep> {
        self.tables.iter().flat_map(|table| &table.steps).filter(move |step| step.when == when)
    }
}

impl TablePlan {
    fn created(schema: &str, table: &Table, keyed: bool) -> Self {
        let mut steps = vec![DdlStep::at_once(ddl_sql::create_table(schema, table, keyed))];
        if !keyed {
            steps.push(DdlStep::after_copy(ddl_sql::add_primary_key(schema, table)));
        }
        let name = sql::qualified(schema, &table.name);
        Self { name, origin: Origin::Created, steps, obstacles: Vec::new(), others: Vec::new() }
    }

    fn of(schema: &str, table: &Table, relation: &FoundRelation, keyed: bool) -> Self {
        let origin = if relation.whose == TableOwnership::Own { Origin::Own } else { Origin::Adopted };
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
                    ColumnFit::AsIs => {}
                    ColumnFit::Widen => actions.push(ColumnChange::Widen(column)),
                    ColumnFit::Not(obstacle) => plan.obstacles.push(obstacle),
                },
                // Existing rows would have no value for it.
                None if origin == Origin::Own && at >= table.key_columns => {
                    actions.push(ColumnChange::Add(column))
                }
                None => plan.obstacles.push(Obstacle::new("no such column", sql::definition(column))),
            }
        }
        if !actions.is_empty() {
            plan.steps.push(DdlStep::at_once(ddl_sql::alter_table(schema, table, &actions)));
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

    fn key(&mut self, schema: &str, table: &Table, relation: &FoundRelation, keyed: bool) {
        let names = table.columns.iter().take(table.key_columns).map(|column| &column.name);
        match &relation.key {
            Some(key) if key.columns.iter().eq(names.clone()) && !key.deferrable => {}
            Some(key) => {
                let deferrable = if key.deferrable { " DEFERRABLE" } else { "" };
                let there = format!("PRIMARY KEY ({}){deferrable}", ddl_sql::quoted(&key.columns));
                self.obstacles
                    .push(Obstacle::new(there, format!("PRIMARY KEY ({})", ddl_sql::quoted(names))));
            }
            None if relation.alterable => {
                let sql = ddl_sql::add_primary_key(schema, table);
                self.steps.push(if keyed { DdlStep::at_once(sql) } else { DdlStep::after_copy(sql) });
            }
            None => {
                let wanted =
                    format!("PRIMARY KEY ({}), which only the table's owner can add", ddl_sql::quoted(names));
                self.obstacles.push(Obstacle::new("no primary key", wanted));
            }
        }
    }
}

fn barrier(relation: &FoundRelation) -> Option<Obstacle> {
    match &relation.whose {
        TableOwnership::Other(whose) => {
            Some(Obstacle::new(format!("a table of {whose}"), "a table for this collection alone"))
        }
        TableOwnership::Own | TableOwnership::Nobody => relation.barrier.clone(),
    }
}

/// Whether a column can hold the values that are written to it.
enum ColumnFit {
    AsIs,
    Widen,
    Not(Obstacle),
}

fn fit(wanted: &Column, is_key: bool, there: &FoundColumn, relation: &FoundRelation) -> ColumnFit {
    let own = relation.whose == TableOwnership::Own;
    let not = |there: String| ColumnFit::Not(Obstacle::new(there, sql::definition(wanted)));
    if there.generated {
        return not(format!("{} that generates its values", there.shown()));
    }
    if there.oid == wanted.ty.oid() && there.plain {
        // A constraint that a user added to one of docrow's tables is deliberate; documents that violate it
        // become dead letters.
        return if there.not_null && !is_key && !own { not(there.shown()) } else { ColumnFit::AsIs };
    }
    match widening(wanted.ty, there) {
        Some(_) if !own => not(there.shown()),
        None => not(there.shown()),
        Some(_) if relation.bytes > REWRITTEN => {
            not(format!("{} in a table of more than 64 MB, which is not rewritten", there.shown()))
        }
        Some(ColumnWidening::IfSmall) if there.beyond_int4 => {
            not(format!("{} with values that would not read back unchanged from a double", there.shown()))
        }
        Some(_) => ColumnFit::Widen,
    }
}

impl DdlStep {
    fn at_once(sql: String) -> Self {
        Self { sql, when: When::AtOnce }
    }

    fn after_copy(sql: String) -> Self {
        Self { sql, when: When::AfterCopy }
    }
}
