//! Which file of `src/` imports which, and where that goes round in a circle.
//!
//! A path is resolved to the file that defines what it names: a re-export is an address, and leads on to the
//! file behind it. Comments, inline test modules and what a macro makes do not count.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Sources, code_of};

/// A module's path below the crate: `["sink", "rows"]`.
type ModulePath = Vec<String>;

/// The modules, each with its file and what it re-exports: the name, and the path that it stands for.
struct Modules<'a> {
    files: BTreeMap<ModulePath, &'a str>,
    exported: BTreeMap<ModulePath, BTreeMap<String, ModulePath>>,
}

/// Which files each file imports.
pub(super) type Imports<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// All imports between files of `src/`.
pub(super) fn imports(sources: &Sources) -> Imports<'_> {
    let modules = Modules::of(sources);
    let files = sources.iter().filter_map(|(path, text)| Some((path, module_of(path)?, text)));
    files
        .map(|(path, module, text)| {
            let named = modules.named(&module, text);
            let found = named.iter().filter_map(|named| modules.file(named, 0));
            (path.as_str(), found.filter(|found| found != path).collect())
        })
        .collect()
}

/// For each set of files that import each other, directly or by others, the shortest way round.
pub(super) fn circles(imports: &Imports<'_>) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for file in imports.keys() {
        let Some(way) = way_back(imports, file) else { continue };
        if !told.contains(file) {
            circles.push(format!("{}: is in a circle of imports: {}", way[0], way.join(" → ")));
        }
        told.extend(way);
    }
    circles
}

/// The shortest chain of imports from a file to itself.
fn way_back<'a>(imports: &Imports<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for next in imports.get(file)? {
            if *next == start {
                let mut way = vec![start, file];
                while way[way.len() - 1] != start {
                    way.push(from[way[way.len() - 1]]);
                }
                way.reverse();
                return Some(way);
            }
            if !from.contains_key(next) {
                from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

/// The module that a file of `src/` is; `None` for other files, and for `main.rs`.
fn module_of(path: &str) -> Option<ModulePath> {
    let path = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut module: ModulePath = path.split('/').map(str::to_owned).collect();
    if matches!(module.last()?.as_str(), "mod" | "lib") {
        module.pop();
    }
    (path != "main").then_some(module)
}

impl<'a> Modules<'a> {
    fn of(sources: &'a Sources) -> Self {
        let named = || sources.iter().filter_map(|(path, text)| Some((module_of(path)?, path, text)));
        let files = named().map(|(module, path, _)| (module, path.as_str())).collect();
        let mut modules = Self { files, exported: BTreeMap::new() };
        for (module, _, text) in named() {
            let (uses, _) = split_uses(&code_of(text));
            let public = uses.into_iter().filter_map(|(is_public, path)| {
                Some((path.last()?.clone(), modules.absolute(&module, &path).filter(|_| is_public)?))
            });
            let public = public.collect();
            modules.exported.insert(module, public);
        }
        modules
    }

    /// What the code of `module` names, as paths below the crate.
    fn named(&self, module: &ModulePath, text: &str) -> Vec<ModulePath> {
        let (uses, code) = split_uses(&code_of(text));
        let used = uses.into_iter().filter(|(is_public, _)| !is_public).map(|(_, path)| path);
        used.chain(paths_in(&code)).filter_map(|path| self.absolute(module, &path)).collect()
    }

    /// A path in the code of `module`, as one below the crate; `None` if it leads out of that.
    fn absolute(&self, module: &ModulePath, path: &[String]) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        let ups = path.iter().take_while(|name| *name == "super").count();
        let (base, rest) = match first.as_str() {
            "crate" => (&[][..], rest),
            "self" => (&module[..], rest),
            "super" => (&module[..module.len().saturating_sub(ups)], &path[ups..]),
            _ if self.files.contains_key(&[module, &path[..1]].concat()) => (&module[..], path),
            _ => return None,
        };
        let rest: Vec<_> = rest.iter().filter(|name| *name != "self").cloned().collect();
        Some([base, &rest].concat())
    }

    /// The file that defines what a path names.
    fn file(&self, path: &[String], depth: usize) -> Option<&'a str> {
        let mut module = ModulePath::new();
        for (at, name) in path.iter().enumerate() {
            module.push(name.clone());
            if self.files.contains_key(&module) {
                continue;
            }
            module.pop();
            if let Some(behind) = self.exported.get(&module).and_then(|names| names.get(name))
                && depth < 9
            {
                return self.file(&[behind, &path[at + 1..]].concat(), depth + 1);
            }
            break;
        }
        self.files.get(&module).copied()
    }
}

/// The paths of all `use`s, taken apart, each with whether it is public; and the code without them.
fn split_uses(code: &str) -> (Vec<(bool, ModulePath)>, String) {
    let (mut found, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let Some((before, tree)) = line.split_once("use ").filter(|(before, _)| is_visibility(before.trim()))
        else {
            rest.extend([line, "\n"]);
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            tree.push_str(lines.next().expect("a `use` ends"));
        }
        let paths = branches(tree.split(';').next().unwrap());
        found.extend(paths.into_iter().map(|path| (!before.trim().is_empty(), path)));
    }
    (found, rest)
}

fn is_visibility(text: &str) -> bool {
    text.is_empty() || text == "pub" || text.starts_with("pub(") && text.ends_with(')')
}

/// `a::{b, c::{d, e as f}}` as `a::b`, `a::c::d` and `a::c::e`.
fn branches(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((stem, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        return if path.is_empty() {
            Vec::new()
        } else {
            vec![path.split("::").map(str::to_owned).collect()]
        };
    };
    let stem: Vec<_> = stem.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let inner = &inner[..inner.rfind('}').unwrap_or(inner.len())];
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let paths = parts.into_iter().flat_map(branches);
    paths.map(|path| stem.iter().cloned().chain(path).collect()).collect()
}

/// All paths of at least two names.
fn paths_in(code: &str) -> impl Iterator<Item = ModulePath> {
    let words = code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let paths = words.filter(|word| word.contains("::") && !word.starts_with(':'));
    paths.map(|word| word.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect())
}
