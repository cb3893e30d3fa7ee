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
    infer::Shape,
    sample::{KEY, Kind, Kinds, MAX_DEPTH, MAX_FIELDS, Objects, Sample, Seen, Tally},
    toml_comments::{Line, Remarks, TableRemarks},
};
use crate::model::{
    change::Namespace,
    table::{ColumnType, Reading, Scalar},
};

/// The names of MongoDB's types, as its `$type` has them.
const TYPES: [(Kinds, &str); 13] = [
    (Kinds::of(&[Kind::Int32]), "int"),
    (Kinds::of(&[Kind::ShortLong, Kind::Long]), "long"),
    (Kinds::DOUBLES, "double"),
    (Kinds::of(&[Kind::Decimal]), "decimal"),
    (Kinds::of(&[Kind::Text]), "string"),
    (Kinds::of(&[Kind::Hex]), "string like an ObjectId"),
    (Kinds::of(&[Kind::ObjectId]), "objectId"),
    (Kinds::of(&[Kind::Boolean]), "bool"),
    (Kinds::of(&[Kind::Date]), "date"),
    (Kinds::of(&[Kind::Uuid, Kind::Bytes]), "binData"),
    (Kinds::of(&[Kind::Object, Kind::DeepObject]), "object"),
    (Kinds::of(&[Kind::Array, Kind::InnerArray]), "array"),
    (Kinds::of(&[Kind::Other]), "other BSON types"),
];

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

fn describe(sample: &Sample, spec: &MappingSpec, documents: u64) -> Remarks {
    let mut used = Used::default();
    let tables = spec.tables().map(|table| {
        let mut description = Description {
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
    Remarks { head: head(sample, spec, documents, &used), key: key.into_iter().collect(), tables }
}

/// What the comments make use of, and so is to be explained.
#[derive(Default)]
struct Used {
    shares: bool,
    misfits: bool,
    notes: bool,
    proposals: bool,
    nameless: bool,
}

fn head(sample: &Sample, spec: &MappingSpec, documents: u64, used: &Used) -> Vec<String> {
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
struct Description<'a> {
    spec: &'a MappingSpec,
    table: &'a TableSpec,
    rows: usize,
    remarks: TableRemarks,
    /// The scope of the table's columns, those that are proposed included.
    names: Names,
    /// How many fields have no column because the table is full.
    left_out: usize,
    used: &'a mut Used,
}

impl Description<'_> {
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
            self.remarks.lines.push(Line::Note(more));
        }
    }

    /// What is said of the array whose elements are the rows; the last on the path counts.
    fn array(&mut self, rows: usize, seen: &Seen, elements: &Seen) {
        let arrays = seen.kinds.of(Kind::Array);
        let mut said = Said::default();
        said.presence(seen, rows);
        said.types(types(&seen.kinds, |kind| if kind == Kind::Array { "" } else { IN_EXTRA }));
        said.say(format!(
            "{:.1} elements on average",
            f64::from(elements.count()) / f64::from(arrays.max(1))
        ));
        let of_elements = types(&elements.kinds, |kind| if kind == Kind::Object { "" } else { IN_EXTRA });
        said.types(of_elements.map(|types| format!("elements {types}")));
        self.remarks.head = vec![said.finish(self.used)];
    }

    fn fields(&mut self, way: &mut Vec<Segment>, objects: &Objects) {
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

    fn field(&mut self, way: &mut Vec<Segment>, seen: &Seen) {
        let path = FieldPath::new(way.clone());
        if let Some(column) = self.table.columns.iter().find(|column| column.path == path) {
            let remark = self.column(seen, column.ty);
            return self.remarks.lines.push(Line::Column(column.clone(), remark));
        }
        match seen.shape() {
            Shape::Flat(objects) if objects.width() > 0 => {
                let kinds = types(&seen.kinds, |kind| if kind == Kind::Object { "" } else { IN_EXTRA });
                if let Some(kinds) = kinds {
                    self.used.misfits = true;
                    self.remarks.lines.push(Line::Note(format!("{}: {kinds}", shown(&path))));
                }
                self.fields(way, objects);
            }
            Shape::Column(_) => self.left_out += 1,
            Shape::Table(_) if self.has_table(&path) => {}
            Shape::Table(_) => {
                let full = format!("{}: no table, there are {MAX_TABLES}; _extra holds it", shown(&path));
                self.remarks.lines.push(Line::Note(full));
            }
            Shape::Flat(_) | Shape::Extra => self.proposal(path, seen),
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
    fn column(&mut self, seen: &Seen, ty: ColumnType) -> String {
        let mut said = Said::default();
        said.presence(seen, self.rows);
        match &seen.elements {
            _ if ty.scalar == Scalar::Jsonb => said.types(map_of(seen)),
            Some(elements) if ty.array => {
                said.types(types(&seen.kinds, |kind| if kind == Kind::Array { "" } else { IN_EXTRA }));
                let of_elements = types(&elements.kinds, |kind| fate(kind, ty));
                said.types(of_elements.map(|types| format!("elements {types}")));
            }
            _ => said.types(types(&seen.kinds, |kind| fate(kind, ty))),
        }
        said.finish(self.used)
    }

    /// A line for a field that has no column.
    fn proposal(&mut self, path: FieldPath, seen: &Seen) {
        let mut said = Said::default();
        let only = seen.kinds.kinds();
        said.presence(seen, self.rows);
        let ty = match &seen.elements {
            _ if only.is_empty() => ColumnType::scalar(Scalar::Text),
            _ if only.are_among(Kinds::of(&[Kind::DeepObject])) => {
                said.say(format!("more than {MAX_DEPTH} levels deep"));
                ColumnType::scalar(Scalar::Jsonb)
            }
            _ if only.are_among(Kinds::of(&[Kind::Object])) => {
                said.say("always empty".to_owned());
                ColumnType::scalar(Scalar::Jsonb)
            }
            Some(elements) if only.are_among(Kinds::of(&[Kind::Array])) => {
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
        self.remarks.lines.push(Line::Proposed(ColumnSpec { name, path, ty, mask: None, was: None }, remark));
    }
}

const IN_EXTRA: &str = " (in _extra)";
const ALSO_IN_EXTRA: &str = " (also in _extra)";

/// What is said in one comment.
#[derive(Default)]
struct Said {
    parts: Vec<String>,
    share: bool,
}

impl Said {
    fn say(&mut self, part: String) {
        self.parts.push(part);
    }

    fn types(&mut self, types: Option<String>) {
        self.parts.extend(types);
    }

    /// How many of `rows` rows have the field, and how many of its values are null.
    fn presence(&mut self, seen: &Seen, rows: usize) {
        let count = usize::try_from(seen.count()).unwrap_or(usize::MAX);
        let nulls = usize::try_from(seen.nulls).unwrap_or(usize::MAX);
        if count < rows {
            self.share = true;
            self.say(format!("in {}", percent(count, rows)));
        }
        match nulls {
            0 => {}
            _ if nulls == count => self.say("always null".to_owned()),
            _ => self.say(format!("{} null", percent(nulls, count))),
        }
    }

    fn finish(self, used: &mut Used) -> String {
        let text = self.parts.join("; ");
        used.shares |= self.share;
        used.misfits |= text.contains(IN_EXTRA);
        used.notes |= text.contains(ALSO_IN_EXTRA);
        text
    }
}

/// What becomes of a value in a column: nothing to be said, or that `extra` holds it.
fn fate(kind: Kind, ty: ColumnType) -> &'static str {
    if !Kinds::of_column(ty.scalar).has(kind) {
        return IN_EXTRA;
    }
    let reads_back = match ty.scalar {
        Scalar::Bigint if ty.reading == Reading::Long => kind != Kind::Int32,
        Scalar::Bigint => kind != Kind::ShortLong,
        Scalar::Double if ty.reading == Reading::Number => matches!(kind, Kind::Int32 | Kind::Double),
        Scalar::Double => Kinds::DOUBLES.has(kind),
        Scalar::Numeric => kind == Kind::Decimal,
        Scalar::Text => kind != Kind::Hex,
        Scalar::Boolean
        | Scalar::Integer
        | Scalar::Bytea
        | Scalar::Uuid
        | Scalar::Timestamptz
        | Scalar::Jsonb => true,
    };
    if reads_back { "" } else { ALSO_IN_EXTRA }
}

/// The types that there are, if that is worth saying: there are several, or of one it is to be said what becomes of it.
fn types(tally: &Tally, fate: impl Fn(Kind) -> &'static str) -> Option<String> {
    let several = TYPES.iter().filter(|(kinds, _)| tally.among(*kinds) > 0).count() > 1;
    let fated = Kind::ALL.into_iter().any(|kind| tally.of(kind) > 0 && !fate(kind).is_empty());
    (several || fated).then(|| shares(tally, fate))
}

/// `97% string, 3% int (in _extra)`: the commonest first.
fn shares(tally: &Tally, fate: impl Fn(Kind) -> &'static str) -> String {
    let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let mut types: Vec<(u32, &str, &str)> = Vec::new();
    for (kinds, name) in TYPES {
        let met = || Kind::ALL.into_iter().filter(|&kind| kinds.has(kind) && tally.of(kind) > 0);
        let mut fates: Vec<_> = met().map(&fate).collect();
        fates.dedup();
        for fate_of in fates {
            let sum = met().filter(|&kind| fate(kind) == fate_of).map(|kind| tally.of(kind)).sum();
            types.push((sum, name, fate_of));
        }
    }
    types.sort_by_key(|&(sum, ..)| std::cmp::Reverse(sum));
    let total = count(tally.total());
    let share =
        |(sum, name, fate): &(u32, &str, &str)| format!("{} {name}{fate}", percent(count(*sum), total));
    types.iter().map(share).collect::<Vec<_>>().join(", ")
}

/// The column for the commonest kind of value.
fn commonest(tally: &Tally) -> ColumnType {
    let family = Kinds::FAMILIES.into_iter().rev().max_by_key(|&family| tally.among(family));
    let kinds = family.map(|family| family.and(tally.kinds()));
    kinds.and_then(|kinds| tally.column(kinds)).unwrap_or(ColumnType::scalar(Scalar::Jsonb))
}

/// Why objects are kept whole, if the values are such.
fn map_of(seen: &Seen) -> Option<String> {
    let objects = seen.elements.as_ref().map_or(&seen.objects, |elements| &elements.objects);
    let keys = match objects.width() {
        0 => return None,
        MAX_FIELDS => format!("over {}", MAX_FIELDS - 1),
        keys => keys.to_string(),
    };
    let of = if seen.elements.is_some() { "its objects are maps" } else { "a map" };
    Some(format!("{of}: {keys} different keys"))
}

fn percent(part: usize, whole: usize) -> String {
    let whole = whole.max(1);
    match (part.min(whole) * 200 / whole).div_ceil(2) {
        100 if part >= whole => "all".to_owned(),
        0 | 1 if part * 100 < whole => "<1%".to_owned(),
        100 if part < whole => ">99%".to_owned(),
        percent => format!("{percent}%"),
    }
}

/// `12,345`.
fn grouped(count: u64) -> String {
    match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", grouped(count / 1000), count % 1000),
    }
}

/// A path in a comment: on one line.
fn shown(path: &FieldPath) -> String {
    path.to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Document, RawDocumentBuf, doc, oid::ObjectId};
    use proptest::prelude::*;

    use super::*;
    use crate::schema::evolve::arbitrary::documents;

    fn file(documents: &[Document]) -> (MappingSpec, String) {
        let mut sample = Sample::new();
        for document in documents {
            sample.observe(&RawDocumentBuf::try_from(document).unwrap());
        }
        let namespace = Namespace::new("shop", "users");
        let expected = sample.spec(&namespace, &mut Names::new());
        let (spec, text) = sample.mapping_file(&namespace, documents.len() as u64, &mut Names::new());
        assert_eq!(spec, expected);
        assert_eq!(MappingSpec::parse(&text, "users.toml").expect(&text), spec, "{text}");
        let uncommented = MappingSpec::parse(&uncommented(&text), "users.toml").expect(&text);
        assert!(
            uncommented
                .tables()
                .zip(spec.tables())
                .all(|(all, some)| all.columns.len() >= some.columns.len())
        );
        (spec, text)
    }

    /// The file with all that it proposes.
    fn uncommented(text: &str) -> String {
        let is_proposal = |line: &str| line.starts_with("# ") && line.contains(" = { path = ");
        let line = |line: &str| if is_proposal(line) { line[2..].to_owned() } else { line.to_owned() };
        text.lines().map(|text| format!("{}\n", line(text))).collect()
    }

    #[test]
    fn a_file_is_as_one_would_write_it() {
        let id = ObjectId::from_bytes([7; 12]);
        let usual = |i: i32| {
            doc! {
                "_id": i, "name": "x", "total": if i % 2 == 0 { Bson::Double(0.5) } else { Bson::Int32(i) },
                "address": { "zipCode": "x" }, "lines": [{ "sku": "x", "n": 1_i64 << (i % 40) }, { "sku": "y" }],
                "none": null, "never": [], "ref": id, "mixed": if i % 4 == 0 { Bson::Int32(i) } else { "x".into() },
            }
        };
        let mut documents: Vec<_> = (1..=40).map(usual).collect();
        documents[3].insert("name", 7);
        documents[4].insert("address", "x");
        documents[5].insert("lines", vec![Bson::Int32(1)]);
        documents[6].insert("ref", id.to_hex());
        documents[7].insert("note", "x");
        documents[8].insert("scores", (0..250).map(|i| (format!("k{i}"), 1.into())).collect::<Document>());
        let (_, text) = file(&documents);
        let expected = include_str!("../../../../testdata/infer.toml");
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn an_empty_collection_has_a_file() {
        let (spec, text) = file(&[]);
        assert_eq!(spec.key().ty.sql(), "text");
        let first = "# Made by docrow infer while shop.users had no documents: _extra keeps what comes.\n";
        assert!(text.starts_with(first) && text.ends_with("\n[columns]\n"), "{text}");
    }

    /// G12: comments never hold a document's values.
    #[test]
    fn comments_hold_no_values() {
        let secret = "hunter2";
        let document = doc! {
            "_id": secret, "a": secret, "b": [secret, 1], "c": [{ "d": secret }], "e": { "f": [secret] },
        };
        let (_, text) = file(&[document, doc! { "_id": 987_654_321, "a": 987_654_321, "c": [987_654_321] }]);
        assert!(!text.contains(secret) && !text.contains("987654321"), "{text}");
        assert!(text.contains("# _id: 50% int, 50% string\n[key]\n"), "{text}");
    }

    #[test]
    fn what_is_left_out_is_said() {
        let wide: Document = (0..400).map(|i| (format!("f{i}"), i.into())).collect();
        let (_, text) = file(&[wide]);
        assert!(
            text.contains("\n# 1 more: a table gets at most 300 columns; _extra holds the rest\n"),
            "{text}"
        );
        let lists: Document = (0..101).map(|i| (format!("f{i}"), vec![doc! { "a": 1 }].into())).collect();
        let (_, text) = file(&[lists]);
        assert!(text.contains("\n# f100: no table, there are 100; _extra holds it\n"), "{text}");
        let (_, text) = file(&[doc! { "": 1 }]);
        assert!(text.contains("\n# A field whose name is empty "), "{text}");
    }

    #[test]
    fn shares_are_never_all_or_none_by_rounding() {
        let all: Vec<_> =
            [(1, 1000), (5, 1000), (10, 1000), (15, 1000), (500, 1000), (999, 1000), (1000, 1000)]
                .map(|(part, whole)| percent(part, whole))
                .into();
        assert_eq!(all, ["<1%", "<1%", "1%", "2%", "50%", ">99%", "all"]);
    }

    #[test]
    fn large_counts_are_grouped() {
        assert_eq!([0, 999, 1000, 1_020_304].map(grouped), ["0", "999", "1,000", "1,020,304"]);
    }

    proptest! {
        /// The file reads back as the mapping that it describes, and with all that it proposes it is a mapping, too.
        #[test]
        fn a_file_reads_back(documents in documents()) {
            file(&documents);
        }
    }
}
