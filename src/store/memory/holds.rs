//! Holds: where they are, and how they end without a settlement.

use std::time::Duration;

use super::account::Spot;
use super::ids::{AHEAD, Fate};
use super::shard::{Around, Shard};
use crate::policy::{CustomerId, EventId};
use crate::store::{HoldKey, Moment, Place};

impl Shard {
    pub(super) fn release(&mut self, key: HoldKey<'_>, now: Moment<'_>, around: Around<'_>) {
        // No caller gave the id, so nobody sends another check under it.
        let is_only = key.attempt.is_none_or(|attempt| attempt == 0);
        match self.end_hold(key.customer, key.id, key.place, key.attempt, around) {
            Some((slot, remember)) => {
                around.released(key.customer, key.id);
                self.close(slot, now, around);
                // The check may be sent again, and arrive after this.
                if remember {
                    let fate = Fate::Released(key.attempt.unwrap_or_default());
                    self.finished.remember(key.customer, key.id, fate, None, now);
                }
            }
            // It had a hold, which has ended already. Of an id that a caller gave, one that expired may
            // be another check's, which is still to be settled; and the check may arrive again.
            _ if is_only && self.expired.take(key.customer, key.id, Fate::Expired) => {}
            _ if is_only && key.place.is_some()
                || self.is_finished(key.customer, key.id, around) == Some(true) => {}
            _ => {
                let fate = Fate::Released(key.attempt.unwrap_or_default());
                self.finished.remember(key.customer, key.id, fate, None, now);
            }
        }
    }

    pub(super) fn renew(
        &mut self,
        key: HoldKey<'_>,
        until: Duration,
        now: Moment<'_>,
        around: Around<'_>,
    ) -> bool {
        self.expire(now, around);
        let slot = self.customers.find(around.hash, key.customer);
        let open = slot.and_then(|slot| self.customers.get_mut(slot)?.open.as_mut());
        let hold =
            open.and_then(|open| open.holds.iter_mut().flatten().find(|hold| hold.id == *key.id));
        let (Some(slot), Some(hold)) = (slot, hold) else {
            return false;
        };
        hold.expires = Some(until);
        self.expire_at(until, slot, key.id);
        true
    }

    /// Ends a hold. Says where its customer is, and whether the id is to be remembered.
    #[inline]
    pub(super) fn end_hold(
        &mut self,
        customer: &CustomerId,
        id: &EventId,
        place: Option<Place>,
        attempt: Option<u64>,
        around: Around<'_>,
    ) -> Option<(u32, bool)> {
        let (slot, spot) = match place {
            Some(place) => (slot_of(place), Some(spot_of(place))),
            None => (self.customers.find(around.hash, customer)?, None),
        };
        // Where a hold was that has expired, another customer may be by now, with the same id.
        let account = self.customers.get_mut(slot).filter(|account| account.id == *customer)?;
        Some((slot, account.end_hold(id, spot, attempt)?))
    }

    pub(super) fn open_holds(&self) -> usize {
        (0..self.customers.reach())
            .filter_map(|slot| self.customers.get(slot)?.open.as_ref())
            .map(|open| open.live)
            .sum()
    }

    /// Notes when a hold will expire. Most holds end long before, and some never expire.
    pub(super) fn expire_at(&mut self, due: Duration, slot: u32, id: &EventId) {
        const FEW: usize = 64;
        if self.expiring.len() >= self.crowded {
            let customers = &self.customers;
            self.expiring.retain(|(due, slot, id)| {
                let open = customers.get(*slot).and_then(|account| account.open.as_ref());
                let mut holds = open.into_iter().flat_map(|open| open.holds.iter().flatten());
                holds.any(|hold| hold.id == *id && hold.expires == Some(*due))
            });
            self.crowded = FEW.max(2 * self.expiring.len());
        }
        self.expiring.push((due, slot, id.clone()));
    }

    /// Ends the holds that nobody renewed. They cost nothing; a settlement that comes later counts.
    pub(super) fn expire(&mut self, now: Moment<'_>, around: Around<'_>) {
        if !self.expiring.is_empty() {
            self.expire_until(now.monotonic(), now, around);
        }
    }

    fn expire_until(&mut self, until: Duration, now: Moment<'_>, around: Around<'_>) {
        while let Some((due, ..)) = self.expiring.peek()
            && *due <= until
        {
            let Some((due, slot, id)) = self.expiring.pop() else { return };
            let Some(account) = self.customers.get_mut(slot) else { continue };
            let open = account.open.as_ref();
            let still_due = open.is_some_and(|open| {
                let hold = open.holds.iter().flatten().find(|hold| hold.id == id);
                hold.is_some_and(|hold| hold.expires.is_some_and(|expires| expires <= due))
            });
            if still_due && account.end_hold(&id, None, None).is_some() {
                let customer = account.id.clone();
                around.released(&customer, &id);
                // It was checked before that, by whatever clock.
                let checked = now.wall().saturating_add(AHEAD);
                self.expired.remember(&customer, &id, Fate::Expired, Some(checked), now);
                let hash = super::hash_in_shard(&customer);
                self.close(slot, now, Around { hash, ..around });
            }
        }
    }
}

/// A place among the holds that is too far out is left to be looked for.
pub(super) fn place_of(slot: u32, at: usize, serial: u16) -> Place {
    let at = u16::try_from(at).unwrap_or(u16::MAX);
    Place(u64::from(slot) << 32 | u64::from(at) << 16 | u64::from(serial))
}

fn slot_of(place: Place) -> u32 {
    (place.0 >> 32) as u32
}

fn spot_of(place: Place) -> Spot {
    Spot { at: (place.0 >> 16) as u16, serial: place.0 as u16 }
}
