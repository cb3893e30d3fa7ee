//! Finds the names of the functions at addresses.
//!
//! A function is a compiled one: functions inlined into it have its name. (The sampler merges equal stacks of
//! such functions and keeps only the addresses of the first, so inlined ones can't be distinguished.) Names
//! come from the executable's symbol table, which `strip --strip-debug` keeps and plain `strip` removes; its
//! debug information has only the last part of a path. Libraries' names are found as for any backtrace.

use std::{
    collections::HashMap,
    fs::{self, File},
    ops::Range,
    path::Path,
    ptr,
    rc::Rc,
};

use backtrace::SymbolName;
use object::{Object, ObjectSegment, ObjectSymbol, ReadCache, SymbolKind};

/// Finds names, once per address.
pub(super) struct SymbolNames {
    known: HashMap<u64, Rc<str>>,
    mappings: Vec<MappedFile>,
    executable: SymbolTable,
}

/// A part of a file that is mapped into this process.
#[derive(Debug, PartialEq, Eq)]
struct MappedFile {
    addresses: Range<u64>,
    offset: u64,
    path: String,
}

/// The functions of the executable, by their addresses in the file.
#[derive(Default)]
struct SymbolTable {
    path: String,
    /// Where a part of the file is in memory.
    segments: Vec<(Range<u64>, u64)>,
    functions: Vec<(Range<u64>, Box<[u8]>)>,
}

impl SymbolNames {
    /// For this process, in its current state.
    pub(super) fn new() -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mappings = maps.lines().filter_map(MappedFile::read).collect();
        Self { known: HashMap::new(), mappings, executable: SymbolTable::read().unwrap_or_default() }
    }

    /// The name of the function that contains the instruction at `address`; if it has none, that of the file,
    /// in brackets.
    pub(super) fn name(&mut self, address: u64) -> Rc<str> {
        if let Some(name) = self.known.get(&address) {
            return name.clone();
        }
        let mapping = self.mappings.iter().find(|mapping| mapping.addresses.contains(&address));
        let name = mapping
            .and_then(|mapping| self.executable.name(mapping, address))
            .or_else(|| in_library(address))
            .unwrap_or_else(|| format!("[{}]", mapping.map_or("unknown", MappedFile::file)));
        let name: Rc<str> = name.into();
        self.known.insert(address, name.clone());
        name
    }
}

fn in_library(address: u64) -> Option<String> {
    let mut name = None;
    // It subtracts one, because it expects the address after a call.
    let after = usize::try_from(address).ok()?.checked_add(1)?;
    // Functions inlined there come first, the one that contains them comes last.
    backtrace::resolve(ptr::without_provenance_mut(after), |symbol| name = symbol.name().map(tidy));
    name
}

impl MappedFile {
    /// `from-to rwxp offset device inode path`
    fn read(line: &str) -> Option<Self> {
        let number = |text| u64::from_str_radix(text, 16).ok();
        let mut fields = line.splitn(6, ' ');
        let (from, to) = fields.next()?.split_once('-')?;
        let offset = number(fields.nth(1)?)?;
        let path = fields.nth(2)?.trim_start().to_owned();
        (!path.is_empty()).then_some(Self { addresses: number(from)?..number(to)?, offset, path })
    }

    fn file(&self) -> &str {
        let name = Path::new(&self.path).file_name().and_then(|name| name.to_str());
        name.unwrap_or(&self.path).trim_matches(['[', ']'])
    }
}

impl SymbolTable {
    /// For the running executable. `None`: it is not a readable file.
    fn read() -> Option<Self> {
        let path = fs::read_link("/proc/self/exe").ok()?.to_str()?.to_owned();
        let cache = ReadCache::new(File::open("/proc/self/exe").ok()?);
        let file = object::File::parse(&cache).ok()?;
        let segments = file.segments().map(|segment| {
            let (offset, length) = segment.file_range();
            (offset..offset.saturating_add(length), segment.address())
        });
        let functions =
            file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text).filter_map(|symbol| {
                let end = symbol.address().checked_add(symbol.size())?;
                Some((symbol.address()..end, symbol.name_bytes().ok()?.into()))
            });
        let (segments, mut functions): (_, Vec<_>) = (segments.collect(), functions.collect());
        functions.sort_by(|(a, x), (b, y)| (a.start, x).cmp(&(b.start, y)));
        Some(Self { path, segments, functions })
    }

    fn name(&self, mapping: &MappedFile, address: u64) -> Option<String> {
        if mapping.path != self.path {
            return None;
        }
        let offset = address.checked_sub(mapping.addresses.start)?.checked_add(mapping.offset)?;
        let (part, at) = self.segments.iter().find(|(part, _)| part.contains(&offset))?;
        let there = offset.checked_sub(part.start)?.checked_add(*at)?;
        let before = self.functions.partition_point(|(function, _)| function.start <= there);
        let (function, name) = self.functions.get(before.checked_sub(1)?)?;
        function.contains(&there).then(|| tidy(SymbolName::new(name)))
    }
}

/// A readable name: an `async fn` instead of its closure, and C++ demangled.
fn tidy(name: SymbolName<'_>) -> String {
    let plain = format!("{name:#}").replace("::{{closure}}", "");
    unmangled(&plain).unwrap_or(plain)
}

/// The path in a C++ name, without its arguments: `_ZN7rocksdb6DBImpl5WriteE…` is `rocksdb::DBImpl::Write`.
fn unmangled(name: &str) -> Option<String> {
    let simple = [("_Znwm", "operator new"), ("_Znam", "operator new"), ("_ZdlPv", "operator delete")];
    if let Some((_, known)) = simple.iter().find(|(start, _)| name.starts_with(start)) {
        return Some((*known).to_owned());
    }
    let mut rest = name.strip_prefix("_ZN")?.trim_start_matches('K');
    let mut path = Vec::new();
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let end = digits.checked_add(rest.get(..digits)?.parse().ok()?)?;
        path.push(rest.get(digits..end)?);
        rest = rest.get(end..)?;
    }
    (!path.is_empty()).then(|| path.join("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_their_names() {
        let mut symbols = SymbolNames::new();
        let here = functions_have_their_names as fn() as usize as u64;
        assert_eq!(&*symbols.name(here), "docrow::profile::symbols::tests::functions_have_their_names");
        assert_eq!(&*symbols.name(1), "[unknown]");
    }

    #[test]
    fn mappings_are_read() {
        let file = |line| {
            MappedFile::read(line)
                .map(|mapping| (mapping.addresses.clone(), mapping.offset, mapping.file().to_owned()))
        };
        let library = "7f00-7f10 r-xp 00002000 fe:01 17   /usr/lib/x/libc.so.6";
        assert_eq!(file(library), Some((0x7f00..0x7f10, 0x2000, "libc.so.6".to_owned())));
        assert_eq!(file("10-2f r-xp 00000000 00:00 0   [vdso]"), Some((0x10..0x2f, 0, "vdso".to_owned())));
        let replaced = "10-2f r-xp 00000000 fe:01 17     /a b/docrow (deleted)";
        assert_eq!(file(replaced), Some((0x10..0x2f, 0, "docrow (deleted)".to_owned())));
        assert_eq!(file("10-20 rw-p 00000000 00:00 0"), None);
        assert_eq!(file("10-20 rw-p 00000000 00:00 0 "), None);
    }

    #[test]
    fn names_are_as_people_know_them() {
        for (name, expected) in [
            (
                "docrow::sink::rows::copy::ChunkWriter::write::{{closure}}",
                "docrow::sink::rows::copy::ChunkWriter::write",
            ),
            ("docrow::verify::run::{{closure}}::{{closure}}", "docrow::verify::run"),
            ("_ZN7rocksdb6DBImpl5WriteERKNS_12WriteOptionsEPNS_10WriteBatchE", "rocksdb::DBImpl::Write"),
            ("_ZNK7rocksdb9BlockIter4SeekE", "rocksdb::BlockIter::Seek"),
            ("_ZN", "_ZN"),
            ("_ZN9abc", "_ZN9abc"),
            ("_Znwm", "operator new"),
            ("epoll_wait", "epoll_wait"),
        ] {
            assert_eq!(tidy(SymbolName::new(name.as_bytes())), expected);
        }
    }
}
