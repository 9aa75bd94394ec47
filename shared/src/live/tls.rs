//! Roots of trust. Few of them, chosen at build time: reading the system's whole bundle costs a cold start.

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use data_encoding::BASE64;

/// Amazon Trust Services' roots, which every AWS endpoint chains to (amazontrust.com/repository).
pub(super) fn aws_context() -> Result<TlsContext, ()> {
    let mut store = TrustStore::empty();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        if names(certificate, b"Amazon Root CA") || names(certificate, b"Starfield Services Root Certificate Authority")
        {
            store = store.with_pem_certificate(pem(certificate).into_bytes());
        }
    }
    TlsContext::builder().with_trust_store(store).build().map_err(|_| ())
}

/// The roots that Twilio's API hosts may chain to: its certificates come from DigiCert and Amazon today; others of the
/// large authorities are there so that a change of supplier does not stop every message.
pub(super) fn twilio_roots() -> Vec<reqwest::Certificate> {
    const AUTHORITIES: [&[u8]; 6] =
        [b"DigiCert", b"Amazon Root CA", b"Starfield", b"GlobalSign", b"ISRG Root", b"Sectigo"];
    webpki_root_certs::TLS_SERVER_ROOT_CERTS
        .iter()
        .filter(|certificate| AUTHORITIES.iter().any(|name| names(certificate, name)))
        .filter_map(|certificate| reqwest::Certificate::from_der(certificate).ok())
        .collect()
}

/// All of Mozilla's roots: an endpoint has a certificate of whom it likes.
pub(super) fn all_roots() -> Vec<reqwest::Certificate> {
    let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
    roots.filter_map(|certificate| reqwest::Certificate::from_der(certificate).ok()).collect()
}

/// Whether a name appears in a certificate's text: good enough to choose among Mozilla's own list.
fn names(certificate: &[u8], name: &[u8]) -> bool {
    certificate.windows(name.len()).any(|part| part == name)
}

fn pem(certificate: &[u8]) -> String {
    let text = BASE64.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roots_are_there() {
        assert!(aws_context().is_ok());
        assert!(twilio_roots().len() >= 5);
        assert_eq!(all_roots().len(), webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
        let amazon = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().filter(|c| names(c, b"Amazon Root CA")).count();
        assert_eq!(amazon, 4);
    }
}
