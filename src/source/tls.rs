//! TLS to MongoDB. The driver does it, according to the URI's options. Here the files that they name are
//! checked first, because the driver's errors about them say less, and failed handshakes are explained,
//! because the driver only names the error.

use mongodb::options::{AuthMechanism, ClientOptions, Tls};

use crate::{
    error::{Code, Error, Result},
    secret::pem,
};

/// Checks the files that the options name. Errors: one is unusable or missing.
pub(super) fn check(options: &ClientOptions) -> Result<()> {
    let tls = match &options.tls {
        Some(Tls::Enabled(tls)) => Some(tls),
        _ => None,
    };
    if let Some(path) = tls.and_then(|tls| tls.ca_file_path.as_ref()) {
        pem::certificates("tlsCAFile", path)?;
    }
    match tls.and_then(|tls| tls.cert_key_file_path.as_ref()) {
        Some(path) => {
            pem::identity(("tlsCertificateKeyFile", path), ("tlsCertificateKeyFile", path)).map(drop)
        }
        None if by_certificate(options) => Err(Error::new(
            Code::SourceUri,
            "source URI: authMechanism=MONGODB-X509 logs in by certificate: name the file with certificate \
             and key with tlsCertificateKeyFile",
        )),
        None => Ok(()),
    }
}

/// Advice if the server refuses a login, and the URI names the mechanism.
pub(super) fn refused_login(options: &ClientOptions) -> Option<String> {
    let mechanism = options.credential.as_ref()?.mechanism.as_ref()?.as_str();
    let advice = if by_certificate(options) {
        "create a user in $external whose name is the certificate's subject, exactly as `openssl x509 -in FILE -noout \
         -subject -nameopt RFC2253` writes it"
    } else {
        "check user, password and authSource in the URI, and that the server and the user have this authMechanism"
    };
    Some(format!("refuses the login by {mechanism}: {advice}"))
}

/// Whether the login is by certificate.
fn by_certificate(options: &ClientOptions) -> bool {
    let mechanism = options.credential.as_ref().and_then(|credential| credential.mechanism.as_ref());
    mechanism == Some(&AuthMechanism::MongoDbX509)
}

/// Advice about options that the driver supports and docrow does not.
pub(super) fn not_served(message: &str) -> Option<&'static str> {
    let message = message.to_ascii_lowercase();
    if message.contains("-compression feature flag") || message.contains("unsupported compressor") {
        Some("compressors is not supported: docrow and MongoDB talk uncompressed: remove it")
    } else if message.contains("tlscertificatekeyfilepassword") {
        Some(
            "tlsCertificateKeyFilePassword is not supported: decrypt the key with `openssl pkey -in FILE -out KEY`, and \
             protect the file by its permissions",
        )
    } else if message.contains("tlsallowinvalidhostnames") {
        Some(
            "tlsAllowInvalidHostnames is not supported: name the host as its certificate does, or, in a \
             trusted network, use tlsAllowInvalidCertificates=true",
        )
    } else {
        None
    }
}

/// Why a handshake failed.
pub(super) enum TlsFailure {
    /// A certificate is wrong: an operator must follow this advice.
    Certificate(&'static str),
    /// Anything else.
    Unclear(&'static str),
}

/// What it means that a handshake failed by `why`.
pub(super) fn explain(why: &str, options: &ClientOptions) -> TlsFailure {
    const WORDS: [(&str, &str); 6] = [
        (
            "UnknownIssuer",
            "name the file of the authority that issued the server's certificate with tlsCAFile (without it, the public \
             authorities that browsers know are known here, not those of this system)",
        ),
        (
            "not valid for name",
            "name the host in the URI, and in the replica set's configuration, as its certificate does",
        ),
        ("certificate expired", "renew the server's certificate, and look at both machines' clocks"),
        ("not valid yet", "look at both machines' clocks"),
        (
            "invalid peer certificate",
            "the server needs a certificate of its own (not an authority's), issued for its host's name by the authority \
             that tlsCAFile names",
        ),
        (
            "fatal alert",
            "the server refuses docrow's certificate: renew it, or name another with tlsCertificateKeyFile",
        ),
    ];
    if let Some((_, advice)) = WORDS.iter().find(|(words, _)| why.contains(words)) {
        return TlsFailure::Certificate(advice);
    }
    TlsFailure::Unclear(match &options.tls {
        // Before the server has said a word of TLS.
        Some(Tls::Enabled(_))
            if ["handshake eof", "corrupt message"].iter().any(|words| why.contains(words)) =>
        {
            "no TLS seems to be spoken there: check the port, and tls=true or tls=false in the URI"
        }
        Some(Tls::Enabled(tls)) if tls.cert_key_file_path.is_none() => {
            "does the server want a certificate of its clients? name docrow's with tlsCertificateKeyFile; and check the \
             port, and that TLS is spoken there"
        }
        Some(Tls::Enabled(_)) => {
            "is docrow's certificate still good, and does the server know the authority that issued it (its --tlsCAFile)? and \
             check the port, and that TLS is spoken there"
        }
        _ => "check the port; if TLS is spoken there, add tls=true and tlsCAFile to the URI",
    })
}
