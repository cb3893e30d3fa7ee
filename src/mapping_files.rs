//! The folder of mapping files: TOML, one for each collection, under any name.
//!
//! A mapping that is not applied is worse than none: values that it masks would be written in clear. So
//! nothing that looks like a mapping file is ignored: a configured folder that does not exist, a file with
//! another ending, an unknown collection ([`for_nothing`]) are errors.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    config::MappingDir,
    error::{Code, Error, Result},
    schema::{self, MappingSpec, WrittenMapping},
};

/// The ending of mapping files.
const ENDING: &str = "toml";

/// A mapping file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingFile {
    /// Its path.
    pub path: PathBuf,
    /// Its content.
    pub spec: MappingSpec,
    /// Whether its collection may be missing.
    pub is_optional: bool,
}

/// Mapping files by collection.
pub type MappingFiles = BTreeMap<String, MappingFile>;

/// The mapping files in `dir`, by collection. Errors: the folder does not exist though it must; a file can't
/// be read, is wrong, or has another ending; a collection has two.
pub fn read(dir: &MappingDir) -> Result<MappingFiles> {
    let (files, mut wrong) = read_all(dir);
    if wrong.is_empty() { Ok(files) } else { Err(wrong.swap_remove(0)) }
}

/// The same, with all errors.
pub fn read_all(dir: &MappingDir) -> (MappingFiles, Vec<Error>) {
    let MappingDir { path: dir, must_exist } = dir;
    let unreadable = |error: io::Error| {
        Error::caused(Code::MappingUnreadable, format!("read the mapping files in {}", dir.display()), error)
    };
    let (mut files, mut others, mut wrong) = (BTreeMap::new(), Vec::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return (files, wrong),
        Err(error) => return (files, vec![unreadable(error)]),
        Ok(entries) => entries,
    };
    for entry in entries {
        let read = entry.map_err(unreadable).and_then(|entry| {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != ENDING) {
                others.push(path);
                return Ok(());
            }
            let text = fs::read_to_string(&path).map_err(unreadable)?;
            let WrittenMapping { spec, is_optional } =
                WrittenMapping::parse(&text, &path.display().to_string())?;
            let collection = spec.collection().to_string();
            match files.insert(collection.clone(), MappingFile { path: path.clone(), spec, is_optional }) {
                None => Ok(()),
                Some(MappingFile { path: other, .. }) => {
                    let (file, other) = (path.display(), other.display());
                    let wrong = format!("{file}: {collection} has another mapping file, {other}");
                    Err(Error::new(Code::MappingTwice, wrong))
                }
            }
        });
        wrong.extend(read.err());
    }
    others.sort();
    wrong.extend(others.iter().filter_map(|path| misnamed(path, &files)));
    (files, wrong)
}

/// The error that a file is a mapping file, by its content or by an almost correct ending, but has the wrong
/// name for one. Editors' copies of another file don't count.
fn misnamed(path: &Path, files: &MappingFiles) -> Option<Error> {
    let name = path.file_name()?.to_string_lossy();
    if name.starts_with('.') || name.ends_with('~') || !path.is_file() {
        return None;
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let is_near = ending.is_some_and(|ending| schema::nearest(&ending, [ENDING]).is_some());
    match WrittenMapping::collection_of(&text) {
        Some(collection) if files.contains_key(&collection) => return None,
        None if !is_near => return None,
        _ => {}
    }
    let (file, right) = (path.display(), path.with_extension(ENDING));
    let advice = format!("rename it to {}, or move it elsewhere", right.display());
    Some(Error::new(
        Code::MappingEnding,
        format!("{file}: it would not be used, because mapping files end in .{ENDING}: {advice}"),
    ))
}

/// The errors of files for collections that are not `known`, unless they are optional. `names` are those of
/// the existing collections, included or not.
pub fn for_nothing<'a>(
    files: &'a MappingFiles,
    known: impl Fn(&str) -> bool + 'a,
    names: &'a [String],
) -> impl Iterator<Item = Error> + 'a {
    let unknown = files.iter().filter(move |(name, file)| !file.is_optional && !known(name));
    unknown.map(|(collection, MappingFile { path, .. })| {
        let what = if names.contains(collection) {
            "is not included: include it".to_owned()
        } else {
            let near = schema::nearest(collection, names.iter().map(String::as_str));
            let near = near.map_or_else(String::new, |near| format!(": is {near} meant? Else"));
            format!("does not exist{near}")
        };
        let (file, or) = (path.display(), if what.ends_with("Else") { "" } else { "," });
        Error::new(
            Code::MappingForNothing,
            format!(
                "{file}: it is for {collection}, which {what}{or} remove the file, or set optional = true in \
                 it if the collection is created later"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "collection = 'shop.users'\ntable = 'users'\nextra = '_extra'\n\
        [key]\ncolumn = 'id'\ntype = 'bigint'\n";

    /// The mapping files of a folder with these files, and its errors.
    fn found(files: &[(&str, &str)]) -> (MappingFiles, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let dir = MappingDir { path: folder.path().to_owned(), must_exist: true };
        let (files, wrong) = read_all(&dir);
        let shown = |error: Error| {
            let text = error.to_string().replace(&format!("{}/", folder.path().display()), "");
            format!("{} {text}", error.code())
        };
        (files, wrong.into_iter().map(shown).collect())
    }

    #[test]
    fn a_folder_that_is_named_must_be_there() {
        let path = PathBuf::from("/nonexistent/schemas");
        let error = read(&MappingDir { path: path.clone(), must_exist: true }).unwrap_err();
        assert_eq!(error.code(), Code::MappingUnreadable);
        assert!(error.to_string().contains("/nonexistent/schemas: No such file"), "{error}");
        assert!(read(&MappingDir { path, must_exist: false }).unwrap().is_empty());
    }

    #[test]
    fn a_mapping_file_with_a_wrong_ending_is_named() {
        for name in ["users.tml", "users.TOML", "users.toml.txt", "users", "users.yaml"] {
            let (files, wrong) = found(&[(name, USERS)]);
            assert!(files.is_empty() && wrong.len() == 1, "{name}: {wrong:?}");
            assert!(wrong[0].starts_with(&format!("DRW-1213 {name}: it would not be used")), "{wrong:?}");
        }
        // Whatever its content.
        assert_eq!(found(&[("users.tml", "collection = ")]).1.len(), 1);
        // Beside the right one it is a copy of it.
        let copies = [("users.toml", USERS), ("users.toml.bak", USERS), ("users.toml.orig", "x = 1")];
        assert_eq!(found(&copies).1, [""; 0]);
        for other in ["README.md", ".users.toml.swp", "users.toml~", ".gitkeep", "notes.txt"] {
            let text = if other.contains("users") { USERS } else { "collection of notes" };
            assert_eq!(found(&[(other, text)]).1, [""; 0], "{other}");
        }
    }

    #[test]
    fn a_file_for_no_collection_is_named_with_the_nearest_one() {
        let names = ["shop.user".to_owned(), "shop.orders".to_owned()];
        let wrong = |text: &str, names: &[String]| {
            let files = found(&[("users.toml", text)]).0;
            let wrong: Vec<_> = for_nothing(&files, |name| name == "shop.known", names).collect();
            wrong.first().map(ToString::to_string).unwrap_or_default()
        };
        let said = wrong(USERS, &names);
        assert!(said.contains("is for shop.users, which does not exist: is shop.user meant?"), "{said}");
        assert!(said.contains("optional = true"), "{said}");
        let said = wrong(USERS, &["shop.users".to_owned()]);
        assert!(said.contains("is for shop.users, which is not included"), "{said}");
        assert!(!wrong(USERS, &[]).contains("meant"));
        assert_eq!(wrong(&USERS.replace("shop.users", "shop.known"), &names), "");
        assert_eq!(wrong(&format!("optional = true\n{USERS}"), &names), "");
    }
}
