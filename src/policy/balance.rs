use compact_str::CompactString;

use super::{Amount, AmountError, ConfigError, CustomerId, Timestamp, ToAmount};

/// The terms of a prepaid balance, for one customer or as every customer's default.
///
/// ```
/// use tower_limitry::NewBalance;
///
/// // 500 credits to begin with, and up to 50 of debt.
/// let credits = NewBalance::new("AI Credits").initial(500).minimum(-50);
/// # let _ = credits;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct NewBalance {
    pub(crate) name: CompactString,
    pub(crate) unit: CompactString,
    pub(crate) initial: Result<Amount, AmountError>,
    pub(crate) minimum: Result<Amount, AmountError>,
}

impl NewBalance {
    /// A balance of nothing in `credits`, whose minimum is 0.
    pub fn new(name: impl AsRef<str>) -> Self {
        Self {
            name: CompactString::new(name.as_ref()),
            unit: CompactString::const_new("credits"),
            initial: Ok(Amount::ZERO),
            minimum: Ok(Amount::ZERO),
        }
    }

    /// The unit shown to people.
    pub fn unit(mut self, unit: impl AsRef<str>) -> Self {
        self.unit = CompactString::new(unit.as_ref());
        self
    }

    /// What it holds at first.
    pub fn initial(mut self, amount: impl ToAmount) -> Self {
        self.initial = amount.to_amount();
        self
    }

    /// What must remain: above zero keeps a reserve, below zero allows debt.
    pub fn minimum(mut self, amount: impl ToAmount) -> Self {
        self.minimum = amount.to_amount();
        self
    }

    /// The name; with the customer it identifies the balance. Compared exactly.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let field = |name: &str| format!("balance {:?}: {name}", self.name);
        if !(1..=256).contains(&self.name.len()) {
            return Err(ConfigError::new(
                field("name"),
                "is empty or too long; give 1 to 256 bytes",
            ));
        }
        self.initial.map_err(|error| ConfigError::new(field("initial"), format!("is {error}")))?;
        self.minimum.map_err(|error| ConfigError::new(field("minimum"), format!("is {error}")))?;
        Ok(())
    }
}

/// A prepaid balance as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    pub(crate) name: CompactString,
    pub(crate) unit: CompactString,
    pub(crate) current: Amount,
    pub(crate) minimum: Amount,
    pub(crate) held: Amount,
}

impl Balance {
    /// The name; with the customer it identifies the balance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The unit shown to people.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// What is there.
    pub fn current(&self) -> Amount {
        self.current
    }

    /// What must remain there.
    pub fn minimum(&self) -> Amount {
        self.minimum
    }

    /// What running requests have set aside.
    pub fn held(&self) -> Amount {
        self.held
    }

    /// What a request may still take: `current - minimum - held`. Below zero after an overrun.
    pub fn available(&self) -> Amount {
        self.current.saturating_sub(self.minimum).saturating_sub(self.held)
    }
}

/// Adds to a balance.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Credit {
    pub(crate) change: Change,
}

/// Takes from a balance, if it covers the amount.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Debit {
    pub(crate) change: Change,
}

/// What a credit and a debit have in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) customer: Result<CustomerId, super::IdError>,
    pub(crate) balance: CompactString,
    pub(crate) amount: Result<Amount, AmountError>,
    pub(crate) description: Option<Box<str>>,
    pub(crate) reference: Option<Box<str>>,
    /// The id under which it may come again, and within a day is done once.
    pub(crate) once: Option<super::EventId>,
}

impl Change {
    fn new<C>(customer: C, balance: impl AsRef<str>, amount: impl ToAmount) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<super::IdError>,
    {
        Self {
            customer: customer.try_into().map_err(Into::into),
            balance: CompactString::new(balance.as_ref()),
            amount: amount.to_amount(),
            description: None,
            reference: None,
            once: None,
        }
    }
}

impl Credit {
    /// Adds `amount`, which must be above zero, to a customer's balance of that name.
    pub fn new<C>(customer: C, balance: impl AsRef<str>, amount: impl ToAmount) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<super::IdError>,
    {
        Self { change: Change::new(customer, balance, amount) }
    }

    /// What it was for, for people.
    pub fn description(mut self, description: impl Into<Box<str>>) -> Self {
        self.change.description = Some(description.into());
        self
    }

    /// The payment behind it. A balance takes a credit with the same reference once, for ever: pass
    /// the payment's id, and a webhook delivered twice pays once.
    pub fn reference(mut self, reference: impl Into<Box<str>>) -> Self {
        self.change.reference = Some(reference.into());
        self
    }
}

impl Debit {
    /// Takes `amount`, which must be above zero, from a customer's balance of that name.
    pub fn new<C>(customer: C, balance: impl AsRef<str>, amount: impl ToAmount) -> Self
    where
        C: TryInto<CustomerId>,
        C::Error: Into<super::IdError>,
    {
        Self { change: Change::new(customer, balance, amount) }
    }

    /// What it was for, for people.
    pub fn description(mut self, description: impl Into<Box<str>>) -> Self {
        self.change.description = Some(description.into());
        self
    }

    /// What it belongs to, for your own records. A debit's reference is not a key: two debits with
    /// one reference take twice.
    pub fn reference(mut self, reference: impl Into<Box<str>>) -> Self {
        self.change.reference = Some(reference.into());
        self
    }
}

/// The answer to a [`Credit`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Credited {
    /// Whether this call added the amount; `false` when the reference was credited before.
    pub applied: bool,
    /// The transaction of this call, or the earlier one while it is still kept.
    pub transaction: Option<Transaction>,
    /// The balance afterwards.
    pub balance: Balance,
}

/// The answer to a [`Debit`]: taken whole, or not at all.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Debited {
    /// The amount was taken.
    Taken {
        /// The transaction.
        transaction: Transaction,
        /// The balance afterwards.
        balance: Balance,
    },
    /// The balance does not cover the amount; nothing changed.
    Refused {
        /// The balance as it is.
        balance: Balance,
    },
}

impl Debited {
    /// Whether the amount was taken.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Taken { .. })
    }

    /// The balance afterwards.
    pub fn balance(&self) -> &Balance {
        match self {
            Self::Taken { balance, .. } | Self::Refused { balance } => balance,
        }
    }
}

/// One change of a balance.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    pub(crate) id: super::EventId,
    pub(crate) customer: CustomerId,
    pub(crate) balance: CompactString,
    pub(crate) kind: TransactionKind,
    pub(crate) amount: Amount,
    pub(crate) balance_after: Amount,
    pub(crate) description: Option<Box<str>>,
    pub(crate) reference: Option<Box<str>>,
    pub(crate) at: Timestamp,
    /// Its place in the order of arrival.
    pub(crate) sequence: u64,
}

impl Transaction {
    /// Its id; for the charge of a request, the id of its event.
    pub fn id(&self) -> &super::EventId {
        &self.id
    }

    /// Whose balance.
    pub fn customer(&self) -> &CustomerId {
        &self.customer
    }

    /// The balance's name.
    pub fn balance(&self) -> &str {
        &self.balance
    }

    /// Which way it went.
    pub fn kind(&self) -> TransactionKind {
        self.kind
    }

    /// How much: above zero both ways; for an opening balance, what was there.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// What the balance was afterwards.
    pub fn balance_after(&self) -> Amount {
        self.balance_after
    }

    /// What it was for.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The payment or event behind it.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// When it was made.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

/// Which way a [`Transaction`] went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransactionKind {
    /// Into the balance.
    Credit,
    /// Out of the balance.
    Debit,
    /// What the balance held before the oldest change that is still kept.
    Opening,
}

impl TransactionKind {
    /// The name in the API: `credit`, `debit` or `opening`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Debit => "debit",
            Self::Opening => "opening",
        }
    }
}
