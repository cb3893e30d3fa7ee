//! All codes, one entry each: number, name, [`Kind`](super::Kind), what happened, what that means, what to
//! do.
//!
//! Numbers never change: scripts, runbooks and searches use them. So an entry is never removed, and its
//! number is never reused; `testdata/codes.txt` enforces that. A new entry goes to the end of its group, and
//! is used by `Error::new(Code::Name, …)`, or by [`with_code`](super::Error::with_code) if the error is
//! created elsewhere. The message itself adds only the specifics: names, places, the server's words.
//!
//! One enum has all entries, but a file has 400 lines at most. So each file is a macro that appends its
//! entries to those it is given, and hands all of them to the next one; [`super::code`] generates the enum at
//! the end.

mod docrow;
mod mongodb;
mod postgresql;
mod usage;

pub(super) use self::{docrow::docrow, mongodb::mongodb, postgresql::postgresql, usage::usage};
