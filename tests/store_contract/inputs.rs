//! Bad input is told at once, with the field, the problem and the remedy.

use tower_limitry::backend::Customer;
use tower_limitry::policy::{Amount, Credit, Debit};
use tower_limitry::{Check, Event, Limit, Meter, NewBalance};

use crate::support::*;

pub(crate) async fn a_customer_is_1_to_256_bytes(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let long = "x".repeat(257);
    for (id, problem) in [("", "is empty"), (&*long, "has 257 bytes")] {
        let parts = ["customer", problem, "give 1 to 256"];
        assert_invalid(&failed(&books, Check::of(id)).await, &parts);
        assert_invalid(&books.preview(Check::of(id)).await.unwrap_err(), &parts);
        assert_invalid(&books.usage(id).await.unwrap_err(), &parts);
        assert_invalid(&books.balances(id).await.unwrap_err(), &parts);
        assert_invalid(&books.customer(id).await.unwrap_err(), &parts);
        assert_invalid(&books.record(Event::new(id, "chat", total(1))).await.unwrap_err(), &parts);
        assert_invalid(&books.credit(Credit::new(id, "credits", 1)).await.unwrap_err(), &parts);
        let error = books.put_customer(Customer::new(id)).await.unwrap_err();
        assert_invalid(&error, &["id", problem]);
        let own = Limit::per_day("own", "tokens", 1).for_customer(id);
        assert_invalid(&books.put_limit(own).await.unwrap_err(), &["own", "customer", problem]);
    }
    spend(&books, &"x".repeat(256), 1).await;
}

pub(crate) async fn an_estimate_is_a_number_of_0_or_more(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let error = failed(&books, ask("ada", -1)).await;
    assert_invalid(&error, &["estimate", "total_tokens", "-1", "give 0 or more"]);
    let error = failed(&books, ask("ada", f64::NAN)).await;
    assert_invalid(&error, &["estimate", "total_tokens", "not a finite decimal number"]);
    let error = failed(&books, ask("ada", u64::MAX)).await;
    assert_invalid(&error, &["estimate", "total_tokens", "choose a larger unit"]);
    assert_eq!(books.open_holds().await.unwrap(), 0);
}

pub(crate) async fn an_event_type_is_1_to_256_bytes(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let long = "x".repeat(257);
    for event_type in ["", &*long] {
        let parts = ["event_type", "give 1 to 256 bytes"];
        let event = Event::new("ada", event_type, total(1));
        assert_invalid(&books.record(event).await.unwrap_err(), &parts);
        let check = Check::of("ada").event_type(event_type);
        assert_invalid(&failed(&books, check).await, &parts);
        let meter = Meter::count("calls").event_type(event_type);
        assert_invalid(&books.put_meter(meter).await.unwrap_err(), &["calls", parts[0], parts[1]]);
    }
}

pub(crate) async fn an_id_is_1_to_256_bytes(open: Open) {
    let books = open(hundred_a_day(&noon()));
    for id in ["".to_owned(), "x".repeat(257)] {
        assert_invalid(&failed(&books, Check::of("ada").id(&id)).await, &["id", "give 1 to 256"]);
        let event = Event::new("ada", "chat", total(1)).id(&id).at(time(NOON));
        assert_invalid(&books.record(event).await.unwrap_err(), &["events[0].id"]);
    }
}

pub(crate) async fn a_cap_is_a_number_above_0(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let put = async |limit: Limit| books.put_limit(limit).await.unwrap_err();
    for cap in ["0", "-1", "-0.000001", "0.0000001"] {
        let error = put(Limit::per_day("x", "tokens", cap)).await;
        assert_invalid(&error, &[r#"limit "x": cap"#, "give an amount above 0"]);
    }
    let error = put(Limit::per_day("x", "tokens", f64::NAN)).await;
    assert_invalid(&error, &[r#"limit "x": cap"#, "not a finite decimal number"]);
    for cap in [u64::MAX, 9_223_372_036_855] {
        let error = put(Limit::per_day("x", "tokens", cap)).await;
        assert_invalid(&error, &[r#"limit "x": cap"#, "choose a larger unit"]);
    }
    books.put_limit(Limit::per_day("x", "tokens", Amount::MAX)).await.unwrap();
}

pub(crate) async fn alerts_are_at_1_to_100_per_cent(open: Open) {
    let books = open(hundred_a_day(&noon()));
    for percent in [0, 101, 255] {
        let limit = Limit::per_day("x", "tokens", 1).alert_at([50, percent]);
        let error = books.put_limit(limit).await.unwrap_err();
        let given = percent.to_string();
        assert_invalid(&error, &[r#"limit "x": alert_at"#, &given, "from 1 to 100"]);
    }
    books.put_limit(Limit::per_day("x", "tokens", 1).alert_at([1, 100])).await.unwrap();
}

pub(crate) async fn a_dimension_has_a_key_of_letters_and_a_text_that_fits(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let long = "k".repeat(65);
    for key in ["", "a b", "modèle", "a-b", &*long] {
        let limit = Limit::per_day("x", "tokens", 1).dimension(key, "v");
        let error = books.put_limit(limit).await.unwrap_err();
        assert_invalid(&error, &[r#"limit "x": dimension"#, "letters, digits or underscores"]);
        let meter = Meter::count("x").dimension(key, "v");
        let error = books.put_meter(meter).await.unwrap_err();
        assert_invalid(&error, &[r#"meter "x": dimension"#, "letters, digits or underscores"]);
    }
    for text in ["v".repeat(257), "ü".repeat(129), "𝄞".repeat(65)] {
        let limit = Limit::per_day("x", "tokens", 1).dimension("model", text);
        let error = books.put_limit(limit).await.unwrap_err();
        assert_invalid(&error, &["dimension \"model\"", "at most 256 bytes"]);
    }
    let fits = Limit::per_day("x", "tokens", 1).dimension("model", "v".repeat(256));
    books.put_limit(fits).await.unwrap();
}

pub(crate) async fn ids_of_definitions_are_slugs(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let long = "x".repeat(129);
    for id in ["", "daily tokens", "täglich", "a\"b", &*long] {
        let error = books.put_limit(Limit::per_day(id, "tokens", 1)).await.unwrap_err();
        assert_invalid(&error, &["limit", "is not a slug", "give 1 to 128"]);
        let error = books.put_meter(Meter::count(id)).await.unwrap_err();
        assert_invalid(&error, &["meter", "is not a slug", "give 1 to 128"]);
    }
}

pub(crate) async fn a_customer_has_a_zone_and_a_date_that_exist(open: Open) {
    let books = open(hundred_a_day(&noon()));
    let put = async |customer: Customer| books.put_customer(customer).await.unwrap_err();
    let error = put(Customer::new("ada").zone("Mars/Olympus")).await;
    assert_invalid(&error, &["zone", "IANA name"]);
    let error = put(Customer::new("ada").billing_anchor("2026-02-30")).await;
    assert_invalid(&error, &["anchor", "2026-01-31"]);
    assert_eq!(books.customer("ada").await.unwrap(), None);
}

pub(crate) async fn credits_and_debits_are_above_0(open: Open) {
    let books = open(hundred_a_day(&noon()).default_balance(NewBalance::new("credits").initial(5)));
    for (text, problem) in [("0", "give more than 0"), ("-1", "give more than 0"), ("x", "not a")] {
        let error = books.credit(Credit::new("ada", "credits", text)).await.unwrap_err();
        assert_invalid(&error, &["amount", problem]);
        let error = books.debit(Debit::new("ada", "credits", text)).await.unwrap_err();
        assert_invalid(&error, &["amount", problem]);
    }
    assert_eq!(current(&books, "ada", "credits").await, amount(5));
    let create = async |terms: NewBalance| books.create_balance("ada", terms).await.unwrap_err();
    assert_invalid(&create(NewBalance::new("")).await, &["name", "give 1 to 256 bytes"]);
    assert_invalid(&create(NewBalance::new("x").initial(f64::NAN)).await, &["initial"]);
    assert_invalid(&create(NewBalance::new("x").minimum(u64::MAX)).await, &["minimum"]);
}
