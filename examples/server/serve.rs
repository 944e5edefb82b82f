//! Serves connections so that nobody can take the server from others: so many at once, each with so
//! much memory, none for nothing.
//!
//! When there are as many as there may be, the one that has gone longest without a request makes room. So ten
//! thousand connections that ask for nothing cost those who ask nothing.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::ServiceExt;

/// How long requests that run may take to end when the server stops.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// The longest head of a request, and what is read ahead of each connection.
const HEAD: usize = 16 * 1024;

/// What connections may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// How many there may be at once.
    pub(crate) connections: usize,
    /// How long one may go without a request. Over HTTP/1 also how long the head of one may take to
    /// arrive.
    pub(crate) idle: Duration,
}

/// Serves until asked to stop, and then what is running.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    bounds: Bounds,
    stop: impl Future<Output = ()>,
) {
    let open = Arc::new(Open::default());
    let (stopping, stopped) = watch::channel(());
    let http = http(bounds.idle);
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Out of file descriptors, or the client is gone already.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                open.close_idlest();
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let ended = open.ended.notified();
        if open.count() >= bounds.connections && !open.close_idlest() {
            tokio::select! {
                () = ended => {}
                () = &mut stop => break,
            }
        }
        let place = open.enter(bounds.idle);
        tokio::spawn(connected(http.clone(), stream, app.clone(), place, stopped.clone()));
    }
    drop((listener, stopped));
    let _ = stopping.send(());
    // Every connection has a receiver, and drops it at its end.
    let _ = timeout(LAST_WORDS, stopping.closed()).await;
}

/// How many connections there may be where the variable does not say: what the system lets this
/// process open, less what it needs for itself.
pub(crate) fn most_connections() -> usize {
    const ENOUGH: usize = 10_000;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    files.map_or(ENOUGH, |files| files.saturating_sub(64).clamp(16, ENOUGH))
}

fn http(idle: Duration) -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(HEAD);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .max_header_list_size(HEAD as u32)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(128 * 1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(idle)
        .keep_alive_timeout(idle);
    http
}

async fn connected(
    http: Builder<TokioExecutor>,
    stream: TcpStream,
    app: Router,
    place: Place,
    mut stopped: watch::Receiver<()>,
) {
    let _ = stream.set_nodelay(true);
    let connection = &place.connection;
    let asked = Arc::clone(connection);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let running = asked.begin();
        let app = app.clone();
        async move {
            let response = app.oneshot(request.map(Body::new)).await;
            drop(running);
            Ok::<_, Infallible>(response.unwrap_or_else(|never| match never {}))
        }
    });
    let mut served = pin!(http.serve_connection(TokioIo::new(stream), service));
    let mut is_ending = false;
    loop {
        tokio::select! {
            // A client that goes away, or makes no sense, is no error of ours.
            _ = &mut served => return,
            () = connection.close.notified() => return,
            _ = stopped.changed(), if !is_ending => {
                is_ending = true;
                served.as_mut().graceful_shutdown();
            }
            () = connection.idle() => {
                if is_ending {
                    return;
                }
                is_ending = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

/// The connections that there are.
#[derive(Default)]
struct Open {
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    ended: Notify,
}

struct Connection {
    /// How long it may go without a request.
    idle: Duration,
    /// When the newest request began or ended.
    last: Mutex<Instant>,
    /// Requests that are not yet answered.
    running: AtomicUsize,
    close: Notify,
}

/// A connection's place among all, until its end.
struct Place {
    all: Arc<Open>,
    number: u64,
    connection: Arc<Connection>,
}

/// A request that is not yet answered.
struct Running(Arc<Connection>);

impl Open {
    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.connections().len()
    }

    fn enter(self: &Arc<Self>, idle: Duration) -> Place {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            idle,
            last: Mutex::new(Instant::now()),
            running: AtomicUsize::new(0),
            close: Notify::new(),
        });
        self.connections().insert(number, Arc::clone(&connection));
        Place { all: Arc::clone(self), number, connection }
    }

    /// Closes the connection that has gone longest without a request, if there is one that does.
    fn close_idlest(&self) -> bool {
        let mut connections = self.connections();
        let idle = connections.iter().filter(|(_, connection)| connection.is_idle());
        let idlest =
            idle.min_by_key(|(_, connection)| connection.last()).map(|(number, _)| *number);
        let closed = idlest.and_then(|number| connections.remove(&number));
        if let Some(connection) = &closed {
            connection.close.notify_one();
        }
        closed.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.connections().remove(&self.number);
        self.all.ended.notify_waiters();
    }
}

impl Connection {
    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_idle(&self) -> bool {
        self.running.load(Ordering::Relaxed) == 0
    }

    fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Running(Arc::clone(self))
    }

    /// Resolves once it has gone without a request for long. Requests end by themselves.
    async fn idle(&self) {
        loop {
            let due = self.last() + self.idle;
            if self.is_idle() && due <= Instant::now() {
                return;
            }
            sleep_until(due.max(Instant::now() + self.idle / 10)).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.touch();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
