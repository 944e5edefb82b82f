//! A metering reverse proxy for any API of a language model.
//!
//! ```sh
//! UPSTREAM_URL=https://api.openai.com cargo run --example gateway
//! ```
//!
//! Point a client's base URL at it, such as `http://127.0.0.1:3000/v1`. It asks the upstream as the
//! client asked it, and meters what the answer says that it used: OpenAI, Anthropic, Gemini, Ollama
//! and those that speak like them, streaming or not.
//!
//! | variable | default | |
//! |---|---|---|
//! | `UPSTREAM_URL` | | the API, with the path before what clients ask for, if any |
//! | `HOST`, `PORT` | 127.0.0.1, 3000 | where to listen, for HTTP/1.1 and HTTP/2 without TLS |
//! | `DAILY_TOKEN_LIMIT` | 1000000 | tokens a day for each customer |
//! | `MINUTE_TOKEN_LIMIT` | none | tokens a minute for each customer |
//! | `CREDITS` | none | prepaid credits that each customer begins with; a token costs one |
//! | `LIMITRY_BACKEND` | `memory:` | where the books are: `sqlite:PATH`, or `redis://HOST` for several gateways |
//! | `LIMITRY_OPEN_WAIT` | 0 | how many seconds to wait for another process that has the file of the books open |
//! | `INCLUDE_USAGE` | 0 | 1 asks streams of OpenAI's dialect for their usage |
//! | `UPSTREAM_HTTP2` | 0 | 1 speaks HTTP/2 to an `http:` upstream; `https:` ones choose |
//! | `CONNECT_TIMEOUT` | 10 | seconds to wait for a connection to the upstream |
//! | `ANSWER_TIMEOUT` | 900 | seconds to wait for an answer to begin, with all of the request sent |
//!
//! Every recorded event is one line of JSON on standard output. None is dropped: whoever reads them
//! slowly slows the answers, but only once 16,384 wait. A process that is killed loses those that
//! wait. Everything else goes to standard error.
//!
//! - The customer is `x-customer-id`, which is trusted: let nobody set it but your own gateway.
//!   Without it each key is a customer (`Authorization: Bearer` or `x-api-key`), by its hash.
//! - What a request may use is set aside while it runs: the most tokens that it asks for, and for the
//!   prompt a token for every four bytes, at most 16,384. That takes reading its body, if it has no
//!   more than a mebibyte, before it goes on. Longer ones are checked without and stream.
//! - A stream of OpenAI's dialect tells its usage only when asked to, and is charged what was set
//!   aside otherwise. `INCLUDE_USAGE=1` asks for every stream whose request does not say; such a
//!   client sees one more chunk, with empty `choices`, at the end.
//! - Only POST is metered, and of it not what counts tokens, moderates or uploads. What runs after its
//!   answer, such as a batch, is not seen. WebSockets do not pass.
//! - The books are in this process and end with it, unless `LIMITRY_BACKEND` says otherwise, as in the
//!   quickstart. On a server, events are told there, and `CREDITS` is one of its default balances,
//!   `credits`. On SIGTERM or ctrl-c running answers end first,
//!   and all events are written; a second one stops at once.

use std::io::{self, Write};
use std::process::ExitCode;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;

mod app;
mod config;
mod estimate;
mod forward;
mod include_usage;
mod printer;

use config::Config;
use printer::Printer;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(format_args!("gateway: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(std::env::var_os)?;
    let printer = Printer::start()?;
    let books = app::engine(&config).on_event(printer.sink()).open_from_env().await?;
    if let Some(path) = tower_limitry::client::outbox_path() {
        tell(format_args!("settlements wait for the server in {}", path.display()));
    }
    let app = app::app(&config, books.clone())?;
    let listener = TcpListener::bind((&*config.host, config.port))
        .await
        .map_err(|error| format!("cannot listen on {}:{}: {error}", config.host, config.port))?;
    tell(format_args!("listening on http://{}, {config}", listener.local_addr()?));
    // Small frames of a stream do not wait for each other. A connection that cannot is still one.
    let listener = listener.tap_io(|connection| drop(connection.set_nodelay(true)));
    let stopped = async move {
        asked_to_stop().await;
        tell(format_args!("stopping once running answers have ended"));
        tokio::spawn(async move {
            asked_to_stop().await;
            std::process::exit(1);
        });
    };
    axum::serve(listener, app).with_graceful_shutdown(stopped).await?;
    if let Err(error) = books.shutdown(std::time::Duration::from_secs(5)).await {
        tell(format_args!("gateway: {error}"));
    }
    printer.finish();
    Ok(())
}

async fn asked_to_stop() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).ok()?.recv().await
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<Option<()>>();
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => {}
        Some(()) = terminated => {}
    }
}

/// For people. Nobody may be listening here either.
fn tell(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}
