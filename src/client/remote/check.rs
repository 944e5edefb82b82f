//! A check: one round trip.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;

use super::finish::{charged, runtime_ended};
use super::renew::seconds;
use super::{Inner, LONGEST_HOLD, decision};
use crate::Error;
use crate::backend::{Admission, Check, Hold, Name, Ticket};
use crate::client::Call;
use crate::client::error::heard;
use crate::wire::{HoldCheck, HoldCheckBody, fits, parts};

/// The answer of the server to a check.
pub struct RemoteCheck(Asking);

enum Asking {
    Refused(Option<Error>),
    Sent { inner: Arc<Inner>, check: Option<Check>, answer: JoinHandle<Answer> },
}

type Answer = Result<HoldCheckBody<'static>, Error>;

impl fmt::Debug for RemoteCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteCheck").finish_non_exhaustive()
    }
}

/// Sends the check.
pub(super) fn send(inner: &Arc<Inner>, check: Check) -> RemoteCheck {
    let (check, call) = match prepare(inner, check) {
        Ok(prepared) => prepared,
        Err(error) => return RemoteCheck(Asking::Refused(Some(error))),
    };
    let (http, begun) = (inner.http.clone(), inner.begun.begin());
    let answer = inner.runtime.spawn(async move {
        let answer = http.fetch::<HoldCheckBody<'static>>(call).await;
        drop(begun);
        answer.map_err(heard)
    });
    RemoteCheck(Asking::Sent { inner: Arc::clone(inner), check: Some(check), answer })
}

fn prepare(inner: &Inner, check: Check) -> Result<(Check, Call), Error> {
    if inner.closed.load(Ordering::SeqCst) {
        return Err(Error::closed());
    }
    check.ask().validate()?;
    let has_id = check.ask().has_id();
    let check = if has_id { check } else { check.stamped(inner.ids.make(inner.now())) };
    let mut body = asked(&check)?;
    body.id = Some(check.ask().id.to_string());
    body.hold_seconds = Some(seconds(check.ask().lifetime.unwrap_or(inner.terms.hold)));
    let call = Call::post(&["x", "check"]).repeatable().within(inner.terms.check).json(&body)?;
    Ok((check, call))
}

/// The question, without an id.
pub(super) fn asked(check: &Check) -> Result<HoldCheck, Error> {
    let ask = check.ask();
    ask.validate()?;
    fits(&ask.expected).map_err(|problem| Error::invalid("estimate", problem))?;
    let (values, dimensions) = parts(&ask.expected);
    let price = |charge: &crate::backend::Charge| match ask.expected.is_empty() {
        true => None,
        false => charge.price(&ask.expected),
    };
    Ok(HoldCheck {
        id: None,
        attempt: ask.attempt,
        customer_id: ask.customer.to_string(),
        event_type: ask.event_type.as_ref().map(ToString::to_string),
        values,
        dimensions,
        charge: ask.charge.as_ref().map(|charge| charged(&charge.balance, price(charge))),
        hold_seconds: None,
    })
}

impl Future for RemoteCheck {
    type Output = Result<Admission, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Asking::Refused(error) => {
                Poll::Ready(Err(error.take().expect("RemoteCheck polled after completion")))
            }
            Asking::Sent { inner, check, answer } => {
                let answer = ready!(Pin::new(answer).poll(cx));
                let check = check.take().expect("RemoteCheck polled after completion");
                let answer = answer.unwrap_or_else(|_| Err(runtime_ended()));
                Poll::Ready(answer.and_then(|body| admit(inner, check, body)))
            }
        }
    }
}

/// What the answer means. From here on somebody owns the hold, and it is renewed for them.
fn admit(inner: &Inner, check: Check, body: HoldCheckBody<'_>) -> Result<Admission, Error> {
    let (at, held) = (body.at, body.held);
    inner.heard(at);
    let lifetime = check.ask().lifetime.filter(|lifetime| *lifetime <= LONGEST_HOLD);
    let decision = decision::of(check, body.into(), &inner.plans)?;
    let hold = (held && decision.is_allowed()).then(|| {
        let hold = Hold { ticket: Ticket { check: decision.check(), place: None }, at };
        let ends = lifetime.map(|lifetime| inner.clock.monotonic().saturating_add(lifetime));
        inner.running.begin(Name::from(&hold.ticket), ends);
        hold
    });
    Ok(Admission { decision, hold })
}
