//! Certificates and private keys in PEM files, for both servers. Errors say what is wrong with a file, with
//! the URI's option that names it, but nothing of its content.

use std::path::Path;

use rustls::{
    Error as TlsError,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{read_bytes, warn_if_open};
use crate::error::{Code, Error, Result};

/// The certificates in the file that `option` names: at least one.
pub fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read_bytes(path).map_err(|e| e.within(option).with_code(Code::TlsFile))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(option, path, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")),
        Err(_) => Err(wrong(option, path, "is damaged: a certificate in it can't be read")),
    }
}

/// The private key in the file that `option` names.
pub fn private_key(option: &str, path: &Path) -> Result<PrivateKeyDer<'static>> {
    let bytes = read_bytes(path).map_err(|e| e.within(option).with_code(Code::TlsFile))?;
    // "BEGIN ENCRYPTED PRIVATE KEY", or of old, in a header of the key, "Proc-Type: 4,ENCRYPTED".
    if bytes.windows(9).any(|text| text == b"ENCRYPTED") {
        let advice = "holds an encrypted key, but docrow can't ask for its passphrase: decrypt it with \
            `openssl pkey -in FILE -out KEY`, and protect the file by its permissions";
        return Err(wrong(option, path, advice));
    }
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| wrong(option, path, "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"))?;
    warn_if_open(path);
    Ok(key)
}

/// A certificate, with its intermediates, and its private key, each by the option and the file that it names.
/// Errors: the key does not belong to the certificate, or as above.
pub fn identity(
    (certificate_option, certificate): (&str, &Path),
    (key_option, key): (&str, &Path),
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(certificate_option, certificate)?;
    let private = private_key(key_option, key)?;
    CertifiedKey::from_der(chain.clone(), private.clone_key(), &ring::default_provider()).map_err(
        |e| match e {
            TlsError::InconsistentKeys(_) => {
                let of =
                    format!("holds a key that is not that of the certificate in {}", certificate.display());
                wrong(key_option, key, &of)
            }
            _ => wrong(key_option, key, "holds a kind of key that TLS does not use"),
        },
    )?;
    Ok((chain, private))
}

fn wrong(option: &str, path: &Path, wrong: &str) -> Error {
    Error::new(Code::TlsFile, format!("{option}: {} {wrong}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// G12: nothing of a file's content is shown.
    #[test]
    fn says_what_is_wrong_with_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.pem");
        let generated = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        let (certificate, key) = (generated.cert.pem(), generated.signing_key.serialize_pem());
        let try_both = |text: &str| {
            fs::write(&path, text).unwrap();
            let certificates = certificates("sslcert", &path).map(|found| found.len());
            let key = private_key("sslkey", &path).map(|_| ());
            (certificates.map_err(|e| e.to_string()), key.map_err(|e| e.to_string()))
        };
        assert_eq!(try_both(&format!("{certificate}{key}")), (Ok(1), Ok(())));
        assert_eq!(try_both(&format!("{key}{certificate}{certificate}")), (Ok(2), Ok(())));
        let (certificates, key_error) = try_both("secret");
        assert!(
            certificates
                .unwrap_err()
                .ends_with("file.pem holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
        );
        assert!(key_error.unwrap_err().starts_with("sslkey: "));
        let (certificates, _) = try_both(&certificate.replace("MII", "M!I"));
        assert!(certificates.unwrap_err().contains("is damaged"));
        for encrypted in [
            key.replace("PRIVATE", "ENCRYPTED PRIVATE"),
            key.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n"),
        ] {
            assert!(try_both(&encrypted).1.unwrap_err().contains("openssl pkey"), "{encrypted}");
        }
        fs::write(&path, rcgen::KeyPair::generate().unwrap().serialize_pem() + &certificate).unwrap();
        let other = identity(("tlsCertificateKeyFile", &path), ("tlsCertificateKeyFile", &path));
        assert!(other.unwrap_err().to_string().contains("a key that is not that of the certificate"));
        let missing = private_key("sslkey", &folder.path().join("absent")).unwrap_err().to_string();
        assert!(missing.starts_with("sslkey: read ") && missing.contains("No such file"), "{missing}");
    }
}
