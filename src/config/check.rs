//! Checks of single values.

use std::{env, fmt, path::Path, time::Duration};

use bytesize::ByteSize;

use super::{
    Order, Rate,
    keys::{self, ConfigKey},
};
use crate::{
    error::{Code, Error, Result},
    secret::{self, EmptySecret, Secret},
};

/// The bounds of the time after which a stall is detected.
const STALL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// The maximum time that a change may wait for its batch.
const LONGEST: Duration = Duration::from_secs(60);

/// How many of them there are in the order of documents, unless the file says otherwise.
const PARTITIONS: u16 = 4;

/// The names of one of the two sides.
pub(super) struct ServerEndpoint {
    pub(super) side: &'static str,
    /// Those of URI and password.
    pub(super) keys: (ConfigKey, ConfigKey),
    /// The environment variables for the same.
    pub(super) variables: (&'static str, &'static str),
    /// The value of the command line, or of that environment variable. Empty: this side is not used.
    pub(super) flag: Option<Secret>,
    pub(super) uri: Option<Secret>,
    pub(super) password: Option<Secret>,
}

/// Checks of single values; every error names the file, the key and the constraint.
pub(super) struct ValueCheck<'a> {
    pub(super) file: &'a str,
    /// The base of relative paths.
    pub(super) folder: &'a Path,
}

impl ValueCheck<'_> {
    pub(super) fn error(&self, key: impl fmt::Display, constraint: impl fmt::Display) -> Error {
        Error::new(Code::BadValue, format!("{}: {key}: {constraint}", self.file))
    }

    /// One of `served`; those of `later` are reported as not supported yet.
    pub(super) fn only(
        &self,
        value: Option<String>,
        key: ConfigKey,
        served: &[&str],
        later: &[&str],
    ) -> Result<()> {
        match value.as_deref() {
            None => Ok(()),
            Some(value) if served.contains(&value) => Ok(()),
            Some(value) if later.contains(&value) => Err(self
                .error(key, format!("\"{value}\" is not supported yet"))
                .with_code(Code::NotSupportedYet)),
            Some(value) => {
                let known: Vec<_> = served.iter().chain(later).map(|known| format!("\"{known}\"")).collect();
                Err(self.error(key, format!("\"{value}\" is not one of {}", known.join(", "))))
            }
        }
    }

    /// What the value stands for.
    pub(super) fn one_of<T: Copy, const N: usize>(
        &self,
        value: String,
        key: ConfigKey,
        known: [(&str, T); N],
    ) -> Result<T> {
        let found = known.iter().find(|(name, _)| *name == value);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let known: Vec<_> = known.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.error(key, format!("\"{value}\" is not one of {}", known.join(", ")))
        })
    }

    /// The connection string of one side, with its password.
    pub(super) fn uri(&self, endpoint: ServerEndpoint) -> Result<Secret> {
        let ServerEndpoint { side, keys, variables, flag, uri, password } = endpoint;
        if flag.as_ref().is_some_and(|flag| flag.expose().is_empty()) {
            return Ok(Secret::default());
        }
        let ((key, password_key), (variable, password_variable)) = (keys, variables);
        let from_environment = secret::from_environment(password_variable, EmptySecret::IsNone)?;
        let (uri, password) = match (flag, secret::from_environment(variable, EmptySecret::IsWrong)?, uri) {
            (Some(flag), ..) => {
                let of_the_command_line = ValueCheck { folder: Path::new(""), ..*self };
                (of_the_command_line.expand(flag.expose(), key)?.into(), None)
            }
            (None, Some(filed), _) => (filed, None),
            (None, None, Some(uri)) => {
                self.warn_of_secrets_in_file(&uri, password.as_ref());
                let password = password.map(|text| self.expand(text.expose(), password_key)).transpose()?;
                (self.expand(uri.expose(), key)?.into(), password.map(Secret::from))
            }
            (None, None, None) => {
                let missing = format!("missing: set it there, set {variable}, or pass --{side} URI");
                return Err(self.error(key, missing).with_code(Code::MissingUri));
            }
        };
        match from_environment.or(password) {
            Some(password) => uri.with_password(&password).map_err(|wrong| self.error(password_key, wrong)),
            None => Ok(uri),
        }
    }

    /// The file is as secret as the values in it.
    fn warn_of_secrets_in_file(&self, uri: &Secret, password: Option<&Secret>) {
        let written = |text: &Secret| !text.expose().contains("${");
        if password.is_some_and(written) || uri.has_password() && written(uri) {
            secret::warn_if_open(Path::new(self.file));
        }
    }

    pub(super) fn identifier(&self, value: &str, key: ConfigKey) -> Result<String> {
        let text = self.expand(value, key)?;
        if text.is_empty() || text.len() > 63 || text.contains('\0') {
            return Err(self.error(key, "must have 1 to 63 bytes"));
        }
        Ok(text)
    }

    /// The schema of the tables. docrow's own, and PostgreSQL's, are not allowed.
    pub(super) fn schema(&self, value: &str) -> Result<String> {
        let key = keys::target::schema;
        let schema = self.identifier(value, key)?;
        let whose = match schema.as_str() {
            "docrow" => "it holds docrow's metadata",
            "information_schema" => "it is PostgreSQL's own",
            name if name.starts_with("pg_") => "names that begin with pg_ are PostgreSQL's own",
            _ => return Ok(schema),
        };
        Err(self.error(key, format!("\"{schema}\" can't have your tables: {whose}: name another schema")))
    }

    pub(super) fn between<N>(&self, value: N, key: ConfigKey, most: N) -> Result<N>
    where
        N: Copy + PartialOrd + From<u8> + fmt::Display,
    {
        if (N::from(1)..=most).contains(&value) {
            return Ok(value);
        }
        Err(self.error(key, format!("{value} is not between 1 and {most}")))
    }

    /// With `order = "commit"` there is one.
    pub(super) fn partitions(&self, value: Option<u16>, order: Order) -> Result<u16> {
        let key = keys::stream::partitions;
        match (order, value) {
            (Order::Document, value) => self.between(value.unwrap_or(PARTITIONS), key, 64),
            (Order::Commit, None | Some(1)) => Ok(1),
            (Order::Commit, Some(other)) => {
                let advice = "remove it, or set it to 1";
                Err(self.error(
                    key,
                    format!("{other} is too many for stream.order = \"commit\", which has one: {advice}"),
                ))
            }
        }
    }

    pub(super) fn size(&self, text: &str, key: ConfigKey, least: ByteSize) -> Result<u64> {
        match text.parse::<ByteSize>() {
            Ok(size) if size >= least => Ok(size.as_u64()),
            Ok(_) => Err(self.error(key, format!("\"{text}\" is less than {}", least.display().iec()))),
            Err(_) => Err(self.error(key, format!("\"{text}\" is no size: use for example \"10GiB\""))),
        }
    }

    /// How fast snapshots may read.
    pub(super) fn rate(&self, value: Option<String>) -> Result<Option<Rate>> {
        let key = keys::snapshot::max_rate;
        let Some(text) = value else { return Ok(None) };
        self.expand(&text, key)?.parse().map(Some).map_err(|wrong| self.error(key, wrong))
    }

    pub(super) fn duration(&self, text: &str, key: ConfigKey) -> Result<Duration> {
        match self.parsed(text, key)? {
            duration if duration <= LONGEST => Ok(duration),
            _ => Err(self.error(key, format!("\"{text}\" is more than a minute"))),
        }
    }

    /// After how long the pipeline counts as stalled.
    pub(super) fn patience(&self, text: &str, key: ConfigKey) -> Result<Duration> {
        match self.parsed(text, key)? {
            duration if (STALL.0..=STALL.1).contains(&duration) => Ok(duration),
            _ => Err(self.error(key, format!("\"{text}\" is not between a second and an hour"))),
        }
    }

    fn parsed(&self, text: &str, key: ConfigKey) -> Result<Duration> {
        let example = "use for example \"50ms\" or \"2s\"";
        humantime::parse_duration(text)
            .map_err(|_| self.error(key, format!("\"{text}\" is no duration: {example}")))
    }

    pub(super) fn expand_all(&self, values: Vec<String>, key: ConfigKey) -> Result<Vec<String>> {
        values.iter().map(|value| self.expand(value, key)).collect()
    }

    /// Replaces every `${NAME}` by the environment variable of that name, and every `${file:PATH}` by the
    /// content of that file.
    pub(super) fn expand(&self, text: &str, key: ConfigKey) -> Result<String> {
        let mut expanded = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, tail) =
                after.split_once('}').ok_or_else(|| self.error(key, "\"${\" is not closed by \"}\""))?;
            expanded.push_str(before);
            match name.strip_prefix("file:") {
                Some(path) => {
                    let read = secret::read(&self.folder.join(path));
                    let content = read.map_err(|e| e.within(format!("{}: {key}", self.file)))?;
                    expanded.push_str(content.expose());
                }
                None => {
                    let value = env::var(name).map_err(|_| {
                        self.error(key, format!("environment variable {name} is not set"))
                            .with_code(Code::MissingVariable)
                    })?;
                    expanded.push_str(&value);
                }
            }
            rest = tail;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }
}
