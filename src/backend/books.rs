use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::permit::Pending;
use super::{
    Admission, Backend, Check, CheckError, Customer, Decision, Denial, Erased, EventQuery,
    MeterQuery, MeterReading, Page, PageRequest, Permit, Recorded, TransactionQuery,
};
use crate::Error;
use crate::policy::{
    Balance, Credit, Credited, CustomerId, Debit, Debited, Event, EventId, IdError, Limit, Meter,
    NewBalance, RecordedEvent, ToAmount, Transaction,
};

/// The handle on the books, whatever keeps them: for the layer, for handlers and for admin code.
///
/// Cheap to clone. [`erased`](Self::erased) gives the form without a type parameter, which a
/// program names where the backend is chosen at run time.
///
/// ```
/// use tower_limitry::{Books, Check, Engine, Limit, Meter, Usage};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let books: Books = Engine::builder()
///     .meter(Meter::sum("tokens", "total_tokens"))
///     .limit(Limit::per_day("daily-tokens", "tokens", 1_000))
///     .open("memory:")?;
///
/// let permit = books.check(Check::of("acct_42").estimate("total_tokens", 500)).await?;
/// permit.settle(Usage::of("total_tokens", 480)).await?;
///
/// let standing = books.usage("acct_42").await?;
/// assert_eq!(standing.limits().next().unwrap().used(), 480.into());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Books<B: Backend = Erased>(B);

impl<B: Backend> fmt::Debug for Books<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Books").field(&self.0).finish()
    }
}

impl<B: Backend> Books<B> {
    /// A handle on a backend.
    pub fn new(backend: B) -> Self {
        Self(backend)
    }

    /// The same books without the backend's type.
    pub fn erased(&self) -> Books {
        Books(Erased::new(self.0.clone()))
    }

    /// The backend itself.
    pub fn backend(&self) -> &B {
        &self.0
    }

    /// Decides over all limits that apply and the balance, and sets the estimate aside, as one
    /// atomic step. It begins at the call; dropping the future releases what it placed.
    ///
    /// # Errors
    ///
    /// [`CheckError::Denied`] when the customer may not, [`CheckError::Failed`] when it was not
    /// decided.
    pub fn check(
        &self,
        check: Check,
    ) -> impl Future<Output = Result<Permit<B>, CheckError>> + Send + use<B> {
        let (mut pending, check) = Pending::new(&self.0, check);
        let mut asked = self.0.check(check);
        let books = self.clone();
        // A backend that answers at once is heard at once: a future that is dropped then gives back
        // just what it placed, and not what another request holds under the same id.
        let heard = match Pin::new(&mut asked).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Ok(books.admit(pending.answered(answer))),
            Poll::Pending => Err((pending, asked)),
        };
        async move {
            match heard {
                Ok(answer) => answer,
                Err((mut pending, asked)) => books.admit(pending.answered(asked.await)),
            }
        }
    }

    fn admit(&self, answer: Result<Admission, Error>) -> Result<Permit<B>, CheckError> {
        let Admission { decision, hold } = answer?;
        match Denial::of(decision) {
            Ok(denial) => Err(CheckError::Denied(denial)),
            Err(allowed) => Ok(Permit::new(self.clone(), allowed, hold)),
        }
    }

    /// Decides as [`check`](Self::check) does, and keeps nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a check that makes no sense, or what
    /// the backend says.
    pub async fn preview(&self, check: Check) -> Result<Decision, Error> {
        self.0.admin().preview(check).await
    }

    /// Where a customer stands on every limit, whatever its dimensions. Here `exceeded` means
    /// `used + held >= limit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an id that is none.
    pub async fn usage<C>(&self, customer: C) -> Result<Decision, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = customer_id(customer)?;
        self.0.admin().usage(customer).await
    }

    /// Records one event. It never refuses because of a limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an event that makes no sense,
    /// [`ErrorKind::TooOld`](crate::ErrorKind::TooOld) for an id of your own on an event that is
    /// older than ids are remembered.
    pub async fn record(&self, event: Event) -> Result<Recorded, Error> {
        let recorded = self.0.admin().record(vec![event]).await?;
        recorded.into_iter().next().ok_or_else(|| {
            Error::new(crate::ErrorKind::Unavailable, "the backend did not answer for the event")
        })
    }

    /// Records up to 1,000 events: all of them, or none when one makes no sense.
    ///
    /// # Errors
    ///
    /// As [`record`](Self::record); the message names the event by its place.
    pub async fn record_many(
        &self,
        events: impl IntoIterator<Item = Event>,
    ) -> Result<Vec<Recorded>, Error> {
        self.0.admin().record(events.into_iter().collect()).await
    }

    /// Takes an event back that should not have been recorded, once. The record stays. One that
    /// takes it back follows, under the id `void:` and its own: at the same time and with the same
    /// amounts below zero, so that sums and counts of that window, and of meters read later, are as if
    /// it had never been; and what it was charged is given back to its balance. A highest or latest
    /// value is found anew among the kept events, which reads them all; where some of its window are no
    /// longer kept, it stays as it was seen.
    ///
    /// Answers the id of the event that takes it back, and whether this call recorded it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when no such event is kept,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for ids that are none.
    pub async fn void<C>(&self, customer: C, id: &EventId) -> Result<Recorded, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = customer_id(customer)?;
        self.0.admin().void(customer, id.clone()).await
    }

    /// Kept events, newest first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a page that is none.
    pub async fn events(&self, query: EventQuery) -> Result<Page<RecordedEvent>, Error> {
        self.0.admin().events(query).await
    }

    /// What a meter reads over any range.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown meter.
    pub async fn query(&self, query: MeterQuery) -> Result<MeterReading, Error> {
        self.0.admin().query(query).await
    }

    /// All meters, by id.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn meters(&self) -> Result<Vec<Meter>, Error> {
        self.0.admin().meters().await
    }

    /// Adds a meter, or replaces the one of its id: limits on it then count by the new definition,
    /// from the events that are still kept.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for one that makes no sense.
    pub async fn put_meter(&self, meter: Meter) -> Result<(), Error> {
        self.0.admin().put_meter(meter).await
    }

    /// Removes a meter. Answers whether it was there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) while a limit reads it.
    pub async fn remove_meter(&self, id: impl Into<String>) -> Result<bool, Error> {
        self.0.admin().remove_meter(id.into()).await
    }

    /// All limits, by id.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn limits(&self) -> Result<Vec<Limit>, Error> {
        self.0.admin().limits().await
    }

    /// Adds a limit, or replaces the one of its id. A changed cap keeps the usage; a limit on
    /// something that was not counted before counts the events that are still kept, and says so
    /// ([`LimitState::is_complete`](crate::LimitState::is_complete)) where that is not all.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for one that makes no sense.
    pub async fn put_limit(&self, limit: Limit) -> Result<(), Error> {
        self.0.admin().put_limit(limit).await
    }

    /// Removes a limit. What it counted goes on being counted, so it is exact if it returns. Answers
    /// whether it was there.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn remove_limit(&self, id: impl Into<String>) -> Result<bool, Error> {
        self.0.admin().remove_limit(id.into()).await
    }

    /// What is known of a customer beyond usage.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an id that is none.
    pub async fn customer<C>(&self, id: C) -> Result<Option<Customer>, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let id = customer_id(id)?;
        self.0.admin().customer(id).await
    }

    /// Customers of whom something is known beyond usage, by id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a page that is none.
    pub async fn customers(&self, page: PageRequest) -> Result<Page<Customer>, Error> {
        self.0.admin().customers(page).await
    }

    /// Adds or replaces what is known of a customer. A new zone or billing date takes effect at
    /// once: the windows it moves are counted again from the events that are still kept.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an unknown zone or a date that is none.
    pub async fn put_customer(&self, customer: Customer) -> Result<(), Error> {
        self.0.admin().put_customer(customer).await
    }

    /// Forgets what is known of a customer; usage, limits and balances stay. Answers whether it was
    /// there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an id that is none.
    pub async fn remove_customer<C>(&self, id: C) -> Result<bool, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let id = customer_id(id)?;
        self.0.admin().remove_customer(id).await
    }

    /// Every balance of a customer, by name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an id that is none.
    pub async fn balances<C>(&self, customer: C) -> Result<Vec<Balance>, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = customer_id(customer)?;
        self.0.admin().balances(customer).await
    }

    /// Balances of all customers who have one of their own or one that has changed, by customer and
    /// name. For admin code: its cost may grow with all customers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a page that is none, and from a backend
    /// that cannot list them.
    pub async fn all_balances(
        &self,
        page: PageRequest,
    ) -> Result<Page<(CustomerId, Balance)>, Error> {
        self.0.admin().all_balances(page).await
    }

    /// One balance of a customer, if there is one of that name (compared exactly).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an id that is none.
    pub async fn balance<C>(&self, customer: C, name: &str) -> Result<Option<Balance>, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let balances = self.balances(customer).await?;
        Ok(balances.into_iter().find(|balance| balance.name() == name))
    }

    /// Creates a balance for one customer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) when there is one of that name,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for amounts that are none.
    pub async fn create_balance<C>(&self, customer: C, terms: NewBalance) -> Result<Balance, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = customer_id(customer)?;
        self.0.admin().create_balance(customer, terms).await
    }

    /// Changes what must remain of a balance: above zero keeps a reserve, below zero allows debt.
    /// Requests that run go on as they were admitted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance,
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) for one that every customer has by default,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an amount that is none and from a backend
    /// that cannot.
    pub async fn set_minimum<C>(
        &self,
        customer: C,
        name: &str,
        minimum: impl ToAmount,
    ) -> Result<Balance, Error>
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        let customer = customer_id(customer)?;
        let minimum = minimum.to_amount().map_err(|error| Error::invalid("minimum", error))?;
        self.0.admin().set_minimum(customer, name.to_owned(), minimum).await
    }

    /// Adds to a balance; once for each reference, for ever.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an amount that is not above 0.
    pub async fn credit(&self, credit: Credit) -> Result<Credited, Error> {
        self.0.admin().credit(credit).await
    }

    /// Takes from a balance if it covers the amount above its holds: looked at and taken in one
    /// step. That it does not is an answer, not an error.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance,
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an amount that is not above 0.
    pub async fn debit(&self, debit: Debit) -> Result<Debited, Error> {
        self.0.admin().debit(debit).await
    }

    /// Kept transactions of a balance, newest first, an opening balance last where older ones are
    /// no longer kept.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown balance.
    pub async fn transactions(&self, query: TransactionQuery) -> Result<Page<Transaction>, Error> {
        self.0.admin().transactions(query).await
    }

    /// Lets holds that end by themselves live until `lifetime` from now. Answers which still do.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn renew(
        &self,
        holds: Vec<(CustomerId, EventId)>,
        lifetime: Duration,
    ) -> Result<Vec<bool>, Error> {
        self.0.admin().renew(holds, lifetime).await
    }

    /// How many requests are running on a hold.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn open_holds(&self) -> Result<usize, Error> {
        self.0.admin().open_holds().await
    }

    /// Resolves when no request is running on a hold. A hold that ends by itself is noticed when the
    /// next request ends; await it within a timeout where there are such.
    ///
    /// # Errors
    ///
    /// What the backend says.
    pub async fn settled(&self) -> Result<(), Error> {
        self.0.admin().settled().await
    }

    /// Takes no new checks, waits for running requests, and brings everything accepted to where it
    /// is kept.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`](crate::ErrorKind::TimedOut) when requests are still running at the
    /// deadline; they may still settle.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        self.0.admin().shutdown(deadline).await
    }
}

fn customer_id<C>(customer: C) -> Result<CustomerId, Error>
where
    C: TryInto<CustomerId>,
    C::Error: Into<IdError>,
{
    customer.try_into().map_err(|error| Error::invalid("customer", error.into()))
}
