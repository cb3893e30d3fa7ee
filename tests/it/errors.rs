//! The error codes: they never change, all are used, and docs and README describe them correctly.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use docrow::error::{Code, Disposition, Kind};
use mongodb::bson::doc;

use crate::support::{Home, Place, golden};

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Codes never change: none is ever removed or renumbered. New ones may be added, which `make golden` does.
#[test]
fn codes_are_never_taken_back() {
    let file = root().join("testdata/codes.txt");
    let known = fs::read_to_string(&file).unwrap_or_default();
    let now: BTreeMap<u16, String> =
        Code::ALL.iter().map(|code| (code.number(), format!("{code} {code:?}"))).collect();
    for line in known.lines() {
        let is_there = now.values().any(|there| there == line);
        assert!(
            is_there,
            "testdata/codes.txt has {line}, and the table has not: it was removed or renumbered"
        );
    }
    let all: String = now.values().map(|line| format!("{line}\n")).collect();
    golden("codes.txt", &all);
}

/// docs/errors.md is generated from the table.
#[test]
fn the_docs_have_them_all() {
    let mut text = "# Errors\n\n\
        `make golden` generates this page from the code. `docrow explain DRW-3201` shows the same text.\n\n\
        Every error has a code, and so has every warning about one: in the log line, `ERROR [DRW-3201] …`, \
        or, with `--log-format json`, in the field `code`. A code's number and meaning never change.\n\n\
        Where the second column says *retried*, `docrow run` and `backfill`, once under way, retry with \
        growing delays until it works; before that, and in other commands, docrow ends with that exit code. \
        Other errors end it at once, with their exit code: they need operator action.\n"
        .to_owned();
    let mut group = "";
    for code in Code::ALL {
        if group != code.group() {
            group = code.group();
            write!(
                text,
                "\n## {group}\n\n| code | exit code | what happened | what to do |\n|---|---|---|---|\n"
            )
            .unwrap();
        }
        let happened = format!("**{}** {}", code.title(), code.meaning());
        let cells = [outcome(*code), happened, code.remedy().to_owned()];
        let cells = cells.map(|cell| cell.replace('|', "\\|")).join(" | ");
        writeln!(text, "| DRW&#8209;{:04} | {cells} |", code.number()).unwrap();
    }
    golden("../docs/errors.md", &text);
}

/// What docrow does, in a word or two.
fn outcome(code: Code) -> String {
    let exit = code.kind().exit_code();
    match (code, code.kind()) {
        (
            Code::SpoolFull
            | Code::CollectionStopped
            | Code::CollectionHistoryLost
            | Code::PausedGivenUp
            | Code::Differs,
            _,
        )
        | (_, Kind::StateRebuilt) => "continues".to_owned(),
        (Code::TableInTheWay | Code::TableInUse, _) => format!("continues; {exit} without others"),
        (Code::StopOverdue, _) => "1".to_owned(),
        (_, Kind::TargetRefusedRows) => "continues, with a dead letter".to_owned(),
        (_, kind) if kind.disposition() == Disposition::Retry => format!("{exit}, retried"),
        _ => exit.to_string(),
    }
}

fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            found.push((path, code.to_owned()));
        }
    }
}

/// Whether `text` has `name` after `Code::` or `Self::`, as a whole word.
fn uses(text: &str, path: &str, name: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let word = text[at + path.len()..].split(|c: char| !c.is_alphanumeric()).next();
        word == Some(name)
    })
}

/// No code is only in the table.
#[test]
fn every_code_is_used() {
    let mut found = Vec::new();
    for folder in ["src", "crates/docrow-mapping/src"] {
        sources(&root().join(folder), &mut found);
    }
    let unused: Vec<_> = Code::ALL
        .iter()
        .filter(|code| {
            let name = format!("{code:?}");
            !found.iter().any(|(path, text)| {
                // Where the general codes are assigned to their kinds.
                let general = path.ends_with("error/code.rs") && uses(text, "Kind::", &name);
                general || uses(text, "Code::", &name)
            })
        })
        .collect();
    assert!(unused.is_empty(), "no error has {unused:?}");
}

/// One remedy for one problem, wherever it appears; and none that causes the next problem.
#[test]
fn remedies_agree() {
    for code in Code::ALL.iter().filter(|code| code.kind() == Kind::HistoryLost) {
        assert!(code.remedy().contains("`docrow resync '"), "{code}: {}", code.remedy());
    }
    for code in [Code::Fenced, Code::PipelineHeld] {
        assert!(code.remedy().contains("`[target] schema`"), "two pipelines can't share tables: {code}");
    }
}

/// `--json` of `docrow explain` contains everything that the text does.
#[tokio::test]
async fn explanations_are_data_too() {
    let home = Home::empty();
    let ended = home.finish(&["explain", "3301", "--json"]).await.with_code(0).quiet();
    let document: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!((&document["code"], &document["exit_code"]), (&"DRW-3301".into(), &4.into()));
    assert_eq!(document["remedy"], Code::TableInTheWay.remedy());
    let ended = home.finish(&["explain", "--json"]).await.with_code(0).quiet();
    let document: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(document["codes"].as_array().unwrap().len(), Code::ALL.len());
}

/// README's table of exit codes has those of all kinds, and `--help` names them.
#[tokio::test]
async fn the_exit_codes_are_documented() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("| exit code | means |").nth(1).expect("README has a table of exit codes");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(','));
    let mut documented: Vec<u8> = cells.map(|code| code.trim().parse().unwrap()).collect();
    documented.retain(|code| *code > 1);
    // 8 belongs to no error: with it, `docrow status --exit-code` reports that no process runs the pipeline.
    let mut used: Vec<u8> = Code::ALL.iter().map(|code| code.kind().exit_code()).chain([8]).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(documented, used);
    let place = Place::shared("errors_help").await;
    let help = Home::new(&place).finish(&["--help"]).await.with_code(0).out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for code in used {
        assert!(help.contains(&format!("{code} ")), "{code}: {help}");
    }
}

#[tokio::test]
async fn explain_says_what_an_error_means() {
    let place = Place::shared("errors_explain").await;
    let home = Home::new(&place);
    // No configuration is needed.
    fs::remove_file(home.path().join("docrow.toml")).unwrap();
    for spelling in ["DRW-1203", "drw-1203", "1203"] {
        let said = home.finish(&["explain", spelling]).await.with_code(0).quiet().out;
        assert!(said.starts_with("DRW-1203  A name in a mapping file can't be used.\n"), "{said}");
        for part in ["means:", "docrow:  ends with exit code 2", "to do:   Choose another name."] {
            assert!(said.contains(part), "{said}");
        }
    }
    let away = home.finish(&["explain", "3107"]).await.with_code(0).out;
    assert!(away.contains("retries") && away.contains("exit code 4"), "{away}");
    let all = home.finish(&["explain"]).await.with_code(0).quiet().out;
    for code in Code::ALL {
        assert!(all.contains(&format!("{code}  {}", code.title())), "{all}");
    }
    for (text, near) in [("3299", "the nearest are DRW-3301"), ("pass\u{1b}word", "no code pass\\u001bword:")]
    {
        let ended = home.finish(&["explain", text]).await.with_code(2).coded(Code::UnknownCode);
        assert!(ended.error().contains(near), "{}", ended.log);
    }
}

/// A reader that closes the pipe early sees no bug reported.
#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let script = format!("{} explain 2>&1 >/dev/full | head -c 300; ", env!("CARGO_BIN_EXE_docrow"));
    let full = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    let full = String::from_utf8(full.stdout).unwrap();
    assert!(full.contains("[DRW-9001] print: No space left on device"), "{full}");
    let script = format!("({} explain; echo ended with $? >&2) | true", env!("CARGO_BIN_EXE_docrow"));
    for _ in 0..3 {
        let closed = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(closed.stderr).unwrap(), "ended with 0\n");
    }
}

/// JSON logs have the code as a field, and every line is JSON.
#[tokio::test]
async fn a_code_is_a_field_of_json_logs() {
    let place = Place::shared("errors_json").await;
    place.collection("orders").insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut home = Home::new(&place);
    home.set("target.uri", "postgresql://u@127.0.0.1:9/x");
    let ended = home.finish(&["run", "--log-format", "json"]).await.with_code(4);
    let lines: Vec<serde_json::Value> =
        ended.log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(last["code"], "DRW-3101", "{}", ended.log);
    assert_eq!(last["level"], "ERROR");
    assert!(last["message"].as_str().unwrap().starts_with("connect to PostgreSQL at"), "{}", ended.log);
}

/// The kind alone decides what an error does, and each code has one kind.
#[test]
fn a_code_decides_nothing() {
    for code in Code::ALL {
        let error = docrow::error::Error::new(*code, "x");
        assert_eq!(error.kind(), code.kind());
        let general = docrow::error::Error::new(code.kind(), "x");
        assert_eq!(general.code(), Code::from(code.kind()));
        assert_eq!(error.kind().exit_code(), general.kind().exit_code());
    }
    assert_eq!(Code::Bug.kind(), Kind::Bug);
}
