use super::*;

/// The standing after a success whose usage is missing, with and without an estimate.
async fn after(policy: MissingUsage) -> [Standing; 2] {
    let mut standings = Vec::new();
    for expected in [tokens(10), Usage::new()] {
        let books = books();
        let layer = LimitryLayer::new(books.clone(), identify(), |_: &response::Parts| None)
            .estimate(move |_| expected.clone())
            .charge(CREDITS, price)
            .on_missing_usage(policy);
        let response = layer.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
        frames(response.into_body()).await;
        standings.push(standing(&books).await);
    }
    standings.try_into().unwrap()
}

#[tokio::test]
async fn the_estimate_is_charged_by_default() {
    assert_eq!(MissingUsage::default(), MissingUsage::ChargeEstimate);
    let standings = after(MissingUsage::ChargeEstimate).await;
    assert_eq!(standings, [Standing::charged(10, 1), Standing::charged(0, 1)]);
}

#[tokio::test]
async fn the_event_is_recorded_alone_where_asked() {
    let standings = after(MissingUsage::RecordOnly).await;
    assert_eq!(standings, [Standing::charged(0, 1), Standing::charged(0, 1)]);
}

#[tokio::test]
async fn nothing_is_recorded_where_asked() {
    let standings = after(MissingUsage::Release).await;
    assert_eq!(standings, [Standing::untouched(), Standing::untouched()]);
}

#[tokio::test]
async fn a_price_that_cannot_be_told_is_missing_usage_and_keeps_what_was_measured() {
    let only_small = |usage: &Usage| price(usage).filter(|amount| *amount > 9.into());
    for (policy, expected) in [
        (
            MissingUsage::ChargeEstimate,
            Standing { credits: 490.into(), ..Standing::recorded(7, 1) },
        ),
        (MissingUsage::RecordOnly, Standing::recorded(7, 1)),
        (MissingUsage::Release, Standing::untouched()),
    ] {
        let books = books();
        let layer = layer(&books).charge(CREDITS, only_small).on_missing_usage(policy);
        layer.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
        assert_eq!(standing(&books).await, expected, "{policy:?}");
    }
}

#[tokio::test]
async fn usage_that_is_no_number_is_missing_and_one_too_large_is_not_lost() {
    let books = books();
    let measure = |amount: f64| move |_: &response::Parts| Some(Usage::of("tokens", amount));
    let broken =
        LimitryLayer::new(books.clone(), identify(), measure(f64::NAN)).estimate(|_| tokens(10));
    broken.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
    assert_eq!(standing(&books).await, Standing::recorded(10, 1));
    let huge = LimitryLayer::new(books.clone(), identify(), measure(1e300));
    huge.layer(hello(&Counter::default())).oneshot(request()).await.unwrap();
    assert_eq!(standing(&books).await.used, Amount::MAX);
}
