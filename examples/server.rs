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
//! | `LIMITRY_REVOKED_API_KEYS` | | keys whose users are told that they were revoked |
//! | `LIMITRY_BACKEND` | `memory:` | where the books are; `sqlite:PATH` keeps them in a file, and any number of servers share `redis://HOST` or `redis-cluster://HOST,HOST` |
//! | `LIMITRY_DEFINITIONS` | | a TOML file of meters, limits and customers, read again on SIGHUP |
//! | `LIMITRY_PROJECT` | `proj_default` | the id of the project |
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
use tower_limitry::server::{Definitions, Server};
use tower_limitry::{Books, Engine};

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
    let books = Engine::builder().open(&backend)?;

    if let Some(path) = variable("LIMITRY_DEFINITIONS")? {
        define(&path, &books).await?;
        #[cfg(unix)]
        {
            // Listened for from here on: unheard, the signal would end the program.
            let asked = signal(SignalKind::hangup())?;
            tokio::spawn(define_again(asked, path, books.clone()));
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
    for key in keys("LIMITRY_REVOKED_API_KEYS")?.unwrap_or_default() {
        server = server.revoked_key(key);
    }
    let (keys, is_made) = match keys("LIMITRY_API_KEYS")? {
        Some(keys) => (keys, false),
        None => (vec![make_key()?], true),
    };
    for key in &keys {
        server = server.key(key);
    }

    let listener = TcpListener::bind(&listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    println!("listening on http://{}, {} API keys", listener.local_addr()?, keys.len());
    if is_made {
        println!("LIMITRY_API_KEY={}", keys[0]);
    }
    axum::serve(listener, server.router()).with_graceful_shutdown(asked_to_stop()).await?;
    // Holds of other processes end by themselves; what was accepted is written all the same.
    if let Err(error) = books.shutdown(Duration::from_secs(5)).await {
        eprintln!("server: {error}");
    }
    Ok(())
}

/// Puts what the file says into the books; usage is kept.
async fn define(path: &str, books: &Books) -> Result<(), BoxError> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let definitions: Definitions = text.parse().map_err(|error| format!("{path}: {error}"))?;
    definitions.apply(books).await.map_err(|error| format!("{path}: {error}").into())
}

/// A file that makes no sense leaves everything as it is.
#[cfg(unix)]
async fn define_again(mut asked: Signal, path: String, books: Books) {
    while asked.recv().await.is_some() {
        match define(&path, &books).await {
            Ok(()) => eprintln!("server: read {path} again"),
            Err(error) => eprintln!("server: {error}"),
        }
    }
}

fn variable(name: &str) -> Result<Option<String>, BoxError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // Its value may be a secret.
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("{name} is no text").into()),
    }
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

async fn asked_to_stop() {
    #[cfg(unix)]
    let terminated = async { signal(SignalKind::terminate()).ok()?.recv().await };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Some(()) = terminated => {}
    }
}
