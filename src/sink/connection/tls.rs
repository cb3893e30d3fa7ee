//! TLS to PostgreSQL, with libpq's meaning of `sslmode`: `prefer` and `require` encrypt without verifying the
//! server, `verify-ca` requires a certificate from a trusted authority, `verify-full` one for exactly this
//! host.
//!
//! tokio-postgres knows the first three modes; the certificate verifier here decides what is verified. In
//! every mode the server proves that it has its certificate's key, so SCRAM's channel binding works in every
//! mode.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    error::{Code, Error, Kind, Result},
    secret::pem,
};

/// What is verified about a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificateProof {
    /// Nothing.
    None,
    /// That a trusted authority issued it.
    Authority,
    /// That, and that it was issued for the host of the URI.
    Host,
}

/// Which authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TrustedRoots {
    /// Those that the system trusts.
    System,
    /// Only those in this file.
    File(PathBuf),
}

/// docrow's identity: the files of a certificate, with its intermediates, and of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientIdentity {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// The TLS settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsSettings {
    pub(super) proof: CertificateProof,
    pub(super) roots: TrustedRoots,
    pub(super) identity: Option<ClientIdentity>,
}

/// A connector with these settings. Reads the files once. Errors: one of them is unusable.
pub(super) fn connector(tls: &TlsSettings, negotiation: SslNegotiation) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(ring::default_provider());
    let chain = match tls.proof {
        CertificateProof::None => None,
        CertificateProof::Authority | CertificateProof::Host => Some(chain_verifier(&tls.roots, &provider)?),
    };
    let verifier = Arc::new(CertificateVerifier { chain, proof: tls.proof, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::caused(Kind::Bug, "set up TLS", e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(ClientIdentity { certificate, key }) => {
            let (chain, key) = pem::identity(("sslcert", certificate), ("sslkey", key))?;
            let doing = || format!("use sslcert {}", certificate.display());
            builder.with_client_auth_cert(chain, key).map_err(|e| Error::caused(Code::TlsFile, doing(), e))?
        }
    };
    if negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}

fn chain_verifier(roots: &TrustedRoots, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    let (known, _) = store.add_parsable_certificates(match roots {
        TrustedRoots::File(path) => pem::certificates("sslrootcert", path)?,
        TrustedRoots::System => rustls_native_certs::load_native_certs().certs,
    });
    if known == 0 {
        return Err(Error::new(
            Code::TlsFile,
            match roots {
                TrustedRoots::File(path) => {
                    format!("sslrootcert: {} contains no usable certificate", path.display())
                }
                TrustedRoots::System => {
                    "this system knows no certificate authorities: name a file of them with sslrootcert in \
                              the target URI"
                        .to_owned()
                }
            },
        ));
    }
    WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone())
        .build()
        .map_err(|e| Error::caused(Code::TlsFile, "load certificate authorities", e))
}

/// Advice about a failed handshake.
pub(super) fn advice(error: &TlsError) -> &'static str {
    match error {
        TlsError::InvalidCertificate(why) => match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "name the host in the target URI as in the certificate, or relax to sslmode=verify-ca"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired: renew it, and check both machines' clocks"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "check both machines' clocks"
            }
            CertificateError::UnknownIssuer => {
                "name its authority with sslrootcert in the target URI, or relax sslmode"
            }
            _ => {
                "the server needs a certificate of its own (not an authority's), issued for its host's name by the \
                 authority that sslrootcert names"
            }
        },
        TlsError::AlertReceived(_) => {
            "the server aborts it: it may refuse docrow's certificate (sslcert, sslkey), or support neither \
             TLS 1.2 nor 1.3"
        }
        _ => "is PostgreSQL listening there, with ssl = on?",
    }
}

#[derive(Debug)]
struct CertificateVerifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    proof: CertificateProof,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last, so the chain is known to be valid here.
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.proof == CertificateProof::Authority => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
