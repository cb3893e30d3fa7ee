//! A test's own certificate authority, in a temporary folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

/// An issuer of certificates.
pub(crate) struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate: PathBuf,
    issued: AtomicUsize,
}

/// A certificate and its key, in files.
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file.
    pub(crate) both: PathBuf,
    /// As MongoDB writes it.
    pub(crate) subject: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("docrow-authority-").tempdir().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let certificate = folder.path().join("authority.pem");
        fs::write(&certificate, issuer.pem()).unwrap();
        Self { folder, issuer, certificate, issued: AtomicUsize::new(0) }
    }

    /// The file of its own certificate.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// For a server on `host`.
    pub(crate) fn server(&self, host: &str) -> Issued {
        self.issue("server", "servers", &[host], None)
    }

    /// For a client called `name`.
    pub(crate) fn client(&self, name: &str) -> Issued {
        self.issue(name, "clients", &[], None)
    }

    /// One that is valid for this long from now on. Zero: it has expired.
    pub(crate) fn short(&self, name: &str, host: &[&str], left: Duration) -> Issued {
        self.issue(name, "clients", host, Some(left))
    }

    /// Its own certificate and key, as if it were a server.
    pub(crate) fn as_server(&self) -> Issued {
        self.write(&self.issuer.pem(), self.issuer.key(), String::new())
    }

    fn issue(&self, name: &str, organization: &str, hosts: &[&str], left: Option<Duration>) -> Issued {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if let Some(left) = left {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(1970, 1, 1) + now + left;
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write(&certificate.pem(), &key, format!("O={organization},CN={name}"))
    }

    fn write(&self, certificate: &str, key: &KeyPair, subject: String) -> Issued {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let key = key.serialize_pem();
        let file = |kind: &str, text: &str| {
            let path = self.folder.path().join(format!("{number}-{kind}.pem"));
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        Issued {
            certificate: file("certificate", certificate),
            key: file("key", &key),
            both: file("both", &format!("{certificate}{key}")),
            subject,
        }
    }
}
