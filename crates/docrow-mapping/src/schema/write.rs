//! Writes a [`MappingSpec`] as a mapping file, as if by hand.

use std::fmt::Write;

use super::{
    DocumentSpec, FieldPath, JsonForm, MappingSpec, OnDelete, OnUnfit,
    toml_comments::{FileRemarks, comments},
    toml_text::text,
};

impl MappingSpec {
    /// The mapping file that reads back as this mapping.
    pub fn to_toml(&self) -> String {
        self.to_toml_with(&FileRemarks::default())
    }

    /// The same, with remarks.
    pub(super) fn to_toml_with(&self, remarks: &FileRemarks) -> String {
        let mut out = String::new();
        comments(&mut out, &remarks.head);
        if !out.is_empty() {
            out.push('\n');
        }
        self.head(&mut out);
        out.push('\n');
        comments(&mut out, &remarks.key);
        out.push_str("[key]\n");
        let mut key = vec![("column", text(&self.key().column)), ("type", text(self.key().ty.sql()))];
        key.extend(self.key().ty.reading.word().map(|word| ("bson", text(word))));
        pairs(&mut out, &key);
        if let Some(DocumentSpec { column, json }) = self.document() {
            let json = match json {
                JsonForm::Relaxed => "relaxed",
                JsonForm::Canonical => "canonical",
            };
            out.push_str("\n[document]\n");
            pairs(&mut out, &[("column", text(column)), ("json", text(json))]);
        } else {
            out.push_str("\n[columns]\n");
            remarks.columns(&mut out, self.root(), 0);
        }
        for (number, table) in (1..).zip(self.children()) {
            out.push('\n');
            remarks.head_of(&mut out, number);
            out.push_str("[[tables]]\n");
            let mut head = vec![
                ("table", text(&table.table)),
                ("path", text(table.path.to_string())),
                ("parent", text(&table.parent)),
            ];
            if !table.ordinals.is_empty() {
                head.push(("ordinals", list(&table.ordinals)));
            }
            pairs(&mut out, &head);
            out.push_str("\n[tables.columns]\n");
            remarks.columns(&mut out, table, number);
        }
        out
    }

    fn head(&self, out: &mut String) {
        let mut head =
            vec![("collection", text(self.collection().to_string())), ("table", text(&self.root().table))];
        head.extend(self.extra().map(|extra| ("extra", text(extra))));
        match self.on_unfit() {
            OnUnfit::Extra => {}
            OnUnfit::DeadLetter => head.push(("on_unfit", text("dead_letter"))),
            OnUnfit::Fail => head.push(("on_unfit", text("fail"))),
        }
        if self.on_delete() == OnDelete::Soft {
            head.push(("on_delete", text("soft")));
        }
        if self.foreign_keys() {
            head.push(("foreign_keys", "true".to_owned()));
        }
        if !self.omit().is_empty() {
            head.push(("omit", list(self.omit().iter().map(FieldPath::to_string))));
        }
        pairs(out, &head);
    }
}

/// One line per pair, with aligned equals signs.
fn pairs(out: &mut String, pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    for (key, value) in pairs {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{key:width$} = {value}");
    }
}

fn list(values: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let values: Vec<_> = values.into_iter().map(text).collect();
    format!("[{}]", values.join(", "))
}
