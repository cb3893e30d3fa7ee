//! One pipeline in all its states; in each, all sources of status information are asked and compared: the
//! page's document, `/metrics`, `/readyz`, `docrow status`, its document and its exit code. No two of them
//! may contradict each other, and none may contradict itself.

use docrow::demo::servers::{Mongod, MongodOptions};
use mongodb::bson::doc;
use serde_json::Value;

use crate::support::{
    Before, Docrow, Gate, Home, Place, Proxy,
    http::{Answer, get},
};

/// `orders`, whose key is a number; the first document with another one stops it.
const ORDERS: &str = "collection = 'NS.orders'\ntable = 'orders'\nextra = '_extra'\n\
    [key]\ncolumn = 'id'\ntype = 'bigint'\n";

/// The answers of all sources at about one moment.
struct Told {
    page: Value,
    metrics: String,
    ready: Answer,
    /// `docrow status`, its exit code, and `docrow status --json`.
    outside: (String, i32, Value),
}

/// The sources.
struct Scene {
    place: Place,
    /// In the process, which reaches both servers through the proxies.
    home: Home,
    /// From outside, where the servers are reached directly.
    outside: Home,
    mongodb: Proxy,
    postgres: Proxy,
}

impl Scene {
    async fn new(test: &str) -> Self {
        let place = Place::shared(test).await;
        for name in ["orders", "users"] {
            let documents = (0..50).map(|id| doc! { "_id": id, "n": id });
            place.collection(name).insert_many(documents).await.unwrap();
        }
        let (mongodb, postgres) = (Proxy::of(&place.mongodb_uri).await, Proxy::of(&place.postgres_uri).await);
        let (mut home, outside) = (Home::new(&place), Home::new(&place));
        home.set("source.uri", format!("{}&serverSelectionTimeoutMS=4000", mongodb.mongodb_uri()));
        home.set("target.uri", postgres.uri(&place.postgres_uri));
        home.set("mapping.max_dead_letters", 1);
        home.map("orders.toml", &ORDERS.replace("NS", &place.name));
        home.serve();
        Self { place, home, outside, mongodb, postgres }
    }

    /// Asks all sources repeatedly until their answers satisfy `so`; intermediate answers must agree, too.
    async fn until(&self, docrow: &mut Docrow, what: &str, so: impl Fn(&Told) -> bool) -> Told {
        let (address, mut last) = (docrow.address().await, None);
        docrow
            .until(what, async || {
                let told = self.ask(&address).await;
                told.agrees();
                let is_so = so(&told);
                last = Some(told);
                is_so
            })
            .await;
        last.unwrap()
    }

    async fn ask(&self, address: &str) -> Told {
        let page = get(address, "/status").await.json();
        let metrics = get(address, "/metrics").await.body;
        let ready = get(address, "/readyz").await;
        Told { page, metrics, ready, outside: self.ask_outside().await }
    }

    async fn ask_outside(&self) -> (String, i32, Value) {
        let text = self.outside.finish(&["status", "--exit-code"]).await;
        let json = self.outside.finish(&["status", "--json"]).await.with_code(0).quiet();
        (text.out, text.code.unwrap(), serde_json::from_str(&json.out).unwrap())
    }

    async fn write(&self, n: i32) {
        for name in ["orders", "users"] {
            self.place.collection(name).update_many(doc! {}, doc! { "$set": { "n": n } }).await.unwrap();
        }
    }
}

impl Told {
    fn stage(&self) -> &str {
        self.page["process"]["stage"].as_str().unwrap()
    }

    fn lag(&self) -> Option<u64> {
        self.page["lag_seconds"].as_u64()
    }

    /// The metrics of the collections that the page shows as live.
    fn measured(&self) -> Vec<f64> {
        let live = self.page["collections"].as_array().unwrap().iter();
        let live = live.filter(|c| c["phase"] == "live" && c["stopped"].is_null() && c["absent"].is_null());
        let named =
            live.map(|c| format!("docrow_lag_seconds{{collection=\"{}\"}} ", c["name"].as_str().unwrap()));
        let found =
            |name: String| self.metrics.lines().find_map(|line| line.strip_prefix(&*name)?.parse().ok());
        named.filter_map(found).collect()
    }

    /// The conditions that must hold in every state, and in between.
    #[track_caller]
    fn agrees(&self) {
        sound(&self.page);
        let (text, code, json) = &self.outside;
        sound(json);
        assert!(!text.contains("no process runs") && !text.contains("run by no process"), "it runs: {text}");
        let expected = match (json["health"]["level"].as_str().unwrap(), &json["process"]["running"]) {
            ("ok" | "busy", _) => 0,
            (_, Value::Bool(true)) => 1,
            _ => 8,
        };
        // It may have changed between the two requests.
        let has_changed = pattern(text.lines().next().unwrap()) != pattern(&head(json));
        assert!(*code == expected || has_changed, "{code} {json}");
    }

    /// The conditions once a state lasts: all sources say the same, except for numbers.
    fn is_unanimous(&self) -> bool {
        let (text, _, json) = &self.outside;
        // The page's lag and that of the metrics are one figure, except for a second between the two
        // requests.
        let measured = self.measured();
        let most = measured.iter().copied().filter(|lag| !lag.is_nan()).max_by(f64::total_cmp);
        let is_one = match (self.lag(), most) {
            (Some(page), Some(most)) => (page as f64 - most).abs() <= 2.0,
            (page, most) => page.is_none() && (most.is_none() || self.stage() != "live"),
        };
        let level = self.page["health"]["level"].as_str().unwrap();
        let is_hindered = !self.page["process"]["hindrance"].is_null();
        let is_ready = self.stage() == "live" && (level != "error" || is_hindered);
        let words = |document: &Value| pattern(document["health"]["words"].as_str().unwrap());
        let lags = (self.lag(), json["lag_seconds"].as_u64());
        let is_near = match lags {
            // A report is two seconds old at most, and it takes a moment to ask for it.
            (Some(page), Some(outside)) => page.abs_diff(outside) <= 5,
            (page, outside) => page == outside,
        };
        let behind = text.lines().find_map(|line| line.trim().strip_prefix("behind ")).unwrap_or_default();
        is_one
            && (self.ready.code == 200) == is_ready
            && is_near
            && words(&self.page) == words(json)
            && pattern(text.lines().next().unwrap()) == pattern(&head(json))
            && pattern(behind.trim()) == pattern(json["lag_words"].as_str().unwrap())
    }
}

/// The first line of the table, as in its document.
fn head(json: &Value) -> String {
    format!("● {}  {}", json["pipeline"].as_str().unwrap(), json["health"]["words"].as_str().unwrap())
}

/// A text without its numbers.
fn pattern(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_digit() { '#' } else { c })
        .collect::<String>()
        .replace("##", "#")
        .replace("##", "#")
}

/// A document that does not contradict itself.
#[track_caller]
fn sound(document: &Value) {
    let words = document["health"]["words"].as_str().unwrap();
    let (lag, source) = (&document["lag_seconds"], &document["source"]);
    assert!(!words.contains("up to date") || *lag == 0, "up to date beside a lag: {document}");
    if !source["silent_since"].is_null() || source["answers"] == false && source["time"].is_null() {
        assert!(lag.is_null(), "unknown is not {lag}: {document}");
        assert!(document["lag_words"].as_str().unwrap().starts_with("unknown"), "{document}");
        assert_eq!(document["health"]["level"], "error", "{document}");
    }
    let level = document["health"]["level"].as_str().unwrap();
    assert!(source["answers"] != false || level == "error", "{document}");
    assert!(document["target"]["answers"] == true || level == "error", "{document}");
    let problems = document["health"]["problems"].as_array().unwrap();
    assert_eq!(
        problems.first().map(|first| &first["words"]),
        (!problems.is_empty()).then_some(&document["health"]["words"])
    );
}

fn is_live(told: &Told) -> bool {
    told.stage() == "live" && told.lag() == Some(0) && told.is_unanimous()
}

impl Scene {
    async fn starts_and_copies(&self) -> Docrow {
        let gate =
            Gate::close(&self.place, Before::Update("docrow.chunks", "NEW.copied_at IS NOT NULL")).await;
        self.mongodb.stall(true);
        let mut docrow = self.home.run();
        let address = docrow.address().await;
        let page = get(&address, "/status").await.json();
        assert_eq!(
            (&page["process"]["stage"], &page["lag_seconds"]),
            (&"starting".into(), &Value::Null),
            "{page}"
        );
        assert_eq!(page["lag_words"], "no collection is live");
        sound(&page);
        let ready = get(&address, "/readyz").await;
        assert_eq!((ready.code, &*ready.body), (503, "starting\n"));
        self.mongodb.stall(false);

        gate.reached(&mut docrow, 1).await;
        let copying = |told: &Told| told.stage() == "copying" && told.is_unanimous();
        let copying = self.until(&mut docrow, "it copies", copying).await;
        // The gate is a lock of another session, which may be reported.
        let hindered = !copying.page["process"]["hindrance"].is_null();
        assert_eq!((copying.ready.code, &*copying.ready.body), (503, "copying\n"));
        assert_eq!((copying.lag(), copying.outside.1), (None, i32::from(hindered)), "{}", copying.page);
        gate.open().await;
        let live = self.until(&mut docrow, "it is live", is_live).await;
        assert_eq!((live.ready.code, live.outside.1), (200, 0), "{}", live.page);
        assert!(live.page["health"]["words"].as_str().unwrap().starts_with("live: "), "{}", live.page);
        docrow
    }

    /// Another session locks a table.
    async fn lags(&self, docrow: &mut Docrow) {
        let somebody = self.place.postgres().await;
        somebody.batch_execute("SET application_name = 'a report'; BEGIN; LOCK TABLE users").await.unwrap();
        self.write(1).await;
        let lagging = |told: &Told| told.lag() >= Some(8) && told.is_unanimous();
        let lagging = self.until(docrow, "it lags", lagging).await;
        let (text, code, _) = &lagging.outside;
        assert_eq!((lagging.ready.code, *code), (200, 1), "{}", lagging.page);
        for part in ["a lock on public.users", "; this ends it: SELECT pg_terminate_backend("] {
            assert!(text.contains(part), "{part}: {text}");
        }
        docrow
            .logs(" WARN waits for a lock on public.users that another session holds (PostgreSQL process ")
            .await;
        somebody.batch_execute("COMMIT").await.unwrap();
        self.until(docrow, "it has caught up", is_live).await;
    }

    /// PostgreSQL is unreachable for docrow: a command that asks PostgreSQL can't know the state of the
    /// process.
    async fn loses_postgres(&self, docrow: &mut Docrow) {
        self.write(2).await;
        self.postgres.refuse(true);
        self.postgres.cut();
        self.write(3).await;
        let gone = |told: &Told| told.page["target"]["answers"] == false && told.lag() >= Some(15);
        let gone = self.until(docrow, "PostgreSQL is gone", gone).await;
        assert_eq!(gone.ready.code, 503, "{}", gone.ready.body);
        let (text, code, json) = &gone.outside;
        assert_eq!((*code, &json["process"]["running"]), (8, &Value::Null), "{text}");
        assert!(text.contains("unknown whether a process runs this pipeline: docrow process "), "{text}");
        // It is the current lag, whenever it was last requested.
        assert!(gone.lag() < Some(60), "{}", gone.page);
        let mut through = Home::new(&self.place);
        through.set("target.uri", self.postgres.uri(&self.place.postgres_uri));
        through.finish(&["status", "--exit-code"]).await.with_code(4);
        self.postgres.refuse(false);
        self.until(docrow, "it is live again", is_live).await;
    }

    async fn loses_mongodb(&self, docrow: &mut Docrow) {
        self.mongodb.refuse(true);
        self.mongodb.cut();
        let silent = |told: &Told| !told.page["source"]["silent_since"].is_null() && told.is_unanimous();
        let silent = self.until(docrow, "MongoDB is gone", silent).await;
        assert_eq!((silent.lag(), silent.ready.code, silent.outside.1), (None, 503, 1), "{}", silent.page);
        assert_eq!(silent.ready.body, "MongoDB does not answer\n");
        assert!(silent.measured().iter().all(|lag| lag.is_nan()), "{}", silent.metrics);
        let words = silent.page["health"]["words"].as_str().unwrap();
        assert!(
            words.starts_with("MongoDB does not answer since 20") && words.contains("127.0.0.1:"),
            "{words}"
        );
        let why = |told: &Told| told.page["source"]["problem"].as_str().unwrap_or_default().to_owned();
        let reason = |told: &Told| why(told).starts_with("ask for the time: no server at 127.0.0.1:");
        self.until(docrow, "the reason is known", reason).await;
        self.mongodb.refuse(false);
        self.until(docrow, "it is live again", is_live).await;
    }

    async fn tries_again(&self, docrow: &mut Docrow) {
        let refuse = "CREATE FUNCTION docrow.conflict() RETURNS trigger LANGUAGE plpgsql AS \
            $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$; \
            CREATE TRIGGER conflict BEFORE UPDATE ON docrow.progress FOR EACH ROW EXECUTE FUNCTION docrow.conflict()";
        let postgres = self.place.postgres().await;
        postgres.batch_execute(refuse).await.unwrap();
        self.write(4).await;
        let retrying = |told: &Told| told.stage() == "retrying" && told.is_unanimous();
        let retrying = self.until(docrow, "it tries again", retrying).await;
        assert_eq!((&*retrying.ready.body, retrying.outside.1), ("retrying after an error\n", 1));
        postgres.batch_execute("DROP TRIGGER conflict ON docrow.progress").await.unwrap();
        self.until(docrow, "it is live again", is_live).await;
    }

    async fn stops_a_collection(&self, docrow: &mut Docrow) {
        let wrong = ["a", "b", "c"].map(|id| doc! { "_id": id });
        self.place.collection("orders").insert_many(wrong).await.unwrap();
        let is_stopped = |told: &Told| {
            told.page["health"]["words"].as_str().unwrap().contains("orders is stopped")
                && told.is_unanimous()
        };
        let stopped = self.until(docrow, "a collection is stopped", is_stopped).await;
        assert_eq!((stopped.ready.code, stopped.outside.1), (503, 1), "{}", stopped.page);
        assert_eq!(stopped.ready.body, "not all collections are replicated\n");
    }
}

/// The page, the probes, the metrics and the command never contradict each other.
#[tokio::test]
async fn nothing_contradicts_anything_in_any_state() {
    let scene = Scene::new("states").await;
    let mut docrow = scene.starts_and_copies().await;
    scene.lags(&mut docrow).await;
    scene.loses_postgres(&mut docrow).await;
    scene.loses_mongodb(&mut docrow).await;
    scene.tries_again(&mut docrow).await;
    scene.stops_a_collection(&mut docrow).await;
    docrow.stop().await;
    let (text, code, json) = scene.ask_outside().await;
    sound(&json);
    assert_eq!((code, &json["process"]["running"]), (8, &false.into()), "{text}");
    assert!(json["lag_seconds"].is_u64() && !text.contains("up to date"), "{text}");
    let problems = json["health"]["problems"].to_string();
    for part in [
        "orders is stopped",
        "stopped on request: no process runs this pipeline; it can still resume if started within about ",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}

/// The lag of idle deployments does not flicker: MongoDB's sign of life every ten seconds is no lag.
#[tokio::test]
async fn an_idle_pipeline_is_never_ten_seconds_behind() {
    // A separate server, because there are other writes on the shared one.
    let mongod = Mongod::start(MongodOptions::default()).await.unwrap();
    let shared = Place::shared("idle_lag_postgres").await;
    let place = Place::on(&mongod.uri(), &shared.postgres_uri, "idle_lag").await;
    place.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut home = Home::new(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    let printed = async || {
        let printed = home.finish(&["status", "--json"]).await.with_code(0).out;
        serde_json::from_str::<Value>(&printed).unwrap()
    };
    let lags =
        async || [get(&address, "/status").await.json(), printed().await].map(|s| s["lag_seconds"].as_u64());
    docrow.until("it is live", async || lags().await == [Some(0); 2]).await;
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let (began, mut history) = (tokio::time::Instant::now(), Value::Null);
    docrow
        .until("three signs of life have passed", async || {
            let lags = lags().await;
            assert!(
                lags.iter().all(|lag| lag.is_some_and(|lag| lag <= 3)),
                "after {:?}: {lags:?}",
                began.elapsed()
            );
            history = get(&address, &format!("/history?since={since}")).await.json();
            began.elapsed() > std::time::Duration::from_secs(35)
        })
        .await;
    let points = history["points"].as_array().unwrap();
    assert!(
        points.len() > 25 && points.iter().all(|point| point["lag_seconds"].as_u64() <= Some(3)),
        "{history}"
    );
    docrow.stop().await.quiet();
}
