//! Which mapping a collection gets: the one in force, that one with what its mapping file adds, the mapping
//! file's, or an automatic one.
//!
//! The mapping in force is stored in `docrow.schemas`, by version, so that a restart never guesses again. All
//! tables of a pipeline share one schema, so their names are unique across its collections.

use std::{collections::HashMap, pin::pin};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    config::{Config, DefaultMapping},
    error::{Code, Error, Result},
    mapping::Mapping,
    mapping_files::{self, MappingFiles},
    model::change::Namespace,
    pipeline::ports::DocumentSource,
    schema::{FieldPath, MappingSpec, Names, Sample, additions},
    sink::metadata::mapping_versions,
    source::{SAMPLE_SIZE, Source},
};

/// How many collections are sampled at once.
const SAMPLED_AT_ONCE: usize = 8;

/// The first line of an automatic mapping as it is stored: it may evolve; one that a user wrote does not.
const AUTOMATIC: &str = "# Mapped automatically.\n";

/// Whether docrow made the mapping that is stored as `text`.
pub fn is_automatic(text: &str) -> bool {
    text.starts_with(AUTOMATIC)
}

/// A mapping that is in force, or about to be.
#[derive(Clone, Debug)]
pub(crate) struct ActiveMapping {
    pub(crate) spec: MappingSpec,
    pub(crate) version: u16,
    /// Whether docrow made it.
    pub(crate) is_automatic: bool,
    /// The values that its tables have not yet taken out of `extra`.
    pub(crate) unfilled: Option<Unfilled>,
    /// The stored mapping, if this one comes after it: what to continue with if the tables can't follow.
    pub(crate) before: Option<Box<ActiveMapping>>,
}

/// The mappings of the prepared collections.
pub(crate) struct PreparedMappings {
    /// In the order of the collections.
    pub(crate) in_force: Vec<ActiveMapping>,
    /// Mappings to put in force once no session has a lock on the tables, by the collection's name.
    pub(crate) pending: HashMap<String, ActiveMapping>,
    /// The names of all tables.
    pub(crate) tables: Names,
}

/// Values for which a column or table exists, but which are still in `extra`, where they were before it did.
#[derive(Clone, Debug)]
pub(crate) enum Unfilled {
    /// Those of these fields.
    Fields(Vec<FieldPath>),
    /// Those of unknown fields.
    All,
}

impl ActiveMapping {
    /// The version as it is stored; `compiled` is its compiled mapping.
    pub(crate) fn record(&self, compiled: &Mapping) -> mapping_versions::Mapping {
        let head = if self.is_automatic { AUTOMATIC } else { "" };
        mapping_versions::Mapping {
            collection: self.spec.collection().to_string(),
            version: self.version,
            text: format!("{head}{}", self.spec.to_toml()),
            filled: self.unfilled.is_none(),
            stopped: None,
            masked_by: compiled.masked_by(),
        }
    }

    fn read(stored: &mapping_versions::Mapping) -> Result<Self> {
        let spec = MappingSpec::parse(&stored.text, "docrow.schemas").map_err(|e| {
            Error::new(
                Code::StoredUnreadable,
                format!("read the stored mapping of {}: {e}", stored.collection),
            )
        })?;
        Ok(Self {
            spec,
            version: stored.version,
            is_automatic: is_automatic(&stored.text),
            unfilled: (!stored.filled).then_some(Unfilled::All),
            before: None,
        })
    }

    /// The mapping with what its file, changed since, adds to it. Errors: the file does more than add.
    fn with_file(self, file: &MappingSpec) -> Result<Self> {
        if self.spec.settled() == *file {
            return Ok(Self { is_automatic: false, ..self });
        }
        let next = self.next(self.spec.beside(file), false);
        next.map_err(|differences| {
            Error::new(Code::MappingChanged, format!(
                "the mapping file of {} differs from the mapping that its tables were made with by more than new columns, \
                 new tables and wider types: restore it, or copy again under another pipeline name and schema: {}",
                self.spec.collection(),
                differences.join("; ")
            ))
        })
    }

    /// The version after this one. Errors: every way in which it does more than add.
    pub(super) fn next(&self, spec: MappingSpec, is_automatic: bool) -> Result<Self, Vec<String>> {
        let added = additions(&self.spec, &spec)?;
        let unfilled = match self.unfilled {
            None if added.fields.is_empty() => None,
            None => Some(Unfilled::Fields(added.fields)),
            Some(_) => Some(Unfilled::All),
        };
        let version = self.version.saturating_add(1);
        Ok(Self { spec, version, is_automatic, unfilled, before: Some(Box::new(self.clone())) })
    }
}

/// Checks that every mapping file is for a collection that is included, or of which the pipeline already has
/// a mapping: a slip in its name would silently leave masks out. Errors: a file is for no such collection,
/// and not optional.
pub(crate) async fn require_collections(
    config: &Config,
    files: &MappingFiles,
    source: &Source,
    stored: &[mapping_versions::Mapping],
) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let (include, exclude) = (&config.include, &config.exclude);
    let included: Vec<_> = source.names(include, exclude).await?.iter().map(ToString::to_string).collect();
    let is_known = |name: &str| {
        included.iter().any(|own| own == name) || stored.iter().any(|mapping| mapping.collection == name)
    };
    if mapping_files::for_nothing(files, is_known, &[]).next().is_none() {
        return Ok(());
    }
    let names = [included.clone(), source.others(include, exclude).await?].concat();
    mapping_files::for_nothing(files, is_known, &names).next().map_or(Ok(()), Err)
}

/// The mappings of a pipeline.
pub(crate) struct Mappings {
    /// The stored mappings, with what their files have added since.
    in_force: HashMap<String, ActiveMapping>,
    files: HashMap<String, MappingSpec>,
    /// The mappings made from samples.
    sampled: HashMap<String, ActiveMapping>,
    /// The names of all tables.
    pub(crate) tables: Names,
    default: DefaultMapping,
}

impl Mappings {
    /// Combines the stored mappings and the mapping files.
    ///
    /// Errors: a file does more than add to the mapping in force; two collections want one table; values were
    /// masked with another key.
    pub(crate) fn load(
        stored: &[mapping_versions::Mapping],
        config: &Config,
        files: &MappingFiles,
    ) -> Result<Self> {
        let files: HashMap<_, _> =
            files.iter().map(|(name, file)| (name.clone(), file.spec.clone())).collect();
        let mut in_force = HashMap::new();
        for stored in stored {
            config.check_mask_key(&stored.collection, stored.masked_by.as_deref())?;
            let mut mapping = ActiveMapping::read(stored)?;
            if let Some(file) = files.get(&stored.collection) {
                mapping = mapping.with_file(file)?;
            }
            in_force.insert(stored.collection.clone(), mapping);
        }
        let mut tables = Names::new();
        let new = files.iter().filter(|(name, _)| !in_force.contains_key(*name)).map(|(_, spec)| spec);
        for spec in in_force.values().map(|mapping| &mapping.spec).chain(new) {
            for name in table_names(spec) {
                if !tables.reserve(name) {
                    return Err(Error::new(
                        Code::TableShared,
                        format!(
                            "table {name} of {}: another collection has a table of that name: rename one of them",
                            spec.collection()
                        ),
                    ));
                }
            }
        }
        let (sampled, default) = (HashMap::new(), config.default_mapping);
        Ok(Self { in_force, files, sampled, tables, default })
    }

    /// Takes over the mappings that `earlier` has made from samples, for collections that still have none:
    /// what the user was shown is then what is made.
    pub(super) fn take_samples(&mut self, earlier: Self) {
        for (name, mapping) in earlier.sampled {
            let is_mapped = self.in_force.contains_key(&name) || self.files.contains_key(&name);
            if !is_mapped && table_names(&mapping.spec).all(|table| self.tables.reserve(table)) {
                self.sampled.insert(name, mapping);
            }
        }
    }

    /// A collection's stored mapping, if there is one.
    pub(crate) fn stored(&self, collection: &str) -> Option<&ActiveMapping> {
        let in_force = self.in_force.get(collection)?;
        Some(in_force.before.as_deref().unwrap_or(in_force))
    }

    /// A collection's stored mapping, if nothing comes after it.
    pub(crate) fn unchanged(&self, collection: &str) -> Option<&ActiveMapping> {
        self.in_force.get(collection).filter(|mapping| mapping.before.is_none())
    }

    /// A collection's mapping, made from a sample of its documents if there is none yet.
    pub(crate) async fn mapping_for(
        &mut self,
        source: &dyn DocumentSource,
        collection: &Namespace,
    ) -> Result<ActiveMapping> {
        let name = collection.to_string();
        if let Some(mapping) = self.in_force.get(&name).or_else(|| self.sampled.get(&name)) {
            return Ok(mapping.clone());
        }
        if let Some(spec) = self.files.get(&name) {
            let (spec, is_automatic) = (spec.clone(), false);
            return Ok(ActiveMapping { spec, version: 1, is_automatic, unfilled: None, before: None });
        }
        let sample = sample(source, collection).await?;
        Ok(self.infer(collection, &sample))
    }

    /// Whether a collection has no stored mapping.
    pub(crate) fn is_new(&self, collection: &str) -> bool {
        !self.in_force.contains_key(collection)
    }

    /// Makes mappings from samples for those of these collections that have none, of which several are
    /// sampled at once.
    pub(crate) async fn sample_all(
        &mut self,
        source: &dyn DocumentSource,
        collections: &[Namespace],
    ) -> Result<()> {
        let has_one = |name: &String| {
            [&self.in_force, &self.sampled].iter().any(|known| known.contains_key(name))
                || self.files.contains_key(name)
        };
        let without: Vec<_> = collections.iter().filter(|name| !has_one(&name.to_string())).collect();
        let samples = without.into_iter().map(async |name| Ok((name, sample(source, name).await?)));
        let mut samples = pin!(stream::iter(samples).buffered(SAMPLED_AT_ONCE));
        while let Some((name, sample)) = samples.try_next().await? {
            self.infer(name, &sample);
        }
        Ok(())
    }

    /// Makes a collection's mapping from a sample of its documents.
    fn infer(&mut self, collection: &Namespace, sample: &Sample) -> ActiveMapping {
        let (name, spec) =
            (collection.to_string(), infer(self.default, sample, collection, &mut self.tables));
        let tables: Vec<_> = table_names(&spec).collect();
        tracing::info!("{name}: mapped automatically to {}", tables.join(", "));
        let mapping = ActiveMapping { spec, version: 1, is_automatic: true, unfilled: None, before: None };
        self.sampled.insert(name, mapping.clone());
        mapping
    }

    /// The mapping that docrow would make for a collection, if no name were taken.
    pub(crate) fn inferred(&self, sample: &Sample, collection: &Namespace) -> MappingSpec {
        infer(self.default, sample, collection, &mut Names::new())
    }

    /// Forgets a collection's mapping in force, and the names of its tables: the collection is new.
    pub(crate) fn forget(&mut self, collection: &Namespace) {
        if let Some(forgotten) = self.in_force.remove(&collection.to_string()) {
            table_names(&forgotten.spec).for_each(|name| self.tables.release(name));
        }
    }
}

async fn sample(source: &dyn DocumentSource, collection: &Namespace) -> Result<Sample> {
    let mut sample = Sample::new();
    source.sample_documents(collection, SAMPLE_SIZE, &mut |document| sample.observe(document)).await?;
    Ok(sample)
}

fn infer(
    default: DefaultMapping,
    sample: &Sample,
    collection: &Namespace,
    tables: &mut Names,
) -> MappingSpec {
    match default {
        DefaultMapping::Auto => sample.spec(collection, tables),
        DefaultMapping::Document(json) => sample.document_spec(collection, json, tables),
    }
}

fn table_names(spec: &MappingSpec) -> impl Iterator<Item = &str> {
    spec.tables().map(|table| table.table.as_str())
}
