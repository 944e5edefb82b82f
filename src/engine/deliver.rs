//! Settlements that were kept in a queue.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::{Engine, Inner};
use crate::backend::{Delivery, Receipt};
use crate::policy::Usage;
use crate::store::{Origin, SettleOperation, SettleOutcome, Settled, Store};
use crate::{Error, ErrorKind};

type Received = Result<Receipt, Error>;

impl<S: Store> Engine<S> {
    pub(super) async fn deliver(self, batch: Vec<Delivery>, within: Duration) -> Vec<Received> {
        let count = batch.len();
        timeout(within, self.0.deliver(batch)).await.unwrap_or_else(|_| {
            let late = |_| {
                let message = format!("a settlement was not answered within {within:?}");
                Err(Error::new(ErrorKind::TimedOut, message))
            };
            (0..count).map(late).collect()
        })
    }
}

impl<S: Store> Inner<S> {
    async fn deliver(&self, batch: Vec<Delivery>) -> Vec<Received> {
        let mut received: Vec<Option<Received>> = batch.iter().map(|_| None).collect();
        let mut left: Vec<(usize, Delivery)> = batch.into_iter().enumerate().collect();
        while !left.is_empty() {
            let epoch = self.epoch.load(Ordering::Acquire);
            let answers = self.deliver_once(&left, epoch).await;
            let mut stale = Vec::new();
            for ((at, delivery), answer) in left.into_iter().zip(answers) {
                match answer {
                    Ok(settled) if settled.outcome == SettleOutcome::Stale => {
                        stale.push((at, delivery));
                    }
                    answer => received[at] = Some(self.receive(&delivery, answer)),
                }
            }
            left = stale;
            if !left.is_empty()
                && let Err(error) = self.reload(epoch).await
            {
                for (at, _) in left.drain(..) {
                    received[at] = Some(Err(Error::new(error.kind(), error.to_string())));
                }
            }
        }
        let unanswered = || Error::new(ErrorKind::Unavailable, "the store left out a settlement");
        received.into_iter().map(|answer| answer.unwrap_or_else(|| Err(unanswered()))).collect()
    }

    /// Resolves all of them by the definitions of now and settles them.
    async fn deliver_once(
        &self,
        batch: &[(usize, Delivery)],
        epoch: u64,
    ) -> Vec<Result<Settled, Error>> {
        let now = self.moment();
        let frames: Vec<_> = batch
            .iter()
            .map(|(_, delivery)| {
                self.frame_for_event(
                    delivery.customer(),
                    delivery.event_type(),
                    delivery.usage(),
                    delivery.at(),
                )
            })
            .collect();
        let given: Vec<_> = batch
            .iter()
            .zip(&frames)
            .map(|((_, delivery), frame)| frame.plan.amounts(delivery.usage()))
            .collect();
        let mut usages: Vec<Usage> =
            batch.iter().map(|(_, delivery)| delivery.usage().clone()).collect();
        let settling = batch.iter().zip(&mut usages).zip(frames.iter().zip(&given));
        let operations = settling.map(|(((_, delivery), usage), (frame, given))| {
            let settlement = &delivery.settlement;
            let ticket = &settlement.hold.ticket;
            SettleOperation {
                epoch,
                now,
                id: delivery.id(),
                customer: delivery.customer(),
                origin: match (settlement.unsure, ticket.place) {
                    (true, _) => Origin::Unsure(ticket.check.ask().attempt),
                    (false, place) => Origin::Held(place),
                },
                event_type: delivery.event_type(),
                usage,
                at: delivery.at(),
                lines: &frame.lines,
                given,
                charge: delivery.charge().map(|(name, amount)| (self.balance(name), amount)),
                reverses: false,
                mark: Some(delivery.mark()),
            }
        });
        self.store.settle_many(operations.collect()).await
    }

    fn receive(&self, delivery: &Delivery, answer: Result<Settled, Error>) -> Received {
        match answer {
            Ok(settled) if settled.outcome == SettleOutcome::Behind => Ok(Receipt::Behind),
            answer => self.finish(&delivery.settlement, answer).map(|()| Receipt::Taken),
        }
    }
}
