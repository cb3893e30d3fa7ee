//! `docrow dead-letters`: lists, shows, retries and discards the documents that could not be written.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::{Args, Subcommand};
use indicatif::HumanCount;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    outcome::CommandOutcome,
    printable::{fitted, printable, say, unprintable},
};
use crate::{
    config::TargetConfig,
    error::{Code, Error, Result},
    mapping::document_json,
    shown,
    shutdown::Shutdown,
    sink::{
        Target,
        metadata::{
            dead_letter_admin::{DeadLetterAdmin, LetterChoice, LetterGroup, StoredLetter},
            runner::PipelineRunner,
        },
    },
};

/// How long to wait for the outcome of a retry.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum LetterAction {
    /// List the latest dead letters, and the counts by collection and reason
    List {
        /// Only one collection, as database.collection
        #[arg(long, value_name = "NS")]
        collection: Option<String>,
        /// How many to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Show one dead letter in full, with the document in canonical Extended JSON
    Show {
        /// Its number, as listed
        id: i64,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Write the documents in their current state; run it once the cause is fixed
    Retry(LetterSelection),
    /// Delete dead letters; the documents have no rows until they change
    Discard(LetterSelection),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct LetterSelection {
    /// Their numbers, as listed
    #[arg(value_name = "ID")]
    ids: Vec<i64>,
    /// All of one collection, as database.collection
    #[arg(long, value_name = "NS")]
    collection: Option<String>,
    /// All dead letters
    #[arg(long)]
    all: bool,
}

impl From<LetterSelection> for LetterChoice {
    fn from(LetterSelection { ids, collection, all }: LetterSelection) -> Self {
        match collection {
            _ if all => Self::All,
            Some(collection) => Self::Collection(collection),
            None => Self::Ids(ids),
        }
    }
}

pub(super) async fn execute(
    config: &TargetConfig,
    action: LetterAction,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let letterbox = DeadLetterAdmin::open(&target).await?;
    match action {
        LetterAction::List { collection, limit, json } => {
            let which = collection.map_or(LetterChoice::All, LetterChoice::Collection);
            let (letters, (groups, total)) = match letterbox {
                Some(letterbox) => (letterbox.list(&which, limit).await?, letterbox.groups(&which).await?),
                None => (Vec::new(), (Vec::new(), 0)),
            };
            if json { say(list_json(&letters, &groups, total)) } else { print_list(&letters, &groups, total) }
        }
        LetterAction::Show { id, json } => {
            let found = match letterbox {
                Some(letterbox) => letterbox.find(id).await?,
                None => None,
            };
            let (letter, document) = found.ok_or_else(|| none(id))?;
            let document = document.map(|bytes| document_json(&bytes).ok_or(bytes));
            if json { say(show_json(&letter, document)) } else { say(show(&letter, document)) }
        }
        LetterAction::Retry(selection) => {
            let (pipeline, which) = (target.pipeline(), selection.into());
            let Some(letterbox) = letterbox else { return nothing(&which) };
            return retry(&letterbox, pipeline, &which, shutdown).await;
        }
        LetterAction::Discard(selection) => {
            let which = selection.into();
            let Some(letterbox) = letterbox else { return nothing(&which) };
            return discard(&letterbox, &which).await;
        }
    }
    .map(|()| CommandOutcome::Done)
}

async fn retry(
    letterbox: &DeadLetterAdmin,
    pipeline: &str,
    which: &LetterChoice,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    all_there(letterbox, which).await?;
    let asked = letterbox.ask(which).await?;
    if asked.is_empty() {
        say("no dead letters to retry")?;
        return Ok(CommandOutcome::Done);
    }
    let count = asked.len();
    let runner = match letterbox.runner().await? {
        PipelineRunner::Process(runner) => runner,
        PipelineRunner::Nobody => {
            say(format!("no process runs pipeline {pipeline}: the next `docrow run` retries {count}"))?;
            return Ok(CommandOutcome::Done);
        }
        PipelineRunner::Unheard(runner) => {
            say(format!(
                "the process that ran pipeline {pipeline} ({runner}) is not heard of: it retries {count} \
                 once it reaches PostgreSQL, or else the next `docrow run` does"
            ))?;
            return Ok(CommandOutcome::Done);
        }
    };
    say(format!("asked the docrow that runs pipeline {pipeline} ({runner}) to retry {count}"))?;
    let asked = LetterChoice::Ids(asked);
    let deadline = Instant::now() + PATIENCE;
    let mut waiting = letterbox.waiting(&asked).await?;
    while waiting.live > 0 && Instant::now() < deadline && !shutdown.is_requested() {
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            () = sleep(POLL) => {}
        }
        waiting = letterbox.waiting(&asked).await?;
    }
    let (groups, left) = letterbox.groups(&asked).await?;
    let left = usize::try_from(left).unwrap_or(0);
    say(format!("{} written, or deleted in MongoDB", count.saturating_sub(left)))?;
    if left == 0 {
        return Ok(CommandOutcome::Done);
    }
    if waiting.live > 0 {
        say(format!("{} not retried yet: `docrow dead-letters list` shows when they are", waiting.live))?;
    }
    if waiting.stopped > 0 {
        let why = "their collection is stopped or paused, `docrow status` says why";
        say(format!("{} not retried until it resumes: {why}", waiting.stopped))?;
    }
    print_groups(&groups, "still dead letters").map_err(unprintable)?;
    Ok(CommandOutcome::Finding)
}

async fn discard(letterbox: &DeadLetterAdmin, which: &LetterChoice) -> Result<CommandOutcome> {
    all_there(letterbox, which).await?;
    say(format!("{} discarded", letterbox.discard(which).await?))?;
    Ok(CommandOutcome::Done)
}

/// Errors: one of the numbers belongs to no dead letter; then nothing is done for the others either.
async fn all_there(letterbox: &DeadLetterAdmin, which: &LetterChoice) -> Result<()> {
    let LetterChoice::Ids(ids) = which else { return Ok(()) };
    let there = letterbox.existing(ids).await?;
    ids.iter().find(|id| !there.contains(id)).map_or(Ok(()), |id| Err(none(*id)))
}

/// For a pipeline without dead letters.
fn nothing(which: &LetterChoice) -> Result<CommandOutcome> {
    match which {
        LetterChoice::Ids(ids) if !ids.is_empty() => Err(none(ids.first().copied().unwrap_or_default())),
        _ => say("no dead letters").map(|()| CommandOutcome::Done),
    }
}

fn none(id: i64) -> Error {
    Error::new(
        Code::UnknownDeadLetter,
        format!("there is no dead letter {id}: `docrow dead-letters list` shows the existing ones"),
    )
}

fn print_list(letters: &[StoredLetter], groups: &[LetterGroup], total: i64) -> Result<()> {
    if total == 0 {
        return say("no dead letters");
    }
    let mut rows = vec![["id", "collection", "key", "path", "reason", "at", "retry"].map(str::to_owned)];
    for StoredLetter { id, collection, key, path, reason, at, retry_at } in letters {
        rows.push([
            id.to_string(),
            fitted(collection, 40),
            fitted(key, 40),
            fitted(path.as_deref().unwrap_or("-"), 30),
            fitted(reason, 60),
            at.clone(),
            if retry_at.is_some() { "asked" } else { "" }.to_owned(),
        ]);
    }
    print_table(&rows).map_err(unprintable)?;
    say("")?;
    print_groups(groups, "dead letters").map_err(unprintable)?;
    let shown = i64::try_from(letters.len()).unwrap_or(total);
    if shown < total {
        let total = HumanCount(total.unsigned_abs());
        say(format!(
            "\nthe latest {shown} of {total}: --limit lists more, `docrow dead-letters show ID` shows one"
        ))?;
    }
    Ok(())
}

fn print_groups(groups: &[LetterGroup], what: &str) -> io::Result<()> {
    let mut rows = vec![[what, "collection", "reason"].map(str::to_owned)];
    for LetterGroup { collection, reason, count } in groups {
        let count = HumanCount(count.unsigned_abs()).to_string();
        rows.push([count, fitted(collection, 40), fitted(reason, 100)]);
    }
    print_table(&rows)
}

/// Rows in columns, the last of them without a limit.
fn print_table<const N: usize>(rows: &[[String; N]]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut widths = [0; N];
    for (width, column) in widths.iter_mut().zip(0..) {
        *width =
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    }
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn list_json(letters: &[StoredLetter], groups: &[LetterGroup], total: i64) -> Value {
    let group = |LetterGroup { collection, reason, count }: &LetterGroup| json!({ "collection": collection, "reason": reason, "count": count });
    json!({
        "letters": letters.iter().map(letter_json).collect::<Vec<_>>(),
        "counts": groups.iter().map(group).collect::<Vec<_>>(),
        "total": total,
    })
}

/// The key, which is Extended JSON.
fn letter_json(StoredLetter { id, collection, key, path, reason, at, retry_at }: &StoredLetter) -> Value {
    let key = serde_json::from_str(key).unwrap_or_else(|_| Value::String(key.clone()));
    json!({ "id": id, "collection": collection, "key": key, "path": path, "reason": reason, "at": at, "retry_at": retry_at })
}

/// A document as text, as bytes that are no valid document, or not stored.
type Document = Option<Result<String, Vec<u8>>>;

fn show_json(letter: &StoredLetter, document: Document) -> String {
    let letter = letter_json(letter).to_string();
    // The document stays text, so its depth of nesting does not matter.
    let (name, document) = match document {
        Some(Ok(json)) => ("document", json),
        Some(Err(bytes)) => ("bson", Value::String(base64(&bytes)).to_string()),
        None => ("document", Value::Null.to_string()),
    };
    let letter = letter.strip_suffix('}').unwrap_or(&letter);
    format!("{letter},\"{name}\":{document}}}")
}

fn show(letter: &StoredLetter, document: Document) -> String {
    let StoredLetter { id, collection, key, path, reason, at, retry_at } = letter;
    let mut lines = vec![format!("dead letter {id} of {}", printable(collection))];
    let mut line = |name: &str, text: &str| lines.push(format!("{name:8}  {}", printable(text)));
    line("key", key);
    line("path", path.as_deref().map(shown::name).as_deref().unwrap_or("(the document itself, or unknown)"));
    line("reason", reason);
    line("at", at);
    if let Some(retry_at) = retry_at {
        line("retry", &format!("requested at {retry_at}"));
    }
    lines.push(match document {
        Some(Ok(json)) => indented(&printable(&json)),
        Some(Err(bytes)) => format!("document  malformed; its bytes in base64:\n{}", base64(&bytes)),
        None => "document  not stored: it may contain fields that must not leave MongoDB".to_owned(),
    });
    lines.join("\n")
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

/// JSON over several lines, without spaces; an object whose first name begins with `$`, a value that JSON
/// can't represent, stays on its line.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut inline, mut quoted, mut escaped) = (0_usize, 0_usize, false, false);
    let mut rest = json.chars();
    while let Some(c) = rest.next() {
        let after = rest.as_str();
        if quoted {
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            out.push(c);
            continue;
        }
        if matches!(c, '}' | ']') && inline == 0 {
            depth = depth.saturating_sub(1);
            if !out.ends_with(['{', '[']) {
                new_line(&mut out, depth);
            }
        }
        out.push(c);
        match c {
            '"' => quoted = true,
            ':' => out.push(' '),
            ',' if inline > 0 => out.push(' '),
            ',' => new_line(&mut out, depth),
            '{' | '[' if inline > 0 || after.starts_with("\"$") => inline += 1,
            '{' | '[' => {
                depth += 1;
                if !after.starts_with(['}', ']']) {
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => inline = inline.saturating_sub(1),
            _ => {}
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_values_stay_on_their_line() {
        let json = r#"{"_id":{"$numberInt":"1"},"a":[{"b":"x:{,}\"\\"},[],{}],"c":{"$binary":{"base64":"","subType":"00"}}}"#;
        let expected = r#"{
  "_id": {"$numberInt": "1"},
  "a": [
    {
      "b": "x:{,}\"\\"
    },
    [],
    {}
  ],
  "c": {"$binary": {"base64": "", "subType": "00"}}
}"#;
        assert_eq!(indented(json), expected);
    }
}
