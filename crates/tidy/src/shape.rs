//! How long files and functions are, and what types are called.

use std::collections::BTreeMap;

use super::{Sources, code_of};

/// Most lines of a file of `src/`; of tests and benches.
const MAX_LINES: (usize, usize) = (400, 800);

/// Most characters of a line with a comment, so that prose reads well.
const MAX_WIDTH: usize = 110;

/// Most lines of a function of `src/`.
const MAX_FUNCTION: usize = 80;

/// What of the file is too long.
pub(super) fn too_long(path: &str, text: &str) -> Vec<String> {
    let is_source = path.starts_with("src/");
    let (lines, most) = (text.lines().count(), if is_source { MAX_LINES.0 } else { MAX_LINES.1 });
    let file = (lines > most).then(|| format!("{path}: has {lines} lines, more than {most}"));
    let long = functions(text).into_iter().filter(|(_, lines)| is_source && *lines > MAX_FUNCTION);
    let functions = long.map(|(name, lines)| {
        format!("{path}: the function {name} has {lines} lines, more than {MAX_FUNCTION}")
    });
    let is_wide = |line: &&str| line.trim_start().starts_with("//") && line.chars().count() > MAX_WIDTH;
    let wide = text.lines().enumerate().filter(|(_, line)| is_wide(line));
    let wide = wide.map(|(at, _)| {
        format!("{path}: the comment on line {} is wider than {MAX_WIDTH} characters", at + 1)
    });
    file.into_iter().chain(functions).chain(wide).collect()
}

/// The functions of a file as rustfmt lays it out, each with its lines.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let is_modifier = |word: &str| word.starts_with("pub") || ["async", "const"].contains(&word);
    let begins = lines.iter().enumerate().filter_map(|(at, line)| {
        let (before, name) = line.split_once("fn ")?;
        before.split_whitespace().all(is_modifier).then_some((at, name.split(['(', '<']).next()?))
    });
    let length = |at: usize| {
        let indent = lines[at].len() - lines[at].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        // A body on one line, or none, as in a trait.
        let is_short = lines[at].ends_with('}') || lines[at].ends_with(';');
        if is_short { Some(1) } else { lines[at..].iter().position(|line| *line == end).map(|last| last + 1) }
    };
    begins.filter_map(|(at, name)| Some((name, length(at)?))).collect()
}

/// How long the functions of `src/` are, and how many of its types have a name of one word.
pub(super) fn figures(sources: &Sources) -> String {
    let source = || sources.iter().filter(|(path, _)| path.starts_with("src/"));
    let mut lines: Vec<_> = source()
        .flat_map(|(_, text)| {
            functions(&code_of(text)).into_iter().map(|(_, lines)| lines).collect::<Vec<_>>()
        })
        .collect();
    lines.sort_unstable();
    let at = |percent| lines[(lines.len() - 1) * percent / 100];
    let code: Vec<_> = source().map(|(_, text)| code_of(text)).collect();
    let names: Vec<_> = code.iter().flat_map(|code| types(code)).collect();
    let is_one_word = |name: &&str| name.matches(char::is_uppercase).count() == 1;
    let one_word = names.iter().filter(|name| is_one_word(name)).count();
    format!(
        "{} files, {} functions of {} lines (median), {} (90 %), {} (longest); {one_word} of {} types have a name of one word",
        source().count(),
        lines.len(),
        at(50),
        at(90),
        at(100),
        names.len()
    )
}

/// The names that more than one type of `src/` has. Commands have their `Options` each.
pub(super) fn twice(sources: &Sources) -> Vec<String> {
    let mut homes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (path, text) in
        sources.iter().filter(|(path, _)| path.starts_with("src/") && !path.starts_with("src/cli/"))
    {
        for name in types(&code_of(text)) {
            homes.entry(name.to_owned()).or_default().push(path);
        }
    }
    let twice = homes.into_iter().filter(|(_, homes)| homes.len() > 1);
    twice
        .map(|(name, homes)| {
            format!(
                "{}: the name of the type {name} is also that of one in {}",
                homes[0],
                homes[1..].join(", ")
            )
        })
        .collect()
}

/// The types that the code declares; those of traits' implementations are none of its own.
fn types(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
        let mut words = words.take(2);
        let (kind, name) = (words.next()?, words.next()?);
        let is_type = ["struct", "enum", "trait"].contains(&kind) || kind == "type" && !line.starts_with(' ');
        let name = name.split(|c: char| !c.is_alphanumeric()).next()?;
        (is_type && !name.is_empty()).then_some(name)
    })
}
