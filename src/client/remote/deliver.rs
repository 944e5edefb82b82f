//! Settlements of a queue, as many in one call as there are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Inner;
use super::finish::{body, told};
use crate::backend::{Delivery, Name, Receipt};
use crate::client::Call;
use crate::client::error::{ApiError, heard};
use crate::policy::CustomerId;
use crate::wire::{EndedBody, ResultsBody, SettleBody, SettlementBody};
use crate::{Error, ErrorKind};

/// What one call carries at most: the server takes 1,000 settlements, and 2 MiB unless it is told
/// otherwise.
const MOST: usize = 1_000;
const MOST_BYTES: usize = 1024 * 1024;

type Received = Result<Receipt, Error>;

pub(super) async fn deliver(
    inner: Arc<Inner>,
    batch: Vec<Delivery>,
    within: Duration,
) -> Vec<Received> {
    let end = Instant::now() + within;
    let mut call = Delivering { inner, end, received: HashMap::new(), stopped: HashSet::new() };
    let mut load = Load::default();
    for (at, delivery) in batch.iter().enumerate() {
        match body(&delivery.settlement, Some(delivery.mark())) {
            Ok(body) => {
                if load.is_full_with(&body) {
                    call.send(std::mem::take(&mut load), &batch).await;
                }
                load.push(at, body);
            }
            Err(error) => call.note(at, delivery, Err(error)),
        }
    }
    call.send(load, &batch).await;
    let Delivering { mut received, .. } = call;
    let left_out = || Err(Error::new(ErrorKind::TimedOut, "the API left out a settlement"));
    (0..batch.len()).map(|at| received.remove(&at).unwrap_or_else(left_out)).collect()
}

/// What one call will carry: settlements, with their places in the batch.
#[derive(Default)]
struct Load {
    entries: Vec<(usize, SettlementBody)>,
    bytes: usize,
}

impl Load {
    fn is_full_with(&self, body: &SettlementBody) -> bool {
        self.entries.len() >= MOST || self.bytes + size(body) > MOST_BYTES
    }

    fn push(&mut self, at: usize, body: SettlementBody) {
        self.bytes += size(&body);
        self.entries.push((at, body));
    }
}

/// About as long as it is as JSON. A call that is too long after all is sent in halves.
fn size(body: &SettlementBody) -> usize {
    /// Members, numbers and times.
    const FIXED: usize = 512;
    let texts = body.id.len() + body.customer_id.len();
    let values: usize = body.values.0.iter().map(|(name, _)| name.len() + 32).sum();
    let dimensions: usize =
        body.dimensions.0.iter().map(|(key, text)| key.len() + text.len() + 8).sum();
    FIXED + 2 * (texts + values + dimensions)
}

struct Delivering {
    inner: Arc<Inner>,
    end: Instant,
    received: HashMap<usize, Received>,
    /// Customers of whom nothing more may be taken.
    stopped: HashSet<CustomerId>,
}

impl Delivering {
    async fn send(&mut self, load: Load, batch: &[Delivery]) {
        // Halves of what was refused as a whole, the first on top.
        let mut loads = vec![load.entries];
        while let Some(mut entries) = loads.pop() {
            entries.retain(|(at, _)| !self.is_held_back(*at, &batch[*at]));
            if entries.is_empty() {
                continue;
            }
            let places: Vec<usize> = entries.iter().map(|(at, _)| *at).collect();
            let body =
                SettleBody { settlements: entries.into_iter().map(|(_, body)| body).collect() };
            match self.call(&body).await {
                Ok(results) => {
                    for (at, ended) in places.into_iter().zip(results) {
                        self.note(at, &batch[at], receipt(ended));
                    }
                }
                Err(error) if is_too_much(&error) && places.len() > 1 => {
                    let mut entries: Vec<_> = places.into_iter().zip(body.settlements).collect();
                    let later = entries.split_off(entries.len() / 2);
                    loads.push(later);
                    loads.push(entries);
                }
                Err(error) => {
                    for at in places {
                        // Whatever is wrong with the call is not the settlement's fault, unless it
                        // was alone.
                        let kind = match is_too_much(&error) {
                            true => ErrorKind::Invalid,
                            false if error.is_unknown() => ErrorKind::TimedOut,
                            false => ErrorKind::Unavailable,
                        };
                        self.note(at, &batch[at], Err(Error::new(kind, error.to_string())));
                    }
                }
            }
        }
    }

    async fn call(&self, body: &SettleBody) -> Result<Vec<EndedBody>, Error> {
        let left = self.end.saturating_duration_since(Instant::now());
        let call = Call::post(&["x", "settle"]).repeatable().within(left).json(body)?;
        let answer = self.inner.http.fetch::<ResultsBody<EndedBody>>(call);
        let late = |_| Error::new(ErrorKind::TimedOut, "the API did not answer in time");
        let answer = timeout_at(self.end, answer).await.map_err(late)?;
        Ok(answer.map_err(heard)?.results)
    }

    fn is_held_back(&mut self, at: usize, delivery: &Delivery) -> bool {
        let held_back = self.stopped.contains(delivery.customer());
        if held_back {
            let message = "an earlier settlement of the customer has to go first";
            self.received.insert(at, Err(Error::new(ErrorKind::Unavailable, message)));
        }
        held_back
    }

    /// What became of one. While it may still be taken its hold lives.
    fn note(&mut self, at: usize, delivery: &Delivery, received: Received) {
        let goes_on = match &received {
            Ok(receipt) => *receipt == Receipt::Taken,
            Err(error) => !error.is_transient(),
        };
        if goes_on {
            self.inner.running.end(&Name::from(&delivery.settlement.hold.ticket));
        } else {
            self.stopped.insert(delivery.customer().clone());
        }
        self.received.insert(at, received);
    }
}

/// Whether the call would not even be looked at: fewer at once may pass. Of what somebody in between
/// answers, only that it is too long has to do with the settlements.
fn is_too_much(error: &Error) -> bool {
    ApiError::of(error).is_some_and(|api| match api.status() {
        413 => true,
        400 | 422 => api.code().is_some(),
        _ => false,
    })
}

fn receipt(ended: EndedBody) -> Received {
    match ended {
        EndedBody { done: true, .. } => Ok(Receipt::Taken),
        EndedBody { behind: true, .. } => Ok(Receipt::Behind),
        EndedBody { error: Some(detail), .. } => Err(told(&detail)),
        _ => Err(Error::new(ErrorKind::TimedOut, "the API left out a settlement")),
    }
}
