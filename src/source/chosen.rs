//! Selects the collections that a command's arguments name: globs, or exact names.

use globset::GlobBuilder;

use crate::{
    error::{Code, Error, Result},
    shown::printable,
};

/// How many names an error shows.
const SHOWN: usize = 10;

/// The selected ones of `known`, each once. Errors: a pattern matches none; the error names `command`, with
/// `none` as the subject of the sentence.
pub fn chosen(command: &str, patterns: &[String], known: &[String], none: &str) -> Result<Vec<String>> {
    let mut is_chosen = vec![false; known.len()];
    for pattern in patterns {
        let wrong = |code: Code, why: String| Error::new(code, format!("{command} {pattern:?}: {why}"));
        let glob =
            GlobBuilder::new(pattern).build().map_err(|e| wrong(Code::BadPattern, e.kind().to_string()))?;
        let glob = glob.compile_matcher();
        let mut any = false;
        for (name, is_chosen) in known.iter().zip(&mut is_chosen) {
            // A name may contain characters that have a meaning in a glob.
            if name == pattern || glob.is_match(name) {
                (any, *is_chosen) = (true, true);
            }
        }
        if !any {
            return Err(wrong(Code::NothingMatched, format!("{none} matches: there {}", listed(known))));
        }
    }
    Ok(known.iter().zip(is_chosen).filter(|(_, chosen)| *chosen).map(|(name, _)| name.clone()).collect())
}

/// Names for an error, after "there".
pub(super) fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "is none".to_owned();
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| printable(name)).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("are {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn collections_are_chosen_by_globs_or_names() {
        let known = strings(&["crm.a[1]", "shop.orders", "shop.users"]);
        let of = |patterns: &[&str], known: &[String]| {
            chosen("resync", &strings(patterns), known, "no collection of the pipeline")
        };
        let choose = |patterns: &[&str]| of(patterns, &known);
        assert_eq!(choose(&["shop.*", "shop.users"]).unwrap(), known[1..]);
        assert_eq!(choose(&["crm.a[1]"]).unwrap(), known[..1]);
        assert_eq!(choose(&["*"]).unwrap(), known);
        let error = choose(&["shop.*", "shop.user"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "resync \"shop.user\": no collection of the pipeline matches: there are crm.a[1], shop.orders, \
             shop.users"
        );
        assert!(choose(&["shop.[a"]).unwrap_err().to_string().starts_with("resync \"shop.[a\": "));
        let many: Vec<String> = (0..12).map(|n| format!("a.b{n}")).collect();
        assert!(of(&["x"], &many).unwrap_err().to_string().ends_with("a.b9 and 2 more"));
        assert!(of(&["x"], &[]).unwrap_err().to_string().ends_with("there is none"));
    }
}
