//! What is said to be wrong.

use super::*;

#[test]
fn what_is_wrong_is_said_the_worst_first() {
    assert_health(
        &live(|s, _| s.positions[0].cluster_time = at(NOW - 200)),
        HealthLevel::Warning,
        "3 min 20 s behind",
    );
    assert_health(
        &live(|s, _| s.collections[0].dead_letters = 1),
        HealthLevel::Warning,
        "1 document could not be written",
    );
    assert_health(&live(|_, r| r.spool.bytes = 850), HealthLevel::Warning, "the spool is almost full");
    assert_health(&live(|_, r| r.spool.bytes = 1000), HealthLevel::Error, "the spool is full");
    let full = |r: &mut ProcessReport| r.spool.problem = Some("no space left".to_owned());
    assert_health(&live(|_, r| full(r)), HealthLevel::Error, "the disk of the state directory is full");
    let late = live(|_, r| r.resumes_from = Some(at(NOW - 86_000).into()));
    assert_health(
        &late,
        HealthLevel::Warning,
        "the oplog reaches back only 6 min 40 s before the position to resume from, of 1 d 0 h",
    );
    let retrying = |r: &mut ProcessReport| (r.stage, r.problem) = (Stage::Retrying, Some("why".to_owned()));
    assert_health(&live(|_, r| retrying(r)), HealthLevel::Error, "retrying: why");
    let both = live(|s, _| {
        s.collections[0].dead_letters = 7;
        s.collections[0].stopped = Some("no good".to_owned());
    });
    assert_health(&both, HealthLevel::Error, "shop.orders is stopped: no good");
    assert_eq!(both.health.problems.len(), 2);
    // A stopped collection is not behind, for good or bad.
    assert_eq!((both.collections[0].lag_seconds, both.lag_seconds), (None, Some(5)));
}

/// What was not counted is unknown; for what was, the document says how to fix it.
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
        survey.misfits.insert("shop.orders".to_owned(), MisfitCount { at: at(NOW), found });
    });
    let words = "orders.price is bigint and lacks 20 numbers: sums over it are wrong until it is wider";
    assert_health(&status, HealthLevel::Warning, words);
    assert_eq!(status.health.problems.len(), 1, "a number in a text column spoils no sum");
    assert_eq!(status.collections[1].misfits, None);
    let narrow = &status.collections[0].misfits.as_ref().unwrap().columns;
    let told: Vec<_> = narrow.iter().map(|c| (&*c.column, &*c.sql_type, c.values, c.since)).collect();
    assert_eq!(told, [("n", "text", 2, at(NOW - 60).into()), ("price", "bigint", 24, at(NOW - 60).into())]);
    assert!(narrow[1].remedy.contains("type = \"double precision\", bson = \"number\""));
    assert!(narrow[0].remedy.contains("type = \"jsonb\""));
}

/// A collection that is no longer replicated can't be behind.
#[test]
fn what_is_dropped_or_left_out_counts_for_nothing() {
    for why in ["dropped", "excluded"] {
        let status = live(|s, _| {
            s.collections[1].absent = Some(why.to_owned());
            s.collections[1].dead_letters = 3;
            s.collections[1].mapping = s.collections[1].mapping.replace("type = 'text'", "type = 'bigint'");
            s.letters = vec![LetterCount {
                collection: "shop.users".to_owned(),
                path: None,
                reason: "too large".to_owned(),
                count: 3,
                last_at: at(NOW),
            }];
            let misfits = Misfits { table: "users".into(), column: "n".into(), values: 9, numbers: 9 };
            s.misfits.insert(
                "shop.users".to_owned(),
                MisfitCount { at: at(NOW), found: vec![(misfits, at(NOW))] },
            );
            s.positions[3].cluster_time = at(NOW - 90_000);
        });
        assert_health(&status, HealthLevel::Ok, "live: 1 collection is 1 s behind MongoDB");
        assert_eq!((status.dead_letters.total, status.dead_letters.groups.len()), (0, 0));
        assert_eq!((status.collections[1].lag_seconds, status.lag_seconds), (None, Some(1)));
        assert_eq!(status.partitions[1].lag_seconds, Some(1));
    }
}

/// A collection that was stopped for longer than the oplog reaches back needs more than a fix.
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

/// PostgreSQL knows nothing of these.
#[test]
fn what_could_get_no_tables_is_told() {
    let refused = [("shop.new".to_owned(), "a view is in the way".to_owned())].into();
    let status = document(&survey(), Some(report()), Details { refused, ..Details::default() });
    assert_eq!(
        status.collections.iter().map(|c| &*c.name).collect::<Vec<_>>(),
        ["shop.new", "shop.orders", "shop.users"]
    );
    assert_health(&status, HealthLevel::Error, "shop.new is stopped: a view is in the way");
}

#[test]
fn nobody_runs_it() {
    let ended = |problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        live(move |s, r| (s.runner, r.stage, r.problem) = (PipelineRunner::Nobody, Stage::Ended, problem))
    };
    assert_health(&ended(None), HealthLevel::Warning, "stopped on request");
    assert!(ended(None).health.words.ends_with("; it can still resume if started within about 1 d 0 h"));
    assert_health(&ended(Some("history lost")), HealthLevel::Error, "stopped by an error: history lost");
    let gone = live(|s, r| (s.runner, r.stage) = (PipelineRunner::Nobody, Stage::Ended));
    assert_eq!(
        (gone.process.running, gone.source.answers, gone.source.resumes_from),
        (Some(false), None, None)
    );
    // What is in the spool need not be read again, nor what is applied, even if the spool is lost.
    assert_eq!(gone.source.oplog.unwrap().headroom_seconds, Some(86_400));
    let spoolless =
        live(|s, r| (s.runner, r.stage, r.resumes_from) = (PipelineRunner::Nobody, Stage::Ended, None));
    assert_eq!(spoolless.source.oplog.unwrap().headroom_seconds, Some(86_395));
    let (mut survey, none) = (survey(), Details::default());
    (survey.runner, survey.collections, survey.positions) = (PipelineRunner::Nobody, Vec::new(), Vec::new());
    assert_health(&document(&survey, None, none), HealthLevel::Warning, "never been run");
}

/// PostgreSQL can't distinguish a killed process from one that can't reach it: then neither is claimed.
#[test]
fn a_process_that_is_not_heard_of_may_be_there() {
    let unheard = |stage, problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        live(move |s, r| {
            s.runner = PipelineRunner::Unheard("docrow process 7 on db-1, last heard of at 18:03".to_owned());
            (r.stage, r.problem) = (stage, problem);
        })
    };
    let live = unheard(Stage::Live, None);
    assert_health(
        &live,
        HealthLevel::Error,
        "unknown whether a process runs this pipeline: docrow process 7 on db-1, last",
    );
    assert_eq!((live.process.running, live.lag_seconds), (None, None));
    assert!(!live.health.words.contains("no process"), "{}", live.health.words);
    assert_health(&unheard(Stage::Retrying, Some("why")), HealthLevel::Error, "it was retrying: why");
}

/// Both must be visible in advance: that history is lost, and how long it is not.
#[test]
fn lost_history_is_said_of_a_stopped_pipeline() {
    let stopped = |resumes: u64, problem: Option<&str>| {
        let problem = problem.map(str::to_owned);
        live(move |s, r| {
            s.positions.iter_mut().for_each(|p| p.cluster_time = at(NOW - 100_000));
            (s.runner, r.stage, r.problem) = (PipelineRunner::Nobody, Stage::Ended, problem);
            r.resumes_from = Some(at(NOW - resumes).into());
        })
    };
    let lost = stopped(86_401, None);
    assert_health(
        &lost,
        HealthLevel::Error,
        "history is lost: the oplog begins at 1970-01-11T13:46:40Z, after the position",
    );
    assert!(
        lost.source.oplog.unwrap().is_history_lost && lost.health.words.contains("docrow explain DRW-4000")
    );
    assert!(!format!("{:?}", lost.health).contains("about to be lost"), "{:?}", lost.health);
    let left = stopped(86_000, None);
    assert!(
        left.health.words.contains(
            "no process runs this pipeline; it can still resume if started within about 6 min 40 s"
        ),
        "{left:?}"
    );
    assert!(left.health.problems[1].words.contains("history is about to be lost"), "{left:?}");
    // If it is unknown, nothing is promised.
    let unknown = live(|s, r| {
        (s.runner, r.stage, r.source.oplog_start) = (PipelineRunner::Nobody, Stage::Ended, None);
    });
    assert!(unknown.health.words.ends_with("no process runs this pipeline"), "{unknown:?}");
}

#[test]
fn postgres_is_away() {
    let survey = survey();
    let at: Moment = survey.at.into();
    let away = |report| {
        let facts = PipelineFacts {
            pipeline: "p",
            at,
            survey: Some(&survey),
            target_problem: Some("refused".to_owned()),
            report: Some((report, Details::default(), at)),
            source: None,
            is_own: true,
            is_told: true,
        };
        facts.document(&mut MappingCache::new())
    };
    let report = ProcessReport { stage: Stage::Retrying, ..report() };
    let full =
        away(ProcessReport { spool: Spool { bytes: 1000, budget: 1000, problem: None }, ..report.clone() });
    let words =
        "PostgreSQL does not answer; the spool is full, and further changes wait in the oplog: refused";
    assert_health(&full, HealthLevel::Error, words);
    let status = away(report);
    assert_health(
        &status,
        HealthLevel::Error,
        "PostgreSQL does not answer; changes wait in the spool: refused",
    );
    assert_eq!((status.health.problems.len(), status.collections.len()), (1, 2));
    assert_eq!(status.process.running, Some(true));
}
