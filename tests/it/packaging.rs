//! The forms in which docrow is shipped: image, compose file, Kubernetes, systemd unit, package. None of them
//! runs here; what their files say about docrow, each other and the repository is compared with the facts,
//! and everything in them that can run is run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
};

use ::docrow::config::{Config, Overrides, environment::VARIABLES};
use serde::Deserialize;
use serde_json::Value;
use tempfile::tempdir;

use crate::support::{Home, Place};

/// The port that docrow uses everywhere.
const PORT: u64 = 8745;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// All documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    let documents: Result<_, serde_norway::Error> =
        serde_norway::Deserializer::from_str(&read(path)).map(Value::deserialize).collect();
    documents.unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The value at `pointer`, which must exist.
#[track_caller]
fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

#[track_caller]
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_else(|| panic!("{pointer} is no text in {value:#}"))
}

#[track_caller]
fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().unwrap_or_else(|| panic!("{pointer} is no list in {value:#}"))
}

fn words(list: &[Value]) -> Vec<&str> {
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn docrow(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docrow"));
    command.env_remove("DOCROW_SOURCE").env_remove("DOCROW_TARGET");
    command.args(arguments).output().unwrap()
}

/// docrow knows this command and all its flags: with `--help` it confirms that, and does nothing.
#[track_caller]
fn assert_known(command: &[&str]) {
    let output = docrow(&[command, &["--help"]].concat());
    assert!(output.status.success(), "docrow {command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a script of the documentation in `folder`.
#[track_caller]
fn shell(script: &str, folder: &Path) -> String {
    let output = Command::new("bash").args(["-euc", script]).current_dir(folder).output().unwrap();
    let shown = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}\n{}", shown(&output.stderr));
    shown(&output.stdout)
}

/// The instructions of the Dockerfile, each on one line, without comments.
fn instructions() -> Vec<String> {
    let lines: Vec<_> =
        read("docker/Dockerfile").lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    joined.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// The last one of a kind: that of the image itself, not of the build stage.
fn instruction(kind: &str) -> String {
    let found =
        instructions().into_iter().rev().find_map(|line| Some(line.strip_prefix(kind)?.trim().to_owned()));
    found.unwrap_or_else(|| panic!("no {kind} in the Dockerfile"))
}

/// docrow's arguments in a command in JSON form.
fn arguments(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

#[test]
fn the_image_is_built_from_what_is_there() {
    let copied: BTreeSet<String> = instructions()
        .iter()
        .filter_map(|line| line.strip_prefix("COPY ").filter(|rest| !rest.starts_with("--from")))
        .flat_map(|rest| rest.split(' ').rev().skip(1).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let sent: BTreeSet<_> =
        read(".dockerignore").lines().filter_map(|l| Some(l.strip_prefix('!')?.to_owned())).collect();
    for path in &copied {
        assert!(root().join(path).exists(), "COPY {path}");
    }
    let copied: BTreeSet<_> =
        copied.iter().map(|path| path.split('/').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(copied, sent, "what is copied, and what .dockerignore lets through");
    // Other inputs of the compilation.
    for sources in ["src", "crates"] {
        for folder in included(&root().join(sources)) {
            assert!(
                copied.contains(&folder),
                "{sources} includes files of {folder}, which the image is not built from"
            );
        }
    }
    let packages = instructions().into_iter().find(|line| line.contains("build-essential")).unwrap();
    for needed in ["build-essential", "libclang-dev"] {
        assert!(
            packages.contains(needed) && read(".ci/setup").contains(&format!("need {needed}\n")),
            "{needed}"
        );
    }
    let version = format!("org.opencontainers.image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(instruction("LABEL").contains(&version), "{version}");
    assert_eq!(instruction("EXPOSE"), PORT.to_string());
    // Whatever command replaces this one, its state is in the volume.
    let command = arguments(&instruction("CMD"));
    assert_eq!(command, ["run"]);
    let (variable, folder) =
        instruction("ENV").split_once('=').map(|(v, f)| (v.to_owned(), f.to_owned())).unwrap();
    assert_eq!(folder, instruction("VOLUME"));
    for command in ["run", "backfill"] {
        let help = String::from_utf8(docrow(&[command, "--help"]).stdout).unwrap();
        assert!(help.contains(&format!("[env: {variable}=]")), "{command}: {help}");
    }
}

/// The folders at the root that `include_str!` in these sources names.
fn included(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(included(&path));
            continue;
        }
        for rest in fs::read_to_string(&path).unwrap().split("include_str!(\"").skip(1) {
            let named = path.parent().unwrap().join(&rest[..rest.find('"').unwrap()]).canonicalize().unwrap();
            let folder = named.strip_prefix(root()).unwrap().components().next().unwrap();
            found.insert(folder.as_os_str().to_str().unwrap().to_owned());
        }
    }
    found
}

/// The layer of the dependencies is built with an empty docrow: Cargo must take it for docrow.
#[test]
fn the_image_compiles_dependencies_apart() {
    let step = instructions().into_iter().find(|line| line.contains("touch src/lib.rs benches")).unwrap();
    let (stubs, build) = step.strip_prefix("RUN ").unwrap().rsplit_once("&&").unwrap();
    assert_eq!(build.trim(), "cargo build --release --locked --bin docrow");
    let folder = tempdir().unwrap();
    for file in ["Cargo.toml", "Cargo.lock", "crates/docrow-mapping/Cargo.toml", "crates/tidy/Cargo.toml"] {
        let copy = folder.path().join(file);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(root().join(file), copy).unwrap();
    }
    let metadata =
        shell(&format!("{stubs} && cargo metadata --no-deps --offline --format-version 1"), folder.path());
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let targets: BTreeMap<_, _> = list(&metadata, "/packages")
        .iter()
        .flat_map(|package| list(package, "/targets"))
        .map(|target| (text(target, "/src_path"), target))
        .collect();
    for (path, target) in targets {
        let kind = text(target, "/kind/0");
        assert!(kind == "test" || Path::new(path).exists(), "{kind} {path} has no stub");
    }
}

/// Every shipped configuration is accepted, with its secrets where that form of shipping puts them.
#[test]
fn configurations_are_accepted() {
    let compose = &yaml("docker/compose.yaml")[0];
    let compose_secrets: BTreeSet<_> = words(list(compose, "/services/docrow/secrets")).into_iter().collect();
    let secret = &yaml("docker/kubernetes/secret.yaml")[0];
    let unit = read("packaging/docrow.service");
    let credentials = unit.lines().filter_map(|line| line.strip_prefix("LoadCredential=")?.split(':').next());
    let cases = [
        ("docker/docrow.toml", "/run/secrets", compose_secrets),
        ("docker/kubernetes/docrow.toml", "/run/secrets/docrow", keys(at(secret, "/stringData"))),
        ("packaging/docrow.toml", "/run/credentials/docrow.service", credentials.collect()),
    ];
    for (path, mount, secrets) in cases {
        let folder = tempdir().unwrap();
        for name in &secrets {
            fs::write(folder.path().join(name), "a-secret-that-is-long-enough").unwrap();
        }
        let file = folder.path().join("docrow.toml");
        let written = read(path);
        fs::write(&file, written.replace(mount, folder.path().to_str().unwrap())).unwrap();
        let config = Config::load(Overrides { file: Some(file), ..Overrides::default() });
        let config = config.unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(config.name, "shop");
        for name in secrets {
            // systemd writes the unit's own name for `%n`, and /run for `%t`.
            let at = format!("{mount}/{name}");
            let unit = unit.replace("%t/credentials/%n/", "/run/credentials/docrow.service/");
            assert!(written.contains(&at) || unit.contains(&format!("_FILE={at}\n")), "{path}: {name}");
        }
        let listen = format!(":{PORT}\"");
        assert!(written.contains(&listen), "{path}: {listen}");
    }
}

#[test]
fn the_compose_file_names_what_is_there() {
    let compose = &yaml("docker/compose.yaml")[0];
    let (services, defaults) = (at(compose, "/services"), read("docker/.env.example"));
    let mut secrets = BTreeSet::new();
    for (name, service) in services.as_object().unwrap() {
        assert!(service.get("healthcheck").is_some() || name == "docrow", "{name}: how is it?");
        text(service, "/deploy/resources/limits/memory");
        for port in words(list(service, "/ports")) {
            assert!(port.starts_with("127.0.0.1:${"), "{name}: {port}");
        }
        for volume in words(list(service, "/volumes")) {
            let from = volume.split(':').next().unwrap();
            let known = match from.strip_prefix("./") {
                Some(path) => root().join("docker").join(path).exists(),
                None => keys(at(compose, "/volumes")).contains(from),
            };
            assert!(known, "{name}: {volume}");
        }
        for needed in service.get("depends_on").map(keys).unwrap_or_default() {
            assert_eq!(text(service, &format!("/depends_on/{needed}/condition")), "service_healthy");
            assert!(services.get(needed).is_some(), "{name}: {needed}");
        }
        secrets.extend(words(
            service.get("secrets").map(|s| s.as_array().unwrap().as_slice()).unwrap_or_default(),
        ));
    }
    assert_eq!(secrets, keys(at(compose, "/secrets")));
    assert!(root().join("docker").join(text(services, "/docrow/build/context")).join("Cargo.toml").exists());
    assert!(root().join(text(services, "/docrow/build/dockerfile")).exists());
    for variable in
        read("docker/compose.yaml").split("${").skip(1).map(|rest| &rest[..rest.find('}').unwrap()])
    {
        let (name, default) =
            variable.split_once(":-").unwrap_or_else(|| panic!("{variable} has no default"));
        assert!(
            defaults.lines().any(|line| line == format!("{name}={default}")),
            "{variable} in .env.example"
        );
    }
    let version = format!("DOCROW_VERSION={}\n", env!("CARGO_PKG_VERSION"));
    assert!(defaults.contains(&version), "{version}");
    assert_eq!(made_secrets(), secrets.iter().map(|&name| name.to_owned()).collect());
}

/// The secrets that docs/install.md creates for the compose file.
fn made_secrets() -> BTreeSet<String> {
    let script = blocks(&read("docs/install.md"))
        .into_iter()
        .find(|block| block.contains("docker/secrets/$name"))
        .unwrap();
    let (script, _) = script.split_once("docker compose").unwrap();
    let folder = tempdir().unwrap();
    fs::create_dir(folder.path().join("docker")).unwrap();
    shell(script, folder.path());
    let secrets =
        fs::read_dir(folder.path().join("docker/secrets")).unwrap().map(|entry| entry.unwrap().path());
    secrets
        .map(|path| {
            let length = fs::read_to_string(&path).unwrap().len();
            assert!(length >= 24, "{}: {length}", path.display());
            path.file_name().unwrap().to_str().unwrap().to_owned()
        })
        .collect()
}

/// The users in the containers are those of docs/roles.md, with which a test runs docrow's main path.
#[test]
fn the_compose_files_users_are_the_documented_ones() {
    let roles = read("docs/roles.md");
    let statements = |path: &str| {
        let text = read(path).replace(":'password'", "'a-long-password'").replace(":\"DBNAME\"", "warehouse");
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines
            .filter(|line| !["--", "//", "\\", "pwd:"].iter().any(|start| line.starts_with(start)))
            .collect::<Vec<_>>()
    };
    for path in ["docker/mongo/users.js", "docker/postgres/users.sql"] {
        for line in statements(path) {
            assert!(roles.contains(&line), "{path}: {line}");
        }
    }
}

/// The script that PostgreSQL's container runs at its first start is run by psql here, with any password.
#[tokio::test]
async fn the_compose_files_user_of_postgresql() {
    let place = Place::shared("packaging_role").await;
    let (role, session) = (&place.name, place.postgres().await);
    session.batch_execute(&format!("DROP ROLE IF EXISTS {role}")).await.unwrap();
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("postgres_password"), "it's\"a $word\n").unwrap();
    let script = ["ROLE docrow", "TO docrow", "AUTHORIZATION docrow"].iter().fold(
        read("docker/postgres/users.sql").replace("/run/secrets", folder.path().to_str().unwrap()),
        |script, named| script.replace(named, &named.replace("docrow", role)),
    );
    fs::write(folder.path().join("users.sql"), script).unwrap();
    let psql =
        format!("psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --file users.sql '{}'", place.postgres_uri);
    shell(&psql, folder.path());
    let own = format!("SET ROLE {role}; CREATE TABLE docrow.a(); CREATE TABLE public.b(); RESET ROLE");
    session.batch_execute(&own).await.unwrap();
    let hashed = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = $1";
    assert!(session.query_one(hashed, &[role]).await.unwrap().get::<_, bool>(0));
    session.batch_execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await.unwrap();
}

/// The image's health check, which uses only a shell, detects whether docrow answers.
#[tokio::test]
async fn the_image_tells_how_docrow_is() {
    let place = Place::shared("packaging_health").await;
    place.add_sentinels().await;
    let mut home = Home::new(&place);
    home.serve();
    let mut docrow = home.run();
    let address = docrow.address().await;
    let (_, command) =
        instruction("HEALTHCHECK").split_once("CMD").map(|(o, c)| (o.to_owned(), c.to_owned())).unwrap();
    let port = address.rsplit(':').next().unwrap();
    let command = command.replace(&PORT.to_string(), port);
    let words = arguments(command.trim());
    let check = || Command::new(&words[0]).args(&words[1..]).output().unwrap().status.success();
    assert!(check(), "{words:?}");
    place.settle(&mut docrow).await;
    assert!(check());
    docrow.stop().await.quiet();
    assert!(!check(), "it has ended");
}

#[test]
fn kubernetes_manifests_fit_together() {
    let folder = "docker/kubernetes";
    let kustomization = &yaml(&format!("{folder}/kustomization.yaml"))[0];
    let mut objects = BTreeMap::new();
    for file in
        words(list(kustomization, "/resources")).into_iter().chain(["secret.yaml", "servicemonitor.yaml"])
    {
        for object in yaml(&format!("{folder}/{file}")) {
            objects.insert(text(&object, "/kind").to_owned(), object);
        }
    }
    let [set, service, secret, budget, monitor] =
        ["StatefulSet", "Service", "Secret", "PodDisruptionBudget", "ServiceMonitor"]
            .map(|kind| &objects[kind]);
    let pod = at(set, "/spec/template/spec");
    let container = at(pod, "/containers/0");
    let labels = at(set, "/spec/template/metadata/labels");
    for selector in [
        at(set, "/spec/selector/matchLabels"),
        at(service, "/spec/selector"),
        at(budget, "/spec/selector/matchLabels"),
        at(
            pod,
            "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm/labelSelector/matchLabels",
        ),
    ] {
        assert_eq!(selector, labels);
    }
    assert_eq!(text(set, "/spec/serviceName"), text(service, "/metadata/name"));
    assert_known(&words(list(container, "/args")));
    let env: BTreeMap<_, _> =
        list(container, "/env").iter().map(|entry| (text(entry, "/name"), text(entry, "/value"))).collect();
    let help = String::from_utf8(docrow(&["run", "--help"]).stdout).unwrap();
    for name in env.keys() {
        assert!(help.contains(&format!("[env: {name}=]")), "{name}: {help}");
    }
    assert!(env["DOCROW_STATE"].starts_with(&format!("{}/", instruction("VOLUME"))), "{env:?}");
    assert_eq!(at(container, "/ports/0/containerPort"), PORT);
    assert_eq!(at(service, "/spec/ports/0/port"), PORT);
    let port = text(container, "/ports/0/name");
    assert_eq!(
        (text(service, "/spec/ports/0/targetPort"), text(monitor, "/spec/endpoints/0/port")),
        (port, port)
    );
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(text(container, &format!("/{probe}/httpGet/port")), port);
        assert_eq!(text(container, &format!("/{probe}/httpGet/path")), "/healthz");
    }
    let credentials = at(monitor, "/spec/endpoints/0/authorization/credentials");
    assert_eq!(text(credentials, "/name"), text(secret, "/metadata/name"));
    assert!(keys(at(secret, "/stringData")).contains(text(credentials, "/key")));

    // The user of the image.
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        let id = at(pod, &format!("/securityContext/{id}"));
        assert_eq!(instruction("USER"), format!("{id}:{id}"));
    }
    // Volumes: each mount has one, and each contains something that exists.
    let generated: BTreeSet<_> =
        list(kustomization, "/configMapGenerator").iter().map(|map| text(map, "/name")).collect();
    let mut volumes = BTreeSet::from([text(set, "/spec/volumeClaimTemplates/0/metadata/name")]);
    for volume in list(pod, "/volumes") {
        volumes.insert(text(volume, "/name"));
        match volume.get("secret") {
            Some(of) => assert_eq!(text(of, "/secretName"), text(secret, "/metadata/name")),
            None => assert!(generated.contains(text(volume, "/configMap/name")), "{volume}"),
        }
    }
    let mounts = list(container, "/volumeMounts");
    assert_eq!(mounts.iter().map(|mount| text(mount, "/name")).collect::<BTreeSet<_>>(), volumes);
    let paths: BTreeSet<_> = mounts.iter().map(|mount| text(mount, "/mountPath")).collect();
    let work = instruction("WORKDIR");
    let expected = [
        instruction("VOLUME"),
        format!("{work}/docrow.toml"),
        format!("{work}/schemas"),
        "/run/secrets/docrow".into(),
    ];
    assert_eq!(paths, expected.iter().map(String::as_str).collect());
    for image in list(kustomization, "/images") {
        assert_eq!(image["name"], container["image"]);
        assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn the_unit_runs_what_the_package_installs() {
    let unit = read("packaging/docrow.service");
    let value = |key: &str| {
        let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        values.next().unwrap_or_else(|| panic!("no {key}")).to_owned()
    };
    let manifest: toml::Value = toml::from_str(&read("Cargo.toml")).unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let assets: BTreeMap<_, _> =
        assets.iter().map(|asset| (asset[0].as_str().unwrap(), asset[1].as_str().unwrap())).collect();
    let start = value("ExecStart");
    let mut start = start.split(' ');
    assert_eq!(start.next(), Some(&*format!("/{}docrow", assets["dist/docrow"])));
    assert_known(&start.collect::<Vec<_>>());
    assert_eq!(
        value("WorkingDirectory"),
        format!("/{}", assets["packaging/docrow.toml"].trim_end_matches('/'))
    );
    assert!(read("packaging/docrow.toml").contains(&format!("/var/lib/{}\"", value("StateDirectory"))));
    assert_eq!(value("ExecReload"), "/bin/kill -HUP $MAINPID");
    // The oldest supported systemd, 249, knows these specifiers, but not `%d`.
    let specifiers: BTreeSet<_> = unit.split('%').skip(1).filter_map(|rest| rest.chars().next()).collect();
    assert!(specifiers.iter().all(|specifier| ['n', 't'].contains(specifier)), "{specifiers:?}");
    // Each credential may be missing: then an empty one replaces it, and the service starts all the same.
    let named = |key: &str| {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.split(':').next());
        lines.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(named("LoadCredential="), named("SetCredential="));
    assert!(named("LoadCredential=").len() >= 6);
    for path in assets.keys().filter(|path| !path.starts_with("dist/") && !path.contains('*')) {
        assert!(root().join(path).exists(), "{path}");
    }
}

/// The unit starts without credentials if the login needs none: the configuration is also valid with empty
/// ones.
#[tokio::test]
async fn the_units_credentials_may_be_empty() {
    let place = Place::shared("packaging_empty").await;
    place.add_sentinels().await;
    let mut home = Home::new(&place);
    let unit = read("packaging/docrow.service");
    let folder = tempdir().unwrap();
    for line in unit.lines().filter_map(|line| line.strip_prefix("Environment=")) {
        let (variable, path) = line.split_once('=').unwrap();
        let file = folder.path().join(path.rsplit('/').next().unwrap());
        fs::write(&file, "\n").unwrap();
        home.env(variable, file.to_str().unwrap());
    }
    home.backfill().await;
}

/// The manual has a page for each command, which names it, and shells complete it.
#[test]
fn pages_and_completions_are_of_the_command_line() {
    let folder = tempdir().unwrap();
    let written = docrow(&["assets", folder.path().to_str().unwrap()]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let help = String::from_utf8(docrow(&["--help"]).stdout).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands: Vec<_> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split(' ').next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"run") && !commands.contains(&"assets"), "{commands:?}");
    let page = |name: &str| fs::read_to_string(folder.path().join("man").join(name)).unwrap();
    let main = page("docrow.1");
    assert!(main.contains("Exit codes") && main.contains("DOCROW_SOURCE"), "{main}");
    // What each of them takes from the environment, and from which files.
    let variables: BTreeSet<_> = VARIABLES.iter().map(|variable| variable.name.to_owned()).collect();
    for command in commands.iter().map(|command| format!("docrow-{command}.1")).chain(["docrow.1".to_owned()])
    {
        let text = page(&command).replace('\\', "");
        let (_, environment) = text.split_once(".SH ENVIRONMENT\n").expect(&command);
        let (environment, files) = environment.split_once(".SH FILES\n").expect(&command);
        let named = environment.lines().filter_map(|line| line.strip_prefix("fB")?.strip_suffix("fR"));
        assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), variables, "{command}");
        assert!(files.contains("docrow.toml") && files.contains("docrow-state/"), "{files}");
    }
    for variable in help.split("[env: ").skip(1).map(|rest| rest.split([']', '=']).next().unwrap()) {
        assert!(variables.contains(variable), "{variable} is not in the table");
    }
    // The options of all commands are separate from a command's own.
    for command in ["status", "verify", "run"] {
        let help = String::from_utf8(docrow(&[command, "--help"]).stdout).unwrap();
        let (own, all) = help.split_once("Options of all commands:").expect("a heading of its own");
        assert!(
            !own.contains("--source") && !own.contains("--include") && all.contains("--source"),
            "{help}"
        );
    }
    for command in &commands {
        assert!(page(&format!("docrow-{command}.1")).starts_with(".ie"), "{command}");
        assert!(main.replace('\\', "").contains(&format!("docrow-{command}(1)")), "{command}");
    }
    assert!(!folder.path().join("man/docrow-assets.1").exists());
    let script = "source completions/docrow.bash; COMP_WORDS=(docrow ''); COMP_CWORD=1; _docrow docrow '' docrow; echo ${COMPREPLY[*]}";
    let completed = shell(script, folder.path());
    let completed: BTreeSet<_> = completed.split_whitespace().collect();
    assert!(commands.iter().all(|command| completed.contains(command)), "{completed:?}");
    assert!(!completed.contains("assets"));
    for file in ["_docrow", "docrow.fish"] {
        let completions = fs::read_to_string(folder.path().join("completions").join(file)).unwrap();
        assert!(
            commands.iter().all(|command| completions.contains(command)) && !completions.contains("assets"),
            "{file}"
        );
    }
}

/// The blocks of commands in a file of documentation.
fn blocks(text: &str) -> Vec<String> {
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Every file that docs/install.md names in a command or a link exists, every docrow command exists, and
/// versions are the current one.
#[test]
fn the_instructions_are_true() {
    let install = read("docs/install.md");
    for link in install.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
        assert!(root().join("docs").join(link).exists(), "{link}");
    }
    let mut commands = 0;
    for block in blocks(&install) {
        shell(&format!("bash -n <<'END'\n{block}END\n"), root());
        let lines = block.replace("\\\n", " ");
        for line in lines.lines().map(|line| line.split('#').next().unwrap().trim()) {
            let words: Vec<_> = line.split_whitespace().collect();
            for path in
                words.iter().filter(|word| word.starts_with("docker/") && !word.starts_with("docker/secrets"))
            {
                assert!(root().join(path).exists(), "{line}: {path}");
            }
            // `docrow …`, or within `docker exec docrow docrow …` and the like.
            let own = if line.starts_with("docrow ") {
                Some(0)
            } else {
                line.contains("exec").then_some(words.len())
            };
            let own = own.and_then(|start| {
                if start == 0 { Some(0) } else { words.iter().rposition(|word| *word == "docrow") }
            });
            if let Some(start) = own {
                assert_known(&words[start + 1..]);
                commands += 1;
            }
        }
    }
    assert!(commands >= 5, "only {commands} commands were found");
    let version = env!("CARGO_PKG_VERSION");
    for (before, after) in [("docrow-", "-x86_64-linux"), ("docrow_", "-1_amd64.deb"), ("docrow:", " .")] {
        assert!(install.contains(&format!("{before}{version}{after}")), "{before}{version}{after}");
    }
}
