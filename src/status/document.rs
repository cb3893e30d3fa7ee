//! Makes the document of what is known. Pure but for a cache of mappings that were read before.

use std::{collections::HashMap, time::SystemTime};

use super::{
    CollectionStatus, ColumnStatus, DeadLetterStatus, FORM, LetterStatus, MappingStatus, MisfitsStatus,
    NarrowColumn, OplogStatus, PartitionStatus, Process, SnapshotStatus, SourceStatus, SpoolStatus, Status,
    TableStatus, TargetStatus, health,
};
use crate::{
    moment::Moment,
    pipeline::{
        self,
        phase::{Evidence, Phase},
    },
    schema::{MappingSpec, TableSpec},
    shown,
    sink::{
        misfits::Misfits,
        survey::{Survey, Surveyed},
    },
    vitals::{Clock, Details, Report},
};

/// What is known of a pipeline.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub pipeline: &'a str,
    /// When it was gathered.
    pub at: Moment,
    /// What PostgreSQL knows, perhaps as it was earlier.
    pub survey: Option<&'a Survey>,
    /// Why PostgreSQL does not answer, if it does not.
    pub target_problem: Option<String>,
    /// What the process says, and when it did.
    pub report: Option<(Report, Details, Moment)>,
    /// What MongoDB says, if it was asked now, and not by the process.
    pub source: Option<Clock>,
    /// Whether this very process runs the pipeline.
    pub is_own: bool,
}

/// Mappings that were read before, by collection and version.
pub(super) type Mappings = HashMap<(String, u16), Vec<TableStatus>>;

impl Facts<'_> {
    /// The document.
    pub(super) fn document(self, mappings: &mut Mappings) -> Status {
        let (report, details, reported_at) = match self.report {
            Some((report, details, at)) => (Some(report), details, Some(at)),
            None => (None, Details::default(), None),
        };
        let told = report.as_ref();
        let answers = self.target_problem.is_none();
        let holder = self.survey.filter(|_| answers).and_then(|survey| survey.holder.clone());
        let running = match (self.is_own, answers) {
            (true, _) => Some(true),
            (false, true) => Some(holder.is_some()),
            (false, false) => None,
        };
        let clock = self.source.or_else(|| told.filter(|_| running == Some(true)).map(|r| r.source.clone()));
        let known = known(clock.as_ref(), told);
        let of_collection =
            |surveyed: &Surveyed| collection(surveyed, self.survey, (&known, &details), mappings);
        let refused = refused(&details, self.survey);
        let surveyed = self.survey.iter().flat_map(|survey| &survey.collections).chain(&refused);
        let mut collections: Vec<_> = surveyed.map(of_collection).collect();
        collections.sort_by(|a, b| a.name.cmp(&b.name));
        let resumes_from = told.and_then(|r| r.resumes_from).filter(|_| running == Some(true));
        let next =
            resumes_from.or_else(|| applied(&collections, |c| c.stopped.is_none() && c.absent.is_none()));
        let mut status = Status {
            document: FORM,
            pipeline: self.pipeline.to_owned(),
            at: self.at,
            health: health::unknown(),
            process: Process {
                running,
                holder,
                version: told.map(|report| report.version.clone()),
                started_at: told.map(|report| report.started_at),
                stage: told.map(|report| report.stage),
                since: told.map(|report| report.since),
                problem: told.and_then(|report| report.problem.clone()),
                hindrance: told
                    .filter(|_| running == Some(true))
                    .and_then(|report| report.hindrance.as_ref())
                    .map(|hindrance| hindrance.words().to_owned()),
                reported_at,
            },
            source: SourceStatus {
                answers: clock.as_ref().map(|clock| clock.problem.is_none()),
                problem: clock.and_then(|clock| clock.problem),
                time: known.time,
                resumes_from,
                oplog: oplog(&known, next),
            },
            target: TargetStatus { answers, problem: self.target_problem },
            lag_seconds: collections.iter().filter_map(|c| c.lag_seconds).max(),
            rates: told.filter(|_| running == Some(true)).map(|r| r.rates).unwrap_or_default(),
            totals: told.map(|report| report.totals).unwrap_or_default(),
            partitions: self.survey.map_or_else(Vec::new, |s| partitions(s, &collections, &known)),
            collections,
            spool: SpoolStatus {
                bytes: told.map(|report| report.spool.bytes),
                budget: told.map(|report| report.spool.budget),
                problem: told.filter(|_| running == Some(true)).and_then(|r| r.spool.problem.clone()),
            },
            dead_letters: self.survey.map(dead_letters).unwrap_or_default(),
            messages: details.messages,
        };
        status.health = health::of(&status);
        status
    }
}

/// What MongoDB said, now or earlier.
fn known(clock: Option<&Clock>, report: Option<&Report>) -> Clock {
    let earlier = report.map(|report| report.source.clone()).unwrap_or_default();
    let Clock { problem, time, oplog_start } = clock.cloned().unwrap_or_default();
    Clock { problem, time: time.or(earlier.time), oplog_start: oplog_start.or(earlier.oplog_start) }
}

/// The collections that the process could make no tables for, and of which PostgreSQL knows nothing therefore.
fn refused(details: &Details, survey: Option<&Survey>) -> Vec<Surveyed> {
    let is_known = |name: &String| survey.is_some_and(|s| s.collections.iter().any(|c| c.name == *name));
    let refused = details.refused.iter().filter(|(name, _)| !is_known(name));
    let surveyed = |(name, reason): (&String, &String)| Surveyed {
        name: name.clone(),
        version: 0,
        mapping: String::new(),
        filled: true,
        stopped: Some(reason.clone()),
        absent: None,
        chunks: 0,
        chunks_copied: 0,
        documents: 0,
        replaces: false,
        keys_missing: 0,
        resync: None,
        dead_letters: 0,
    };
    refused.map(surveyed).collect()
}

/// Why a collection is stopped, and that it needs a resync, if the oplog has gone past it since.
fn stopped(surveyed: &Surveyed, applied_up_to: Option<Moment>, clock: &Clock) -> Option<String> {
    let why = surveyed.stopped.clone()?;
    let is_lost = applied_up_to.zip(clock.oplog_start).is_some_and(|(applied, start)| applied < start);
    let resync = format!("docrow resync '{}'", surveyed.name);
    if is_lost && !why.contains(&resync) {
        return Some(format!(
            "{why}; by now the oplog no longer holds its changes: when it is mended, {resync}"
        ));
    }
    Some(why)
}

fn collection(
    surveyed: &Surveyed,
    survey: Option<&Survey>,
    (clock, details): (&Clock, &Details),
    mappings: &mut Mappings,
) -> CollectionStatus {
    let phase = Phase::of(Evidence {
        planned: surveyed.chunks > 0,
        chunks_left: surveyed.chunks.saturating_sub(surveyed.chunks_copied),
        keys_missing: surveyed.keys_missing,
        replaces: surveyed.replaces,
    });
    let positions = survey.iter().flat_map(|survey| &survey.positions);
    let applied_up_to =
        positions.filter(|p| p.collection == surveyed.name).map(|p| p.cluster_time).min().map(Moment::from);
    let is_live = phase == Phase::Live && surveyed.stopped.is_none() && surveyed.absent.is_none();
    let tables = tables(surveyed, mappings);
    CollectionStatus {
        name: surveyed.name.clone(),
        phase,
        stopped: stopped(surveyed, applied_up_to, clock),
        absent: surveyed.absent.clone(),
        resync: surveyed.resync.clone(),
        snapshot: snapshot(surveyed, phase, details),
        applied_up_to,
        lag_seconds: behind(clock.time, applied_up_to).filter(|_| is_live),
        dead_letters: surveyed.dead_letters,
        misfits: survey.and_then(|survey| misfits(surveyed, survey, &tables)),
        mapping: MappingStatus { version: surveyed.version, filled: surveyed.filled, tables },
    }
}

fn misfits(surveyed: &Surveyed, survey: &Survey, tables: &[TableStatus]) -> Option<MisfitsStatus> {
    let count = survey.misfits.get(&surveyed.name)?;
    let is_automatic = pipeline::is_automatic(&surveyed.mapping);
    let column = |(misfits, since): &(Misfits, SystemTime)| {
        let Misfits { table, column, values, numbers } = misfits;
        let own = tables.iter().find(|own| own.name == *table);
        let own = own.and_then(|table| table.columns.iter().find(|own| own.name == *column));
        let sql_type = own.map_or_else(String::new, |column| column.sql_type.clone());
        NarrowColumn {
            table: table.clone(),
            column: column.clone(),
            values: *values,
            numbers: *numbers,
            since: (*since).into(),
            remedy: misfits.remedy(&sql_type, is_automatic).to_owned(),
            sql_type,
        }
    };
    Some(MisfitsStatus { counted_at: count.at.into(), columns: count.found.iter().map(column).collect() })
}

fn snapshot(surveyed: &Surveyed, phase: Phase, details: &Details) -> SnapshotStatus {
    let &Surveyed { documents, chunks, chunks_copied, replaces, .. } = surveyed;
    let is_complete = chunks > 0 && chunks == chunks_copied;
    let pace = details.copies.get(&surveyed.name);
    let estimated = match pace {
        _ if is_complete => Some(documents),
        pace => pace.map(|pace| pace.estimated.max(documents)),
    };
    let rate = pace.filter(|_| phase == Phase::Copying && surveyed.stopped.is_none());
    let rate = rate.map(|pace| pace.documents_per_second);
    let left = estimated.map(|estimated| estimated.saturating_sub(documents));
    let eta_seconds = left.zip(rate).and_then(|(left, rate)| left.checked_div(rate));
    SnapshotStatus {
        documents,
        estimated,
        chunks_copied,
        chunks,
        replaces,
        documents_per_second: rate,
        eta_seconds,
    }
}

/// The tables of a mapping; none if a later docrow has written it in a way that can't be read.
fn tables(surveyed: &Surveyed, mappings: &mut Mappings) -> Vec<TableStatus> {
    let key = (surveyed.name.clone(), surveyed.version);
    let read = || {
        let spec = MappingSpec::parse(&surveyed.mapping, "the mapping in force").ok()?;
        Some(spec.tables().map(|table| self::table(&spec, table)).collect())
    };
    mappings.entry(key).or_insert_with(|| read().unwrap_or_default()).clone()
}

/// With the key's column, where it is the documents' own, and the column of whole documents.
fn table(spec: &MappingSpec, table: &TableSpec) -> TableStatus {
    let column =
        |name: &str, path: String, sql_type: String| ColumnStatus { name: name.to_owned(), path, sql_type };
    let mut columns = Vec::new();
    if table.table == spec.root().table {
        columns.push(column(&spec.key().column, "_id".to_owned(), spec.key().ty.sql()));
        let document = spec.document().map(|d| column(&d.column, String::new(), "jsonb".to_owned()));
        columns.extend(document);
    }
    columns
        .extend(table.columns.iter().map(|c| column(&c.name, shown::path(&c.path.to_string()), c.ty.sql())));
    TableStatus { name: table.table.clone(), path: shown::path(&table.path.to_string()), columns }
}

fn partitions(survey: &Survey, collections: &[CollectionStatus], clock: &Clock) -> Vec<PartitionStatus> {
    let is_live = |name: &str| collections.iter().any(|c| c.is_live() && c.name == name);
    let mut numbers: Vec<u16> = survey.positions.iter().map(|position| position.partition).collect();
    numbers.dedup();
    let partition = |partition: u16| {
        let own = || survey.positions.iter().filter(move |p| p.partition == partition);
        let applied = own().filter(|p| is_live(&p.collection)).map(|p| p.cluster_time).min();
        let stored_at: Option<SystemTime> = own().map(|p| p.stored_at).max();
        let applied_up_to = applied.map(Moment::from);
        PartitionStatus {
            partition,
            applied_up_to,
            lag_seconds: behind(clock.time, applied_up_to),
            stored_at: stored_at.map(Moment::from),
        }
    };
    numbers.into_iter().map(partition).collect()
}

fn dead_letters(survey: &Survey) -> DeadLetterStatus {
    let groups = survey.letters.iter().map(|letters| LetterStatus {
        collection: letters.collection.clone(),
        path: letters.path.clone(),
        reason: letters.reason.clone(),
        count: letters.count,
        last_at: letters.last_at.into(),
    });
    DeadLetterStatus { total: survey.dead_letters, groups: groups.collect() }
}

/// The least time up to which these collections are applied.
fn applied(collections: &[CollectionStatus], which: impl Fn(&CollectionStatus) -> bool) -> Option<Moment> {
    collections.iter().filter(|c| which(c)).filter_map(|c| c.applied_up_to).min()
}

fn oplog(clock: &Clock, next: Option<Moment>) -> Option<OplogStatus> {
    let (start, now) = (clock.oplog_start?, clock.time?);
    Some(OplogStatus {
        start,
        window_seconds: now.since(start).as_secs(),
        headroom_seconds: next.map(|next| next.since(start).as_secs()),
    })
}

fn behind(now: Option<Moment>, applied: Option<Moment>) -> Option<u64> {
    now.zip(applied).map(|(now, applied)| now.since(applied).as_secs())
}
