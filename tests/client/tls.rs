//! The API behind TLS, as the hosted one is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::Version;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tower_limitry::ErrorKind;
use tower_limitry::client::{Client, StandingQuery};

use crate::support::{KEY, soon, told};

type Seen = Arc<Mutex<Vec<Version>>>;

/// A server that allows everything, offers these protocols, and notes which one was chosen. Answers
/// its URL and its certificate, and counts connections.
async fn behind_tls(offered: &[&[u8]]) -> (String, String, Seen, Arc<AtomicUsize>) {
    let (seen, connections) = (Seen::default(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&connections);
    let noting = Arc::clone(&seen);
    let app = Router::new().fallback(move |request: Request| {
        noting.lock().unwrap().push(request.version());
        async { axum::Json(serde_json::json!({ "allowed": true, "limits": [] })) }
    });
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(app.clone()));
            tokio::spawn(async move {
                // Who does not trust it breaks off.
                let Ok(connection) = acceptor.accept(connection).await else { return };
                let server = auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(connection), service).await);
            });
        }
    });
    (format!("https://localhost:{port}/v1"), cert.pem(), seen, connections)
}

#[tokio::test]
async fn over_tls_the_two_choose_the_version() {
    for (offered, version) in [
        (&[&b"h2"[..], b"http/1.1"][..], Version::HTTP_2),
        (&[b"http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let (url, certificate, seen, connections) = behind_tls(offered).await;
        let client = Client::builder(KEY)
            .base_url(url)
            .root_certificates(certificate.as_bytes())
            .build()
            .unwrap();
        for _ in 0..3 {
            let check = client.limits().check(StandingQuery::of("acct_42"));
            assert!(soon(check).await.unwrap().allowed);
        }
        assert_eq!(*seen.lock().unwrap(), [version; 3]);
        assert_eq!(connections.load(Ordering::Relaxed), 1, "one connection for all calls");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_gets_no_key() {
    let (url, _, seen, _) = behind_tls(&[b"h2"]).await;
    let (_, other, _, _) = behind_tls(&[b"h2"]).await;
    let client = Client::builder(KEY)
        .base_url(url)
        .root_certificates(other.as_bytes())
        .retries(0)
        .build()
        .unwrap();
    let error = soon(client.limits().check(StandingQuery::of("acct_42"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(told(&error).contains("certificate"), "{}", told(&error));
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn roots_that_are_none_are_told_at_once() {
    let broken = b"-----BEGIN CERTIFICATE-----\nno base64!\n-----END CERTIFICATE-----\n";
    let error = Client::builder(KEY).root_certificates(broken).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().starts_with("root_certificates: "), "{error}");
}
