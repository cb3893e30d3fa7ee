//! The globs of `include` and `exclude`.

use globset::{GlobBuilder, GlobMatcher};

use super::chosen::listed;
use crate::error::{Code, Error, Result};

/// A glob over `database.collection`.
pub(super) struct NamespacePattern {
    pub(super) text: String,
    glob: GlobMatcher,
}

impl NamespacePattern {
    pub(super) fn new(list: &str, text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::new(Code::BadPattern, format!("{list} {text:?}: {why}"));
        if !text.contains('.') {
            return Err(wrong(
                "it names no collection: write database.collection, for example shop.orders or shop.*",
            ));
        }
        let glob = GlobBuilder::new(text).build().map_err(|e| wrong(&e.kind().to_string()))?;
        Ok(Self { text: text.to_owned(), glob: glob.compile_matcher() })
    }

    pub(super) fn matches(&self, namespace: &str) -> bool {
        self.glob.is_match(namespace)
    }

    /// Whether it is worth listing the collections of `database`, to which the user may have no access.
    pub(super) fn may_match_in(&self, database: &str) -> bool {
        self.database().is_none_or(|literal| literal == database)
    }

    /// The only database in which it can match, if there is only one.
    pub(super) fn database(&self) -> Option<&str> {
        let (database, _) = self.text.split_once('.')?;
        (!database.contains(['*', '?', '[', '{', '\\'])).then_some(database)
    }
}

pub(super) fn nothing_matched(hosts: &str, include: &[NamespacePattern], seen: &[String]) -> Error {
    let patterns = include.iter().map(|pattern| pattern.text.as_str()).collect::<Vec<_>>().join(", ");
    let readable = if seen.is_empty() { " that this user may read" } else { "" };
    Error::new(
        Code::NothingMatched,
        format!("include {patterns}: no collection of {hosts} matches: there {}{readable}", listed(seen)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, namespace: &str) -> bool {
        NamespacePattern::new("include", pattern).unwrap().matches(namespace)
    }

    #[test]
    fn a_star_matches_everything() {
        assert!(matches("shop.*", "shop.orders"));
        assert!(matches("shop.*", "shop.orders.2024/old"));
        assert!(matches("*.orders", "shop.orders"));
        assert!(matches("shop.order?", "shop.orders"));
        assert!(matches("{shop,crm}.*", "crm.customers"));
        assert!(!matches("shop.*", "shops.orders"));
        assert!(!matches("shop.orders", "shop.orders2"));
    }

    #[test]
    fn refuses_a_pattern_that_can_be_no_namespace() {
        for pattern in ["shop", "shop.[a"] {
            let error = NamespacePattern::new("include", pattern).err().unwrap();
            assert_eq!(error.code(), Code::BadPattern);
            assert!(error.to_string().starts_with(&format!("include {pattern:?}: ")), "{error}");
        }
    }

    #[test]
    fn lists_only_databases_that_may_match() {
        let may =
            |pattern, database| NamespacePattern::new("include", pattern).unwrap().may_match_in(database);
        assert!(may("shop.*", "shop"));
        assert!(!may("shop.*", "crm"));
        assert!(may("s*.*", "crm"));
    }
}
