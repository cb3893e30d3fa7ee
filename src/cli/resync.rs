//! `docrow resync`: asks the process that runs the pipeline, or the next one, to copy collections anew in place.

use clap::Args;
use globset::GlobBuilder;

use super::{
    Outcome,
    printable::{printable, say},
};
use crate::{
    config::TargetConfig,
    error::{Code, Error, Result},
    sink::{Target, resyncs::Desk},
};

/// How many names an error shows.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Which, as database.collection, globs allowed
    #[arg(required = true, value_name = "NS")]
    collections: Vec<String>,
}

pub(super) async fn execute(config: &TargetConfig, Options { collections }: Options) -> Result<Outcome> {
    let target = Target::parse(config.target.expose(), &config.schema, &config.name)?;
    let pipeline = target.pipeline();
    let Some(mut desk) = Desk::open(&target).await? else { return Err(nothing(pipeline)) };
    let known = desk.collections().await?;
    if known.is_empty() {
        return Err(nothing(pipeline));
    }
    let chosen = chosen(&collections, &known)?;
    desk.ask(&chosen).await?;
    let runner = desk.runner().await?;
    for collection in &chosen {
        say(format!("asked for a resync of {}", printable(collection)))?;
    }
    let who = match runner {
        Some(runner) => format!("the docrow that runs pipeline {pipeline} ({runner}) begins within seconds"),
        None => format!("nobody runs pipeline {pipeline}: the next `docrow run` begins with it"),
    };
    say(format!(
        "{who}: rows are replaced where they stand while everybody reads on, then those without a document are deleted"
    ))?;
    Ok(Outcome::Done)
}

fn nothing(pipeline: &str) -> Error {
    let advice = "check name and target in the configuration";
    Error::new(
        Code::NotCopied,
        format!("pipeline {pipeline} has copied nothing yet: there is nothing to copy anew: {advice}"),
    )
}

/// The known collections that are meant, each once. Errors: one of the patterns means none.
fn chosen(patterns: &[String], known: &[String]) -> Result<Vec<String>> {
    let mut is_chosen = vec![false; known.len()];
    for pattern in patterns {
        let wrong = |code: Code, why: String| Error::new(code, format!("resync {pattern:?}: {why}"));
        let glob =
            GlobBuilder::new(pattern).build().map_err(|e| wrong(Code::BadPattern, e.kind().to_string()))?;
        let glob = glob.compile_matcher();
        let mut any = false;
        for (name, is_chosen) in known.iter().zip(&mut is_chosen) {
            // A name may have characters that mean something in a glob.
            if name == pattern || glob.is_match(name) {
                (any, *is_chosen) = (true, true);
            }
        }
        if !any {
            return Err(wrong(
                Code::NothingMatched,
                format!("no collection of the pipeline is matched: there are {}", listed(known)),
            ));
        }
    }
    Ok(known.iter().zip(is_chosen).filter(|(_, chosen)| *chosen).map(|(name, _)| name.clone()).collect())
}

fn listed(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| printable(name)).collect();
    let more = names.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", shown.join(", "))
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
        let choose = |patterns: &[&str]| chosen(&strings(patterns), &known);
        assert_eq!(choose(&["shop.*", "shop.users"]).unwrap(), known[1..]);
        assert_eq!(choose(&["crm.a[1]"]).unwrap(), known[..1]);
        assert_eq!(choose(&["*"]).unwrap(), known);
        let error = choose(&["shop.*", "shop.user"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "resync \"shop.user\": no collection of the pipeline is matched: there are crm.a[1], shop.orders, shop.users"
        );
        assert!(choose(&["shop.[a"]).unwrap_err().to_string().starts_with("resync \"shop.[a\": "));
        let many: Vec<String> = (0..12).map(|n| format!("a.b{n}")).collect();
        assert!(chosen(&strings(&["x"]), &many).unwrap_err().to_string().ends_with("a.b9 and 2 more"));
    }
}
