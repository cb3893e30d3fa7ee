//! TOML errors in docrow's words: file, line, key and constraint on one line, and for an unknown key the
//! nearest known one. For any struct that denies unknown fields.

use crate::error::{Code, Error};

/// How serde's message about an unknown key begins.
const UNKNOWN: &str = "unknown field `";

/// The word among `known` that `word` is most likely meant to be, if any is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |known| (strsim::damerau_levenshtein(word, known), known);
    let (distance, known) = known.into_iter().map(near).min_by_key(|&(distance, _)| distance)?;
    (distance <= 1 + known.len() / 3).then_some(known)
}

/// The error of kind `Usage` for `error`, met in reading `text`, the content of `file`.
pub fn toml_error(file: &str, text: &str, error: &toml::de::Error) -> Error {
    let place = error.span().map_or_else(|| file.to_owned(), |span| place(file, text, span.start));
    let code = if error.message().starts_with(UNKNOWN) { Code::UnknownKey } else { Code::Syntax };
    Error::new(code, format!("{place}: {}", in_our_words(error.message())))
}

/// `file:line` of a byte of `text`.
pub(super) fn place(file: &str, text: &str, offset: usize) -> String {
    let before = text.as_bytes().iter().take(offset);
    format!("{file}:{}", 1 + before.filter(|&&byte| byte == b'\n').count())
}

fn in_our_words(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (names.next(), message.starts_with(UNKNOWN)) else {
        return without_string(message).replace('\n', ", ");
    };
    let known: Vec<_> = names.collect();
    match nearest(unknown, known.iter().copied()) {
        Some(meant) => format!("unknown key \"{unknown}\"; did you mean \"{meant}\"?"),
        None => format!("unknown key \"{unknown}\"; known are {}", known.join(", ")),
    }
}

/// serde quotes a string that stands where something else should, and that may be a URI with a password.
fn without_string(message: &str) -> String {
    let Some((before, rest)) = message.split_once(": string \"") else { return message.to_owned() };
    let expected = rest.rsplit_once("\", expected ").map_or("something else", |(_, expected)| expected);
    let expected = if expected.starts_with("struct ") { "a table" } else { expected };
    format!("{before}: a string, expected {expected}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Sample {
        include: Option<String>,
        exclude: Option<String>,
        nested: Option<Nested>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Nested {
        only: Option<u8>,
    }

    fn error(text: &str) -> String {
        toml_error("docrow.toml", text, &toml::from_str::<Sample>(text).unwrap_err()).to_string()
    }

    /// Guards the format of serde's message, of which the known keys are read.
    #[test]
    fn names_the_nearest_key() {
        assert_eq!(
            error("include = \"a\"\nexlude = \"b\""),
            "docrow.toml:2: unknown key \"exlude\"; did you mean \"exclude\"?"
        );
        assert_eq!(
            error("\n[nested]\nony = 1"),
            "docrow.toml:3: unknown key \"ony\"; did you mean \"only\"?"
        );
        assert_eq!(
            error("colour = 1"),
            "docrow.toml:1: unknown key \"colour\"; known are include, exclude, nested"
        );
    }

    /// G12: it may be a URI that was written in the wrong place.
    #[test]
    fn quotes_no_string() {
        assert_eq!(
            error(r#"nested = "x://u:secret\", expected \"@h""#),
            "docrow.toml:1: invalid type: a string, expected a table"
        );
        assert_eq!(
            error("[nested]\nonly = \"secret\""),
            "docrow.toml:2: invalid type: a string, expected u8"
        );
    }

    #[test]
    fn names_file_and_line_of_other_errors() {
        assert!(
            error("include = 1").starts_with("docrow.toml:1: invalid type: integer `1`, expected a string")
        );
        assert!(error("\n\ninclude = ").starts_with("docrow.toml:3: "), "{}", error("\n\ninclude = "));
        assert!(!error("[nested").contains('\n'));
    }
}
