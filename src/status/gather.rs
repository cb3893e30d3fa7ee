//! Asks the servers for the state of a pipeline.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{PipelineFacts, Status, document::MappingCache};
use crate::{
    error::{Error, Kind, Result},
    moment::Moment,
    process_status::{Clock, Details, ProcessReport, Stage, Vitals},
    secret::Secret,
    sink::{
        Target,
        metadata::{
            overview::{OverviewReader, PipelineSurvey},
            runner::PipelineRunner,
        },
    },
    source::{self, Source},
};

/// How long to wait for MongoDB: longer than the driver looks for a server, so that the driver reports why
/// there is none.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long to wait for PostgreSQL, if there is something to report without it.
const BRIEF: Duration = Duration::from_secs(3);
/// A process that has reported within this time knows about MongoDB.
const FRESH: Duration = Duration::from_secs(10);

/// Gathers documents, one after the other.
#[derive(Debug)]
pub struct StatusGatherer {
    target: Target,
    /// The figures of this process, if it runs the pipeline, or is about to.
    vitals: Option<Arc<Vitals>>,
    /// MongoDB's URI, if it is known.
    source_uri: Option<Secret>,
    /// Its name for people.
    source_name: Option<String>,
    source: Option<Source>,
    surveyor: Option<OverviewReader>,
    last: Option<PipelineSurvey>,
    mappings: MappingCache,
}

impl StatusGatherer {
    /// For the process that runs the pipeline, which asks with its own limits.
    pub fn within(target: &Target, source_uri: &Secret, vitals: Arc<Vitals>) -> Self {
        let source_name = source::name(source_uri.expose());
        Self { vitals: Some(vitals), source_name, ..Self::from_outside(target.unattended(), None) }
    }

    /// For another process. MongoDB is asked only if no process runs the pipeline.
    pub fn from_outside(target: Target, source_uri: Option<Secret>) -> Self {
        let (mappings, source_name) =
            (MappingCache::new(), source_uri.as_ref().and_then(|uri| source::name(uri.expose())));
        Self {
            target,
            vitals: None,
            source_uri,
            source_name,
            source: None,
            surveyor: None,
            last: None,
            mappings,
        }
    }

    /// The document. Errors: PostgreSQL does not answer, or refuses.
    pub async fn gather(&mut self) -> Result<Status> {
        self.look().await?;
        Ok(self.document(None).await)
    }

    /// The document, with what is known without PostgreSQL if that does not answer.
    pub async fn gather_anyway(&mut self) -> Status {
        let looked = timeout(BRIEF, self.look()).await.unwrap_or_else(|_| {
            Err(Error::new(Kind::TargetAway, format!("no answer from {}", self.target.address())))
        });
        let problem = looked.err().map(|error| error.to_string());
        if problem.is_some() {
            self.surveyor = None;
        }
        self.document(problem).await
    }

    async fn look(&mut self) -> Result<()> {
        if self.surveyor.is_none() {
            self.surveyor = OverviewReader::open(&self.target).await?;
        }
        // If docrow has never written there, there is nothing to ask for.
        let Some(surveyor) = &self.surveyor else { return Ok(()) };
        match surveyor.survey().await {
            Ok(survey) => self.last = Some(survey),
            Err(error) => {
                self.surveyor = None;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn document(&mut self, target_problem: Option<String>) -> Status {
        let surveyed = self.last.as_ref().filter(|_| target_problem.is_none());
        let at = surveyed.map_or_else(Moment::now, |survey| survey.at.into());
        let own = self.vitals.as_ref().filter(|vitals| vitals.stage().0 != Stage::StandingBy);
        let is_own = own.is_some();
        let report = match own {
            Some(vitals) => {
                let (report, details) = vitals.report();
                Some((report, details, at))
            }
            None => self.last.as_ref().and_then(stored),
        };
        let is_held = surveyed.is_some_and(|survey| matches!(survey.runner, PipelineRunner::Process(_)));
        let is_told =
            is_own || is_held && report.as_ref().is_some_and(|(_, _, then)| at.since(*then) < FRESH);
        let source = if is_told { None } else { self.ask_source().await };
        let survey = self.last.as_ref();
        let pipeline = self.target.pipeline();
        let facts = PipelineFacts { pipeline, at, survey, target_problem, report, source, is_own, is_told };
        let mut status = facts.document(&mut self.mappings);
        status.source.name.clone_from(&self.source_name);
        status.target.name = self.target.place();
        self.target.schema().clone_into(&mut status.target.schema);
        status
    }

    /// MongoDB's answers; `None`: its address is not known.
    async fn ask_source(&mut self) -> Option<Clock> {
        let uri = self.source_uri.clone()?;
        let asked = timeout(PATIENCE, async {
            let source = match &mut self.source {
                Some(source) => source,
                none => none.insert(Source::connect(uri.expose()).await?),
            };
            source.look_at_clock().await?;
            let time = Some(source.newest().into());
            let oplog_start = source.oplog_start().await?.map(Moment::from);
            Ok::<_, Error>(Clock { time, oplog_start, ..Clock::default() })
        });
        let problem = match asked.await {
            Ok(Ok(clock)) => return Some(clock),
            Ok(Err(error)) => error.to_string(),
            Err(_) => match &self.source {
                Some(source) => format!("no answer from MongoDB at {}", source.hosts()),
                None => "no answer from MongoDB".to_owned(),
            },
        };
        Some(Clock { problem: Some(problem), ..Clock::default() })
    }
}

/// The last report of another process. One that can't be read comes from a later docrow.
fn stored(survey: &PipelineSurvey) -> Option<(ProcessReport, Details, Moment)> {
    let stored = survey.report.as_ref()?;
    let report = serde_json::from_str(&stored.report).ok()?;
    let details = serde_json::from_str(&stored.details).unwrap_or_default();
    Some((report, details, stored.at.into()))
}
