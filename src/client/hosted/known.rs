//! What the answers of checks only name: meters, and the dimensions that limits are narrowed to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ErrorKind;
use crate::client::Client;
use crate::policy::{Limit, Meter};
use crate::store::BoxFuture;

/// How long a definition is believed before it is read again, and how many are kept.
const BELIEVED: Duration = Duration::from_secs(60);
const MOST: usize = 10_000;

/// Definitions by id, read when they are first named.
#[derive(Debug)]
pub(super) struct Known<T> {
    entries: Arc<Mutex<HashMap<String, Entry<T>>>>,
    /// Whoever reads reads for all who wait.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Entry<T> {
    /// `None` for one that the API does not tell of.
    found: Option<Arc<T>>,
    read: Duration,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { entries: Arc::default(), reading: Arc::default() }
    }
}

/// What the API can be asked for by its id.
pub(super) trait Named: Sized + Send + Sync + 'static {
    fn read(client: Client, id: String) -> BoxFuture<'static, Result<Self, crate::Error>>;
}

impl Named for Meter {
    fn read(client: Client, id: String) -> BoxFuture<'static, Result<Self, crate::Error>> {
        Box::pin(async move { Ok(client.meters().get(&id).await?.item) })
    }
}

impl Named for Limit {
    fn read(client: Client, id: String) -> BoxFuture<'static, Result<Self, crate::Error>> {
        Box::pin(async move { Ok(client.limits().get(&id).await?.item) })
    }
}

impl<T: Named> Known<T> {
    /// The definition of that id. One that was read a while ago is read again meanwhile.
    ///
    /// # Errors
    ///
    /// When it was never read, and cannot be now.
    pub(super) async fn get(
        &self,
        client: &Client,
        id: &str,
        now: Duration,
    ) -> Result<Option<Arc<T>>, crate::Error> {
        let known = {
            let mut entries = self.lock();
            entries.get_mut(id).map(|entry| {
                let is_old = now.saturating_sub(entry.read) >= BELIEVED;
                if is_old {
                    // One reads it for all.
                    entry.read = now;
                }
                (entry.found.clone(), is_old)
            })
        };
        match known {
            None => {
                let _reading = self.reading.lock().await;
                let found = self.lock().get(id).map(|entry| entry.found.clone());
                match found {
                    Some(found) => Ok(found),
                    None => self.read(client, id, now).await,
                }
            }
            Some((found, is_old)) => {
                if is_old {
                    let (entries, reading) = (Arc::clone(&self.entries), Arc::default());
                    let again = Self { entries, reading };
                    let (client, id) = (client.clone(), id.to_owned());
                    tokio::spawn(async move { drop(again.read(&client, &id, now).await) });
                }
                Ok(found)
            }
        }
    }

    async fn read(
        &self,
        client: &Client,
        id: &str,
        now: Duration,
    ) -> Result<Option<Arc<T>>, crate::Error> {
        let found = match T::read(client.clone(), id.to_owned()).await {
            Ok(found) => Some(Arc::new(found)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut entries = self.lock();
        if entries.len() >= MOST && !entries.contains_key(id) {
            entries.clear();
        }
        entries.insert(id.to_owned(), Entry { found: found.clone(), read: now });
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry<T>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
