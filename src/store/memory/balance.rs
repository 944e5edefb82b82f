//! Balances, among the cells of an account.

use compact_str::CompactString;

use super::account::{Account, FOREVER, Tag, Terms};
use crate::policy::{Aggregation, Amount, Balance, NewBalance};
use crate::store::BalanceRef;

/// A balance's number, and its terms where the customer has none of their own.
#[derive(Clone, Copy)]
pub(super) struct Numbered<'a> {
    pub(super) number: u32,
    pub(super) balance: BalanceRef<'a>,
}

impl Numbered<'_> {
    pub(super) fn name(&self) -> CompactString {
        let default = self.balance.default.map(|terms| terms.name.clone());
        default.unwrap_or_else(|| CompactString::new(self.balance.name))
    }
}

/// Takes from a balance, whatever is left there. Answers what it held before and holds after.
#[inline]
pub(super) fn take(
    account: &mut Account,
    numbered: Numbered<'_>,
    amount: Amount,
    now: i32,
    hint: usize,
) -> (Amount, Amount) {
    let tag = Tag::balance(numbered.number);
    let place = account.place(tag, FOREVER, hint).unwrap_or_else(|| {
        let untouched = read_balance(Some(account), numbered, hint);
        let fresh = untouched.map_or(Amount::ZERO, |balance| balance.current);
        account.claim(tag, FOREVER, now, fresh.as_millionths(), hint)
    });
    let cell = &mut account.cells[place];
    let before = Amount::from_millionths(cell.value);
    let after = before.saturating_sub(amount);
    cell.tag = cell.tag.touched();
    cell.value = after.as_millionths();
    (before, after)
}

/// A customer's balance: as kept, or the default that was never touched.
pub(super) fn read_balance(
    account: Option<&Account>,
    numbered: Numbered<'_>,
    hint: usize,
) -> Option<Balance> {
    let tag = Tag::balance(numbered.number);
    let terms = account.and_then(|account| terms(account, numbered.number));
    let (unit, minimum, initial) = match (terms, numbered.balance.default) {
        (Some(terms), _) => (&terms.unit, terms.minimum, Amount::ZERO),
        (None, Some(default)) => (
            &default.unit,
            default.minimum.unwrap_or(Amount::ZERO),
            default.initial.unwrap_or(Amount::ZERO),
        ),
        (None, None) => return None,
    };
    let place = account.and_then(|account| account.place(tag, FOREVER, hint));
    let (current, held) = match (account, place) {
        (Some(account), Some(place)) => {
            (Amount::from_millionths(account.cells[place].value), account.held(place))
        }
        _ => (initial, Amount::ZERO),
    };
    Some(Balance { name: numbered.name(), unit: unit.clone(), current, minimum, held })
}

fn terms(account: &Account, number: u32) -> Option<&Terms> {
    account.rare.as_ref()?.terms.iter().find(|terms| terms.number == number)
}

/// Whether the customer has a balance of their own of that number, or one that everybody has and that
/// has changed. A charge of a balance that there is not makes none.
pub(super) fn has_balance(account: &Account, (number, is_default): (u32, bool)) -> bool {
    terms(account, number).is_some()
        || is_default && account.place(Tag::balance(number), FOREVER, 0).is_some()
}

/// Opens a balance of the customer's own.
pub(super) fn open_balance(account: &mut Account, number: u32, terms: &NewBalance, now: i32) {
    let place = account.claim(Tag::balance(number), FOREVER, now, 0, usize::MAX);
    // A charge may have come before the balance did; it is not forgiven.
    account.cells[place].add(Aggregation::Sum, terms.initial.unwrap_or(Amount::ZERO));
    account.rare.get_or_insert_default().terms.push(Terms {
        number,
        unit: terms.unit.clone(),
        minimum: terms.minimum.unwrap_or(Amount::ZERO),
    });
}
