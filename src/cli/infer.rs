//! `docrow infer`: a mapping file for each collection, from a sample of its documents.
//!
//! It writes all files or, if there is an obstacle, none, and overwrites existing files only with `--force`.
//! Files that are already in the directory count: their tables keep their names.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use indicatif::HumanCount;

use super::{outcome::CommandOutcome, printable::unprintable};
use crate::{
    config::{MappingDir, SourceConfig},
    error::{Code, Error, Result},
    mapping_files,
    schema::{MappingSpec, Names, Sample},
    shutdown::Shutdown,
    source::{CollectionInfo, SAMPLE_SIZE, Source},
};

#[derive(Debug, Args)]
pub(super) struct InferOptions {
    /// Collections, as database.collection, globs allowed [default: all included ones]
    #[arg(value_name = "NS")]
    namespaces: Vec<String>,
    /// Maximum number of documents per collection to sample
    #[arg(long, value_name = "N", default_value_t = SAMPLE_SIZE, value_parser = clap::value_parser!(u32).range(1..))]
    size: u32,
    /// Print the files instead of writing them
    #[arg(long)]
    print: bool,
    /// Overwrite existing files
    #[arg(long, conflicts_with = "print")]
    force: bool,
}

pub(super) async fn execute(
    config: SourceConfig,
    options: InferOptions,
    shutdown: Shutdown,
) -> Result<CommandOutcome> {
    tokio::select! {
        biased;
        () = shutdown.requested() => {
            tracing::warn!("stopped: nothing is written");
            return Ok(CommandOutcome::Finding);
        }
        drafts = draft(&config, &options) => {
            let drafts = drafts?;
            if options.print { print(&drafts) } else { write(&drafts, &config.mapping_dir.path, options.force) }
        }
    }
    .map(|()| CommandOutcome::Done)
}

/// A file to write.
struct MappingDraft {
    file: PathBuf,
    spec: MappingSpec,
    text: String,
    sampled: usize,
}

async fn draft(config: &SourceConfig, options: &InferOptions) -> Result<Vec<MappingDraft>> {
    let SourceConfig { source, include, exclude, mapping_dir } = config;
    // This creates the folder.
    let mut present = mapping_files::read(&MappingDir { must_exist: false, ..mapping_dir.clone() })?;
    let source = Source::connect(source.expose()).await?;
    let collections = chosen(&source, &options.namespaces, include, exclude).await?;
    let replaced = collections.keys().filter_map(|name| Some((name.clone(), present.remove(name)?.path)));
    let replaced: BTreeMap<String, PathBuf> = replaced.collect();
    if let (false, false, Some((name, file))) = (options.force, options.print, replaced.iter().next()) {
        return Err(in_the_way(file, &format!("it maps {name}")));
    }
    let mut tables = Names::new();
    for table in present.values().flat_map(|file| file.spec.tables()) {
        tables.reserve(&*table.table);
    }
    let mut drafts = Vec::new();
    for (name, CollectionInfo { namespace, documents, .. }) in &collections {
        let mut sample = Sample::new();
        source.sample_documents(namespace, options.size, |document| sample.observe(document)).await?;
        let (spec, text) = sample.mapping_file(namespace, *documents, &mut tables);
        let file = replaced.get(name).cloned();
        let file = file.unwrap_or_else(|| mapping_dir.path.join(format!("{}.toml", spec.root().table)));
        if let Some(other) = present.iter().find_map(|(other, own)| (own.path == file).then_some(other)) {
            let file = file.display();
            return Err(Error::new(
                Code::FileInTheWay,
                format!("write {file} for {name}: it maps {other}: rename it"),
            ));
        }
        drafts.push(MappingDraft { file, spec, text, sampled: sample.len() });
    }
    Ok(drafts)
}

/// The selected collections, by name. Each of `namespaces` must match one.
async fn chosen(
    source: &Source,
    namespaces: &[String],
    include: &[String],
    exclude: &[String],
) -> Result<BTreeMap<String, CollectionInfo>> {
    let mut chosen = Vec::new();
    if namespaces.is_empty() {
        chosen = source.collections(include, exclude).await?;
    }
    for namespace in namespaces {
        chosen.append(&mut source.collections(std::slice::from_ref(namespace), exclude).await?);
    }
    Ok(chosen.into_iter().map(|info| (info.namespace.to_string(), info)).collect())
}

fn print(drafts: &[MappingDraft]) -> Result<()> {
    let texts: Vec<_> = drafts.iter().map(|draft| draft.text.as_str()).collect();
    let printed = io::stdout().lock().write_all(texts.join("\n\n").as_bytes());
    printed.map_err(unprintable)
}

fn write(drafts: &[MappingDraft], dir: &Path, force: bool) -> Result<()> {
    fs::create_dir_all(dir).map_err(|e| failed("make the directory", dir, e))?;
    if let Some(draft) = drafts.iter().find(|draft| !force && draft.file.exists()) {
        return Err(in_the_way(&draft.file, "it already exists"));
    }
    for MappingDraft { file, spec, text, sampled } in drafts {
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(!force).create(force).truncate(force);
        let written = options.open(file).and_then(|mut file: File| file.write_all(text.as_bytes()));
        written.map_err(|e| failed("write", file, e))?;
        let (file, name) = (file.display(), spec.collection());
        let columns: usize = spec.tables().map(|table| table.columns.len()).sum();
        match sampled {
            0 => tracing::info!("{file}: {name} has no documents yet, so the file has no columns"),
            _ => tracing::info!(
                "{file}: {name}, {} documents sampled, {columns} columns, tables: {}",
                HumanCount(u64::try_from(*sampled).unwrap_or(u64::MAX)),
                spec.tables().count()
            ),
        }
    }
    Ok(())
}

fn in_the_way(file: &Path, why: &str) -> Error {
    let file = file.display();
    Error::new(
        Code::FileInTheWay,
        format!("write {file}: {why}: --force overwrites it, --print only shows what would be written"),
    )
}

fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::caused(Code::FileUnwritable, format!("{doing} {}", path.display()), error)
}
