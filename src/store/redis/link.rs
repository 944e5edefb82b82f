//! The way to the server: connections that many requests share, made again when they break.
//!
//! One is driven by a thread of our own, so that it does what it has to whatever becomes of the program's
//! runtimes: it renews holds, and serves who calls from elsewhere. As an answer that has to cross threads
//! takes longer, the runtime that calls first gets one of its own, near to it, if it has workers: they see
//! to a connection also while nobody waits in their runtime.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::{AsyncConnectionConfig, Cmd, ErrorKind as Kind, RedisError, ServerErrorKind, Value};
use tokio::runtime::{self, Handle, RuntimeFlavor};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::dial::{self, Dial, Dialed, Server};
use super::script::Scripts;
use super::sentinel::Sentinels;
use crate::{Error, ErrorKind};

/// After so many calls in a row without an answer, the connection is made again, unless they are rare.
const TOO_SILENT: usize = 32;

/// What to connect to.
pub(super) enum Target {
    Server(Box<Server>),
    Sentinel(Box<Sentinels>),
    Cluster(Box<ClusterClient>, Dial),
}

/// One connection.
#[derive(Clone)]
enum Wire {
    Server(Dialed),
    Cluster(ClusterConnection<Dialed>),
}

/// The connection of our own thread, and the one that is driven by the runtime of that name.
#[derive(Clone)]
struct Wires {
    own: Wire,
    near: Option<(runtime::Id, Dialed)>,
}

/// What a call goes by.
struct Way {
    wire: Wire,
    /// Of the connections that were made together.
    number: u64,
    is_near: bool,
}

#[derive(Clone)]
enum State {
    /// No attempt has been made, or one is being made.
    Connecting,
    Up(Wires, u64),
    /// The last attempt failed, and the next is some time away.
    Down(Arc<RedisError>),
    Closed,
}

/// The way to the server.
pub(super) struct Link {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: watch::Sender<State>,
    /// The connection of that number broke.
    broken: AtomicU64,
    wake: Notify,
    /// Calls on our own connection since its last answer that got none in time, and on the near one.
    silent: [AtomicUsize; 2],
    /// The next runtime that calls gets a connection of its own.
    may_come_near: AtomicBool,
    /// Whether any does.
    comes_near: bool,
    timeout: Duration,
    target: Target,
    scripts: Arc<Scripts>,
    runtime: Handle,
    close: Notify,
}

impl Link {
    /// Starts the thread that keeps the connection. Where steps follow each other on one connection, none
    /// comes near.
    pub(super) fn start(
        target: Target,
        scripts: Arc<Scripts>,
        timeout: Duration,
        comes_near: bool,
    ) -> Result<Self, Error> {
        let failed = |error| {
            Error::new(ErrorKind::Unavailable, "the thread of the connection cannot be started")
                .with_source(error)
        };
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().map_err(failed)?;
        let (state, _) = watch::channel(State::Connecting);
        let shared = Arc::new(Shared {
            state,
            broken: AtomicU64::new(0),
            wake: Notify::new(),
            silent: Default::default(),
            may_come_near: AtomicBool::new(false),
            comes_near: comes_near && !matches!(target, Target::Cluster(..)),
            timeout,
            target,
            scripts,
            runtime: runtime.handle().clone(),
            close: Notify::new(),
        });
        let keeper = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("limitry-redis".into())
            .spawn(move || {
                if let Target::Cluster(_, dial) = &keeper.target {
                    dial::connect_nodes_by(dial.clone());
                }
                let keeping = Arc::clone(&keeper);
                let keeping = runtime.spawn(async move { keeping.keep_up().await });
                runtime.block_on(keeper.close.notified());
                keeping.abort();
                keeper.state.send_replace(State::Closed);
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Works on the thread of the connection.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.shared.runtime.spawn(work)
    }

    /// The runtime of that thread.
    pub(super) fn runtime(&self) -> &Handle {
        &self.shared.runtime
    }

    /// Works on the thread of the connection, and blocks until that is done. For when there is no
    /// runtime to wait in.
    pub(super) fn block_on<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (sender, answer) = std::sync::mpsc::channel();
        self.spawn(async move {
            let _ = sender.send(work.await);
        });
        answer.recv().unwrap_or_else(|_| Err(closed()))
    }

    /// A handle that calls.
    pub(super) fn caller(&self) -> Caller {
        Caller { shared: Arc::clone(&self.shared), too_silent: TOO_SILENT }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.close.notify_one();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The thread itself may hold the last handle.
        if let Some(thread) = thread.filter(|own| own.thread().id() != std::thread::current().id())
        {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// The address of a server, where there are several.
pub(super) type Node = Option<(String, u16)>;

/// Calls the server.
#[derive(Clone)]
pub(super) struct Caller {
    shared: Arc<Shared>,
    /// After so many calls in a row without an answer, the connection is made again.
    too_silent: usize,
}

impl Caller {
    /// For calls so rare that they cannot wait for many of them to get no answer.
    pub(super) fn of_rare_calls(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), too_silent: 1 }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.shared.target, Target::Cluster(..))
    }

    /// When a call that begins now has to be answered.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.shared.timeout
    }

    /// Waits, by the time of the connection's thread.
    pub(super) fn sleep_until(&self, end: Instant) -> Sleep {
        let _inside = self.shared.runtime.enter();
        sleep_until(end)
    }

    /// Sends one command and waits for its answer until then.
    pub(super) async fn call(&self, cmd: &Cmd, end: Instant) -> Result<Value, CallError> {
        self.within(end, |wire| async move {
            match wire {
                Wire::Server(mut wire) => wire.req_packed_command(cmd).await,
                Wire::Cluster(mut wire) => wire.req_packed_command(cmd).await,
            }
        })
        .await
    }

    /// Sends one command now, to be waited for later.
    pub(super) fn start(&self, cmd: &Cmd) -> Begun<Result<Value, CallError>> {
        let (caller, cmd, end) = (self.clone(), cmd.clone(), self.deadline());
        Begun::new(async move { caller.call(&cmd, end).await })
    }

    /// The servers that have keys of their own; one without an address where there is one alone.
    pub(super) async fn nodes(&self) -> Result<Vec<Node>, CallError> {
        if !self.is_cluster() {
            return Ok(vec![None]);
        }
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let Value::Array(ranges) = self.call(&slots, self.deadline()).await? else {
            return Err(CallError::Nonsense("no slots"));
        };
        let mut nodes = Vec::new();
        for range in ranges {
            let Value::Array(range) = range else { continue };
            let Some(Value::Array(primary)) = range.into_iter().nth(2) else { continue };
            let mut primary = primary.into_iter();
            let host = super::reply::text(primary.next().unwrap_or_default())?;
            if let (Some(host), Some(Value::Int(port))) = (host, primary.next())
                && let Ok(port) = u16::try_from(port)
                && !nodes.contains(&Some((host.clone(), port)))
            {
                nodes.push(Some((host, port)));
            }
        }
        Ok(nodes)
    }

    /// Sends one command to one of the servers.
    pub(super) async fn call_node(
        &self,
        node: &Node,
        cmd: &Cmd,
        end: Instant,
    ) -> Result<Value, CallError> {
        self.within(end, |wire| async move {
            match (wire, node) {
                (Wire::Server(mut wire), _) => wire.req_packed_command(cmd).await,
                (Wire::Cluster(mut wire), None) => wire.req_packed_command(cmd).await,
                (Wire::Cluster(mut wire), Some((host, port))) => {
                    let (host, port) = (host.clone(), *port);
                    let one = SingleNodeRoutingInfo::ByAddress { host, port };
                    wire.route_command(cmd.clone(), RoutingInfo::SingleNode(one)).await
                }
            }
        })
        .await
    }

    async fn within<F>(
        &self,
        end: Instant,
        send: impl FnOnce(Wire) -> F,
    ) -> Result<Value, CallError>
    where
        F: Future<Output = Result<Value, RedisError>>,
    {
        let mut late = None;
        let Way { wire, number, is_near } = {
            let mut connected = std::pin::pin!(self.connected());
            self.or_late(&mut late, end, connected.as_mut())
                .await
                .ok_or(CallError::Late { sent: false })??
        };
        let silent = &self.shared.silent[usize::from(is_near)];
        let mut asked = std::pin::pin!(send(wire));
        let mut answer = self.or_late(&mut late, end, asked.as_mut()).await;
        // It may be there, and the runtime was busy with something else: it reads before it goes on, though
        // not before it has been at the one that it was told of last.
        let mut turns = if is_near { 2 } else { 0 };
        while answer.is_none() && turns > 0 {
            turns -= 1;
            tokio::task::yield_now().await;
            answer = self.or_late(&mut late, end, asked.as_mut()).await;
        }
        let Some(answer) = answer else {
            if silent.fetch_add(1, Ordering::Relaxed) + 1 >= self.too_silent {
                self.shared.is_broken(number);
            }
            return Err(CallError::Late { sent: true });
        };
        silent.store(0, Ordering::Relaxed);
        let answer = answer.and_then(|value| match value {
            Value::ServerError(_) => value.extract_error(),
            value => Ok(value),
        });
        answer.map_err(|error| {
            if is_of_connection(&error) {
                self.shared.is_broken(number);
            }
            CallError::Redis(error)
        })
    }

    /// What the future answers before the end, or nothing.
    async fn or_late<F: Future>(
        &self,
        late: &mut Option<Pin<Box<Sleep>>>,
        end: Instant,
        mut work: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|cx| {
            // The client of clusters asks for the runtime that it is polled in.
            let inside = self.is_cluster().then(|| self.shared.runtime.enter());
            if let Poll::Ready(answer) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            drop(inside);
            // Of a runtime that has ended nobody may ask the time; it does not end meanwhile.
            let state = self.shared.state.borrow();
            if matches!(*state, State::Closed) {
                return Poll::Ready(None);
            }
            let late = late.get_or_insert_with(|| Box::pin(self.sleep_until(end)));
            late.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// The connection, once there is one. While there is none and the next attempt is some time
    /// away, that is told at once.
    async fn connected(&self) -> Result<Way, CallError> {
        if let State::Up(wires, number) = &*self.shared.state.borrow() {
            return Ok(self.shared.nearest(wires, *number));
        }
        let mut state = self.shared.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(wires, number) => return Ok(self.shared.nearest(wires, *number)),
                State::Down(error) => return Err(CallError::Down(Arc::clone(error))),
                State::Closed => return Err(CallError::Closed),
                State::Connecting => {}
            }
            if state.changed().await.is_err() {
                return Err(CallError::Closed);
            }
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").finish_non_exhaustive()
    }
}

impl Shared {
    /// The connection that is driven by the runtime that calls, or else our own.
    fn nearest(self: &Arc<Self>, wires: &Wires, number: u64) -> Way {
        if self.comes_near
            && let Ok(here) = Handle::try_current()
        {
            match &wires.near {
                Some((runtime, near)) if *runtime == here.id() => {
                    return Way { wire: Wire::Server(near.clone()), number, is_near: true };
                }
                Some((_, near)) if !near.is_over() => {}
                _ => self.come_near(here, number),
            }
        }
        Way { wire: wires.own.clone(), number, is_near: false }
    }

    /// Makes a connection that is driven by the runtime that calls. Meanwhile, and where that is not to be
    /// had, our own serves.
    fn come_near(self: &Arc<Self>, here: Handle, number: u64) {
        let has_workers = here.runtime_flavor() == RuntimeFlavor::MultiThread;
        if !has_workers || !self.may_come_near.swap(false, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(self);
        self.runtime.spawn(async move {
            let dialing = shared.dial(Some(&here));
            let Ok(Ok(Wire::Server(near))) = timeout(shared.timeout * 2, dialing).await else {
                // One that has ended leaves it to the next.
                if here.spawn(async {}).await.is_err() {
                    shared.may_come_near.store(true, Ordering::Release);
                }
                return;
            };
            shared.state.send_if_modified(|state| match state {
                State::Up(wires, now) if *now == number => {
                    wires.near = Some((here.id(), near));
                    // Once it is over.
                    shared.may_come_near.store(true, Ordering::Release);
                    true
                }
                _ => false,
            });
        });
    }

    fn is_broken(&self, number: u64) {
        self.broken.fetch_max(number, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Connects, and again when the connection breaks. Between failed attempts it waits, the longer
    /// the more have failed.
    async fn keep_up(&self) {
        let mut number = 0;
        let mut failures = 0_u32;
        loop {
            number += 1;
            match self.connect().await {
                Ok(wire) => {
                    failures = 0;
                    for silent in &self.silent {
                        silent.store(0, Ordering::Relaxed);
                    }
                    self.may_come_near.store(true, Ordering::Release);
                    let wires = Wires { own: wire, near: None };
                    self.state.send_replace(State::Up(wires, number));
                    while self.broken.load(Ordering::Acquire) < number {
                        self.wake.notified().await;
                    }
                    self.state.send_replace(State::Connecting);
                }
                Err(error) => {
                    self.state.send_replace(State::Down(Arc::new(error)));
                    let wait = Duration::from_millis(5) * (1 << failures.min(7));
                    failures += 1;
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn dial(&self, driven_by: Option<&Handle>) -> Result<Wire, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1_024)
            .set_write_backpressure_boundary(256 * 1_024);
        match &self.target {
            Target::Server(server) => server.connect(config, driven_by).await.map(Wire::Server),
            Target::Sentinel(sentinels) => {
                sentinels.connect(config, driven_by).await.map(Wire::Server)
            }
            Target::Cluster(client, _) => {
                client.get_async_generic_connection().await.map(Wire::Cluster)
            }
        }
    }

    async fn connect(&self) -> Result<Wire, RedisError> {
        let ready = async {
            let wire = self.dial(None).await?;
            // Ahead, so that a call that is waited for briefly is not sent twice.
            let mut all = redis::pipe();
            for script in self.scripts.all() {
                all.cmd("SCRIPT").arg("LOAD").arg(script.text());
            }
            let count = self.scripts.all().count();
            match wire.clone() {
                Wire::Server(mut wire) => {
                    wire.req_packed_commands(&all, 0, count).await?;
                }
                Wire::Cluster(mut wire) => {
                    for script in self.scripts.all() {
                        let mut load = redis::cmd("SCRIPT");
                        load.arg("LOAD").arg(script.text());
                        wire.req_packed_command(&load).await?;
                    }
                }
            }
            Ok(wire)
        };
        timeout(self.timeout * 2, ready)
            .await
            .unwrap_or_else(|_| Err((Kind::Io, "no connection within the time").into()))
    }
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The time is over. If it was sent, it may have been done.
    Late { sent: bool },
    /// There is no connection.
    Down(Arc<RedisError>),
    /// The books are closed.
    Closed,
    /// The server, or the connection while it was waited for.
    Redis(RedisError),
    /// The answer makes no sense.
    Nonsense(&'static str),
}

impl CallError {
    /// The server takes no writes now: it has no memory for them, or is no primary.
    pub(super) fn is_refused_write(&self) -> bool {
        let Self::Redis(error) = self else { return false };
        matches!(error.kind(), Kind::Extension | Kind::Server(ServerErrorKind::ReadOnly))
    }

    pub(super) fn is_no_script(&self) -> bool {
        matches!(self, Self::Redis(error) if error.kind() == Kind::Server(ServerErrorKind::NoScript))
    }
}

/// Whether a new connection may do better: it is gone, or leads to a server that is no longer the one to
/// write to.
fn is_of_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_connection_dropped()
        || matches!(
            error.kind(),
            Kind::Io
                | Kind::Server(
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::NoPerm
                )
        )
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Late { sent: false } => {
                Self::new(ErrorKind::Unavailable, "the redis server cannot be reached in time")
            }
            CallError::Late { sent: true } => {
                Self::new(ErrorKind::TimedOut, "the redis server did not answer in time")
            }
            CallError::Down(error) => {
                Self::new(ErrorKind::Unavailable, "the redis server cannot be reached")
                    .with_source(error)
            }
            CallError::Closed => closed(),
            CallError::Nonsense(what) => Self::new(
                ErrorKind::Unavailable,
                format!("the redis server answered what makes no sense: {what}"),
            ),
            CallError::Redis(error) => match error.kind() {
                // The server said no before it did anything.
                Kind::Server(_) | Kind::Extension => {
                    let message = "the redis server cannot take it now";
                    Self::new(ErrorKind::Unavailable, message).with_source(error)
                }
                Kind::ClusterConnectionNotFound
                | Kind::AuthenticationFailed
                | Kind::InvalidClientConfig => {
                    let message = "no server of the redis cluster can be reached";
                    Self::new(ErrorKind::Unavailable, message).with_source(error)
                }
                _ => {
                    let message = "the connection to the redis server broke before the answer";
                    Self::new(ErrorKind::TimedOut, message).with_source(error)
                }
            },
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the books are closed")
}

/// A call that has begun: it goes on when it is polled, and was polled once already.
pub(super) struct Begun<T> {
    work: Pin<Box<dyn Future<Output = T> + Send>>,
    done: Option<T>,
}

impl<T> Begun<T> {
    pub(super) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        let mut work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
        let first = work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        let done = match first {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        };
        Self { work, done }
    }
}

impl<T: Unpin> Future for Begun<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.done.take() {
            Some(answer) => Poll::Ready(answer),
            None => self.work.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for Begun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}
