//! The folder of mapping files: TOML, one for each collection, whatever they are called.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Code, Error, Result},
    schema::MappingSpec,
};

/// Mapping files by collection, each with its path.
pub type MappingFiles = BTreeMap<String, (PathBuf, MappingSpec)>;

/// The mapping files in `dir`, which need not exist, by collection. Errors: a file can't be read, or is wrong; a collection
/// has two.
pub fn read(dir: &Path) -> Result<MappingFiles> {
    let (files, mut wrong) = read_all(dir);
    if wrong.is_empty() { Ok(files) } else { Err(wrong.swap_remove(0)) }
}

/// The same, with everything that is wrong.
pub fn read_all(dir: &Path) -> (MappingFiles, Vec<Error>) {
    let unreadable = |error: io::Error| {
        Error::caused(Code::MappingUnreadable, format!("read the mapping files in {}", dir.display()), error)
    };
    let (mut files, mut wrong) = (BTreeMap::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (files, wrong),
        Err(error) => return (files, vec![unreadable(error)]),
        Ok(entries) => entries,
    };
    for entry in entries {
        let read = entry.map_err(unreadable).and_then(|entry| {
            let file = entry.path();
            if file.extension().is_none_or(|extension| extension != "toml") {
                return Ok(());
            }
            let text = fs::read_to_string(&file).map_err(unreadable)?;
            let spec = MappingSpec::parse(&text, &file.display().to_string())?;
            let collection = spec.collection().to_string();
            match files.insert(collection.clone(), (file.clone(), spec)) {
                None => Ok(()),
                Some((other, _)) => {
                    let (file, other) = (file.display(), other.display());
                    let wrong = format!("{file}: {collection} has another mapping file, {other}");
                    Err(Error::new(Code::MappingTwice, wrong))
                }
            }
        });
        wrong.extend(read.err());
    }
    (files, wrong)
}
