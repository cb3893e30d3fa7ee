//! Reads rows back, as the server encodes them, for `docrow verify`.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use futures_util::TryStreamExt;
use tokio_postgres::{Row, Statement};

use super::cursor::RowCursor;
use crate::{
    error::{Error, Result},
    mapping::Rows,
    model::table::Table,
    sink::{
        Keys, RawValue, Session, Target,
        composite_array::CompositeArray,
        connection::sqlstate,
        tables::sql::{self, quote},
    },
};

/// A session that reads rows by document key. Prepares each table's statement once.
#[derive(Debug)]
pub struct Reader {
    session: Session,
    schema: String,
    statements: HashMap<String, Statement>,
    see: Option<Statement>,
}

impl Reader {
    /// Reads over `session`.
    pub fn new(session: Session, target: &Target) -> Self {
        Self { session, schema: target.schema().to_owned(), statements: HashMap::new(), see: None }
    }

    /// Reads over `session`, in which every statement finds its rows by an index, in the index's order: for
    /// many statements of the same few forms.
    pub async fn by_index(session: Session, target: &Target) -> Result<Self> {
        let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off; \
            SET plan_cache_mode = force_generic_plan; SET jit = off";
        let set = session.client.batch_execute(settings).await;
        set.map_err(|e| sqlstate::error("prepare to read rows", &e))?;
        Ok(Self::new(session, target))
    }

    /// The rows of the documents with these keys, in the order of the table's primary key, including those of
    /// deleted documents that stay. Read values with [`value`].
    pub async fn rows(&mut self, table: &Table, keys: &Keys) -> Result<Vec<Row>> {
        self.select(table, "true", keys).await
    }

    /// As [`Self::rows`], without the rows of deleted documents. `root` is the first of the collection's
    /// tables.
    pub async fn live_rows(&mut self, root: &Table, table: &Table, keys: &Keys) -> Result<Vec<Row>> {
        self.select(table, &sql::is_live(&self.schema, root, table), keys).await
    }

    /// Passes every row of the documents with these keys to `take`, table by table, each with its table's
    /// number, except those of deleted documents that stay. All tables are queried at once. Read values with
    /// [`value`].
    pub async fn live_rows_of_all(
        &mut self,
        tables: &[Table],
        keys: &Keys,
        mut take: impl FnMut(usize, &Row) -> Result<()>,
    ) -> Result<()> {
        let Some(root) = tables.first() else { return Ok(()) };
        let mut statements = Vec::with_capacity(tables.len());
        for table in tables {
            let live = sql::is_live(&self.schema, root, table);
            statements.push(self.prepare(&sql::select_unordered(&self.schema, table, &live)).await?);
        }
        let mut asked = Vec::with_capacity(tables.len());
        for statement in &statements {
            let mut answer = Box::pin(self.session.client.query_raw(statement, [CompositeArray::keys(keys)]));
            // A statement is sent when its future is polled for the first time.
            let early = poll_fn(|cx| Poll::Ready(answer.as_mut().poll(cx))).await;
            asked.push((answer, early));
        }
        for (number, ((answer, early), table)) in asked.into_iter().zip(tables).enumerate() {
            let fail = |e| sqlstate::error(format!("read rows of {}", quote(&table.name)), &e);
            let rows = match early {
                Poll::Ready(rows) => rows,
                Poll::Pending => answer.await,
            };
            let mut rows = pin!(rows.map_err(fail)?);
            while let Some(row) = rows.try_next().await.map_err(fail)? {
                take(number, &row)?;
            }
        }
        Ok(())
    }

    async fn select(&mut self, table: &Table, condition: &str, keys: &Keys) -> Result<Vec<Row>> {
        let statement = self.prepare(&sql::select(&self.schema, table, condition)).await?;
        let rows = self.session.client.query(&statement, &[&CompositeArray::keys(keys)]).await;
        rows.map_err(|e| sqlstate::error(format!("read rows of {}", quote(&table.name)), &e))
    }

    /// All rows of the documents with these keys, by the bytes of the key, in
    /// [`Framing::Copy`](crate::mapping::Framing::Copy), the input of a
    /// [`Rebuilder`](crate::mapping::Rebuilder). `tables` are those of a mapping. `None` as soon as they
    /// exceed `most` bytes.
    pub async fn documents(
        &mut self,
        tables: &[Table],
        keys: &Keys,
        most: usize,
    ) -> Result<Option<HashMap<Vec<u8>, Rows>>> {
        self.documents_where(tables, |_, _, _| "true".to_owned(), keys, most).await
    }

    /// As [`Self::documents`], without the rows of deleted documents.
    pub async fn live_documents(
        &mut self,
        tables: &[Table],
        keys: &Keys,
        most: usize,
    ) -> Result<Option<HashMap<Vec<u8>, Rows>>> {
        self.documents_where(tables, sql::is_live, keys, most).await
    }

    async fn documents_where(
        &mut self,
        tables: &[Table],
        condition: impl Fn(&str, &Table, &Table) -> String,
        keys: &Keys,
        most: usize,
    ) -> Result<Option<HashMap<Vec<u8>, Rows>>> {
        let Some(root) = tables.first() else { return Ok(Some(HashMap::new())) };
        let mut documents: HashMap<Vec<u8>, Rows> = HashMap::new();
        let mut bytes = 0;
        for (number, table) in tables.iter().enumerate() {
            let fail = |e| sqlstate::error(format!("read rows of {}", quote(&table.name)), &e);
            let condition = condition(&self.schema, root, table);
            let statement = self.prepare(&sql::select(&self.schema, table, &condition)).await?;
            let stream = self
                .session
                .client
                .query_raw(&statement, [CompositeArray::keys(keys)])
                .await
                .map_err(fail)?;
            let mut stream = pin!(stream);
            while let Some(row) = stream.try_next().await.map_err(fail)? {
                bytes += row.raw_size_bytes();
                if bytes > most {
                    return Ok(None);
                }
                let columns: Vec<_> = (0..row.len()).map(|i| value(&row, i)).collect::<Result<_>>()?;
                let key = columns.first().copied().flatten().unwrap_or_default();
                let rows = documents.entry(key.to_vec()).or_insert_with(|| Rows::new(tables.len()));
                if !rows.tables.get_mut(number).is_some_and(|rows| rows.push(&columns)) {
                    return Err(Error::bug(format!("read a row of {}: it is too large", quote(&table.name))));
                }
            }
        }
        Ok(Some(documents))
    }

    /// Starts to remember keys, for [`Self::unseen`], discarding earlier ones. `table` is one of the
    /// collection's: all begin with the same type of key.
    pub async fn forget_seen(&mut self, table: &Table) -> Result<()> {
        let fail = |e| sqlstate::error("prepare to remember keys", &e);
        let ty = table.columns.first().map_or_else(String::new, |key| key.ty.sql());
        let create =
            format!("DROP TABLE IF EXISTS pg_temp.docrow_seen; CREATE TEMP TABLE docrow_seen (key {ty})");
        self.session.client.batch_execute(&create).await.map_err(fail)?;
        let insert = format!("INSERT INTO pg_temp.docrow_seen SELECT * FROM unnest($1::{ty}[])");
        self.see = Some(self.session.client.prepare(&insert).await.map_err(fail)?);
        Ok(())
    }

    /// Remembers keys. A few thousand at a time cost least.
    pub async fn see(&mut self, keys: &Keys) -> Result<()> {
        let statement = self.see.as_ref().ok_or_else(|| Error::bug("remember keys: before forget_seen"))?;
        let seen = self.session.client.execute(statement, &[&CompositeArray::keys(keys)]).await;
        seen.map(drop).map_err(|e| sqlstate::error("remember keys", &e))
    }

    /// Finds the keys in `table` that were never remembered, each once; without those of deleted documents
    /// whose rows stay. `root` is the first of the collection's tables. Costs one scan of the table, whatever
    /// the number of pages.
    pub async fn unseen(&mut self, root: &Table, table: &Table) -> Result<UnseenKeys<'_>> {
        let Some(key) = table.columns.first() else {
            return Err(Error::bug("look for rows that belong to no document: no key column"));
        };
        let live = sql::is_live(&self.schema, root, table);
        let (key, name) = (quote(&key.name), sql::qualified(&self.schema, &table.name));
        // The root table has one row per key.
        let distinct = if table.key_columns == 1 { "" } else { "DISTINCT " };
        let question = format!(
            "SELECT {distinct}t.{key} FROM {name} t \
             WHERE NOT EXISTS (SELECT FROM pg_temp.docrow_seen s WHERE s.key = t.{key}) AND {live}"
        );
        self.pages("ANALYZE pg_temp.docrow_seen; SET LOCAL work_mem = '64MB'", &question, table).await
    }

    /// The keys of a random sample of about `percent` of a table's rows, each once; without those of deleted
    /// documents, and, for a child table, without those that have a row in the root table. The same `seed`
    /// gives the same rows of an unchanged table.
    pub async fn sampled(
        &mut self,
        root: &Table,
        table: &Table,
        percent: f64,
        seed: u64,
    ) -> Result<UnseenKeys<'_>> {
        let [Some(key), Some(own)] = [root, table].map(|table| table.columns.first()) else {
            return Err(Error::bug("sample rows: no key column"));
        };
        let (live, own) = (sql::is_live(&self.schema, root, table), quote(&own.name));
        let [name, root_name] = [table, root].map(|table| sql::qualified(&self.schema, &table.name));
        let rootless = if root == table {
            "true".to_owned()
        } else {
            format!("NOT EXISTS (SELECT FROM {root_name} r WHERE r.{} = t.{own})", quote(&key.name))
        };
        let question = format!(
            "SELECT DISTINCT t.{own} FROM {name} t TABLESAMPLE BERNOULLI ({percent}) REPEATABLE ({seed}) \
             WHERE {live} AND {rootless}"
        );
        self.pages("SET LOCAL work_mem = '64MB'", &question, table).await
    }

    async fn pages(&mut self, prepare: &str, question: &str, table: &Table) -> Result<UnseenKeys<'_>> {
        let fail = |e| sqlstate::error(looking(&table.name), &e);
        let cursor = RowCursor::open(&mut self.session, prepare, question, &[]).await.map_err(fail)?;
        Ok(UnseenKeys { cursor, table: table.name.clone() })
    }

    async fn prepare(&mut self, text: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.get(text) {
            return Ok(statement.clone());
        }
        let prepared = self.session.client.prepare(text).await;
        let statement = prepared.map_err(|e| sqlstate::error("prepare to read rows", &e))?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// The keys in a table that belong to no document, as of when they were searched. Holds no lock: they can be
/// deleted over another session meanwhile.
pub struct UnseenKeys<'a> {
    cursor: RowCursor<'a>,
    table: String,
}

impl UnseenKeys<'_> {
    /// At most `most` further keys; none: that was all.
    pub async fn next(&mut self, most: u16) -> Result<Keys> {
        let rows = self.cursor.next(most).await;
        first_column(&rows.map_err(|e| sqlstate::error(looking(&self.table), &e))?)
    }
}

fn looking(table: &str) -> String {
    format!("look for rows in {} that belong to no document", quote(table))
}

/// The values in the first column that are not NULL.
pub(super) fn first_column(rows: &[Row]) -> Result<Keys> {
    let mut keys = Keys::default();
    for row in rows {
        if let Some(bytes) = value(row, 0)? {
            keys.push(bytes);
        }
    }
    Ok(keys)
}

/// A column's value as the server encoded it, `None` for NULL.
pub fn value(row: &Row, column: usize) -> Result<Option<&[u8]>> {
    let raw = row.try_get::<_, Option<RawValue<'_>>>(column);
    raw.map(|value| value.map(|value| value.0)).map_err(|e| sqlstate::error("read a column", &e))
}
