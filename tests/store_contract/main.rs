//! What every store does alike. A store joins with one line at the end.

#![cfg(feature = "test-util")]
#![allow(clippy::unwrap_used)]

mod alerts;
mod balances;
mod checks;
mod closing;
mod definitions;
mod events;
#[cfg(feature = "sqlite")]
#[path = "../support/file.rs"]
mod file;
mod holds;
#[cfg(all(feature = "client", feature = "server", feature = "sqlite"))]
mod hosted;
mod inputs;
mod kinds;
mod memory;
#[cfg(feature = "redis")]
#[path = "../support/redis.rs"]
mod redis;
#[cfg(all(feature = "client", feature = "server"))]
mod remote;
#[cfg(all(feature = "client", feature = "server"))]
mod repeats;
#[path = "../support/mod.rs"]
mod support;
mod voids;

macro_rules! tests {
    ($open:expr, $run:path; $($topic:ident: [$($test:ident,)*])*) => {
        #[allow(dead_code)]
        pub(crate) const NAMES: &[&str] =
            &[$($(concat!(stringify!($topic), "::", stringify!($test)),)*)*];

        $(
            mod $topic {
                $(
                    #[tokio::test]
                    async fn $test() {
                        let name = concat!(stringify!($topic), "::", stringify!($test));
                        $run(name, crate::$topic::$test($open)).await;
                    }
                )*
            }
        )*
    };
}

async fn as_it_is(_: &str, test: impl Future<Output = ()>) {
    test.await;
}

/// Runs the whole suite over one store: a name, and what opens fresh books of an engine on it. How
/// each test is run can be said besides.
macro_rules! store_suite {
    ($name:ident, $open:expr) => {
        store_suite!($name, $open, crate::as_it_is);
    };
    ($name:ident, $open:expr, $run:path) => {
        mod $name {
            tests! { $open, $run;
                alerts: [
                    each_percentage_is_told_once_and_in_order,
                    an_alert_says_what_it_is_about,
                    alerts_are_told_again_in_the_next_window,
                    alerts_are_not_told_again_after_the_cap_was_raised,
                    a_cap_that_is_raised_while_a_request_runs_is_what_alerts_go_by,
                    limits_on_one_counter_alert_each_for_itself,
                    a_repeat_tells_nothing,
                    a_value_that_does_not_count_tells_nothing,
                    a_hook_that_panics_costs_nothing,
                ]
                balances: [
                    every_customer_has_the_default,
                    the_price_of_the_estimate_is_held_and_of_the_usage_is_charged,
                    without_an_estimate_something_must_be_left,
                    an_overrun_becomes_debt_and_refuses_the_next,
                    a_minimum_below_nothing_allows_debt,
                    a_minimum_above_nothing_keeps_a_reserve,
                    a_balance_that_is_missing_is_denied_for_its_own_reason,
                    a_price_that_cannot_be_told_is_missing_and_never_nothing,
                    the_balance_may_depend_on_the_request,
                    a_balance_is_created_once,
                    a_credit_with_a_reference_is_taken_once_for_ever,
                    a_repeated_credit_is_answered_with_its_own_transaction,
                    a_debit_is_taken_whole_or_not_at_all,
                    a_debit_leaves_alone_what_is_held,
                    an_unknown_balance_is_not_found,
                    transactions_are_paged_newest_first_and_begin_with_the_opening,
                    the_opening_is_found_behind_the_very_first_change,
                    a_credit_beyond_the_largest_amount_is_an_error,
                    what_must_remain_of_a_balance_can_be_changed,
                    balances_of_everybody_are_paged_by_customer_and_name,
                ]
                checks: [
                    an_estimate_is_held_until_it_is_settled,
                    settling_less_gives_the_rest_back,
                    settling_more_charges_it_in_full_and_refuses_the_next,
                    without_an_estimate_it_is_refused_once_the_cap_is_reached,
                    an_estimate_of_nothing_asks_nothing,
                    an_estimate_of_another_value_asks_nothing_of_this_meter,
                    an_estimate_that_no_meter_reads_is_an_error,
                    a_release_records_nothing,
                    a_permit_that_is_dropped_releases,
                    a_settlement_happens_though_its_future_is_dropped,
                    a_check_that_is_dropped_unanswered_places_nothing,
                    a_permit_may_be_dropped_outside_a_runtime,
                    one_check_asked_many_times_is_as_many_requests,
                    customers_are_counted_apart,
                    a_request_denied_by_one_limit_touches_no_other,
                    a_request_denied_by_its_balance_touches_no_limit,
                    an_allowed_request_is_held_everywhere_and_settled_everywhere,
                    those_that_refuse_come_first,
                    a_preview_decides_and_keeps_nothing,
                    a_preview_shows_only_what_others_hold,
                    a_preview_tells_what_is_used_whatever_became_of_its_id,
                    only_limits_that_such_an_event_could_move_can_refuse,
                    a_limit_on_a_dimension_holds_only_for_it,
                    the_final_dimensions_choose_the_counters,
                    limits_on_one_counter_share_its_usage,
                    a_window_that_ends_begins_again_at_nothing,
                    a_request_counts_in_the_window_of_its_check,
                    dimensions_of_the_check_go_into_the_record,
                    usage_that_is_no_number_charges_the_estimate_and_says_so,
                    usage_too_large_for_the_books_stays_at_the_largest,
                ]
                closing: [
                    settled_waits_for_the_last_request,
                    shutdown_takes_nothing_new_and_waits_for_what_runs,
                    shutdown_says_so_when_requests_run_on,
                    shutdown_does_not_wait_for_holds_that_ended,
                ]
                definitions: [
                    an_own_limit_replaces_the_default,
                    an_own_limit_may_be_lower,
                    raising_a_limit_keeps_its_usage,
                    a_limit_added_later_counts_the_events_that_are_kept,
                    an_early_event_is_there_for_a_limit_added_later,
                    an_own_limit_on_something_new_counts_the_events_that_are_kept,
                    a_limit_that_is_removed_no_longer_refuses_and_is_exact_when_it_returns,
                    a_limit_that_changes_its_period_counts_anew,
                    a_meter_that_is_replaced_counts_by_its_new_definition,
                    a_meter_can_be_added_and_removed,
                    a_change_that_makes_no_sense_changes_nothing,
                    requests_that_run_through_a_change_settle_by_the_new_rules,
                    customers_whose_own_limits_ended_follow_the_default,
                    a_customer_is_kept_with_what_is_attached,
                    customers_are_paged_by_id,
                    a_zone_moves_the_days_of_a_customer,
                    an_anchor_moves_the_months_of_a_customer,
                    a_zone_that_changes_counts_the_kept_events_again,
                    a_limit_that_is_away_moves_with_its_customer,
                    an_early_event_follows_its_customer_into_another_zone,
                ]
                events: [
                    an_event_counts_without_a_check_and_is_never_refused,
                    many_are_recorded_together_or_not_at_all,
                    every_recorded_event_is_told_once_as_it_was_recorded,
                    a_hook_for_events_that_panics_costs_nothing,
                    a_thousand_are_taken_and_not_one_more,
                    an_own_id_counts_once,
                    an_own_id_may_tell_its_time_itself,
                    a_repeat_is_never_counted_however_late,
                    an_event_under_the_id_of_a_settled_request_is_a_repeat,
                    a_repeat_of_an_early_event_is_never_counted,
                    a_repeat_is_never_counted_though_the_clock_was_set_back,
                    an_own_id_without_a_time_is_an_error,
                    events_are_listed_by_customer_and_type_newest_first,
                    a_late_event_counts_in_its_own_window_alone,
                    an_early_event_counts_when_its_window_begins,
                    an_event_may_come_a_day_early_and_not_more,
                    an_event_at_either_end_of_time_is_no_trouble,
                    a_meter_reads_any_range,
                    the_window_of_a_limit_is_read_from_its_counter,
                    a_query_that_makes_no_sense_is_an_error,
                    a_check_without_a_type_is_recorded_as_a_request,
                ]
                holds: [
                    a_hold_without_an_end_lives_as_long_as_its_request,
                    a_hold_ends_by_itself_when_it_is_told_to,
                    settling_after_the_end_still_records_once,
                    a_settlement_that_comes_too_late_is_counted_or_told,
                    releasing_after_the_end_changes_nothing,
                    a_hold_that_is_renewed_lives_on,
                    a_hold_may_be_told_to_live_for_ever,
                    what_an_ended_hold_set_aside_can_be_spent,
                    a_balance_does_not_show_an_ended_hold,
                    an_id_that_is_running_is_a_conflict,
                    an_id_that_was_settled_is_not_charged_again,
                    an_id_that_was_settled_shows_nothing_that_was_not_looked_at,
                    an_id_that_was_released_may_be_tried_again,
                    an_id_that_was_denied_may_be_tried_again,
                    one_id_means_another_use_for_every_customer,
                    two_attempts_of_one_id_count_once_though_the_first_hold_ended,
                    an_id_settled_after_its_hold_ended_is_not_charged_again,
                    a_late_settlement_never_touches_another_customer,
                    a_late_release_never_touches_another_customer,
                    an_attempt_that_goes_away_leaves_the_running_one_alone,
                    an_attempt_that_goes_away_does_not_spoil_its_id,
                    ids_that_are_made_are_never_the_same,
                ]
                inputs: [
                    a_customer_is_1_to_256_bytes,
                    an_estimate_is_a_number_of_0_or_more,
                    an_event_type_is_1_to_256_bytes,
                    an_id_is_1_to_256_bytes,
                    a_cap_is_a_number_above_0,
                    alerts_are_at_1_to_100_per_cent,
                    a_dimension_has_a_key_of_letters_and_a_text_that_fits,
                    ids_of_definitions_are_slugs,
                    a_customer_has_a_zone_and_a_date_that_exist,
                    credits_and_debits_are_above_0,
                ]
                kinds: [
                    a_count_asks_and_holds_one,
                    a_count_of_a_value_counts_events_that_carry_it,
                    each_meter_reads_its_own_value_wherever_it_stands,
                    a_max_keeps_the_highest_and_holds_nothing,
                    a_max_below_nothing_is_kept,
                    a_latest_value_is_the_newest_by_time,
                    a_latest_value_does_not_carry_over,
                    more_than_the_cap_itself_is_too_large_and_waits_for_nothing,
                    what_running_requests_hold_is_waited_for_shortly,
                    the_wait_is_rounded_up_and_never_nothing,
                    of_several_waits_the_longest_counts,
                    it_is_refused_before_the_told_time_and_admitted_at_it,
                    all_time_never_ends,
                    usage_reads_exceeded_when_nothing_is_left,
                ]
                voids: [
                    an_event_is_taken_back_once,
                    what_was_charged_is_given_back,
                    an_event_of_an_earlier_window_leaves_this_one_alone,
                    a_limit_added_later_does_not_count_what_was_taken_back,
                    the_highest_and_the_latest_are_found_without_it,
                    a_highest_that_is_found_anew_is_the_customers_own_and_of_its_window,
                    an_event_that_is_not_there_is_not_found,
                    what_takes_an_event_back_is_told,
                ]
            }
        }
    };
}

store_suite!(on_memory, |builder| builder.build().unwrap().erased());

#[cfg(feature = "sqlite")]
store_suite!(on_sqlite, |builder| {
    let store = tower_limitry::store::Sqlite::open(crate::file::fresh()).unwrap();
    builder.build_on(store).unwrap().erased()
});

#[cfg(all(feature = "client", feature = "server"))]
store_suite!(through_a_server, crate::remote::open);
#[cfg(all(feature = "client", feature = "server", feature = "sqlite"))]
store_suite!(in_limitrys_dialect, crate::hosted::open, crate::hosted::but_for_the_differences);
#[cfg(feature = "redis")]
store_suite!(on_redis, |builder| {
    let (url, prefix) = crate::redis::fresh();
    let options =
        tower_limitry::store::Redis::options().prefix(prefix).timeout(crate::support::MINUTE);
    let store = options.danger_time_of_the_engine().open(&url).unwrap();
    builder.build_on(store).unwrap().erased()
});

#[cfg(feature = "redis")]
store_suite!(on_redis_cluster, |builder| {
    let (url, prefix) = crate::redis::fresh_on_cluster();
    let options =
        tower_limitry::store::Redis::options().prefix(prefix).timeout(crate::support::MINUTE);
    let store = options.danger_time_of_the_engine().open(&url).unwrap();
    builder.build_on(store).unwrap().erased()
});
