//! Which collections are replicated: globs over `database.collection`, the existing collections, and their
//! sizes.

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use mongodb::bson::{Bson, Document, doc, rawdoc};

use super::{
    ask::ReplyOptions,
    error,
    patterns::{NamespacePattern, nothing_matched},
    reply::{DOCUMENTS_PER_REPLY, REPLY_BYTES, malformed_reply},
    server::Source,
};
use crate::{
    error::{Code, Error, Result},
    model::change::Namespace,
};

/// How many collections are asked about at once.
pub(super) const AT_ONCE: usize = 16;

/// The server's own databases.
const SYSTEM_DATABASES: [&str; 3] = ["admin", "config", "local"];

/// A collection that can be replicated, and its size as the server estimates it.
#[derive(Clone, Debug)]
pub struct CollectionInfo {
    /// Its name.
    pub namespace: Namespace,
    /// About how many documents it has. After a crash of the server this may be far off.
    pub documents: u64,
    /// About how many bytes of BSON they have.
    pub bytes: u64,
    /// Whether its `_id` index has a collation, so that its keys are not the values themselves.
    pub(super) collated: bool,
}

impl CollectionInfo {
    #[cfg(test)]
    pub(crate) fn simulated(namespace: Namespace, documents: u64) -> Self {
        Self { namespace, documents, bytes: documents, collated: false }
    }

    /// How many documents make a reply of a good size.
    pub fn documents_per_reply(&self) -> u32 {
        let bytes = (self.bytes / self.documents.max(1)).max(1);
        u32::try_from((REPLY_BYTES / bytes).max(1)).unwrap_or(DOCUMENTS_PER_REPLY)
    }
}

impl Source {
    /// The collections whose `database.collection` matches a glob of `include` and none of `exclude`, sorted
    /// by name. A `*` matches everything, including dots. Without `include`: those of the URI's database, or,
    /// if it names none, all. Views, time-series and system collections are left out.
    ///
    /// For the start of a run, when a person is watching: oddities are warned of. Errors of
    /// [`Kind::Usage`](crate::error::Kind): a glob is malformed, nothing matches, or an exact name is of
    /// something that can't be replicated.
    pub async fn collections(&self, include: &[String], exclude: &[String]) -> Result<Vec<CollectionInfo>> {
        let selected = self.selected(include, exclude).await?;
        let stored = selected.into_iter().filter(ListedCollection::is_stored);
        self.measured(stored.map(ListedCollection::unmeasured).collect()).await
    }

    /// Whether there are any, with the same errors.
    pub async fn require_any(&self, include: &[String], exclude: &[String]) -> Result<()> {
        self.selected(include, exclude).await.map(drop)
    }

    async fn selected(&self, include: &[String], exclude: &[String]) -> Result<Vec<ListedCollection>> {
        let choice = self.choice(include, exclude)?;
        let found = self.find(&choice, ListingScope::Whole).await?;
        for ListedCollection { namespace, kind, .. } in &found.chosen {
            let CollectionKind::Other(kind) = kind else { continue };
            if choice.names(namespace) {
                return Err(Error::new(
                    Code::NotACollection,
                    format!(
                        "include {namespace}: it is a {kind}, which has no change stream: remove it from include"
                    ),
                ));
            }
            tracing::info!("{namespace} is left out: it is a {kind}, which has no change stream");
        }
        if !found.chosen.iter().any(ListedCollection::is_stored) {
            return Err(nothing_matched(self.hosts(), &choice.include, &found.others));
        }
        for pattern in choice.idle(&found.chosen) {
            // If other globs match, this is more often a mistake than intended.
            tracing::warn!("include {pattern}: matches no collection");
        }
        Ok(found.chosen)
    }

    /// The same collections later in the run, sorted by name: there may be none, or none for a while, and
    /// nothing is logged. Their sizes are still 0: see [`Self::measured`].
    pub async fn collections_now(
        &self,
        include: &[String],
        exclude: &[String],
    ) -> Result<Vec<CollectionInfo>> {
        let found = self.find(&self.choice(include, exclude)?, ListingScope::Whole).await?;
        let stored = found.chosen.into_iter().filter(ListedCollection::is_stored);
        let mut collections: Vec<_> = stored.map(ListedCollection::unmeasured).collect();
        collections.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        Ok(collections)
    }

    /// Whether the databases in question contain no collection at all: then a mistake in a glob is not the
    /// reason.
    pub async fn is_empty(&self, include: &[String], exclude: &[String]) -> Result<bool> {
        let found = self.find(&self.choice(include, exclude)?, ListingScope::Names).await?;
        let is_elsewhere = |other: &String| other.ends_with(".*");
        Ok(!found.chosen.iter().any(ListedCollection::is_stored) && found.others.iter().all(is_elsewhere))
    }

    /// Only their names, which costs the server next to nothing: for requests every few seconds.
    pub async fn names(&self, include: &[String], exclude: &[String]) -> Result<Vec<Namespace>> {
        let found = self.find(&self.choice(include, exclude)?, ListingScope::Names).await?;
        let stored = found.chosen.into_iter().filter(ListedCollection::is_stored);
        let mut names: Vec<_> = stored.map(|listed| listed.namespace).collect();
        names.sort();
        Ok(names)
    }

    /// The names of the others, because the user may have meant one of them: `database.*` where none was
    /// searched.
    pub async fn others(&self, include: &[String], exclude: &[String]) -> Result<Vec<String>> {
        Ok(self.find(&self.choice(include, exclude)?, ListingScope::Names).await?.others)
    }

    /// What these globs select. Errors: one of them is malformed.
    pub fn choice(&self, include: &[String], exclude: &[String]) -> Result<CollectionChoice> {
        let exclude = exclude.iter().map(|pattern| NamespacePattern::new("exclude", pattern));
        Ok(CollectionChoice { include: self.include(include)?, exclude: exclude.collect::<Result<_>>()? })
    }

    pub(super) async fn find(
        &self,
        choice: &CollectionChoice,
        listing: ListingScope,
    ) -> Result<FoundCollections> {
        let mut found = FoundCollections { chosen: Vec::new(), others: Vec::new() };
        let databases = self.databases(choice).await?;
        let (searched, elsewhere): (Vec<_>, Vec<_>) =
            databases.iter().partition(|database| choice.may_match_in(database));
        let listed: Vec<_> =
            searched.into_iter().map(|database| self.listed(database, listing).boxed()).collect();
        let listed: Vec<_> = stream::iter(listed).buffered(AT_ONCE).try_collect().await?;
        for listed in listed.into_iter().flatten() {
            let name = listed.namespace.to_string();
            if choice.matches(&name) {
                found.chosen.push(listed);
            } else {
                found.others.push(name);
            }
        }
        found.others.extend(elsewhere.into_iter().map(|database| format!("{database}.*")));
        Ok(found)
    }

    fn include(&self, include: &[String]) -> Result<Vec<NamespacePattern>> {
        match (include, &self.default_database) {
            ([], Some(database)) => {
                Ok(vec![NamespacePattern::new("include", &format!("{}.*", globset::escape(database)))?])
            }
            ([], None) => Ok(vec![NamespacePattern::new("include", "*.*")?]),
            (patterns, _) => {
                patterns.iter().map(|pattern| NamespacePattern::new("include", pattern)).collect()
            }
        }
    }

    /// The databases that this user may read, and those that `choice` names, so that it is an error if it may
    /// not read one of them: without any privilege on it, the server would not even list it, as if everything
    /// in it were dropped.
    pub(super) async fn databases(&self, choice: &CollectionChoice) -> Result<Vec<String>> {
        let request = self.request("list the databases", None);
        let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true };
        let reply = self.command(&request, "admin", command).await.map_err(|e| request.failed(&e))?;
        let databases = reply.get_array("databases").map_err(|_| malformed_reply())?;
        let name = |database: &Bson| database.as_document()?.get_str("name").ok().map(str::to_owned);
        let mut names: Vec<_> = databases.iter().filter_map(name).collect();
        names.extend(choice.include.iter().filter_map(NamespacePattern::database).map(str::to_owned));
        names.retain(|name| !SYSTEM_DATABASES.contains(&name.as_str()));
        names.sort();
        names.dedup();
        Ok(names)
    }

    pub(super) async fn listed(
        &self,
        database: &str,
        listing: ListingScope,
    ) -> Result<Vec<ListedCollection>> {
        let request = self.request(format!("list the collections of {database}"), Some(database));
        let command = rawdoc! { "listCollections": 1, "nameOnly": listing == ListingScope::Names };
        let replies = ReplyOptions { of_primary: true, ..ReplyOptions::default() };
        let listed = match self.all(&request, database, command, replies).await {
            // It is no valid name of a database, so it does not exist.
            Err(error) if error::code_of(&error) == Some(error::INVALID_NAMESPACE) => Vec::new(),
            listed => listed.map_err(|e| request.failed(&e))?,
        };
        Ok(listed.iter().filter_map(|entry| ListedCollection::new(database, entry)).collect())
    }

    /// The collections, sorted by name, with their sizes, which takes a question for each. Those that were
    /// dropped meanwhile are left out.
    pub async fn measured(&self, listed: Vec<CollectionInfo>) -> Result<Vec<CollectionInfo>> {
        let listed = listed.into_iter().map(|listed| self.measure(listed));
        let measured = stream::iter(listed).buffer_unordered(AT_ONCE);
        let measured: Vec<Option<CollectionInfo>> = measured.try_collect().await?;
        let mut collections: Vec<_> = measured.into_iter().flatten().collect();
        collections.sort_by(|a, b| a.namespace.cmp(&b.namespace));
        Ok(collections)
    }

    /// `None`: it was dropped after it was listed.
    pub(super) async fn measure(&self, listed: CollectionInfo) -> Result<Option<CollectionInfo>> {
        let CollectionInfo { namespace, collated, .. } = listed;
        let request = self.request_on("measure", &namespace);
        let command = rawdoc! {
            "aggregate": namespace.collection.as_str(),
            "pipeline": [
                { "$collStats": { "storageStats": {} } },
                { "$project": {
                    "documents": { "$toLong": "$storageStats.count" },
                    "bytes": { "$toLong": "$storageStats.size" },
                } },
            ],
            "cursor": {},
        };
        let shards = match self.all(&request, &namespace.database, command, ReplyOptions::default()).await {
            Err(error) if error::code_of(&error) == Some(error::NAMESPACE_NOT_FOUND) => return Ok(None),
            shards => shards.map_err(|e| request.failed(&e))?,
        };
        let sum = |field| {
            shards.iter().filter_map(|shard| u64::try_from(shard.get_i64(field).ok()?).ok()).sum::<u64>()
        };
        let (documents, bytes) = (sum("documents"), sum("bytes"));
        Ok(Some(CollectionInfo { namespace, documents, bytes, collated }))
    }
}

/// How much is requested about the listed collections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ListingScope {
    Whole,
    /// Without their options, for which the server would have to open each of them.
    Names,
}

/// The result of a listing.
pub(super) struct FoundCollections {
    /// What the globs match, of every kind.
    pub(super) chosen: Vec<ListedCollection>,
    /// What they don't match, for the error that nothing matches: names, or `database.*` where nothing was
    /// searched.
    others: Vec<String>,
}

/// The globs that select what is replicated.
pub struct CollectionChoice {
    include: Vec<NamespacePattern>,
    exclude: Vec<NamespacePattern>,
}

impl CollectionChoice {
    #[cfg(test)]
    pub(crate) fn everything() -> Result<Self> {
        Ok(Self { include: vec![NamespacePattern::new("include", "*.*")?], exclude: Vec::new() })
    }

    /// Whether they select a collection, `database.collection`.
    pub fn matches(&self, namespace: &str) -> bool {
        let any = |patterns: &[NamespacePattern]| patterns.iter().any(|pattern| pattern.matches(namespace));
        any(&self.include) && !any(&self.exclude)
    }

    pub(super) fn may_match_in(&self, database: &str) -> bool {
        self.include.iter().any(|pattern| pattern.may_match_in(database))
    }

    /// Whether a pattern of `include` is exactly this name.
    pub(super) fn names(&self, namespace: &Namespace) -> bool {
        self.include.iter().any(|pattern| pattern.text == namespace.to_string())
    }

    /// The patterns of `include` that match nothing that can be replicated.
    pub(super) fn idle<'a>(&'a self, chosen: &'a [ListedCollection]) -> impl Iterator<Item = &'a str> {
        let matches = |pattern: &NamespacePattern, listed: &ListedCollection| {
            listed.is_stored() && pattern.matches(&listed.namespace.to_string())
        };
        let idle = move |pattern: &&NamespacePattern| !chosen.iter().any(|listed| matches(pattern, listed));
        self.include.iter().filter(idle).map(|pattern| pattern.text.as_str())
    }
}

/// An entry of `listCollections`.
pub(super) struct ListedCollection {
    pub(super) namespace: Namespace,
    pub(super) kind: CollectionKind,
    /// Whether the server removes its oldest documents by itself.
    pub(super) capped: bool,
    collated: bool,
    /// Its UUID, which distinguishes it from another one of the same name.
    pub(super) uuid: Option<String>,
}

pub(super) enum CollectionKind {
    Stored,
    Other(String),
}

impl ListedCollection {
    fn is_stored(&self) -> bool {
        matches!(self.kind, CollectionKind::Stored)
    }

    pub(super) fn unmeasured(self) -> CollectionInfo {
        CollectionInfo { namespace: self.namespace, documents: 0, bytes: 0, collated: self.collated }
    }

    /// `None` for the server's own.
    fn new(database: &str, entry: &Document) -> Option<Self> {
        let name = entry.get_str("name").ok().filter(|name| !is_of_the_server(name))?;
        let kind = match entry.get_str("type") {
            Ok("timeseries") => CollectionKind::Other("time-series collection".to_owned()),
            Ok(kind) if kind != "collection" => CollectionKind::Other(kind.to_owned()),
            _ => CollectionKind::Stored,
        };
        let options = entry.get_document("options").ok();
        let collated = options.is_some_and(|options| options.contains_key("collation"));
        let capped = options.is_some_and(|options| options.get_bool("capped").unwrap_or(false));
        let uuid = match entry.get_document("info").ok().and_then(|info| info.get("uuid")) {
            Some(Bson::Binary(uuid)) => Some(uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
            _ => None,
        };
        Some(Self { namespace: Namespace::new(database, name), kind, capped, collated, uuid })
    }
}

/// Whether the server itself creates collections of such a name: its own, and those that it fills before it
/// renames them, for as long as that takes (`$out`, a rename to another database, `convertToCapped`,
/// mapReduce up to 4.2).
fn is_of_the_server(name: &str) -> bool {
    // `tmp`, five random letters or digits, and the purpose.
    let made_unique = || {
        let (random, purpose) = name.strip_prefix("tmp")?.split_at_checked(5)?;
        let is_random = random.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(is_random && (purpose == ".renameCollection" || purpose.starts_with(".convertToCapped.")))
    };
    name.starts_with("system.")
        || name.starts_with("tmp.mr.")
        || name.strip_prefix("tmp.agg_out.").is_some_and(is_uuid)
        || made_unique().unwrap_or(false)
}

fn is_uuid(text: &str) -> bool {
    let is_right = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap: while `$out` or a rename to another database is running, its collection looks like a new one.
    #[test]
    fn the_servers_temporary_collections_are_its_own() {
        for name in [
            "system.views",
            "tmp.agg_out.2f0c7c14-8c43-4bd0-9f0f-0ec9c34c8a55",
            "tmpV3xQ1.renameCollection",
            "tmpAb0cd.convertToCapped.orders",
            "tmp.mr.orders_17",
        ] {
            assert!(is_of_the_server(name), "{name}");
        }
        for name in [
            "tmp",
            "tmp_x",
            "tmp.agg_out.mine",
            "tmp.agg_out",
            "tmpV3x.renameCollection",
            "tmp_3xQ1.renameCollection",
            "tmpV3xQ1.renameCollections",
            "tmpüé.renameCollection",
            "x.tmp.mr.orders",
        ] {
            assert!(!is_of_the_server(name), "{name}");
        }
    }
}
