//! The proof: compares every document of every included collection with its rows, in full.
//!
//! For each document it is computed anew which rows the mapping in force makes of it; they are compared with those in
//! the tables column by column, by the bytes in which PostgreSQL sends them (`jsonb` by its content). Then every table
//! is searched for rows that belong to no document. A document with a dead letter has no rows; nor, where deletes are soft,
//! has one that was deleted: those that stay, marked in the root, do not count.
//!
//! Both sides are read while they live. What is written during the comparison may show as a difference: compare when the
//! pipeline has caught up and writes are few, or compare again.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use bytes::BytesMut;
use mongodb::bson::RawDocument;
use tokio::time::{Instant, sleep};
use tokio_postgres::Row;

use crate::{
    change::Namespace,
    config::Config,
    error::{Error, Result},
    key,
    mapping::{Encoder, Framing, Mapping, Rows, Scalar, Table, TableRows, Tuple, same_value},
    schema::MappingSpec,
    shutdown::Shutdown,
    sink::{
        Keys, Session, Target,
        dead_letter::{self, DeadKeys},
        read::{self, Reader},
        schemas,
    },
    source::{Chunk, CollectionInfo, Source},
    telemetry::Reporter,
};

/// Documents that are compared at a time, and about how many bytes of rows they may make.
const BATCH_DOCUMENTS: usize = 500;
const BATCH_BYTES: usize = 8 << 20;
/// Differences that are kept for the report; further ones are counted.
const KEPT: u16 = 1_000;
/// How long to wait for new columns to be filled.
const FILLING: Duration = Duration::from_secs(30);

/// What the comparison of a collection found.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The collection.
    pub namespace: Namespace,
    /// Documents read.
    pub documents: u64,
    /// Rows found, in all tables.
    pub rows: u64,
    /// Documents that are dead letters.
    pub dead_letters: u64,
    /// How many differences there are.
    pub different: u64,
    /// The first thousand of them.
    pub differences: Vec<Difference>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The key of the document, as the table's first column shows it.
    pub key: String,
    /// What is different.
    pub what: What,
}

/// What can be different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The document should have a row that is not there.
    MissingRow,
    /// There is a row that the document should not have.
    ExtraRow,
    /// There are rows of a document that does not exist.
    NoDocument,
    /// A row has another value in this column.
    Column(String),
    /// The document can't have rows, and has no dead letter.
    NoDeadLetter,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, key, what } = self;
        match what {
            What::MissingRow => write!(f, "{table}, key {key}: a row is missing"),
            What::ExtraRow => write!(f, "{table}, key {key}: a row too many"),
            What::NoDocument => write!(f, "{table}, key {key}: no such document"),
            What::Column(column) => write!(f, "{table}, key {key}: column {column} differs"),
            What::NoDeadLetter => write!(f, "{table}, key {key}: can't have rows, and is no dead letter"),
        }
    }
}

/// Compares the included collections. Errors: a server is away or refuses; a collection has never been copied by this
/// pipeline. Ends early, with what it has compared so far, when it is told to stop.
pub async fn run(config: &Config, reporter: &Reporter, shutdown: &Shutdown) -> Result<Vec<Compared>> {
    let source = Source::connect(config.source.expose()).await?;
    let found = source.collections(&config.include, &config.exclude).await?;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let session = target.connect().await?;
    let mut reader = Reader::new(target.connect().await?, &target);
    let mut compared = Vec::with_capacity(found.len());
    for info in &found {
        let name = info.namespace.to_string();
        let mut in_force = mapping_of(&session, &target, &name).await?;
        let dead = dead_letter::keys(&session, target.pipeline()).await?;
        let finished = loop {
            let spec = MappingSpec::parse(&in_force.text, "docrow.schemas")?;
            let mapping = Arc::new(config.compile(&spec)?);
            let mut comparison = Comparison::new(info, mapping, &dead, &mut reader);
            let bar = reporter.bar(format!("verifying {name}"), info.documents, 0, "documents");
            let run = comparison.run(&source, |documents| bar.inc(documents), shutdown).await;
            bar.finish_and_clear();
            let finished = comparison.compared;
            let now = mapping_of(&session, &target, &name).await?;
            // Rows of two versions, or values that are still to be moved into a new column, show as differences; a column
            // whose type changes, as an error.
            if now == in_force || shutdown.is_requested() || (run.is_ok() && finished.different == 0) {
                run?;
                break finished;
            }
            tracing::info!("{name}: was mapped anew meanwhile: comparing again");
            in_force = now;
            reader = Reader::new(target.connect().await?, &target);
        };
        compared.push(finished);
        if shutdown.is_requested() {
            break;
        }
    }
    Ok(compared)
}

/// The mapping in force of a collection. Waits for new columns that are just being filled, but not for ever: who fills
/// them may have been killed.
async fn mapping_of(session: &Session, target: &Target, collection: &str) -> Result<schemas::Mapping> {
    let pipeline = target.pipeline();
    let deadline = Instant::now() + FILLING;
    loop {
        let stored = schemas::load(session, pipeline).await?;
        let mapping =
            stored.into_iter().find(|mapping| mapping.collection == collection).ok_or_else(|| {
                let advice = "copy it with docrow run or backfill, or name the collections by --include";
                Error::usage(format!("{collection} has not been copied by pipeline {pipeline}: {advice}"))
            })?;
        if mapping.filled {
            return Ok(mapping);
        }
        if Instant::now() > deadline {
            tracing::warn!("{collection}: new columns are not filled yet; docrow run goes on with that");
            return Ok(mapping);
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The comparison of one collection.
struct Comparison<'a> {
    /// The collection's name.
    name: String,
    documents_per_reply: u32,
    mapping: Arc<Mapping>,
    encoder: Encoder,
    reader: &'a mut Reader,
    /// The documents with a dead letter, of all collections.
    dead: &'a DeadKeys,
    /// The rows that there should be of the documents in `keys`.
    expected: Rows,
    keys: Keys,
    key: BytesMut,
    compared: Compared,
}

impl<'a> Comparison<'a> {
    fn new(info: &CollectionInfo, mapping: Arc<Mapping>, dead: &'a DeadKeys, reader: &'a mut Reader) -> Self {
        let compared = Compared {
            namespace: info.namespace.clone(),
            documents: 0,
            rows: 0,
            dead_letters: 0,
            different: 0,
            differences: Vec::new(),
        };
        let encoder = Encoder::new(mapping.clone(), Framing::Copy);
        let expected = Rows::new(mapping.tables().len());
        Self {
            name: info.namespace.to_string(),
            documents_per_reply: info.documents_per_reply(),
            mapping,
            encoder,
            reader,
            dead,
            expected,
            keys: Keys::default(),
            key: BytesMut::new(),
            compared,
        }
    }

    async fn run(&mut self, source: &Source, progress: impl Fn(u64), shutdown: &Shutdown) -> Result<()> {
        let mapping = self.mapping.clone();
        let [root, ..] = mapping.tables() else { return Ok(()) };
        self.reader.forget_seen(root).await?;
        let now = source.operation_time().await?;
        let mut documents = source
            .read_chunk(&self.compared.namespace, &Chunk::whole(), now, self.documents_per_reply)
            .await?;
        while let Some(batch) = documents.next().await? {
            for document in batch.iter()? {
                self.expect(document?)?;
                progress(1);
                if self.keys.count >= BATCH_DOCUMENTS || self.expected.byte_len() >= BATCH_BYTES {
                    self.compare().await?;
                }
            }
            if shutdown.is_requested() {
                return Ok(());
            }
        }
        self.compare().await?;
        for table in mapping.tables() {
            for key in self.reader.unseen(root, table).await?.next(KEPT).await?.iter() {
                self.compared.add(table, key, What::NoDocument);
            }
        }
        Ok(())
    }

    /// Adds the rows that there should be of a document.
    fn expect(&mut self, document: &RawDocument) -> Result<()> {
        self.compared.documents += 1;
        self.key.clear();
        let has_key = self.encoder.encode_key(document, &mut self.key).is_ok();
        if has_key {
            self.keys.push(&self.key);
        }
        let is_dead =
            self.dead.count(&self.name) > 0 && self.dead.contains(&self.name, &key::id_text(document)?);
        if is_dead {
            self.compared.dead_letters += 1;
        } else if self.encoder.encode(document, &mut self.expected).is_err()
            && let Some(root) = self.mapping.tables().first()
        {
            let key = if has_key { shown(&self.key, key_of(root)) } else { key::id_text(document)? };
            self.compared.add_shown(root, key, What::NoDeadLetter);
        }
        Ok(())
    }

    /// Compares the rows of the documents in `keys`, and forgets them.
    async fn compare(&mut self) -> Result<()> {
        let mapping = self.mapping.clone();
        let [root, ..] = mapping.tables() else { return Ok(()) };
        for (table, expected) in mapping.tables().iter().zip(&self.expected.tables) {
            let found = self.reader.live_rows(root, table, &self.keys).await?;
            self.compared.compare(table, expected, &found)?;
        }
        self.reader.see(&self.keys).await?;
        self.keys.clear();
        self.expected.clear();
        Ok(())
    }
}

impl Compared {
    fn compare(&mut self, table: &Table, expected: &TableRows, found: &[Row]) -> Result<()> {
        let mut missing: HashMap<Vec<u8>, Tuple<'_>> = HashMap::with_capacity(expected.count);
        for tuple in expected.tuples() {
            missing.insert(primary_key(tuple.columns(), table), tuple);
        }
        for row in found {
            self.rows += 1;
            let values = (0..table.columns.len()).map(|column| read::value(row, column));
            let values = values.collect::<Result<Vec<_>>>()?;
            let key = values.first().copied().flatten().unwrap_or_default();
            let Some(tuple) = missing.remove(&primary_key(values.iter().copied(), table)) else {
                self.add(table, key, What::ExtraRow);
                continue;
            };
            for ((column, wanted), is) in table.columns.iter().zip(tuple.columns()).zip(&values) {
                if !same_value(column.ty, wanted, *is) {
                    self.add(table, key, What::Column(column.name.clone()));
                }
            }
        }
        for tuple in missing.values() {
            let key = tuple.columns().next().flatten().unwrap_or_default();
            self.add(table, key, What::MissingRow);
        }
        Ok(())
    }

    fn add(&mut self, table: &Table, key: &[u8], what: What) {
        self.add_shown(table, shown(key, key_of(table)), what);
    }

    fn add_shown(&mut self, table: &Table, key: String, what: What) {
        self.different += 1;
        if self.differences.len() < usize::from(KEPT) {
            self.differences.push(Difference { table: table.name.clone(), key, what });
        }
    }
}

fn key_of(table: &Table) -> Option<Scalar> {
    table.columns.first().map(|column| column.ty.scalar)
}

/// The leading columns of a row in one piece.
fn primary_key<'a>(columns: impl Iterator<Item = Option<&'a [u8]>>, table: &Table) -> Vec<u8> {
    let mut key = Vec::new();
    for column in columns.take(table.key_columns).map(Option::unwrap_or_default) {
        key.extend_from_slice(&column.len().to_be_bytes());
        key.extend_from_slice(column);
    }
    key
}

/// A key for a person to read.
fn shown(key: &[u8], ty: Option<Scalar>) -> String {
    let hex = || key.iter().map(|byte| format!("{byte:02x}")).collect();
    match ty {
        Some(Scalar::Bigint) => {
            key.try_into().map_or_else(|_| hex(), |bytes| i64::from_be_bytes(bytes).to_string())
        }
        Some(Scalar::Integer) => {
            key.try_into().map_or_else(|_| hex(), |bytes| i32::from_be_bytes(bytes).to_string())
        }
        Some(Scalar::Text) | None => String::from_utf8_lossy(key).into_owned(),
        Some(_) => hex(),
    }
}
