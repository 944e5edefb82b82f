//! Books that the environment names, here or on a server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use super::{Client, Hosted, Remote};
use crate::engine::EngineBuilder;
use crate::outbox::Outbox;
use crate::policy::{Limit, Meter, NewBalance};
use crate::{Books, Error, ErrorKind, observe};

const BACKEND: &str = "LIMITRY_BACKEND";
const OUTBOX: &str = "LIMITRY_OUTBOX";
const DIALECT: &str = "LIMITRY_DIALECT";
const OPEN_WAIT: &str = "LIMITRY_OPEN_WAIT";

/// Where settlements wait for a server, unless [`OUTBOX`] says otherwise.
const DEFAULT_OUTBOX: &str = "limitry.outbox";

/// The file in which settlements wait for the server that the environment names; `None` when the
/// books are here. See [`open_from_env`](EngineBuilder::open_from_env).
pub fn outbox_path() -> Option<PathBuf> {
    let url = std::env::var(BACKEND).ok().filter(|url| is_http(url));
    url.map(|_| path())
}

fn path() -> PathBuf {
    let named = std::env::var_os(OUTBOX).filter(|path| !path.is_empty());
    named.map_or_else(|| DEFAULT_OUTBOX.into(), PathBuf::from)
}

fn is_http(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// Whether Limitry's own service is there.
fn is_hosted(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| url.host() == Some("api.limitry.com"))
}

impl EngineBuilder {
    /// The books that the environment names: those of [`open`](Self::open), or over HTTP those of a
    /// server.
    ///
    /// | variable | unless set | |
    /// |---|---|---|
    /// | `LIMITRY_BACKEND` | `memory:` | a URL of [`open`](Self::open); or `https://host/v1` for the books on a [server of this crate](crate::server), also `http://127.0.0.1:8080/v1` on this machine |
    /// | `LIMITRY_API_KEY` | | a key of that server |
    /// | `LIMITRY_PROJECT` | | the project, for a personal access token |
    /// | `LIMITRY_OUTBOX` | `limitry.outbox` | the file in which settlements wait until the server has them; each process has its own |
    /// | `LIMITRY_OPEN_WAIT` | what [`open_wait`](Self::open_wait) says, or 0 | how many seconds to wait, at most 3600, for another process that has a file open: that of the books, or that of the outbox |
    /// | `LIMITRY_DIALECT` | `own`, but for api.limitry.com `limitry` | how to speak with it: as with a server of this crate ([`Remote`]), or by the calls that Limitry documents ([`Hosted`]) |
    ///
    /// Over HTTP the definitions are the server's. Meters and limits that it does not have under
    /// their ids are made there; those that it has stay as they are there. Default balances, the
    /// zone and the hooks belong to the program that is the server. One that is away when this is
    /// called is told of them once it is back.
    ///
    /// The hosted service gives ids of its own, so there meters and limits are looked for by their
    /// names, and made if there are none. It has no default balances: make one for each customer.
    /// Debts are kept beside the outbox, in the file of its name and `.debts`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a variable that is missing or makes no sense, by its name, and for
    /// definitions that make no sense; [`ErrorKind::NotFound`] for a default balance that the server
    /// does not have; [`ErrorKind::Conflict`] and [`ErrorKind::Unavailable`] for an outbox or books
    /// that cannot be opened.
    pub async fn open_from_env(mut self) -> Result<Books, Error> {
        let url = variable(BACKEND)?.unwrap_or_else(|| "memory:".into());
        if let Some(text) = variable(OPEN_WAIT)? {
            let seconds = text.parse().ok().filter(|seconds| *seconds <= 3_600);
            let problem = "is no time to wait; give whole seconds, 0 to 3600";
            let seconds = seconds.ok_or_else(|| Error::invalid(OPEN_WAIT, problem))?;
            self.open_wait = Duration::from_secs(seconds);
        }
        let open_wait = self.open_wait;
        if !is_http(&url) && open_wait.is_zero() {
            return Ok(self.open(&url)?);
        } else if !is_http(&url) {
            // The runtime has other things to do meanwhile.
            let opened = tokio::task::spawn_blocking(move || self.open(&url)).await;
            let ended = |_| Error::new(ErrorKind::Unavailable, "the runtime ended while it opened");
            return Ok(opened.map_err(ended)??);
        }
        let is_own = match variable(DIALECT)?.as_deref() {
            None => !is_hosted(&url),
            Some("own") => true,
            Some("limitry") => false,
            Some(_) => return Err(Error::invalid(DIALECT, "is unknown; give own or limitry")),
        };
        let client = Client::builder_from_env()?.base_url(url).build()?;
        if !is_own {
            let wanted = Named { meters: self.meters, limits: self.limits };
            return hosted(client, wanted, open_wait).await;
        }
        let outbox = Outbox::builder(Remote::builder(&client).open()?).open_wait(open_wait);
        let outbox = outbox.open(path()).await?;
        let books = Books::new(outbox).erased();
        let wanted = Wanted { meters: self.meters, limits: self.limits, balances: self.balances };
        match wanted.make(&books).await {
            Err(error) if error.is_transient() => {
                observe::failure("undefined", &error);
                tokio::spawn(wanted.make_later(books.clone()));
            }
            made => made?,
        }
        Ok(books)
    }
}

/// Books in the hosted service.
async fn hosted(client: Client, wanted: Named, open_wait: Duration) -> Result<Books, Error> {
    let mut debts = path().into_os_string();
    debts.push(".debts");
    let mut hosted = Hosted::builder(&client).debts(debts);
    if !open_wait.is_zero() {
        hosted = hosted.open_wait(open_wait);
    }
    let hosted = hosted.open().await?;
    let outbox = Outbox::builder(hosted).open_wait(open_wait).open(path()).await?;
    let books = Books::new(outbox).erased();
    match wanted.make(&client).await {
        Err(error) if error.is_transient() => {
            observe::failure("undefined", &error);
            tokio::spawn(wanted.make_later(client));
        }
        made => made?,
    }
    Ok(books)
}

/// What the program asks a service to have that gives ids of its own.
struct Named {
    meters: Vec<Meter>,
    limits: Vec<Limit>,
}

impl Named {
    async fn make(&self, client: &Client) -> Result<(), Error> {
        let known = client.meters().list().all().await?;
        let mut ids = HashMap::new();
        for meter in &self.meters {
            let found = known.iter().find(|known| known.item.name() == meter.name());
            let id = match found {
                Some(found) => found.item.id().to_owned(),
                None => client.meters().create(meter).await?.item.id().to_owned(),
            };
            ids.insert(meter.id(), id);
        }
        let known = client.limits().list().all().await?;
        for limit in &self.limits {
            let is_it = |known: &Limit| {
                (known.name(), known.customer()) == (limit.name(), limit.customer())
            };
            if known.iter().any(|known| is_it(&known.item)) {
                continue;
            }
            let mut limit = limit.clone();
            if let Some(id) = ids.get(limit.meter()) {
                limit.meter = id.into();
            }
            client.limits().create(&limit).await?;
        }
        Ok(())
    }

    /// Again and again until the service has answered for good.
    async fn make_later(self, client: Client) {
        loop {
            tokio::time::sleep(PAUSE).await;
            match self.make(&client).await {
                Ok(()) => return,
                Err(error) => observe::failure("undefined", &error),
            }
        }
    }
}

/// How long to leave a server alone that is away, before it is told what it lacks.
const PAUSE: Duration = Duration::from_secs(2);

/// What the program asks the server to have.
struct Wanted {
    meters: Vec<Meter>,
    limits: Vec<Limit>,
    balances: Vec<NewBalance>,
}

impl Wanted {
    async fn make(&self, books: &Books) -> Result<(), Error> {
        let known = books.meters().await?;
        for meter in &self.meters {
            if !known.iter().any(|known| known.id() == meter.id()) {
                books.put_meter(meter.clone()).await?;
            }
        }
        let known = books.limits().await?;
        for limit in &self.limits {
            if !known.iter().any(|known| known.id() == limit.id()) {
                books.put_limit(limit.clone()).await?;
            }
        }
        if self.balances.is_empty() {
            return Ok(());
        }
        // Everybody has the defaults, nobody in particular included.
        let known = books.balances("limitry.nobody").await?;
        match self.balances.iter().find(|own| !known.iter().any(|known| known.name() == own.name()))
        {
            None => Ok(()),
            Some(missing) => {
                let message = format!(
                    "the server gives nobody a balance {:?}; define it there, as a default of its \
                     engine or under [balances] of its definitions, and start again",
                    missing.name()
                );
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    /// Again and again until the server has answered for good.
    async fn make_later(self, books: Books) {
        loop {
            tokio::time::sleep(PAUSE).await;
            match self.make(&books).await {
                Ok(()) => return,
                Err(error) => observe::failure("undefined", &error),
            }
        }
    }
}

fn variable(name: &str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // It may hold a secret.
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::invalid(name, "is no text")),
    }
}
