//! The same books through a client and a server.

use std::time::Duration;

use tower_limitry::backend::{
    Admin, Admission, Backend, Check, Delivery, Receipt, Settlement, Ticket,
};
use tower_limitry::client::{Client, Remote, RemoteFinish};
use tower_limitry::clock::Clock;
use tower_limitry::engine::EngineBuilder;
use tower_limitry::policy::{EventId, Timestamp};
use tower_limitry::server::Server;
use tower_limitry::store::BoxFuture;
use tower_limitry::{Books, Error};

use crate::support::DAY;

const KEY: &str = "limitry_sk_of_the_tests";

/// Starts a server over these books on a port of its own.
pub(crate) fn serve(books: &Books) -> Client {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let app = Server::new(books.clone()).key(KEY).router();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Client::builder(KEY).base_url(url).build().unwrap()
}

/// Asks a server over HTTP.
pub(crate) fn open(builder: EngineBuilder) -> Books {
    let books = builder.build().unwrap().erased();
    let client = serve(&books);
    // Time is moved by hand further than a hold lives by itself.
    let remote = Remote::builder(&client).clock(OfServer::of(books)).hold_for(DAY).open();
    Books::new(InOrder(remote.unwrap())).erased()
}

/// Shows the time that the test moves.
#[derive(Debug)]
pub(crate) struct OfServer {
    books: Books,
    start: Timestamp,
}

impl OfServer {
    pub(crate) fn of(books: Books) -> Self {
        let start = books.backend().now();
        Self { books, start }
    }
}

impl Clock for OfServer {
    fn now(&self) -> Timestamp {
        self.books.backend().now()
    }

    fn monotonic(&self) -> Duration {
        self.now().duration_since(self.start)
    }
}

/// Checks only once what the test did before has arrived. The calls of one process are otherwise on
/// their way beside each other; the suite drops permits and then looks.
#[derive(Clone, Debug)]
struct InOrder(Remote);

impl Backend for InOrder {
    type Check = BoxFuture<'static, Result<Admission, Error>>;
    type Finish = RemoteFinish;

    fn check(&self, check: Check) -> Self::Check {
        let remote = self.0.clone();
        let asked = tokio::spawn(async move {
            remote.quiet().await;
            remote.check(check).await
        });
        Box::pin(async move { asked.await.unwrap() })
    }

    fn settle(&self, settlement: Settlement) -> Self::Finish {
        self.0.settle(settlement)
    }

    fn settle_many(
        &self,
        batch: Vec<Delivery>,
        within: Duration,
    ) -> BoxFuture<'static, Vec<Result<Receipt, Error>>> {
        self.0.settle_many(batch, within)
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        self.0.release(ticket)
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.make_id(at)
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn admin(&self) -> &dyn Admin {
        self.0.admin()
    }
}
