//! `docrow explain`: what an error means, what docrow does about it by itself, and what there is to do.

use clap::Args;

use super::{
    Outcome,
    printable::{printable, say},
};
use crate::error::{Code, Error, Result};

/// How wide its text is.
const WIDTH: usize = 96;

/// How many codes are named where there is none of a number.
const NEAREST: usize = 3;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The code, as DRW-1203 or 1203 [default: list all]
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

pub(super) fn execute(Options { code }: &Options) -> Result<Outcome> {
    match code.as_deref() {
        None => list()?,
        Some(text) => say(explained(Code::parse(text).map_err(|number| unknown(text, number))?))?,
    }
    Ok(Outcome::Done)
}

fn list() -> Result<()> {
    let mut group = None;
    for code in Code::ALL {
        if group.replace(code.group()) != Some(code.group()) {
            say(format!("\n{}", code.group()))?;
        }
        say(format!("  {code}  {}", code.title()))?;
    }
    say("\n`docrow explain CODE` says more.")
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

/// `text` in lines of at most `width`, of which all but the first begin after `indent`.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let (mut out, mut column) = (String::new(), indent);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > width {
            out.push_str(&format!("\n{:indent$}", ""));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

fn unknown(text: &str, number: Option<u16>) -> Error {
    let nearest = number.map_or_else(Vec::new, |number| Code::nearest(number, NEAREST));
    let nearest: Vec<_> =
        nearest.into_iter().map(|code| format!("{code} ({})", code.title().trim_end_matches('.'))).collect();
    let near =
        if nearest.is_empty() { String::new() } else { format!("; near it are {}", nearest.join(", ")) };
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
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("a bc def", 7, 2), "a bc\n  def");
        assert_eq!(wrapped("abcdefgh i", 7, 2), "abcdefgh\n  i");
    }

    #[test]
    fn the_nearest_codes_are_named() {
        let error = unknown("1299", Some(1299)).to_string();
        assert!(error.contains("DRW-1301 (A pattern for collections can't be read)"), "{error}");
        assert_eq!(unknown("x", None).to_string(), "there is no code x: `docrow explain` lists all");
    }
}
