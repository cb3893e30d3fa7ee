//! Mapping files: `schemas/*.toml`, one for each collection.
//!
//! A [`MappingSpec`] is a mapping that can be compiled and created: its names are unique and not too long, no
//! field is in two places, and every type is one that docrow writes. What a mapping file asks for and docrow
//! can't do yet is refused, not ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    FieldPath, MAX_NAME, Names,
    layout::Layout,
    nearest,
    toml_error::{place, toml_error},
};
use crate::{
    change::Namespace,
    error::{Error, Result},
    mapping::{ColumnType, Scalar},
};

/// The name of the `extra` column where a mapping file gives none.
pub(super) const EXTRA: &str = "_extra";

/// As many columns as a PostgreSQL table can have (`MaxHeapAttributeNumber`).
const MAX_COLUMNS: usize = 1600;

const KEY_TYPES: [Scalar; 5] = [Scalar::Bigint, Scalar::Integer, Scalar::Text, Scalar::Uuid, Scalar::Bytea];

/// A checked mapping of one collection to its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    pub(super) collection: Namespace,
    pub(super) extra: Option<String>,
    pub(super) on_unfit: OnUnfit,
    pub(super) on_delete: OnDelete,
    pub(super) foreign_keys: bool,
    pub(super) document: Option<DocumentSpec>,
    pub(super) omit: Vec<FieldPath>,
    pub(super) key: KeySpec,
    pub(super) root: TableSpec,
    pub(super) children: Vec<TableSpec>,
}

/// What becomes of a value that does not fit its column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnfit {
    /// It goes to `extra`.
    #[default]
    Extra,
    /// The document becomes a dead letter.
    DeadLetter,
    /// The collection stops.
    Fail,
}

/// What becomes of the rows of a deleted document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay; the root's is marked with the time.
    Soft,
}

/// How a column hides its value before it leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// HMAC-SHA-256 with the key of the environment, in hexadecimal.
    Sha256,
    /// Nothing is left of it.
    Redact,
}

/// The `jsonb` column that holds a whole document, in document mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentSpec {
    /// Its name.
    pub column: String,
    /// The form of Extended JSON.
    pub json: JsonForm,
}

/// The forms of Extended JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JsonForm {
    /// Numbers and dates as people write them; what that does not tell exactly is in `extra`.
    #[default]
    Relaxed,
    /// Every type told apart.
    Canonical,
}

/// The column that holds a document's `_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// Its name in the root table.
    pub column: String,
    /// Its type.
    pub ty: ColumnType,
}

/// A table. The root's `path` and `ordinals` are empty, and its `parent` is the key column's own name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSpec {
    /// The table's name.
    pub table: String,
    /// The object or the arrays whose elements are its rows.
    pub path: FieldPath,
    /// The column that holds the document's key.
    pub parent: String,
    /// One column for each array on the path.
    pub ordinals: Vec<String>,
    /// The mapped columns.
    pub columns: Vec<ColumnSpec>,
}

/// A column and the field that it holds; the path is relative to the table's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnSpec {
    /// The column's name.
    pub name: String,
    /// The field.
    pub path: FieldPath,
    /// The column's type.
    pub ty: ColumnType,
    /// How its values are hidden.
    pub mask: Option<Mask>,
}

impl MappingSpec {
    /// Reads a mapping file. Errors are of kind `Usage` and name `file`, the line, the key and the
    /// constraint.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let raw: RawSpec = toml::from_str(text).map_err(|e| toml_error(file, text, &e))?;
        Check { file, text }.spec(raw)
    }

    /// The collection.
    pub fn collection(&self) -> &Namespace {
        &self.collection
    }

    /// The table of the documents themselves.
    pub fn root(&self) -> &TableSpec {
        &self.root
    }

    /// The tables of the objects and arrays in them.
    pub fn children(&self) -> &[TableSpec] {
        &self.children
    }

    /// All tables, the root first.
    pub fn tables(&self) -> impl Iterator<Item = &TableSpec> {
        std::iter::once(&self.root).chain(&self.children)
    }

    /// The key column.
    pub fn key(&self) -> &KeySpec {
        &self.key
    }

    /// The name of the root table's `jsonb` column for what no other column holds, if there is one.
    pub fn extra(&self) -> Option<&str> {
        self.extra.as_deref()
    }

    /// What becomes of a value that does not fit.
    pub fn on_unfit(&self) -> OnUnfit {
        self.on_unfit
    }

    /// What becomes of the rows of a deleted document.
    pub fn on_delete(&self) -> OnDelete {
        self.on_delete
    }

    /// Whether child tables refer to the root by foreign keys.
    pub fn foreign_keys(&self) -> bool {
        self.foreign_keys
    }

    /// The column of the whole document, in document mode.
    pub fn document(&self) -> Option<&DocumentSpec> {
        self.document.as_ref()
    }

    /// Fields that never leave the process.
    pub fn omit(&self) -> &[FieldPath] {
        &self.omit
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSpec {
    collection: Spanned<String>,
    table: Spanned<String>,
    extra: Option<Spanned<String>>,
    on_unfit: Option<Spanned<String>>,
    on_delete: Option<Spanned<String>>,
    foreign_keys: Option<Spanned<bool>>,
    key: RawKey,
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
    mask: Option<Spanned<String>>,
}

/// Turns what was written into what is meant, and knows where it was written.
struct Check<'a> {
    file: &'a str,
    text: &'a str,
}

impl Check<'_> {
    fn spec(&self, raw: RawSpec) -> Result<MappingSpec> {
        let RawSpec { collection, table, extra, on_unfit, on_delete, foreign_keys, key, columns, tables } =
            raw;
        self.served("on_unfit", on_unfit, "extra", &["dead_letter", "fail"])?;
        self.served("on_delete", on_delete, "delete", &["soft"])?;
        if let Some(true) = foreign_keys.as_ref().map(Spanned::get_ref) {
            return Err(self.not_yet(&foreign_keys, "foreign_keys = true"));
        }
        let namespace = Namespace::parse(collection.get_ref())
            .ok_or_else(|| self.error(&collection, "collection", "must be \"database.collection\""))?;
        let extra = extra.unwrap_or_else(|| Spanned::new(0..0, EXTRA.into()));

        let mut table_names = Names::new();
        let mut layout = Layout::default();
        let mut names = Names::of_columns();
        let root = TableSpec {
            table: self.name(&table, "table", &mut table_names)?,
            path: FieldPath::default(),
            parent: self.name(&key.column, "key.column", &mut names)?,
            ordinals: Vec::new(),
            columns: Vec::new(),
        };
        let extra = self.name(&extra, "extra", &mut names)?;
        let key = KeySpec { column: root.parent.clone(), ty: self.key_type(&key.ty)? };
        let columns = self.columns("columns", columns, &root.path, (&mut names, &mut layout))?;
        self.width(&table, 2 + columns.len())?;
        let children = tables.into_iter().map(|raw| self.table(raw, &mut table_names, &mut layout));
        let children = children.collect::<Result<_>>()?;
        Ok(MappingSpec {
            collection: namespace,
            extra: Some(extra),
            on_unfit: OnUnfit::Extra,
            on_delete: OnDelete::Delete,
            foreign_keys: false,
            document: None,
            omit: Vec::new(),
            key,
            root: TableSpec { columns, ..root },
            children,
        })
    }

    fn table(&self, raw: RawTable, table_names: &mut Names, layout: &mut Layout) -> Result<TableSpec> {
        let key = format!("tables.{}", raw.table.get_ref());
        let mut names = Names::of_columns();
        let table = self.name(&raw.table, &key, table_names)?;
        let parent = self.name(&raw.parent, &format!("{key}.parent"), &mut names)?;
        let path = self.path(&raw.path, &format!("{key}.path"))?;
        if raw.ordinals.len() != path.arrays() {
            let constraint = format!("\"{path}\" takes {} ordinals, one for each []", path.arrays());
            return Err(self.error(&raw.path, &format!("{key}.ordinals"), &constraint));
        }
        layout.table(&path).map_err(|e| self.error(&raw.path, &format!("{key}.path"), &e))?;
        let ordinal = |raw| self.name(raw, &format!("{key}.ordinals"), &mut names);
        let ordinals: Vec<_> = raw.ordinals.iter().map(ordinal).collect::<Result<_>>()?;
        let columns = self.columns(&format!("{key}.columns"), raw.columns, &path, (&mut names, layout))?;
        self.width(&raw.table, 1 + ordinals.len() + columns.len())?;
        Ok(TableSpec { table, path, parent, ordinals, columns })
    }

    /// The columns in the order in which they are written.
    fn columns(
        &self,
        key: &str,
        raw: RawColumns,
        table: &FieldPath,
        (names, layout): (&mut Names, &mut Layout),
    ) -> Result<Vec<ColumnSpec>> {
        let mut raw: Vec<_> = raw.into_iter().collect();
        raw.sort_by_key(|(_, column)| column.span().start);
        let column = |(name, column): (String, Spanned<RawColumn>)| {
            let key = format!("{key}.{name}");
            let name = self.name(&Spanned::new(column.span(), name), &key, names)?;
            let RawColumn { path: raw_path, ty, mask } = column.into_inner();
            if mask.is_some() {
                return Err(self.not_yet(&mask, &format!("{key}.mask")));
            }
            let path = self.path(&raw_path, &format!("{key}.path"))?;
            layout.column(table, &path).map_err(|e| self.error(&raw_path, &format!("{key}.path"), &e))?;
            Ok(ColumnSpec { name, path, ty: self.column_type(&ty, &format!("{key}.type"))?, mask: None })
        };
        raw.into_iter().map(column).collect()
    }

    fn name(&self, name: &Spanned<String>, key: &str, scope: &mut Names) -> Result<String> {
        let text = name.get_ref();
        let constraint = if text.is_empty() {
            "a name can't be empty".to_owned()
        } else if text.len() > MAX_NAME {
            format!("a name has at most {MAX_NAME} bytes, this one {}", text.len())
        } else if text.contains('\0') {
            "a name has no NUL".to_owned()
        } else if !scope.reserve(text) {
            format!("the name \"{text}\" is taken")
        } else {
            return Ok(text.clone());
        };
        Err(self.error(name, key, &constraint))
    }

    fn path(&self, path: &Spanned<String>, key: &str) -> Result<FieldPath> {
        FieldPath::parse(path.get_ref()).map_err(|constraint| self.error(path, key, constraint))
    }

    fn column_type(&self, ty: &Spanned<String>, key: &str) -> Result<ColumnType> {
        let text = ty.get_ref();
        ColumnType::parse(text).ok_or_else(|| {
            let known = Scalar::ALL.map(Scalar::sql);
            let hint = nearest(text, known).map_or_else(
                || format!("known are {}, and arrays of them, as text[]", known.join(", ")),
                |meant| format!("did you mean \"{meant}\"?"),
            );
            self.error(ty, key, &format!("\"{text}\" is not a supported type; {hint}"))
        })
    }

    fn key_type(&self, ty: &Spanned<String>) -> Result<ColumnType> {
        let parsed = self.column_type(ty, "key.type")?;
        if parsed.array || !KEY_TYPES.contains(&parsed.scalar) {
            let known = KEY_TYPES.map(Scalar::sql).join(", ");
            return Err(self.error(ty, "key.type", &format!("a key is one of {known}")));
        }
        Ok(parsed)
    }

    fn width(&self, table: &Spanned<String>, columns: usize) -> Result<()> {
        let constraint = || format!("a table has at most {MAX_COLUMNS} columns, this one {columns}");
        let fits = columns <= MAX_COLUMNS;
        fits.then_some(()).ok_or_else(|| self.error(table, table.get_ref(), &constraint()))
    }

    /// Accepts the one value of an option that docrow serves.
    fn served(&self, key: &str, value: Option<Spanned<String>>, served: &str, later: &[&str]) -> Result<()> {
        match value.as_ref().map(|value| value.get_ref().as_str()) {
            None => Ok(()),
            Some(value) if value == served => Ok(()),
            Some(word) if later.contains(&word) => Err(self.not_yet(&value, &format!("{key} = \"{word}\""))),
            Some(_) => {
                let at = value.map_or(0, |value| value.span().start);
                Err(self.error_at(
                    at,
                    key,
                    &format!("must be \"{served}\" or \"{}\"", later.join("\" or \"")),
                ))
            }
        }
    }

    fn not_yet<T>(&self, value: &Option<Spanned<T>>, what: &str) -> Error {
        self.error_at(value.as_ref().map_or(0, |value| value.span().start), what, "not supported yet")
    }

    fn error<T>(&self, value: &Spanned<T>, key: &str, constraint: &str) -> Error {
        self.error_at(value.span().start, key, constraint)
    }

    fn error_at(&self, offset: usize, key: &str, constraint: &str) -> Error {
        Error::usage(format!("{}: {key}: {constraint}", place(self.file, self.text, offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = include_str!("../../schemas/users.toml");

    const HEAD: &str =
        "collection = \"shop.users\"\ntable = \"users\"\n[key]\ncolumn = \"id\"\ntype = \"bigint\"\n";

    fn error(rest: &str) -> String {
        MappingSpec::parse(&format!("{HEAD}{rest}"), "users.toml").unwrap_err().to_string()
    }

    #[test]
    fn reads_the_users_mapping() {
        let spec = MappingSpec::parse(USERS, "users.toml").unwrap();
        let tables: Vec<_> = spec.tables().map(|table| table.table.as_str()).collect();
        let expected = "users addresses profiles education experience preferences settings activity_log transactions \
                        messages attachments social_media posts groups large_data";
        assert_eq!(tables, expected.split_whitespace().collect::<Vec<_>>());
        assert_eq!(spec.collection().to_string(), "sample_db.users");
        assert_eq!(spec.extra(), Some("_extra"));
        let columns: Vec<_> = spec.root().columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            columns,
            ["username", "email", "first_name", "last_name", "age", "created_at", "updated_at"]
        );
        assert_eq!(spec.children()[9].ordinals, ["message", "position"]);
    }

    #[test]
    fn what_is_written_reads_back() {
        let spec = MappingSpec::parse(USERS, "users.toml").unwrap();
        let text = spec.to_toml();
        assert_eq!(MappingSpec::parse(&text, "users.toml").unwrap(), spec);
        assert!(text.contains("\nfirst_name = { path = \"firstName\", type = \"text\" }\n"), "{text}");
        assert!(text.contains("\n[[tables]]\ntable    = \"attachments\"\n"), "{text}");
    }

    #[test]
    fn awkward_names_read_back() {
        let columns = "[columns]\n\"a \\\"b\\\"\" = { path = 'x\\.y\\[]', type = \"text[]\" }\n";
        let spec = MappingSpec::parse(&format!("{HEAD}{columns}"), "users.toml").unwrap();
        assert_eq!(MappingSpec::parse(&spec.to_toml(), "users.toml").unwrap(), spec);
    }

    #[test]
    fn refuses_with_file_line_key_and_constraint() {
        let column =
            |path: &str, ty: &str| format!("[columns]\na = {{ path = \"{path}\", type = \"{ty}\" }}\n");
        for (rest, expected) in [
            ("[colums]\n".into(), "users.toml:6: unknown key \"colums\"; did you mean \"columns\"?"),
            (
                column("a", "bigintt"),
                "users.toml:7: columns.a.type: \"bigintt\" is not a supported type; did you mean \"bigint\"?",
            ),
            (
                column("a..b", "text"),
                "users.toml:7: columns.a.path: a path must name a field between its dots",
            ),
            (
                column("a[]", "text"),
                "users.toml:7: columns.a.path: unfolds an array, which takes a table of its own",
            ),
            (
                column("_id", "text"),
                "users.toml:7: columns.a.path: _id is the document's key, which has its own column",
            ),
            (
                "[columns]\nid = { path = \"a\", type = \"text\" }".into(),
                "users.toml:7: columns.id: the name \"id\" is taken",
            ),
            (
                "[columns]\nctid = { path = \"a\", type = \"text\" }".into(),
                "users.toml:7: columns.ctid: the name \"ctid\" is taken",
            ),
            (
                "[columns]\n\"\" = { path = \"a\", type = \"text\" }".into(),
                "users.toml:7: columns.: a name can't be empty",
            ),
            (
                "[columns]\na = { path = \"x\", type = \"text\" }\nb = { path = \"x\", type = \"text\" }"
                    .into(),
                "users.toml:8: columns.b.path: \"x\" is mapped twice",
            ),
            (
                "[columns]\na = { path = \"x\", type = \"text\" }\nb = { path = \"x.y\", type = \"text\" }"
                    .into(),
                "users.toml:8: columns.b.path: \"x.y\" lies in a field that is mapped to a column",
            ),
            (
                "[[tables]]\ntable = \"b\"\nparent = \"p\"\npath = \"x[]\"".into(),
                "users.toml:9: tables.b.ordinals: \"x[]\" takes 1 ordinals, one for each []",
            ),
            (
                "[[tables]]\ntable = \"users\"\nparent = \"p\"\npath = \"x\"".into(),
                "users.toml:7: tables.users: the name \"users\" is taken",
            ),
            (
                "[columns]\na = { path = \"x\", type = \"text\", mask = \"sha256\" }".into(),
                "users.toml:7: columns.a.mask: not supported yet",
            ),
        ] {
            assert_eq!(error(&rest), expected);
        }
    }

    #[test]
    fn refuses_what_a_later_version_serves() {
        for (option, expected) in [
            ("on_unfit = \"fail\"", "users.toml:1: on_unfit = \"fail\": not supported yet"),
            ("on_unfit = \"dead_letter\"", "users.toml:1: on_unfit = \"dead_letter\": not supported yet"),
            ("on_delete = \"soft\"", "users.toml:1: on_delete = \"soft\": not supported yet"),
            ("foreign_keys = true", "users.toml:1: foreign_keys = true: not supported yet"),
            ("on_delete = \"x\"", "users.toml:1: on_delete: must be \"delete\" or \"soft\""),
        ] {
            let error = MappingSpec::parse(&format!("{option}\n{HEAD}"), "users.toml").unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        for served in
            ["on_unfit = \"extra\"", "on_delete = \"delete\"", "foreign_keys = false", "extra = \"rest\""]
        {
            assert!(MappingSpec::parse(&format!("{served}\n{HEAD}"), "users.toml").is_ok(), "{served}");
        }
    }

    #[test]
    fn refuses_wrong_keys_and_names() {
        let head = |change: (&str, &str)| {
            MappingSpec::parse(&HEAD.replace(change.0, change.1), "users.toml").unwrap_err().to_string()
        };
        assert_eq!(
            head(("bigint", "jsonb")),
            "users.toml:5: key.type: a key is one of bigint, integer, text, uuid, bytea"
        );
        assert_eq!(
            head(("shop.users", "users")),
            "users.toml:1: collection: must be \"database.collection\""
        );
        assert_eq!(head(("\"users\"\n", "\"\"\n")), "users.toml:2: table: a name can't be empty");
        let long = format!("\"{}\"\n", "é".repeat(32));
        assert_eq!(
            head(("\"users\"\n", &long)),
            "users.toml:2: table: a name has at most 63 bytes, this one 64"
        );
        assert!(head(("[key]", "[kei]")).contains("did you mean \"key\"?"));
    }

    #[test]
    fn refuses_more_columns_than_a_table_has() {
        let columns = |count| {
            let lines = (0..count).map(|i| format!("c{i} = {{ path = \"c{i}\", type = \"text\" }}\n"));
            format!("{HEAD}[columns]\n{}", lines.collect::<String>())
        };
        assert!(MappingSpec::parse(&columns(1598), "users.toml").is_ok());
        let error = MappingSpec::parse(&columns(1599), "users.toml").unwrap_err().to_string();
        assert_eq!(error, "users.toml:2: users: a table has at most 1600 columns, this one 1601");
    }

    #[test]
    fn an_object_with_its_own_table_can_be_reached_from_the_root() {
        let text = format!(
            "{HEAD}[columns]\nlat = {{ path = \"address.lat\", type = \"double precision\" }}\n\
             [[tables]]\ntable = \"addresses\"\npath = \"address\"\nparent = \"user_id\"\n"
        );
        assert!(MappingSpec::parse(&text, "users.toml").is_ok());
        let text = text.replace("path = \"address\"", "path = \"address[]\"\nordinals = [\"n\"]");
        let error = MappingSpec::parse(&text, "users.toml").unwrap_err().to_string();
        assert!(
            error.ends_with("\"address[]\" passes a field that is mapped both as an object and as an array"),
            "{error}"
        );
    }
}
