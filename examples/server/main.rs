//! Limitry's API over books of your own, for any number of services that share them.
//!
//! ```sh
//! LIMITRY_BACKEND=sqlite:usage.db cargo run --example server
//! ```
//!
//! | variable | default | |
//! |---|---|---|
//! | `LISTEN` | 127.0.0.1:8080 | where to listen, for HTTP/1.1 and HTTP/2 without TLS |
//! | `LIMITRY_API_KEYS` | | keys that are accepted, separated by commas; unset, one is made and printed |
//! | `LIMITRY_API_KEYS_FILE` | | a file of them instead, one a line, read again on SIGHUP: those that are gone are revoked |
//! | `LIMITRY_REVOKED_API_KEYS` | | keys whose users are told that they were revoked |
//! | `LIMITRY_API_CALLS` | | how often a key may call in a minute and in a day, such as `1000,100000` |
//! | `LIMITRY_CONNECTIONS` | 10000, or what the system allows | how many connections there may be at once |
//! | `LIMITRY_IDLE_SECONDS` | 75 | how long a connection may go without a request |
//! | `LIMITRY_BACKEND` | `memory:` | where the books are; `sqlite:PATH` keeps them in a file, and any number of servers share `redis://HOST` or `redis-cluster://HOST,HOST` |
//! | `LIMITRY_OPEN_WAIT` | 0 | how many seconds to wait for another process that has the file of the books, or of the webhooks, open |
//! | `LIMITRY_DEFINITIONS` | | a TOML file of meters, limits, customers and default balances, read again on SIGHUP, but for the balances |
//! | `LIMITRY_PROJECT` | `proj_default` | the id of the project |
//! | `LIMITRY_WEBHOOK_URL` | | an https URL that is told when usage reaches a limit's alert thresholds |
//! | `LIMITRY_WEBHOOK_SECRET` | | what that is signed with, `whsec_…`; while it is replaced the new one, a space, and the old one |
//! | `LIMITRY_WEBHOOK_FILE` | `webhooks.db` | where what is to be told waits |
//! | `LIMITRY_WEBHOOK_DANGER_ALLOW_HTTP_AND_PRIVATE_ADDRESSES` | | `1` lets the URL be http, and lead to this machine or network |
//!
//! An endpoint that has answered 410 hears again after a restart.
//!
//! Every request is one line of JSON on standard error, with its id. `/healthz`, `/readyz` and `/metrics`
//! ask for no key. Meters, limits, balances and customers are made over the API, too. On SIGTERM or ctrl-c running
//! requests end first, then what was accepted is written.

use std::process::ExitCode;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tower_limitry::engine::EngineBuilder;
use tower_limitry::server::{ApiKeys, Definitions, Server};
use tower_limitry::webhooks::Webhooks;
use tower_limitry::{Books, Engine};

mod serve;
use serve::{Bounds, most_connections, serve};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let listen = variable("LISTEN")?.unwrap_or_else(|| "127.0.0.1:8080".into());
    let backend = variable("LIMITRY_BACKEND")?.unwrap_or_else(|| "memory:".into());
    let open_wait = Duration::from_secs(number("LIMITRY_OPEN_WAIT")?.unwrap_or(0));
    let webhooks = webhooks(open_wait)?;
    let mut engine = Engine::builder().open_wait(open_wait);
    if let Some(webhooks) = &webhooks {
        engine = engine.on_alert(webhooks.hook()).alert_again_after_restart();
    }
    let definitions = variable("LIMITRY_DEFINITIONS")?;
    if let Some(path) = &definitions {
        let defined = defined(path)?;
        engine = defined.balances().iter().cloned().fold(engine, EngineBuilder::default_balance);
    }
    let books = engine.open(&backend)?;

    let files = Files {
        definitions,
        keys: variable("LIMITRY_API_KEYS_FILE")?,
        revoked: keys("LIMITRY_REVOKED_API_KEYS")?.unwrap_or_default(),
        accepted: ApiKeys::new(),
        books: books.clone(),
    };
    let accepted = files.accepted.clone();
    files.revoked.iter().for_each(|key| accepted.revoke(key));
    files.read().await?;
    let has_keys = files.keys.is_some();
    if files.definitions.is_some() || has_keys {
        #[cfg(unix)]
        {
            // Listened for from here on: unheard, the signal would end the program.
            let asked = signal(SignalKind::hangup())?;
            tokio::spawn(read_again(asked, files));
        }
    }

    tracing_subscriber::fmt().json().with_writer(std::io::stderr).init();
    let prometheus = PrometheusBuilder::new().install_recorder()?;
    let upkeep = prometheus.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    let mut server = Server::new(books.clone()).metrics(move || prometheus.render());
    if let Some(project) = variable("LIMITRY_PROJECT")? {
        server = server.project(project);
    }
    let mut made = None;
    match keys("LIMITRY_API_KEYS")? {
        Some(_) if has_keys => {
            return Err("give LIMITRY_API_KEYS or LIMITRY_API_KEYS_FILE, not both".into());
        }
        Some(keys) => keys.iter().for_each(|key| accepted.accept(key)),
        None if has_keys => {}
        None => accepted.accept(made.insert(make_key()?)),
    }
    server = server.keys(accepted);
    if let Some((minute, day)) = calls()? {
        server = server.most_calls(minute, day);
    }
    let bounds = Bounds {
        connections: number("LIMITRY_CONNECTIONS")?.unwrap_or_else(most_connections),
        idle: Duration::from_secs(number("LIMITRY_IDLE_SECONDS")?.unwrap_or(75)),
    };

    let stop = asked_to_stop()?;
    let listener = TcpListener::bind(&listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    println!("listening on http://{}, {} connections", listener.local_addr()?, bounds.connections);
    if let Some(key) = made {
        println!("LIMITRY_API_KEY={key}");
    }
    serve(listener, server.router(), bounds, stop).await;
    // Holds of other processes end by themselves; what was accepted is written all the same.
    if let Err(error) = books.shutdown(Duration::from_secs(5)).await {
        eprintln!("server: {error}");
    }
    if let Some(webhooks) = webhooks
        && let Err(error) = webhooks.flush(Duration::from_secs(5)).await
    {
        eprintln!("server: {error}; they are sent when it starts again");
    }
    Ok(())
}

fn webhooks(open_wait: Duration) -> Result<Option<Webhooks>, BoxError> {
    let Some(url) = variable("LIMITRY_WEBHOOK_URL")? else { return Ok(None) };
    let secret = variable("LIMITRY_WEBHOOK_SECRET")?;
    let secret = secret.ok_or("LIMITRY_WEBHOOK_SECRET is missing; webhooks are signed")?;
    let file = variable("LIMITRY_WEBHOOK_FILE")?.unwrap_or_else(|| "webhooks.db".into());
    let mut webhooks = Webhooks::open(file).endpoint(&url, secret);
    let danger = variable("LIMITRY_WEBHOOK_DANGER_ALLOW_HTTP_AND_PRIVATE_ADDRESSES")?;
    if danger.is_some_and(|value| value == "1") {
        webhooks = webhooks.danger_allow_http_and_private_addresses();
    }
    let webhooks = webhooks.open_wait(open_wait).start()?;
    webhooks.enable(&url)?;
    Ok(Some(webhooks))
}

/// What is read again on SIGHUP.
struct Files {
    definitions: Option<String>,
    keys: Option<String>,
    /// Refused, whatever the file of the keys says.
    revoked: Vec<String>,
    accepted: ApiKeys,
    books: Books,
}

impl Files {
    async fn read(&self) -> Result<(), BoxError> {
        let definitions = self.definitions.as_ref().map(|path| defined(path)).transpose()?;
        if let Some(path) = &self.keys {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            let keys: Vec<_> = text.lines().map(str::trim).filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                return Err(format!("{path} holds no key; give one a line").into());
            }
            let is_good = |key: &&str| self.revoked.iter().all(|revoked| revoked != key);
            self.accepted.replace(keys.into_iter().filter(is_good));
        }
        if let (Some(definitions), Some(path)) = (definitions, &self.definitions) {
            // Usage is kept.
            definitions.apply(&self.books).await.map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(())
    }
}

fn defined(path: &str) -> Result<Definitions, BoxError> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.parse().map_err(|error| format!("{path}: {error}").into())
}

/// A file that makes no sense leaves everything as it is.
#[cfg(unix)]
async fn read_again(mut asked: Signal, files: Files) {
    while asked.recv().await.is_some() {
        match files.read().await {
            Ok(()) => eprintln!("server: read its files again"),
            Err(error) => eprintln!("server: {error}"),
        }
    }
}

fn calls() -> Result<Option<(u32, u32)>, BoxError> {
    let Some(text) = variable("LIMITRY_API_CALLS")? else { return Ok(None) };
    let pair = text
        .split_once(',')
        .and_then(|(minute, day)| Some((minute.trim().parse().ok()?, day.trim().parse().ok()?)));
    let problem = "LIMITRY_API_CALLS is no pair of numbers; give such as 1000,100000";
    pair.map(Some).ok_or_else(|| problem.into())
}

fn variable(name: &str) -> Result<Option<String>, BoxError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Its value may be a secret.
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is no text").into()),
    }
}

fn number<T: std::str::FromStr>(name: &str) -> Result<Option<T>, BoxError> {
    let Some(text) = variable(name)? else { return Ok(None) };
    Ok(Some(text.parse().map_err(|_| format!("{name} is no number"))?))
}

fn keys(name: &str) -> Result<Option<Vec<String>>, BoxError> {
    let Some(list) = variable(name)? else { return Ok(None) };
    let keys: Vec<_> = list.split(',').map(str::trim).filter(|key| !key.is_empty()).collect();
    match keys.is_empty() {
        true => Err(format!("{name} names no key; give some, separated by commas").into()),
        false => Ok(Some(keys.into_iter().map(ToOwned::to_owned).collect())),
    }
}

/// From the system's own randomness.
fn make_key() -> Result<String, BoxError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| format!("cannot make a key: {error}"))?;
    Ok(format!("limitry_sk_{:032x}", u128::from_be_bytes(random)))
}

/// Heard from here on; what it gives resolves when it was.
fn asked_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = signal(SignalKind::terminate())?;
    #[cfg(unix)]
    let terminated = async move { terminate.recv().await };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();
    Ok(async move {
        tokio::select! {
            Ok(()) = tokio::signal::ctrl_c() => {}
            Some(()) = terminated => {}
        }
    })
}
