//! The ends of requests, each a call of its own or one of many in a queue.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Inner;
use crate::backend::{Name, Settlement, Ticket};
use crate::client::Call;
use crate::client::error::ApiError;
use crate::policy::Amount;
use crate::store::Mark;
use crate::wire::{
    ChargeBody, EndedBody, ErrorDetail, MarkBody, Number, ResultsBody, SettleBody, SettlementBody,
    fits, parts,
};
use crate::{Error, ErrorKind};

/// Resolves once the server has answered a settlement or release, or it was given up.
pub struct RemoteFinish(Finish);

enum Finish {
    Done(Option<Result<(), Error>>),
    Settling(JoinHandle<Result<(), Error>>),
    Releasing(oneshot::Receiver<Result<(), Error>>),
}

impl fmt::Debug for RemoteFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteFinish").finish_non_exhaustive()
    }
}

impl Future for RemoteFinish {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.0 {
            Finish::Done(result) => result.take().expect("RemoteFinish polled after completion"),
            Finish::Settling(task) => {
                ready!(Pin::new(task).poll(cx)).unwrap_or_else(|_| Err(runtime_ended()))
            }
            Finish::Releasing(answer) => {
                ready!(Pin::new(answer).poll(cx)).unwrap_or_else(|_| Err(runtime_ended()))
            }
        })
    }
}

pub(super) fn runtime_ended() -> Error {
    let message = "the runtime ended before the server answered";
    Error::new(ErrorKind::TimedOut, message)
}

/// Settles in a call of its own.
pub(super) fn settle(inner: &Arc<Inner>, settlement: Settlement) -> RemoteFinish {
    let name = Name::from(&settlement.hold.ticket);
    let call = body(&settlement, None).and_then(|body| {
        let call = Call::post(&["x", "settle"]).repeatable().within(inner.terms.settle);
        call.json(&SettleBody { settlements: vec![body] })
    });
    let call = match call {
        Ok(call) => call,
        Err(error) => {
            inner.running.end(&name);
            return RemoteFinish(Finish::Done(Some(Err(error))));
        }
    };
    let (running, http) = (Arc::clone(&inner.running), inner.http.clone());
    let begun = inner.begun.begin();
    RemoteFinish(Finish::Settling(inner.runtime.spawn(async move {
        let answer = http.fetch::<ResultsBody<EndedBody>>(call).await;
        // Nobody tries any longer, so the hold is left to its end where it is still there.
        running.end(&name);
        drop(begun);
        match answer?.results.first() {
            Some(EndedBody { done: true, .. }) => Ok(()),
            Some(EndedBody { error: Some(detail), .. }) => Err(told(detail)),
            _ => Err(Error::new(ErrorKind::TimedOut, "the API left out the settlement")),
        }
    })))
}

/// Releases in the next call of the queue.
pub(super) fn release(inner: &Arc<Inner>, ticket: &Ticket) -> RemoteFinish {
    let name = Name::from(ticket);
    inner.running.end(&name);
    let lifetime = ticket.check.ask().lifetime.unwrap_or(inner.terms.hold);
    RemoteFinish(Finish::Releasing(inner.releases.push(name, lifetime, inner.begun.begin())))
}

/// A settlement as it is sent.
pub(super) fn body(settlement: &Settlement, mark: Option<Mark>) -> Result<SettlementBody, Error> {
    let Settlement { hold, usage, charge, unsure } = settlement;
    let ask = hold.check().ask();
    fits(usage).map_err(|problem| Error::invalid("usage", problem))?;
    let (values, dimensions) = parts(usage);
    let charge = ask.charge.as_ref().zip(*charge);
    Ok(SettlementBody {
        id: ask.id.to_string(),
        attempt: ask.attempt,
        customer_id: ask.customer.to_string(),
        at: hold.at,
        event_type: ask.event_type.as_ref().map(ToString::to_string),
        values,
        dimensions,
        charge: charge.map(|(charge, amount)| charged(&charge.balance, Some(amount))),
        unsure: *unsure,
        mark: mark.map(|Mark { producer, sequence, previous }| MarkBody {
            producer: producer.to_string(),
            sequence,
            previous,
        }),
    })
}

pub(super) fn charged(balance: &str, amount: Option<Amount>) -> ChargeBody {
    ChargeBody { balance: balance.to_owned(), amount: amount.map(Number) }
}

/// What the server says of one of many.
pub(super) fn told(detail: &ErrorDetail) -> Error {
    let error = ApiError {
        status: detail.status,
        code: Some(detail.code.clone()),
        message: Some(detail.message.clone()),
        request_id: None,
        retry_after: None,
    };
    Error::new(error.kind(), detail.message.as_str()).with_source(error)
}
