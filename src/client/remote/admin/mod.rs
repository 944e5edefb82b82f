//! Everything that is not on the path of a request: each a call of its own.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::renew::seconds;
use super::{Remote, check, decision};
use crate::backend::{
    Admin, Backend, Check, Customer, Decision, EventQuery, MeterQuery, MeterReading, Page,
    PageRequest, Recorded, TransactionQuery,
};
use crate::client::Call;
use crate::client::error::heard;
use crate::policy::{
    Amount, Balance, Credit, Credited, CustomerId, Debit, Debited, Event, EventId, IdError, Limit,
    Meter, NewBalance, RecordedEvent, Transaction,
};
use crate::store::BoxFuture;
use crate::wire::{
    CustomerName, DecisionBody, HoldName, HoldsBody, NothingBody, OpenHoldsBody, RenewedBody,
    ResultsBody,
};
use crate::{Error, ErrorKind};

mod balances;
mod definitions;
mod events;

impl Remote {
    /// Asks after what this process has begun is answered, so that it sees what it did itself.
    async fn ask<T>(&self, call: Result<Call, Error>) -> Result<T, Error>
    where
        T: DeserializeOwned + Send,
    {
        /// A server that does not answer is not waited for twice.
        const OWN: Duration = Duration::from_secs(2);
        let call = call?;
        let _ = timeout(OWN, self.quiet()).await;
        self.0.http.fetch(call).await.map_err(heard)
    }

    /// A call that only reads.
    async fn read<T>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error>
    where
        T: DeserializeOwned + Send,
    {
        let call = Call::post(path).safe().json(body);
        self.ask(call).await
    }

    /// A call that does the same however often it is sent.
    async fn put<T>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error>
    where
        T: DeserializeOwned + Send,
    {
        let call = Call::post(path).repeatable().json(body);
        self.ask(call).await
    }

    /// A call that the server knows by an id of this process.
    async fn once<T>(&self, path: &[&str], body: &impl Serialize) -> Result<T, Error>
    where
        T: DeserializeOwned + Send,
    {
        self.once_under(self.make_id(self.now()), path, body).await
    }

    async fn once_under<T>(
        &self,
        id: EventId,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error>
    where
        T: DeserializeOwned + Send,
    {
        self.ask(Call::post(path).under(id.to_string()).json(body)).await
    }

    async fn standing(
        &self,
        path: &[&str],
        body: &impl Serialize,
        of: Check,
    ) -> Result<Decision, Error> {
        let body: DecisionBody<'static> = self.read(path, body).await?;
        decision::of(of, body, &self.0.plans)
    }
}

fn required(customer: Result<CustomerId, IdError>) -> Result<CustomerId, Error> {
    customer.map_err(|error| Error::invalid("customer", error))
}

impl Admin for Remote {
    fn preview(&self, check: Check) -> BoxFuture<'_, Result<Decision, Error>> {
        Box::pin(async move {
            let body = check::asked(&check)?;
            self.standing(&["x", "preview"], &body, check).await
        })
    }

    fn usage(&self, customer: CustomerId) -> BoxFuture<'_, Result<Decision, Error>> {
        Box::pin(async move {
            let body = CustomerName { customer_id: customer.to_string() };
            self.standing(&["x", "usage"], &body, Check::of(&customer)).await
        })
    }

    fn record(&self, events: Vec<Event>) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        Box::pin(self.record_events(events))
    }

    fn void(&self, customer: CustomerId, id: EventId) -> BoxFuture<'_, Result<Recorded, Error>> {
        Box::pin(self.void_event(customer, id))
    }

    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<Page<RecordedEvent>, Error>> {
        Box::pin(self.list_events(query))
    }

    fn query(&self, query: MeterQuery) -> BoxFuture<'_, Result<MeterReading, Error>> {
        Box::pin(self.read_meter(query))
    }

    fn meters(&self) -> BoxFuture<'_, Result<Vec<Meter>, Error>> {
        Box::pin(self.list_meters())
    }

    fn put_meter(&self, meter: Meter) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.define_meter(meter))
    }

    fn remove_meter(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(self.remove(&["x", "meters", "remove"], id))
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<Limit>, Error>> {
        Box::pin(self.list_limits())
    }

    fn put_limit(&self, limit: Limit) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.define_limit(limit))
    }

    fn remove_limit(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(self.remove(&["x", "limits", "remove"], id))
    }

    fn customer(&self, id: CustomerId) -> BoxFuture<'_, Result<Option<Customer>, Error>> {
        Box::pin(self.get_customer(id))
    }

    fn customers(&self, page: PageRequest) -> BoxFuture<'_, Result<Page<Customer>, Error>> {
        Box::pin(self.list_customers(page))
    }

    fn put_customer(&self, customer: Customer) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.define_customer(customer))
    }

    fn remove_customer(&self, id: CustomerId) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(self.forget_customer(id))
    }

    fn balances(&self, customer: CustomerId) -> BoxFuture<'_, Result<Vec<Balance>, Error>> {
        Box::pin(self.list_balances(customer))
    }

    fn all_balances(
        &self,
        page: PageRequest,
    ) -> BoxFuture<'_, Result<Page<(CustomerId, Balance)>, Error>> {
        Box::pin(self.list_all_balances(page))
    }

    fn set_minimum(
        &self,
        customer: CustomerId,
        name: String,
        minimum: Amount,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        Box::pin(self.change_minimum(customer, name, minimum))
    }

    fn create_balance(
        &self,
        customer: CustomerId,
        terms: NewBalance,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        Box::pin(self.make_balance(customer, terms))
    }

    fn credit(&self, credit: Credit) -> BoxFuture<'_, Result<Credited, Error>> {
        Box::pin(self.credit_balance(credit.change))
    }

    fn debit(&self, debit: Debit) -> BoxFuture<'_, Result<Debited, Error>> {
        Box::pin(self.debit_balance(debit.change))
    }

    fn transactions(
        &self,
        query: TransactionQuery,
    ) -> BoxFuture<'_, Result<Page<Transaction>, Error>> {
        Box::pin(self.list_transactions(query))
    }

    fn renew(
        &self,
        holds: Vec<(CustomerId, EventId)>,
        lifetime: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            let name = |(customer, id): &(CustomerId, EventId)| HoldName {
                id: id.to_string(),
                attempt: 0,
                customer_id: customer.to_string(),
            };
            let names = holds.iter().map(name).collect();
            let body = HoldsBody { holds: names, hold_seconds: Some(seconds(lifetime)) };
            let answer: ResultsBody<RenewedBody> = self.put(&["x", "renew"], &body).await?;
            let ends = self.0.clock.monotonic().saturating_add(lifetime);
            for ((customer, id), renewed) in holds.iter().zip(&answer.results) {
                if renewed.live {
                    self.0.running.extend(customer, id, ends);
                }
            }
            Ok(answer.results.iter().map(|renewed| renewed.live).collect())
        })
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(async move {
            let answer: OpenHoldsBody = self.read(&["x", "open-holds"], &NothingBody {}).await?;
            Ok(answer.open_holds)
        })
    }

    /// Of all processes that share the server.
    fn settled(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            /// Requests of others end, too, and tell nobody here.
            const NOW_AND_THEN: Duration = Duration::from_millis(100);
            loop {
                let changed = self.0.running.changed.notified();
                if self.open_holds().await? == 0 {
                    return Ok(());
                }
                let _ = timeout(NOW_AND_THEN, changed).await;
            }
        })
    }

    /// Of this process alone: the server goes on.
    fn shutdown(&self, deadline: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            const NOW_AND_THEN: Duration = Duration::from_millis(20);
            let inner = &self.0;
            inner.closed.store(true, Ordering::SeqCst);
            let end = Instant::now() + deadline;
            loop {
                let open = inner.running.open(inner.clock.monotonic());
                if open == 0 && inner.releases.is_empty() {
                    break;
                }
                if Instant::now() >= end {
                    let message = format!("{open} requests still run at the deadline");
                    return Err(Error::new(ErrorKind::TimedOut, message));
                }
                // A hold that ends by itself wakes nobody.
                let changed = timeout(NOW_AND_THEN, inner.running.changed.notified());
                let _ = timeout_at(end, changed).await;
            }
            timeout_at(end, self.quiet()).await.map_err(|_| {
                let message = "the server has not answered everything at the deadline";
                Error::new(ErrorKind::TimedOut, message)
            })
        })
    }
}
