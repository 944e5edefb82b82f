//! Books in this process: nothing to install, nothing that survives a restart.
//!
//! Customers are spread over shards, each behind a lock that is held for one step and never across
//! an await. A customer takes about 65 bytes, and 16 more for each counter and balance; one that was
//! only checked, or whose windows have ended, takes none.

use std::collections::BTreeSet;
use std::future::{Ready, ready};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compact_str::CompactString;

use super::{
    BalanceChange, BalanceRef, BoxFuture, CheckOperation, Checked, Found, HoldKey, Moment,
    ONCE_FOR, Origin, Recount, SettleOperation, SettleOutcome, Settled, Store,
};
use crate::policy::{
    Amount, Balance, Credited, CustomerId, Debited, EventId, NewBalance, RecordedEvent, Timestamp,
    Transaction, TransactionKind, judge_balance,
};
use crate::{Error, ErrorKind};

mod account;
pub(crate) mod archive;
mod balance;
mod check;
mod customers;
mod holds;
mod ids;
mod journal;
mod marks;
mod names;
pub(crate) mod recount;
#[cfg(feature = "sqlite")]
mod restore;
mod settle;
mod shard;
mod soonest;
mod sweep;

use account::{FOREVER, Tag, minute_now};
use archive::{Archive, Opened};
use balance::{Numbered, has_balance, open_balance, read_balance};
use journal::Journal;
use names::Names;
use shard::{Around, Shard};

/// A power of two.
const SHARDS: usize = 64;

/// Keeps the books in memory.
///
/// ```
/// use tower_limitry::store::Memory;
///
/// let store = Memory::new().keep_events(50_000).max_customers(200_000);
/// # let _ = store;
/// ```
#[derive(Debug)]
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    journal: Mutex<Journal>,
    /// Takes the place of the journal where the books are kept for longer.
    archive: Option<Arc<dyn Archive>>,
    names: Names,
    customers: AtomicUsize,
    max_customers: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// Empty books that keep the newest 10,000 events with their charges and 10,000 other transactions,
    /// and take up to ten million customers (about two gigabytes with five counters each).
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            journal: Mutex::new(Journal::new(10_000, 10_000)),
            archive: None,
            names: Names::default(),
            customers: AtomicUsize::new(0),
            max_customers: 10_000_000,
        }
    }

    /// Keeps so many of the newest events with what they were charged, and as many transactions
    /// besides, for lists, queries and limits that are added later. Counters and balances are exact
    /// whatever this is.
    #[must_use]
    pub fn keep_events(self, most: usize) -> Self {
        Self { journal: Mutex::new(Journal::new(most, most)), ..self }
    }

    /// Takes so many customers at once. New ones beyond that are answered
    /// [`ErrorKind::Unavailable`]; nobody known is turned away.
    #[must_use]
    pub fn max_customers(self, most: usize) -> Self {
        Self { max_customers: most, ..self }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    fn around(&self, hash: u64) -> Around<'_> {
        Around {
            hash: customers::spread(hash as u32),
            count: &self.customers,
            most: self.max_customers,
            journal: &self.journal,
            archive: self.archive.as_deref(),
        }
    }

    /// The number of a balance's name, if one was ever given.
    fn numbered<'a>(&self, balance: BalanceRef<'a>) -> Option<Numbered<'a>> {
        match self.names.number(balance.name) {
            Some(number) => Some(Numbered { number, balance }),
            None => balance.default.map(|_| self.name(balance)),
        }
    }

    /// The number of a balance's name, given now if need be.
    fn name<'a>(&self, balance: BalanceRef<'a>) -> Numbered<'a> {
        Numbered { number: self.names.give(balance.name), balance }
    }

    fn settle_now(&self, operation: &mut SettleOperation<'_>) -> Settled {
        let hash = hash(operation.customer);
        let charge = operation.charge.map(|(balance, amount)| {
            (self.numbered(balance).unwrap_or_else(|| self.name(balance)), amount)
        });
        locked(self.shard(hash)).settle(operation, charge, self.around(hash))
    }

    fn create_now(
        &self,
        customer: &CustomerId,
        terms: &NewBalance,
        at: Timestamp,
    ) -> Result<Balance, Error> {
        let numbered = self.name(BalanceRef { name: &terms.name, default: None });
        let hash = hash(customer);
        let around = self.around(hash);
        let mut shard = locked(self.shard(hash));
        if read_balance(shard.known(customer, around), numbered, 0).is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("the customer has a balance {:?} already", terms.name),
            ));
        }
        let account = shard.account(customer, around).ok_or_else(full)?;
        open_balance(account, numbered.number, terms, minute_now(at));
        let balance =
            read_balance(Some(account), numbered, 0).ok_or_else(|| no_balance(&terms.name))?;
        if let Some(archive) = &self.archive {
            archive.opened(Opened { customer: customer.clone(), balance: balance.clone() });
        }
        Ok(balance)
    }

    fn set_minimum_now(
        &self,
        customer: &CustomerId,
        name: &str,
        minimum: Amount,
    ) -> Option<Balance> {
        let numbered = self.numbered(BalanceRef { name, default: None })?;
        let hash = hash(customer);
        let around = self.around(hash);
        let mut shard = locked(self.shard(hash));
        let slot = shard.customers.find(around.hash, customer)?;
        let account = shard.customers.get_mut(slot)?;
        let mut terms = account.rare.as_mut()?.terms.iter_mut();
        terms.find(|terms| terms.number == numbered.number)?.minimum = minimum;
        let balance = read_balance(Some(account), numbered, 0)?;
        if let Some(archive) = &self.archive {
            archive.opened(Opened { customer: customer.clone(), balance: balance.clone() });
        }
        Some(balance)
    }

    /// Takes from a balance. Answers also whether that was done now, and not before.
    pub(crate) fn debit_now(&self, change: BalanceChange<'_>) -> Result<(Debited, bool), Error> {
        let (balance, made) = self.change(change, TransactionKind::Debit)?;
        Ok(match made {
            Made::Now(transaction) => (Debited::Taken { transaction, balance }, true),
            Made::Before(transaction) => (Debited::Taken { transaction, balance }, false),
            Made::Not => (Debited::Refused { balance }, false),
        })
    }

    fn change(
        &self,
        change: BalanceChange<'_>,
        kind: TransactionKind,
    ) -> Result<(Balance, Made), Error> {
        let missing = || no_balance(change.balance.name);
        let numbered = self.numbered(change.balance).ok_or_else(missing)?;
        let hash = hash(change.customer);
        let around = self.around(hash);
        let mut shard = locked(self.shard(hash));
        shard.expire(change.now, around);
        let balance =
            read_balance(shard.known(change.customer, around), numbered, 0).ok_or_else(missing)?;
        if let Some(id) = change.once {
            let done = match &self.archive {
                Some(archive) => archive.done(change.customer, id),
                None => Some(locked(&self.journal).done(change.customer, id).cloned()),
            };
            if let Some(earlier) = done.ok_or(SettleOutcome::Unavailable)?
                && change.now.wall().duration_since(earlier.at) < ONCE_FOR
            {
                return Ok((balance, Made::Before(earlier)));
            }
        }
        let reference = change
            .reference
            .filter(|_| kind == TransactionKind::Credit)
            .map(|reference| (change.customer.clone(), numbered.number, Box::from(reference)));
        if let Some(reference) = &reference {
            let credited = match &self.archive {
                _ if shard.references.contains(reference) => Some(true),
                Some(archive) => {
                    archive.is_credited(change.customer, change.balance.name, &reference.2)
                }
                None => Some(false),
            };
            if credited.ok_or(SettleOutcome::Unavailable)? {
                return Ok((balance, Made::Not));
            }
        }
        let after = if kind == TransactionKind::Credit {
            balance.current.checked_add(change.amount).ok_or_else(|| {
                Error::invalid("amount", "takes the balance beyond the largest amount")
            })?
        } else {
            let above = balance.current.saturating_sub(balance.minimum);
            if judge_balance(above, balance.held, Some(change.amount)).refuses() {
                return Ok((balance, Made::Not));
            }
            balance.current.saturating_sub(change.amount)
        };
        let account = shard.account(change.customer, around).ok_or_else(full)?;
        let fresh = balance.current.as_millionths();
        let tag = Tag::balance(numbered.number);
        let place = account.claim(tag, FOREVER, minute_now(change.now.wall()), fresh, usize::MAX);
        let cell = &mut account.cells[place];
        cell.tag = cell.tag.touched();
        cell.value = after.as_millionths();
        shard.references.extend(reference);
        let mut transaction = Transaction {
            id: change.id.clone(),
            customer: change.customer.clone(),
            balance: CompactString::new(change.balance.name),
            kind,
            amount: change.amount,
            balance_after: after,
            description: change.description.map(Into::into),
            reference: change.reference.map(Into::into),
            at: change.now.wall(),
            sequence: 0,
        };
        transaction.sequence = match &self.archive {
            Some(archive) => archive.transacted(transaction.clone(), change.once),
            None => locked(&self.journal).transact(transaction.clone(), change.once),
        };
        Ok((Balance { current: after, ..balance }, Made::Now(transaction)))
    }
}

/// What came of a change of a balance.
enum Made {
    Now(Transaction),
    /// It was done once already, under its id.
    Before(Transaction),
    Not,
}

impl Store for Memory {
    type Check = Ready<Result<Checked, Error>>;
    type Settle = Ready<Result<Settled, Error>>;
    type Release = Ready<Result<(), Error>>;

    fn check(&self, operation: CheckOperation<'_>) -> Self::Check {
        let hash = hash(operation.customer);
        let numbered = operation.balance.and_then(|ask| self.numbered(ask.balance));
        let checked = locked(self.shard(hash)).check(operation, numbered, self.around(hash));
        ready(checked)
    }

    fn settle(&self, mut operation: SettleOperation<'_>) -> Self::Settle {
        ready(Ok(self.settle_now(&mut operation)))
    }

    fn release(&self, key: HoldKey<'_>, now: Moment<'_>) -> Self::Release {
        let hash = hash(key.customer);
        locked(self.shard(hash)).release(key, now, self.around(hash));
        ready(Ok(()))
    }

    fn record<'a>(
        &'a self,
        mut operations: Vec<SettleOperation<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Settled>, Error>> {
        Box::pin(ready(self.record_now(&mut operations)))
    }

    fn renew<'a>(
        &'a self,
        keys: Vec<HoldKey<'a>>,
        lifetime: Duration,
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<bool>, Error>> {
        let until = now.monotonic().saturating_add(lifetime);
        let renewed = keys.into_iter().map(|key| {
            let hash = hash(key.customer);
            locked(self.shard(hash)).renew(key, until, now, self.around(hash))
        });
        Box::pin(ready(Ok(renewed.collect())))
    }

    fn create_balance<'a>(
        &'a self,
        customer: &'a CustomerId,
        terms: &'a NewBalance,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Balance, Error>> {
        Box::pin(ready(self.create_now(customer, terms, at)))
    }

    fn set_minimum<'a>(
        &'a self,
        customer: &'a CustomerId,
        name: &'a str,
        minimum: Amount,
    ) -> BoxFuture<'a, Result<Option<Balance>, Error>> {
        Box::pin(ready(Ok(self.set_minimum_now(customer, name, minimum))))
    }

    fn credit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Credited, Error>> {
        let credited = self.change(change, TransactionKind::Credit).map(|(balance, made)| {
            let earlier = || {
                let journal = locked(&self.journal);
                let name = change.balance.name;
                journal.transaction(change.customer, name, change.reference?).cloned()
            };
            let applied = matches!(made, Made::Now(_));
            let transaction = match made {
                Made::Now(transaction) | Made::Before(transaction) => Some(transaction),
                Made::Not => earlier(),
            };
            Credited { applied, transaction, balance }
        });
        Box::pin(ready(credited))
    }

    fn debit<'a>(&'a self, change: BalanceChange<'a>) -> BoxFuture<'a, Result<Debited, Error>> {
        Box::pin(ready(self.debit_now(change).map(|(debited, _)| debited)))
    }

    fn balances<'a>(
        &'a self,
        customer: &'a CustomerId,
        defaults: &'a [NewBalance],
        now: Moment<'a>,
    ) -> BoxFuture<'a, Result<Vec<Balance>, Error>> {
        for default in defaults {
            self.numbered(BalanceRef { name: &default.name, default: Some(default) });
        }
        let names = self.names.all();
        let hash = hash(customer);
        let mut shard = locked(self.shard(hash));
        shard.expire(now, self.around(hash));
        let account = shard.known(customer, self.around(hash));
        let mut balances: Vec<Balance> = names
            .iter()
            .filter_map(|(name, number)| {
                let default = defaults.iter().find(|default| default.name == *name);
                let balance = BalanceRef { name, default };
                read_balance(account, Numbered { number: *number, balance }, 0)
            })
            .collect();
        balances.sort_by(|one, other| one.name.cmp(&other.name));
        Box::pin(ready(Ok(balances)))
    }

    fn with_balances<'a>(
        &'a self,
        from: Option<&'a CustomerId>,
        most: usize,
        defaults: &'a [NewBalance],
    ) -> BoxFuture<'a, Result<Vec<CustomerId>, Error>> {
        let is_default = |name: &str| defaults.iter().any(|default| default.name == name);
        let names = self.names.all().into_iter();
        let numbers: Vec<_> = names.map(|(name, number)| (number, is_default(&name))).collect();
        // The last of it is the first to go.
        let mut first: BTreeSet<CustomerId> = BTreeSet::new();
        for shard in &self.shards {
            let shard = locked(shard);
            for slot in 0..shard.customers.reach() {
                let Some(account) = shard.customers.get(slot) else { continue };
                let is_wanted = from.is_none_or(|from| account.id >= *from)
                    && (first.len() < most || first.last().is_some_and(|last| account.id < *last));
                if is_wanted && numbers.iter().any(|number| has_balance(account, *number)) {
                    first.insert(account.id.clone());
                    if first.len() > most {
                        first.pop_last();
                    }
                }
            }
        }
        Box::pin(ready(Ok(first.into_iter().collect())))
    }

    fn transactions<'a>(
        &'a self,
        customer: &'a CustomerId,
        balance: BalanceRef<'a>,
    ) -> BoxFuture<'a, Result<Vec<Transaction>, Error>> {
        let hash = hash(customer);
        let shard = locked(self.shard(hash));
        let current = self.numbered(balance).and_then(|numbered| {
            read_balance(shard.known(customer, self.around(hash)), numbered, 0)
        });
        let transactions = current
            .map(|current| {
                locked(&self.journal).transactions(customer, balance.name, current.current)
            })
            .ok_or_else(|| no_balance(balance.name));
        Box::pin(ready(transactions))
    }

    fn events<'a>(
        &'a self,
        visit: &'a mut (dyn FnMut(&RecordedEvent) -> bool + Send),
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        let journal = locked(&self.journal);
        let _stopped = journal.events().rev().all(visit);
        Box::pin(ready(Ok(journal.forgotten())))
    }

    fn find<'a>(
        &'a self,
        customer: &'a CustomerId,
        id: &'a EventId,
    ) -> BoxFuture<'a, Result<Option<Found>, Error>> {
        Box::pin(ready(Ok(locked(&self.journal).find(customer, id))))
    }

    fn read<'a>(
        &'a self,
        customer: &'a CustomerId,
        counter: u32,
        window: crate::policy::Window,
    ) -> BoxFuture<'a, Result<Amount, Error>> {
        let hash = hash(customer);
        let shard = locked(self.shard(hash));
        let account = shard.known(customer, self.around(hash));
        let value =
            account.and_then(|account| account.value(Tag::counter(counter), window.last_minute()));
        Box::pin(ready(Ok(value.unwrap_or(Amount::ZERO))))
    }

    fn recount<'a>(
        &'a self,
        change: Recount<'a>,
    ) -> BoxFuture<'a, Result<Option<Timestamp>, Error>> {
        Box::pin(ready(Ok(self.recount_now(&change))))
    }

    fn sweep<'a>(&'a self, now: Moment<'a>) -> BoxFuture<'a, Result<(), Error>> {
        for shard in &self.shards {
            locked(shard).sweep(now, self.around(0));
        }
        Box::pin(ready(Ok(())))
    }

    fn open_holds(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(ready(Ok(self.shards.iter().map(|shard| locked(shard).open_holds()).sum())))
    }

    fn customers(&self) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(ready(Ok(self.shards.iter().map(|shard| locked(shard).customers.len()).sum())))
    }
}

impl Memory {
    /// All or nothing: what could stop one of them is looked for, under the locks of all their
    /// shards, before the first is counted.
    fn record_now(&self, operations: &mut [SettleOperation<'_>]) -> Result<Vec<Settled>, Error> {
        let charges: Vec<_> = operations
            .iter()
            .map(|operation| {
                operation.charge.map(|(balance, amount)| {
                    (self.numbered(balance).unwrap_or_else(|| self.name(balance)), amount)
                })
            })
            .collect();
        let mut wanted: Vec<usize> = operations
            .iter()
            .map(|operation| (hash(operation.customer) >> 40) as usize % SHARDS)
            .collect();
        let shard_of = wanted.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let mut shards: Vec<_> = wanted.iter().map(|at| locked(&self.shards[*at])).collect();
        let place = |at: usize| wanted.binary_search(&at).unwrap_or_default();
        let given = operations.iter().filter(|operation| operation.origin == Origin::Given).count();
        let mut new = std::collections::HashSet::new();
        for (number, (operation, at)) in operations.iter().zip(&shard_of).enumerate() {
            let shard = &mut shards[place(*at)];
            let around = self.around(hash(operation.customer));
            shard.make_room(given, operation.now);
            if let Some(outcome) = shard.would_refuse(operation, around) {
                let refused = Settled { outcome, saturated: false, alerts: Vec::new() };
                return Ok(vec![refused; number + 1]);
            }
            if shard.known(operation.customer, around).is_none() {
                new.insert(operation.customer);
            }
        }
        // Places for all of them, before the first is counted: other shards admit customers, too.
        let there = self.customers.fetch_add(new.len(), Ordering::Relaxed);
        if there.saturating_add(new.len()) > self.max_customers {
            self.customers.fetch_sub(new.len(), Ordering::Relaxed);
            return Err(full());
        }
        let settled =
            operations.iter_mut().zip(charges).zip(&shard_of).map(|((operation, charge), at)| {
                let around = self.around(hash(operation.customer));
                let around = Around { most: usize::MAX, ..around };
                shards[place(*at)].settle(operation, charge, around)
            });
        let settled = settled.collect();
        self.customers.fetch_sub(new.len(), Ordering::Relaxed);
        Ok(settled)
    }
}

fn full() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the store has no place for another customer; raise max_customers",
    )
}

fn no_balance(name: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("the customer has no balance {name:?}; create it first"),
    )
}

/// Locks. A panic under a lock can only come from a bug of ours, and then whole steps are still
/// better than none.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seeded for each process, so that nobody can choose ids that fall together.
static HASHER: LazyLock<foldhash::quality::RandomState> = LazyLock::new(Default::default);

#[inline]
fn hash(customer: &CustomerId) -> u64 {
    HASHER.hash_one(customer.as_str())
}

fn hash_in_shard(customer: &CustomerId) -> u64 {
    customers::spread(hash(customer) as u32)
}
