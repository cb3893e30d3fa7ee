//! Builds the document from what is known. Pure, except for a cache of mappings that were read before.

use std::{collections::HashMap, time::SystemTime};

use super::{
    CollectionStatus, ColumnStatus, DeadLetterStatus, FORM, LetterStatus, MappingStatus, MisfitsStatus,
    NarrowColumn, OplogStatus, PartitionStatus, ProcessStatus, SnapshotStatus, SourceStatus, SpoolStatus,
    Status, TableStatus, TargetStatus, VerifiedStatus, health, reckoning::LagReckoning,
};
use crate::{
    model::phase::{Evidence, Phase},
    moment::Moment,
    pipeline,
    process_status::{Clock, Details, ProcessReport},
    schema::{MappingSpec, TableSpec},
    shown,
    sink::metadata::{
        misfits::Misfits,
        overview::{CollectionSurvey, PipelineSurvey},
        runner::PipelineRunner,
    },
};

/// What is known about a pipeline.
#[derive(Debug)]
pub struct PipelineFacts<'a> {
    /// Its name.
    pub pipeline: &'a str,
    /// When it was gathered.
    pub at: Moment,
    /// PostgreSQL's data, perhaps as of an earlier time.
    pub survey: Option<&'a PipelineSurvey>,
    /// Why PostgreSQL does not answer, if it does not.
    pub target_problem: Option<String>,
    /// The process's report, and its time.
    pub report: Option<(ProcessReport, Details, Moment)>,
    /// MongoDB's answers, if it was asked now, and not by the process.
    pub source: Option<Clock>,
    /// Whether this process runs the pipeline.
    pub is_own: bool,
    /// Whether the process's report is current.
    pub is_told: bool,
}

/// The context for all collections.
struct CollectionContext<'a> {
    survey: Option<&'a PipelineSurvey>,
    clock: &'a Clock,
    details: &'a Details,
    lag: &'a LagReckoning<'a>,
    is_told: bool,
}

/// Mappings that were read before, by collection and version.
pub(super) type MappingCache = HashMap<(String, u16), Vec<TableStatus>>;

impl PipelineFacts<'_> {
    /// The document.
    pub(super) fn document(self, mappings: &mut MappingCache) -> Status {
        let (report, details, reported_at) = match self.report {
            Some((report, details, at)) => (Some(report), details, Some(at)),
            None => (None, Details::default(), None),
        };
        let told = report.as_ref();
        let answers = self.target_problem.is_none();
        let runner = self.survey.filter(|_| answers).map(|survey| &survey.runner);
        let (holder, seen) = match runner {
            Some(PipelineRunner::Process(words)) => (Some(words.clone()), Some(true)),
            Some(PipelineRunner::Unheard(words)) => (Some(words.clone()), None),
            Some(PipelineRunner::Nobody) => (None, Some(false)),
            // docrow has never written to the target.
            None => (None, answers.then_some(false)),
        };
        let running = if self.is_own { Some(true) } else { seen };
        let clock = self.source.or_else(|| told.filter(|_| self.is_told).map(|r| r.source.clone()));
        let known = known(clock.as_ref(), told);
        let lag = match (told, &clock) {
            (Some(report), _) if self.is_told => LagReckoning::Process(&report.lag),
            (_, Some(Clock { problem: None, time: Some(now), .. })) => LagReckoning::Stored(*now),
            _ => LagReckoning::Unknown,
        };
        let (survey, is_told) = (self.survey, self.is_told);
        let context = CollectionContext { survey, clock: &known, details: &details, lag: &lag, is_told };
        let of_collection = |surveyed: &CollectionSurvey| collection(surveyed, &context, mappings);
        let refused = refused(&details, self.survey);
        let surveyed = self.survey.iter().flat_map(|survey| &survey.collections).chain(&refused);
        let mut collections: Vec<_> = surveyed.map(of_collection).collect();
        collections.sort_by(|a, b| a.name.cmp(&b.name));
        let resumes = told.and_then(|r| r.resumes_from);
        let resumes_from = resumes.filter(|_| running == Some(true));
        // What is in the spool need not be read again, nor what is applied, even if the spool is lost.
        let applied = applied(&collections, CollectionStatus::is_followed);
        let next = resumes_from.or(resumes.max(applied));
        let partitions = self.survey.map_or_else(Vec::new, |s| partitions(s, &collections, &lag));
        let mut status = Status {
            document: FORM,
            pipeline: self.pipeline.to_owned(),
            at: self.at,
            health: health::unknown(),
            process: ProcessStatus { running, holder, reported_at, ..process(told, running == Some(true)) },
            source: SourceStatus {
                name: None,
                // A process that hears from it may still have a problem with it.
                answers: clock.as_ref().map(|clock| match self.is_told {
                    true => clock.silent_since.is_none(),
                    false => clock.problem.is_none(),
                }),
                silent_since: clock.as_ref().and_then(|clock| clock.silent_since),
                problem: clock.and_then(|clock| clock.problem),
                time: known.time,
                resumes_from,
                oplog: oplog(&known, next),
            },
            target: TargetStatus {
                name: String::new(),
                schema: String::new(),
                answers,
                problem: self.target_problem,
            },
            lag_seconds: collections.iter().filter(|c| c.is_followed()).filter_map(|c| c.lag_seconds).max(),
            lag_words: String::new(),
            rates: told.filter(|_| running == Some(true)).map(|r| r.rates).unwrap_or_default(),
            totals: told.map(|report| report.totals).unwrap_or_default(),
            partitions,
            collections,
            spool: spool(told, running == Some(true)),
            dead_letters: self.survey.map(dead_letters).unwrap_or_default(),
            verified: self.survey.and_then(verified),
            messages: details.messages,
        };
        status.lag_words = health::lag(&status);
        status.health = health::verdict(&status);
        status
    }
}

/// The process's report.
fn process(told: Option<&ProcessReport>, is_running: bool) -> ProcessStatus {
    let hindrance = told.filter(|_| is_running).and_then(|report| report.hindrance.as_ref());
    ProcessStatus {
        running: None,
        holder: None,
        version: told.map(|report| report.version.clone()),
        started_at: told.map(|report| report.started_at),
        stage: told.map(|report| report.stage),
        since: told.map(|report| report.since),
        problem: told.and_then(|report| report.problem.clone()),
        hindrance: hindrance.map(|hindrance| hindrance.words().to_owned()),
        limit: told.filter(|_| is_running).and_then(|report| report.limit.clone()),
        reported_at: None,
    }
}

fn spool(told: Option<&ProcessReport>, is_running: bool) -> SpoolStatus {
    SpoolStatus {
        bytes: told.map(|report| report.spool.bytes),
        budget: told.map(|report| report.spool.budget),
        problem: told.filter(|_| is_running).and_then(|report| report.spool.problem.clone()),
    }
}

/// MongoDB's answers, now or earlier.
fn known(clock: Option<&Clock>, report: Option<&ProcessReport>) -> Clock {
    let earlier = report.map(|report| report.source.clone()).unwrap_or_default();
    let Clock { problem, silent_since, time, oplog_start } = clock.cloned().unwrap_or_default();
    let (time, oplog_start) = (time.or(earlier.time), oplog_start.or(earlier.oplog_start));
    Clock { problem, silent_since, time, oplog_start }
}

/// The collections for which the process could create no tables, so PostgreSQL knows nothing of them.
fn refused(details: &Details, survey: Option<&PipelineSurvey>) -> Vec<CollectionSurvey> {
    let is_known = |name: &String| survey.is_some_and(|s| s.collections.iter().any(|c| c.name == *name));
    let refused = details.refused.iter().filter(|(name, _)| !is_known(name));
    let surveyed = |(name, reason): (&String, &String)| CollectionSurvey {
        name: name.clone(),
        version: 0,
        mapping: String::new(),
        filled: true,
        stopped: Some(reason.clone()),
        absent: None,
        paused: None,
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

/// Why a collection is stopped, and that it needs a resync, if the oplog has moved past it since.
fn stopped(surveyed: &CollectionSurvey, applied_up_to: Option<Moment>, clock: &Clock) -> Option<String> {
    let why = surveyed.stopped.clone()?;
    let is_lost = applied_up_to.zip(clock.oplog_start).is_some_and(|(applied, start)| applied < start);
    let resync = format!("docrow resync '{}'", surveyed.name);
    if is_lost && !why.contains(&resync) {
        return Some(format!(
            "{why}; by now the oplog no longer holds its changes: once it is fixed, run {resync}"
        ));
    }
    Some(why)
}

fn collection(
    surveyed: &CollectionSurvey,
    context: &CollectionContext<'_>,
    mappings: &mut MappingCache,
) -> CollectionStatus {
    let CollectionContext { survey, clock, lag, .. } = *context;
    let phase = Phase::of(Evidence {
        planned: surveyed.chunks > 0,
        chunks_left: surveyed.chunks.saturating_sub(surveyed.chunks_copied),
        keys_missing: surveyed.keys_missing,
        replaces: surveyed.replaces,
    });
    let positions = survey.iter().flat_map(|survey| &survey.positions);
    let stored =
        positions.filter(|p| p.collection == surveyed.name).map(|p| p.cluster_time).min().map(Moment::from);
    let applied_up_to = lag.applied().and_then(|a| a.collections.get(&surveyed.name).copied()).or(stored);
    let is_live = phase == Phase::Live && surveyed.stopped.is_none() && surveyed.absent.is_none();
    let tables = tables(surveyed, mappings);
    CollectionStatus {
        name: surveyed.name.clone(),
        phase,
        stopped: stopped(surveyed, applied_up_to, clock),
        absent: surveyed.absent.clone(),
        paused: surveyed.paused.map(Moment::from),
        resync: surveyed.resync.clone(),
        snapshot: snapshot(surveyed, phase, context),
        applied_up_to,
        lag_seconds: lag.of_collection(&surveyed.name, applied_up_to).filter(|_| is_live),
        dead_letters: surveyed.dead_letters,
        misfits: survey.and_then(|survey| misfits(surveyed, survey, &tables)),
        mapping: MappingStatus { version: surveyed.version, filled: surveyed.filled, tables },
    }
}

fn misfits(
    surveyed: &CollectionSurvey,
    survey: &PipelineSurvey,
    tables: &[TableStatus],
) -> Option<MisfitsStatus> {
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

fn snapshot(surveyed: &CollectionSurvey, phase: Phase, context: &CollectionContext<'_>) -> SnapshotStatus {
    let &CollectionSurvey { documents, chunks, chunks_copied, replaces, .. } = surveyed;
    let is_complete = chunks > 0 && chunks == chunks_copied;
    let pace = context.details.copies.get(&surveyed.name);
    let under_way = pace.filter(|_| phase == Phase::Copying && surveyed.stopped.is_none());
    // The chunks in progress of a process that has ended are rolled back.
    let written = under_way.filter(|_| context.is_told).map_or(0, |pace| pace.copied);
    let documents = documents.max(written);
    let estimated = match pace {
        _ if is_complete => Some(documents),
        pace => pace.map(|pace| pace.estimated.max(documents)),
    };
    let rate = under_way.filter(|_| surveyed.paused.is_none()).map(|pace| pace.documents_per_second);
    let left = estimated.map(|estimated| estimated.saturating_sub(documents));
    let eta_seconds = left.zip(rate).and_then(|(left, rate)| left.checked_div(rate));
    SnapshotStatus {
        documents,
        estimated,
        chunks_copied,
        chunks,
        replaces,
        bytes: under_way.map(|pace| pace.bytes),
        documents_per_second: rate,
        bytes_per_second: under_way.map(|pace| pace.bytes_per_second),
        eta_seconds,
    }
}

/// The tables of a mapping; none if a later docrow has written it in a form that can't be read.
fn tables(surveyed: &CollectionSurvey, mappings: &mut MappingCache) -> Vec<TableStatus> {
    let key = (surveyed.name.clone(), surveyed.version);
    let read = || {
        let spec = MappingSpec::parse(&surveyed.mapping, "the mapping in force").ok()?;
        Some(spec.tables().map(|table| self::table(&spec, table)).collect())
    };
    mappings.entry(key).or_insert_with(|| read().unwrap_or_default()).clone()
}

/// With the key column, in the root table, and the column of whole documents.
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

fn partitions(
    survey: &PipelineSurvey,
    collections: &[CollectionStatus],
    lag: &LagReckoning<'_>,
) -> Vec<PartitionStatus> {
    let is_live = |name: &str| collections.iter().any(|c| c.is_live() && c.is_followed() && c.name == name);
    let mut numbers: Vec<u16> = survey.positions.iter().map(|position| position.partition).collect();
    numbers.dedup();
    let partition = |partition: u16| {
        let own = || survey.positions.iter().filter(move |p| p.partition == partition);
        let applied = own().filter(|p| is_live(&p.collection)).map(|p| p.cluster_time).min();
        let stored_at: Option<SystemTime> = own().map(|p| p.stored_at).max();
        let told = lag.applied().and_then(|applied| applied.partitions.get(&partition).copied());
        let applied_up_to = told.or(applied.map(Moment::from));
        PartitionStatus {
            partition,
            applied_up_to,
            lag_seconds: lag.of_partition(partition, applied_up_to),
            stored_at: stored_at.map(Moment::from),
        }
    };
    numbers.into_iter().map(partition).collect()
}

/// A result that a later docrow has written in a form that can't be read counts as none.
fn verified(survey: &PipelineSurvey) -> Option<VerifiedStatus> {
    let stored = survey.verified.as_ref()?;
    let result = serde_json::from_str(&stored.result).ok()?;
    Some(VerifiedStatus { at: stored.at.into(), result })
}

fn dead_letters(survey: &PipelineSurvey) -> DeadLetterStatus {
    // Collections that are no longer followed do not count.
    let followed: HashMap<&str, u64> = survey
        .collections
        .iter()
        .filter(|collection| collection.absent.is_none())
        .map(|collection| (&*collection.name, collection.dead_letters))
        .collect();
    let groups = survey.letters.iter().filter(|letters| followed.contains_key(&*letters.collection));
    let groups = groups.map(|letters| LetterStatus {
        collection: letters.collection.clone(),
        path: letters.path.clone(),
        reason: letters.reason.clone(),
        count: letters.count,
        last_at: letters.last_at.into(),
    });
    DeadLetterStatus { total: followed.values().sum(), groups: groups.collect() }
}

/// The minimum time up to which these collections are applied.
fn applied(collections: &[CollectionStatus], which: impl Fn(&CollectionStatus) -> bool) -> Option<Moment> {
    collections.iter().filter(|c| which(c)).filter_map(|c| c.applied_up_to).min()
}

fn oplog(clock: &Clock, next: Option<Moment>) -> Option<OplogStatus> {
    let (start, now) = (clock.oplog_start?, clock.time?);
    Some(OplogStatus {
        start,
        window_seconds: now.since(start).as_secs(),
        headroom_seconds: next.map(|next| next.since(start).as_secs()),
        is_history_lost: next.is_some_and(|next| next < start),
    })
}
