//! Writes a [`MappingSpec`] as a mapping file, the way one would by hand.

use std::fmt::Write;

use super::{ColumnSpec, MappingSpec};

impl MappingSpec {
    /// The mapping file that reads back as this mapping.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let collection = self.collection().to_string();
        pairs(
            &mut out,
            &[
                ("collection", text(&collection)),
                ("table", text(&self.root().table)),
                ("extra", text(self.extra().unwrap_or_default())),
            ],
        );
        out.push_str("\n[key]\n");
        pairs(&mut out, &[("column", text(&self.key().column)), ("type", text(self.key().ty.sql()))]);
        out.push_str("\n[columns]\n");
        columns(&mut out, &self.root().columns);
        for table in self.children() {
            out.push_str("\n[[tables]]\n");
            let mut head = vec![
                ("table", text(&table.table)),
                ("path", text(table.path.to_string())),
                ("parent", text(&table.parent)),
            ];
            if !table.ordinals.is_empty() {
                let names: Vec<_> = table.ordinals.iter().map(text).collect();
                head.push(("ordinals", format!("[{}]", names.join(", "))));
            }
            pairs(&mut out, &head);
            out.push_str("\n[tables.columns]\n");
            columns(&mut out, &table.columns);
        }
        out
    }
}

fn columns(out: &mut String, columns: &[ColumnSpec]) {
    let pair = |column: &ColumnSpec| {
        let (path, ty) = (text(column.path.to_string()), text(column.ty.sql()));
        (key(&column.name), format!("{{ path = {path}, type = {ty} }}"))
    };
    let rows: Vec<_> = columns.iter().map(pair).collect();
    let rows: Vec<_> = rows.iter().map(|(name, value)| (&**name, value.clone())).collect();
    pairs(out, &rows);
}

/// One line a pair, the equals signs below each other.
fn pairs(out: &mut String, pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    for (key, value) in pairs {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{key:width$} = {value}");
    }
}

fn text(value: impl AsRef<str>) -> String {
    toml::Value::from(value.as_ref()).to_string()
}

fn key(name: &str) -> String {
    let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { name.to_owned() } else { text(name) }
}
