//! `docrow explain`: what an error means, what docrow does about it by itself, and what the operator can do.

use clap::Args;
use serde_json::{Value, json};

use super::{
    outcome::CommandOutcome,
    printable::{printable, say, wrapped},
};
use crate::error::{Code, Error, Result};

/// The width of its text.
const WIDTH: usize = 96;

/// How many codes to suggest for an unknown number.
const NEAREST: usize = 3;

#[derive(Debug, Args)]
pub(super) struct ExplainOptions {
    /// The code, as DRW-1203 or 1203 [default: list all]
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(ExplainOptions { code, json }: &ExplainOptions) -> Result<CommandOutcome> {
    let asked = code.as_deref().map(|text| Code::parse(text).map_err(|number| unknown(text, number)));
    match asked.transpose()? {
        None if *json => say(json!({ "codes": Code::ALL.iter().map(document).collect::<Vec<_>>() }))?,
        None => list()?,
        Some(code) if *json => say(document(&code))?,
        Some(code) => say(explained(code))?,
    }
    Ok(CommandOutcome::Done)
}

fn document(code: &Code) -> Value {
    json!({
        "code": code.to_string(),
        "group": code.group(),
        "title": code.title(),
        "meaning": code.meaning(),
        "consequence": code.consequence(),
        "remedy": code.remedy(),
        "exit_code": code.kind().exit_code(),
    })
}

fn list() -> Result<()> {
    let mut group = None;
    for code in Code::ALL {
        if group.replace(code.group()) != Some(code.group()) {
            say(format!("\n{}", code.group()))?;
        }
        say(format!("  {code}  {}", code.title()))?;
    }
    say("\n`docrow explain CODE` shows more.")
}

fn explained(code: Code) -> String {
    let parts = [
        ("means:", code.meaning().to_owned()),
        ("docrow:", code.consequence()),
        ("to do:", code.remedy().to_owned()),
    ];
    let parts = parts.map(|(head, text)| format!("\n\n{head:9}{}", wrapped(&text, WIDTH, 9)));
    format!("{code}  {}{}", code.title(), parts.concat())
}

fn unknown(text: &str, number: Option<u16>) -> Error {
    let nearest = number.map_or_else(Vec::new, |number| Code::nearest(number, NEAREST));
    let nearest: Vec<_> =
        nearest.into_iter().map(|code| format!("{code} ({})", code.title().trim_end_matches('.'))).collect();
    let near =
        if nearest.is_empty() { String::new() } else { format!("; the nearest are {}", nearest.join(", ")) };
    let text = printable(text);
    Error::new(Code::UnknownCode, format!("there is no code {text}{near}: `docrow explain` lists all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_fits_the_screen() {
        for code in Code::ALL {
            let text = explained(*code);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
            assert!(text.starts_with(&format!("{code}  ")), "{text}");
        }
    }

    #[test]
    fn the_nearest_codes_are_named() {
        let error = unknown("1299", Some(1299)).to_string();
        assert!(error.contains("DRW-1301 (A collection pattern can't be read)"), "{error}");
        assert_eq!(unknown("x", None).to_string(), "there is no code x: `docrow explain` lists all");
    }
}
