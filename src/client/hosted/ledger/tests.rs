use super::*;
use crate::backend::{Check, Hold};
use crate::policy::Usage;

const NOW: Duration = Duration::ZERO;
const AT: Timestamp = Timestamp::UNIX_EPOCH;

fn ann() -> CustomerId {
    CustomerId::new("ann").unwrap()
}

fn check(id: &str, tokens: u32) -> Check {
    let check = Check::of("ann").event_type("chat").estimate("tokens", tokens).id(id);
    check.charge("credits", |usage| usage.value("tokens"))
}

fn settlement(id: &str, tokens: u32) -> Settlement {
    let hold = Hold { ticket: check(id, 0).ticket(), at: AT };
    Settlement::new(hold, Some(Usage::of("tokens", tokens))).0
}

fn on(ledger: &Ledger, began: Tick) -> (u32, u32) {
    let (meter, none) = (Meter::sum("tokens", "tokens"), Dimensions::new());
    let of = (&meter, &none, &Window::ALL_TIME);
    let asked = Asked { began, now: NOW };
    let Local { used, held } = ledger.on_limit(&ann(), asked, of, Amount::ZERO);
    assert_eq!(ledger.on_balance(&ann(), asked, "credits"), Local { used, held });
    (used.floor() as u32, held.floor() as u32)
}

#[test]
fn a_use_counts_from_its_check_until_the_api_tells_of_it() {
    let mut ledger = Ledger::default();
    ledger.place(&ann(), Use::of_check(&check("a", 100), AT, None));
    let began = ledger.begin(&ann());
    assert_eq!(on(&ledger, began), (0, 100));
    let used = settlement("a", 120);
    ledger.used(&used);
    assert_eq!(on(&ledger, began), (120, 0), "what was used, not the estimate");
    ledger.going(&used);
    assert_eq!(on(&ledger, began), (0, 120), "the answer may hold it, or not");
    ledger.failed(&used.hold.ticket);
    assert_eq!(on(&ledger, began), (120, 0));
    ledger.going(&used);
    ledger.charged(&used.hold.ticket, NOW);
    ledger.delivered(&used.hold.ticket, NOW, NOW);
    assert_eq!(on(&ledger, began), (0, 120), "the answer may be older than the delivery");
    let later = ledger.begin(&ann());
    assert_eq!(on(&ledger, later), (0, 0));
    ledger.end(&ann(), began, NOW);
    ledger.end(&ann(), later, NOW);
    assert!(ledger.is_empty());
}

/// A debt that was just paid once counted as a call.
#[test]
fn what_moves_a_balance_by_hand_is_no_event() {
    let mut ledger = Ledger::default();
    let (meter, none) = (Meter::count("calls"), Dimensions::new());
    let began = ledger.begin(&ann());
    let asked = Asked { began, now: NOW };
    ledger.paid(&ann(), ("credits", 5.into()), (NOW, NOW));
    let debit = ledger.debiting(&ann(), "credits", 7.into());
    let on_limit = |ledger: &Ledger| {
        let of = (&meter, &none, &Window::ALL_TIME);
        ledger.on_limit(&ann(), asked, of, Amount::ZERO)
    };
    assert_eq!(on_limit(&ledger), Local::default());
    let held = |ledger: &Ledger| ledger.on_balance(&ann(), asked, "credits").held;
    assert_eq!(held(&ledger), 12.into());
    ledger.debited(&ann(), debit, None, NOW);
    assert_eq!(held(&ledger), 5.into(), "it was refused");
    ledger.end(&ann(), began, NOW);
    assert!(ledger.is_empty());
}

#[test]
fn a_service_that_tells_of_uses_late_is_given_its_time() {
    let (mut ledger, until) = (Ledger::default(), Duration::from_secs(2));
    let used = settlement("a", 5);
    ledger.going(&used);
    ledger.charged(&used.hold.ticket, until);
    ledger.delivered(&used.hold.ticket, until, NOW);
    let began = ledger.begin(&ann());
    assert_eq!(on(&ledger, began), (0, 5));
    ledger.end(&ann(), began, NOW);
    ledger.sweep(until);
    assert!(ledger.is_empty());
}

#[test]
fn a_charge_that_was_taken_is_not_counted_while_its_event_still_waits() {
    let mut ledger = Ledger::default();
    let used = settlement("a", 5);
    ledger.going(&used);
    ledger.charged(&used.hold.ticket, NOW);
    ledger.failed(&used.hold.ticket);
    let asked = Asked { began: ledger.begin(&ann()), now: NOW };
    assert_eq!(ledger.on_balance(&ann(), asked, "credits"), Local::default());
    assert!(ledger.is_charged(&used.hold.ticket));
}

#[test]
fn holds_end_by_release_and_by_their_time_and_leave_nothing() {
    let mut ledger = Ledger::default();
    let ends = Some(Duration::from_secs(1));
    ledger.place(&ann(), Use::of_check(&check("a", 1), AT, None));
    ledger.place(&ann(), Use::of_check(&check("b", 2), AT, ends));
    assert_eq!(ledger.running(NOW), 2);
    ledger.release(&check("a", 1).ticket(), NOW);
    assert_eq!(ledger.running(NOW), 1);
    let b = check("b", 2);
    assert!(ledger.renew(&ann(), &b.ask().id, NOW, Duration::from_secs(3)));
    assert_eq!(ledger.running(Duration::from_secs(2)), 1);
    assert!(!ledger.renew(&ann(), &b.ask().id, Duration::from_secs(3), Duration::MAX));
    ledger.sweep(Duration::from_secs(3));
    assert!(ledger.is_empty());
}

#[test]
fn gauges_take_the_newest_and_the_highest_of_what_is_on_its_way() {
    let mut ledger = Ledger::default();
    ledger.place(&ann(), Use::of_check(&check("a", 900), AT, None));
    ledger.used(&settlement("b", 30));
    ledger.used(&settlement("c", 20));
    let asked = Asked { began: ledger.begin(&ann()), now: NOW };
    let none = Dimensions::new();
    let used = |meter: &Meter, told: u32| {
        let of = (meter, &none, &Window::ALL_TIME);
        let local = ledger.on_limit(&ann(), asked, of, told.into());
        assert_eq!(local.held, Amount::ZERO, "gauges hold nothing");
        Amount::from(told).saturating_add(local.used)
    };
    assert_eq!(used(&Meter::max("peak", "tokens"), 25), 30.into());
    assert_eq!(used(&Meter::max("peak", "tokens"), 40), 40.into());
    assert_eq!(used(&Meter::latest("now", "tokens"), 40), 20.into());
}

#[test]
fn only_what_a_limit_reads_counts_on_it() {
    let mut ledger = Ledger::default();
    ledger.used(&settlement("a", 30));
    let asked = Asked { began: ledger.begin(&ann()), now: NOW };
    let mut large = Dimensions::new();
    large.set("model", "large-2");
    let on = |meter: Meter, narrowed: &Dimensions, window: &Window| {
        ledger.on_limit(&ann(), asked, (&meter, narrowed, window), Amount::ZERO).used
    };
    let (none, ever) = (Dimensions::new(), &Window::ALL_TIME);
    let tokens = || Meter::sum("tokens", "tokens");
    assert_eq!(on(tokens(), &none, ever), 30.into());
    assert_eq!(on(tokens().event_type("image"), &none, ever), Amount::ZERO);
    assert_eq!(on(tokens(), &large, ever), Amount::ZERO);
    assert_eq!(on(Meter::sum("images", "images"), &none, ever), Amount::ZERO);
    assert_eq!(on(Meter::count("calls"), &none, ever), Amount::ONE);
    let later = Window::new(Timestamp::from_seconds(9_000), Timestamp::from_seconds(9_060));
    assert_eq!(on(tokens(), &none, &later), Amount::ZERO);
}
