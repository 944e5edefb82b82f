//! Everything that is not on the path of a request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use super::balances::balance_at;
use super::definitions::{Definitions, owner};
use super::{Engine, Inner, Scope};
use crate::backend::{
    Admin, Check, Customer, Decision, EventQuery, MeterQuery, MeterReading, Page, PageRequest,
    Recorded, TransactionQuery,
};
use crate::policy::{
    Amount, Balance, Credit, Credited, CustomerId, Debit, Debited, Event, EventId, IdError, Limit,
    Meter, NewBalance, RecordedEvent, Transaction,
};
use crate::store::{BoxFuture, HoldKey, Keep, Outcome, Store};
use crate::{Error, ErrorKind};

impl<S: Store> Admin for Engine<S> {
    fn preview(&self, check: Check) -> BoxFuture<'_, Result<Decision, Error>> {
        Box::pin(self.0.look(check, Scope::Matching))
    }

    fn usage(&self, customer: CustomerId) -> BoxFuture<'_, Result<Decision, Error>> {
        Box::pin(self.0.look(Check::of(&customer), Scope::All))
    }

    fn record(&self, events: Vec<Event>) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        Box::pin(self.0.record(events))
    }

    fn void(&self, customer: CustomerId, id: EventId) -> BoxFuture<'_, Result<Recorded, Error>> {
        let inner = Arc::clone(&self.0);
        Box::pin(self.0.to_the_end(async move { inner.void(&customer, &id).await }))
    }

    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<Page<RecordedEvent>, Error>> {
        Box::pin(self.0.events(query))
    }

    fn query(&self, query: MeterQuery) -> BoxFuture<'_, Result<MeterReading, Error>> {
        Box::pin(self.0.query(query))
    }

    fn meters(&self) -> BoxFuture<'_, Result<Vec<Meter>, Error>> {
        Box::pin(async {
            let mut meters: Vec<_> = self.0.definitions.lock().await.meters().cloned().collect();
            meters.sort_by(|one, other| one.id().cmp(other.id()));
            Ok(meters)
        })
    }

    fn put_meter(&self, meter: Meter) -> BoxFuture<'_, Result<(), Error>> {
        let (inner, kept) = (Arc::clone(&self.0), meter.clone());
        let change = move |definitions: &mut Definitions| Ok(definitions.put_meter(meter)?);
        let work = async move { inner.redefine(|_| None, change, Keep::Meter(&kept)).await };
        Box::pin(self.0.change_to_the_end(work))
    }

    fn remove_meter(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        let (inner, removed) = (Arc::clone(&self.0), id.clone());
        let change = move |definitions: &mut Definitions| {
            if let Some(limit) = definitions.reader(&id) {
                let message = format!("meter {id:?} is read by limit {limit:?}; remove that first");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            Ok(definitions.remove_meter(&id))
        };
        let work = async move { inner.redefine(|_| None, change, Keep::NoMeter(&removed)).await };
        Box::pin(self.0.change_to_the_end(work))
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<Limit>, Error>> {
        Box::pin(async { Ok(self.0.definitions.lock().await.limits().cloned().collect()) })
    }

    fn put_limit(&self, limit: Limit) -> BoxFuture<'_, Result<(), Error>> {
        let inner = Arc::clone(&self.0);
        let work = async move {
            let only =
                |definitions: &Definitions| only_owner(definitions.limit(limit.id()), Some(&limit));
            let after = limit.clone();
            let change = |definitions: &mut Definitions| Ok(definitions.put_limit(after)?);
            inner.redefine(only, change, Keep::Limit(&limit)).await
        };
        Box::pin(self.0.change_to_the_end(work))
    }

    fn remove_limit(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        let inner = Arc::clone(&self.0);
        let work = async move {
            let only = |definitions: &Definitions| only_owner(definitions.limit(&id), None);
            let change = |definitions: &mut Definitions| Ok(definitions.remove_limit(&id));
            inner.redefine(only, change, Keep::NoLimit(&id)).await
        };
        Box::pin(self.0.change_to_the_end(work))
    }

    fn customer(&self, id: CustomerId) -> BoxFuture<'_, Result<Option<Customer>, Error>> {
        Box::pin(
            async move { Ok(self.0.accounts.get(&id).and_then(|known| known.customer.clone())) },
        )
    }

    fn customers(&self, page: PageRequest) -> BoxFuture<'_, Result<Page<Customer>, Error>> {
        Box::pin(async move {
            let length = page.length()?;
            let after = |id: &CustomerId| {
                page.cursor.as_ref().is_none_or(|cursor| id.as_str() > cursor.as_str())
            };
            let mut items = self.0.accounts.list(after);
            let more = items.len() > length;
            items.truncate(length);
            let last = items.last().and_then(Customer::id).map(ToString::to_string);
            Ok(Page { items, next: last.filter(|_| more) })
        })
    }

    fn put_customer(&self, customer: Customer) -> BoxFuture<'_, Result<(), Error>> {
        let inner = Arc::clone(&self.0);
        Box::pin(self.0.change_to_the_end(async move { inner.put_customer(customer).await }))
    }

    fn remove_customer(&self, id: CustomerId) -> BoxFuture<'_, Result<bool, Error>> {
        let inner = Arc::clone(&self.0);
        Box::pin(self.0.change_to_the_end(async move { inner.describe(&id, None, None).await }))
    }

    fn balances(&self, customer: CustomerId) -> BoxFuture<'_, Result<Vec<Balance>, Error>> {
        Box::pin(async move {
            let inner = &*self.0;
            inner.store.balances(&customer, &inner.balances, inner.moment()).await
        })
    }

    fn all_balances(
        &self,
        page: PageRequest,
    ) -> BoxFuture<'_, Result<Page<(CustomerId, Balance)>, Error>> {
        Box::pin(async move {
            let inner = &*self.0;
            let length = page.length()?;
            let after = page.cursor.as_deref().map(balance_at).transpose()?;
            let from = after.as_ref().map(|(customer, _)| customer);
            // One more for a customer whose last balance the page before ended with.
            let most = length.saturating_add(2);
            let customers = inner.store.with_balances(from, most, &inner.balances).await?;
            let mut items = Vec::new();
            for customer in customers {
                if items.len() > length {
                    break;
                }
                let balances =
                    inner.store.balances(&customer, &inner.balances, inner.moment()).await?;
                let follows = |balance: &Balance| {
                    after.as_ref().is_none_or(|(last, name)| {
                        (customer.as_str(), balance.name()) > (last.as_str(), name.as_str())
                    })
                };
                let following = balances.into_iter().filter(follows);
                items.extend(following.map(|balance| (customer.clone(), balance)));
            }
            let more = items.len() > length;
            items.truncate(length);
            let next = items.last().filter(|_| more).map(|(customer, balance)| {
                format!("{}:{customer}{}", customer.as_str().len(), balance.name())
            });
            Ok(Page { items, next })
        })
    }

    fn create_balance(
        &self,
        customer: CustomerId,
        terms: NewBalance,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        Box::pin(async move {
            terms.validate()?;
            if self.0.balances.iter().any(|default| default.name == terms.name) {
                let message = format!(
                    "every customer has a balance {:?} by default; credit it instead",
                    terms.name
                );
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            let now = self.0.now();
            let balance = self.0.store.create_balance(&customer, &terms, now).await?;
            Ok(balance)
        })
    }

    fn set_minimum(
        &self,
        customer: CustomerId,
        name: String,
        minimum: Amount,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        Box::pin(async move {
            if let Some(balance) = self.0.store.set_minimum(&customer, &name, minimum).await? {
                return Ok(balance);
            }
            if self.0.balances.iter().any(|default| default.name == name) {
                let message = format!("balance {name:?} has the terms that everybody has");
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            let message = format!("the customer has no balance {name:?}");
            Err(Error::new(ErrorKind::NotFound, message))
        })
    }

    fn credit(&self, credit: Credit) -> BoxFuture<'_, Result<Credited, Error>> {
        Box::pin(async move {
            let (customer, id) = self.0.change(&credit.change)?;
            self.0.store.credit(self.0.balance_change(&credit.change, &customer, &id)).await
        })
    }

    fn debit(&self, debit: Debit) -> BoxFuture<'_, Result<Debited, Error>> {
        Box::pin(async move {
            let (customer, id) = self.0.change(&debit.change)?;
            self.0.store.debit(self.0.balance_change(&debit.change, &customer, &id)).await
        })
    }

    fn transactions(
        &self,
        query: TransactionQuery,
    ) -> BoxFuture<'_, Result<Page<Transaction>, Error>> {
        Box::pin(async move {
            let customer = required(query.customer)?;
            let length = query.page.length()?;
            let before = query.page.number()?.unwrap_or(u64::MAX);
            let balance = self.0.balance(&query.balance);
            let mut kept = self.0.store.transactions(&customer, balance).await?;
            kept.reverse();
            let wanted = |transaction: &Transaction| transaction.sequence < before;
            let mut items: Vec<_> = kept.into_iter().filter(wanted).take(length + 1).collect();
            let more = items.len() > length;
            items.truncate(length);
            let next = items.last().map(|last| last.sequence.to_string()).filter(|_| more);
            Ok(Page { items, next })
        })
    }

    fn renew(
        &self,
        holds: Vec<(CustomerId, EventId)>,
        lifetime: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            let keys = holds.iter().map(|(customer, id)| HoldKey {
                id,
                customer,
                place: None,
                attempt: None,
            });
            self.0.store.renew(keys.collect(), lifetime, self.0.moment()).await
        })
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async {
            self.0.store.sweep(self.0.moment()).await?;
            self.0.store.open_holds().await
        })
    }

    fn settled(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.0.wait_until_settled())
    }

    fn shutdown(&self, deadline: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.0.closed.store(true, Ordering::SeqCst);
            // Checks that were about to place a hold are made to look again.
            self.0.recount(None, &[], &|_, _| true).await?;
            let end = tokio::time::Instant::now() + deadline;
            // Looked at now and then too: a hold that ends by itself wakes nobody.
            const NOW_AND_THEN: Duration = Duration::from_millis(100);
            loop {
                let left = end.saturating_duration_since(tokio::time::Instant::now());
                let settled = self.0.wait_until_settled();
                match tokio::time::timeout(left.min(NOW_AND_THEN), settled).await {
                    Ok(settled) => {
                        settled?;
                        let left = end.saturating_duration_since(tokio::time::Instant::now());
                        let flushed = tokio::time::timeout(left, self.0.store.flush()).await;
                        return flushed.unwrap_or_else(|_| {
                            let message = "not everything was written at the deadline";
                            Err(Error::new(ErrorKind::TimedOut, message))
                        });
                    }
                    Err(_) if left > NOW_AND_THEN => {}
                    Err(_) => {
                        let open = self.0.store.open_holds().await?;
                        let message = format!("{open} requests still run at the deadline");
                        return Err(Error::new(ErrorKind::TimedOut, message));
                    }
                }
            }
        })
    }
}

impl<S: Store> Inner<S> {
    /// Decides and keeps nothing.
    async fn look(&self, mut check: Check, scope: Scope) -> Result<Decision, Error> {
        check.ask_mut().given = false;
        let check = self.validate(check)?;
        loop {
            let epoch = self.epoch.load(Ordering::Acquire);
            let mut resolved = self.resolve(&check, epoch, scope);
            let mut checked = self.ask(&check, &mut resolved, false).await?;
            if checked.outcome != Outcome::Stale {
                return Ok(resolved.decide(check, &mut checked));
            }
            self.reload(epoch).await?;
        }
    }

    /// Runs a change of the definitions to its end once it has begun, whoever waits for it: cut off
    /// in the middle, it would leave counters that nobody counts. On the store's runtime, if it has one:
    /// that neither ends before nor is blocked.
    async fn change_to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.on(self.store.runtime().or_else(|| self.runtime()), work).await
    }

    /// The same of what tells the program something meanwhile, and that on the runtime of its own. Without a
    /// runtime it ends with its caller.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.on(self.runtime(), work).await
    }

    async fn on<T: Send + 'static>(
        &self,
        runtime: Option<Handle>,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let Some(runtime) = runtime else { return work.await };
        runtime.spawn(work).await.unwrap_or_else(|_| {
            let message = "the runtime ended before the definitions were changed";
            Err(Error::new(ErrorKind::TimedOut, message))
        })
    }

    async fn wait_until_settled(&self) -> Result<(), Error> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(&self.waiting);
        loop {
            // Listening begins before looking, so that no end is missed.
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            self.store.sweep(self.moment()).await?;
            if self.store.open_holds().await? == 0 {
                drop(waiting);
                return Ok(());
            }
            ended.await;
        }
    }
}

/// The customer whom a changed limit concerns, if it is one alone.
fn only_owner(before: Option<&Limit>, after: Option<&Limit>) -> Option<CustomerId> {
    let owners = [before, after].into_iter().flatten().map(owner).collect::<BTreeSet<_>>();
    if owners.len() == 1 { owners.into_iter().next().flatten() } else { None }
}

pub(super) fn required(customer: Result<CustomerId, IdError>) -> Result<CustomerId, Error> {
    customer.map_err(|error| Error::invalid("customer", error))
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
