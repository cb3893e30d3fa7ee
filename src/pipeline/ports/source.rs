//! Documents and their changes, as MongoDB provides them.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use mongodb::bson::{DateTime, RawDocument, Timestamp};

use crate::{
    error::Result,
    model::change::{Namespace, Position},
    source::{
        ChangeStream, Chunk, ChunkReader, CollectionChoice, CollectionInfo, Deployment, Documents, Lookup,
        Source, StreamBatch, StreamStart,
    },
};

/// Where documents and their changes come from. See [`Source`] for what each method promises.
#[async_trait]
pub(crate) trait DocumentSource: Send + Sync {
    fn hosts(&self) -> &str;
    fn newest(&self) -> Timestamp;
    fn elapsed_since(&self, then: DateTime) -> Duration;
    fn choice(&self, include: &[String], exclude: &[String]) -> Result<CollectionChoice>;

    async fn operation_time(&self) -> Result<Timestamp>;
    async fn oplog_start(&self) -> Result<Option<Timestamp>>;
    async fn secondaries_lag(&self) -> Result<Option<Duration>>;

    async fn names(&self, include: &[String], exclude: &[String]) -> Result<Vec<Namespace>>;
    async fn collections_now(&self, include: &[String], exclude: &[String]) -> Result<Vec<CollectionInfo>>;
    async fn measured(&self, listed: Vec<CollectionInfo>) -> Result<Vec<CollectionInfo>>;
    async fn deployment(&self, include: &[String], exclude: &[String]) -> Result<Deployment>;
    async fn says_what_became_of(&self, names: &BTreeSet<String>, since: Timestamp) -> Result<bool>;

    async fn start_of_copies(&self, namespaces: &[Namespace], copied: &[Namespace]) -> Result<Position>;
    async fn holds(&self, namespaces: &[Namespace], start: &StreamStart) -> Result<bool>;
    fn change_stream(&self, namespaces: &[Namespace], start: StreamStart) -> Box<dyn ChangeCursor>;

    async fn split(&self, collection: &CollectionInfo, chunk_bytes: u64) -> Result<Vec<Chunk>>;
    async fn sample_documents(
        &self,
        namespace: &Namespace,
        size: u32,
        observe: &mut (dyn for<'d> FnMut(&'d RawDocument) + Send),
    ) -> Result<()>;
    async fn read_chunk(
        &self,
        namespace: &Namespace,
        chunk: &Chunk,
        after: Timestamp,
        documents_per_reply: u32,
    ) -> Result<Box<dyn DocumentCursor>>;
    async fn read_ids(&self, namespace: &Namespace, after: Timestamp) -> Result<Box<dyn DocumentCursor>>;
    async fn lookup(
        &self,
        namespace: &Namespace,
        keys: &[&RawDocument],
        after: Timestamp,
    ) -> Result<Box<dyn LookupCursor>>;
    async fn lookup_at(
        &self,
        namespace: &Namespace,
        keys: &[&RawDocument],
        at: Timestamp,
    ) -> Result<Option<Box<dyn LookupCursor>>>;
}

/// Documents, reply by reply.
#[async_trait]
pub(crate) trait DocumentCursor: Send {
    /// `None`: there are no more.
    async fn next(&mut self) -> Result<Option<Documents>>;
}

/// Documents that were looked up.
pub(crate) trait LookupCursor: DocumentCursor {
    /// No state returned so far, nor, at the end, the absence of a document, is newer than this.
    fn operation_time(&self) -> Timestamp;
}

/// An open change stream.
#[async_trait]
pub(crate) trait ChangeCursor: Send {
    async fn next(&mut self) -> Result<StreamBatch>;
    fn trouble(&self) -> Option<String>;
}

#[async_trait]
impl DocumentSource for Source {
    fn hosts(&self) -> &str {
        self.hosts()
    }

    fn newest(&self) -> Timestamp {
        self.newest()
    }

    fn elapsed_since(&self, then: DateTime) -> Duration {
        self.elapsed_since(then)
    }

    fn choice(&self, include: &[String], exclude: &[String]) -> Result<CollectionChoice> {
        self.choice(include, exclude)
    }

    async fn operation_time(&self) -> Result<Timestamp> {
        self.operation_time().await
    }

    async fn oplog_start(&self) -> Result<Option<Timestamp>> {
        self.oplog_start().await
    }

    async fn secondaries_lag(&self) -> Result<Option<Duration>> {
        self.secondaries_lag().await
    }

    async fn names(&self, include: &[String], exclude: &[String]) -> Result<Vec<Namespace>> {
        self.names(include, exclude).await
    }

    async fn collections_now(&self, include: &[String], exclude: &[String]) -> Result<Vec<CollectionInfo>> {
        self.collections_now(include, exclude).await
    }

    async fn measured(&self, listed: Vec<CollectionInfo>) -> Result<Vec<CollectionInfo>> {
        self.measured(listed).await
    }

    async fn deployment(&self, include: &[String], exclude: &[String]) -> Result<Deployment> {
        self.deployment(include, exclude).await
    }

    async fn says_what_became_of(&self, names: &BTreeSet<String>, since: Timestamp) -> Result<bool> {
        self.says_what_became_of(names, since).await
    }

    async fn start_of_copies(&self, namespaces: &[Namespace], copied: &[Namespace]) -> Result<Position> {
        self.start_of_copies(namespaces, copied).await
    }

    async fn holds(&self, namespaces: &[Namespace], start: &StreamStart) -> Result<bool> {
        self.holds(namespaces, start).await
    }

    fn change_stream(&self, namespaces: &[Namespace], start: StreamStart) -> Box<dyn ChangeCursor> {
        Box::new(self.change_stream(namespaces, start))
    }

    async fn split(&self, collection: &CollectionInfo, chunk_bytes: u64) -> Result<Vec<Chunk>> {
        self.split(collection, chunk_bytes).await
    }

    async fn sample_documents(
        &self,
        namespace: &Namespace,
        size: u32,
        observe: &mut (dyn for<'d> FnMut(&'d RawDocument) + Send),
    ) -> Result<()> {
        self.sample_documents(namespace, size, |document| observe(document)).await
    }

    async fn read_chunk(
        &self,
        namespace: &Namespace,
        chunk: &Chunk,
        after: Timestamp,
        documents_per_reply: u32,
    ) -> Result<Box<dyn DocumentCursor>> {
        Ok(Box::new(self.read_chunk(namespace, chunk, after, documents_per_reply).await?))
    }

    async fn read_ids(&self, namespace: &Namespace, after: Timestamp) -> Result<Box<dyn DocumentCursor>> {
        Ok(Box::new(self.read_ids(namespace, after).await?))
    }

    async fn lookup(
        &self,
        namespace: &Namespace,
        keys: &[&RawDocument],
        after: Timestamp,
    ) -> Result<Box<dyn LookupCursor>> {
        Ok(Box::new(self.lookup(namespace, keys.iter().copied(), after).await?))
    }

    async fn lookup_at(
        &self,
        namespace: &Namespace,
        keys: &[&RawDocument],
        at: Timestamp,
    ) -> Result<Option<Box<dyn LookupCursor>>> {
        let lookup = self.lookup_at(namespace, keys.iter().copied(), at).await?;
        Ok(lookup.map(|lookup| Box::new(lookup) as Box<dyn LookupCursor>))
    }
}

#[async_trait]
impl ChangeCursor for ChangeStream {
    async fn next(&mut self) -> Result<StreamBatch> {
        self.next().await
    }

    fn trouble(&self) -> Option<String> {
        self.trouble()
    }
}

#[async_trait]
impl DocumentCursor for ChunkReader {
    async fn next(&mut self) -> Result<Option<Documents>> {
        self.next().await
    }
}

#[async_trait]
impl DocumentCursor for Lookup {
    async fn next(&mut self) -> Result<Option<Documents>> {
        self.next().await
    }
}

impl LookupCursor for Lookup {
    fn operation_time(&self) -> Timestamp {
        self.operation_time()
    }
}
