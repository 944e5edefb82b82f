//! A Redis server of the tests' own, on a free port. It ends with the test program.
//!
//! `LIMITRY_REDIS_SERVER` names another program to start for it, such as `valkey-server`.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

/// A server, killed when it is dropped.
pub(crate) struct Server {
    child: Mutex<Option<Child>>,
    pub(crate) port: u16,
    folder: PathBuf,
    leading: Vec<String>,
    options: Vec<String>,
}

/// How long a server may take to come up, on a machine that has much to do.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    /// Starts a server that keeps nothing.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server with these options.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let server = Self::stopped(options);
        server.run();
        server
    }

    fn stopped(options: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("limitry-redis-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (child, leading) = (Mutex::new(None), Vec::new());
        Self { child, port: free_port(), folder, leading, options }
    }

    /// Starts a sentinel that is told these, with these options.
    pub(crate) fn start_sentinel(settings: &[&[&str]], options: &[&str]) -> Self {
        let mut server = Self::stopped(options);
        // It writes what it finds into its file.
        let file = server.folder.join("sentinel.conf");
        let lines = settings.iter().map(|words| format!("sentinel {}\n", words.join(" ")));
        std::fs::write(&file, lines.collect::<String>()).unwrap();
        server.leading = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        server.run();
        server
    }

    /// Runs the server, again if it was killed, on its port and in its folder.
    pub(crate) fn run(&self) {
        let program = std::env::var("LIMITRY_REDIS_SERVER");
        let program = program.unwrap_or_else(|_| "redis-server".to_owned());
        let child = Command::new(&program)
            .args(&self.leading)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--dir", self.folder.to_str().unwrap(), "--logfile", "log"])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| {
            panic!("{program} cannot be started; ./test installs redis-server: {error}")
        });
        *self.child.lock().unwrap() = Some(child);
        let end = Instant::now() + PATIENCE;
        while !matches!(self.try_ask(&["PING"]).as_deref(), Ok("+PONG")) {
            assert!(Instant::now() < end, "{program} does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server as a crash would.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.lock().unwrap().as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a command and answers the first line of the reply, or the text that it announces.
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap()
    }

    fn try_ask(&self, command: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut wire = format!("*{}\r\n", command.len());
        for part in command {
            wire += &format!("${}\r\n{part}\r\n", part.len());
        }
        stream.write_all(wire.as_bytes())?;
        read(&mut BufReader::new(stream))
    }

    /// Every key, in any order.
    pub(crate) fn keys(&self) -> Vec<String> {
        let text = self.ask(&[
            "EVAL",
            "return table.concat(redis.call('KEYS', '*'), string.char(10))",
            "0",
        ]);
        text.lines().map(ToOwned::to_owned).collect()
    }

    /// The bare text of a script's answer.
    pub(crate) fn eval(&self, script: &str) -> String {
        self.ask(&["EVAL", script, "0"])
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let line = line.trim_end().to_owned();
    let Some(length) = line.strip_prefix('$') else { return Ok(line) };
    let Ok(length) = length.parse::<usize>() else { return Ok(String::new()) };
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port that nobody uses right now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// One server for all tests of a program, each under a prefix of its own.
static SHARED: LazyLock<Server> = LazyLock::new(|| {
    // It is told to end with this program, however that ends.
    let server = Server::start();
    end_with_us(&server);
    server
});

/// Statics are not dropped: somebody else has to end what they started.
fn end_with_us(server: &Server) {
    let child = server.child.lock().unwrap().as_ref().unwrap().id();
    let watch = format!(
        "while kill -0 {} 2>/dev/null; do sleep 1; done; kill -9 {child}; rm -rf '{}'",
        std::process::id(),
        server.folder.display(),
    );
    let watching = Command::new("sh")
        .args(["-c", &watch])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut watching = watching.unwrap();
    std::thread::spawn(move || watching.wait());
}

/// The URL of the shared server, and a prefix that nobody else has.
pub(crate) fn fresh() -> (String, String) {
    (SHARED.url(), prefix())
}

/// A prefix that nobody else has.
pub(crate) fn prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test-{}-{number}", std::process::id())
}

/// A cluster of three primaries with a replica each.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let nodes: Vec<(Server, String)> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "3000"];
                let mut options = options.to_vec();
                options.extend(["--cluster-port", &bus, "--save", "", "--appendonly", "no"]);
                (Server::start_with(&options), bus)
            })
            .collect();
        let ranges = [("0", "5461"), ("5462", "10922"), ("10923", "16383")];
        for ((node, _), (first, last)) in nodes.iter().zip(ranges) {
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
        }
        let (first, _) = &nodes[0];
        for (node, bus) in &nodes[1..] {
            first.ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), bus]);
        }
        let nodes: Vec<Server> = nodes.into_iter().map(|(node, _)| node).collect();
        for node in &nodes {
            until("all nodes know each other", || {
                node.ask(&["CLUSTER", "INFO"]).contains("cluster_known_nodes:6")
            });
        }
        for (replica, primary) in nodes[3..].iter().zip(&nodes[..3]) {
            let id = primary.ask(&["CLUSTER", "MYID"]);
            until("the primary is known", || {
                replica.ask(&["CLUSTER", "REPLICATE", &id]).starts_with("+OK")
            });
        }
        for node in &nodes {
            until("the cluster is well", || {
                node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            });
        }
        for replica in &nodes[3..] {
            until("replicas follow", || {
                replica.ask(&["INFO", "replication"]).contains("master_link_status:up")
            });
        }
        // So that all name the replicas, too.
        for node in &nodes {
            until("replicas are known", || {
                node.ask(&["CLUSTER", "NODES"]).matches("slave").count() == 3
            });
        }
        Self { nodes }
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> =
            self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }
}

/// Waits for something that comes about by itself.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    let cluster = Cluster::start();
    cluster.nodes.iter().for_each(end_with_us);
    cluster
});

/// The URL of the shared cluster, and a prefix that nobody else has.
pub(crate) fn fresh_on_cluster() -> (String, String) {
    (CLUSTER.url(), prefix())
}
