//! Checks what no compiler does: the direction of imports, circles of them, the purity of the pure modules,
//! the length of files and functions, names that two types have, and that the value layer depends on nothing
//! that does I/O. [`rules`] holds what is allowed. `cargo run -p tidy` prints what it finds.

mod circles;
mod rules;
mod shape;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use self::rules::{BANNED, MAY_IMPORT, NOT_YET, ROOMS};

/// Where the value layer is, whose modules `src/lib.rs` re-exports.
const VALUE_LAYER: &str = "crates/docrow-mapping";

/// Files, each by its path in its package.
type Sources = BTreeMap<String, String>;

/// The one file that awaits the driver, for it has the deadlines; and what asks the driver for something.
const ASKS: &str = "src/source/ask.rs";
const AWAITS: [&str; 5] =
    [".run_command(", ".run_cursor_command(", ".run_raw_cursor_command(", ".collection::<", ".list_"];

fn uncommented(line: &str) -> String {
    format!("{}\n", line.split("//").next().unwrap())
}

/// What of a file is compiled into docrow: no comments, and no tests.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    code.lines().map(uncommented).collect()
}

/// Everything that is wrong with the file `path`, relative to its package.
fn faults(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |what: String| faults.push(format!("{path}: {what}"));
    if !text.starts_with("//!") {
        fault("does not begin with what it is for (`//!`)".to_owned());
    }
    let code: String = text.lines().map(uncommented).collect();
    // In two pieces, so that this file does not contain them.
    for banned in [concat!("#[", "ignore"), concat!("todo", "!("), concat!("unimplemented", "!(")] {
        if code.contains(banned) {
            fault(format!("contains {banned}"));
        }
    }
    let Some(module) = path.strip_prefix("src/").and_then(|path| path.split(['/', '.']).next()) else {
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

/// Everything that is wrong with the files together.
fn faults_between(sources: &Sources) -> Vec<String> {
    let imports = circles::imports(sources);
    let mut faults = [circles::circles(&imports), shape::twice(sources)].concat();
    for (module, rooms) in ROOMS {
        let place = |path: &str| {
            let room = path.strip_prefix(&format!("src/{module}/"))?.split(['/', '.']).next()?;
            let level = rooms.iter().position(|names| names.split(' ').any(|name| name == room));
            (room != "mod").then(|| (room.to_owned(), level))
        };
        for (path, imported) in &imports {
            let Some((room, level)) = place(path) else { continue };
            let Some(level) = level else {
                faults.push(format!("{path}: `{room}` is not in the table of the rooms of `{module}`"));
                continue;
            };
            for (other, below) in imported.iter().filter_map(|path| place(path)) {
                if other != room && below.is_some_and(|below| below <= level) {
                    faults.push(format!(
                        "{path}: imports `{other}`, which is not below `{room}` in `{module}`"
                    ));
                }
            }
        }
    }
    faults.extend(sources.get("src/lib.rs").into_iter().flat_map(|text| unnamed(text)));
    faults
}

/// The modules that the map of `lib.rs` does not name.
fn unnamed(text: &str) -> Vec<String> {
    let map: String = text.lines().filter(|line| line.starts_with("//!")).collect();
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let unnamed = modules.filter(|module| !map.contains(&format!("[`{module}`]")));
    unnamed.map(|module| format!("src/lib.rs: its map does not name `{module}`")).collect()
}

/// Takes away what is known to be not tidy yet, and adds what of that is.
fn unexcused(mut faults: Vec<String>, excuses: &[(&str, &str)]) -> Vec<String> {
    let is_excused =
        |fault: &str, (path, what): &(&str, &str)| fault.starts_with(path) && fault.contains(what);
    let stale = excuses.iter().filter(|excuse| !faults.iter().any(|fault| is_excused(fault, excuse)));
    let stale: Vec<_> =
        stale.map(|excuse| format!("{excuse:?} excuses nothing: take it out of NOT_YET")).collect();
    faults.retain(|fault| !excuses.iter().any(|excuse| is_excused(fault, excuse)));
    faults.extend(stale);
    faults
}

/// The sources of each package: docrow's, and the value layer's.
fn packages() -> [(PathBuf, Sources); 2] {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    [repository.clone(), repository.join(VALUE_LAYER)].map(|package| {
        let mut sources = Sources::new();
        for folder in ["src", "tests", "benches"].map(|folder| package.join(folder)) {
            if folder.exists() {
                for_each_file(&folder, &mut |path| {
                    let name = path.strip_prefix(&package).unwrap().to_str().unwrap();
                    sources.insert(name.to_owned(), fs::read_to_string(path).unwrap());
                });
            }
        }
        assert!(sources.len() > 30, "only {} files were found in {}", sources.len(), package.display());
        (package, sources)
    })
}

/// Everything that is wrong with docrow's source.
fn untidy() -> Vec<String> {
    let mut found = Vec::new();
    for (package, sources) in packages() {
        for (path, text) in &sources {
            found.extend(faults(path, text));
            found.extend(shape::too_long(path, text));
            let unreached = !is_reached(&package.join(path));
            found.extend(unreached.then(|| format!("{path}: no `mod` names it, so it is never compiled")));
        }
        found.extend(faults_between(&sources));
    }
    found.extend(io_in_the_value_layer());
    unexcused(found, NOT_YET)
}

/// The packages that do I/O and that the value layer depends on: its compile, its tests and its fuzzing need
/// neither RocksDB nor servers.
fn io_in_the_value_layer() -> Vec<String> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package=docrow-mapping", "--edges=normal", "--prefix=none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    assert!(tree.starts_with("docrow-mapping ") && tree.contains("\nbson "), "{tree}");
    let io = ["tokio ", "mongodb ", "rocksdb ", "librocksdb-sys ", "tokio-postgres ", "mio ", "socket2 "];
    let found = io.into_iter().filter(|package| tree.lines().any(|line| line.starts_with(package)));
    found.map(|package| format!("docrow-mapping: depends on {package}")).collect()
}

fn main() -> ExitCode {
    let found = untidy();
    for fault in &found {
        println!("{fault}");
    }
    for (_, sources) in packages() {
        println!("{}", shape::figures(&sources));
    }
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[test]
fn the_source_is_tidy() {
    let found = untidy();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_untidy_is_found() {
    let cases = [
        ("src/source/a.rs", "//! A.\nuse crate::sink::Session;", "imports `sink`"),
        (
            "src/sink/a.rs",
            "//! A.\nuse crate::{\n    error::{Error, Kind},\n    source::Source,\n};",
            "imports `source`",
        ),
        ("src/mapping/a.rs", "//! A.\nfn f() { crate::pipeline::run() }", "imports `pipeline`"),
        ("src/schema/a.rs", "//! A.\npub async fn f() {}", "contains `async`"),
        ("src/sink/a.rs", "//! A.\nuse mongodb::{Client, bson::doc};", "does not know MongoDB"),
        ("src/source.rs", "//! A.\nuse tokio_postgres::Row;", "does not know PostgreSQL"),
        ("src/source/a.rs", "//! A.\nfn f() { admin.run_command(ping) }", "is waited for in"),
        ("src/helpers.rs", "//! A.", "not in the table"),
        ("src/model/change.rs", "use std::fmt;", "does not begin"),
        ("tests/it/a.rs", concat!("//! A.\n#[", "ignore]"), "contains #[ig"),
        ("src/cli/a.rs", concat!("//! A.\nfn f() { todo", "!() }"), "contains todo"),
    ];
    for (path, text, message) in cases {
        let found = faults(path, text);
        assert!(found.len() == 1 && found[0].contains(message), "{path}: {text}: {found:?}");
    }
    assert!(!is_reached(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/nowhere.rs")));
    let fine =
        "//! A.\n// crate::sink is not known here.\nuse crate::{model::change::{Change, Op}, error::Result};";
    assert_eq!(faults("src/source/a.rs", fine), [""; 0]);
}

/// The rules for files together, and for their shape.
#[test]
fn what_is_untidy_between_files_is_found() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        // Directly, by a chain, by a re-export, by a child's name.
        (&[("a", "use crate::b::B;"), ("b", "fn f(_: super::a::A) {}")], "src/a.rs → src/b.rs → src/a.rs"),
        (
            &[
                ("a", "use crate::{\n    b::{B, X},\n};"),
                ("b", "use super::c;"),
                ("c", "fn f() { crate::a::g() }"),
            ],
            "src/a.rs → src/b.rs → src/c.rs → src/a.rs",
        ),
        (
            &[("a/mod", "pub use self::b::B;"), ("a/b", "use crate::c::C;"), ("c", "use crate::a::B as D;")],
            "src/a/b.rs → src/c.rs → src/a/b.rs",
        ),
        (
            &[("a/mod", "fn f() { b::g() }"), ("a/b", "use super::A;")],
            "src/a/b.rs → src/a/mod.rs → src/a/b.rs",
        ),
        (
            &[
                ("sink/mod", ""),
                ("sink/connection/mod", ""),
                ("sink/connection/a", "use super::super::rows::b::B;"),
                ("sink/rows/mod", ""),
                ("sink/rows/b", "struct B;"),
            ],
            "imports `rows`, which is not below `connection` in `sink`",
        ),
        (&[("sink/cellar/a", "struct A;")], "`cellar` is not in the table of the rooms of `sink`"),
        (&[("lib", "pub mod a;")], "its map does not name `a`"),
        (
            &[("a", "struct Same;"), ("b", "pub(super) enum Same {}")],
            "type Same is also that of one in src/b.rs",
        ),
    ];
    for (files, message) in cases {
        let sources =
            files.iter().map(|(name, text)| (format!("src/{name}.rs"), (*text).to_owned())).collect();
        let found = faults_between(&sources);
        assert!(found.len() == 1 && found[0].contains(message), "{files:?}: {found:?}");
    }
    let (line, call) = ("\n", "    f();\n");
    let function = |lines| format!("fn f() {{\n{}}}\n", call.repeat(lines));
    for (path, text, message) in [
        ("src/a.rs", line.repeat(401), "has 401 lines, more than 400"),
        ("tests/it/a.rs", line.repeat(801), "has 801 lines, more than 800"),
        ("src/a.rs", function(79), "the function f has 81 lines, more than 80"),
        ("src/a.rs", format!("{}// {}", " ".repeat(8), "x".repeat(100)), "the comment on line 1 is wider"),
    ] {
        let found = shape::too_long(path, &text);
        assert!(found.len() == 1 && found[0].contains(message), "{path}: {found:?}");
    }
    assert_eq!(shape::too_long("src/a.rs", &function(78)), [""; 0]);
    let fine = [
        ("src/lib.rs", "//! [`a`]\npub mod a;"),
        (
            "src/a/mod.rs",
            "pub use self::b::B;\nfn f(_: B) {}\n#[cfg(test)]\nmod tests {\n    use crate::c::C;\n}",
        ),
        ("src/a/b.rs", "use crate::c::C;\nimpl Iterator for B {\n    type Item = u8;\n}\npub struct B;"),
        ("src/c.rs", "// crate::a::B\nimpl Iterator for C {\n    type Item = u8;\n}\npub struct C;"),
        ("src/cli/a.rs", "struct C;"),
    ];
    let fine = fine.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
    assert_eq!(faults_between(&fine), [""; 0]);
    let excuses = [("src/a.rs", "is long"), ("src/b.rs", "")];
    let found = unexcused(vec!["src/a.rs: is long".into(), "src/c.rs: is long".into()], &excuses);
    assert!(
        found.len() == 2 && found[0].starts_with("src/c.rs") && found[1].contains("excuses nothing"),
        "{found:?}"
    );
}
