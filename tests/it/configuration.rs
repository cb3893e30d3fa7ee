//! What README, docs and packages say of the configuration is what the code's tables say.

use std::{fs, path::Path};

use docrow::config::{
    environment::VARIABLES,
    keys::{ConfigKey, SECTIONS, ShownAs, TakesEffect},
};

use crate::support::golden;

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// `text` with what stands between `from` and the next `to` replaced.
fn replaced(text: &str, from: &str, to: &str, new: &str) -> String {
    let (before, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from:?}"));
    let (_, after) = rest.split_once(to).unwrap_or_else(|| panic!("no {to:?}"));
    format!("{before}{from}{new}{to}{after}")
}

/// A section as README shows it.
fn shown_section(keys: &[ConfigKey]) -> String {
    let head = keys[0].parts().0.map_or_else(String::new, |section| format!("[{section}]\n"));
    let lines = keys.iter().filter(|key| key.shown != ShownAs::Hidden).map(|key| {
        let sign = if key.shown == ShownAs::Comment { "# " } else { "" };
        let line = format!("{sign}{} = {}", key.parts().1, key.value);
        if key.doc.is_empty() { format!("{line}\n") } else { format!("{line:<29}  # {}\n", key.doc) }
    });
    head + &lines.collect::<String>()
}

/// README's configuration and its environment variables are the tables of the code. `make golden` rewrites
/// them.
#[test]
fn the_readme_is_the_tables() {
    let sections: Vec<_> = SECTIONS.iter().map(|keys| shown_section(keys)).collect();
    let rows = VARIABLES.iter().map(|variable| {
        let file = if variable.has_file { ", `…_FILE`" } else { "" };
        format!("| `{}`{file} | {} |\n", variable.name, variable.doc)
    });
    let text = read("README.md");
    let text = replaced(&text, "to the working directory.\n\n```toml\n", "```\n", &sections.join("\n"));
    let head = "| environment variable | is |\n|---|---|\n";
    golden("../README.md", &replaced(&text, head, "\n## ", &rows.collect::<String>()));
}

/// docs/operations.md names each key where it belongs: among those that are taken up at once, or those that
/// take a restart.
#[test]
fn the_operations_say_what_takes_a_restart() {
    let operations = read("docs/operations.md");
    let (_, table) = operations.split_once("| reloaded at once | needs a restart |\n|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let mut names = [Vec::new(), Vec::new()];
    for row in rows {
        for (column, cell) in row.trim_matches('|').split(" | ").enumerate() {
            names[column].extend(cell.split('`').skip(1).step_by(2));
        }
    }
    let names_key = |column: &[&str], key: &ConfigKey| {
        let all = key.parts().0.map(|section| format!("{section}.*"));
        column.iter().any(|name| *name == key.name || Some(*name) == all.as_deref())
    };
    let wrong =
        SECTIONS.iter().flat_map(|keys| *keys).filter(|key| key.shown != ShownAs::Hidden).filter(|key| {
            let expected =
                [TakesEffect::AtOnce, TakesEffect::AtRestart].map(|column| key.takes_effect == column);
            names.each_ref().map(|column| names_key(column, key)) != expected
        });
    assert_eq!(wrong.map(|key| key.name).collect::<Vec<_>>(), [""; 0], "not in their column");
}

/// What a packaged file writes out is the default, but for what belongs to the machine that it is made for.
#[test]
fn packages_write_the_defaults() {
    let files = [
        ("docker/docrow.toml", "serve.listen"),
        ("docker/kubernetes/docrow.toml", "serve.listen"),
        ("packaging/docrow.toml", "state.dir"),
    ];
    for (file, other) in files {
        let written: toml::Table = toml::from_str(&read(file)).unwrap();
        let is_default = |key: &&ConfigKey| key.shown == ShownAs::Comment && !key.doc.contains("default:");
        let differs = |key: &&ConfigKey| {
            let (section, name) = key.parts();
            let section = written.get(section.unwrap())?;
            let value = section.get(name)?;
            (value.to_string() != key.value).then_some(key.name)
        };
        let defaults = SECTIONS.iter().flat_map(|keys| *keys).filter(is_default);
        let found: Vec<_> = defaults.filter_map(|key| differs(&key)).collect();
        assert_eq!(found, [other], "{file}");
    }
}
