//! The steps that the server takes as one: scripts, named by their own text.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, RedisWrite, Value};
use tokio::time::Instant;

use super::link::{CallError, Caller};
use crate::policy::Amount;

const AMOUNT: &str = include_str!("lua/amount.lua");
const CUSTOMER: &str = include_str!("lua/customer.lua");
const EVENT: &str = include_str!("lua/event.lua");
const LIVES: &str = include_str!("lua/lives.lua");
const ROLLUP: &str = include_str!("lua/rollup.lua");
const WINDOWS: &str = include_str!("lua/windows.lua");

// The ordinary case of a script comes first, and is all that runs where nothing is out of the ordinary.
const ORDINARY_CHECK: &str = include_str!("lua/ordinary_check.lua");
const CHECK: &str = include_str!("lua/check.lua");
const ORDINARY_SETTLE: &str = include_str!("lua/ordinary_settle.lua");
const NOTHING_SETTLED: &str = "local settled\n";
const SETTLE: &str = include_str!("lua/settle.lua");

/// How long marks are kept after they were moved last, in days.
const KEEP_MARKS: u32 = 400;

/// What is the same in every call of a store stands in the text of its scripts in the place of names, and is
/// not sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How long ids are remembered.
    pub(super) remember: Duration,
    /// How many events a shard keeps.
    pub(super) keep_events: usize,
    pub(super) keep_events_for: Duration,
    /// How many changes of balances a customer keeps.
    pub(super) keep_transactions: usize,
    /// Time is the engine's, not the server's.
    pub(super) is_timed: bool,
}

impl Terms {
    /// By their names in scripts, where a name that begins with another comes before it.
    fn values(&self) -> [(&'static str, String); 8] {
        let horizon = self.remember.as_micros();
        // A day more, for ordinary steps, which do not tell it again. And for ids a day and an hour more:
        // some are forgotten only when others come.
        const DAY: u128 = 86_400_000;
        let keep_ids = self.remember.as_millis() + 2 * DAY + 3_600_000;
        let events_for = self.keep_events_for.as_millis() + DAY;
        // Of how many ordinary settlements one looks whether there are too many events.
        let look = if self.keep_events < 1_024 { 1 } else { 16 };
        [
            ("HORIZON", horizon.to_string()),
            ("KEEP_IDS", format!("'{keep_ids}'")),
            ("KEEP_EVENTS_FOR", format!("'{events_for}'")),
            ("KEEP_EVENTS", self.keep_events.to_string()),
            ("LOOK", look.to_string()),
            ("KEEP_TRANSACTIONS", self.keep_transactions.to_string()),
            ("KEEP_MARKS", KEEP_MARKS.to_string()),
            ("TIMED", self.is_timed.to_string()),
        ]
    }
}

/// A script, and the name by which the server knows it. Two releases with other texts do not meet.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    name: String,
}

macro_rules! scripts {
    ($($name:ident: [$($part:expr),+],)+) => {
        /// The scripts of a store.
        #[derive(Debug)]
        pub(super) struct Scripts {
            $(pub(super) $name: Arc<Script>,)+
        }

        impl Scripts {
            pub(super) fn of(terms: &Terms) -> Self {
                let values = terms.values();
                Self { $($name: Arc::new(Script::of(&[$($part),+], &values)),)+ }
            }

            /// All of them, to be loaded ahead.
            pub(super) fn all(&self) -> impl Iterator<Item = &Script> {
                [$(&*self.$name),+].into_iter()
            }
        }
    };
}

scripts! {
    check: [ORDINARY_CHECK, LIVES, AMOUNT, CUSTOMER, CHECK],
    whole_check: [LIVES, AMOUNT, CUSTOMER, CHECK],
    settle: [ORDINARY_SETTLE, LIVES, WINDOWS, AMOUNT, CUSTOMER, EVENT, ROLLUP, SETTLE],
    whole_settle: [NOTHING_SETTLED, LIVES, WINDOWS, AMOUNT, CUSTOMER, EVENT, ROLLUP, SETTLE],
    release: [LIVES, AMOUNT, CUSTOMER, include_str!("lua/release.lua")],
    renew: [LIVES, AMOUNT, CUSTOMER, include_str!("lua/renew.lua")],
    balance: [LIVES, AMOUNT, CUSTOMER, EVENT, include_str!("lua/balance.lua")],
    balances: [LIVES, AMOUNT, CUSTOMER, include_str!("lua/balances.lua")],
    look: [LIVES, AMOUNT, CUSTOMER, include_str!("lua/look.lua")],
    recount: [LIVES, AMOUNT, CUSTOMER, include_str!("lua/recount.lua")],
}

impl Script {
    fn of(parts: &[&str], values: &[(&str, String)]) -> Self {
        let mut text = parts.concat();
        for (name, value) in values {
            text = text.replace(name, value);
        }
        let name = redis::Script::new(&text).get_hash().to_owned();
        Self { text, name }
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A call of the script by its name, on so many keys, which come first.
    pub(super) fn call(self: &Arc<Self>, keys: usize) -> ScriptCall {
        let mut cmd = Cmd::with_capacity(40, 1_024);
        cmd.arg("EVALSHA").arg(&*self.name).arg(keys);
        ScriptCall { script: Arc::clone(self), cmd }
    }
}

/// A script and what it is given.
#[derive(Debug)]
pub(super) struct ScriptCall {
    script: Arc<Script>,
    cmd: Cmd,
}

impl ScriptCall {
    pub(super) fn arg(&mut self, arg: impl redis::ToRedisArgs) -> &mut Self {
        self.cmd.arg(arg);
        self
    }

    /// An amount in millionths, or empty.
    pub(super) fn amount(&mut self, amount: Option<Amount>) -> &mut Self {
        match amount {
            Some(amount) => self.arg(amount.as_millionths()),
            None => self.arg(""),
        }
    }

    /// One argument, in pieces.
    pub(super) fn pieces(&mut self, pieces: &[&str]) -> &mut Self {
        let mut arg = self.cmd.writer_for_next_arg();
        for piece in pieces {
            // Into memory, which always takes it.
            let _ = arg.write_all(piece.as_bytes());
        }
        drop(arg);
        self
    }

    /// Calls. A server that does not know the script is sent its text; it has done nothing by then.
    pub(super) async fn run(self, caller: &Caller, end: Instant) -> Result<Value, CallError> {
        let cmd = self.cmd;
        match caller.call(&cmd, end).await {
            Err(error) if error.is_no_script() => {
                let mut whole = Cmd::new();
                whole.arg("EVAL").arg(&self.script.text);
                for arg in cmd.args_iter().skip(2) {
                    if let redis::Arg::Simple(arg) = arg {
                        whole.arg(arg);
                    }
                }
                caller.call(&whole, end).await
            }
            answer => answer,
        }
    }
}
