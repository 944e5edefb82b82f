//! Stands between client and server, and gets in their way as it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    /// And how often connections were thrown out.
    mode: watch::Sender<(Mode, u64)>,
    cut: Mutex<Option<(Way, u64)>>,
    /// How many bytes went each way.
    asked: AtomicU64,
    answered: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    Pass,
    /// Connections are closed as soon as they are made, those that are there at once.
    Refuse,
    /// What is sent is taken, and nothing comes back.
    BlackHole,
    /// Answers come that much later.
    Slow(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Request,
    Answer,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            mode: watch::Sender::new((Mode::Pass, 0)),
            cut: Mutex::default(),
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(pass(stream, server, Arc::clone(&shared)));
            }
        });
        Self { address, state, serving }
    }

    pub(crate) fn set(&self, mode: Mode) {
        let thrown_out = self.state.mode.borrow().1 + u64::from(mode == Mode::Refuse);
        self.state.mode.send_replace((mode, thrown_out));
    }

    /// From now on so many bytes go that way, and then the connection breaks, once.
    pub(crate) fn cut(&self, way: Way, after: u64) {
        *self.state.cut.lock().unwrap() = Some((way, after));
    }

    /// Whether it is still to break.
    pub(crate) fn is_whole(&self) -> bool {
        self.state.cut.lock().unwrap().is_some()
    }

    pub(crate) fn spare(&self) {
        *self.state.cut.lock().unwrap() = None;
    }

    /// How many bytes of requests and of answers went through.
    pub(crate) fn went(&self) -> (u64, u64) {
        (self.state.asked.load(Ordering::SeqCst), self.state.answered.load(Ordering::SeqCst))
    }
}

async fn pass(client: TcpStream, server: SocketAddr, state: Arc<State>) {
    let mut mode = state.mode.subscribe();
    let (now, thrown_out) = *mode.borrow_and_update();
    if now == Mode::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let refused = async {
        // Whoever is there when it begins is thrown out, too.
        while mode.changed().await.is_ok() {
            if mode.borrow_and_update().1 != thrown_out {
                return;
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = refused => {}
        () = pump(client_reads, server_writes, Way::Request, &state) => {}
        () = pump(server_reads, client_writes, Way::Answer, &state) => {}
    }
}

/// Hands on what comes, until there is no more or the connection is to break.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    way: Way,
    state: &State,
) {
    let mut buffer = [0; 4_096];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let (mode, _) = *state.mode.borrow();
        match (mode, way) {
            (Mode::BlackHole, Way::Answer) => continue,
            (Mode::Slow(by), Way::Answer) => tokio::time::sleep(by).await,
            _ => {}
        }
        let counter = if way == Way::Request { &state.asked } else { &state.answered };
        let (length, breaks) = {
            let mut cut = state.cut.lock().unwrap();
            match &mut *cut {
                Some((cut_way, left)) if *cut_way == way => {
                    if *left < length as u64 {
                        let length = *left as usize;
                        *cut = None;
                        (length, true)
                    } else {
                        *left -= length as u64;
                        (length, false)
                    }
                }
                _ => (length, false),
            }
        };
        counter.fetch_add(length as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).await.is_err() || breaks {
            let _ = to.flush().await;
            return;
        }
    }
}
