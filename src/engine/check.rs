//! The check: what is asked, of which lines, and what the store's answer means.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use smallvec::{SmallVec, smallvec};

use super::{Engine, Inner};
use crate::backend::{
    Admission, Answer, Ask, BalanceState, Check, Decision, Hold, Judgements, Ticket,
};
use crate::policy::Timestamp;
use crate::policy::catalog::Amounts;
use crate::policy::frame::Frame;
use crate::store::{
    BalanceAsk, BoxFuture, CheckOperation, Checked, HoldTerms, Judged, Moment, Outcome, Store,
};
use crate::{Error, ErrorKind};

/// What a check is held against, and what each line of it said, once the store has answered.
pub(super) struct Resolved {
    epoch: u64,
    at: Timestamp,
    frame: Arc<Frame>,
    scope: Scope,
    judged: Judgements,
}

impl Resolved {
    /// What the store's answer means.
    pub(super) fn decide(&mut self, check: Check, checked: &mut Checked) -> Decision {
        // Of a store that did not write them in place.
        for (judged, told) in self.judged.iter_mut().zip(&checked.judged) {
            *judged = *told;
        }
        check.answered(|ask| {
            let balance = checked.balance.take().zip(ask.charge.as_ref());
            Answer {
                frame: Arc::clone(&self.frame),
                epoch: self.epoch,
                at: self.at,
                allowed: checked.outcome != Outcome::Refused,
                judged: Judgements::from_slice(&self.judged),
                balance: balance.map(|(judged, charge)| BalanceState {
                    name: charge.balance.clone(),
                    balance: judged.balance,
                    verdict: judged.verdict,
                }),
            }
        })
    }

    pub(super) fn admit(
        &mut self,
        check: Check,
        checked: &mut Checked,
    ) -> Result<Admission, Error> {
        let conflict = |message| Err(Error::new(ErrorKind::Conflict, message));
        match checked.outcome {
            // Nothing was looked at.
            Outcome::Finished => self.judged.clear(),
            Outcome::Open => {
                return conflict("a request with the same id is running; wait for its answer");
            }
            Outcome::Released => {
                return conflict("the id was released before it was checked; use a new one");
            }
            _ => {}
        }
        let decision = self.decide(check, checked);
        let hold = checked.place.map(|place| Hold {
            ticket: Ticket { check: decision.check(), place: Some(place) },
            at: self.at,
        });
        Ok(Admission { decision, hold })
    }
}

/// Which limits an ask is held against.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that such an event could move.
    Matching,
    /// Every one, to show where a customer stands.
    All,
}

impl<S: Store> Inner<S> {
    /// The frame that such a check is held against.
    #[inline]
    fn frame_for_check(&self, ask: &Ask, scope: Scope, now: Timestamp) -> Arc<Frame> {
        let known = self.accounts.get(&ask.customer);
        let known = known.as_deref();
        let catalog = self.catalog.load();
        let plan = Self::plan(known, &catalog, ask.event_type.as_deref());
        let newest = self.newest(known, plan);
        let which: Option<SmallVec<[u16; 8]>> = plan.narrows.then(|| match scope {
            Scope::All => plan.limited().collect(),
            Scope::Matching => plan.looked_at(ask.expected.dimensions()).collect(),
        });
        let frame = newest.get(plan, which.as_deref(), now);
        frame.unwrap_or_else(|| newest.put(self.frame(known, plan, now), which.as_deref()))
    }

    /// The check, if it makes sense, with its id.
    pub(super) fn validate(&self, check: Check) -> Result<Check, Error> {
        let ask = check.ask();
        ask.validate()?;
        if !ask.expected.is_empty() && ask.charge.is_none() {
            let catalog = self.catalog.load();
            if !catalog.reads_any(ask.expected.values()) {
                let problem = format_args!(
                    "no meter reads {:?}; meters read: {}",
                    ask.expected.values(),
                    catalog.values()
                );
                return Err(Error::invalid("estimate", problem));
            }
        }
        let has_id = ask.has_id();
        Ok(if has_id { check } else { check.stamped(self.ids.make(self.now())) })
    }

    /// Works out what a check asks by the definitions of now.
    pub(super) fn resolve(&self, check: &Check, epoch: u64, scope: Scope) -> Resolved {
        let at = check.ask().at.unwrap_or_else(|| self.now());
        let frame = self.frame_for_check(check.ask(), scope, at);
        let judged = smallvec![Judged::default(); frame.lines.len()];
        Resolved { epoch, at, frame, scope, judged }
    }

    /// Sends a check to the store.
    pub(super) fn ask(&self, check: &Check, resolved: &mut Resolved, hold: bool) -> S::Check {
        let Resolved { epoch, at, frame, scope, judged } = resolved;
        let ask = check.ask();
        let asked = match scope {
            Scope::Matching => frame.plan.amounts(&ask.expected),
            Scope::All => Amounts::new(),
        };
        let balance = ask.charge.as_ref().map(|charge| {
            let expected = &ask.expected;
            let asked = if expected.is_empty() { None } else { charge.price(expected) };
            BalanceAsk { balance: self.balance(&charge.balance), asked }
        });
        let terms = HoldTerms { lifetime: ask.lifetime, remember: ask.given };
        self.store.check(CheckOperation {
            epoch: *epoch,
            now: Moment::now(*at, &*self.clock),
            id: &ask.id,
            attempt: ask.attempt,
            customer: &ask.customer,
            lines: &frame.lines,
            asked: &asked,
            judged,
            balance,
            hold: hold.then_some(terms),
            event_type: ask.recorded_as(),
            expected: &ask.expected,
        })
    }
}

/// The answer of an [`Engine`] to a check.
pub struct CheckFuture<S: Store>(CheckState<S>);

enum CheckState<S: Store> {
    Answered(Option<Result<Admission, Error>>),
    Sent(Box<Sent<S>>),
}

/// A check that its store did not answer at once.
struct Sent<S: Store> {
    engine: Engine<S>,
    check: Check,
    resolved: Resolved,
    future: S::Check,
    /// The definitions have changed, and are looked up.
    reload: Option<BoxFuture<'static, Result<(), Error>>>,
    /// How long that may take, from the first time on.
    patience: Option<BoxFuture<'static, ()>>,
}

impl<S: Store> CheckFuture<S> {
    pub(super) fn answered(answer: Result<Admission, Error>) -> Self {
        Self(CheckState::Answered(Some(answer)))
    }

    pub(super) fn sent(
        engine: Engine<S>,
        check: Check,
        resolved: Resolved,
        future: S::Check,
    ) -> Self {
        let sent = Sent { engine, check, resolved, future, reload: None, patience: None };
        Self(CheckState::Sent(Box::new(sent)))
    }
}

impl<S: Store> fmt::Debug for CheckFuture<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckFuture").finish_non_exhaustive()
    }
}

impl<S: Store> Future for CheckFuture<S> {
    type Output = Result<Admission, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = match &mut self.get_mut().0 {
            CheckState::Answered(answer) => {
                return Poll::Ready(answer.take().expect("CheckFuture polled after completion"));
            }
            CheckState::Sent(sent) => sent,
        };
        loop {
            if let Some(reload) = &mut sent.reload {
                if let Poll::Ready(reloaded) = reload.as_mut().poll(cx) {
                    reloaded?;
                } else {
                    let patience =
                        sent.patience.as_mut().map(|patience| patience.as_mut().poll(cx));
                    ready!(patience.unwrap_or(Poll::Pending));
                    let message = "another process is changing definitions; try again";
                    return Poll::Ready(Err(Error::new(ErrorKind::Unavailable, message)));
                }
                sent.reload = None;
                let epoch = sent.engine.0.open()?;
                sent.resolved = sent.engine.0.resolve(&sent.check, epoch, Scope::Matching);
                sent.future = sent.engine.0.ask(&sent.check, &mut sent.resolved, true);
            }
            let mut checked = ready!(Pin::new(&mut sent.future).poll(cx))?;
            if checked.outcome != Outcome::Stale {
                return Poll::Ready(sent.resolved.admit(sent.check.clone(), &mut checked));
            }
            let (engine, epoch) = (sent.engine.clone(), sent.resolved.epoch);
            if sent.patience.is_none() {
                sent.patience = engine.0.store.patience();
            }
            sent.reload = Some(Box::pin(async move { engine.0.reload(epoch).await }));
        }
    }
}
