//! The shape of what a mapping writes: tables, columns, types.

/// A table of a mapped collection. The first table of a mapping is its root: one row per document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The table's name, unquoted, at most 63 bytes.
    pub name: String,
    /// All columns in the order in which rows are encoded. In the root: the key, the mapped columns, `extra`. In a
    /// child: the parent's key, one `bigint` ordinal per array on the path, the mapped columns.
    pub columns: Vec<Column>,
    /// How many leading columns make the primary key.
    pub key_columns: usize,
    /// Whether the last column, [`DELETED_AT`], says when the document was deleted. Only in a root: its rows are
    /// marked then, and stay.
    pub soft_delete: bool,
}

impl Table {
    /// Of the root of a part of a mapping: the columns of its fields, and `extra`. `None`: it has no `extra`.
    pub fn patched(&self) -> Option<(&[Column], &Column)> {
        let rest = self.columns.get(self.key_columns..self.columns.len() - usize::from(self.soft_delete))?;
        rest.split_last().map(|(extra, columns)| (columns, extra))
    }
}

/// The column that marks deleted documents where they stay: NULL in every row that is written.
pub const DELETED_AT: &str = "_deleted_at";

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, unquoted, at most 63 bytes.
    pub name: String,
    /// Its type.
    pub ty: ColumnType,
}

/// A column's type: a scalar, or an array of one scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The type, or the type of the elements.
    pub scalar: Scalar,
    /// Whether the column holds an array.
    pub array: bool,
    /// As which BSON type its values read back.
    pub reading: Reading,
}

/// As which BSON type a column's values read back, where several types have equal values. A value of another type is
/// noted in `extra` besides, so that it reads back as what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// `integer` and `bigint`: an int32 if it is one, else an int64. `double precision`: a double. `numeric`: a
    /// Decimal128. `text`: an ObjectId if it is 24 hexadecimal digits in lower case, else a string. `bytea`: an
    /// ObjectId if it has 12 bytes, else a binary of subtype 0.
    #[default]
    Usual,
    /// `integer` and `bigint`: an int64.
    Long,
    /// `double precision`, as JavaScript's drivers write numbers: an int32 if it is one (not -0), else a double.
    Number,
}

/// The PostgreSQL types that docrow writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `boolean`
    Boolean,
    /// `integer`
    Integer,
    /// `bigint`
    Bigint,
    /// `double precision`
    Double,
    /// `numeric`, unconstrained
    Numeric,
    /// `text`
    Text,
    /// `bytea`
    Bytea,
    /// `uuid`
    Uuid,
    /// `timestamptz`
    Timestamptz,
    /// `jsonb`
    Jsonb,
}

impl Scalar {
    /// Every scalar.
    pub const ALL: [Scalar; 10] = [
        Scalar::Boolean,
        Scalar::Integer,
        Scalar::Bigint,
        Scalar::Double,
        Scalar::Numeric,
        Scalar::Text,
        Scalar::Bytea,
        Scalar::Uuid,
        Scalar::Timestamptz,
        Scalar::Jsonb,
    ];

    /// The name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Scalar::Boolean => "boolean",
            Scalar::Integer => "integer",
            Scalar::Bigint => "bigint",
            Scalar::Double => "double precision",
            Scalar::Numeric => "numeric",
            Scalar::Text => "text",
            Scalar::Bytea => "bytea",
            Scalar::Uuid => "uuid",
            Scalar::Timestamptz => "timestamptz",
            Scalar::Jsonb => "jsonb",
        }
    }

    /// The OIDs of the type and of its array type (fixed by PostgreSQL: `src/include/catalog/pg_type.dat`).
    fn oids(self) -> (u32, u32) {
        match self {
            Scalar::Boolean => (16, 1000),
            Scalar::Integer => (23, 1007),
            Scalar::Bigint => (20, 1016),
            Scalar::Double => (701, 1022),
            Scalar::Numeric => (1700, 1231),
            Scalar::Text => (25, 1009),
            Scalar::Bytea => (17, 1001),
            Scalar::Uuid => (2950, 2951),
            Scalar::Timestamptz => (1184, 1185),
            Scalar::Jsonb => (3802, 3807),
        }
    }

    /// The type's OID.
    pub fn oid(self) -> u32 {
        self.oids().0
    }
}

impl ColumnType {
    /// A scalar type.
    pub const fn scalar(scalar: Scalar) -> Self {
        Self { scalar, array: false, reading: Reading::Usual }
    }

    /// Reads a type as written in a mapping file, for example `double precision` or `text[]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, array) = text.strip_suffix("[]").map_or((text, false), |name| (name, true));
        let scalar = Scalar::ALL.into_iter().find(|scalar| scalar.sql() == name)?;
        Some(Self { scalar, array, reading: Reading::Usual })
    }

    /// The name in SQL.
    pub fn sql(self) -> String {
        format!("{}{}", self.scalar.sql(), if self.array { "[]" } else { "" })
    }

    /// The type's OID.
    pub fn oid(self) -> u32 {
        let (scalar, array) = self.scalar.oids();
        if self.array { array } else { scalar }
    }
}
