//! Paths of fields, as written in mapping files: names joined by dots, each followed by one `[]` for every
//! array that is unnested there. A dot, a backslash or a `[]` that belongs to a name is escaped by a
//! backslash.

use std::fmt;

/// A path into a document: `address.city`, `messages[].attachments[]`. Empty for the document itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(Vec<Segment>);

/// One field of a path, and how many arrays are unnested after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Segment {
    /// The field's name.
    pub name: String,
    /// How many `[]` follow it.
    pub arrays: usize,
}

impl Segment {
    /// The name in the form of a key of `extra`: a dot and a backslash in it are escaped by a backslash.
    pub fn in_extra(&self) -> String {
        self.name.replace('\\', r"\\").replace('.', r"\.")
    }
}

impl FieldPath {
    /// The path of `segments`.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self(segments)
    }

    /// Parses a path. The error says what a path must be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut segments = Vec::new();
        let mut rest = text;
        loop {
            let (segment, after) = segment(rest)?;
            segments.push(segment);
            match after {
                Some(after) => rest = after,
                None => return Ok(Self(segments)),
            }
        }
    }

    /// The fields in order.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// How many arrays are unnested on the path.
    pub fn arrays(&self) -> usize {
        self.0.iter().map(|segment| segment.arrays).sum()
    }

    /// The path of `inner`, relative to this path.
    #[must_use]
    pub fn join(&self, inner: &Self) -> Self {
        Self([self.segments(), inner.segments()].concat())
    }
}

/// Parses one segment, and returns it with the text after the dot that ends it.
fn segment(text: &str) -> Result<(Segment, Option<&str>), &'static str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some((_, escaped @ ('.' | '\\' | '['))) => name.push(escaped),
                _ => return Err("a backslash must stand before a dot, a backslash or a `[`"),
            },
            '.' => {
                end = at;
                break;
            }
            '[' if text[at..].starts_with("[]") => {
                end = at;
                break;
            }
            _ => name.push(char),
        }
    }
    if name.is_empty() {
        return Err("a path must name a field between its dots");
    }
    if name.contains('\0') {
        return Err("a field's name has no NUL");
    }
    let mut rest = &text[end..];
    let mut arrays = 0;
    while let Some(after) = rest.strip_prefix("[]") {
        (rest, arrays) = (after, arrays + 1);
    }
    match rest.strip_prefix('.') {
        Some(after) => Ok((Segment { name, arrays }, Some(after))),
        None if rest.is_empty() => Ok((Segment { name, arrays }, None)),
        None => Err("only a dot or another `[]` may follow `[]`"),
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Segment { name, arrays }) in self.0.iter().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            let name = name.replace('\\', "\\\\").replace('.', "\\.").replace("[]", "\\[]");
            write!(f, "{dot}{name}{}", "[]".repeat(*arrays))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(segments: &[(&str, usize)]) -> FieldPath {
        FieldPath(segments.iter().map(|&(name, arrays)| Segment { name: name.into(), arrays }).collect())
    }

    #[test]
    fn reads_paths() {
        assert_eq!(FieldPath::parse("a"), Ok(path(&[("a", 0)])));
        assert_eq!(
            FieldPath::parse("messages[].attachments[]"),
            Ok(path(&[("messages", 1), ("attachments", 1)]))
        );
        assert_eq!(FieldPath::parse("m[][].x y"), Ok(path(&[("m", 2), ("x y", 0)])));
        assert_eq!(FieldPath::parse(r"a\.b\\.c\[].d[0]"), Ok(path(&[(r"a.b\", 0), ("c[]", 0), ("d[0]", 0)])));
    }

    #[test]
    fn refuses_what_is_no_path() {
        for text in ["", ".", "a.", ".a", "a..b", "[]", "a.[]", "a[]b", r"a\", r"a\b", "a\0"] {
            assert!(FieldPath::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(segments in prop::collection::vec((r"[a.\\\[\]é ]{1,6}", 0_usize..3), 1..4)) {
            let segments = segments.into_iter().map(|(name, arrays)| Segment { name, arrays }).collect();
            let path = FieldPath::new(segments);
            prop_assert_eq!(FieldPath::parse(&path.to_string()), Ok(path));
        }
    }
}
