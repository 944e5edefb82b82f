//! An upstream behind TLS, as the hosted APIs are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

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
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::*;

/// Serves over TLS, offering these protocols, under a certificate in the file.
async fn behind_tls(app: Router, offered: &[&[u8]], certificate: &Path) -> String {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(certificate, cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(app.clone()));
            tokio::spawn(async move {
                // Who does not trust it breaks off.
                let Ok(connection) = acceptor.accept(connection).await else { return };
                let server = auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(connection), service).await);
            });
        }
    });
    format!("https://localhost:{port}")
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[tokio::test]
async fn over_tls_the_two_choose_the_version() {
    for (name, offered, version) in [
        ("h2.pem", &[&b"h2"[..], b"http/1.1"][..], Version::HTTP_2),
        ("h1.pem", &[b"http/1.1"], Version::HTTP_11),
        ("none.pem", &[], Version::HTTP_11),
    ] {
        let seen = Seen::default();
        let noting = seen.clone();
        let app = Router::new().fallback(move |request: Request| async move {
            noting.note(request).await;
            ten_tokens()
        });
        let url = behind_tls(app, offered, &file(name)).await;
        let trusted = file(name);
        let gateway = Gateway::start(&url, &[("SSL_CERT_FILE", trusted.to_str().unwrap())]);
        assert_eq!(ask(post(gateway.url(CHAT), "{}")).await.0, 200);
        let got = &seen.take()[0];
        assert_eq!(got.version, version);
        if version == Version::HTTP_11 {
            assert_eq!(got.headers["host"], url.strip_prefix("https://").unwrap());
        }
        assert_eq!(gateway.events(1)[0]["values"]["total_tokens"], 10);
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_502() {
    let app = Router::new().fallback(|| async { ten_tokens() });
    let url = behind_tls(app.clone(), &[], &file("untrusted.pem")).await;
    behind_tls(app, &[], &file("other.pem")).await;
    let trusted = file("other.pem");
    let gateway = Gateway::start(&url, &[("SSL_CERT_FILE", trusted.to_str().unwrap())]);
    assert_eq!(ask(post(gateway.url(CHAT), "{}")).await.0, 502);
}
