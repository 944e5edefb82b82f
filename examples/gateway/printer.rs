//! Recorded events as lines of JSON on standard output, written by a thread of their own.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tower_limitry::policy::RecordedEvent;

/// How many events may wait for a slow reader. The answers of those beyond wait with them: a line is
/// what somebody is billed by, so none is dropped.
const MOST_WAITING: usize = 16 * 1024;

enum Item {
    Event(RecordedEvent),
    End,
}

pub(crate) struct Printer {
    items: SyncSender<Item>,
    thread: JoinHandle<()>,
}

impl Printer {
    pub(crate) fn start() -> io::Result<Self> {
        let (items, receiver) = sync_channel(MOST_WAITING);
        let print = move || print_all(&receiver);
        let thread = thread::Builder::new().name("printer".to_owned()).spawn(print)?;
        Ok(Self { items, thread })
    }

    /// Takes events to be printed.
    pub(crate) fn sink(&self) -> impl Fn(&RecordedEvent) + Send + Sync + use<> {
        let items = self.items.clone();
        move |event| {
            if items.send(Item::Event(event.clone())).is_err() {
                not_printed(event, &"its thread has ended");
            }
        }
    }

    /// Waits until all that was taken is printed.
    pub(crate) fn finish(self) {
        if self.items.send(Item::End).is_ok() {
            let _ = self.thread.join();
        }
    }
}

fn print_all(items: &Receiver<Item>) {
    while let Ok(Item::Event(event)) = items.recv() {
        // Nobody may be listening any more, and the answers go on.
        if let Err(error) = print(&event) {
            not_printed(&event, &error);
        }
    }
}

fn print(event: &RecordedEvent) -> io::Result<()> {
    let line = serde_json::to_string(event)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn not_printed(event: &RecordedEvent, why: &dyn Display) {
    super::tell(format_args!("cannot print event {}: {why}", event.id()));
}
