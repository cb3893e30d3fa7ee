//! A mapping file as one would write it who had looked at the documents: the automatic mapping of a sample, with
//! comments on what the sample shows and the mapping does not.
//!
//! - Beside a column: how many of the table's rows have the field, if not all have; how many are null; which types its
//!   values have, if there are several, and which of them `extra` holds.
//! - A field without a column is a line that is commented out, ready to be used: one of several types, one that was
//!   always null or always empty.
//! - Counts, shares and the names of fields: never a value (G12).
//!
//! Read back, the file is exactly the mapping that the collection gets without it.

use super::{
    ColumnSpec, FieldPath, MappingSpec, Names, Segment, TableSpec,
    evolve::{MAX_COLUMNS, MAX_TABLES, columns_of},
    infer::FieldShape,
    phrases::{IN_EXTRA, Phrases, PhrasesUsed, fate, grouped, map_of, shares, types},
    sample::{KEY, KindSet, KindTally, MAX_DEPTH, Sample, SampledObjects, SampledValues, ValueKind},
    toml_comments::{FileRemarks, RemarkedLine, TableRemarks},
};
use crate::model::{
    change::Namespace,
    table::{ColumnType, Reading, Scalar},
};

impl Sample {
    /// The mapping of [`Sample::spec`], and the text of a mapping file for it. The collection has about `documents`
    /// documents.
    pub fn mapping_file(
        &self,
        collection: &Namespace,
        documents: u64,
        tables: &mut Names,
    ) -> (MappingSpec, String) {
        let spec = self.spec(collection, tables);
        let remarks = describe(self, &spec, documents);
        let text = spec.to_toml_with(&remarks);
        (spec, text)
    }
}

fn describe(sample: &Sample, spec: &MappingSpec, documents: u64) -> FileRemarks {
    let mut used = PhrasesUsed::default();
    let tables = spec.tables().map(|table| {
        let mut description = TableDescription {
            spec,
            table,
            rows: 0,
            remarks: TableRemarks::default(),
            names: columns_of(table, spec.extra()),
            left_out: 0,
            used: &mut used,
        };
        description.table(sample);
        description.remarks
    });
    let tables = tables.collect();
    let ids = types(&sample.ids, |_| "");
    let key = ids.map(|types| format!("_id: {types}"));
    FileRemarks { head: head(sample, spec, documents, &used), key: key.into_iter().collect(), tables }
}

fn head(sample: &Sample, spec: &MappingSpec, documents: u64, used: &PhrasesUsed) -> Vec<String> {
    let seen = u64::try_from(sample.len()).unwrap_or(u64::MAX);
    let name = spec.collection().to_string().escape_debug().to_string();
    let mut head = vec![match seen {
        0 => format!("Made by docrow infer while {name} had no documents: _extra keeps what comes."),
        _ if seen >= documents => {
            format!("Made by docrow infer from all documents of {name}: {}.", grouped(seen))
        }
        _ => format!(
            "Made by docrow infer from a sample of {name}: {} of about {} documents.",
            grouped(seen),
            grouped(documents)
        ),
    }];
    let reads = |reading| {
        let columns = spec.tables().flat_map(|table| &table.columns).map(|column| column.ty);
        columns.chain([spec.key().ty]).any(|ty| ty.reading == reading)
    };
    let explained = [
        (
            used.shares,
            "\"in 9%\": 9% of the documents have the field; in the table of an array, of its elements.",
        ),
        (used.misfits, "\"(in _extra)\": the column can't hold such values, _extra does."),
        (used.notes, "\"(also in _extra)\": the column holds such values, and _extra tells their type."),
        (
            reads(Reading::Number),
            "bson = \"number\": a whole number stands for an int, any other for a double.",
        ),
        (reads(Reading::Long), "bson = \"long\": every number stands for a long."),
        (
            used.proposals,
            "Fields without a column are commented out; _extra holds them. Uncomment a line to give its field a",
        ),
        (
            used.proposals,
            "column: of several types the commonest is proposed, while \"jsonb\" would hold values of all of them.",
        ),
        (used.nameless, "A field whose name is empty can't have a column; _extra holds it."),
    ];
    for (said, line) in explained {
        head.extend(said.then(|| line.to_owned()));
    }
    head
}

/// Describes one table.
struct TableDescription<'a> {
    spec: &'a MappingSpec,
    table: &'a TableSpec,
    rows: usize,
    remarks: TableRemarks,
    /// The scope of the table's columns, those that are proposed included.
    names: Names,
    /// How many fields have no column because the table is full.
    left_out: usize,
    used: &'a mut PhrasesUsed,
}

impl TableDescription<'_> {
    fn table(&mut self, sample: &Sample) {
        let mut objects = &sample.documents;
        for segment in self.table.path.segments() {
            let Some(seen) = objects.field(&segment.name) else { return };
            let elements = if segment.arrays == 0 { None } else { seen.elements.as_deref() };
            if let Some(elements) = elements {
                self.array(objects.count, seen, elements);
            }
            objects = elements.map_or(&seen.objects, |elements| &elements.objects);
        }
        self.rows = objects.count;
        self.fields(&mut Vec::new(), objects);
        if self.left_out > 0 {
            let more = self.left_out;
            let more =
                format!("{more} more: a table gets at most {MAX_COLUMNS} columns; _extra holds the rest");
            self.remarks.lines.push(RemarkedLine::Note(more));
        }
    }

    /// What is said of the array whose elements are the rows; the last on the path counts.
    fn array(&mut self, rows: usize, seen: &SampledValues, elements: &SampledValues) {
        let arrays = seen.kinds.count(ValueKind::Array);
        let mut said = Phrases::default();
        said.presence(seen, rows);
        said.types(types(&seen.kinds, |kind| if kind == ValueKind::Array { "" } else { IN_EXTRA }));
        said.say(format!(
            "{:.1} elements on average",
            f64::from(elements.count()) / f64::from(arrays.max(1))
        ));
        let of_elements =
            types(&elements.kinds, |kind| if kind == ValueKind::Object { "" } else { IN_EXTRA });
        said.types(of_elements.map(|types| format!("elements {types}")));
        self.remarks.head = vec![said.finish(self.used)];
    }

    fn fields(&mut self, way: &mut Vec<Segment>, objects: &SampledObjects) {
        let is_document = way.is_empty() && self.table.path.segments().is_empty();
        for (name, seen) in objects.fields() {
            self.used.nameless |= name.is_empty();
            if name.is_empty() || (is_document && name == KEY) {
                continue;
            }
            way.push(Segment { name: name.to_owned(), arrays: 0 });
            self.field(way, seen);
            way.pop();
        }
    }

    fn field(&mut self, way: &mut Vec<Segment>, seen: &SampledValues) {
        let path = FieldPath::new(way.clone());
        if let Some(column) = self.table.columns.iter().find(|column| column.path == path) {
            let remark = self.column(seen, column.ty);
            return self.remarks.lines.push(RemarkedLine::Column(column.clone(), remark));
        }
        match seen.shape() {
            FieldShape::Flat(objects) if objects.width() > 0 => {
                let kinds = types(&seen.kinds, |kind| if kind == ValueKind::Object { "" } else { IN_EXTRA });
                if let Some(kinds) = kinds {
                    self.used.misfits = true;
                    self.remarks.lines.push(RemarkedLine::Note(format!("{}: {kinds}", shown(&path))));
                }
                self.fields(way, objects);
            }
            FieldShape::Column(_) => self.left_out += 1,
            FieldShape::Table(_) if self.has_table(&path) => {}
            FieldShape::Table(_) => {
                let full = format!("{}: no table, there are {MAX_TABLES}; _extra holds it", shown(&path));
                self.remarks.lines.push(RemarkedLine::Note(full));
            }
            FieldShape::Flat(_) | FieldShape::Extra => self.proposal(path, seen),
        }
    }

    /// Whether the array at `path` from this table's rows has a table.
    fn has_table(&self, path: &FieldPath) -> bool {
        let mut segments = self.table.path.join(path).segments().to_vec();
        if let Some(last) = segments.last_mut() {
            last.arrays = 1;
        }
        let path = FieldPath::new(segments);
        self.spec.children().iter().any(|table| table.path == path)
    }

    /// What is said beside a column.
    fn column(&mut self, seen: &SampledValues, ty: ColumnType) -> String {
        let mut said = Phrases::default();
        said.presence(seen, self.rows);
        match &seen.elements {
            _ if ty.scalar == Scalar::Jsonb => said.types(map_of(seen)),
            Some(elements) if ty.array => {
                said.types(types(&seen.kinds, |kind| if kind == ValueKind::Array { "" } else { IN_EXTRA }));
                let of_elements = types(&elements.kinds, |kind| fate(kind, ty));
                said.types(of_elements.map(|types| format!("elements {types}")));
            }
            _ => said.types(types(&seen.kinds, |kind| fate(kind, ty))),
        }
        said.finish(self.used)
    }

    /// A line for a field that has no column.
    fn proposal(&mut self, path: FieldPath, seen: &SampledValues) {
        let mut said = Phrases::default();
        let only = seen.kinds.kinds();
        said.presence(seen, self.rows);
        let ty = match &seen.elements {
            _ if only.is_empty() => ColumnType::scalar(Scalar::Text),
            _ if only.are_among(KindSet::new(&[ValueKind::DeepObject])) => {
                said.say(format!("more than {MAX_DEPTH} levels deep"));
                ColumnType::scalar(Scalar::Jsonb)
            }
            _ if only.are_among(KindSet::new(&[ValueKind::Object])) => {
                said.say("always empty".to_owned());
                ColumnType::scalar(Scalar::Jsonb)
            }
            Some(elements) if only.are_among(KindSet::new(&[ValueKind::Array])) => {
                let kinds = elements.kinds.kinds();
                if kinds.is_empty() {
                    said.say(
                        if elements.nulls == 0 { "always empty" } else { "elements always null" }.to_owned(),
                    );
                    ColumnType { array: true, ..ColumnType::scalar(Scalar::Text) }
                } else {
                    said.say(format!("elements {}", shares(&elements.kinds, |_| "")));
                    ColumnType::scalar(Scalar::Jsonb)
                }
            }
            _ => {
                said.say(shares(&seen.kinds, |_| ""));
                commonest(&seen.kinds)
            }
        };
        self.used.proposals = true;
        let remark = said.finish(self.used);
        let name = self.names.claim(path.segments().iter().map(|segment| &*segment.name));
        self.remarks
            .lines
            .push(RemarkedLine::Proposed(ColumnSpec { name, path, ty, mask: None, was: None }, remark));
    }
}

/// The column for the commonest kind of value.
fn commonest(tally: &KindTally) -> ColumnType {
    let family = KindSet::FAMILIES.into_iter().rev().max_by_key(|&family| tally.among(family));
    let kinds = family.map(|family| family.and(tally.kinds()));
    kinds.and_then(|kinds| tally.column(kinds)).unwrap_or(ColumnType::scalar(Scalar::Jsonb))
}

/// A path in a comment: on one line.
fn shown(path: &FieldPath) -> String {
    path.to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests;
