//! Checks mapping files: from the text to a [`MappingSpec`], which can't be wrong.
//!
//! Errors name the file, the line, the key and the constraint. Nothing in the file is ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    ColumnSpec, DocumentSpec, FieldPath, JsonForm, KeySpec, MAX_NAME, MappingSpec, Mask, Names, OnDelete,
    OnUnfit, ReplacedColumn, TableSpec, nearest,
    path_conflicts::PathLayout,
    toml_error::{place, toml_error},
};
use crate::{
    error::{Code, Error, Result},
    model::{
        change::Namespace,
        table::{ColumnType, DELETED_AT, Reading, Scalar},
    },
};

/// The maximum number of columns of a PostgreSQL table (`MaxHeapAttributeNumber`).
const MAX_COLUMNS: usize = 1600;

/// The default name of the whole document's column.
const DOCUMENT: &str = "doc";

/// A mapping file's content: a mapping, and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenMapping {
    /// The mapping.
    pub spec: MappingSpec,
    /// Whether the collection may be missing.
    pub is_optional: bool,
}

impl WrittenMapping {
    /// Parses a mapping file. Errors are of kind `Usage` and name `file`, the line, the key and the
    /// constraint.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let raw: RawSpec = toml::from_str(text).map_err(|e| toml_error(file, text, &e))?;
        let is_optional = raw.optional;
        Ok(Self { spec: SpecReader { file, text }.spec(raw)?, is_optional })
    }

    /// The collection that `text` maps, if it resembles a mapping file.
    pub fn collection_of(text: &str) -> Option<String> {
        let table: toml::Table = text.parse().ok()?;
        table.get("collection")?.as_str().map(str::to_owned)
    }
}

impl MappingSpec {
    /// As [`WrittenMapping::parse`].
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        WrittenMapping::parse(text, file).map(|written| written.spec)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    collection: Spanned<String>,
    /// Only in mapping files: it is not part of the mapping.
    #[serde(default)]
    optional: bool,
    table: Spanned<String>,
    extra: Option<Spanned<String>>,
    on_unfit: Option<Spanned<String>>,
    on_delete: Option<Spanned<String>>,
    #[serde(default)]
    foreign_keys: bool,
    #[serde(default)]
    omit: Vec<Spanned<String>>,
    key: RawKey,
    document: Option<Spanned<RawDocument>>,
    #[serde(default)]
    columns: RawColumns,
    #[serde(default)]
    tables: Vec<RawTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKey {
    column: Spanned<String>,
    #[serde(rename = "type")]
    ty: Spanned<String>,
    bson: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDocument {
    column: Option<Spanned<String>>,
    json: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    table: Spanned<String>,
    path: Spanned<String>,
    parent: Spanned<String>,
    #[serde(default)]
    ordinals: Vec<Spanned<String>>,
    #[serde(default)]
    columns: RawColumns,
}

type RawColumns = BTreeMap<String, Spanned<RawColumn>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawColumn {
    path: Spanned<String>,
    #[serde(rename = "type")]
    ty: Spanned<String>,
    bson: Option<Spanned<String>>,
    mask: Option<Spanned<String>>,
    /// Only in stored mappings: docrow writes it while it widens a column.
    was: Option<RawKey>,
}

/// Converts the text to a mapping, and knows the positions in the text.
struct SpecReader<'a> {
    file: &'a str,
    text: &'a str,
}

impl SpecReader<'_> {
    fn spec(&self, raw: RawSpec) -> Result<MappingSpec> {
        let RawSpec { collection, table, extra, on_unfit, on_delete, foreign_keys, omit, key, .. } = raw;
        let on_unfit = self.on_unfit(on_unfit.as_ref())?;
        let on_delete = self.on_delete(on_delete.as_ref())?;
        if extra.is_none() && on_unfit != OnUnfit::Fail {
            let constraint =
                "set extra = \"_extra\": a mapping without this column must have on_unfit = \"fail\"";
            return Err(self.error(&table, "extra", constraint).with_code(Code::MappingWithoutExtra));
        }
        let namespace = Namespace::parse(collection.get_ref())
            .ok_or_else(|| self.error(&collection, "collection", "must be \"database.collection\""))?;

        let mut table_names = Names::new();
        let mut layout = PathLayout::default();
        let mut names = Names::of_columns();
        if on_delete == OnDelete::Soft {
            names.reserve(DELETED_AT);
        }
        let root = self.name(&table, "table", &mut table_names)?;
        let parent = self.name(&key.column, "key.column", &mut names)?;
        let extra = extra.map(|extra| self.name(&extra, "extra", &mut names)).transpose()?;
        let key = KeySpec { column: parent.clone(), ty: self.key_type(&key)? };
        let document = raw.document.map(|raw| self.document(raw, &mut names)).transpose()?;
        if document.is_some() {
            self.alone(&raw.columns, &raw.tables)?;
        }
        let path = FieldPath::default();
        let columns = self.columns("columns", raw.columns, &path, &mut names, &mut layout)?;
        let special = [extra.is_some(), on_delete == OnDelete::Soft, document.is_some()];
        self.width(&table, 1 + special.into_iter().map(usize::from).sum::<usize>() + columns.len())?;
        let children = raw.tables.into_iter().map(|raw| self.table(raw, &mut table_names, &mut layout));
        let children = children.collect::<Result<_>>()?;
        let omit = omit.iter().map(|path| self.omitted(path, &mut layout)).collect::<Result<_>>()?;
        let root = TableSpec { table: root, path, parent, ordinals: Vec::new(), columns };
        Ok(MappingSpec {
            collection: namespace,
            extra,
            on_unfit,
            on_delete,
            foreign_keys,
            document,
            omit,
            key,
            root,
            children,
        })
    }

    fn on_unfit(&self, raw: Option<&Spanned<String>>) -> Result<OnUnfit> {
        let known =
            [("extra", OnUnfit::Extra), ("dead_letter", OnUnfit::DeadLetter), ("fail", OnUnfit::Fail)];
        Ok(self.choice("on_unfit", raw, &known)?.unwrap_or_default())
    }

    fn on_delete(&self, raw: Option<&Spanned<String>>) -> Result<OnDelete> {
        let known = [("delete", OnDelete::Delete), ("soft", OnDelete::Soft)];
        Ok(self.choice("on_delete", raw, &known)?.unwrap_or_default())
    }

    fn document(&self, raw: Spanned<RawDocument>, names: &mut Names) -> Result<DocumentSpec> {
        let place = raw.span();
        let RawDocument { column, json } = raw.into_inner();
        let column = column.unwrap_or_else(|| Spanned::new(place, DOCUMENT.to_owned()));
        let column = self.name(&column, "document.column", names)?;
        let known = [("relaxed", JsonForm::Relaxed), ("canonical", JsonForm::Canonical)];
        let json = self.choice("document.json", json.as_ref(), &known)?.unwrap_or_default();
        Ok(DocumentSpec { column, json })
    }

    /// Refuses columns and tables beside a whole document.
    fn alone(&self, columns: &RawColumns, tables: &[RawTable]) -> Result<()> {
        let constraint = "a mapping with [document] has no columns and no tables of its own";
        let column = columns.values().map(|column| (column.span().start, "columns"));
        let table = tables.iter().map(|table| (table.table.span().start, "tables"));
        match column.chain(table).min() {
            Some((at, key)) => Err(self.error_at(at, key, constraint).with_code(Code::MappingOfWhole)),
            None => Ok(()),
        }
    }

    fn table(&self, raw: RawTable, table_names: &mut Names, layout: &mut PathLayout) -> Result<TableSpec> {
        let key = format!("tables.{}", raw.table.get_ref());
        let mut names = Names::of_columns();
        let table = self.name(&raw.table, &key, table_names)?;
        let parent = self.name(&raw.parent, &format!("{key}.parent"), &mut names)?;
        let path = self.path(&raw.path, &format!("{key}.path"))?;
        if raw.ordinals.len() != path.arrays() {
            let constraint = format!("\"{path}\" takes {} ordinals, one for each []", path.arrays());
            return Err(self.error(&raw.path, &format!("{key}.ordinals"), &constraint));
        }
        layout.table(&path).map_err(|e| self.wrong_path(&raw.path, &format!("{key}.path"), &e))?;
        let ordinal = |raw| self.name(raw, &format!("{key}.ordinals"), &mut names);
        let ordinals: Vec<_> = raw.ordinals.iter().map(ordinal).collect::<Result<_>>()?;
        let columns = self.columns(&format!("{key}.columns"), raw.columns, &path, &mut names, layout)?;
        self.width(&raw.table, 1 + ordinals.len() + columns.len())?;
        Ok(TableSpec { table, path, parent, ordinals, columns })
    }

    /// The columns in the order of the file.
    fn columns(
        &self,
        key: &str,
        raw: RawColumns,
        table: &FieldPath,
        names: &mut Names,
        layout: &mut PathLayout,
    ) -> Result<Vec<ColumnSpec>> {
        let mut raw: Vec<_> = raw.into_iter().collect();
        raw.sort_by_key(|(_, column)| column.span().start);
        let column = |(name, column): (String, Spanned<RawColumn>)| {
            let key = format!("{key}.{name}");
            let name = self.name(&Spanned::new(column.span(), name), &key, names)?;
            let RawColumn { path: raw_path, ty, bson, mask, was } = column.into_inner();
            let path = self.path(&raw_path, &format!("{key}.path"))?;
            layout
                .column(table, &path)
                .map_err(|e| self.wrong_path(&raw_path, &format!("{key}.path"), &e))?;
            let ty = self.column_type(&ty, &format!("{key}.type"))?;
            let ty = ColumnType { reading: self.reading(bson.as_ref(), &format!("{key}.bson"), ty)?, ..ty };
            let mask = self.mask(mask.as_ref(), &format!("{key}.mask"), ty)?;
            let was = was.map(|was| self.was(&was, &format!("{key}.was"), names)).transpose()?;
            Ok(ColumnSpec { name, path, ty, mask, was })
        };
        raw.into_iter().map(column).collect()
    }

    fn was(&self, raw: &RawKey, key: &str, names: &mut Names) -> Result<ReplacedColumn> {
        let name = self.name(&raw.column, key, names)?;
        let ty = self.column_type(&raw.ty, key)?;
        Ok(ReplacedColumn {
            name,
            ty: ColumnType { reading: self.reading(raw.bson.as_ref(), key, ty)?, ..ty },
        })
    }

    fn omitted(&self, raw: &Spanned<String>, layout: &mut PathLayout) -> Result<FieldPath> {
        let path = self.path(raw, "omit")?;
        layout.omitted(&path).map_err(|e| self.wrong_path(raw, "omit", &e))?;
        Ok(path)
    }

    fn name(&self, name: &Spanned<String>, key: &str, scope: &mut Names) -> Result<String> {
        let text = name.get_ref();
        let constraint = if text.is_empty() {
            "a name can't be empty".to_owned()
        } else if text.len() > MAX_NAME {
            format!("a name has at most {MAX_NAME} bytes, this one {}", text.len())
        } else if text.contains('\0') {
            "a name has no NUL".to_owned()
        } else if !scope.reserve(folded(text)) {
            format!("the name \"{text}\" is already in use, or differs from one in use only in case")
        } else {
            return Ok(text.clone());
        };
        Err(self.error(name, key, &constraint).with_code(Code::MappingName))
    }

    fn path(&self, path: &Spanned<String>, key: &str) -> Result<FieldPath> {
        FieldPath::parse(path.get_ref()).map_err(|constraint| self.wrong_path(path, key, constraint))
    }

    fn column_type(&self, ty: &Spanned<String>, key: &str) -> Result<ColumnType> {
        let text = ty.get_ref();
        ColumnType::parse(text).ok_or_else(|| {
            let known = Scalar::ALL.map(Scalar::sql);
            let hint = nearest(text, known).map_or_else(
                || format!("supported are {}, and arrays of them, such as text[]", known.join(", ")),
                |meant| format!("did you mean \"{meant}\"?"),
            );
            self.error(ty, key, &format!("\"{text}\" is not a supported type; {hint}"))
                .with_code(Code::MappingType)
        })
    }

    fn key_type(&self, raw: &RawKey) -> Result<ColumnType> {
        let ty = self.column_type(&raw.ty, "key.type")?;
        if ty.array || !ty.scalar.is_key() {
            let known = names(|scalar| scalar.is_key()).join(", ");
            return Err(self
                .error(&raw.ty, "key.type", &format!("a key is one of {known}"))
                .with_code(Code::MappingType));
        }
        Ok(ColumnType { reading: self.reading(raw.bson.as_ref(), "key.bson", ty)?, ..ty })
    }

    fn reading(&self, raw: Option<&Spanned<String>>, key: &str, ty: ColumnType) -> Result<Reading> {
        let known: Vec<_> =
            Reading::ALL.into_iter().filter_map(|reading| Some((reading.word()?, reading))).collect();
        let Some((raw, reading)) = raw.zip(self.choice(key, raw, &known)?) else {
            return Ok(Reading::Usual);
        };
        if ty.scalar.other_reading() == Some(reading) {
            return Ok(reading);
        }
        let columns = names(|scalar| scalar.other_reading() == Some(reading)).join(" and ");
        let constraint = format!("\"{}\" is for {columns}, not for {}", raw.get_ref(), ty.sql());
        Err(self.error(raw, key, &constraint).with_code(Code::MappingType))
    }

    fn mask(&self, raw: Option<&Spanned<String>>, key: &str, ty: ColumnType) -> Result<Option<Mask>> {
        let mask = self.choice(key, raw, &[("sha256", Mask::Sha256), ("redact", Mask::Redact)])?;
        match raw {
            Some(raw) if mask == Some(Mask::Sha256) && (ty.array || ty.scalar != Scalar::Text) => {
                let constraint = format!("\"sha256\" is for text, not for {}", ty.sql());
                Err(self.error(raw, key, &constraint).with_code(Code::MappingType))
            }
            _ => Ok(mask),
        }
    }

    fn width(&self, table: &Spanned<String>, columns: usize) -> Result<()> {
        let constraint = || format!("a table has at most {MAX_COLUMNS} columns, this one {columns}");
        let fits = columns <= MAX_COLUMNS;
        fits.then_some(())
            .ok_or_else(|| self.error(table, table.get_ref(), &constraint()).with_code(Code::MappingTooWide))
    }

    /// The value of a word among `known`.
    fn choice<T: Copy>(
        &self,
        key: &str,
        raw: Option<&Spanned<String>>,
        known: &[(&str, T)],
    ) -> Result<Option<T>> {
        let Some(raw) = raw else { return Ok(None) };
        let found = known.iter().find(|(word, _)| word == raw.get_ref());
        found.map(|&(_, meant)| Some(meant)).ok_or_else(|| {
            let words: Vec<_> = known.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.error(raw, key, &format!("must be {}", words.join(" or ")))
        })
    }

    fn wrong_path(&self, value: &Spanned<String>, key: &str, constraint: &str) -> Error {
        self.error(value, key, constraint).with_code(Code::MappingPath)
    }

    fn error<T>(&self, value: &Spanned<T>, key: &str, constraint: &str) -> Error {
        self.error_at(value.span().start, key, constraint)
    }

    fn error_at(&self, offset: usize, key: &str, constraint: &str) -> Error {
        Error::new(
            Code::MappingValue,
            format!("{}: {key}: {constraint}", place(self.file, self.text, offset)),
        )
    }
}

/// The names of such types.
fn names(such: impl Fn(Scalar) -> bool) -> Vec<&'static str> {
    Scalar::ALL.into_iter().filter(|scalar| such(*scalar)).map(Scalar::sql).collect()
}

/// The name as PostgreSQL reads it without quotes.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase()
}
