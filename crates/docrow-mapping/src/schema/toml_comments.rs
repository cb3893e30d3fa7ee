//! The comments of a mapping file, and the layout of its lines: one line per column, with aligned parts, the
//! comment last. A proposed column is a commented-out line.

use super::{ColumnSpec, TableSpec, toml_text::pieces};

/// A part of a line that is wider than this does not shift the others to the right.
const WIDEST: usize = 48;

/// The remarks of a mapping file. Empty by default.
#[derive(Debug, Default)]
pub(super) struct FileRemarks {
    /// At the top of the file.
    pub(super) head: Vec<String>,
    /// Above the key.
    pub(super) key: Vec<String>,
    /// At each table, the root table first; or at none.
    pub(super) tables: Vec<TableRemarks>,
}

/// The remarks at a table.
#[derive(Debug, Default)]
pub(super) struct TableRemarks {
    /// Above it.
    pub(super) head: Vec<String>,
    /// Its columns, with the remarks beside and between them.
    pub(super) lines: Vec<RemarkedLine>,
}

#[derive(Debug)]
pub(super) enum RemarkedLine {
    /// A column, and the remark beside it; may be empty.
    Column(ColumnSpec, String),
    /// A proposed one.
    Proposed(ColumnSpec, String),
    /// A line by itself.
    Note(String),
}

impl FileRemarks {
    /// Appends the remarks above a table.
    pub(super) fn head_of(&self, out: &mut String, number: usize) {
        comments(out, self.tables.get(number).map_or(&[], |table| &*table.head));
    }

    /// Appends the lines of a table's columns.
    pub(super) fn columns(&self, out: &mut String, table: &TableSpec, number: usize) {
        match self.tables.get(number) {
            Some(table) => columns(out, &table.lines),
            None => {
                let line = |column: &ColumnSpec| RemarkedLine::Column(column.clone(), String::new());
                columns(out, &table.columns.iter().map(line).collect::<Vec<_>>());
            }
        }
    }
}

/// Appends lines of comment.
pub(super) fn comments(out: &mut String, lines: &[String]) {
    for line in lines {
        out.push_str("# ");
        out.push_str(line);
        out.push('\n');
    }
}

fn columns(out: &mut String, lines: &[RemarkedLine]) {
    let rows: Vec<_> = lines.iter().map(cells).collect();
    let mut widths = [0; 3];
    for cells in rows.iter().flatten() {
        for (width, cell) in widths.iter_mut().zip(cells) {
            let cell = cell.chars().count();
            *width = if cell > WIDEST { *width } else { cell.max(*width) };
        }
    }
    for (line, cells) in lines.iter().zip(&rows) {
        match (line, cells) {
            (RemarkedLine::Note(note), _) => comments(out, std::slice::from_ref(note)),
            (_, Some(cells)) => row(out, cells, widths),
            (_, None) => {}
        }
    }
}

fn row(out: &mut String, cells: &[String; 4], widths: [usize; 3]) {
    let start = out.len();
    for (cell, width) in cells.iter().zip(widths.into_iter().chain([0])) {
        out.push_str(cell);
        let missing = width.saturating_sub(cell.chars().count());
        out.extend(std::iter::repeat_n(' ', missing + 1));
    }
    let end = out.get(start..).map_or(0, |line| line.trim_end().len());
    out.truncate(start + end);
    out.push('\n');
}

/// `name`, `= { path = "…",`, `type = "…" }` and the comment.
fn cells(line: &RemarkedLine) -> Option<[String; 4]> {
    let (before, column, remark) = match line {
        RemarkedLine::Column(column, remark) => ("", column, remark),
        RemarkedLine::Proposed(column, remark) => ("# ", column, remark),
        RemarkedLine::Note(_) => return None,
    };
    let [name, path, rest] = pieces(column);
    let remark = if remark.is_empty() { String::new() } else { format!(" # {remark}") };
    Some([format!("{before}{name}"), format!("= {path}"), rest, remark])
}
