//! What is kept of one customer: counters and balances as a row of cells, and beside it only what a
//! few customers need.

use std::mem;
use std::ops::Range;
use std::time::Duration;

use compact_str::CompactString;
use smallvec::SmallVec;

use crate::policy::{Aggregation, Amount, CustomerId, EventId, Timestamp, Window};

#[derive(Debug)]
pub(super) struct Account {
    pub(super) id: CustomerId,
    pub(super) cells: Vec<Cell>,
    /// There while requests are running.
    pub(super) open: Option<Box<Open>>,
    pub(super) rare: Option<Box<Rare>>,
}

/// The state of one counter in one window, or of one balance.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) tag: Tag,
    /// The window, by the minute of its end.
    pub(super) end: i32,
    pub(super) value: i64,
}

impl Cell {
    #[inline]
    pub(super) fn is(&self, tag: Tag, end: i32) -> bool {
        self.tag.touched() == tag && self.end == end
    }

    #[inline]
    pub(super) fn add(&mut self, aggregation: Aggregation, amount: Amount) -> (Amount, bool) {
        let before = Amount::from_millionths(self.value);
        let first = self.tag.is_untouched();
        self.tag = self.tag.touched();
        let (after, saturated) = match aggregation {
            Aggregation::Sum | Aggregation::Count => {
                (before.saturating_add(amount), before.checked_add(amount).is_none())
            }
            Aggregation::Max if !first => (before.max(amount), false),
            Aggregation::Max | Aggregation::Latest => (amount, false),
        };
        self.value = after.as_millionths();
        (after, saturated)
    }
}

/// Which counter or balance a cell is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u32);

impl Tag {
    const BALANCE: u32 = 1 << 31;
    const TIME: u32 = 1 << 30;
    const UNTOUCHED: u32 = 1 << 29;

    pub(super) fn counter(number: u32) -> Self {
        Self(number)
    }

    pub(super) fn balance(number: u32) -> Self {
        Self(number | Self::BALANCE)
    }

    /// The time of a latest value is kept in a cell of its own.
    pub(super) fn time(self) -> Self {
        Self(self.0 | Self::TIME)
    }

    pub(super) fn number(self) -> u32 {
        self.0 & !(Self::BALANCE | Self::TIME | Self::UNTOUCHED)
    }

    pub(super) fn is_balance(self) -> bool {
        self.0 & Self::BALANCE != 0
    }

    /// Made for a hold, and never written: it goes with the hold.
    pub(super) fn is_untouched(self) -> bool {
        self.0 & Self::UNTOUCHED != 0
    }

    pub(super) fn untouched(self) -> Self {
        Self(self.0 | Self::UNTOUCHED)
    }

    #[inline]
    pub(super) fn touched(self) -> Self {
        Self(self.0 & !Self::UNTOUCHED)
    }
}

/// The holds of running requests.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// What is held on each cell, by its place.
    pub(super) held: SmallVec<[Amount; 8]>,
    pub(super) holds: SmallVec<[Option<Hold>; 1]>,
    free: SmallVec<[u32; 4]>,
    pub(super) live: usize,
}

/// Open books that nobody uses, so that a request does not allocate one.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a book is moved by its box")]
pub(super) struct Spare(Vec<Box<Open>>);

impl Spare {
    const MOST: usize = 16;

    fn take(&mut self) -> Box<Open> {
        self.0.pop().unwrap_or_default()
    }

    /// Takes back a book without holds. One that grew large is let go.
    fn put(&mut self, mut open: Box<Open>) {
        if self.0.len() < Self::MOST && !open.holds.spilled() && !open.held.spilled() {
            open.held.clear();
            open.holds.clear();
            open.free.clear();
            self.0.push(open);
        }
    }
}

#[derive(Debug)]
pub(super) struct Hold {
    pub(super) id: EventId,
    /// Tells it from a later hold that has the same id and the same place.
    pub(super) serial: u16,
    pub(super) amounts: Held,
    /// Which of the checks that were sent under the id placed it.
    pub(super) attempt: u64,
    pub(super) expires: Option<Duration>,
    pub(super) remember: bool,
}

/// What a hold sets aside, by the places of cells. Cells beside each other mostly hold the same amount.
#[derive(Debug, Default)]
pub(super) struct Held {
    runs: SmallVec<[Run; 1]>,
    last: Run,
}

/// The same amount on each of these cells.
#[derive(Debug, Default)]
struct Run {
    places: Range<u32>,
    amount: Amount,
}

impl Held {
    #[inline]
    pub(super) fn push(&mut self, place: u32, amount: Amount) {
        if self.last.places.end == place && self.last.amount == amount {
            self.last.places.end += 1;
            return;
        }
        let run = mem::replace(&mut self.last, Run { places: place..place + 1, amount });
        if !run.places.is_empty() {
            self.runs.push(run);
        }
    }

    /// Changes what is held on each of its cells.
    #[inline]
    fn change(&self, held: &mut [Amount], by: impl Fn(Amount, Amount) -> Amount) {
        for run in self.runs.iter().chain([&self.last]) {
            let places = run.places.start as usize..run.places.end as usize;
            held[places].iter_mut().for_each(|held| *held = by(*held, run.amount));
        }
    }
}

/// Where among a customer's holds one is, or about where, and which one it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) at: u16,
    pub(super) serial: u16,
}

#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Windows that have not begun: events may come up to a day early.
    pub(super) ahead: Vec<Cell>,
    pub(super) terms: Vec<Terms>,
    /// Alerts that were told, as a set of percentages for each limit and window.
    pub(super) alerts: Vec<(CompactString, i32, u128)>,
}

/// A balance of this customer's own.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) number: u32,
    pub(super) unit: CompactString,
    pub(super) minimum: Amount,
}

pub(super) const FOREVER: i32 = i32::MAX;

/// The minute that has begun by now: windows named by it or an earlier one have ended.
#[inline]
pub(super) fn minute_now(now: Timestamp) -> i32 {
    now.as_nanos().div_euclid(MINUTE) as i32
}

const MINUTE: i64 = 60_000_000_000;

impl Account {
    pub(super) fn new(id: CustomerId) -> Self {
        Self { id, cells: Vec::new(), open: None, rare: None }
    }

    /// The place of a cell. `hint` is where to look first: lines come in the order of the cells.
    #[inline]
    pub(super) fn place(&self, tag: Tag, end: i32, hint: usize) -> Option<usize> {
        match self.cells.get(hint) {
            Some(cell) if cell.is(tag, end) => Some(hint),
            _ => self.cells.iter().position(|cell| cell.is(tag, end)),
        }
    }

    /// The value of a counter in a window, wherever it is kept.
    pub(super) fn value(&self, tag: Tag, end: i32) -> Option<Amount> {
        let is = |cell: &&Cell| cell.is(tag, end);
        let ahead = || self.rare.as_ref()?.ahead.iter().find(is);
        let cell = self.cells.iter().find(is).or_else(ahead)?;
        Some(Amount::from_millionths(cell.value))
    }

    #[inline]
    pub(super) fn held(&self, place: usize) -> Amount {
        self.all_held().get(place).copied().unwrap_or(Amount::ZERO)
    }

    /// What is held on each cell; on those beyond its end, nothing.
    #[inline]
    pub(super) fn all_held(&self) -> &[Amount] {
        self.open.as_ref().map_or(&[], |open| &open.held)
    }

    /// A cell to write: the one there is, the one of an ended window taken over, or a new one. A new
    /// cell is marked untouched and reads `fresh`.
    #[inline]
    pub(super) fn claim(&mut self, tag: Tag, end: i32, now: i32, fresh: i64, hint: usize) -> usize {
        let place = self.place(tag, end, hint);
        place.unwrap_or_else(|| self.claim_new(tag, end, now, fresh))
    }

    fn claim_new(&mut self, tag: Tag, end: i32, now: i32, fresh: i64) -> usize {
        let ahead = self.rare.as_mut().and_then(|rare| {
            let at = rare.ahead.iter().position(|cell| cell.tag == tag && cell.end == end)?;
            Some(rare.ahead.swap_remove(at))
        });
        let cell = ahead.unwrap_or(Cell { tag: tag.untouched(), end, value: fresh });
        let open = self.open.as_ref();
        let idle = |place: usize| {
            open.is_none_or(|open| open.held.get(place).is_none_or(|held| *held == Amount::ZERO))
        };
        let ended =
            self.cells.iter().enumerate().position(|(place, cell)| {
                cell.tag.touched() == tag && cell.end <= now && idle(place)
            });
        match ended {
            Some(place) => {
                self.cells[place] = cell;
                place
            }
            None => {
                self.cells.push(cell);
                self.cells.len() - 1
            }
        }
    }

    /// A cell for a window that has not begun.
    pub(super) fn claim_ahead(&mut self, tag: Tag, end: i32) -> &mut Cell {
        let ahead = &mut self.rare.get_or_insert_default().ahead;
        let place = ahead.iter().position(|cell| cell.is(tag, end));
        let place = place.unwrap_or_else(|| {
            ahead.push(Cell { tag: tag.untouched(), end, value: 0 });
            ahead.len() - 1
        });
        &mut ahead[place]
    }

    /// Ends a hold, if it is open under that id, and is just the one at `spot` if that is known.
    /// Answers whether its id is to be remembered.
    pub(super) fn end_hold(
        &mut self,
        id: &EventId,
        spot: Option<Spot>,
        attempt: Option<u64>,
    ) -> Option<bool> {
        let open = self.open.as_deref_mut()?;
        let is = |hold: &Option<Hold>| {
            hold.as_ref().is_some_and(|hold| {
                hold.id == *id
                    && spot.is_none_or(|spot| spot.serial == hold.serial)
                    && attempt.is_none_or(|attempt| attempt == hold.attempt)
            })
        };
        let at = match spot.map(|spot| usize::from(spot.at)) {
            Some(at) if open.holds.get(at).is_some_and(is) => at,
            _ => open.holds.iter().position(is)?,
        };
        let ended = &mut open.holds[at];
        let hold = ended.as_ref()?;
        hold.amounts.change(&mut open.held, Amount::saturating_sub);
        let remember = hold.remember;
        *ended = None;
        open.free.push(at as u32);
        open.live -= 1;
        Some(remember)
    }

    /// Opens a hold and says where it is.
    pub(super) fn put_hold(&mut self, hold: Hold, spare: &mut Spare) -> usize {
        let open = self.open.get_or_insert_with(|| spare.take());
        if open.held.len() < self.cells.len() {
            open.held.resize(self.cells.len(), Amount::ZERO);
        }
        hold.amounts.change(&mut open.held, Amount::saturating_add);
        open.live += 1;
        match open.free.pop() {
            Some(free) => {
                open.holds[free as usize] = Some(hold);
                free as usize
            }
            None => {
                open.holds.push(Some(hold));
                open.holds.len() - 1
            }
        }
    }

    /// Drops what no running request needs: the open book, cells that were only held on, windows
    /// that have ended.
    pub(super) fn tidy(&mut self, now: i32, spare: &mut Spare) {
        if let Some(rare) = &mut self.rare {
            rare.ahead.retain(|cell| cell.end > now);
            rare.alerts.retain(|(_, end, _)| *end > now);
            if rare.ahead.is_empty() && rare.alerts.is_empty() && rare.terms.is_empty() {
                self.rare = None;
            }
        }
        if self.open.as_ref().is_some_and(|open| open.live > 0) {
            // Holds know their cells by place.
            return;
        }
        if let Some(open) = self.open.take() {
            spare.put(open);
        }
        let is_needed = |cell: &Cell| !cell.tag.is_untouched() && cell.end > now;
        if !self.cells.iter().all(is_needed) {
            self.cells.retain(is_needed);
            if self.cells.is_empty() {
                self.cells = Vec::new();
            }
        }
    }

    /// Whether nothing at all is kept.
    pub(super) fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.open.is_none() && self.rare.is_none()
    }

    /// When the first window here ends, by the minute.
    pub(super) fn first_end(&self) -> i32 {
        let rare = self.rare.iter().flat_map(|rare| {
            let alerts = rare.alerts.iter().map(|(_, end, _)| *end);
            rare.ahead.iter().map(|cell| cell.end).chain(alerts)
        });
        self.cells.iter().map(|cell| cell.end).chain(rare).min().unwrap_or(FOREVER)
    }
}

/// Whether a window has not begun.
pub(super) fn is_ahead(window: &Window, now: Timestamp) -> bool {
    window.start() > now
}
