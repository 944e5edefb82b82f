//! Sentinels, which name the server that is the primary now.

use std::sync::atomic::{AtomicUsize, Ordering};

use redis::aio::ConnectionLike;
use redis::{
    AsyncConnectionConfig, ErrorKind as Kind, RedisConnectionInfo, RedisError, Value, cmd,
    from_redis_value_ref,
};
use tokio::runtime::Handle;

use super::dial::{Dial, Dialed};

/// Sentinels, and the name by which they know the primary.
pub(super) struct Sentinels {
    pub(super) dial: Dial,
    pub(super) addresses: Vec<(String, u16)>,
    pub(super) name: String,
    /// For the primary; sentinels are asked without.
    pub(super) login: RedisConnectionInfo,
    /// Which of them is asked first: one that hangs is not asked first again.
    pub(super) first: AtomicUsize,
}

impl Sentinels {
    /// Connects to the primary that the first of them names which is one.
    pub(super) async fn connect(
        &self,
        config: AsyncConnectionConfig,
        driven_by: Option<&Handle>,
    ) -> Result<Dialed, RedisError> {
        let first = self.first.load(Ordering::Relaxed);
        let mut failed = None;
        for number in 0..self.addresses.len() {
            let at = first.wrapping_add(number);
            self.first.store(at.wrapping_add(1), Ordering::Relaxed);
            match self.ask(&self.addresses[at % self.addresses.len()], &config, driven_by).await {
                Ok(primary) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(primary);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| (Kind::InvalidClientConfig, "no sentinels").into()))
    }

    async fn ask(
        &self,
        (host, port): &(String, u16),
        config: &AsyncConnectionConfig,
        driven_by: Option<&Handle>,
    ) -> Result<Dialed, RedisError> {
        let nobody = RedisConnectionInfo::default();
        let mut sentinel = self.dial.connect(host, *port, &nobody, config.clone(), None).await?;
        let mut ask = cmd("SENTINEL");
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let named = sentinel.req_packed_command(&ask).await?.extract_error()?;
        let (host, port): (String, u16) = match named {
            Value::Nil => {
                let problem = "the sentinel knows no master of that name";
                return Err((Kind::InvalidClientConfig, problem).into());
            }
            named => from_redis_value_ref(&named)?,
        };
        let config = config.clone();
        let mut primary = self.dial.connect(&host, port, &self.login, config, driven_by).await?;
        // It may have been one, and sentinels hear of the next one later.
        let role = primary.req_packed_command(&cmd("ROLE")).await?.extract_error()?;
        let is_primary = matches!(&role, Value::Array(about) if about.first().is_some_and(|role| {
            from_redis_value_ref::<String>(role).is_ok_and(|role| role == "master")
        }));
        if !is_primary {
            return Err((Kind::Io, "the server that the sentinel names is no primary").into());
        }
        Ok(primary)
    }
}
