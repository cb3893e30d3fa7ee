//! Names for PostgreSQL: from MongoDB's field names to identifiers.
//!
//! A generated name is never empty, never longer than PostgreSQL's limit, and unique in its scope. A name
//! that is cut or would collide gets a hash of its source text as a suffix, so that the same text gives the
//! same name.

use std::collections::HashSet;

use heck::ToSnakeCase;
use xxhash_rust::xxh3::xxh3_64;

/// The longest identifier that PostgreSQL does not truncate, in bytes (`NAMEDATALEN - 1`).
pub const MAX_NAME: usize = 63;

/// System columns, which every table has (`src/backend/catalog/heap.c`).
pub(super) const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "cmax", "xmax", "cmin", "xmin", "ctid"];

/// `_` and eight hexadecimal digits.
const SUFFIX: usize = 9;

/// A scope in which names are unique: the tables of a schema, the columns of a table.
#[derive(Clone, Debug, Default)]
pub struct Names {
    taken: HashSet<String>,
}

impl Names {
    /// An empty scope.
    pub fn new() -> Self {
        Self::default()
    }

    /// The scope of a table's columns: system columns are in use.
    pub fn of_columns() -> Self {
        Self { taken: SYSTEM_COLUMNS.into_iter().map(String::from).collect() }
    }

    /// Claims exactly `name`. Returns whether it was free.
    pub fn reserve(&mut self, name: impl Into<String>) -> bool {
        self.taken.insert(name.into())
    }

    /// Makes a name free again.
    pub fn release(&mut self, name: &str) {
        self.taken.remove(name);
    }

    /// Claims a free name derived from the names on a path: in snake case, joined by `_`.
    pub fn claim<'a>(&mut self, path: impl IntoIterator<Item = &'a str>) -> String {
        let path: Vec<_> = path.into_iter().collect();
        let words: Vec<_> =
            path.iter().map(|name| name.to_snake_case()).filter(|name| !name.is_empty()).collect();
        let plain = words.join("_");
        let mut name = plain.clone();
        let mut seed = path.join(".");
        while name.is_empty() || name.len() > MAX_NAME || !self.reserve(&*name) {
            let hash = xxh3_64(seed.as_bytes()) >> 32;
            let stem = if plain.is_empty() { "field" } else { cut(&plain, MAX_NAME - SUFFIX) };
            name = format!("{stem}_{hash:08x}");
            seed.push('.');
        }
        name
    }
}

/// As much of `text` as fits into `bytes` bytes.
fn cut(text: &str, bytes: usize) -> &str {
    (0..=bytes.min(text.len())).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_in_snake_case() {
        let mut names = Names::of_columns();
        assert_eq!(names.claim(["address", "zipCode"]), "address_zip_code");
        assert_eq!(names.claim(["_class"]), "class");
        assert_eq!(names.claim(["Größe (cm)"]), "größe_cm");
        assert_eq!(names.claim(["имяПользователя"]), "имя_пользователя");
        assert_eq!(names.claim(["blob1"]), "blob1");
    }

    #[test]
    fn names_that_fold_together_stay_apart() {
        let mut names = Names::of_columns();
        assert_eq!(names.claim(["firstName"]), "first_name");
        let second = names.claim(["first_name"]);
        assert!(second.starts_with("first_name_") && second.len() == "first_name_".len() + 8, "{second}");
        assert_ne!(names.claim(["xmin"]), "xmin");
        assert_ne!(names.claim(["$"]), names.claim([""]));
        let mut again = Names::of_columns();
        again.reserve("first_name");
        assert_eq!(again.claim(["first_name"]), second);
    }

    proptest! {
        /// Trap: identifiers over 63 bytes are truncated by PostgreSQL and collide.
        #[test]
        fn any_names_become_unique_identifiers(fields in prop::collection::vec("(?s).{0,40}|é{30,40}", 0..20)) {
            let mut names = Names::new();
            let mut seen = HashSet::new();
            for field in &fields {
                let name = names.claim([&**field, "x"]);
                prop_assert!(!name.is_empty() && name.len() <= MAX_NAME && !name.contains('\0'));
                prop_assert!(seen.insert(name));
            }
        }
    }
}
