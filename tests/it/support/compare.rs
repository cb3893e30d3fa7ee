//! The independent judge: rebuilds every document from its rows and compares it with MongoDB's.
//!
//! It shares no code with docrow, and knows only the mapping's file. A document is split into leaves
//! (`messages.0.subject` is "…"; null, `[]` and `{}` are leaves too), once from MongoDB and once from columns
//! and `_extra`. Numbers are compared by value, an ObjectId in a text column by its digits. Fields that occur
//! several times are left to the other judge. Column types that no workload has are refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use base64::{Engine, prelude::BASE64_STANDARD};
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, RawArray, RawBsonRef, RawDocument, RawDocumentBuf, Uuid,
    doc, oid::ObjectId, spec::BinarySubtype,
};
use serde::Deserialize;
use serde_json::Value;

use super::Place;

/// Documents compared at a time.
const BATCH: usize = 2000;

/// The content of a mapping file.
#[derive(Debug, Deserialize)]
pub(crate) struct Mapping {
    collection: String,
    extra: String,
    key: Key,
    document: Option<Whole>,
    #[serde(flatten)]
    root: Table,
    #[serde(default)]
    tables: Vec<Table>,
}

#[derive(Debug, Deserialize)]
struct Key {
    column: String,
    #[serde(rename = "type")]
    ty: String,
}

/// The column of document mode.
#[derive(Debug, Deserialize)]
struct Whole {
    column: String,
}

#[derive(Debug, Deserialize)]
struct Table {
    table: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    ordinals: Vec<String>,
    #[serde(default)]
    columns: BTreeMap<String, Column>,
}

#[derive(Debug, Deserialize)]
struct Column {
    path: String,
    #[serde(rename = "type")]
    ty: String,
}

impl Mapping {
    /// Reads a mapping file.
    pub(crate) fn read(text: &str) -> Self {
        toml::from_str(text).unwrap()
    }

    /// The mappings in force in `place`, except those of dropped collections whose rows are kept.
    pub(crate) async fn in_force(place: &Place) -> Vec<Self> {
        let question = "SELECT DISTINCT ON (collection) mapping FROM docrow.schemas \
            WHERE collection NOT IN (SELECT collection FROM docrow.resyncs) ORDER BY collection, version DESC";
        let rows = place.postgres().await.query(question, &[]).await.unwrap();
        rows.iter().map(|row| Self::read(row.get(0))).collect()
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&self.root).chain(&self.tables)
    }

    fn key_column<'a>(&'a self, table: &'a Table) -> &'a str {
        if table.parent.is_empty() { &self.key.column } else { &table.parent }
    }
}

impl Table {
    /// Key and row, the row as JSON, of all rows with one of the keys. Numbers that are not whole come as
    /// text, because JSON parsers may round them, and so does `jsonb`, of which a null would look like no
    /// value.
    fn question(&self, key: &str, key_type: &str) -> String {
        let texts = self.columns.iter().filter_map(|(name, column)| {
            let as_text = ["double precision", "numeric", "jsonb"];
            let array = as_text.iter().find_map(|ty| column.ty.strip_prefix(ty))?;
            Some(format!("'{}', {}::text{array}", name.replace('\'', "''"), quote(name)))
        });
        let texts: Vec<_> = texts.collect();
        format!(
            "SELECT {key}::text, (to_jsonb(t) || jsonb_build_object({texts}))::text FROM {table} t \
             WHERE {key} = ANY($1::text[]::{key_type}[])",
            key = quote(key),
            texts = texts.join(", "),
            table = quote(&self.table),
        )
    }
}

/// The number of documents in the collection, and all differences of its tables.
pub(crate) async fn compare(place: &Place, mapping: &Mapping) -> (usize, Vec<String>) {
    let postgres = place.postgres().await;
    let (database, collection) = mapping.collection.split_once('.').unwrap();
    let collection = place.client.database(database).collection::<RawDocumentBuf>(collection);
    let mut differences = Vec::new();
    let mut with_rows = HashSet::new();
    let mut rows_read = vec![0; mapping.tables.len() + 1];

    let question = format!("SELECT {}::text FROM {}", quote(&mapping.key.column), quote(&mapping.root.table));
    let keys: Vec<String> =
        postgres.query(&question, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    for keys in keys.chunks(BATCH) {
        let mut rows: HashMap<String, Rebuilt> = HashMap::new();
        for (table, read) in mapping.tables().zip(&mut rows_read) {
            let question = table.question(mapping.key_column(table), &mapping.key.ty);
            for row in postgres.query(&question, &[&keys]).await.unwrap() {
                let json = serde_json::from_str(row.get(1)).unwrap();
                rows.entry(row.get(0)).or_default().add(mapping, table, &json);
                *read += 1;
            }
        }
        let mut rebuilt: HashMap<String, (String, Rebuilt)> = HashMap::new();
        for (key, rows) in rows {
            rebuilt.insert(identity(&id_of(mapping, &key)), (key, rows));
        }
        let ids: Vec<_> = keys.iter().map(|key| id_of(mapping, key)).collect();
        let mut documents = collection.find(doc! { "_id": { "$in": ids } }).await.unwrap();
        while documents.advance().await.unwrap() {
            let document = documents.current();
            let id = id_in(document);
            if let Some((key, rows)) = rebuilt.remove(&identity(&id)) {
                let told = rows.id.clone().unwrap_or_else(|| id_of(mapping, &key));
                if exact(&told) != exact(&id) {
                    differences.push(format!("document {key}: _id is {told:?}, not {id:?}"));
                }
                rows.differences(document, |what| differences.push(format!("document {key}: {what}")));
            }
            with_rows.insert(identity(&id));
        }
        differences.extend(rebuilt.values().map(|(key, _)| format!("rows without a document: {key}")));
    }

    for (table, read) in mapping.tables().zip(rows_read) {
        let count = format!("SELECT count(*) FROM {}", quote(&table.table));
        let count: i64 = postgres.query_one(&count, &[]).await.unwrap().get(0);
        if count != read {
            differences.push(format!("{}: {} rows too many", table.table, count - read));
        }
    }
    let mut documents = 0;
    let mut ids = collection.find(doc! {}).projection(doc! { "_id": 1 }).await.unwrap();
    while ids.advance().await.unwrap() {
        documents += 1;
        let id = identity(&id_in(ids.current()));
        if !with_rows.contains(&id) {
            differences.push(format!("document without rows: {id}"));
        }
    }
    (documents, differences)
}

fn id_in(document: &RawDocument) -> Bson {
    Bson::try_from(document.get("_id").unwrap().unwrap()).unwrap()
}

/// A document as its rows represent it.
#[derive(Default)]
struct Rebuilt {
    /// The `_id`, if the key column does not represent it exactly, and if documents are kept whole.
    id: Option<Bson>,
    leaves: BTreeMap<String, String>,
    /// Objects that have a row: they are at least `{}`.
    objects: BTreeSet<String>,
    doubts: Vec<String>,
}

impl Rebuilt {
    fn add(&mut self, mapping: &Mapping, table: &Table, row: &Value) {
        // Brackets that belong to a name are escaped in a mapping file, and nowhere else.
        let mut base = table.path.replace("\\[]", "\0");
        for ordinal in &table.ordinals {
            base = base.replacen("[]", &format!(".{}", row[ordinal].as_i64().unwrap()), 1);
        }
        let base = base.replace('\0', "[]");
        for (name, column) in &table.columns {
            let path = join(&base, &column.path.replace("\\[]", "[]"));
            let value = from_column(&column.ty, &row[name]);
            if !row[name].is_null() {
                flatten(&path, &value, &mut |path, leaf| self.say(path, leaf));
            }
        }
        let whole = mapping.document.as_ref().filter(|_| table.parent.is_empty());
        if let Some(Bson::Document(fields)) = whole.map(|whole| from_extended(&row[&whole.column])) {
            for (name, value) in fields {
                if name == "_id" {
                    self.id = Some(value);
                } else {
                    flatten(&escape(&name), &value, &mut |path, leaf| self.say(path, leaf));
                }
            }
        }
        if let Some(extra) = row.get(&mapping.extra).and_then(Value::as_object) {
            for (path, value) in extra {
                let value = from_extended(value);
                if path == "_id" {
                    self.id = Some(value);
                } else if let Some(path) = path.strip_prefix("_id.") {
                    put(self.id.as_mut().unwrap(), path, value);
                } else {
                    flatten(path, &value, &mut |path, leaf| self.say(path, leaf));
                }
            }
        }
        if !self.objects.insert(base.clone()) {
            self.doubts.push(format!("{}: the same row twice", table.table));
        }
    }

    /// Removes the values of these fields.
    fn leave_out(&mut self, names: &HashSet<String>) {
        for name in names.iter().map(|name| escape(name)) {
            let is_of = |path: &str| {
                path.strip_prefix(&name).is_some_and(|rest| {
                    let copy = rest.strip_prefix('\\').and_then(|rest| rest.chars().next());
                    rest.is_empty()
                        || rest.starts_with(['.', ' '])
                        || copy.is_some_and(|c| c.is_ascii_digit())
                })
            };
            self.leaves.retain(|path, _| !is_of(path));
            self.objects.retain(|path| !is_of(path));
            self.doubts.retain(|doubt| !is_of(doubt));
        }
    }

    /// A column and `_extra` may both contain a value, but not different ones.
    fn say(&mut self, path: String, leaf: String) {
        if self.leaves.get(&path).is_some_and(|said| *said != leaf) {
            self.doubts.push(format!("{path} has two different values"));
        }
        self.leaves.insert(path, leaf);
    }

    fn differences(mut self, document: &RawDocument, mut tell: impl FnMut(String)) {
        let several = with_several(document);
        self.leave_out(&several);
        self.objects.remove("");
        for object in self.objects {
            let inside = self.leaves.range(object.clone()..).next();
            if inside.is_none_or(|(path, _)| *path != object && !path.starts_with(&format!("{object}."))) {
                self.leaves.insert(object, "{}".to_owned());
            }
        }
        self.doubts.into_iter().for_each(&mut tell);
        let document = Document::try_from(document).unwrap();
        for (name, value) in document.into_iter().filter(|(name, _)| name != "_id" && !several.contains(name))
        {
            flatten(&escape(&name), &value, &mut |path, expected| match self.leaves.remove(&path) {
                None => tell(format!("{path} is lost: {expected}")),
                Some(found) if found != expected => tell(format!("{path} is {found}, not {expected}")),
                Some(_) => {}
            });
        }
        self.leaves.into_iter().for_each(|(path, found)| tell(format!("{path} is too much: {found}")));
    }
}

/// The fields of a document that occur several times, or hold one that does.
fn with_several(document: &RawDocument) -> HashSet<String> {
    let (mut seen, mut several) = (HashSet::new(), HashSet::new());
    for field in document {
        let (name, value) = field.unwrap();
        if !seen.insert(name.to_string()) || has_several(value) {
            several.insert(name.to_string());
        }
    }
    several
}

fn has_several(value: RawBsonRef<'_>) -> bool {
    let in_array = |array: &RawArray| array.into_iter().any(|element| has_several(element.unwrap()));
    match value {
        RawBsonRef::Document(fields) => !with_several(fields).is_empty(),
        RawBsonRef::Array(elements) => in_array(elements),
        _ => false,
    }
}

/// Splits a value into leaves.
fn flatten(path: &str, value: &Bson, say: &mut impl FnMut(String, String)) {
    match value {
        Bson::Document(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| flatten(&join(path, &escape(name)), value, say));
        }
        Bson::Array(elements) if !elements.is_empty() => {
            elements.iter().enumerate().for_each(|(i, value)| flatten(&format!("{path}.{i}"), value, say));
        }
        _ => say(path.to_owned(), leaf(value)),
    }
}

/// Puts `value` at `path` in `whole`.
fn put(whole: &mut Bson, path: &str, value: Bson) {
    let mut escaped = false;
    let end = path.find(|c| {
        let ends = c == '.' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let (name, rest) = end.map_or((path, None), |end| (&path[..end], Some(&path[end + 1..])));
    let name = name.replace("\\.", ".").replace("\\\\", "\\");
    let place = match whole {
        Bson::Document(fields) => fields.get_mut(&name).unwrap(),
        Bson::Array(elements) => &mut elements[name.parse::<usize>().unwrap()],
        other => panic!("{path} leads nowhere in {other:?}"),
    };
    match rest {
        Some(rest) => put(place, rest, value),
        None => *place = value,
    }
}

/// A value as text, equal for values that MongoDB takes for equal.
fn leaf(value: &Bson) -> String {
    match value {
        Bson::Int32(_) | Bson::Int64(_) | Bson::Double(_) | Bson::Decimal128(_) => identity(value),
        Bson::String(value) => format!("{value:?}"),
        Bson::ObjectId(value) => format!("{:?}", value.to_hex()),
        // In a `bytea` column an ObjectId is bytes, too.
        Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes }) => {
            format!("{:?}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Bson::DateTime(value) => format!("at {}", value.timestamp_millis()),
        Bson::Array(elements) if elements.is_empty() => "[]".to_owned(),
        Bson::Document(fields) if fields.is_empty() => "{}".to_owned(),
        other => format!("{other:?}"),
    }
}

/// An `_id` as text, the same for those, and only those, that MongoDB takes for one.
fn identity(id: &Bson) -> String {
    match id {
        Bson::Int32(value) => scientific(&value.to_string()),
        Bson::Int64(value) => scientific(&value.to_string()),
        Bson::Double(value) if value.fract() == 0.0 => scientific(&format!("{value:.0}")),
        // All the digits that a double can have.
        Bson::Double(value) => scientific(&format!("{value:.1074}")),
        Bson::Decimal128(value) => scientific(&value.to_string().replace("Infinity", "inf")),
        Bson::String(value) | Bson::Symbol(value) => format!("{value:?}"),
        Bson::Document(fields) => {
            let field = |(name, value): (&String, &Bson)| format!("{name:?}: {}", identity(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        Bson::Array(elements) => format!("{:?}", elements.iter().map(identity).collect::<Vec<_>>()),
        other => format!("{other:?}"),
    }
}

/// A number in its one shortest form, `-25e-1`.
fn scientific(number: &str) -> String {
    let (mantissa, exponent) = number.split_once('E').unwrap_or((number, "0"));
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    if !mantissa.starts_with(|c: char| c.is_ascii_digit()) {
        return number.to_owned();
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let short = digits.trim_end_matches('0');
    let exponent =
        exponent.parse::<i64>().unwrap() + (digits.len() - short.len()) as i64 - fraction.len() as i64;
    let short = short.trim_start_matches('0');
    if short.is_empty() { "0".to_owned() } else { format!("{sign}{short}e{exponent}") }
}

/// An `_id` with its type; of integers the width is not kept, and of fields their order, which the key column
/// shows.
fn exact(id: &Bson) -> String {
    match id {
        Bson::Document(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().map(|(name, value)| (name, exact(value))).collect();
            format!("{sorted:?}")
        }
        Bson::Array(elements) => format!("{:?}", elements.iter().map(exact).collect::<Vec<_>>()),
        Bson::Int32(value) => format!("{:?}", Bson::Int64((*value).into())),
        other => format!("{other:?}"),
    }
}

fn from_column(ty: &str, value: &Value) -> Bson {
    if let (Some(ty), Value::Array(elements)) = (ty.strip_suffix("[]"), value) {
        return Bson::Array(elements.iter().map(|element| from_column(ty, element)).collect());
    }
    match (ty, value) {
        (_, Value::Null) => Bson::Null,
        ("bigint" | "integer", Value::Number(value)) => Bson::Int64(value.as_i64().unwrap()),
        ("double precision", Value::String(value)) => Bson::Double(value.parse().unwrap()),
        ("numeric", Value::String(value)) => Bson::Decimal128(value.parse().unwrap()),
        ("uuid", Value::String(value)) => Bson::Binary(value.parse::<Uuid>().unwrap().into()),
        ("bytea", Value::String(value)) => {
            let digits = value.strip_prefix("\\x").unwrap();
            let bytes =
                (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).unwrap());
            Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: bytes.collect() })
        }
        ("jsonb", Value::String(text)) => from_extended(&serde_json::from_str(text).unwrap()),
        ("boolean", Value::Bool(value)) => Bson::Boolean(*value),
        ("text", Value::String(value)) => Bson::String(value.clone()),
        ("timestamptz", Value::String(value)) => Bson::DateTime(moment(value)),
        _ => panic!("a {ty} column that holds {value} is more than this comparison knows"),
    }
}

/// A time in UTC as PostgreSQL writes it in JSON, whatever the year.
pub(crate) fn moment(text: &str) -> DateTime {
    let (text, before) = text.strip_suffix(" BC").map_or((text, false), |text| (text, true));
    let (date, time) = text.trim_end_matches("+00:00").split_once('T').unwrap();
    let date: Vec<i64> = date.split('-').map(|part| part.parse().unwrap()).collect();
    let time: Vec<&str> = time.split([':', '.']).collect();
    let part = |at: usize| time[at].parse::<i64>().unwrap();
    let millis = time.get(3).map_or(0, |digits| format!("{digits:0<3}")[..3].parse().unwrap());
    let year = if before { 1 - date[0] } else { date[0] };
    // Days since 1970 by counting from March, in cycles of 400 years.
    let (year, month) = if date[1] > 2 { (year, date[1] - 3) } else { (year - 1, date[1] + 9) };
    let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    let day = of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + (month * 153 + 2) / 5 + date[2] - 1;
    let days = cycle * 146_097 + day - 719_468;
    DateTime::from_millis((((days * 24 + part(0)) * 60 + part(1)) * 60 + part(2)) * 1000 + millis)
}

/// A value in Extended JSON, or in docrow's own form where that can't say it.
fn from_extended(json: &Value) -> Bson {
    match json {
        Value::Array(elements) => Bson::Array(elements.iter().map(from_extended).collect()),
        Value::Object(fields) => match fields.iter().next() {
            Some((name, value)) if name == "$docrow" => own_form(value),
            Some((name, _)) if name.starts_with('$') => serde_json::from_value(json.clone()).unwrap(),
            _ => Bson::Document(
                fields.iter().map(|(name, value)| (name.clone(), from_extended(value))).collect(),
            ),
        },
        Value::Number(number) if number.is_f64() => Bson::Double(number.as_f64().unwrap()),
        other => serde_json::from_value(other.clone()).unwrap(),
    }
}

fn own_form(json: &Value) -> Bson {
    let (form, value) = json.as_object().unwrap().iter().next().unwrap();
    let bytes = BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    match &**form {
        "string" => Bson::String(String::from_utf8(bytes).unwrap()),
        "double" => Bson::Double(f64::from_le_bytes(bytes.try_into().unwrap())),
        "decimal" => Bson::Decimal128(Decimal128::from_bytes(bytes.try_into().unwrap())),
        "document" => Bson::Document(Document::from_reader(&*bytes).unwrap()),
        form => panic!("a value in the form {form} is more than this comparison knows"),
    }
}

/// The `_id` that a key column shows.
fn id_of(mapping: &Mapping, key: &str) -> Bson {
    match (&*mapping.key.ty, key) {
        ("bigint" | "integer", _) => Bson::Int64(key.parse().unwrap()),
        ("uuid", _) => Bson::Binary(key.parse::<Uuid>().unwrap().into()),
        // A `Value` keeps the fields in their order.
        ("text", "null" | "true" | "false") => serde_json::from_str(key).unwrap(),
        ("text", _) if key.starts_with(['{', '"']) => from_extended(&serde_json::from_str(key).unwrap()),
        ("text", _) => ObjectId::parse_str(key).map_or_else(|_| Bson::String(key.to_owned()), Bson::ObjectId),
        (ty, _) => panic!("a key of type {ty} is more than this comparison knows"),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace('.', "\\.")
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
