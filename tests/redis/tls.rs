//! A server behind TLS, of its own network's root.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tower_limitry::store::Redis;
use tower_limitry::{Books, ErrorKind};

use crate::redis::{Server, free_port, until};
use crate::support::*;
use crate::{ever, options, tokens};

/// What servers need to prove who they are.
struct Proof {
    cert: String,
    folder: files::Folder,
}

impl Proof {
    fn of(name: &str) -> Self {
        let folder = files::Folder::new();
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(folder.file("cert.pem"), cert.pem()).unwrap();
        std::fs::write(folder.file("key.pem"), signing_key.serialize_pem()).unwrap();
        Self { cert: cert.pem(), folder }
    }

    /// Options of a server behind TLS at that port, and these.
    fn options(&self, port: &str, also: &[&str]) -> Vec<String> {
        let (cert, key) = (self.folder.file("cert.pem"), self.folder.file("key.pem"));
        let own = ["--tls-port", port, "--tls-cert-file", &cert, "--tls-key-file", &key];
        let trusts = ["--tls-ca-cert-file", &cert, "--tls-auth-clients", "no"];
        own.iter().chain(&trusts).chain(also).map(|option| (*option).to_owned()).collect()
    }

    fn start(&self, port: &str, also: &[&str]) -> Server {
        let options = self.options(port, also);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Server::start_with(&options)
    }

    fn open(&self, url: &str) -> Books {
        let store = options("p").root_certificates(self.cert.as_bytes()).open(url);
        tokens().limit(ever(100)).build_on(store.unwrap()).unwrap().erased()
    }
}

const KEEPS_NOTHING: [&str; 4] = ["--save", "", "--appendonly", "no"];

/// A server, its URL by TLS and its certificate.
fn behind_tls() -> (Server, String, Proof) {
    let (proof, port) = (Proof::of("localhost"), free_port().to_string());
    let server = proof.start(&port, &KEEPS_NOTHING);
    (server, format!("rediss://localhost:{port}"), proof)
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
    let (server, url, proof) = behind_tls();
    let open = |number: u32| proof.open(&format!("{url}/{number}"));
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
    let (server, url, proof) = behind_tls();
    let port = url.rsplit(':').next().unwrap();
    let misnamed = format!("rediss://127.0.0.1:{port}");
    for (url, root) in [(&url, ""), (&misnamed, proof.cert.as_str())] {
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

#[tokio::test]
async fn a_cluster_behind_tls_is_used_and_every_node_has_to_be_trusted() {
    let proof = Proof::of("127.0.0.1");
    let nodes: Vec<(Server, String, String)> = (0..2)
        .map(|_| {
            let (port, bus) = (free_port().to_string(), free_port().to_string());
            let mut also = vec!["--cluster-enabled", "yes", "--tls-cluster", "yes"];
            also.extend(["--cluster-port", &bus]);
            also.extend(KEEPS_NOTHING);
            (proof.start(&port, &also), port, bus)
        })
        .collect();
    for ((node, ..), range) in nodes.iter().zip([["0", "8191"], ["8192", "16383"]]) {
        node.ask(&["CLUSTER", "ADDSLOTSRANGE", range[0], range[1]]);
    }
    let (_, port, bus) = &nodes[1];
    nodes[0].0.ask(&["CLUSTER", "MEET", "127.0.0.1", port, bus]);
    for (node, ..) in &nodes {
        until("the cluster is well", || {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2")
        });
    }
    let url = format!("rediss-cluster://127.0.0.1:{}", nodes[0].1);
    let books = proof.open(&url);
    let customers: Vec<String> = (0..8).map(|number| format!("acct_{number}")).collect();
    for customer in &customers {
        spend(&books, customer, 60).await;
        denied(&books, ask(customer, 41)).await;
    }
    assert!(nodes.iter().all(|(node, ..)| !node.keys().is_empty()));
    let error = Redis::options().prefix("p").open(&url).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let plain = Redis::options().prefix("p").open(&url.replace("rediss", "redis")).unwrap_err();
    assert_eq!(plain.kind(), ErrorKind::Unavailable, "{plain:?}");
}

#[tokio::test]
async fn sentinels_behind_tls_name_a_primary_behind_tls() {
    let proof = Proof::of("127.0.0.1");
    let (watched, port) = (free_port().to_string(), free_port().to_string());
    let primary = proof.start(&watched, &KEEPS_NOTHING);
    let settings = [&["monitor", "main", "127.0.0.1", &watched, "1"][..]];
    let also = proof.options(&port, &["--tls-replication", "yes"]);
    let also: Vec<&str> = also.iter().map(String::as_str).collect();
    let _sentinel = Server::start_sentinel(&settings, &also);
    let url = format!("rediss-sentinel://127.0.0.1:1,127.0.0.1:{port}/main");
    let books = proof.open(&format!("{url}/3"));
    spend(&books, "ada", 60).await;
    denied(&books, ask("ada", 41)).await;
    assert!(primary.ask(&["INFO", "keyspace"]).contains("db3:"));
    let untrusted = Redis::options().prefix("p").open(&url).unwrap_err();
    assert_eq!(untrusted.kind(), ErrorKind::Unavailable, "{untrusted:?}");
}
