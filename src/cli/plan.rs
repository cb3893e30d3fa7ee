//! `docrow plan`: the DDL that a run would execute, as a diff against the existing tables.

use clap::Args;
use serde_json::{Value, json};

use super::{
    outcome::CommandOutcome,
    printable::{printable, say},
};
use crate::{
    config::Config,
    error::Result,
    model::change::Namespace,
    pipeline,
    sink::tables::ddl_plan::{Obstacle, Origin, Plan, TablePlan, When},
};

#[derive(Debug, Args)]
pub(super) struct PlanOptions {
    /// Execute it, and store the mappings; `docrow run` continues from there
    #[arg(long)]
    apply: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn execute(
    config: &Config,
    PlanOptions { apply, json }: PlanOptions,
) -> Result<CommandOutcome> {
    let plans = pipeline::plan(config, apply).await?;
    let obstacles: usize = plans.iter().map(|(_, plan)| plan.obstacles().count()).sum();
    if json {
        say(document(&plans, apply && obstacles == 0))?;
        return Ok(if obstacles > 0 { CommandOutcome::Finding } else { CommandOutcome::Done });
    }
    for (namespace, plan) in &plans {
        for line in lines(&namespace.to_string(), plan) {
            say(printable(&line))?;
        }
    }
    if obstacles > 0 {
        say(format!("\nobstacles: {obstacles}; nothing is executed until they are removed"))?;
        return Ok(CommandOutcome::Finding);
    }
    if apply {
        say("\nexecuted, except for what comes after the copy, which `docrow run` does")?;
    }
    Ok(CommandOutcome::Done)
}

/// The same as JSON; `applied` says whether it was executed, except for what comes after the copy.
fn document(plans: &[(Namespace, Plan)], applied: bool) -> Value {
    let table = |TablePlan { name, origin, steps, obstacles, others }: &TablePlan| {
        let origin = match origin {
            Origin::Created => "created",
            Origin::Own => "own",
            Origin::Adopted => "adopted",
        };
        let sql = |when| steps.iter().filter(move |step| step.when == when).map(|step| &step.sql);
        let obstacle = |Obstacle { there, wanted }: &Obstacle| json!({ "wanted": wanted, "there": there });
        json!({
            "table": name,
            "origin": origin,
            "sql": sql(When::AtOnce).collect::<Vec<_>>(),
            "sql_after_copy": sql(When::AfterCopy).collect::<Vec<_>>(),
            "obstacles": obstacles.iter().map(obstacle).collect::<Vec<_>>(),
            "other_columns": others,
        })
    };
    let collection = |(namespace, plan): &(Namespace, Plan)| {
        json!({
            "collection": namespace.to_string(),
            "tables": plan.tables.iter().map(table).collect::<Vec<_>>(),
            "no_longer_written": plan.left,
        })
    };
    json!({ "applied": applied, "collections": plans.iter().map(collection).collect::<Vec<_>>() })
}

/// The diff: `+` before what is executed, `!` before obstacles, `=` before what exists and is kept.
fn lines(collection: &str, plan: &Plan) -> Vec<String> {
    let steps = [When::AtOnce, When::AfterCopy].map(|when| plan.steps(when).count());
    if steps == [0, 0] && plan.obstacles().next().is_none() {
        return vec![format!("= {collection}: nothing to do")];
    }
    let mut lines = vec![collection.to_owned()];
    plan.tables.iter().for_each(|table| table_lines(table, &mut lines));
    for step in plan.steps(When::AfterCopy) {
        lines.push(format!("+ {}; -- after the copy", step.sql));
    }
    for name in &plan.left {
        lines.push(format!("= {name} stays: an earlier version of the mapping wrote to it"));
    }
    lines
}

fn table_lines(table: &TablePlan, lines: &mut Vec<String>) {
    let TablePlan { name, origin, steps, obstacles, others } = table;
    let steps = steps.iter().filter(|step| step.when == When::AtOnce);
    match origin {
        _ if !obstacles.is_empty() => lines.push(format!("! {name} does not fit")),
        Origin::Created => {}
        Origin::Adopted => lines.push(format!("= {name} is adopted: it is empty and fits")),
        Origin::Own if steps.clone().next().is_none() => lines.push(format!("= {name} needs no change")),
        Origin::Own => lines.push(format!("= {name} stays, and is changed")),
    }
    for obstacle in obstacles {
        lines.push(format!("!     wanted {}; found {}", obstacle.wanted, obstacle.there));
    }
    for step in steps {
        lines.extend(format!("{};", step.sql).lines().map(|line| format!("+ {line}")));
    }
    for other in others {
        lines.push(format!("=     {other} stays: it is not in the mapping"));
    }
}
