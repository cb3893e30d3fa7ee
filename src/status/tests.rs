//! Documents of pipelines in various states, and the verdicts on their health.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{Health, HealthLevel, PipelineFacts, Status, document::MappingCache, span};
use crate::{
    model::phase::Phase,
    moment::Moment,
    process_status::{Applied, Clock, CopyPace, Details, Hindrance, Lag, ProcessReport, Spool, Stage},
    sink::metadata::{
        misfits::{MisfitCount, Misfits},
        overview::{CollectionSurvey, LetterCount, PartitionReach, PipelineSurvey},
        runner::PipelineRunner,
        verifications::StoredVerification,
    },
};

mod health;

/// The time of all these documents, in seconds since 1970.
pub(crate) const NOW: u64 = 1_000_000;

/// A time in seconds since 1970.
pub(crate) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn collection(name: &str) -> CollectionSurvey {
    let mapping = format!(
        "collection = 'shop.{name}'\ntable = '{name}'\nextra = '_extra'\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\
         [columns]\nn = {{ path = 'm', type = 'text' }}\n\
         [[tables]]\ntable = '{name}_list'\npath = 'list[]'\nparent = 'id'\nordinals = ['_ord']\n"
    );
    CollectionSurvey {
        name: format!("shop.{name}"),
        version: 1,
        mapping,
        filled: true,
        stopped: None,
        absent: None,
        paused: None,
        chunks: 4,
        chunks_copied: 4,
        documents: 400,
        replaces: false,
        keys_missing: 0,
        resync: None,
        dead_letters: 0,
    }
}

/// Two live collections, two partitions, one of them five seconds behind.
fn survey() -> PipelineSurvey {
    let position = |partition, name: &str, behind| PartitionReach {
        partition,
        collection: format!("shop.{name}"),
        cluster_time: at(NOW - behind),
        stored_at: at(NOW),
    };
    PipelineSurvey {
        at: at(NOW),
        runner: PipelineRunner::Process("docrow process 1".to_owned()),
        report: None,
        collections: vec![collection("orders"), collection("users")],
        positions: vec![
            position(0, "orders", 0),
            position(0, "users", 0),
            position(1, "orders", 1),
            position(1, "users", 5),
        ],
        letters: Vec::new(),
        misfits: HashMap::new(),
        verified: None,
    }
}

fn report() -> ProcessReport {
    ProcessReport {
        stage: Stage::Live,
        source: Clock {
            time: Some(at(NOW).into()),
            oplog_start: Some(at(NOW - 86_400).into()),
            ..Clock::default()
        },
        spool: Spool { bytes: 0, budget: 1000, problem: None },
        resumes_from: Some(at(NOW).into()),
        ..ProcessReport::default()
    }
}

/// The lag that the process would compute: from the positions, as if there had been a write each second.
fn lag(survey: &PipelineSurvey) -> Lag {
    let mut lag = Lag::default();
    for PartitionReach { partition, collection, cluster_time, .. } in &survey.positions {
        let behind = at(NOW).duration_since(*cluster_time).unwrap().as_secs();
        let most = lag.behind.entry(collection.clone()).or_default();
        *most = behind.max(*most);
        if survey.collections.iter().any(|c| {
            c.name == *collection
                && c.stopped.is_none()
                && c.absent.is_none()
                && c.paused.is_none()
                && c.chunks == c.chunks_copied
        }) {
            lag.seconds = lag.seconds.max(Some(behind));
            let most = lag.partitions.entry(*partition).or_default();
            *most = behind.max(*most);
        }
    }
    lag.behind.retain(|_, behind| *behind > 0);
    lag
}

fn document(survey: &PipelineSurvey, report: Option<ProcessReport>, details: Details) -> Status {
    let at: Moment = survey.at.into();
    let mut facts = PipelineFacts {
        pipeline: "p",
        at,
        survey: Some(survey),
        target_problem: None,
        report: report.map(|report| (report, details, at)),
        source: None,
        is_own: false,
        is_told: matches!(survey.runner, PipelineRunner::Process(_)),
    };
    if let Some((report, ..)) = &mut facts.report
        && report.source.problem.is_none()
        && report.source.time.is_some()
    {
        report.lag = lag(survey);
    }
    facts.document(&mut MappingCache::new())
}

/// The document of a live pipeline, after a change.
pub(crate) fn live(change: impl FnOnce(&mut PipelineSurvey, &mut ProcessReport)) -> Status {
    let (mut survey, mut report) = (survey(), report());
    change(&mut survey, &mut report);
    document(&survey, Some(report), Details::default())
}

#[track_caller]
fn assert_health(status: &Status, level: HealthLevel, words: &str) {
    let health = &status.health;
    assert!(health.level == level && health.words.contains(words), "{health:?}");
}

#[test]
fn all_is_well() {
    let status = live(|_, _| {});
    assert_health(&status, HealthLevel::Ok, "live: all 2 collections are 5 s behind MongoDB");
    assert_eq!((status.lag_seconds, &*status.lag_words), (Some(5), "5 s"));
    assert_eq!(status.collections.iter().map(|c| c.lag_seconds).collect::<Vec<_>>(), [Some(1), Some(5)]);
    assert_eq!(status.partitions.iter().map(|p| p.lag_seconds).collect::<Vec<_>>(), [Some(0), Some(5)]);
    let oplog = status.source.oplog.unwrap();
    assert_eq!((oplog.window_seconds, oplog.headroom_seconds), (86_400, Some(86_400)));
}

/// A pause is no problem, however long it is; it is reported, and its lag is shown.
#[test]
fn what_is_paused_is_shown_and_no_trouble() {
    let status = live(|survey, _| {
        survey.collections[0].paused = Some(at(NOW - 9000));
        survey.positions.iter_mut().filter(|p| p.collection == "shop.orders").for_each(|p| {
            p.cluster_time = at(NOW - 9000);
        });
    });
    assert_health(
        &status,
        HealthLevel::Ok,
        "live: 1 collection is 5 s behind MongoDB; shop.orders is paused",
    );
    assert_eq!(status.health.problems, []);
    assert_eq!((status.lag_seconds, status.collections[0].lag_seconds), (Some(5), Some(9000)));
    let all = live(|survey, _| survey.collections.iter_mut().for_each(|c| c.paused = Some(at(NOW))));
    assert_health(&all, HealthLevel::Ok, "no collection is followed; 2 collections are paused");
    // A collection that is not copied yet does not keep the others from being live.
    let copying = live(|survey, _| {
        (survey.collections[0].paused, survey.collections[0].chunks_copied) = (Some(at(NOW)), 1);
    });
    assert_health(
        &copying,
        HealthLevel::Ok,
        "live: 1 collection is 5 s behind MongoDB; shop.orders is paused",
    );
}

#[test]
fn what_the_last_verification_found_is_shown() {
    let verified = |differences| {
        live(move |survey, _| {
            let result = format!(
                "{{\"equal\":{},\"differences\":{differences},\"unsettled\":0,\"documents\":9,\"seconds\":1,\
                 \"sample\":\"2%\",\"collections\":[]}}",
                differences == 0
            );
            survey.verified = Some(StoredVerification { at: at(NOW - 60), result });
        })
    };
    let equal = verified(0);
    assert_health(&equal, HealthLevel::Ok, "live: all 2 collections");
    assert!(equal.verified.is_some_and(|v| v.result.equal && v.result.sample.as_deref() == Some("2%")));
    assert_health(&verified(3), HealthLevel::Warning, "found 3 differences: docrow verify shows them");
    let later = live(|survey, _| {
        survey.verified = Some(StoredVerification { at: at(NOW), result: "{\"new\": 1}".to_owned() });
    });
    assert!(later.verified.is_none(), "a later docrow may write it otherwise");
}

/// Behind is not up to date, and neither is unknown.
#[test]
fn only_what_is_not_behind_is_up_to_date() {
    let behind =
        |seconds| live(move |s, _| s.positions.iter_mut().for_each(|p| p.cluster_time = at(NOW - seconds)));
    for seconds in [0, 1, 10, 11, 47, 60, 61] {
        let Health { words, level, .. } = behind(seconds).health;
        assert_eq!(words.contains("up to date"), seconds == 0, "{seconds} s: {words}");
        assert_eq!(words.contains("behind MongoDB"), seconds > 0, "{words}");
        assert_eq!(level == HealthLevel::Ok, seconds <= 10, "{words}");
    }
    assert_health(&behind(47), HealthLevel::Busy, "all 2 collections are live, 47 s behind MongoDB");
    assert_health(&live(|_, r| r.source.time = None), HealthLevel::Busy, "is not known yet");
    assert_health(&live(|_, r| r.stage = Stage::Preparing), HealthLevel::Busy, "starting: all 2 collections");
}

/// Unknown is not zero: while MongoDB does not answer, the lag is unknown, and the document says since when.
#[test]
fn lag_is_unknown_while_mongodb_does_not_answer() {
    let why = "no server at db:27017 answers in time: Connection refused";
    let silent = live(|_, r| {
        r.source.problem = Some(why.to_owned());
        r.source.silent_since = Some(at(NOW - 40).into());
    });
    assert_health(
        &silent,
        HealthLevel::Error,
        "MongoDB does not answer since 1970-01-12T13:46:00Z: no server at db:27017",
    );
    assert_eq!(silent.lag_words, "unknown since 1970-01-12T13:46:00Z: MongoDB does not answer");
    assert_eq!((silent.lag_seconds, silent.source.silent_since), (None, Some(at(NOW - 40).into())));
    assert!(silent.collections.iter().all(|c| c.phase == Phase::Live && c.lag_seconds.is_none()));
    assert!(silent.partitions.iter().all(|p| p.lag_seconds.is_none()));
    // The last report of an ended process does not determine it, either.
    let gone = live(|s, r| (s.runner, r.stage) = (PipelineRunner::Nobody, Stage::Ended));
    assert_eq!((gone.lag_seconds, &*gone.lag_words), (None, "not known yet"));
}

/// While no process runs the pipeline, the lag is the distance from the stored position to MongoDB's current
/// time.
#[test]
fn lag_of_a_stopped_pipeline_is_what_is_stored_against_now() {
    let mut survey = survey();
    survey.runner = PipelineRunner::Nobody;
    let report = ProcessReport { stage: Stage::Ended, ..report() };
    let asked = |problem: Option<&str>| {
        let time = problem.is_none().then(|| at(NOW + 100).into());
        let clock = Clock { problem: problem.map(str::to_owned), time, ..Clock::default() };
        let facts = PipelineFacts {
            pipeline: "p",
            at: at(NOW + 100).into(),
            survey: Some(&survey),
            target_problem: None,
            report: Some((report.clone(), Details::default(), at(NOW).into())),
            source: Some(clock),
            is_own: false,
            is_told: false,
        };
        facts.document(&mut MappingCache::new())
    };
    assert_eq!(asked(None).lag_seconds, Some(105));
    let silent = asked(Some("refused"));
    assert_eq!((silent.lag_seconds, &*silent.lag_words), (None, "unknown: MongoDB does not answer"));
}

/// A page that is opened for the first time during an outage shows what the process knows, not what was last
/// read.
#[test]
fn lag_of_the_own_process_is_no_matter_of_when_somebody_last_looked() {
    let mut survey = survey();
    survey.positions.iter_mut().for_each(|p| p.cluster_time = at(NOW - 160));
    let applied = Applied {
        collections: [("shop.orders".to_owned(), at(NOW - 6).into())].into(),
        partitions: [(0, at(NOW - 6).into())].into(),
    };
    let behind = [("shop.orders".to_owned(), 6)].into();
    let lag = Lag { seconds: Some(6), behind, partitions: [(0, 6)].into(), applied };
    let facts = PipelineFacts {
        pipeline: "p",
        at: at(NOW).into(),
        survey: Some(&survey),
        target_problem: Some("refused".to_owned()),
        report: Some((ProcessReport { lag, ..report() }, Details::default(), at(NOW).into())),
        source: None,
        is_own: true,
        is_told: true,
    };
    let status = facts.document(&mut MappingCache::new());
    assert_eq!(status.lag_seconds, Some(6));
    let orders = &status.collections[0];
    assert_eq!((orders.lag_seconds, orders.applied_up_to), (Some(6), Some(at(NOW - 6).into())));
    assert_eq!((status.partitions[0].lag_seconds, status.collections[1].lag_seconds), (Some(6), Some(0)));
}

/// The reason for a stall comes before its consequences.
#[test]
fn what_holds_it_up_is_said_first() {
    let hindered = |hindrance| {
        live(move |s, r| {
            s.positions[0].cluster_time = at(NOW - 200);
            r.hindrance = Some(hindrance);
        })
    };
    let still = hindered(Hindrance::Standstill("nothing has been applied for 61 s".to_owned()));
    assert_health(&still, HealthLevel::Error, "nothing has been applied for 61 s");
    let locked = hindered(Hindrance::Lock("waits for a lock on public.orders".to_owned()));
    assert_health(&locked, HealthLevel::Error, "waits for a lock on public.orders");
    let gone = live(|s, r| {
        s.runner = PipelineRunner::Nobody;
        r.hindrance = Some(Hindrance::Standstill("nothing".to_owned()));
    });
    assert_eq!(gone.process.hindrance, None);
}

#[test]
fn the_mapping_in_force_is_told() {
    let status = live(|_, _| {});
    let tables = &status.collections[0].mapping.tables;
    let columns: Vec<_> = tables[0].columns.iter().map(|c| (&*c.name, &*c.path, &*c.sql_type)).collect();
    assert_eq!(columns, [("id", "_id", "bigint"), ("n", "m", "text")]);
    assert_eq!((&*tables[1].name, &*tables[1].path), ("orders_list", "list[]"));
    let later = live(|survey, _| survey.collections[0].mapping = "of = 'a later docrow'".to_owned());
    assert!(later.collections[0].mapping.tables.is_empty());
}

#[test]
fn a_copy_has_a_pace_and_an_end() {
    let (mut survey, report) = (survey(), ProcessReport { stage: Stage::Copying, ..report() });
    let users = &mut survey.collections[1];
    (users.chunks_copied, users.documents) = (1, 100);
    let pace = CopyPace { estimated: 500, documents_per_second: 20, ..CopyPace::default() };
    let details = Details { copies: [("shop.users".to_owned(), pace)].into(), ..Details::default() };
    let status = document(&survey, Some(report), details);
    let users = &status.collections[1];
    assert_eq!((users.phase, users.lag_seconds, status.lag_seconds), (Phase::Copying, None, Some(1)));
    let snapshot = users.snapshot;
    assert_eq!(
        (snapshot.estimated, snapshot.documents_per_second, snapshot.eta_seconds),
        (Some(500), Some(20), Some(20))
    );
    assert_eq!(status.collections[0].snapshot.eta_seconds, None);
    assert_health(
        &status,
        HealthLevel::Busy,
        "copying 1 of 2 collections, 55% of all documents, about 20 s left",
    );
}

/// On a slow network a chunk takes minutes: the part that is written is shown, until the writing process is
/// gone.
#[test]
fn a_copy_goes_on_within_a_chunk() {
    let (mut survey, report) = (survey(), ProcessReport { stage: Stage::Copying, ..report() });
    let users = &mut survey.collections[1];
    (users.chunks_copied, users.documents) = (1, 100);
    let pace = CopyPace {
        estimated: 500,
        copied: 180,
        bytes: 9000,
        documents_per_second: 20,
        bytes_per_second: 1000,
    };
    let details = Details { copies: [("shop.users".to_owned(), pace)].into(), ..Details::default() };
    let snapshot = document(&survey, Some(report.clone()), details.clone()).collections[1].snapshot;
    assert_eq!((snapshot.documents, snapshot.chunks_copied, snapshot.eta_seconds), (180, 1, Some(16)));
    assert_eq!((snapshot.bytes, snapshot.bytes_per_second), (Some(9000), Some(1000)));
    survey.runner = PipelineRunner::Nobody;
    assert_eq!(document(&survey, Some(report), details).collections[1].snapshot.documents, 100);
}

#[test]
fn times_in_words() {
    let words: Vec<_> = [0, 59, 60, 3661, 90_000].map(span).into();
    assert_eq!(words, ["0 s", "59 s", "1 min 0 s", "1 h 1 min", "1 d 1 h"]);
}
