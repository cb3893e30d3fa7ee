//! Widens columns while others write and read: each gets another column beside it, which replaces it in the
//! end.
//!
//! While both exist they are one [`ColumnSpec`]: the wide column, and what it [was](ColumnSpec::was). Both
//! are written, from one value of the document; what the wide one does not represent exactly is noted, as
//! usual. Reading uses the wide column, or, if that is NULL, the narrow one. So a row that an earlier version
//! of the mapping wrote, whose wide column is NULL, represents its document exactly, and so does a newer one:
//! a value that both can hold is in both, a missing one in neither, and one that only the narrow column holds
//! is noted, and notes take precedence. Once every document has been written again, the narrow column
//! contains nothing that the wide one, or a note, does not.
//!
//! This needs no rule about which type is wider than which; [`change`](super::change) decides which changes
//! are allowed.

use super::{ColumnSpec, MappingSpec, ReplacedColumn, TableSpec, change::keeps_rows, evolve::columns_of};
use crate::{
    mapping::Replacement,
    model::table::{ColumnType, Reading, Scalar},
};

/// Which columns whose type changes get another column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WidenedColumns {
    /// Those whose rows would not represent the same values if only the column's type were changed.
    Necessary,
    /// All metrics.
    All,
}

impl ColumnSpec {
    /// Its final name.
    pub(super) fn settled_name(&self) -> &str {
        self.was.as_ref().map_or(&self.name, |was| &was.name)
    }

    /// All its names in the table.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.name).chain(self.was.as_ref().map(|was| &*was.name))
    }
}

impl MappingSpec {
    /// The mapping after every column has been replaced.
    #[must_use]
    pub fn settled(&self) -> Self {
        let mut settled = self.clone();
        for column in settled.tables_mut().flat_map(|table| &mut table.columns) {
            if let Some(was) = column.was.take() {
                column.name = was.name;
            }
        }
        settled
    }

    /// The columns that will replace others.
    pub fn replacements(&self) -> Vec<Replacement> {
        let of = |table: &TableSpec, column: &ColumnSpec| {
            let was = column.was.as_ref()?;
            Some(Replacement {
                table: table.table.clone(),
                key: table.parent.clone(),
                narrow: was.name.clone(),
                wide: column.name.clone(),
                ty: column.ty.sql(),
            })
        };
        let all = self.tables().flat_map(|table| table.columns.iter().map(move |column| of(table, column)));
        all.flatten().collect()
    }

    /// `new`, which adds to this mapping, with another column beside each whose type it changes and whose
    /// rows would not represent the same values afterwards. Existing ones stay.
    #[must_use]
    pub fn beside(&self, new: &Self) -> Self {
        self.beside_each(new, WidenedColumns::Necessary)
    }

    /// `new`, which adds to this mapping, without changing the type of any existing column: with another one
    /// beside each.
    #[must_use]
    pub fn beside_all(&self, new: &Self) -> Self {
        self.beside_each(new, WidenedColumns::All)
    }

    fn beside_each(&self, new: &Self, which: WidenedColumns) -> Self {
        let (mut beside, extra) = (new.clone(), new.extra().map(str::to_owned));
        for table in beside.tables_mut() {
            let Some(before) = self.tables().find(|before| before.table == table.table) else { continue };
            let mut names = columns_of(table, extra.as_deref());
            for column in &mut table.columns {
                let before = before.columns.iter().find(|old| old.settled_name() == column.settled_name());
                match before {
                    Some(before) if before.ty == column.ty => column.clone_from(before),
                    Some(before)
                        if (column.was.is_none() && before.was.is_none())
                            && (which == WidenedColumns::All || !keeps_rows(before.ty, column.ty)) =>
                    {
                        let wide = names.claim([&*column.name, "widened by docrow"]);
                        let name = std::mem::replace(&mut column.name, wide);
                        column.was = Some(ReplacedColumn { name, ty: before.ty });
                    }
                    _ => {}
                }
            }
        }
        beside
    }

    /// `new`, which adds to this mapping, with these columns as they are here.
    #[must_use]
    pub fn keeping(&self, new: &Self, kept: &[Replacement]) -> Self {
        let mut keeping = new.clone();
        for table in keeping.tables_mut() {
            let Some(before) = self.tables().find(|before| before.table == table.table) else { continue };
            let name = &table.table;
            let is_kept =
                |column: &ColumnSpec| kept.iter().any(|k| k.table == *name && k.wide == column.name);
            for column in table.columns.iter_mut().filter(|column| is_kept(column)) {
                let before = before.columns.iter().find(|old| old.settled_name() == column.settled_name());
                if let Some(before) = before {
                    column.clone_from(before);
                }
            }
        }
        keeping
    }

    /// Alternatives if tables can't become those of `new`, which adds to this mapping: first without changing
    /// any existing column, then without widening any. `None`: there is no alternative, or nothing would then
    /// be added.
    pub fn less_than(&self, new: &Self) -> Option<Self> {
        let beside = self.beside_all(new);
        if beside != *new {
            return Some(beside);
        }
        let mut narrow = new.clone();
        for table in narrow.tables_mut() {
            let Some(before) = self.tables().find(|before| before.table == table.table) else { continue };
            for column in &mut table.columns {
                let before = before.columns.iter().find(|old| old.settled_name() == column.settled_name());
                if let Some(before) = before {
                    column.clone_from(before);
                }
            }
        }
        (narrow != *self && narrow != *new).then_some(narrow)
    }

    /// The mapping in which these columns, named with their tables, also hold fractions. `None`: none of them
    /// holds whole numbers.
    pub fn with_fractions(&self, columns: &[(String, String)]) -> Option<Self> {
        let (mut wide, mut any) = (self.clone(), false);
        for table in wide.tables_mut() {
            let name = &table.table;
            let is_one = |column: &ColumnSpec| {
                column.ty.is_whole()
                    && column.mask.is_none()
                    && columns.iter().any(|(of, own)| of == name && *own == column.name)
            };
            for column in table.columns.iter_mut().filter(|column| is_one(column)) {
                column.ty = ColumnType { reading: Reading::Number, ..ColumnType::scalar(Scalar::Double) };
                any = true;
            }
        }
        any.then_some(wide)
    }

    /// All tables, the root table first.
    fn tables_mut(&mut self) -> impl Iterator<Item = &mut TableSpec> {
        std::iter::once(&mut self.root).chain(&mut self.children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "collection = \"a.b\"\ntable = \"t\"\nextra = \"_extra\"\n[key]\ncolumn = \"id\"\ntype = \"bigint\"\n";
    const LINES: &str = "[[tables]]\ntable = \"c\"\npath = \"list[]\"\nparent = \"p\"\nordinals = [\"n\"]\n";

    fn spec(ty: &str, more: &str) -> MappingSpec {
        let columns = |path: &str| format!("x = {{ path = \"{path}\", type = {ty} }}\n");
        let text =
            format!("{HEAD}[columns]\n{}{more}{LINES}[tables.columns]\n{}", columns("x"), columns("x"));
        MappingSpec::parse(&text, "t.toml").unwrap()
    }

    #[test]
    fn a_wide_column_takes_the_place_of_the_narrow_one() {
        let (narrow, wide) = (spec("\"bigint\"", ""), spec("\"double precision\", bson = \"number\"", ""));
        assert_eq!(narrow.beside(&wide), wide, "the rows represent the same in either type");
        let beside = narrow.beside_all(&wide);
        let found: Vec<_> =
            beside.replacements().into_iter().map(|r| (r.table, r.key, r.narrow, r.wide, r.ty)).collect();
        let of = |table: &str, key: &str| {
            let [narrow, wide, ty] = ["x", "x_widened_by_docrow", "double precision"].map(str::to_owned);
            (table.to_owned(), key.to_owned(), narrow, wide, ty)
        };
        assert_eq!(found, [of("t", "id"), of("c", "p")]);
        assert_eq!(beside.settled(), wide);
        assert_eq!(MappingSpec::parse(&beside.to_toml(), "t.toml").unwrap(), beside);
        assert_eq!(narrow.less_than(&beside), None);
        let kept = narrow.keeping(&beside, &beside.replacements()[..1]);
        assert_eq!(kept.replacements(), beside.replacements()[1..]);
        assert_eq!(narrow.keeping(&beside, &beside.replacements()), narrow);
        assert_eq!(beside.beside(&wide), beside, "a replacement in progress stays");
    }

    #[test]
    fn a_type_of_another_reading_needs_a_column_of_its_own() {
        for (from, to) in [
            ("\"bigint\", bson = \"long\"", "\"double precision\", bson = \"number\""),
            ("\"bigint\"", "\"double precision\""),
            ("\"bigint\"", "\"numeric\""),
        ] {
            let (narrow, wide) = (spec(from, ""), spec(to, ""));
            assert_eq!(narrow.beside(&wide), narrow.beside_all(&wide), "{from} to {to}");
        }
    }

    #[test]
    fn what_is_new_can_be_had_without_what_is_wider() {
        let more = "b = { path = \"b\", type = \"text\" }\n";
        let (narrow, wide) = (spec("\"bigint\"", ""), spec("\"numeric\"", more));
        assert_eq!(narrow.less_than(&narrow.beside(&wide)), Some(spec("\"bigint\"", more)));
        assert_eq!(narrow.less_than(&narrow.beside(&spec("\"numeric\"", ""))), None);
    }
}
