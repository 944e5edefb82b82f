//! The same books in a service that speaks Limitry's API, which carries less than they can do.

use std::any::Any;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tower_limitry::Books;
use tower_limitry::client::Hosted;
use tower_limitry::engine::EngineBuilder;
use tower_limitry::store::Sqlite;

use crate::remote::{OfServer, serve};
use crate::support::MINUTE;

/// Asks a server over fresh books by Limitry's own calls alone. It remembers ids for as long as their
/// events: what a service in memory forgets is no difference of the API.
pub(crate) fn open(builder: EngineBuilder) -> Books {
    let store = Sqlite::open(crate::file::fresh()).unwrap();
    let books = builder.build_on(store).unwrap().erased();
    let hosted = Hosted::builder(&serve(&books)).clock(OfServer::of(books));
    let opening = pin!(hosted.check_timeout(MINUTE).settle_timeout(MINUTE).open());
    // Without a file it waits for nothing.
    match opening.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(hosted) => Books::new(hosted.unwrap()).erased(),
        Poll::Pending => panic!("opening waits"),
    }
}

/// Something of the suite that the API cannot carry, by its words in the docs of [`Hosted`].
struct Difference {
    told: &'static str,
    /// Tests that do not hold for it, each with what it then says.
    tests: &'static [(&'static str, &'static str)],
}

const NEW_LIMIT: &str =
    "there is no limit of that id, and Limitry's API gives new ones ids of its own";
const VOID: &str = "Limitry's API cannot take events back";
const TRANSACTIONS: &str = "Limitry's API does not tell what a balance was after each transaction";

const DIFFERENCES: &[Difference] = &[
    Difference {
        told: "An id of your own is remembered while it is on its way, and not longer",
        tests: &[
            (
                "holds::an_id_settled_after_its_hold_ended_is_not_charged_again",
                "again.was_settled()",
            ),
            ("holds::an_id_that_was_settled_is_not_charged_again", "again.was_settled()"),
            (
                "holds::an_id_that_was_settled_shows_nothing_that_was_not_looked_at",
                "left: 1\n right: 0",
            ),
        ],
    },
    Difference {
        told: "Events cannot be taken back",
        tests: &[
            ("voids::an_event_is_taken_back_once", VOID),
            ("voids::what_was_charged_is_given_back", VOID),
            ("voids::an_event_of_an_earlier_window_leaves_this_one_alone", VOID),
            ("voids::a_limit_added_later_does_not_count_what_was_taken_back", VOID),
            ("voids::the_highest_and_the_latest_are_found_without_it", VOID),
            ("voids::an_event_that_is_not_there_is_not_found", "left: Invalid\n right: NotFound"),
            ("voids::what_takes_an_event_back_is_told", VOID),
        ],
    },
    Difference {
        told: "New meters and limits are made by [`Client`]",
        tests: &[
            ("definitions::raising_a_limit_keeps_its_usage", NEW_LIMIT),
            ("definitions::a_limit_added_later_counts_the_events_that_are_kept", NEW_LIMIT),
            ("definitions::an_early_event_is_there_for_a_limit_added_later", NEW_LIMIT),
            (
                "definitions::an_own_limit_on_something_new_counts_the_events_that_are_kept",
                NEW_LIMIT,
            ),
            (
                "definitions::a_limit_that_is_removed_no_longer_refuses_and_is_exact_when_it_returns",
                NEW_LIMIT,
            ),
            (
                "definitions::a_meter_can_be_added_and_removed",
                "there is no meter of that id, and Limitry's API gives new ones ids of its own",
            ),
            ("definitions::requests_that_run_through_a_change_settle_by_the_new_rules", NEW_LIMIT),
            ("definitions::customers_whose_own_limits_ended_follow_the_default", NEW_LIMIT),
            ("definitions::a_limit_that_is_away_moves_with_its_customer", NEW_LIMIT),
            ("inputs::a_cap_is_a_number_above_0", NEW_LIMIT),
            ("inputs::alerts_are_at_1_to_100_per_cent", NEW_LIMIT),
            ("inputs::a_dimension_has_a_key_of_letters_and_a_text_that_fits", NEW_LIMIT),
            (
                "voids::a_highest_that_is_found_anew_is_the_customers_own_and_of_its_window",
                NEW_LIMIT,
            ),
        ],
    },
    Difference {
        told: "Transactions are read by [`Client`]",
        tests: &[
            ("balances::a_debit_is_taken_whole_or_not_at_all", TRANSACTIONS),
            (
                "balances::transactions_are_paged_newest_first_and_begin_with_the_opening",
                TRANSACTIONS,
            ),
            ("balances::the_opening_is_found_behind_the_very_first_change", TRANSACTIONS),
            ("balances::what_must_remain_of_a_balance_can_be_changed", TRANSACTIONS),
            ("balances::an_unknown_balance_is_not_found", "left: Invalid\n right: NotFound"),
        ],
    },
    Difference {
        told: "A repeat is answered as it was at first",
        tests: &[
            ("balances::a_credit_with_a_reference_is_taken_once_for_ever", "!again.applied"),
            ("balances::a_repeated_credit_is_answered_with_its_own_transaction", "!again.applied"),
            (
                "events::every_recorded_event_is_told_once_as_it_was_recorded",
                "left: true\n right: false",
            ),
            ("events::an_own_id_counts_once", "!books.record(event(5)).await.unwrap().recorded"),
            (
                "events::an_own_id_may_tell_its_time_itself",
                "!books.record(event()).await.unwrap().recorded",
            ),
            ("events::a_repeat_is_never_counted_however_late", "step 0"),
            ("events::a_repeat_of_an_early_event_is_never_counted", "hour 1"),
            ("events::a_repeat_is_never_counted_though_the_clock_was_set_back", "minute 0"),
        ],
    },
    Difference {
        told: "Limits that are narrowed to dimensions",
        tests: &[
            (
                "checks::a_limit_on_a_dimension_holds_only_for_it",
                "limit \"large\" was not looked at",
            ),
            (
                "checks::the_final_dimensions_choose_the_counters",
                "limit \"large\" was not looked at",
            ),
        ],
    },
    Difference {
        told: "An estimate that no meter reads",
        tests: &[("checks::an_estimate_that_no_meter_reads_is_an_error", "did not fail: Ok(")],
    },
    Difference {
        told: "A billing date comes back as a moment",
        tests: &[(
            "definitions::a_customer_is_kept_with_what_is_attached",
            "anchor: Some(\"2026-01-30T23:00:00Z\")",
        )],
    },
];

/// Runs a test of the suite. One that is listed must fail as it is listed, any other must hold.
pub(crate) async fn but_for_the_differences(
    name: &str,
    test: impl Future<Output = ()> + Send + 'static,
) {
    let mut listed = DIFFERENCES.iter().flat_map(|difference| difference.tests);
    let listed = listed.find(|(test, _)| *test == name);
    let ended = tokio::spawn(test).await.map_err(|error| error.into_panic());
    match (ended, listed) {
        (Ok(()), None) => {}
        (Ok(()), Some(_)) => panic!("{name} holds, though it is listed as a difference"),
        (Err(panic), None) => std::panic::resume_unwind(panic),
        (Err(panic), Some((_, says))) => {
            let said = words(&*panic);
            assert!(said.contains(says), "{name} does not say {says:?}, but {said:?}");
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

#[test]
fn every_difference_is_told_in_the_docs_and_names_tests_of_the_suite() {
    let docs = include_str!("../../src/client/hosted/mod.rs");
    let docs = docs.lines().map_while(|line| line.strip_prefix("//!"));
    let docs: Vec<&str> = docs.flat_map(str::split_whitespace).collect();
    let docs = docs.join(" ");
    let mut named: Vec<&str> = Vec::new();
    for Difference { told, tests } in DIFFERENCES {
        assert!(docs.contains(told), "the docs do not tell: {told}");
        assert!(!tests.is_empty(), "nothing differs: {told}");
        named.extend(tests.iter().map(|(test, _)| *test));
    }
    let count = named.len();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), count, "a test is listed twice");
    for name in named {
        assert!(crate::in_limitrys_dialect::NAMES.contains(&name), "there is no {name}");
    }
}
