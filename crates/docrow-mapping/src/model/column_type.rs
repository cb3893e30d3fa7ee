//! The types of columns, in one table: whatever is known of each that is data is there, and nowhere else.
//!
//! To add a type, add an entry. Then the compiler names each `match` that has to say something about it: how
//! a value becomes its bytes (`mapping::value`; as a key `mapping::key_column`), how they are read back
//! (`mapping::column`), for which values docrow makes such a column by itself (`schema::infer`), and what is
//! said beside it (`schema::phrases`). `make golden` rewrites what docs/mapping.md and testdata/types.txt
//! show of it.

/// A column's type: a scalar, or an array of one scalar type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The type, or the type of the elements.
    pub scalar: Scalar,
    /// Whether the column holds an array.
    pub array: bool,
    /// The BSON type that its values read back as.
    pub reading: Reading,
}

/// The BSON type that a column's values read back as, where several types have equal values. A value of
/// another type is also noted in `extra`, so that it reads back as its own type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// `integer` and `bigint`: an int32 if it is one, else an int64. `double precision`: a double. `numeric`:
    /// a Decimal128. `text`: an ObjectId if it is 24 hexadecimal digits in lower case, else a string.
    /// `bytea`: an ObjectId if it has 12 bytes, else a binary of subtype 0.
    #[default]
    Usual,
    /// `integer` and `bigint`: an int64.
    Long,
    /// `double precision`, as JavaScript's drivers write numbers: an int32 if it is one (not -0), else a
    /// double.
    Number,
}

impl Reading {
    /// All metrics.
    pub const ALL: [Self; 3] = [Self::Usual, Self::Long, Self::Number];

    /// The word for it in a mapping file, `bson = "long"`. The usual one has none.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Usual => None,
            Self::Long => Some("long"),
            Self::Number => Some("number"),
        }
    }
}

/// What is known of a scalar type.
struct TypeFacts {
    /// The name in SQL.
    sql: &'static str,
    /// The OIDs of the type and of its array type (fixed by PostgreSQL: `src/include/catalog/pg_type.dat`).
    oids: (u32, u32),
    /// Whether a key column may be of it.
    is_key: bool,
    /// The reading that it has besides the usual one.
    other_reading: Option<Reading>,
    /// What its columns may become besides `jsonb`: values that the wider type does not hold are rare.
    widens_to: &'static [Scalar],
    /// Whether `=` calls only equal bytes equal.
    equal_is_same: bool,
    /// Which values a column of it holds.
    holds: &'static str,
    /// Which of these read back from the column alone.
    exactly: &'static str,
}

/// Makes [`Scalar`] of its table. An entry that leaves out a fact does not compile.
macro_rules! scalars {
    ($($name:ident $sql:literal { $($fact:ident: $value:expr),+ $(,)? })+) => {
        /// The PostgreSQL types that docrow writes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Scalar { $(#[doc = concat!("`", $sql, "`")] $name,)+ }

        impl Scalar {
            /// Every scalar.
            pub const ALL: [Self; [$($sql),+].len()] = [$(Self::$name),+];

            const fn facts(self) -> &'static TypeFacts {
                match self { $(Self::$name => &TypeFacts { sql: $sql, $($fact: $value),+ },)+ }
            }
        }
    };
}

scalars! {
    Boolean "boolean" {
        oids: (16, 1000),
        is_key: false,
        other_reading: None,
        widens_to: &[],
        equal_is_same: true,
        holds: "bool",
        exactly: "all",
    }
    Integer "integer" {
        oids: (23, 1007),
        is_key: true,
        other_reading: Some(Reading::Long),
        widens_to: &[Scalar::Bigint, Scalar::Double, Scalar::Numeric],
        equal_is_same: true,
        holds: "any number that is whole and in range",
        exactly: "int32; with `bson = \"long\"` int64",
    }
    Bigint "bigint" {
        oids: (20, 1016),
        is_key: true,
        other_reading: Some(Reading::Long),
        widens_to: &[Scalar::Double, Scalar::Numeric],
        equal_is_same: true,
        holds: "any number that is whole and in range",
        exactly: "int32, and int64 beyond 32 bits; with `bson = \"long\"` every int64",
    }
    Double "double precision" {
        oids: (701, 1022),
        is_key: false,
        other_reading: Some(Reading::Number),
        widens_to: &[],
        // 0 and -0.
        equal_is_same: false,
        holds: "double, NaN and infinities included; other numbers that a double has exactly",
        exactly: "double; with `bson = \"number\"`, as JavaScript's drivers write numbers, int32 and double that is no \
                  int32",
    }
    // Unconstrained. PostgreSQL 13 has no infinity.
    Numeric "numeric" {
        oids: (1700, 1231),
        is_key: false,
        other_reading: None,
        widens_to: &[],
        // 1 and 1.0.
        equal_is_same: false,
        holds: "any number of at most 34 digits; no infinity",
        exactly: "Decimal128, its scale kept, without a positive exponent or -0",
    }
    Text "text" {
        oids: (25, 1009),
        is_key: true,
        other_reading: None,
        widens_to: &[],
        equal_is_same: true,
        holds: "string; ObjectId as 24 hexadecimal digits",
        exactly: "ObjectId; string that does not look like one",
    }
    Bytea "bytea" {
        oids: (17, 1001),
        is_key: true,
        other_reading: None,
        widens_to: &[],
        equal_is_same: true,
        holds: "binary of subtype 0; ObjectId as 12 bytes",
        exactly: "ObjectId; binary of another length",
    }
    Uuid "uuid" {
        oids: (2950, 2951),
        is_key: true,
        other_reading: None,
        widens_to: &[],
        equal_is_same: true,
        holds: "binary of subtype 4 (subtype 3 has several byte orders: a misfit)",
        exactly: "all",
    }
    Timestamptz "timestamptz" {
        oids: (1184, 1185),
        is_key: false,
        other_reading: None,
        widens_to: &[],
        equal_is_same: true,
        holds: "date, 4713 BC to 294276",
        exactly: "all",
    }
    Jsonb "jsonb" {
        oids: (3802, 3807),
        is_key: false,
        other_reading: None,
        widens_to: &[],
        // {"a": 1} and {"a": 1.0}.
        equal_is_same: false,
        holds: "everything, as canonical Extended JSON",
        exactly: "all",
    }
}

impl Scalar {
    /// The name in SQL.
    pub fn sql(self) -> &'static str {
        self.facts().sql
    }

    /// The type's OID.
    pub fn oid(self) -> u32 {
        self.facts().oids.0
    }

    /// Whether a key column may be of it.
    pub fn is_key(self) -> bool {
        self.facts().is_key
    }

    /// The reading that it has besides the usual one.
    pub fn other_reading(self) -> Option<Reading> {
        self.facts().other_reading
    }

    /// What its columns may become besides `jsonb`: values that the wider type does not hold are rare.
    pub fn widens_to(self) -> &'static [Self] {
        self.facts().widens_to
    }

    /// Whether PostgreSQL's `=` calls only equal bytes equal.
    pub fn equal_is_same(self) -> bool {
        self.facts().equal_is_same
    }

    /// Which values a column of it holds, for the documentation.
    pub fn holds(self) -> &'static str {
        self.facts().holds
    }

    /// Which of these read back from the column alone; the rest is noted besides.
    pub fn exactly(self) -> &'static str {
        self.facts().exactly
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
        let (scalar, array) = self.scalar.facts().oids;
        if self.array { array } else { scalar }
    }

    /// Whether its columns hold whole numbers.
    pub fn is_whole(self) -> bool {
        matches!(self.scalar, Scalar::Integer | Scalar::Bigint) && !self.array
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_types_are_called_the_same() {
        let types: Vec<_> = Scalar::ALL
            .into_iter()
            .flat_map(|scalar| [false, true].map(|array| ColumnType { array, ..ColumnType::scalar(scalar) }))
            .collect();
        let names: BTreeSet<_> = types.iter().map(|ty| ty.sql()).collect();
        let oids: BTreeSet<_> = types.iter().map(|ty| ty.oid()).collect();
        assert_eq!((names.len(), oids.len()), (types.len(), types.len()));
        assert!(types.iter().all(|ty| ColumnType::parse(&ty.sql()) == Some(*ty)));
    }
}
