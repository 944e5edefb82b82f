//! Connections to one server. The streams are ours: behind TLS, the client library's own take the provider
//! of the process, and install one where there is none.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::Connect;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind as Kind, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, RedisError, RedisFuture, Value,
};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsConnector;

use super::invalid_url;
use crate::{Error, tls};

/// How connections are made.
#[derive(Clone, Default)]
pub(super) struct Dial(Option<TlsConnector>);

impl Dial {
    /// Behind TLS: trusts what the system trusts, and the roots in this PEM.
    pub(super) fn behind_tls(roots: &[u8]) -> Result<Self, Error> {
        let config = tls::config(tls::roots(roots)?)?;
        Ok(Self(Some(TlsConnector::from(Arc::new(config)))))
    }

    /// Connects, to be driven by that runtime, or by the one it is called in.
    pub(super) async fn connect(
        &self,
        host: &str,
        port: u16,
        login: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
        driven_by: Option<&Handle>,
    ) -> Result<Dialed, RedisError> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut stream = first_of(lookup_host((host, port)).await?).await?;
        stream.set_nodelay(true)?;
        let here = Handle::current();
        let runtime = driven_by.unwrap_or(&here);
        if driven_by.is_some() {
            let moved = stream.into_std()?;
            // A task, as the runtime may be one without I/O.
            let moved = runtime.spawn(async { TcpStream::from_std(moved) }).await;
            stream = moved.map_err(std::io::Error::other)??;
        }
        let (wire, driver) = match &self.0 {
            Some(connector) => {
                let no_tls = |problem: String| {
                    RedisError::from((Kind::Io, "no TLS with the server", problem))
                };
                let name = ServerName::try_from(host.to_owned());
                let name = name.map_err(|error| no_tls(error.to_string()))?;
                let stream = connector.connect(name, stream).await;
                let stream = stream.map_err(|error| no_tls(error.to_string()))?;
                let (wire, driver) =
                    MultiplexedConnection::new_with_config(login, stream, config).await?;
                (wire, runtime.spawn(driver))
            }
            None => {
                let (wire, driver) =
                    MultiplexedConnection::new_with_config(login, stream, config).await?;
                (wire, runtime.spawn(driver))
            }
        };
        Ok(Dialed { wire, driver: Arc::new(Driver(driver.abort_handle())) })
    }
}

/// A host may have several addresses, of which one that does not answer keeps nobody waiting.
async fn first_of(addresses: impl Iterator<Item = SocketAddr>) -> std::io::Result<TcpStream> {
    let mut connecting: JoinSet<_> = addresses.map(TcpStream::connect).collect();
    let mut failed = std::io::Error::other("the host has no address");
    while let Some(connected) = connecting.join_next().await {
        match connected? {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A connection to one server. What drives it ends with the last of its clones: one that hangs would
/// go on by itself.
#[derive(Clone)]
pub(super) struct Dialed {
    wire: MultiplexedConnection,
    driver: Arc<Driver>,
}

struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dialed {
    /// Nothing drives it any more.
    pub(super) fn is_over(&self) -> bool {
        self.driver.0.is_finished()
    }
}

impl ConnectionLike for Dialed {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.wire.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.wire.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.wire.get_db()
    }
}

thread_local! {
    /// How this thread connects to the nodes of its cluster, which it learns of one after the other.
    static NODES: RefCell<Dial> = RefCell::default();
}

/// Connections to nodes that are made on this thread are made so.
pub(super) fn connect_nodes_by(dial: Dial) {
    NODES.set(dial);
}

impl Connect for Dialed {
    fn connect_with_config<'a, T>(info: T, config: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        let dial = NODES.with_borrow(Dial::clone);
        Box::pin(async move {
            let info = info.into_connection_info()?;
            let ConnectionAddr::Tcp(host, port) = info.addr() else {
                return Err((Kind::InvalidClientConfig, "a node without host and port").into());
            };
            dial.connect(host, *port, info.redis_settings(), config, None).await
        })
    }
}

/// One server.
pub(super) struct Server {
    dial: Dial,
    host: String,
    port: u16,
    login: RedisConnectionInfo,
}

impl Server {
    /// The server of a URL without its scheme.
    pub(super) fn of(rest: &str, dial: Dial) -> Result<Self, Error> {
        if dial.0.is_some() && rest.contains('#') {
            return Err(invalid_url("has a fragment; certificates are always verified"));
        }
        let wrong = || invalid_url("makes no sense; give redis://host:port");
        let client = Client::open(format!("redis://{rest}")).map_err(|_| wrong())?;
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err(wrong()) };
        if dial.0.is_some() {
            ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned())
                .map_err(|_| wrong())?;
        }
        Ok(Self { dial, host: host.clone(), port: *port, login: info.redis_settings().clone() })
    }

    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
        driven_by: Option<&Handle>,
    ) -> Result<Dialed, RedisError> {
        self.dial.connect(&self.host, self.port, &self.login, config, driven_by).await
    }
}
