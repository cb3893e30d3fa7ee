//! TOML errors in docrow's words: file, line, key and constraint on one line, and for an unknown key the
//! nearest known one. For any struct that denies unknown fields.

use crate::error::{Code, Error};

/// The beginning of serde's message about an unknown key.
const UNKNOWN: &str = "unknown field `";

/// The word among `known` that was most likely meant by `word`, if any is similar.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |known| (strsim::damerau_levenshtein(word, known), known);
    let (distance, known) = known.into_iter().map(near).min_by_key(|&(distance, _)| distance)?;
    (distance <= 1 + known.len() / 3).then_some(known)
}

/// The error of kind `Usage` for `error`, which occurred in `text`, the content of `file`.
pub fn toml_error(file: &str, text: &str, error: &toml::de::Error) -> Error {
    let place = error.span().map_or_else(|| file.to_owned(), |span| place(file, text, span.start));
    let code = if error.message().starts_with(UNKNOWN) { Code::UnknownKey } else { Code::Syntax };
    let key = match error.span() {
        Some(span) if error.message().starts_with("invalid ") => key_at(text, span.start),
        _ => None,
    };
    let key = key.map_or_else(String::new, |key| format!("{key}: "));
    Error::new(code, format!("{place}: {key}{}", in_our_words(error.message())))
}

/// The key of the value at a byte of `text`, with its section's, if it is on that line.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let before = text.get(..offset)?;
    let (above, line) = before.rsplit_once('\n').unwrap_or(("", before));
    let (key, _) = line.split_once('=')?;
    let section = above.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let section = section.and_then(|line| line.trim_start_matches('[').split(']').next());
    Some(section.map_or_else(String::new, |section| format!("{section}.")) + key.trim())
}

/// `file:line` of a byte of `text`.
pub(super) fn place(file: &str, text: &str, offset: usize) -> String {
    let before = text.as_bytes().iter().take(offset);
    format!("{file}:{}", 1 + before.filter(|&&byte| byte == b'\n').count())
}

fn in_our_words(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (names.next(), message.starts_with(UNKNOWN)) else {
        return plain(message).replace('\n', ", ");
    };
    let known: Vec<_> = names.collect();
    match nearest(unknown, known.iter().copied()) {
        Some(meant) => format!("unknown key \"{unknown}\"; did you mean \"{meant}\"?"),
        None => format!("unknown key \"{unknown}\"; known keys are {}", known.join(", ")),
    }
}

/// The found and the expected type, in TOML's terms instead of Rust's. serde quotes a string in the wrong
/// place, which may be a URI with a password.
fn plain(message: &str) -> String {
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("the key {} is missing", key.replace('`', "\""));
    }
    let found = ["invalid type: ", "invalid value: "].iter().find_map(|kind| message.strip_prefix(kind));
    let Some((found, wanted)) = found.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return message.to_owned();
    };
    let found = if found.starts_with("string ") { "a string".to_owned() } else { found.replace('`', "") };
    format!("expected {}, found {}", in_toml(wanted), in_toml(&found))
}

/// The TOML name of a Rust type.
fn in_toml(ty: &str) -> &str {
    match ty {
        "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number, 0 or more",
        "isize" | "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "sequence" | "a sequence" => "a list",
        "map" | "a map" => "a table",
        "path string" => "a string",
        _ if ty.starts_with("struct ") => "a table",
        _ => ty,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Example {
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
        toml_error("docrow.toml", text, &toml::from_str::<Example>(text).unwrap_err()).to_string()
    }

    /// Guards the format of serde's message, from which the known keys are parsed.
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
            "docrow.toml:1: unknown key \"colour\"; known keys are include, exclude, nested"
        );
    }

    /// G12: it may be a URI in the wrong place.
    #[test]
    fn quotes_no_string() {
        assert_eq!(
            error(r#"nested = "x://u:secret\", expected \"@h""#),
            "docrow.toml:1: nested: expected a table, found a string"
        );
        assert_eq!(
            error("[nested]\nonly = \"secret\""),
            "docrow.toml:2: nested.only: expected a whole number, 0 or more, found a string"
        );
    }

    /// Users know TOML, not Rust.
    #[test]
    fn names_the_key_and_what_it_takes() {
        assert_eq!(
            error("[nested]\nonly = -1"),
            "docrow.toml:2: nested.only: expected a whole number, 0 or more, found integer -1"
        );
        assert_eq!(error("exclude = ['a']"), "docrow.toml:1: exclude: expected a string, found a list");
        assert_eq!(error("exclude = true"), "docrow.toml:1: exclude: expected a string, found boolean true");
    }

    #[test]
    fn names_file_and_line_of_other_errors() {
        assert!(
            error("include = 1").starts_with("docrow.toml:1: include: expected a string, found integer 1")
        );
        assert!(error("\n\ninclude = ").starts_with("docrow.toml:3: "), "{}", error("\n\ninclude = "));
        assert!(!error("[nested").contains('\n'));
    }
}
