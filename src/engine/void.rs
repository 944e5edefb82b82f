//! Taking an event back.

use super::Inner;
use crate::backend::Recorded;
use crate::policy::{Amount, CustomerId, EventId, TransactionKind};
use crate::store::{Origin, SettleLine, SettleOperation, SettleOutcome, Store};
use crate::{Error, ErrorKind};

impl<S: Store> Inner<S> {
    /// Records what takes an event back, once: one void at a time.
    pub(super) async fn void(
        &self,
        customer: &CustomerId,
        id: &EventId,
    ) -> Result<Recorded, Error> {
        let mut one_at_a_time = self.definitions.lock().await;
        let found = self.store.find(customer, id).await?;
        let found = found.filter(|found| !found.event.reverses).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "no event of the customer is kept under this id")
        })?;
        let reversal = found.event.reversal().map_err(|error| Error::invalid("id", error))?;
        if self.store.find(customer, &reversal.id).await?.is_some() {
            return Ok(Recorded { id: reversal.id, recorded: false });
        }
        let charged = found.charge.filter(|charge| charge.kind == TransactionKind::Debit);
        loop {
            let epoch = self.epoch.load(std::sync::atomic::Ordering::Acquire);
            let known = self.accounts.get(customer);
            let catalog = self.catalog.load_full();
            let event_type = &reversal.event_type;
            let plan = Self::plan(known.as_deref(), &catalog, Some(event_type));
            let lines = Self::settle_lines(plan, &found.event.usage, |_, line| {
                self.window(known.as_deref(), line, reversal.at)
            });
            let mut usage = reversal.usage.clone();
            let operation = SettleOperation {
                epoch,
                now: self.moment(),
                id: &reversal.id,
                customer,
                origin: Origin::Fresh,
                event_type,
                usage: &mut usage,
                at: reversal.at,
                lines: &lines.iter().filter_map(reversed).collect::<Vec<_>>(),
                charge: charged.as_ref().map(|charge| {
                    (self.balance(&charge.balance), Amount::ZERO.saturating_sub(charge.amount))
                }),
                reverses: true,
                mark: None,
            };
            let settled = self.store.record(vec![operation]).await?;
            let Some(settled) = settled.first() else { return Err(SettleOutcome::Full.into()) };
            match settled.outcome {
                SettleOutcome::Stale => self.reload_under(&mut one_at_a_time, epoch).await?,
                // Another process that shares the books was faster.
                SettleOutcome::Repeat => {
                    return Ok(Recorded { id: reversal.id, recorded: false });
                }
                SettleOutcome::Recorded => {
                    self.tell(settled, || reversal.clone());
                    return Ok(Recorded { id: reversal.id, recorded: true });
                }
                outcome => return Err(outcome.into()),
            }
        }
    }
}

/// The line that takes back what an event gave; `None` where that cannot be.
fn reversed<'a>(line: &SettleLine<'a>) -> Option<SettleLine<'a>> {
    let amount = Amount::ZERO.saturating_sub(line.amount);
    line.aggregation.adds().then_some(SettleLine { amount, alerts: &[], ..*line })
}
