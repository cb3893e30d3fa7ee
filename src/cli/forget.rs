//! `docrow forget`: removes what docrow has stored about collections that are no longer followed.

use clap::Args;

use super::{
    outcome::CommandOutcome,
    printable::{printable, say},
};
use crate::{
    config::TargetConfig,
    error::{Code, Error, Result},
    sink::{
        Target,
        forget::{ForgetSession, ForgettableCollection, still_followed},
        tables::ddl::TableFate,
    },
    source::chosen,
};

#[derive(Debug, Args)]
pub(super) struct ForgetOptions {
    /// Which collections, as database.collection, globs allowed; they must be no longer followed
    #[arg(required = true, value_name = "NS")]
    collections: Vec<String>,
    /// Also drop their tables; otherwise the tables stay, with their rows, and are yours
    #[arg(long)]
    drop: bool,
}

pub(super) async fn execute(config: &TargetConfig, options: ForgetOptions) -> Result<CommandOutcome> {
    let ForgetOptions { collections, drop } = options;
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let pipeline = target.pipeline();
    let nothing = || {
        let what = format!("pipeline {pipeline} has copied nothing: there is nothing to forget");
        Error::new(Code::NotCopied, format!("{what}: check name and target in the configuration"))
    };
    let mut archive = ForgetSession::open(&target).await?.ok_or_else(nothing)?;
    let known = archive.collections().await?;
    if known.is_empty() {
        return Err(nothing());
    }
    let tables = if drop { TableFate::Drop } else { TableFate::Keep };
    for collection in unfollowed(&collections, known)? {
        let named = archive.forget(&collection, tables).await?;
        let named: Vec<_> = named.iter().map(|table| printable(table)).collect();
        let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
        let what = if drop { "its tables are dropped" } else { "its tables stay as they are, and are yours" };
        say(format!("forgotten: {} ({what}: {named})", printable(&collection)))?;
    }
    Ok(CommandOutcome::Done)
}

/// The selected collections. A glob skips the followed ones among its matches; naming a followed one exactly
/// is an error.
fn unfollowed(patterns: &[String], known: Vec<ForgettableCollection>) -> Result<Vec<String>> {
    if let Some(followed) = known.iter().find(|known| known.is_followed && patterns.contains(&known.name)) {
        return Err(still_followed(&followed.name));
    }
    let names: Vec<_> =
        known.into_iter().filter(|known| !known.is_followed).map(|known| known.name).collect();
    chosen("forget", patterns, &names, "no collection that is no longer followed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_no_longer_followed_is_forgotten() {
        let known = |name: &str, is_followed| ForgettableCollection { name: name.to_owned(), is_followed };
        let choose = |pattern: &str| {
            let known =
                vec![known("shop.orders", true), known("shop.tmp_1", false), known("shop.tmp_2", false)];
            unfollowed(&[pattern.to_owned()], known).map_err(|e| (e.code(), e.to_string()))
        };
        assert_eq!(choose("shop.*").unwrap(), ["shop.tmp_1", "shop.tmp_2"]);
        assert_eq!(choose("shop.tmp_2").unwrap(), ["shop.tmp_2"]);
        assert_eq!(choose("shop.orders").unwrap_err().0, Code::StillFollowed);
        let (code, said) = choose("shop.o*").unwrap_err();
        assert_eq!(code, Code::NothingMatched);
        assert!(said.ends_with("there are shop.tmp_1, shop.tmp_2"), "{said}");
    }
}
