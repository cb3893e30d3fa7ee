//! `docrow assets DIR`: the manual pages and shell completions of a package, generated from the definition of
//! the command line itself, so that they can't differ from it. For `make release`; hidden from users.

use std::{fs, io::Write, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::outcome::{CommandOutcome, EXIT_CODES};
use crate::{
    config::environment::{EnvironmentVariable, VARIABLES},
    error::{Error, Kind, Result},
};

/// The files that docrow reads and writes, each with what it is.
const FILES: &[(&str, &str)] = &[
    ("docrow.toml", "The configuration, in the working directory, unless --config names another file."),
    ("schemas/*.toml", "Mapping files, one for each collection, unless [mapping] dir names another folder."),
    (
        "docrow-state/",
        "The state directory, unless --state or [state] dir names another one. It is expendable.",
    ),
];

#[derive(Debug, Args)]
pub(super) struct AssetsOptions {
    /// Where the folders `man` and `completions` are created
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// `all`: the command line.
pub(super) fn execute(AssetsOptions { folder }: &AssetsOptions, all: &Command) -> Result<CommandOutcome> {
    let (man, completions) = (folder.join("man"), folder.join("completions"));
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(&man)?;
        fs::create_dir_all(&completions)?;
        clap_mangen::generate_to(shown(all), &man)?;
        let surroundings = section("ENVIRONMENT", VARIABLES.iter().map(shown_variable))
            + &section("FILES", FILES.iter().map(|(name, text)| (*name, (*text).to_owned())));
        for page in fs::read_dir(&man)? {
            fs::OpenOptions::new().append(true).open(page?.path())?.write_all(surroundings.as_bytes())?;
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut shown(all), "docrow", &completions)?;
        }
        Ok(())
    };
    write().map_err(|e| Error::caused(Kind::Usage, format!("write to {}", folder.display()), e))?;
    Ok(CommandOutcome::Done)
}

/// A variable, and what it is, as a sentence.
fn shown_variable(
    EnvironmentVariable { name, has_file, doc }: &EnvironmentVariable,
) -> (&'static str, String) {
    let file = if *has_file { format!(" {name}_FILE names a file that holds it.") } else { String::new() };
    let (first, rest) = doc.split_at(1);
    (name, format!("{}{}.{file}", first.to_uppercase(), rest.replace('`', "")))
}

/// A section of a manual page.
fn section(title: &str, entries: impl Iterator<Item = (&'static str, String)>) -> String {
    let escaped = |text: &str| text.replace('\\', "\\e").replace('-', "\\-");
    let entry =
        |(name, text): (&str, String)| format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(&text));
    format!(".SH {title}\n{}", entries.map(entry).collect::<String>())
}

/// The command line as users see it: completions would also offer hidden commands.
fn shown(all: &Command) -> Command {
    let commands = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("docrow")
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .about(all.get_about().cloned().unwrap_or_default())
        .after_help(EXIT_CODES)
        .args(all.get_arguments().cloned())
        .subcommand_required(true)
        .subcommands(commands)
}
