//! Findings about PostgreSQL.

use super::report::{FindingPart, PartFindings};
use crate::{
    config::Config,
    error::Result,
    sink::{
        Session, Target,
        metadata::runner::PipelineRunner,
        preflight::{self, TargetInspection, TargetObjection, TargetRemedy},
    },
};

/// Sessions besides those of copiers and workers: one holds the pipeline, one writes metadata, one looks for
/// requests, three complete collections, one changes tables, three fill new columns of each of four
/// collections, one counts misfits, one is for the status, one is the pulse, one looks for the holders of
/// locks.
const SESSIONS: usize = 23;

/// With a session, if a run could do anything there.
pub(super) async fn check(config: &Config) -> (PartFindings, Option<(Target, Session)>) {
    let mut findings = PartFindings::new(FindingPart::Target);
    let parsed = Target::parse(config.target.expose(), &config.schema, &config.name);
    let Some(target) = findings.unless("connection", parsed) else { return (findings, None) };
    let (session, other) = match target.connect_twice().await {
        Ok(sessions) => sessions,
        Err(refusal) => {
            findings.problem("connection", refusal.to_string()).statement =
                preflight::grant_to_connect(&target, &refusal);
            return (findings, None);
        }
    };
    let inspected: Result<TargetInspection> = preflight::inspect(&session, other, &target).await;
    let Some(inspection) = findings.unless("connection", inspected) else { return (findings, None) };
    let TargetInspection { version, user, database, objections, is_known, runner, sessions_left } =
        inspection;
    let address = target.address();
    findings.ok("connection", format!("PostgreSQL {version} at {address}, database {database}, as {user}"));
    let usable = objections.is_empty();
    for TargetObjection { what, remedy, .. } in objections {
        let subject = if matches!(remedy, TargetRemedy::Statement(_)) { "privileges" } else { "server" };
        let finding = findings.problem(subject, what);
        match remedy {
            TargetRemedy::Words(words) => finding.advise(words),
            TargetRemedy::Statement(statement) => finding.run(statement),
        };
    }
    if usable {
        findings.ok(
            "privileges",
            format!("may create what it needs in the schemas docrow and {}", target.schema()),
        );
    }
    let pipeline = target.pipeline();
    let is_run = matches!(runner, Some(PipelineRunner::Process(_)));
    match (is_known, runner) {
        (_, Some(PipelineRunner::Process(holder))) => {
            findings.note("pipeline", format!("{pipeline} is running ({holder})")).advise(
                "to run another one beside it, choose another name; to stand by: docrow run --standby",
            );
        }
        (_, Some(PipelineRunner::Unheard(holder))) => {
            let what = format!("the process that ran {pipeline} ({holder}) is not heard of");
            findings
                .note("pipeline", what)
                .advise("check whether it still exists: it was killed, or can't reach PostgreSQL");
        }
        (true, Some(PipelineRunner::Nobody)) => {
            findings.ok("pipeline", format!("no process runs {pipeline}; the schema docrow exists"));
        }
        (false, _) => {
            findings.ok("pipeline", "docrow has not written here yet: a run creates the schema docrow");
        }
        (true, None) => {
            findings.note("pipeline", format!("this user may not see whether a process runs {pipeline}"));
        }
    }
    if !is_run {
        sessions(&mut findings, config, sessions_left);
    }
    (findings, usable.then_some((target, session)))
}

fn sessions(findings: &mut PartFindings, config: &Config, left: i64) {
    let (copiers, workers) = (config.parallelism, usize::from(config.partitions));
    let needed = copiers + workers + SESSIONS;
    let sum = format!("{copiers} copiers + {workers} workers + {SESSIONS} others = {needed} at most");
    if i64::try_from(needed).is_ok_and(|needed| needed <= left) {
        findings.ok("sessions", format!("{sum}; {left} are free"));
    } else {
        findings.problem("sessions", format!("{sum}; only {left} are free")).advise(
            "raise max_connections or the role's limit, or lower snapshot.parallelism and stream.partitions",
        );
    }
}
