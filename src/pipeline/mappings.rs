//! Which mapping a collection gets: the one in force, else the one in the mapping file, else an automatic one.
//!
//! The mapping in force is stored in `docrow.schemas` when a collection is first prepared, so that a restart never
//! guesses anew. All tables of a pipeline share one schema, so their names are unique across its collections.

use std::{collections::HashMap, fs, io, path::Path};

use crate::{
    change::Namespace,
    error::{Error, Kind, Result},
    schema::{MappingSpec, Names, Sample},
    sink::schemas,
    source::{SAMPLE_SIZE, Source},
};

/// The mappings of a pipeline.
pub(super) struct Mappings {
    in_force: HashMap<String, MappingSpec>,
    files: HashMap<String, MappingSpec>,
    tables: Names,
}

impl Mappings {
    /// Reads the stored mappings and the mapping files in `dir`, which need not exist.
    ///
    /// Errors: a file is wrong; a file differs from the mapping in force; two collections want one table.
    pub(super) fn load(stored: &[schemas::Mapping], dir: &Path) -> Result<Self> {
        let mut in_force = HashMap::new();
        for mapping in stored {
            let spec =
                MappingSpec::parse(&mapping.text, "docrow.schemas").map_err(|e| corrupt(mapping, &e))?;
            in_force.insert(mapping.collection.clone(), spec);
        }
        let files = read_files(dir)?;
        if let Some((collection, _)) =
            files.iter().find(|(name, spec)| in_force.get(*name).is_some_and(|stored| stored != *spec))
        {
            return Err(Error::usage(format!(
                "the mapping file of {collection} differs from the mapping that its tables were made with: changing it \
                 is not supported yet; restore it, or copy anew under another pipeline name and schema"
            )));
        }
        let mut tables = Names::new();
        let unstored = files.iter().filter(|(name, _)| !in_force.contains_key(*name)).map(|(_, spec)| spec);
        for spec in in_force.values().chain(unstored) {
            for name in table_names(spec) {
                if !tables.reserve(name) {
                    return Err(Error::usage(format!(
                        "table {name} of {}: another collection has a table of that name: rename one of them",
                        spec.collection()
                    )));
                }
            }
        }
        Ok(Self { in_force, files, tables })
    }

    /// The mapping of a collection, made from a sample of its documents if nobody wrote one.
    pub(super) async fn of(&mut self, source: &Source, collection: &Namespace) -> Result<MappingSpec> {
        let name = collection.to_string();
        if let Some(spec) = self.in_force.get(&name).or_else(|| self.files.get(&name)) {
            return Ok(spec.clone());
        }
        let mut sample = Sample::new();
        source.sample_documents(collection, SAMPLE_SIZE, |document| sample.observe(document)).await?;
        let spec = sample.spec(collection, &mut self.tables);
        let tables: Vec<_> = table_names(&spec).collect();
        tracing::info!("{name}: mapped automatically to {}", tables.join(", "));
        Ok(spec)
    }
}

fn table_names(spec: &MappingSpec) -> impl Iterator<Item = &str> {
    std::iter::once(spec.root()).chain(spec.children()).map(|table| table.table.as_str())
}

/// The mapping files of a directory, by collection.
fn read_files(dir: &Path) -> Result<HashMap<String, MappingSpec>> {
    let unreadable = |error: io::Error| {
        Error::caused(Kind::Usage, format!("read the mapping files in {}", dir.display()), error)
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = HashMap::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        let spec = MappingSpec::parse(&text, &path.display().to_string())?;
        let collection = spec.collection().to_string();
        if files.insert(collection.clone(), spec).is_some() {
            return Err(Error::usage(format!(
                "{}: {collection} has another mapping file too",
                path.display()
            )));
        }
    }
    Ok(files)
}

fn corrupt(mapping: &schemas::Mapping, error: &Error) -> Error {
    Error::new(Kind::StateCorrupt, format!("read the stored mapping of {}: {error}", mapping.collection))
}
