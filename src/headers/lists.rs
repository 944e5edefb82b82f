//! The list fields of the draft: every limit that may be shown, and the balance.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use compact_str::CompactString;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::integer::write_integer;
use super::join::{CAPACITY, SEPARATOR, join, list};
use super::{seconds_until_more, whole};
use crate::backend::Decision;
use crate::policy::catalog::{is_quotable, write_quoted};
use crate::policy::frame::Frame;
use crate::policy::{Amount, Balance};

pub(super) fn write_lists(decision: &Decision, headers: &mut HeaderMap) {
    // No code of a user runs in here, so the borrow cannot meet itself; and a thread that is ending
    // has no answers to send.
    let _ = LISTS.try_with(|lists| lists.borrow_mut().write(decision, headers));
}

thread_local! {
    static LISTS: RefCell<Lists> = const { RefCell::new(Lists::new()) };
}

/// Writes the list fields, and remembers what is the same for every request of one second: all but what
/// remains.
struct Lists {
    states: Vec<u8>,
    /// The oldest first.
    recent: Vec<Recent>,
}

/// What the fields say of a frame and a balance within one second.
struct Recent {
    /// Keeps its place in memory from being taken by another frame.
    frame: Weak<Frame>,
    second: i64,
    balance: Option<CompactString>,
    /// What comes before each amount that remains, such as `;t=1312, "req-day";r=`, and after the last.
    around: Vec<u8>,
    /// Where in it the amounts of limits go, and on which line of the frame each limit is.
    limits: SmallVec<[(usize, usize); 8]>,
    /// Where that of the balance goes.
    balance_at: Option<usize>,
    policies: Option<HeaderValue>,
}

impl Lists {
    const fn new() -> Self {
        Self { states: Vec::new(), recent: Vec::new() }
    }

    fn write(&mut self, decision: &Decision, headers: &mut HeaderMap) {
        let Self { states, recent } = self;
        let own;
        let recent = match recent.iter().position(|recent| recent.is_of(decision)) {
            Some(known) => &recent[known],
            None if !is_usual(decision) => {
                own = Recent::of(decision);
                &own
            }
            None => {
                if recent.len() == RECENT {
                    recent.remove(0);
                }
                recent.push(Recent::of(decision));
                &recent[recent.len() - 1]
            }
        };
        states.clear();
        let mut from = 0;
        let mut write = |amount: Amount, to: usize| {
            states.extend_from_slice(&recent.around[from..to]);
            write_integer(states, whole(amount));
            from = to;
        };
        for (to, line) in &recent.limits {
            write(decision.remaining(*line), *to);
        }
        if let (Some(to), Some(balance)) = (recent.balance_at, balance(decision)) {
            write(balance.available(), to);
        }
        states.extend_from_slice(&recent.around[from..]);
        if let Some(states) = list(states) {
            join(headers, RATELIMIT, states);
        }
        if let Some(policies) = &recent.policies {
            join(headers, RATELIMIT_POLICY, policies.clone());
        }
    }
}

impl Recent {
    fn is_of(&self, decision: &Decision) -> bool {
        self.second == decision.at().as_seconds()
            && self.frame.as_ptr() == Arc::as_ptr(decision.frame())
            && self.balance.as_deref() == balance(decision).map(Balance::name)
            && is_usual(decision)
    }

    #[cold]
    fn of(decision: &Decision) -> Self {
        let mut around = Vec::with_capacity(CAPACITY);
        let mut limits = SmallVec::new();
        let mut policies = Vec::with_capacity(CAPACITY);
        for (line, limit) in decision.looked_at().enumerate() {
            let Some(shown) = limit.shown() else { continue };
            around.extend_from_slice(shown.state.as_bytes());
            limits.push((around.len(), line));
            if let Some(seconds) = seconds_until_more(&limit, decision.at()) {
                around.extend_from_slice(b";t=");
                write_integer(&mut around, seconds);
            }
            policies.extend_from_slice(shown.policy.as_bytes());
            if let Some(length) = limit.window().length_seconds() {
                write_integer(&mut policies, length.max(1));
            }
            policies.extend_from_slice(&shown.unit);
        }
        let balance = balance(decision).map(Balance::name);
        let is_limit = |name: &str| decision.shown().any(|limit| limit.id() == name);
        let balance_at = balance.filter(|name| is_quotable(name) && !is_limit(name)).map(|name| {
            around.extend_from_slice(SEPARATOR);
            write_quoted(&mut around, name);
            around.extend_from_slice(b";r=");
            around.len()
        });
        Self {
            frame: Arc::downgrade(decision.frame()),
            second: decision.at().as_seconds(),
            balance: balance.map(CompactString::new),
            around,
            limits,
            balance_at,
            policies: list(&policies),
        }
    }
}

/// Whether the fields say nothing beside amounts that those of another request could not: a refusal may
/// tell a wait of its own, and a repeat of what was settled looks at nothing.
fn is_usual(decision: &Decision) -> bool {
    decision.is_allowed() && decision.looked_at().next().is_some()
}

fn balance(decision: &Decision) -> Option<&Balance> {
    decision.balance().and_then(|state| state.balance())
}

/// How many frames a thread remembers the fields of.
const RECENT: usize = 4;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
