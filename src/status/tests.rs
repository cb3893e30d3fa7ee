//! Documents of pipelines that stand here and there, and what is said of their health.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{Facts, Level, Status, document::Mappings, span};
use crate::{
    moment::Moment,
    pipeline::phase::Phase,
    sink::{
        misfits::{Count, Misfits},
        survey::{Reached, Survey, Surveyed},
    },
    vitals::{Clock, Details, Hindrance, Pace, Report, Spool, Stage},
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
        absent: None,
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
        misfits: HashMap::new(),
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
        spool: Spool { bytes: 0, budget: 1000, problem: None },
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

/// Behind is not up to date, and neither is what is not known.
#[test]
fn only_what_is_close_is_up_to_date() {
    let behind = |seconds| live(move |s, _| s.positions[0].cluster_time = at(NOW - seconds));
    for (seconds, is_close) in [(0, true), (10, true), (11, false), (47, false), (60, false), (61, false)] {
        let words = behind(seconds).health.words;
        assert_eq!(words.contains("up to date"), is_close, "{seconds} s: {words}");
        assert!(is_close || words.contains("behind MongoDB"), "{words}");
    }
    assert_health(&behind(47), Level::Busy, "all 2 collections are live, 47 s behind MongoDB");
    assert_health(&live(|_, r| r.source.time = None), Level::Busy, "is not known yet");
    assert_health(&live(|_, r| r.stage = Stage::Preparing), Level::Busy, "starting: all 2 collections");
}

/// Where everything stands still, and why, comes before what follows from it.
#[test]
fn what_holds_it_up_is_said_first() {
    let hindered = |hindrance| {
        live(move |s, r| {
            s.positions[0].cluster_time = at(NOW - 200);
            r.hindrance = Some(hindrance);
        })
    };
    let still = hindered(Hindrance::Standstill("nothing has been applied for 61 s".to_owned()));
    assert_health(&still, Level::Error, "nothing has been applied for 61 s");
    let locked = hindered(Hindrance::Lock("waits for a lock on public.orders".to_owned()));
    assert_health(&locked, Level::Error, "waits for a lock on public.orders");
    let gone = live(|s, r| {
        s.holder = None;
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
    let (mut survey, report) = (survey(), Report { stage: Stage::Copying, ..report() });
    let users = &mut survey.collections[1];
    (users.chunks_copied, users.documents) = (1, 100);
    let pace = Pace { estimated: 500, documents_per_second: 20 };
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
    let full = |r: &mut Report| r.spool.problem = Some("no space left".to_owned());
    assert_health(&live(|_, r| full(r)), Level::Error, "the disk of the state directory is full");
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

/// What was not counted is not known; what was, says what mends it.
#[test]
fn columns_that_lack_values_are_told() {
    let found = |column: &str, values, numbers| {
        let (table, column) = ("orders".to_owned(), column.to_owned());
        (Misfits { table, column, values, numbers }, at(NOW - 60))
    };
    let status = live(|survey, _| {
        let mapping = &mut survey.collections[0].mapping;
        *mapping = mapping.replace("[columns]\n", "[columns]\nprice = { path = 'price', type = 'bigint' }\n");
        let found = vec![found("n", 2, 2), found("price", 24, 20)];
        survey.misfits.insert("shop.orders".to_owned(), Count { at: at(NOW), found });
    });
    let words = "orders.price is bigint and lacks 20 numbers: sums over it are wrong until it is wider";
    assert_health(&status, Level::Warning, words);
    assert_eq!(status.health.problems.len(), 1, "a number in a text column spoils no sum");
    assert_eq!(status.collections[1].misfits, None);
    let narrow = &status.collections[0].misfits.as_ref().unwrap().columns;
    let told: Vec<_> = narrow.iter().map(|c| (&*c.column, &*c.sql_type, c.values, c.since)).collect();
    assert_eq!(told, [("n", "text", 2, at(NOW - 60).into()), ("price", "bigint", 24, at(NOW - 60).into())]);
    assert!(narrow[1].remedy.contains("type = \"double precision\", bson = \"number\""));
    assert!(narrow[0].remedy.contains("type = \"jsonb\""));
}

/// What is not replicated any more can't be behind.
#[test]
fn what_is_dropped_or_left_out_counts_for_nothing() {
    for why in ["dropped", "excluded"] {
        let status = live(|s, _| {
            s.collections[1].absent = Some(why.to_owned());
            s.positions[3].cluster_time = at(NOW - 90_000);
        });
        assert_health(&status, Level::Ok, "live: 1 collection is up to date");
        assert_eq!((status.collections[1].lag_seconds, status.lag_seconds), (None, Some(1)));
        assert_eq!(status.partitions[1].lag_seconds, Some(1));
    }
}

/// What is stopped for longer than the oplog reaches back needs more than to be mended.
#[test]
fn what_is_stopped_and_left_behind_needs_a_resync() {
    let stopped = |reason: &'static str, behind: u64| {
        let status = live(|s, _| {
            s.collections[1].stopped = Some(reason.to_owned());
            s.positions[3].cluster_time = at(NOW - behind);
        });
        status.collections[1].stopped.clone().unwrap()
    };
    assert_eq!(stopped("no good", 86_399), "no good");
    let lost = stopped("no good", 86_401);
    assert!(lost.starts_with("no good; ") && lost.ends_with("docrow resync 'shop.users'"), "{lost}");
    assert_eq!(stopped("docrow resync 'shop.users'", 86_401), "docrow resync 'shop.users'");
}

/// Of these PostgreSQL knows nothing.
#[test]
fn what_could_get_no_tables_is_told() {
    let refused = [("shop.new".to_owned(), "a view is in the way".to_owned())].into();
    let status = document(&survey(), Some(report()), Details { refused, ..Details::default() });
    assert_eq!(
        status.collections.iter().map(|c| &*c.name).collect::<Vec<_>>(),
        ["shop.new", "shop.orders", "shop.users"]
    );
    assert_health(&status, Level::Error, "shop.new is stopped: a view is in the way");
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
