//! The folder of mapping files: TOML, one for each collection, whatever they are called.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Kind, Result},
    schema::MappingSpec,
};

/// The mapping files in `dir`, which need not exist, by collection. Errors: a file can't be read, or is wrong; a collection
/// has two.
pub fn read(dir: &Path) -> Result<BTreeMap<String, (PathBuf, MappingSpec)>> {
    let unreadable = |error: io::Error| {
        Error::caused(Kind::Usage, format!("read the mapping files in {}", dir.display()), error)
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&file).map_err(unreadable)?;
        let spec = MappingSpec::parse(&text, &file.display().to_string())?;
        let collection = spec.collection().to_string();
        if let Some((other, _)) = files.insert(collection.clone(), (file.clone(), spec)) {
            let (file, other) = (file.display(), other.display());
            return Err(Error::usage(format!("{file}: {collection} has another mapping file, {other}")));
        }
    }
    Ok(files)
}
