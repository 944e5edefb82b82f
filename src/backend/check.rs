use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use compact_str::CompactString;

use super::Ticket;
use super::decision::{Answer, Decision};
use crate::Error;
#[cfg(doc)]
use crate::ErrorKind;
use crate::policy::{Amount, CustomerId, EventId, IdError, Timestamp, ToAmount, Usage};
use crate::reporter::Report;

/// The type of an event when none is named.
pub const DEFAULT_EVENT_TYPE: &str = "request";

/// A question: may this customer do this now?
///
/// ```
/// use tower_limitry::Check;
///
/// let check = Check::of("acct_42")
///     .event_type("llm.completion")
///     .dimension("model", "large-2")
///     .estimate("total_tokens", 500)
///     .charge("AI Credits", |usage| usage.value("total_tokens"));
/// # let _ = check;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Check(pub(crate) Arc<Flight>);

/// One request from its check to its end, in one allocation: what was asked, what was answered, and
/// what the handler reports.
pub(crate) struct Flight {
    pub(crate) ask: Ask,
    pub(super) answer: OnceLock<Answer>,
    pub(crate) report: Report,
}

#[derive(Clone)]
pub(crate) struct Ask {
    /// Nil until it is made, unless given.
    pub(crate) id: EventId,
    /// Whether a caller gave the id, who may send it again.
    pub(crate) given: bool,
    /// Tells apart the checks that are sent under one given id.
    pub(crate) attempt: u64,
    /// When it is asked; unless set, when it arrives.
    pub(crate) at: Option<Timestamp>,
    pub(crate) customer: CustomerId,
    /// An id that is none: the field, and why. The check is answered so.
    pub(crate) problem: Option<(&'static str, IdError)>,
    pub(crate) event_type: Option<CompactString>,
    /// The dimensions, and the estimate if there are values.
    pub(crate) expected: Usage,
    pub(crate) charge: Option<Arc<Charge>>,
    pub(crate) lifetime: Option<Duration>,
}

/// What a request costs a balance: a name, and a price as a function of usage.
pub(crate) struct Charge {
    pub(crate) balance: CompactString,
    pub(crate) price: Arc<Price>,
}

pub(crate) type Price = dyn Fn(&Usage) -> Option<Amount> + Send + Sync;

impl Charge {
    /// The price of that usage. `None` where it cannot be told: a value is missing, the price is
    /// below zero, or the function panicked.
    pub(crate) fn price(&self, usage: &Usage) -> Option<Amount> {
        crate::hook::call(|| (self.price)(usage)).flatten().filter(|price| !price.is_negative())
    }
}

impl Ask {
    pub(crate) fn of(customer: CustomerId) -> Self {
        Self {
            id: EventId::NIL,
            given: false,
            attempt: 0,
            at: None,
            customer,
            problem: None,
            event_type: None,
            expected: Usage::new(),
            charge: None,
            lifetime: None,
        }
    }

    /// Whether it makes sense, whatever is defined.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if let Some((field, problem)) = self.problem {
            return Err(Error::invalid(field, problem));
        }
        if self.event_type.as_ref().is_some_and(|named| !(1..=256).contains(&named.len())) {
            let problem = "is empty or too long; give 1 to 256 bytes";
            return Err(Error::invalid("event_type", problem));
        }
        if let Some(problem) = self.expected.problem() {
            return Err(Error::invalid("estimate", problem));
        }
        let negative = self.expected.values().iter().find(|(_, amount)| amount.is_negative());
        if let Some((name, amount)) = negative {
            let problem = format_args!("value {name:?} is {amount}; give 0 or more");
            return Err(Error::invalid("estimate", problem));
        }
        Ok(())
    }

    pub(crate) fn has_id(&self) -> bool {
        self.given || self.id != EventId::NIL
    }

    /// What the event will be recorded as.
    #[inline]
    pub(crate) fn recorded_as(&self) -> &str {
        self.event_type.as_deref().unwrap_or(DEFAULT_EVENT_TYPE)
    }
}

impl Flight {
    #[inline]
    fn new(ask: Ask) -> Self {
        Self { ask, answer: OnceLock::new(), report: Report::default() }
    }
}

/// The same question, asked anew.
impl Clone for Flight {
    fn clone(&self) -> Self {
        Self::new(self.ask.clone())
    }
}

impl Check {
    /// A check for this customer: 1 to 256 bytes, or the check is answered
    /// [`ErrorKind::Invalid`].
    pub fn of<C>(customer: C) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<IdError>,
    {
        match customer.try_into() {
            Ok(customer) => Self::new(Ask::of(customer)),
            Err(error) => {
                let mut ask = Ask::of(CustomerId::NOBODY);
                ask.problem = Some(("customer", error.into()));
                Self::new(ask)
            }
        }
    }

    #[inline]
    pub(crate) fn new(ask: Ask) -> Self {
        Self(Arc::new(Flight::new(ask)))
    }

    /// What the request will be recorded as. Only limits whose meter such an event could move can
    /// refuse; without it every limit that matches can, and the event is recorded as
    /// [`DEFAULT_EVENT_TYPE`].
    pub fn event_type(mut self, event_type: impl AsRef<str>) -> Self {
        self.ask_mut().event_type = Some(CompactString::new(event_type.as_ref()));
        self
    }

    /// A dimension of the request. A limit that is narrowed to a dimension holds only for checks
    /// that name it.
    pub fn dimension(mut self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.ask_mut().expected.dimensions_mut().set(key.as_ref(), value.as_ref());
        self
    }

    /// What it is expected to use. Set aside while the request runs, so that no number of concurrent
    /// requests overspends; without an estimate they can, by what is in flight.
    pub fn estimate(self, name: impl AsRef<str>, amount: impl ToAmount) -> Self {
        let usage = Usage::of(name, amount);
        self.expect(usage)
    }

    /// What it is expected to use, with several values and dimensions.
    pub fn expect(mut self, usage: Usage) -> Self {
        self.ask_mut().expected.merge(usage);
        self
    }

    /// Charges this balance by what was used. The price is also applied to the estimate, for the
    /// check; without an estimate something must be left.
    pub fn charge<F>(mut self, balance: impl AsRef<str>, price: F) -> Self
    where
        F: Fn(&Usage) -> Option<Amount> + Send + Sync + 'static,
    {
        let balance = CompactString::new(balance.as_ref());
        self.ask_mut().charge = Some(Arc::new(Charge { balance, price: Arc::new(price) }));
        self
    }

    /// An id of your own, under which the use counts once for as long as the store remembers it.
    pub fn id(mut self, id: impl AsRef<str>) -> Self {
        let ask = self.ask_mut();
        ask.given = true;
        match EventId::given(id) {
            Ok(id) => ask.id = id,
            Err(error) => ask.problem = Some(("id", error)),
        }
        self
    }

    /// Ends the hold by itself after this time unless it is renewed. In this process a hold needs no
    /// such end: it goes with its [`Permit`](crate::Permit). A use that is settled after its hold has
    /// ended counts all the same, for a week; then it is told to be too old.
    pub fn hold_for(mut self, lifetime: Duration) -> Self {
        self.ask_mut().lifetime = Some(lifetime);
        self
    }

    /// Made up just now: given its id, or told from other checks under the id it was given.
    pub(crate) fn stamped(mut self, made: EventId) -> Self {
        let ask = self.ask_mut();
        if ask.given {
            ask.attempt = made.attempt();
        } else {
            ask.id = made;
        }
        self
    }

    pub(crate) fn ask(&self) -> &Ask {
        &self.0.ask
    }

    pub(crate) fn ask_mut(&mut self) -> &mut Ask {
        &mut Arc::make_mut(&mut self.0).ask
    }

    /// What was answered, if it was.
    pub(crate) fn answer(&self) -> Option<&Answer> {
        self.0.answer.get()
    }

    /// The same question, whatever the backend may have answered.
    pub(crate) fn unanswered(&self) -> Self {
        Self::new(self.ask().clone())
    }

    /// The answer, which is made where it stays. The same check asked twice is two requests.
    pub(crate) fn answered(self, make: impl FnOnce(&Ask) -> Answer) -> Decision {
        let mut make = Some(make);
        self.0.answer.get_or_init(|| {
            let make = make.take().expect("an answer is made once");
            make(&self.0.ask)
        });
        let Some(make) = make else { return Decision(self.0) };
        let again = Flight::clone(&self.0);
        again.answer.get_or_init(|| make(&again.ask));
        Decision(Arc::new(again))
    }

    /// The name of the hold, before it is known where it is.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket { check: self.clone(), place: None }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ask = self.ask();
        f.debug_struct("Check")
            .field("customer", &ask.customer)
            .field("event_type", &ask.event_type)
            .field("expected", &ask.expected)
            .field("balance", &ask.charge.as_ref().map(|charge| &charge.balance))
            .finish_non_exhaustive()
    }
}
