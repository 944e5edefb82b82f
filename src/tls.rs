//! TLS for what this crate asks of others.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

use crate::{Error, ErrorKind};

/// The roots in this PEM.
pub(crate) fn roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let roots = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let roots = roots
        .map_err(|error| Error::invalid("root_certificates", "are no PEM").with_source(error))?;
    // Text around certificates is passed over; text without any is a slip.
    if roots.is_empty() && !pem.trim_ascii().is_empty() {
        return Err(Error::invalid("root_certificates", "hold no certificate; give PEM"));
    }
    Ok(roots)
}

/// TLS 1.2 and 1.3 by a provider of our own, so that neither a default of the process is needed nor
/// another crate's choice changes ours. Trusts what the system trusts, and these roots.
pub(crate) fn config(roots: Vec<CertificateDer<'static>>) -> Result<ClientConfig, Error> {
    let fails = |error: rustls::Error| {
        let message = "TLS cannot be set up; install the system's CA certificates or add a root";
        Error::new(ErrorKind::Invalid, message).with_source(error)
    };
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(fails)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(fails)?
        .dangerous() // The name of the way to any verifier but a fixed list of roots.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}
