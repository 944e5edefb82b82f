//! Webhooks over TLS, as they go where it counts.

use std::sync::Arc;

use http::StatusCode;
use http::header::LOCATION;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_limitry::ErrorKind;
use tower_limitry::engine::ManualClock;
use tower_limitry::webhooks::{Webhooks, WebhooksBuilder};

use crate::support::*;

/// Puts TLS in front of an endpoint. Answers the URL and the certificate.
async fn behind_tls(endpoint: &Endpoint) -> (String, String) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let plain = endpoint.address().to_owned();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, plain) = (acceptor.clone(), plain.clone());
            tokio::spawn(async move {
                // Who does not trust it breaks off.
                let Ok(mut outside) = acceptor.accept(connection).await else { return };
                let mut inside = TcpStream::connect(plain).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            });
        }
    });
    (format!("https://localhost:{port}/hook"), cert.pem())
}

/// To an endpoint of this machine, which is nobody else's.
fn to(url: &str, folder: &Folder, clock: &ManualClock) -> WebhooksBuilder {
    Webhooks::open(folder.file())
        .danger_allow_http_and_private_addresses()
        .clock(clock.clone())
        .endpoint(url, SECRET)
}

#[tokio::test]
async fn an_endpoint_behind_tls_hears_what_was_signed() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::start().await;
    let (url, certificate) = behind_tls(&endpoint).await;
    let webhooks =
        to(&url, &folder, &clock).root_certificates(certificate.as_bytes()).start().unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    let heard = endpoint.hears(1).await;
    assert!(heard[0].is_signed_by(SECRET));
    assert_eq!(heard[0].json()["data"]["customerId"], "acct_42");
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().waiting, 0);
}

#[tokio::test]
async fn an_endpoint_whose_certificate_is_not_trusted_hears_nothing() {
    let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
    let endpoint = Endpoint::start().await;
    let (url, _) = behind_tls(&endpoint).await;
    let (_, other) = behind_tls(&endpoint).await;
    let webhooks = to(&url, &folder, &clock).root_certificates(other.as_bytes()).start().unwrap();
    use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
    webhooks.flush(STUCK).await.unwrap();
    assert_eq!(webhooks.stats().unwrap().waiting, 1, "it failed, and is tried again");
    assert_eq!(endpoint.heard().len(), 0);
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (folder, clock) = (Folder::new(), ManualClock::at(NOON));
        let elsewhere = Endpoint::start().await;
        let target = elsewhere.url();
        let endpoint = Endpoint::answering(move |_| {
            (StatusCode::from_u16(status).unwrap(), [(LOCATION, target.clone())])
        })
        .await;
        let (url, certificate) = behind_tls(&endpoint).await;
        let webhooks =
            to(&url, &folder, &clock).root_certificates(certificate.as_bytes()).start().unwrap();
        use_up(&alerting(&clock, &webhooks), "acct_42", 80).await;
        webhooks.flush(STUCK).await.unwrap();
        assert_eq!((endpoint.heard().len(), elsewhere.heard().len()), (1, 0), "{status}");
        assert_eq!(webhooks.stats().unwrap().waiting, 1, "{status}");
    }
}

#[tokio::test]
async fn roots_that_are_none_are_told_at_once() {
    let folder = Folder::new();
    let broken = "-----BEGIN CERTIFICATE-----\nno base64!\n-----END CERTIFICATE-----\n";
    for pem in [broken, "/etc/ssl/roots.pem"] {
        let builder = to("https://localhost/", &folder, &ManualClock::at(NOON));
        let error = builder.root_certificates(pem.as_bytes()).start().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with("root_certificates: "), "{error}");
    }
}
