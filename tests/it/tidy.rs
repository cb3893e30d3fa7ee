//! What no compiler checks: the direction of imports, the purity of the pure modules, the length of files, and that the
//! value layer depends on nothing that does I/O.

use std::{fs, path::Path, process::Command};

/// Where the value layer is, whose modules `src/lib.rs` re-exports.
const VALUE_LAYER: &str = "crates/docrow-mapping";

/// What each module of `src/` and of the value layer may import of the others. `source` does not know `sink`, nor `sink` `source`; what connects
/// them is `pipeline`, and nothing below it knows it. A new module is to be entered here, on purpose.
const MAY_IMPORT: &[(&str, &str)] = &[
    ("error", ""),
    ("failpoint", ""),
    ("metrics", "error"),
    ("model", "error"),
    ("retry", "error"),
    ("rate_limit", "shutdown"),
    ("shutdown", "error"),
    ("moment", ""),
    ("http", ""),
    ("trace", "error metrics"),
    ("otlp", "config error http metrics shutdown trace"),
    ("roles", ""),
    ("shown", ""),
    ("process_status", "moment"),
    ("telemetry", "error metrics process_status"),
    ("schema", "error mapping model shown"),
    ("mapping", "error model schema shown"),
    ("secret", "error"),
    ("config", "error mapping schema secret"),
    ("mapping_files", "config error schema"),
    ("source", "error metrics model retry roles secret shown"),
    ("sink", "error failpoint mapping metrics model roles secret shown"),
    ("checkpoint", "error failpoint model"),
    (
        "pipeline",
        "checkpoint config error failpoint mapping mapping_files metrics model moment rate_limit retry schema shown shutdown sink source telemetry trace process_status",
    ),
    ("profile", "error pipeline"),
    (
        "verify",
        "config error mapping metrics model rate_limit pipeline schema shutdown sink source telemetry process_status",
    ),
    ("status", "config error model moment pipeline schema secret shown sink source verify process_status"),
    ("serve", "config error metrics secret shutdown sink status process_status"),
    ("notify", "config error http metrics moment retry shutdown sink status process_status"),
    ("check", "config error mapping mapping_files model pipeline schema shown sink source status"),
    ("demo", "error"),
    (
        "cli",
        "check config demo error mapping mapping_files model notify otlp pipeline profile schema secret serve shown shutdown sink source status telemetry verify process_status",
    ),
    ("lib", ""),
    ("main", ""),
];

/// Text that a module's code must not contain, and why.
const BANNED: &[(&str, &[&str], &str)] = &[
    ("schema mapping model", &["tokio", "async ", ".await", "std::fs", "std::net", "std::time"], "is pure"),
    ("sink", &["mongodb::Client", "mongodb::{", "mongodb::options"], "does not know MongoDB, only BSON"),
    ("source", &["tokio_postgres"], "does not know PostgreSQL"),
];

/// The one file that awaits the driver, for it has the deadlines; and what asks the driver for something.
const ASKS: &str = "src/source/ask.rs";
const AWAITS: [&str; 5] =
    [".run_command(", ".run_cursor_command(", ".run_raw_cursor_command(", ".collection::<", ".list_"];

const MAX_LINES: usize = 800;

/// Everything that is wrong with the file `path`, relative to the repository.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{path}: {what}"));
    if !text.starts_with("//!") {
        fault("does not begin with what it is for (`//!`)".to_owned());
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        fault(format!("has {lines} lines, more than {MAX_LINES}"));
    }
    let code: String = text.lines().map(|line| format!("{}\n", line.split("//").next().unwrap())).collect();
    // In two pieces, so that this file does not contain them.
    for banned in [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!(")] {
        if code.contains(banned) {
            fault(format!("contains {banned}"));
        }
    }
    let own = path.strip_prefix(VALUE_LAYER).and_then(|path| path.strip_prefix('/')).unwrap_or(path);
    let Some(module) = own.strip_prefix("src/").and_then(|path| path.split(['/', '.']).next()) else {
        return faults;
    };
    for (modules, words, why) in BANNED {
        for word in
            words.iter().filter(|word| modules.split(' ').any(|name| name == module) && code.contains(**word))
        {
            fault(format!("contains `{}`, but `{module}` {why}", word.trim()));
        }
    }
    if module == "source" && path != ASKS {
        for word in AWAITS.iter().filter(|word| code.contains(**word)) {
            fault(format!("contains `{word}`, but what is asked of MongoDB is waited for in {ASKS}"));
        }
    }
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        fault(format!("`{module}` is not in the table of what may import what"));
        return faults;
    };
    for import in imports(&code) {
        if import != module && !allowed.split(' ').any(|name| name == import) {
            fault(format!("imports `{import}`, which `{module}` may not"));
        }
    }
    faults
}

/// The crate's modules that `code` names: by `crate::a` or in a list, `crate::{a, b::{c, d}}`.
fn imports(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        if !rest.starts_with('{') {
            found.push(name(rest));
            continue;
        }
        let (mut depth, mut expected) = (0, false);
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && matches!(c, '{' | ',') {
                expected = true;
            } else if expected && !c.is_whitespace() {
                found.push(name(&rest[i..]));
                expected = false;
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn name(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// Whether the file is compiled: named by the module above it, or a target of Cargo's.
fn is_reached(path: &Path) -> bool {
    let (folder, stem) = (path.parent().unwrap(), path.file_stem().unwrap().to_str().unwrap());
    let (folder, name) = match stem {
        "main" | "lib" => return true,
        "mod" => (folder.parent().unwrap(), folder.file_name().unwrap().to_str().unwrap()),
        _ => (folder, stem),
    };
    let above = ["main.rs", "lib.rs", "mod.rs"].map(|file| folder.join(file)).into_iter();
    let mut above =
        above.chain([folder.with_extension("rs")]).filter_map(|path| fs::read_to_string(path).ok());
    let declaration = format!("mod {name};");
    let declared = |line: &str| line.strip_suffix(&*declaration).is_some_and(|before| !before.contains("//"));
    folder.ends_with("benches") || folder.ends_with("tests") || above.any(|text| text.lines().any(declared))
}

fn for_each_file(folder: &Path, look: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            for_each_file(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path);
        }
    }
}

#[test]
fn the_source_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut files) = (Vec::new(), 0);
    for folder in ["src", "tests", "benches", VALUE_LAYER] {
        for_each_file(&root.join(folder), &mut |path| {
            files += 1;
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            found.extend(faults(name, &fs::read_to_string(path).unwrap()));
            found.extend(
                (!is_reached(path)).then(|| format!("{name}: no `mod` names it, so it is never compiled")),
            );
        });
    }
    assert!(files > 30, "only {files} files were looked at");
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Its compile, its tests and its fuzzing need neither RocksDB nor servers.
#[test]
fn the_value_layer_depends_on_nothing_that_does_io() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package=docrow-mapping", "--edges=normal", "--prefix=none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.starts_with("docrow-mapping ") && tree.contains("\nbson "), "{tree}");
    for package in
        ["tokio ", "mongodb ", "rocksdb ", "librocksdb-sys ", "tokio-postgres ", "mio ", "socket2 "]
    {
        assert!(!tree.lines().any(|line| line.starts_with(package)), "{package} is in\n{tree}");
    }
}

#[test]
fn what_is_untidy_is_found() {
    let long = format!("//! Long.\n{}", "\n".repeat(MAX_LINES));
    let cases = [
        ("src/source/a.rs", "//! A.\nuse crate::sink::Session;", "imports `sink`"),
        (
            "src/sink/a.rs",
            "//! A.\nuse crate::{\n    error::{Error, Kind},\n    source::Source,\n};",
            "imports `source`",
        ),
        ("src/checkpoint/a.rs", "//! A.\nfn f() { crate::pipeline::run() }", "imports `pipeline`"),
        (
            "crates/docrow-mapping/src/model/a.rs",
            "//! A.\nfn f() { crate::schema::evolve() }",
            "imports `schema`",
        ),
        ("crates/docrow-mapping/src/schema/a.rs", "//! A.\npub async fn f() {}", "contains `async`"),
        ("src/sink/a.rs", "//! A.\nuse mongodb::{Client, bson::doc};", "does not know MongoDB"),
        ("src/source.rs", "//! A.\nuse tokio_postgres::Row;", "does not know PostgreSQL"),
        ("src/source/a.rs", "//! A.\nfn f() { admin.run_command(ping) }", "is waited for in"),
        ("src/helpers.rs", "//! A.", "not in the table"),
        ("src/sink/change.rs", "use std::fmt;", "does not begin"),
        ("crates/docrow-mapping/src/model/change.rs", &long, "has 801 lines"),
        ("tests/it/a.rs", concat!("//! A.\n#[", "ignore]"), "contains #[ig"),
        ("src/cli/a.rs", concat!("//! A.\nfn f() { todo", "!() }"), "contains todo"),
    ];
    for (path, text, message) in cases {
        let found = faults(path, text);
        assert!(found.len() == 1 && found[0].contains(message), "{path}: {text}: {found:?}");
    }
    assert!(!is_reached(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nowhere.rs")));
    let fine =
        "//! A.\n// crate::sink is not known here.\nuse crate::{model::change::{Change, Op}, error::Result};";
    assert_eq!(faults("src/source/a.rs", fine), [""; 0]);
}
