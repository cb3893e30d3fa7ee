//! Checks mapping files, tables in the way, and sampled documents: which of their values would be in columns,
//! and which elsewhere. Along the way, it measures how fast documents are read and encoded here.

use std::{sync::Arc, time::Duration};

use indicatif::HumanCount;
use tokio::time::Instant;

use super::{
    capacity::CopyRate,
    report::{FindingPart, PartFindings, PathMisfits},
    source::CheckedSource,
};
use crate::{
    config::Config,
    error::Result,
    mapping::{DryRun, DryRunResult, Encoder, Framing, Mapping, NotInColumn, Rows},
    mapping_files::{self, MappingFiles},
    pipeline::Preview,
    sink::tables::ddl_plan::{Obstacle, Plan},
    source::{Chunk, CollectionInfo, Source},
};

/// How long reading and encoding is timed.
const TIMED: Duration = Duration::from_secs(1);

/// What to do about a table in the way.
const ANOTHER: &str = "docrow plan shows the differences: change or rename the existing object, or choose \
    another table name in a mapping file, or another target.schema";

/// The collections that mapping files may be for.
pub(super) struct KnownCollections<'a> {
    /// Those that are included.
    pub(super) included: &'a [CollectionInfo],
    /// Existing ones that are not included.
    pub(super) others: &'a [String],
    /// Those that the pipeline has a mapping for.
    pub(super) stored: Vec<String>,
}

/// The mapping files, unless they can't be used. `known`: `None` if the existing collections are unknown.
pub(super) fn files(
    config: &Config,
    known: Option<KnownCollections<'_>>,
) -> (PartFindings, Option<MappingFiles>) {
    let mut findings = PartFindings::new(FindingPart::Mapping);
    let (files, wrong) = mapping_files::read_all(&config.mapping_dir);
    for error in &wrong {
        findings.problem("mapping files", error.to_string());
    }
    if wrong.is_empty() {
        let (dir, count) = (config.mapping_dir.path.display(), files.len());
        findings.ok("mapping files", format!("{count} in {dir}; other collections are mapped automatically"));
    }
    if let Some(KnownCollections { included, others, stored }) = known {
        let included: Vec<String> = included.iter().map(|info| info.namespace.to_string()).collect();
        let names = [&included, others].concat();
        let is_known = |name: &str| included.iter().chain(&stored).any(|known| known == name);
        for error in mapping_files::for_nothing(&files, is_known, &names) {
            findings.problem("mapping files", error.to_string());
        }
    }
    (findings, wrong.is_empty().then_some(files))
}

/// Tests documents of all collections, and measures with those of the largest.
pub(super) async fn check(
    config: &Config,
    found: &CheckedSource,
    previewed: Result<Vec<Result<Preview>>>,
    size: u32,
) -> (PartFindings, Option<CopyRate>) {
    let mut findings = PartFindings::new(FindingPart::Mapping);
    let mut largest: Option<(&CollectionInfo, Arc<Mapping>)> = None;
    let previews = findings.unless("mappings", previewed).unwrap_or_default();
    for (info, preview) in found.collections.iter().zip(previews) {
        let name = info.namespace.to_string();
        let Some(Preview { mapping, is_automatic, plan }) = found.unless(&mut findings, &name, preview)
        else {
            continue;
        };
        if let Some(plan) = plan.and_then(|plan| findings.unless(&name, plan)) {
            in_the_way(&mut findings, &name, &plan);
        }
        if largest.as_ref().is_none_or(|(most, _)| info.bytes > most.bytes) {
            largest = Some((info, mapping.clone()));
        }
        let mapped =
            MappedAs { grows: is_automatic && config.evolve, is_automatic, tables: mapping.tables().len() };
        let mut dry_run = DryRun::new(mapping);
        let sampled =
            found.source.sample_documents(&info.namespace, size, |document| dry_run.observe(document)).await;
        if found.unless(&mut findings, &name, sampled).is_some() {
            tell(&mut findings, config, info, &mapped, &dry_run.result());
        }
    }
    let Some((info, mapping)) = largest else { return (findings, None) };
    let measured = measure(&found.source, info, mapping).await;
    let rate = found.unless(&mut findings, "speed", measured).flatten();
    (findings, rate)
}

fn in_the_way(findings: &mut PartFindings, name: &str, plan: &Plan) {
    for (table, Obstacle { there, wanted }) in plan.obstacles() {
        if wanted.starts_with("GRANT ") {
            findings.problem(name, format!("{}: {there}", table.name)).run(wanted.as_str());
        } else {
            findings.problem(name, format!("{}: found {there}, wanted {wanted}", table.name)).advise(ANOTHER);
        }
    }
}

/// How a collection is mapped.
struct MappedAs {
    is_automatic: bool,
    /// Whether new fields get columns.
    grows: bool,
    tables: usize,
}

fn tell(
    findings: &mut PartFindings,
    config: &Config,
    info: &CollectionInfo,
    mapped: &MappedAs,
    tried: &DryRunResult,
) {
    let name = info.namespace.to_string();
    if tried.documents == 0 {
        findings.ok(name, "no documents yet");
        return;
    }
    let [documents, of, whole, dead, most] = [
        tried.documents,
        info.documents.max(tried.documents),
        tried.whole,
        tried.dead,
        config.max_dead_letters,
    ]
    .map(HumanCount);
    let how = if mapped.is_automatic { "mapped automatically, " } else { "" };
    let sum = format!("{documents} of about {of} documents tested ({how}tables: {})", mapped.tables);
    let expected = expected(tried, info);
    let all = HumanCount(expected);
    let finding = if tried.dead > 0 && tried.stops {
        let what = format!("{sum}: {dead} can't have rows, and the first would stop the collection");
        findings.problem(name, what).advise("change its mapping file for the paths below, or its on_unfit")
    } else if tried.dead > 0 && expected > config.max_dead_letters {
        let what = format!(
            "{sum}: {whole} fit, {dead} would be dead letters, about {all} in total: more than the {most} of \
             mapping.max_dead_letters, so the collection would be stopped"
        );
        findings
            .problem(name, what)
            .advise("change its mapping file for the paths below, or create one: docrow infer")
    } else if tried.dead > 0 {
        let what = format!("{sum}: {whole} fit, {dead} would be dead letters, about {all} in total");
        findings
            .note(name, what)
            .advise("change its mapping file for the paths below, or correct the documents")
    } else if tried.whole < tried.documents {
        let advice =
            "nothing is lost: to have more values in columns, change types or add columns in a mapping file";
        findings.note(name, format!("{sum}: {whole} fit, the others except for these values")).advise(advice)
    } else {
        findings.ok(name, format!("{sum}: all fit"))
    };
    finding.misfits = misfits(tried, mapped.grows);
}

/// How many dead letters the whole collection would have.
fn expected(tried: &DryRunResult, info: &CollectionInfo) -> u64 {
    let all = u128::from(info.documents.max(tried.documents));
    let expected = u128::from(tried.dead) * all / u128::from(tried.documents.max(1));
    u64::try_from(expected).unwrap_or(u64::MAX)
}

fn misfits(tried: &DryRunResult, grows: bool) -> Vec<PathMisfits> {
    let mut misfits = Vec::new();
    for (path, reason, count) in tried.refused.counts() {
        misfits.push(PathMisfits {
            path: path.to_owned(),
            ty: None,
            count,
            fate: format!("a dead letter: {reason}"),
        });
    }
    for (path, left, count) in tried.left.counts() {
        let (ty, fate) = match left {
            NotInColumn::Misfit(ty) => (ty, "does not fit: to _extra"),
            NotInColumn::Unmapped(ty) if grows => (ty, "no column yet: gets one when it arrives"),
            NotInColumn::Unmapped(ty) => (ty, "no column: to _extra"),
        };
        misfits.push(PathMisfits { path: path.to_owned(), ty: Some(ty), count, fate: fate.to_owned() });
    }
    let others = tried.left.others + tried.refused.others;
    if others > 0 {
        let fate = "at more paths than are distinguished".to_owned();
        misfits.push(PathMisfits { path: "…".to_owned(), ty: None, count: others, fate });
    }
    misfits
}

/// Reads and encodes documents as a copier does, for a while. `None`: there are too few to measure.
async fn measure(source: &Source, info: &CollectionInfo, mapping: Arc<Mapping>) -> Result<Option<CopyRate>> {
    let mut rows = Rows::new(mapping.tables().len());
    let mut encoder = Encoder::new(mapping, Framing::Copy);
    let now = source.operation_time().await?;
    let mut documents =
        source.read_chunk(&info.namespace, &Chunk::whole(), now, info.documents_per_reply()).await?;
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < TIMED {
        let Some(batch) = documents.next().await? else { break };
        for document in batch.iter()? {
            rows.clear();
            // Documents that can't have rows take time, too.
            let _ = encoder.encode(document?, &mut rows);
        }
        bytes += batch.byte_len();
    }
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    Ok(CopyRate::measured(bytes, started.elapsed(), info.namespace.to_string()))
}
