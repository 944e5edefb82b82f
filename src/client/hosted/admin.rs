//! Everything that is not on the path of a request: as far as the API carries it. The rest is an
//! error that says what the API lacks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::check::{Sent, ask};
use super::judge::{self, Question};
use super::{Hosted, Inner, balances};
use crate::backend::{
    Admin, Check, Customer, Decision, EventQuery, MeterQuery, MeterReading, Page, PageRequest,
    Recorded, TransactionQuery, sound_event,
};
use crate::client::error::heard;
use crate::client::{CountAnswer, CustomerRecord, CustomerTerms, LimitChange, MeterChange};
use crate::policy::catalog::{validate_limit, validate_meter};
use crate::policy::{
    Amount, Balance, Credit, Credited, CustomerId, Debit, Debited, Event, EventId, Limit, Meter,
    NewBalance, RecordedEvent, Transaction,
};
use crate::store::BoxFuture;
use crate::{Error, ErrorKind};

fn lacks<'a, T: Send + 'a>(message: &'static str) -> BoxFuture<'a, Result<T, Error>> {
    Box::pin(std::future::ready(Err(Error::new(ErrorKind::Invalid, message))))
}

/// Something that is asked of the API, which finds fault in its own words.
fn asked<'a, T: 'a>(
    asking: impl Future<Output = Result<T, Error>> + Send + 'a,
) -> BoxFuture<'a, Result<T, Error>> {
    Box::pin(async move { asking.await.map_err(heard) })
}

/// What was not there is no error to who removes it.
fn removed(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

impl Inner {
    async fn look(self: &Arc<Self>, check: Check, shows_all: bool) -> Result<Decision, Error> {
        check.ask().validate()?;
        let sent = Sent::begin(self, &check);
        let told = ask(Arc::clone(self), check.clone()).await?;
        let at = check.ask().at.unwrap_or_else(|| self.clock.now());
        let question = Question { ask: check.ask(), at, asked: sent.asked(), shows_all };
        let answer = judge::judge(question, told.limits, told.balance, &self.ledger());
        Ok(check.answered(|_| answer))
    }

    async fn record(&self, events: Vec<Event>) -> Result<Vec<Recorded>, Error> {
        for (at, event) in events.iter().enumerate() {
            sound_event(at, event)?;
        }
        let now = self.clock.now();
        let told: Vec<_> =
            events.iter().map(|event| self.client.told(event, now)).collect::<Result<_, _>>()?;
        if let [event] = &told[..] {
            return Ok(vec![self.client.events().record_told(event).await?]);
        }
        if !told.is_empty() {
            let batch = self.client.batch(&told)?;
            self.client.http().fetch::<CountAnswer>(batch).await?;
        }
        Ok(told.into_iter().map(|told| Recorded { id: told.id, recorded: true }).collect())
    }

    /// What runs has ended, and was told to the API where nothing before this keeps it.
    async fn settled(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Admin for Hosted {
    fn preview(&self, check: Check) -> BoxFuture<'_, Result<Decision, Error>> {
        asked(self.0.look(check, false))
    }

    fn usage(&self, customer: CustomerId) -> BoxFuture<'_, Result<Decision, Error>> {
        asked(self.0.look(Check::of(&customer), true))
    }

    fn record(&self, events: Vec<Event>) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        asked(self.0.record(events))
    }

    fn void(&self, _: CustomerId, _: EventId) -> BoxFuture<'_, Result<Recorded, Error>> {
        lacks("Limitry's API cannot take events back; record one that makes up for it")
    }

    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<Page<RecordedEvent>, Error>> {
        asked(async move { self.0.client.events().page(query).await })
    }

    fn query(&self, query: MeterQuery) -> BoxFuture<'_, Result<MeterReading, Error>> {
        asked(async move { self.0.client.meters().query(query).await })
    }

    fn meters(&self) -> BoxFuture<'_, Result<Vec<Meter>, Error>> {
        asked(async move {
            let mut all = self.0.client.meters().list().all().await?;
            all.sort_by(|one, other| one.item.id().cmp(other.item.id()));
            Ok(all.into_iter().map(|found| found.item).collect())
        })
    }

    fn put_meter(&self, meter: Meter) -> BoxFuture<'_, Result<(), Error>> {
        asked(async move {
            validate_meter(&meter)?;
            let description = meter.description.as_deref().map(ToOwned::to_owned);
            let change =
                MeterChange::new().name(meter.name()).description(description).counting(&meter);
            match self.0.client.meters().update(meter.id(), change).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Err(gives_ids("meter")),
                result => result.map(drop),
            }
        })
    }

    fn remove_meter(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        asked(async move { removed(self.0.client.meters().delete(&id).await) })
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<Limit>, Error>> {
        asked(async move {
            let mut all = self.0.client.limits().list().all().await?;
            all.sort_by(|one, other| one.item.id().cmp(other.item.id()));
            Ok(all.into_iter().map(|found| found.item).collect())
        })
    }

    fn put_limit(&self, limit: Limit) -> BoxFuture<'_, Result<(), Error>> {
        asked(async move {
            let cap = validate_limit(&limit)?;
            let mut change = LimitChange::new()
                .name(limit.name())
                .meter(limit.meter())
                .cap(cap)
                .period(limit.period())
                .dimensions(limit.dimensions().iter())
                .alert_at(limit.alerts.iter().copied());
            change = match limit.customer() {
                Some(customer) => change.for_customer(customer),
                None => change.for_everybody(),
            };
            match self.0.client.limits().update(limit.id(), change).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Err(gives_ids("limit")),
                result => result.map(drop),
            }
        })
    }

    fn remove_limit(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        asked(async move { removed(self.0.client.limits().delete(&id).await) })
    }

    fn customer(&self, id: CustomerId) -> BoxFuture<'_, Result<Option<Customer>, Error>> {
        asked(async move {
            match self.0.client.customers().get(id.as_str()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                found => Ok(Some(known(found?))),
            }
        })
    }

    fn customers(&self, page: PageRequest) -> BoxFuture<'_, Result<Page<Customer>, Error>> {
        asked(async move {
            let Page { items, next } = self.0.client.customers().page(page).await?;
            Ok(Page { items: items.into_iter().map(known).collect(), next })
        })
    }

    fn put_customer(&self, customer: Customer) -> BoxFuture<'_, Result<(), Error>> {
        asked(async move {
            let id = customer.id.as_ref().map_err(|error| Error::invalid("customer", error))?;
            let terms = || {
                let attached = customer.attached().iter();
                let metadata = attached.map(|(key, text)| (key.clone(), text.as_str().into()));
                let zone = customer.time_zone().map(ToOwned::to_owned);
                let terms = CustomerTerms::new().timezone(zone).metadata(metadata.collect());
                match customer.anchor() {
                    Some(anchor) => terms.billing_cycle_start(anchor),
                    None => terms,
                }
            };
            let customers = self.0.client.customers();
            match customers.update(id.as_str(), terms()).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    customers.create(id, terms()).await.map(drop)
                }
                result => result.map(drop),
            }
        })
    }

    fn remove_customer(&self, id: CustomerId) -> BoxFuture<'_, Result<bool, Error>> {
        asked(async move { removed(self.0.client.customers().delete(id.as_str()).await) })
    }

    fn balances(&self, customer: CustomerId) -> BoxFuture<'_, Result<Vec<Balance>, Error>> {
        asked(async move { balances::of(&self.0, &customer).await })
    }

    fn all_balances(
        &self,
        page: PageRequest,
    ) -> BoxFuture<'_, Result<Page<(CustomerId, Balance)>, Error>> {
        asked(async move {
            let Page { items, next } = self.0.client.balances().page(page).await?;
            let items = items.into_iter().map(|found| (found.customer, found.balance));
            Ok(Page { items: items.collect(), next })
        })
    }

    fn set_minimum(
        &self,
        customer: CustomerId,
        name: String,
        minimum: Amount,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        asked(async move { balances::set_minimum(&self.0, customer, &name, minimum).await })
    }

    fn create_balance(
        &self,
        customer: CustomerId,
        terms: NewBalance,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        asked(async move {
            terms.validate()?;
            Ok(self.0.client.balances().create(&customer, &terms).await?.balance)
        })
    }

    fn credit(&self, credit: Credit) -> BoxFuture<'_, Result<Credited, Error>> {
        asked(async move { balances::credit(&self.0, credit).await })
    }

    fn debit(&self, debit: Debit) -> BoxFuture<'_, Result<Debited, Error>> {
        asked(async move { balances::debit(&self.0, debit).await })
    }

    fn transactions(&self, _: TransactionQuery) -> BoxFuture<'_, Result<Page<Transaction>, Error>> {
        lacks(
            "Limitry's API does not tell what a balance was after each transaction; read them with Client::balances().transactions()",
        )
    }

    fn renew(
        &self,
        holds: Vec<(CustomerId, EventId)>,
        lifetime: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, Error>> {
        let now = self.0.clock.monotonic();
        let until = now.saturating_add(lifetime);
        let mut ledger = self.0.ledger();
        let renewed =
            holds.iter().map(|(customer, id)| ledger.renew(customer, id, now, until)).collect();
        Box::pin(std::future::ready(Ok(renewed)))
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        let running = self.0.ledger().running(self.0.clock.monotonic());
        Box::pin(std::future::ready(Ok(running)))
    }

    fn settled(&self) -> BoxFuture<'_, Result<(), Error>> {
        asked(async move {
            self.0.settled().await;
            Ok(())
        })
    }

    fn shutdown(&self, deadline: Duration) -> BoxFuture<'_, Result<(), Error>> {
        asked(async move {
            self.0.closed.store(true, Ordering::SeqCst);
            let end = Instant::now() + deadline;
            timeout_at(end, self.0.settled()).await.map_err(|_| {
                let message = format!("{} requests still run at the deadline", self.0.running());
                Error::new(ErrorKind::TimedOut, message)
            })
        })
    }
}

fn gives_ids(kind: &str) -> Error {
    let message = format!(
        "there is no {kind} of that id, and Limitry's API gives new ones ids of its own; make it with Client::{kind}s().create()"
    );
    Error::new(ErrorKind::Invalid, message)
}

/// What the API tells of a customer; the name and the email are not among what books know.
fn known(record: CustomerRecord) -> Customer {
    let mut customer = Customer::new(&record.external_id);
    customer.zone = record.timezone.map(Into::into);
    customer.anchor = record.billing_cycle_start.map(|start| start.to_string().into());
    for (key, value) in record.metadata {
        let text = match value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        customer.metadata.insert(key, text);
    }
    customer
}
