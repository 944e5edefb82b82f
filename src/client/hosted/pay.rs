//! Takes what is owed, when there is something to take.

use std::sync::{Arc, Weak};
use std::time::Duration;

use compact_str::CompactString;
use tokio::time::sleep;

use super::Inner;
use super::debts::Owed;
use crate::client::Repeat;
use crate::policy::{Amount, CustomerId, Debit};
use crate::{Error, hook, observe};

/// How often one balance is looked at before it is left to the next time: somebody else spends it.
const TRIES: u32 = 5;

/// Tries again and again, for as long as the backend is there.
pub(super) async fn keep(inner: Weak<Inner>, every: Duration) {
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            collect(&inner).await;
            let now = inner.clock.monotonic();
            inner.ledger().sweep(now);
        }
        sleep(every).await;
    }
}

/// Takes from every balance that owes something what there is.
pub(super) async fn collect(inner: &Arc<Inner>) {
    for (customer, balance) in inner.debts.balances() {
        pay(inner, &customer, &balance).await;
    }
}

/// Takes from one balance what there is, the oldest debt first. Whoever waits for it may go: what is
/// begun is brought to its end.
pub(super) async fn pay(inner: &Arc<Inner>, customer: &CustomerId, balance: &CompactString) {
    let paying = pay_all(Arc::clone(inner), customer.clone(), balance.clone());
    // One that ended with its runtime goes on where its file says that it was.
    let _ = inner.runtime.spawn(paying).await;
}

async fn pay_all(inner: Arc<Inner>, customer: CustomerId, balance: CompactString) {
    let _paying = inner.paying.lock().await;
    for _ in 0..TRIES {
        let Some(owed) = inner.debts.first(&customer, &balance) else { return };
        // What does not work now is tried again later.
        if !matches!(step(&inner, owed).await, Ok(true)) {
            return;
        }
    }
}

/// One debit. Answers whether to go on.
async fn step(inner: &Inner, mut owed: Owed) -> Result<bool, Error> {
    let at_most_once = inner.client.http().repeat() == Repeat::AtMostOnce;
    let asking = match owed.asking {
        // It was sent before, and it is not known whether it was done. As declared, that is the end
        // of it, or it goes again as it was.
        Some(asking) if at_most_once => return taken(inner, owed, asking).await.map(|()| true),
        Some(asking) => asking,
        None => {
            let there = available(inner, &owed.debt.customer, &owed.debt.balance).await?;
            let asking = owed.debt.owed.min(there);
            if !asking.is_positive() {
                return Ok(false);
            }
            owed.asking = Some(asking);
            inner.debts.keep(owed.clone()).await?;
            asking
        }
    };
    let debt = &owed.debt;
    let debit = Debit::new(&debt.customer, &debt.balance, asking)
        .description("owed for work that cost more than was left")
        .reference(debt.id.to_string());
    let answer = match inner.client.balances().debit_once(&owed.debit_id(), &debit).await {
        Ok(answer) => answer,
        Err(error) => {
            if at_most_once && !error.is_unknown() {
                // It was certainly not done, so the next time is the first.
                inner.debts.keep(Owed { asking: None, ..owed }).await?;
            }
            return Err(error);
        }
    };
    if answer.success {
        taken(inner, owed, asking).await?;
    } else {
        // Somebody else was faster. The next debit has another id, as it asks for something else.
        inner.debts.keep(Owed { attempt: owed.attempt + 1, asking: None, ..owed }).await?;
    }
    Ok(true)
}

/// So much less is owed.
async fn taken(inner: &Inner, mut owed: Owed, amount: Amount) -> Result<(), Error> {
    owed.debt.owed = owed.debt.owed.saturating_sub(amount);
    owed.attempt += 1;
    owed.asking = None;
    let (until, now) = (inner.told_by(), inner.clock.monotonic());
    // First, so that it is counted at every moment: here or there.
    inner.ledger().paid(&owed.debt.customer, (&owed.debt.balance, amount), (until, now));
    inner.debts.keep(owed.clone()).await?;
    observe::debt_paid(owed.debt.owed.is_positive());
    tell(inner, &owed);
    Ok(())
}

async fn available(inner: &Inner, customer: &CustomerId, name: &str) -> Result<Amount, Error> {
    let balances = inner.client.balances().of(customer).await?;
    let found = balances.into_iter().find(|found| found.balance.name() == name);
    Ok(found.map_or(Amount::ZERO, |found| found.balance.available()))
}

/// Tells the hook how the debt stands now.
pub(super) fn tell(inner: &Inner, owed: &Owed) {
    if let Some(on_debt) = &inner.on_debt {
        hook::call(|| on_debt(&owed.debt));
    }
}
