//! A server behind TLS, of its own network's root.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tower_limitry::ErrorKind;
use tower_limitry::store::Redis;

use crate::redis::{Server, free_port};
use crate::support::*;
use crate::{ever, options, tokens};

/// A server, its URL by TLS and its certificate.
fn behind_tls() -> (Server, String, String, files::Folder) {
    let folder = files::Folder::new();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert_file, key_file) = (folder.file("cert.pem"), folder.file("key.pem"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, signing_key.serialize_pem()).unwrap();
    let port = free_port().to_string();
    let server = Server::start_with(&[
        "--save",
        "",
        "--appendonly",
        "no",
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert_file,
        "--tls-key-file",
        &key_file,
        "--tls-auth-clients",
        "no",
    ]);
    (server, format!("rediss://localhost:{port}"), cert.pem(), folder)
}

/// A folder that goes with the test.
mod files {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub(super) struct Folder(PathBuf);

    impl Folder {
        pub(super) fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("limitry-redis-tls-{}-{number}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        pub(super) fn file(&self, name: &str) -> String {
            self.0.join(name).to_str().unwrap().to_owned()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[tokio::test]
async fn books_are_kept_behind_tls_and_found_again_after_a_break() {
    let (server, url, root, _folder) = behind_tls();
    let open = |number: u32| {
        let store =
            options("p").root_certificates(root.as_bytes()).open(&format!("{url}/{number}"));
        tokens().limit(ever(100)).build_on(store.unwrap()).unwrap().erased()
    };
    let books = open(0);
    spend(&books, "ada", 60).await;
    denied(&books, ask("ada", 41)).await;
    assert_eq!(server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]), ":1");
    while books.usage("ada").await.is_err() {}
    assert_eq!(used(&books, "ada", "ever").await, amount(60));
    assert_eq!(used(&open(1), "ada", "ever").await, amount(0), "another db");
}

#[tokio::test]
async fn a_server_whose_certificate_is_not_trusted_is_not_told_anything() {
    let (server, url, root, _folder) = behind_tls();
    let port = url.rsplit(':').next().unwrap();
    let misnamed = format!("rediss://127.0.0.1:{port}");
    for (url, root) in [(&url, ""), (&misnamed, root.as_str())] {
        let options = Redis::options().prefix("p").root_certificates(root.as_bytes());
        let error = options.open(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    assert_eq!(server.keys(), Vec::<String>::new());
    let unverified = Redis::open(&format!("{url}#insecure")).unwrap_err();
    assert_eq!(unverified.kind(), ErrorKind::Invalid);
    assert_names(&unverified, &["fragment", "always verified"]);
    let no_pem = Redis::options().root_certificates(b"no certificate").open(&url).unwrap_err();
    assert_eq!(no_pem.kind(), ErrorKind::Invalid);
}

#[test]
fn tls_to_sentinels_and_clusters_is_said_to_be_missing() {
    for url in ["rediss-cluster://127.0.0.1:1", "rediss-sentinel://127.0.0.1:1/m"] {
        let error = Redis::open(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_names(&error, &["without TLS"]);
    }
}
