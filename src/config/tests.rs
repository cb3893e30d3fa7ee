//! Accepted and refused configurations, and the error texts.

use super::*;

fn load(text: &str) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("docrow.toml");
    fs::write(&file, text).unwrap();
    Config::load(Overrides { file: Some(file), ..Overrides::default() })
}

fn refused(text: &str) -> String {
    load(text).unwrap_err().to_string()
}

const URIS: &str = "source.uri = 'mongodb://a'\ntarget.uri = 'postgres://b'\n";

#[test]
fn has_a_default_for_everything_but_the_uris() {
    let config = load(URIS).unwrap();
    assert_eq!((config.name.as_str(), config.schema.as_str()), ("docrow", "public"));
    assert_eq!((config.partitions, config.batch_rows), (4, 1000));
    assert!(refused("name = 'x'").contains("source.uri: missing"));
}

#[test]
fn refuses_unknown_keys_with_the_nearest_known_one() {
    let error = refused(&format!("{URIS}stream.batch_row = 7"));
    assert!(
        error.contains("docrow.toml") && error.contains("batch_row") && error.contains("batch_rows"),
        "{error}"
    );
}

#[test]
fn refuses_what_it_does_not_serve_yet() {
    let error = refused(&format!("{URIS}source.full_document = 'post_image'"));
    assert!(error.contains("not supported yet"), "{error}");
}

#[test]
fn names_file_key_and_constraint() {
    let error = refused(&format!("{URIS}stream.partitions = 0"));
    assert!(error.ends_with("docrow.toml: stream.partitions: 0 is not between 1 and 64"), "{error}");
    assert!(
        refused(&format!("{URIS}stream.batch_age = 'soon'"))
            .contains("stream.batch_age: \"soon\" is no duration")
    );
    assert!(refused(&format!("{URIS}stream.batch_age = '2h'")).contains("more than a minute"));
    let stall = |after: &str| refused(&format!("{URIS}stream.stall_after = '{after}'"));
    assert!(
        stall("10ms").contains("is not between a second and an hour")
            && stall("soon").contains("no duration")
    );
    for schema in ["docrow", "pg_catalog", "information_schema"] {
        let error = refused(&format!("{URIS}target.schema = '{schema}'"));
        assert!(error.contains(&format!("target.schema: \"{schema}\" can't have your tables")), "{error}");
    }
    assert!(refused(&format!("{URIS}stream.order = 'x'")).contains("not one of \"document\", \"commit\""));
    assert!(refused(&format!("{URIS}mapping.evolve = 'x'")).contains("not one of \"add\", \"freeze\""));
}

#[test]
fn reads_what_to_do_in_which_case() {
    let config = load(URIS).unwrap();
    assert_eq!((config.on_history_lost, config.on_drop), (OnHistoryLost::Stop, OnDrop::Keep));
    assert_eq!((config.order, config.max_spool), (Order::Document, 10 << 30));
    let config = load(&format!(
        "{URIS}source.on_history_lost = 'resync'\nsource.on_drop = 'truncate'\nstate.max_spool = '1.5 GiB'"
    ));
    let config = config.unwrap();
    assert_eq!((config.on_history_lost, config.on_drop), (OnHistoryLost::Resync, OnDrop::Truncate));
    assert_eq!(config.max_spool, 3 << 29);
    assert_eq!(load(&format!("{URIS}state.max_spool = '64MiB'")).unwrap().max_spool, 64 << 20);
    assert!(refused(&format!("{URIS}source.on_drop = 'x'")).contains("\"keep\", \"truncate\", \"drop\""));
    assert!(refused(&format!("{URIS}state.max_spool = '1MB'")).contains("\"1MB\" is less than 64.0 MiB"));
    for size in ["", "much", "-1GB", "10 XB"] {
        assert!(
            refused(&format!("{URIS}state.max_spool = '{size}'")).contains("is no size: use for example")
        );
    }
}

#[test]
fn the_order_of_commits_has_one_partition() {
    let config = load(&format!("{URIS}stream.order = 'commit'")).unwrap();
    assert_eq!((config.order, config.partitions), (Order::Commit, 1));
    let commit =
        |partitions| load(&format!("{URIS}stream = {{ order = 'commit', partitions = {partitions} }}"));
    assert_eq!(commit(1).unwrap().partitions, 1);
    let error = commit(4).unwrap_err().to_string();
    assert!(error.contains("stream.partitions: 4 is too many for stream.order = \"commit\""), "{error}");
}

#[test]
fn takes_values_from_the_environment() {
    let config = load(&format!("{URIS}name = 'at-${{CARGO_PKG_NAME}}'")).unwrap();
    assert_eq!(config.name, "at-docrow");
    assert!(refused(&format!("{URIS}name = '${{DOCROW_NO_SUCH}}'")).contains("DOCROW_NO_SUCH is not set"));
}

#[test]
fn only_reading_takes_no_target() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("docrow.toml");
    fs::write(&file, "source.uri = 'mongodb://a'\ntarget.uri = '${DOCROW_NO_SUCH}'\nmapping.dir = 'm'")
        .unwrap();
    let config = SourceConfig::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap();
    assert_eq!((config.source.expose(), config.mapping_dir.path), ("mongodb://a", dir.path().join("m")));
    let flags = Overrides { source: Some("mongodb://b".into()), ..Overrides::default() };
    assert_eq!(SourceConfig::load(flags).unwrap().source.expose(), "mongodb://b");
}

/// Otherwise mapping files, and their masks, would depend on where docrow is started.
#[test]
fn paths_in_the_file_are_relative_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (file, at) = (dir.path().join("docrow.toml"), |path: &str| dir.path().join(path));
    fs::write(at("uri"), "postgres://u:x@b/d").unwrap();
    let load = |text: &str, flags: Overrides| {
        fs::write(&file, format!("source.uri = 'mongodb://a'\ntarget.uri = '${{file:uri}}'\n{text}"))
            .unwrap();
        Config::load(Overrides { file: Some(file.clone()), ..flags }).unwrap()
    };
    let config = load("mapping.dir = 'm'\nstate.dir = '../s'", Overrides::default());
    assert_eq!(config.target.expose(), "postgres://u:x@b/d");
    assert_eq!(config.mapping_dir, MappingDir { path: at("m"), must_exist: true });
    assert_eq!(config.state_dir, at("../s"));
    // A key that is not set behaves the same.
    let config = load("", Overrides::default());
    assert_eq!(config.mapping_dir, MappingDir { path: at("schemas"), must_exist: false });
    assert_eq!(config.state_dir, at("docrow-state"));
    let absolute = load("mapping.dir = '/m'\nstate.dir = '/s'", Overrides::default());
    assert_eq!((absolute.mapping_dir.path, absolute.state_dir), ("/m".into(), "/s".into()));
    // The command line's paths are relative to the working directory.
    let flags = Overrides { state: Some("here".into()), ..Overrides::default() };
    assert_eq!(load("state.dir = 's'", flags).state_dir, PathBuf::from("here"));
}

#[test]
fn only_the_target_takes_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("docrow.toml");
    fs::write(&file, "name = 'n'\nsource.uri = '${DOCROW_NO_SUCH}'\ntarget.uri = 'postgres://b'").unwrap();
    let config = TargetConfig::load(Overrides { file: Some(file), ..Overrides::default() }).unwrap();
    assert_eq!((config.name.as_str(), config.target.expose()), ("n", "postgres://b"));
    let flags = Overrides { target: Some("postgres://c".into()), ..Overrides::default() };
    assert_eq!(TargetConfig::load(flags).unwrap().target.expose(), "postgres://c");
}

/// A separate password needs no percent-encoding, and may be in a file.
#[test]
fn takes_secrets_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("password"), "p@ss/w${rd\n").unwrap();
    fs::write(path("uri"), "postgres://u:x@b\n").unwrap();
    let text = |password: &str| {
        let (source, uri) = ("source = { uri = 'mongodb://u@a/x'", path("uri"));
        format!("{source}, password = '{password}' }}\ntarget.uri = '${{file:{uri}}}'")
    };
    let config = load(&text(&format!("${{file:{}}}", path("password")))).unwrap();
    assert_eq!(config.source.expose(), "mongodb://u:p%40ss%2Fw%24%7Brd@a/x");
    assert_eq!(config.target.expose(), "postgres://u:x@b");
    assert_eq!(load(&text("a:b")).unwrap().source.expose(), "mongodb://u:a%3Ab@a/x");
    let error = refused(&text(&format!("${{file:{}}}", path("absent"))));
    assert!(
        error.contains("docrow.toml: source.password: read ") && error.contains("No such file"),
        "{error}"
    );
    let error = refused(&format!("{URIS}source.password = 'hunter2'"));
    assert!(error.contains("docrow.toml: source.password: the URI names no user"), "{error}");
    let error =
        refused("source.uri = 'mongodb://a'\ntarget = { uri = 'postgres://u:p@b', password = 'hunter2' }");
    assert!(
        error.contains("target.password: the URI contains a password") && !error.contains("hunter2"),
        "{error}"
    );
    // A URI on the command line may name another server.
    let file = dir.path().join("docrow.toml");
    fs::write(&file, text("hunter2")).unwrap();
    let flags = Overrides { file: Some(file), source: Some("mongodb://c".into()), ..Overrides::default() };
    assert_eq!(Config::load(flags).unwrap().source.expose(), "mongodb://c");
}

/// A key that can be guessed hides nothing. G12: it is not shown.
#[test]
fn a_short_mask_key_is_refused_with_how_to_make_one() {
    for (key, taken) in
        [("abc", false), ("fifteen-bytes-x", false), ("sixteen-bytes-xy", true), ("äöüäöüäö", true)]
    {
        match file::mask_key(Some(key.into())) {
            Ok(found) => assert!(taken && found.is_some(), "{key}"),
            Err(error) => {
                let text = error.to_string();
                assert!(!taken && error.code() == Code::MaskKeyShort, "{text}");
                assert!(text.contains("openssl rand -hex 32") && !text.contains(key), "{text}");
            }
        }
    }
    assert!(file::mask_key(None).unwrap().is_none());
}

/// G12: a URI may contain a password.
#[test]
fn never_shows_a_uri() {
    let config = load("source.uri = 'mongodb://u:hunter2@a'\ntarget.uri = 'postgres://u:hunter2@b'").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}
