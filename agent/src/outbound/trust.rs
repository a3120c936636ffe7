//! Whom endpoints have to be vouched for by: the certificates in a file of the configuration, and nobody else.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Why a text is no file of trust roots.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It has no certificate, or none that can be read.
    #[error(
        "no certificate is in it: write the authorities' certificates, in PEM (-----BEGIN CERTIFICATE-----)"
    )]
    Empty,
    /// What looks like one isn't.
    #[error("it is no PEM: {0}")]
    Broken(String),
    /// Our own settings don't fit together.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// How connections are begun. Sessions are resumed; what is sent before the other side has proven itself is nothing.
#[derive(Clone)]
pub(super) struct Tls(pub(super) TlsConnector);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Trusts the certificates in `pem`.
    pub(super) fn new(pem: &str) -> Result<Self, TrustError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(pem)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

/// The authorities in a file of roots. Of a whole system's, some may be of a form that no verifier knows: those vouch for nobody.
///
/// # Errors
/// Where it isn't PEM, or has none at all.
pub(crate) fn roots(pem: &str) -> Result<RootCertStore, TrustError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| TrustError::Broken(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    let (known, _) = roots.add_parsable_certificates(certificates);
    if known == 0 {
        return Err(TrustError::Empty);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_certificate_is_no_file_of_roots() {
        let authority = imds_guard_far::Authority::new().unwrap();
        let good = format!("# a comment\n{}\n{}", authority.pem(), authority.pem());
        assert_eq!(roots(&good).unwrap().len(), 2);
        let none = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for bad in ["", "text", none] {
            assert!(matches!(roots(bad), Err(TrustError::Empty)), "{bad:?}");
        }
        let cut = &good[..good.len() - 40];
        assert!(matches!(roots(cut), Err(TrustError::Broken(_))));
    }
}
