//! Statements that run once, in one round trip: docrow says what types their parameters have. A server that
//! has to be asked for these takes three: prepare, execute, close.

use tokio_postgres::{
    Error as PgError, GenericClient, Row,
    types::{ToSql, Type},
};

/// A value whose type in PostgreSQL follows from its type here.
pub(crate) trait Parameter: Sync {
    /// The value.
    fn value(&self) -> &(dyn ToSql + Sync);
    /// Its type.
    fn sql_type(&self) -> Type;
}

/// The type in PostgreSQL of all values of a type.
pub(crate) trait Typed {
    const TYPE: Type;
}

impl<T: Typed + ToSql + Sync> Parameter for T {
    fn value(&self) -> &(dyn ToSql + Sync) {
        self
    }

    fn sql_type(&self) -> Type {
        T::TYPE
    }
}

impl<T: Typed> Typed for Option<T> {
    const TYPE: Type = T::TYPE;
}

impl<T: Typed + ?Sized> Typed for &T {
    const TYPE: Type = T::TYPE;
}

macro_rules! typed {
    ($($own:ty => $sql:ident),+ $(,)?) => {
        $(impl Typed for $own {
            const TYPE: Type = Type::$sql;
        })+
    };
}

typed! {
    bool => BOOL,
    i32 => INT4,
    i64 => INT8,
    u32 => OID,
    str => TEXT,
    String => TEXT,
    [u8] => BYTEA,
    Vec<u8> => BYTEA,
    std::time::SystemTime => TIMESTAMPTZ,
    serde_json::Value => JSONB,
    [&str] => TEXT_ARRAY,
    [String] => TEXT_ARRAY,
    Vec<&str> => TEXT_ARRAY,
    Vec<String> => TEXT_ARRAY,
    Vec<i32> => INT4_ARRAY,
    [i64] => INT8_ARRAY,
    Vec<i64> => INT8_ARRAY,
    Vec<u32> => OID_ARRAY,
    Vec<Option<i64>> => INT8_ARRAY,
    Vec<f64> => FLOAT8_ARRAY,
    Vec<bool> => BOOL_ARRAY,
    Vec<&[u8]> => BYTEA_ARRAY,
    Vec<Vec<u8>> => BYTEA_ARRAY,
    Vec<Option<Vec<u8>>> => BYTEA_ARRAY,
    Vec<Option<&[u8]>> => BYTEA_ARRAY,
}

/// Runs a statement in one round trip. `$1` … have the types of the parameters.
pub(crate) trait OneRoundTrip {
    /// Returns its rows.
    async fn fetch(&self, statement: &str, parameters: &[&dyn Parameter]) -> Result<Vec<Row>, PgError>;

    /// Returns its only row. Errors: there is none, or there are more.
    async fn fetch_one(&self, statement: &str, parameters: &[&dyn Parameter]) -> Result<Row, PgError>;

    /// Returns its only row, if there is one. Errors: there are more.
    async fn fetch_opt(&self, statement: &str, parameters: &[&dyn Parameter])
    -> Result<Option<Row>, PgError>;

    /// Returns how many rows it has changed.
    async fn perform(&self, statement: &str, parameters: &[&dyn Parameter]) -> Result<u64, PgError>;
}

impl<C: GenericClient> OneRoundTrip for C {
    async fn fetch(&self, statement: &str, parameters: &[&dyn Parameter]) -> Result<Vec<Row>, PgError> {
        self.query_typed(statement, &typed(parameters)).await
    }

    async fn fetch_one(&self, statement: &str, parameters: &[&dyn Parameter]) -> Result<Row, PgError> {
        self.query_typed_one(statement, &typed(parameters)).await
    }

    async fn fetch_opt(
        &self,
        statement: &str,
        parameters: &[&dyn Parameter],
    ) -> Result<Option<Row>, PgError> {
        self.query_typed_opt(statement, &typed(parameters)).await
    }

    async fn perform(&self, statement: &str, parameters: &[&dyn Parameter]) -> Result<u64, PgError> {
        self.execute_typed(statement, &typed(parameters)).await
    }
}

fn typed<'a>(parameters: &[&'a dyn Parameter]) -> Vec<(&'a (dyn ToSql + Sync), Type)> {
    parameters.iter().map(|parameter| (parameter.value(), parameter.sql_type())).collect()
}
