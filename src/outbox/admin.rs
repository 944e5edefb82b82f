//! Everything besides requests is asked of the backend itself; only shutting down begins here.

use std::time::Duration;

use super::Outbox;
use crate::Error;
use crate::backend::{
    Admin, Backend, Check, Customer, Decision, EventQuery, MeterQuery, MeterReading, Page,
    PageRequest, Recorded, TransactionQuery,
};
use crate::policy::{
    Amount, Balance, Credit, Credited, CustomerId, Debit, Debited, Event, EventId, Limit, Meter,
    NewBalance, RecordedEvent, Transaction,
};
use crate::store::BoxFuture;

impl<B: Backend> Admin for Outbox<B> {
    fn preview(&self, check: Check) -> BoxFuture<'_, Result<Decision, Error>> {
        self.backend().admin().preview(check)
    }

    fn usage(&self, customer: CustomerId) -> BoxFuture<'_, Result<Decision, Error>> {
        self.backend().admin().usage(customer)
    }

    fn record(&self, events: Vec<Event>) -> BoxFuture<'_, Result<Vec<Recorded>, Error>> {
        self.backend().admin().record(events)
    }

    fn void(&self, customer: CustomerId, id: EventId) -> BoxFuture<'_, Result<Recorded, Error>> {
        self.backend().admin().void(customer, id)
    }

    fn events(&self, query: EventQuery) -> BoxFuture<'_, Result<Page<RecordedEvent>, Error>> {
        self.backend().admin().events(query)
    }

    fn query(&self, query: MeterQuery) -> BoxFuture<'_, Result<MeterReading, Error>> {
        self.backend().admin().query(query)
    }

    fn meters(&self) -> BoxFuture<'_, Result<Vec<Meter>, Error>> {
        self.backend().admin().meters()
    }

    fn put_meter(&self, meter: Meter) -> BoxFuture<'_, Result<(), Error>> {
        self.backend().admin().put_meter(meter)
    }

    fn remove_meter(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        self.backend().admin().remove_meter(id)
    }

    fn limits(&self) -> BoxFuture<'_, Result<Vec<Limit>, Error>> {
        self.backend().admin().limits()
    }

    fn put_limit(&self, limit: Limit) -> BoxFuture<'_, Result<(), Error>> {
        self.backend().admin().put_limit(limit)
    }

    fn remove_limit(&self, id: String) -> BoxFuture<'_, Result<bool, Error>> {
        self.backend().admin().remove_limit(id)
    }

    fn customer(&self, id: CustomerId) -> BoxFuture<'_, Result<Option<Customer>, Error>> {
        self.backend().admin().customer(id)
    }

    fn customers(&self, page: PageRequest) -> BoxFuture<'_, Result<Page<Customer>, Error>> {
        self.backend().admin().customers(page)
    }

    fn put_customer(&self, customer: Customer) -> BoxFuture<'_, Result<(), Error>> {
        self.backend().admin().put_customer(customer)
    }

    fn remove_customer(&self, id: CustomerId) -> BoxFuture<'_, Result<bool, Error>> {
        self.backend().admin().remove_customer(id)
    }

    fn balances(&self, customer: CustomerId) -> BoxFuture<'_, Result<Vec<Balance>, Error>> {
        self.backend().admin().balances(customer)
    }

    fn all_balances(
        &self,
        page: PageRequest,
    ) -> BoxFuture<'_, Result<Page<(CustomerId, Balance)>, Error>> {
        self.backend().admin().all_balances(page)
    }

    fn create_balance(
        &self,
        customer: CustomerId,
        terms: NewBalance,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        self.backend().admin().create_balance(customer, terms)
    }

    fn set_minimum(
        &self,
        customer: CustomerId,
        name: String,
        minimum: Amount,
    ) -> BoxFuture<'_, Result<Balance, Error>> {
        self.backend().admin().set_minimum(customer, name, minimum)
    }

    fn credit(&self, credit: Credit) -> BoxFuture<'_, Result<Credited, Error>> {
        self.backend().admin().credit(credit)
    }

    fn debit(&self, debit: Debit) -> BoxFuture<'_, Result<Debited, Error>> {
        self.backend().admin().debit(debit)
    }

    fn transactions(
        &self,
        query: TransactionQuery,
    ) -> BoxFuture<'_, Result<Page<Transaction>, Error>> {
        self.backend().admin().transactions(query)
    }

    fn renew(
        &self,
        holds: Vec<(CustomerId, EventId)>,
        lifetime: Duration,
    ) -> BoxFuture<'_, Result<Vec<bool>, Error>> {
        self.backend().admin().renew(holds, lifetime)
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        self.backend().admin().open_holds()
    }

    fn settled(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.backend().admin().settled()
    }

    fn shutdown(&self, deadline: Duration) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(Outbox::shutdown(self, deadline))
    }
}
