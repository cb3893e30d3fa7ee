//! Documents of pipelines that stand here and there, and what is said of their health.

use std::time::{Duration, SystemTime};

use super::{Facts, Level, Status, document::Mappings, span};
use crate::{
    moment::Moment,
    pipeline::phase::Phase,
    sink::survey::{Reached, Survey, Surveyed},
    vitals::{Clock, Details, Pace, Report, Spool, Stage},
};

const NOW: u64 = 1_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn collection(name: &str) -> Surveyed {
    let mapping = format!(
        "collection = 'shop.{name}'\ntable = '{name}'\nextra = '_extra'\n[key]\ncolumn = 'id'\ntype = 'bigint'\n\
         [columns]\nn = {{ path = 'm', type = 'text' }}\n\
         [[tables]]\ntable = '{name}_list'\npath = 'list[]'\nparent = 'id'\nordinals = ['_ord']\n"
    );
    Surveyed {
        name: format!("shop.{name}"),
        version: 1,
        mapping,
        filled: true,
        stopped: None,
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
fn survey() -> Survey {
    let position = |partition, name: &str, behind| Reached {
        partition,
        collection: format!("shop.{name}"),
        cluster_time: at(NOW - behind),
        stored_at: at(NOW),
    };
    Survey {
        at: at(NOW),
        holder: Some("docrow process 1".to_owned()),
        report: None,
        collections: vec![collection("orders"), collection("users")],
        positions: vec![
            position(0, "orders", 0),
            position(0, "users", 0),
            position(1, "orders", 1),
            position(1, "users", 5),
        ],
        letters: Vec::new(),
        dead_letters: 0,
    }
}

fn report() -> Report {
    Report {
        stage: Stage::Live,
        source: Clock {
            problem: None,
            time: Some(at(NOW).into()),
            oplog_start: Some(at(NOW - 86_400).into()),
        },
        spool: Spool { bytes: 0, budget: 1000 },
        resumes_from: Some(at(NOW).into()),
        ..Report::default()
    }
}

fn document(survey: &Survey, report: Option<Report>, details: Details) -> Status {
    let at: Moment = survey.at.into();
    let report = report.map(|report| (report, details, at));
    let facts = Facts {
        pipeline: "p",
        at,
        survey: Some(survey),
        target_problem: None,
        report,
        source: None,
        is_own: false,
    };
    facts.document(&mut Mappings::new())
}

fn live(change: impl FnOnce(&mut Survey, &mut Report)) -> Status {
    let (mut survey, mut report) = (survey(), report());
    change(&mut survey, &mut report);
    document(&survey, Some(report), Details::default())
}

#[track_caller]
fn assert_health(status: &Status, level: Level, words: &str) {
    let health = &status.health;
    assert!(health.level == level && health.words.contains(words), "{health:?}");
}

#[test]
fn all_is_well() {
    let status = live(|_, _| {});
    assert_health(&status, Level::Ok, "live: all 2 collections are up to date");
    assert_eq!(status.lag_seconds, Some(5));
    assert_eq!(status.collections.iter().map(|c| c.lag_seconds).collect::<Vec<_>>(), [Some(1), Some(5)]);
    assert_eq!(status.partitions.iter().map(|p| p.lag_seconds).collect::<Vec<_>>(), [Some(0), Some(5)]);
    let oplog = status.source.oplog.unwrap();
    assert_eq!((oplog.window_seconds, oplog.headroom_seconds), (86_400, Some(86_400)));
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
    let (mut survey, report) = (survey(), Report { stage: Stage::Copying, ..report() });
    let users = &mut survey.collections[1];
    (users.chunks_copied, users.documents) = (1, 100);
    let pace = Pace { estimated: 500, documents_per_second: 20 };
    let details = Details { copies: [("shop.users".to_owned(), pace)].into(), messages: Vec::new() };
    let status = document(&survey, Some(report), details);
    let users = &status.collections[1];
    assert_eq!((users.phase, users.lag_seconds, status.lag_seconds), (Phase::Copying, None, Some(1)));
    let snapshot = users.snapshot;
    assert_eq!(
        (snapshot.estimated, snapshot.documents_per_second, snapshot.eta_seconds),
        (Some(500), Some(20), Some(20))
    );
    assert_eq!(status.collections[0].snapshot.eta_seconds, None);
    assert_health(&status, Level::Busy, "copying 1 of 2 collections, 55% of all documents, about 20 s left");
}

#[test]
fn what_is_wrong_is_said_the_worst_first() {
    assert_health(
        &live(|s, _| s.positions[0].cluster_time = at(NOW - 200)),
        Level::Warning,
        "3 min 20 s behind",
    );
    assert_health(&live(|s, _| s.dead_letters = 1), Level::Warning, "1 document could not be written");
    assert_health(&live(|_, r| r.spool.bytes = 850), Level::Warning, "the spool is almost full");
    assert_health(&live(|_, r| r.spool.bytes = 1000), Level::Error, "the spool is full");
    let late = live(|_, r| r.resumes_from = Some(at(NOW - 86_000).into()));
    assert_health(
        &late,
        Level::Warning,
        "the oplog reaches back only 6 min 40 s before what is read next, of 1 d 0 h",
    );
    let retrying = |r: &mut Report| (r.stage, r.problem) = (Stage::Retrying, Some("why".to_owned()));
    assert_health(&live(|_, r| retrying(r)), Level::Error, "trying again: why");
    let both = live(|s, _| {
        s.dead_letters = 7;
        s.collections[0].stopped = Some("no good".to_owned());
    });
    assert_health(&both, Level::Error, "shop.orders is stopped: no good");
    assert_eq!(both.health.problems.len(), 2);
    // What is stopped is not behind, for good or bad.
    assert_eq!((both.collections[0].lag_seconds, both.lag_seconds), (None, Some(5)));
}

#[test]
fn nobody_runs_it() {
    let ended = |problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        live(move |s, r| (s.holder, r.stage, r.problem) = (None, Stage::Ended, problem))
    };
    assert_health(&ended(None), Level::Warning, "stopped, as it was told to");
    assert_health(&ended(Some("history lost")), Level::Error, "stopped by an error: history lost");
    assert_health(&live(|s, _| s.holder = None), Level::Error, "ended without a word");
    let gone = live(|s, _| s.holder = None);
    assert_eq!(
        (gone.process.running, gone.source.answers, gone.source.resumes_from),
        (Some(false), None, None)
    );
    // Then it is what is stored that the next one goes on from.
    assert_eq!(gone.source.oplog.unwrap().headroom_seconds, Some(86_395));
    let (mut survey, none) = (survey(), Details::default());
    (survey.holder, survey.collections, survey.positions) = (None, Vec::new(), Vec::new());
    assert_health(&document(&survey, None, none), Level::Warning, "never been run");
}

#[test]
fn postgres_is_away() {
    let (survey, report) = (survey(), Report { stage: Stage::Retrying, ..report() });
    let at: Moment = survey.at.into();
    let facts = Facts {
        pipeline: "p",
        at,
        survey: Some(&survey),
        target_problem: Some("refused".to_owned()),
        report: Some((report, Details::default(), at)),
        source: None,
        is_own: true,
    };
    let status = facts.document(&mut Mappings::new());
    assert_health(&status, Level::Error, "PostgreSQL does not answer; changes wait in the spool: refused");
    assert_eq!((status.health.problems.len(), status.collections.len()), (1, 2));
    assert_eq!(status.process.running, Some(true));
}

#[test]
fn times_in_words() {
    let words: Vec<_> = [0, 59, 60, 3661, 90_000].map(span).into();
    assert_eq!(words, ["0 s", "59 s", "1 min 0 s", "1 h 1 min", "1 d 1 h"]);
}
