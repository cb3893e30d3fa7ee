//! Which stage of docrow a sample belongs to. Pure.
//!
//! A stack is read from its innermost function outwards, and the first function that [`BY_PREFIX`] knows
//! decides. Unknown functions (the standard library, libc, TLS, compression, futures' combinators, tokio's
//! sockets) work for their caller, and so does the kernel, which appears as libc's wrapper of the system
//! call. Only the allocator has its own stage, regardless of its caller; copying bytes outside of it counts
//! for the caller.

use std::fmt;

/// The stages of docrow's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ProfileStage {
    /// Receives bytes from MongoDB.
    Read,
    /// Finds events and documents in them.
    Decode,
    /// Decides which change goes where, and folds changes into batches.
    Route,
    /// Walks documents by their mapping.
    Map,
    /// Writes rows in PostgreSQL's format.
    Encode,
    /// Sends rows to PostgreSQL.
    Send,
    /// Keeps changes and positions in the state directory.
    Spool,
    /// Runs tasks, and waits.
    Runtime,
    /// Allocates and frees memory.
    Allocation,
    /// Everything else.
    Other,
}

impl ProfileStage {
    /// All stages, in the order of the data flow.
    pub(super) const ALL: [Self; 10] = [
        Self::Read,
        Self::Decode,
        Self::Route,
        Self::Map,
        Self::Encode,
        Self::Send,
        Self::Spool,
        Self::Runtime,
        Self::Allocation,
        Self::Other,
    ];

    /// What it includes.
    pub(super) fn counts(self) -> &'static str {
        match self {
            Self::Read => {
                "receiving from MongoDB: the driver, its sockets, TLS and decompression, `docrow::source`"
            }
            Self::Decode => "parsing replies: the `bson` crate, `docrow::source::event`",
            Self::Route => "which change goes to which worker, folding, batches: `docrow::pipeline`, `model`",
            Self::Map => "walking documents by their mapping: `docrow_mapping` except encoding",
            Self::Encode => {
                "rows in PostgreSQL's format: closing a row, `value`, `key_column`, `extra`, … of `docrow_mapping::mapping`"
            }
            Self::Send => "sending to PostgreSQL: `docrow::sink`, `tokio_postgres`, its sockets and TLS",
            Self::Spool => "the state directory: `docrow::checkpoint`, RocksDB",
            Self::Runtime => "tokio: scheduling, wake-ups, timers, channels, going to sleep",
            Self::Allocation => {
                "jemalloc and `malloc`, regardless of the caller, including the kernel's part"
            }
            Self::Other => "logging, progress bars, start and end, and everything else",
        }
    }
}

impl fmt::Display for ProfileStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Decode => "decode",
            Self::Route => "route",
            Self::Map => "map",
            Self::Encode => "encode",
            Self::Send => "send",
            Self::Spool => "spool",
            Self::Runtime => "runtime",
            Self::Allocation => "allocation",
            Self::Other => "other",
        })
    }
}

/// The stage of functions whose path begins like this; the longest match decides. `None`: the caller's stage.
const BY_PREFIX: &[(&str, Option<ProfileStage>)] = &[
    ("docrow::", Some(ProfileStage::Other)),
    ("docrow::checkpoint", Some(ProfileStage::Spool)),
    ("docrow::pipeline", Some(ProfileStage::Route)),
    ("docrow::sink", Some(ProfileStage::Send)),
    ("docrow::source", Some(ProfileStage::Read)),
    ("docrow::source::event", Some(ProfileStage::Decode)),
    ("docrow_mapping::", Some(ProfileStage::Other)),
    ("docrow_mapping::mapping", Some(ProfileStage::Map)),
    ("docrow_mapping::mapping::encode", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::extra", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::extended_json_values", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::extended_json_write", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::key_column", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::mask", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::numeric", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::trail", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::value", Some(ProfileStage::Encode)),
    // A row is encoded when it is complete.
    ("docrow_mapping::mapping::walk::DocumentWalk::close", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::walk::begin_row", Some(ProfileStage::Encode)),
    ("docrow_mapping::mapping::walk::end_column", Some(ProfileStage::Encode)),
    ("docrow_mapping::model::bson_number", Some(ProfileStage::Encode)),
    ("docrow_mapping::model::change", Some(ProfileStage::Route)),
    ("docrow_mapping::model::document_key", Some(ProfileStage::Route)),
    ("docrow_mapping::model::id", Some(ProfileStage::Route)),
    ("docrow_mapping::schema", Some(ProfileStage::Map)),
    ("bson::", Some(ProfileStage::Decode)),
    ("hickory_", Some(ProfileStage::Read)),
    ("mongodb::", Some(ProfileStage::Read)),
    ("postgres_protocol::", Some(ProfileStage::Send)),
    ("postgres_types::", Some(ProfileStage::Send)),
    ("rocksdb", Some(ProfileStage::Spool)),
    ("tokio_postgres", Some(ProfileStage::Send)),
    ("indicatif::", Some(ProfileStage::Other)),
    ("pprof::", Some(ProfileStage::Other)),
    ("tracing_subscriber::", Some(ProfileStage::Other)),
    ("tokio::", Some(ProfileStage::Runtime)),
    ("mio::poll", Some(ProfileStage::Runtime)),
    // Sockets and files are read and written for a caller.
    ("tokio::fs", None),
    ("tokio::io", None),
    ("tokio::net", None),
    ("tokio::runtime::io::registration", None),
    ("tokio::task::coop", None),
    // Jemalloc under its own names, Rust's way there, and libc's for C++.
    ("_rjem_", Some(ProfileStage::Allocation)),
    ("rjem_", Some(ProfileStage::Allocation)),
    ("tikv_jemalloc", Some(ProfileStage::Allocation)),
    ("__rust_alloc", Some(ProfileStage::Allocation)),
    ("__rust_dealloc", Some(ProfileStage::Allocation)),
    ("__rust_realloc", Some(ProfileStage::Allocation)),
    ("__rustc::__rust_", Some(ProfileStage::Allocation)),
    ("alloc::alloc::", Some(ProfileStage::Allocation)),
    ("alloc::raw_vec::", Some(ProfileStage::Allocation)),
    ("operator new", Some(ProfileStage::Allocation)),
    ("operator delete", Some(ProfileStage::Allocation)),
];

/// The allocator's functions without a distinctive prefix.
const ALLOCATORS: &[&str] = &[
    "malloc",
    "calloc",
    "realloc",
    "free",
    "cfree",
    "aligned_alloc",
    "posix_memalign",
    "memalign",
    "mallocx",
    "rallocx",
    "xallocx",
    "sdallocx",
    "dallocx",
    "nallocx",
];

/// The stage that `function` determines for its samples, if any.
pub(super) fn stage_of(function: &str) -> Option<ProfileStage> {
    if ALLOCATORS.contains(&function) {
        return Some(ProfileStage::Allocation);
    }
    // `<a::B as c::D>::e` is B's, and so is `<&mut a::B>::e`.
    let path = function.trim_start_matches(['<', '&', '*']);
    let path = ["mut ", "dyn ", "const ", "impl "]
        .into_iter()
        .fold(path, |path, word| path.trim_start_matches(word));
    let longest = BY_PREFIX
        .iter()
        .filter(|(prefix, _)| path.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len());
    longest.and_then(|(_, stage)| *stage)
}

/// The stage of a stack, innermost function first.
pub(super) fn stage<'a>(stack: impl IntoIterator<Item = &'a str>) -> ProfileStage {
    stack.into_iter().find_map(stage_of).unwrap_or(ProfileStage::Other)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// As a backfill shows them, shortened; innermost first.
    const STACKS: &[(ProfileStage, &[&str])] = &[
        (
            ProfileStage::Read,
            &[
                "__libc_recv",
                "<&std::net::tcp::TcpStream as std::io::Read>::read",
                "tokio::runtime::io::registration::Registration::poll_io",
                "tokio::net::tcp::stream::TcpStream::poll_read_priv",
                "rustls::conn::ConnectionCommon<T>::read_tls",
                "<mongodb::runtime::stream::AsyncStream as tokio::io::async_read::AsyncRead>::poll_read",
                "docrow::source::snapshot::<impl docrow::source::Source>::read_chunk",
                "docrow::pipeline::snapshot::ChunkWorker::run",
                "tokio::runtime::task::harness::Harness<T,S>::poll",
            ],
        ),
        (
            ProfileStage::Decode,
            &["[libc.so.6]", "bson::raw::iter::RawIter::next", "mongodb::cursor::raw_batch::Batch"],
        ),
        (
            ProfileStage::Decode,
            &["docrow::source::event::read", "docrow::source::change_stream::Watch::read"],
        ),
        (
            ProfileStage::Route,
            &[
                "docrow::pipeline::apply::batch::ChangeBatch::fold",
                "docrow::pipeline::apply::worker::Worker::sort",
            ],
        ),
        (
            ProfileStage::Map,
            &[
                "core::slice::cmp::memcmp",
                "docrow_mapping::mapping::walk::DocumentWalk::object",
                "docrow_mapping::mapping::encode::Encoder::encode",
                "docrow::pipeline::snapshot::ChunkWorker::attempt",
            ],
        ),
        (
            ProfileStage::Encode,
            &[
                "[libc.so.6]",
                "bytes::bytes_mut::BytesMut::put_slice",
                "docrow_mapping::mapping::walk::DocumentWalk::close",
            ],
        ),
        (
            ProfileStage::Encode,
            &[
                "docrow_mapping::mapping::extended_json_write::JsonWriter::value",
                "docrow_mapping::mapping::extra::Extra::write",
            ],
        ),
        (
            ProfileStage::Send,
            &[
                "__libc_send",
                "tokio::net::tcp::stream::TcpStream::poll_write_vectored",
                "<tokio_postgres::connection::Connection<S,T> as core::future::future::Future>::poll",
                "docrow::sink::connection::session::Target::connect",
            ],
        ),
        (
            ProfileStage::Send,
            &["<docrow::sink::rows::copy::Copier as futures_sink::Sink>::poll_ready", "main"],
        ),
        (
            ProfileStage::Spool,
            &["fdatasync", "rocksdb::DBImpl::WriteToWAL", "docrow::checkpoint::spool::Spool::append"],
        ),
        (
            ProfileStage::Runtime,
            &["epoll_wait", "mio::poll::Poll::poll", "tokio::runtime::io::driver::Driver::turn", "main"],
        ),
        (
            ProfileStage::Runtime,
            &[
                "syscall",
                "tokio::sync::mpsc::chan::Tx<T,S>::send",
                "docrow::pipeline::stream::tailer::Tailer::run",
            ],
        ),
        (
            ProfileStage::Other,
            &["write", "tracing_subscriber::fmt::Layer::on_event", "docrow::pipeline::run::run"],
        ),
        (ProfileStage::Other, &["[vdso]", "std::rt::lang_start"]),
        (ProfileStage::Other, &[]),
    ];

    #[test]
    fn stacks_have_the_stage_of_the_innermost_function_that_says_one() {
        for (expected, stack) in STACKS {
            assert_eq!(stage(stack.iter().copied()), *expected, "{stack:?}");
        }
    }

    #[test]
    fn the_allocator_is_a_stage_and_copying_is_not() {
        let grows = [
            "_rjem_je_large_ralloc",
            "alloc::raw_vec::finish_grow",
            "docrow_mapping::mapping::walk::DocumentWalk::close",
        ];
        assert_eq!(stage(grows), ProfileStage::Allocation);
        assert_eq!(
            stage(["[libc.so.6]", "_rjem_je_arena_ralloc", "docrow::sink::rows::copy::Copier::write"]),
            ProfileStage::Allocation
        );
        assert_eq!(stage(["[libc.so.6]", "docrow::sink::rows::copy::Copier::write"]), ProfileStage::Send);
        assert_eq!(
            stage(["[libc.so.6]", "malloc", "rocksdb::Arena::AllocateNewBlock"]),
            ProfileStage::Allocation
        );
        // Not the allocator's: only the beginning of the name is the same.
        assert_eq!(stage(["freeaddrinfo", "mongodb::client::Client::new"]), ProfileStage::Read);
    }

    #[test]
    fn every_prefix_decides() {
        for (prefix, expected) in BY_PREFIX {
            assert_eq!(stage_of(&format!("{prefix}x")), *expected, "{prefix}");
            assert_eq!(
                stage_of(&format!("<&mut {prefix}x as core::fmt::Debug>::fmt")),
                *expected,
                "{prefix}"
            );
        }
    }

    /// Whether docrow has what `path` names: modules, then an item in their file.
    fn is_of_the_source(path: &str) -> bool {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut folder =
            root.join(if path.starts_with("docrow::") { "src" } else { "crates/docrow-mapping/src" });
        let mut file = folder.join("lib.rs");
        let mut names = path.split("::").skip(1).filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.peek() {
            folder.push(name);
            let files = [folder.with_extension("rs"), folder.join("mod.rs")];
            let Some(found) = files.into_iter().find(|file| file.is_file()) else { break };
            file = found;
            names.next();
        }
        let text = fs::read_to_string(file).unwrap();
        let words: Vec<_> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let defines = |name| {
            words.windows(2).any(|two| matches!(two, ["fn" | "struct" | "enum" | "trait", n] if *n == name))
        };
        names.all(defines)
    }

    /// If a module moves, its prefix must move along, or its samples would count as its parent's.
    #[test]
    fn every_prefix_of_docrow_is_of_its_source() {
        for (prefix, _) in BY_PREFIX.iter().filter(|(prefix, _)| prefix.starts_with("docrow")) {
            assert!(is_of_the_source(prefix), "docrow has no {prefix}");
        }
        assert!(!is_of_the_source("docrow_mapping::mapping::nowhere"));
        assert!(!is_of_the_source("docrow_mapping::mapping::walk::DocumentWalk::nothing"));
    }
}
