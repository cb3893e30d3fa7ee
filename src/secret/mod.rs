//! Secrets, and where they come from: URIs with their passwords, separate passwords, the mask key.
//!
//! A [`Secret`] can't get into a log line by accident: its `Debug` hides it, and it has no `Display`. It
//! comes from the environment or from a file, so that it need never appear in the process list. Errors here
//! name the file or the variable, never its content (G12). A file that every user of the machine can read is
//! warned of, once.
//!
//! Certificates and keys, which are also read from files, are in [`pem`].

pub mod pem;

use std::{
    collections::BTreeSet,
    env::{self, VarError},
    fmt, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::error::{Code, Error, Result};

/// The suffix of an environment variable's name that makes it name a file with the value.
const FILE: &str = "_FILE";

/// All characters that a password can't contain in a URI: everything but RFC 3986's unreserved ones.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// For a URI: whether it contains a password.
    pub fn has_password(&self) -> bool {
        split_user(&self.0).is_some_and(|(_, user, _)| user.contains(':')) || self.0.contains("password=")
    }

    /// For a URI: its parts besides user and password.
    pub fn without_login(&self) -> (&str, &str) {
        match split_user(&self.0) {
            Some((scheme, _, rest)) => (scheme, rest),
            None => self.0.split_once("://").unwrap_or(("", &self.0)),
        }
    }

    /// For a URI that names a user: the same with this password, percent-encoded. Errors say what is wrong
    /// with the URI.
    pub fn with_password(&self, password: &Self) -> Result<Self, &'static str> {
        let (scheme, user, rest) = split_user(&self.0)
            .filter(|(_, user, _)| !user.is_empty())
            .ok_or("the URI names no user for the password: write scheme://user@host/database")?;
        if self.has_password() {
            return Err("the URI contains a password, too: remove one of the two");
        }
        let password = utf8_percent_encode(&password.0, RESERVED);
        Ok(Self(format!("{scheme}://{user}:{password}@{rest}")))
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A URI's scheme, the user with what may follow its colon, and everything after the `@`.
fn split_user(uri: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.find(['/', '?']).map_or(rest, |end| rest.get(..end).unwrap_or(rest));
    let (user, _) = authority.rsplit_once('@')?;
    Some((scheme, user, rest.get(user.len() + 1..)?))
}

/// The meaning of an empty file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptySecret {
    /// It was not filled: an error.
    IsWrong,
    /// There is no such secret: some systems must create a file for every possible secret.
    IsNone,
}

/// The value of the environment variable `name`, or else the content of the file that `name` with `_FILE`
/// names. None if neither is set, or the variable is empty. Errors: both are set, or there is no such file.
pub fn from_environment(name: &str, empty: EmptySecret) -> Result<Option<Secret>> {
    let named = format!("{name}{FILE}");
    let get = |name: &str| match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => {
            Err(Error::new(Code::Secret, format!("environment variable {name}: is not UTF-8")))
        }
    };
    match (get(name)?, get(&named)?) {
        (Some(_), Some(_)) => Err(Error::new(
            Code::Secret,
            format!("environment variables {name} and {named} are both set: unset one of them"),
        )),
        (Some(value), None) => Ok(Some(value.into())),
        (None, Some(path)) => {
            let path = Path::new(&path);
            let text = read_text(path).and_then(|text| match empty {
                EmptySecret::IsNone if text.is_empty() => Ok(None),
                _ => filled(path, text).map(Some),
            });
            text.map_err(|e| e.within(format!("environment variable {named}")))
        }
        (None, None) => Ok(None),
    }
}

/// Whether [`from_environment`] would read a file for `name`.
pub fn is_filed(name: &str) -> bool {
    env::var_os(format!("{name}{FILE}")).is_some_and(|path| !path.is_empty())
}

/// The content of a file, without the newline at its end. Errors: it can't be read, is empty, or is no text.
pub fn read(path: &Path) -> Result<Secret> {
    filled(path, read_text(path)?)
}

fn filled(path: &Path, text: String) -> Result<Secret> {
    if text.is_empty() {
        return Err(Error::new(Code::Secret, format!("read {}: it is empty", path.display())));
    }
    warn_if_open(path);
    Ok(Secret(text))
}

fn read_text(path: &Path) -> Result<String> {
    let bytes = read_bytes(path)?;
    let Ok(mut text) = String::from_utf8(bytes) else {
        return Err(Error::new(Code::Secret, format!("read {}: it is not UTF-8", path.display())));
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| Error::caused(Code::Secret, format!("read {}", path.display()), e))
}

/// Warns, once for each file, if every user can read it.
pub fn warn_if_open(path: &Path) {
    static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !is_open(path).unwrap_or(false) {
        return;
    }
    if WARNED.lock().is_ok_and(|mut warned| warned.insert(path.to_owned())) {
        tracing::warn!(
            "{} holds a secret, and every user of this machine can read it: chmod 600 it (in Kubernetes: defaultMode: 0440 \
             and fsGroup)",
            path.display()
        );
    }
}

/// Whether every user can read a file: its mode permits it, and so does every folder above it.
fn is_open(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    let lets =
        |path: &Path, bit: u32| Ok::<_, io::Error>(fs::metadata(path)?.permissions().mode() & bit != 0);
    let mut open = lets(&path, 0o004)?;
    for folder in path.ancestors().skip(1) {
        open = open && lets(folder, 0o001)?;
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(uri: &str, password: &str) -> Result<String, &'static str> {
        Secret::from(uri).with_password(&password.into()).map(|uri| uri.expose().to_owned())
    }

    #[test]
    fn a_password_is_put_into_a_uri() {
        assert_eq!(with("mongodb://u@a,b:2/x?y=z", "plain").unwrap(), "mongodb://u:plain@a,b:2/x?y=z");
        assert_eq!(
            with("postgresql://u@h", "p@ss:w/rd?%#[]&=ü ").unwrap(),
            "postgresql://u:p%40ss%3Aw%2Frd%3F%25%23%5B%5D%26%3D%C3%BC%20@h"
        );
        assert_eq!(with("mongodb+srv://u%40x@h/?a=@", "-._~").unwrap(), "mongodb+srv://u%40x:-._~@h/?a=@");
        for uri in ["mongodb://u:p@h/", "postgresql://u@h/x?password=p"] {
            assert!(with(uri, "p").unwrap_err().contains("contains a password"), "{uri}");
        }
        for uri in ["mongodb://h/", "mongodb://@h/", "mongodb://h/x@y", "nonsense", ""] {
            assert!(with(uri, "p").unwrap_err().contains("names no user"), "{uri}");
        }
    }

    /// G12.
    #[test]
    fn is_not_shown() {
        assert_eq!(format!("{:?}", Some(Secret::from("hunter2"))), "Some(Secret(…))");
        assert!(Secret::from("mongodb://u:p@h/").has_password());
        assert!(!Secret::from("mongodb://u@h:1/x:y@z").has_password());
    }

    #[test]
    fn a_uri_without_its_login_is_the_same_for_all_users() {
        let rest = |uri: &str| {
            let uri = Secret::from(uri);
            let (scheme, rest) = uri.without_login();
            format!("{scheme} {rest}")
        };
        assert_eq!(rest("mongodb://u:p@a,b:2/x?y=z@"), "mongodb a,b:2/x?y=z@");
        assert_eq!(rest("mongodb://v@a,b:2/x?y=z@"), rest("mongodb://a,b:2/x?y=z@"));
        assert_ne!(rest("mongodb://u@a/x"), rest("mongodb://u@b/x"));
    }

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let read_of = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            read(&path).map(|secret| secret.expose().to_owned()).map_err(|e| e.to_string())
        };
        for (bytes, text) in [("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" \n", " ")] {
            assert_eq!(read_of(bytes.as_bytes()).unwrap(), text);
        }
        assert!(read_of(b"\n").unwrap_err().ends_with("password: it is empty"));
        assert!(read_of(b"\xff").unwrap_err().ends_with("password: it is not UTF-8"));
        let missing = read(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(missing.contains("absent: No such file"), "{missing}");
        assert!(read(folder.path()).unwrap_err().to_string().contains("directory"));
    }

    #[test]
    fn a_file_is_open_if_everybody_gets_to_it() {
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "p").unwrap();
        for (of_folder, of_file, open) in
            [(0o755, 0o644, true), (0o700, 0o644, false), (0o755, 0o600, false), (0o755, 0o640, false)]
        {
            set(folder.path(), of_folder);
            set(&path, of_file);
            assert_eq!(is_open(&path).unwrap(), open, "{of_folder:o} {of_file:o}");
        }
    }
}
