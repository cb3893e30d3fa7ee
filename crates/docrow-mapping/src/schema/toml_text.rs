//! Names, strings and columns as a mapping file has them.

use std::fmt::Write;

use super::{ColumnSpec, Mask, ReplacedColumn};

/// A column's line in three pieces: `name`, `{ path = "…",` and `type = "…" }`.
pub(super) fn pieces(column: &ColumnSpec) -> [String; 3] {
    let ColumnSpec { name, path, ty, mask, was } = column;
    let mut rest = format!("type = {}", text(ty.sql()));
    if let Some(word) = ty.reading.word() {
        let _ = write!(rest, ", bson = {}", text(word));
    }
    match mask {
        None => {}
        Some(Mask::Sha256) => rest.push_str(", mask = \"sha256\""),
        Some(Mask::Redact) => rest.push_str(", mask = \"redact\""),
    }
    if let Some(ReplacedColumn { name, ty }) = was {
        let bson = ty.reading.word().map_or_else(String::new, |word| format!(", bson = {}", text(word)));
        let _ = write!(rest, ", was = {{ column = {}, type = {}{bson} }}", text(name), text(ty.sql()));
    }
    [key(name), format!("{{ path = {},", text(path.to_string())), format!("{rest} }}")]
}

/// A string on one line.
pub(super) fn text(value: impl AsRef<str>) -> String {
    match value.as_ref() {
        lines if lines.contains(['\n', '\r']) => key(lines),
        line => toml::Value::from(line).to_string(),
    }
}

/// A name as a key: in quotes on one line, where it needs any.
fn key(name: &str) -> String {
    let pair = toml::Table::from_iter([(name.to_owned(), true.into())]).to_string();
    pair.trim_end().trim_end_matches(" = true").to_owned()
}
