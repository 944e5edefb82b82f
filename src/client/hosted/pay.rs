//! Takes what is owed, when there is something to take.

use std::sync::Weak;
use std::time::Duration;

use compact_str::CompactString;
use tokio::time::sleep;

use super::Inner;
use super::debts::Owed;
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
pub(super) async fn collect(inner: &Inner) {
    for (customer, balance) in inner.debts.balances() {
        pay(inner, &customer, &balance).await;
    }
}

/// Takes from one balance what there is, the oldest debt first.
pub(super) async fn pay(inner: &Inner, customer: &CustomerId, balance: &CompactString) {
    let _paying = inner.paying.lock().await;
    for _ in 0..TRIES {
        let Some(owed) = inner.debts.first(customer, balance) else { return };
        // What does not work now is tried again later.
        if !matches!(step(inner, owed).await, Ok(true)) {
            return;
        }
    }
}

/// One debit. Answers whether to go on.
async fn step(inner: &Inner, mut owed: Owed) -> Result<bool, Error> {
    let asking = match owed.asking {
        // It was sent before; whether it was done is not known. It goes again as it was.
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
    let answer = inner.client.balances().debit_once(&owed.debit_id(), &debit).await?;
    owed.attempt += 1;
    owed.asking = None;
    if answer.success {
        owed.debt.owed = owed.debt.owed.saturating_sub(asking);
        let (until, now) = (inner.told_by(), inner.clock.monotonic());
        // First, so that it is counted at every moment: here or there.
        inner.ledger().paid(&owed.debt.customer, (&owed.debt.balance, asking), (until, now));
    }
    inner.debts.keep(owed.clone()).await?;
    if answer.success {
        observe::debt_paid(owed.debt.owed.is_positive());
        tell(inner, &owed);
    }
    Ok(true)
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
