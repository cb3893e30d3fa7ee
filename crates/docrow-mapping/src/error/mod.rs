//! The one error type.
//!
//! A [`Kind`] is named by its consequence, and [`Kind::disposition`] and [`Kind::exit_code`] are the only
//! places that decide what an error does. A new kind must change one of the two.
//!
//! An error reads "what happened: to what: why", for example `connect to PostgreSQL at db:5432: connection
//! refused`. Context is a present-tense verb and its object; neither context nor source ever holds a
//! document's value or a password (G12).
//!
//! Every error has a [`Code`] that never changes and that `docrow explain` describes in detail; each code has
//! one kind. Code that logs an error shows its code, too: `tracing::warn!(code = %error.code(), "{error}")`.

mod code;
mod kind;
mod table;

use std::{error::Error as StdError, fmt};

pub use self::{
    code::Code,
    kind::{Disposition, Kind},
};

/// `Result` with docrow's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its code, what was being done, and its cause.
#[derive(Debug)]
pub struct Error {
    code: Code,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with no further cause. `context` says what happened, to what, and what to do. The code may be
    /// a [`Kind`] if no code is more specific.
    pub fn new(code: impl Into<Code>, context: impl Into<String>) -> Self {
        Self { code: code.into(), context: context.into(), source: None }
    }

    /// An error caused by `source`, while doing `context`.
    pub fn caused(
        code: impl Into<Code>,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { code: code.into(), context: context.into(), source: Some(source.into()) }
    }

    /// Shorthand for an error of kind [`Kind::Usage`].
    pub fn usage(context: impl Into<String>) -> Self {
        Self::new(Kind::Usage, context)
    }

    /// Shorthand for an error of kind [`Kind::Bug`].
    pub fn bug(context: impl Into<String>) -> Self {
        Self::new(Kind::Bug, context)
    }

    /// What exactly happened.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the error means for the program.
    pub fn kind(&self) -> Kind {
        self.code.kind()
    }

    /// The error with its code, as log lines have it: `[DRW-3201] …`.
    pub fn coded(&self) -> String {
        format!("[{}] {self}", self.code)
    }

    /// Its cause. This is not [`StdError::source`], because [`fmt::Display`] already contains the cause.
    pub fn cause(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.source.as_deref()
    }

    /// Replaces the code with a more specific one; the kind follows.
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// The same error with the caller's context in front.
    #[must_use]
    pub fn within(self, context: impl fmt::Display) -> Self {
        Self { context: format!("{context}: {}", self.context), ..self }
    }
}

/// The whole chain on one line: context, then every cause that adds something.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.context.clone();
        let mut cause: Option<&(dyn StdError + 'static)> = self.source.as_deref().map(|e| e as _);
        while let Some(error) = cause {
            let text = error.to_string();
            if !said.ends_with(&text) {
                said.push_str(": ");
                said.push_str(&text);
            }
            cause = error.source();
        }
        f.write_str(&said.replace('\n', " "))
    }
}

/// [`fmt::Display`] already contains the cause, so it is not offered again.
impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_whole_chain_once() {
        let inner = Error::caused(Kind::TargetAway, "connect to db:5432", std::io::Error::other("refused"));
        assert_eq!(inner.within("start").to_string(), "start: connect to db:5432: refused");
    }

    #[test]
    fn is_of_its_codes_kind() {
        let general = Error::usage("x");
        assert_eq!((general.code(), general.kind()), (Code::Usage, Kind::Usage));
        let error = Error::new(Code::TargetDiskFull, "copy");
        assert_eq!((error.code(), error.kind()), (Code::TargetDiskFull, Kind::TargetAway));
        assert_eq!(error.within("start").code(), Code::TargetDiskFull);
    }
}
