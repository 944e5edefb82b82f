//! The steps that the server takes as one: scripts, named by their own text.

use std::sync::LazyLock;

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::link::{CallError, Caller};

const AMOUNT: &str = include_str!("lua/amount.lua");
const CUSTOMER: &str = include_str!("lua/customer.lua");
const EVENT: &str = include_str!("lua/event.lua");
const ROLLUP: &str = include_str!("lua/rollup.lua");

/// A script, and the name by which the server knows it. Two releases with other texts do not meet.
#[derive(Debug)]
pub(super) struct Script {
    text: String,
    name: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident: [$($part:expr),+],)+) => {$(
        $(#[$doc])*
        pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::of(&[$($part),+]));
    )+

        /// All of them, to be loaded ahead.
        pub(super) fn all() -> impl Iterator<Item = &'static Script> {
            [$(&*$name),+].into_iter()
        }
    };
}

scripts! {
    CHECK: [AMOUNT, CUSTOMER, include_str!("lua/check.lua")],
    SETTLE: [AMOUNT, CUSTOMER, EVENT, ROLLUP, include_str!("lua/settle.lua")],
    RELEASE: [AMOUNT, CUSTOMER, include_str!("lua/release.lua")],
    RENEW: [AMOUNT, CUSTOMER, include_str!("lua/renew.lua")],
    BALANCE: [AMOUNT, CUSTOMER, EVENT, include_str!("lua/balance.lua")],
    BALANCES: [AMOUNT, CUSTOMER, include_str!("lua/balances.lua")],
    LOOK: [AMOUNT, CUSTOMER, include_str!("lua/look.lua")],
    RECOUNT: [AMOUNT, CUSTOMER, include_str!("lua/recount.lua")],
}

impl Script {
    fn of(parts: &[&str]) -> Self {
        let text = parts.concat();
        let name = redis::Script::new(&text).get_hash().to_owned();
        Self { text, name }
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// A call of the script by its name.
    pub(super) fn call(&'static self, keys: &[String]) -> ScriptCall {
        let mut cmd = Cmd::with_capacity(4 + keys.len() + 16, 512);
        cmd.arg("EVALSHA").arg(&self.name).arg(keys.len());
        for key in keys {
            cmd.arg(key);
        }
        ScriptCall { script: self, cmd }
    }
}

/// A script and what it is given.
#[derive(Debug)]
pub(super) struct ScriptCall {
    script: &'static Script,
    cmd: Cmd,
}

impl ScriptCall {
    pub(super) fn arg(&mut self, arg: impl redis::ToRedisArgs) -> &mut Self {
        self.cmd.arg(arg);
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
