//! Detects conflicts between the paths of a mapping's tables, columns and omitted fields: refuses a field
//! that would be in two places.

use std::collections::BTreeMap;

use super::FieldPath;

/// MongoDB's maximum nesting (its limit for stored documents).
const MAX_DEPTH: usize = 100;

/// What a mapping uses a path for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakenAs {
    Object { table: bool },
    Array,
    Column,
    Omitted,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PathStep {
    Field(String),
    Element,
}

/// The paths in use so far.
#[derive(Default)]
pub(super) struct PathLayout {
    places: BTreeMap<Vec<PathStep>, TakenAs>,
}

impl PathLayout {
    /// Adds the path of a child table. The error names the conflict.
    pub(super) fn table(&mut self, path: &FieldPath) -> Result<(), String> {
        self.take(path, TakenAs::Object { table: true })
    }

    /// Adds the path of a column, which is relative to `table`.
    pub(super) fn column(&mut self, table: &FieldPath, path: &FieldPath) -> Result<(), String> {
        if path.arrays() > 0 {
            return Err("unnests an array, which requires a separate table".into());
        }
        self.take(&table.join(path), TakenAs::Column)
    }

    /// Adds the path of an omitted field.
    pub(super) fn omitted(&mut self, path: &FieldPath) -> Result<(), String> {
        if path.segments().last().is_some_and(|last| last.arrays > 0) {
            return Err("must end with a field, which may be an array: without []".into());
        }
        self.take(path, TakenAs::Omitted)
    }

    fn take(&mut self, path: &FieldPath, place: TakenAs) -> Result<(), String> {
        let steps = steps(path);
        if steps.len() > MAX_DEPTH {
            return Err(format!("is deeper than {MAX_DEPTH} levels"));
        }
        if matches!(steps.first(), Some(PathStep::Field(name)) if name == "_id") {
            let constraint = match place {
                TakenAs::Omitted => "_id is the document's key, which every row has",
                _ => "_id is the document's key, which has its own column",
            };
            return Err(constraint.into());
        }
        for end in 1..steps.len() {
            let (before, after) = steps.split_at(end);
            let inner = match after.first() {
                Some(PathStep::Element) => TakenAs::Array,
                _ => TakenAs::Object { table: false },
            };
            self.merge(before, inner, path)?;
        }
        self.merge(&steps, place, path)
    }

    fn merge(&mut self, steps: &[PathStep], place: TakenAs, path: &FieldPath) -> Result<(), String> {
        use TakenAs::{Array, Column, Object, Omitted};
        let Some(there) = self.places.get_mut(steps) else {
            self.places.insert(steps.to_vec(), place);
            return Ok(());
        };
        *there = match (*there, place) {
            (Array, Array) => Array,
            (Object { table: false }, Object { table }) => Object { table },
            (Object { table: true }, Object { table: false }) => Object { table: true },
            (Column, Column) | (Object { table: true }, Object { table: true }) => {
                return Err(format!("\"{path}\" is mapped twice"));
            }
            (Column, _) => return Err(format!("\"{path}\" lies in a field that is mapped to a column")),
            (Omitted, Omitted) => return Err(format!("\"{path}\" is omitted twice")),
            (Omitted, _) => return Err(format!("\"{path}\" lies in a field that is omitted")),
            (_, Column | Omitted) => {
                return Err(format!("parts of \"{path}\" are mapped or omitted elsewhere"));
            }
            (Array, Object { .. }) | (Object { .. }, Array) => {
                return Err(format!(
                    "\"{path}\" passes a field that is mapped both as an object and as an array"
                ));
            }
        };
        Ok(())
    }
}

fn steps(path: &FieldPath) -> Vec<PathStep> {
    let of = |segment: &super::Segment| {
        let elements = std::iter::repeat_n(PathStep::Element, segment.arrays);
        std::iter::once(PathStep::Field(segment.name.clone())).chain(elements).collect::<Vec<_>>()
    };
    path.segments().iter().flat_map(of).collect()
}
