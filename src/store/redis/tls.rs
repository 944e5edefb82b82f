use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind as Kind, RedisConnectionInfo,
    RedisError,
};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::invalid_url;
use crate::{Error, tls};

/// A server behind TLS. The stream is ours: the client library's own takes the provider of the
/// process, and installs one where there is none.
pub(super) struct Tls {
    connector: TlsConnector,
    host: String,
    port: u16,
    name: ServerName<'static>,
    login: RedisConnectionInfo,
    driver: Mutex<Option<AbortHandle>>,
}

impl Tls {
    /// The server of a URL without its scheme. Trusts what the system trusts, and the roots in this
    /// PEM.
    pub(super) fn of(rest: &str, roots: &[u8]) -> Result<Self, Error> {
        if rest.contains('#') {
            return Err(invalid_url("has a fragment; certificates are always verified"));
        }
        let wrong = "makes no sense; give rediss://host:port";
        let client = Client::open(format!("redis://{rest}")).map_err(|_| invalid_url(wrong))?;
        let info = client.get_connection_info();
        let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err(invalid_url(wrong)) };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| invalid_url(wrong))?;
        let config = tls::config(tls::roots(roots)?)?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            host,
            port: *port,
            name,
            login: info.redis_settings().clone(),
            driver: Mutex::default(),
        })
    }

    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(self.name.clone(), stream).await.map_err(|error| {
            RedisError::from((Kind::Io, "no TLS with the server", error.to_string()))
        })?;
        let connecting = MultiplexedConnection::new_with_config(&self.login, stream, config);
        let (wire, driver) = connecting.await?;
        let driver = tokio::spawn(driver).abort_handle();
        // One that hangs would go on by itself.
        let former = self.driver.lock().unwrap_or_else(PoisonError::into_inner).replace(driver);
        if let Some(former) = former {
            former.abort();
        }
        Ok(wire)
    }
}
