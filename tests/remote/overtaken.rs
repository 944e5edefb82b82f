//! Row 8: whichever of check, settlement and release arrives first, a hold ends once.

use tower_limitry::Books;
use tower_limitry::backend::Backend;

use crate::host::*;
use crate::proxy::{Mode, Proxy};
use crate::support::*;

/// The check is stuck on its way while the release goes another.
#[tokio::test]
async fn a_check_that_its_release_overtook_places_nothing() {
    let host = Host::start().await;
    let slow = Proxy::before(host.address).await;
    slow.set(Mode::BlackHole);
    let process = remote(client(slow.address).attempt_timeout(STUCK));
    let books = Books::new(process.clone());
    // Nobody hears the answer, so nobody settles.
    let asked = books.check(ask("ada", 60));
    eventually(async || (host.books.open_holds().await.unwrap() == 1).then_some(())).await;
    drop(asked);
    slow.set(Mode::Refuse);
    slow.set(Mode::Pass);
    in_time(process.quiet()).await;
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(0)));
}

#[tokio::test]
async fn checks_dropped_at_any_moment_leave_nothing() {
    let host = Host::start().await;
    let process = host.process();
    let books = Books::new(process.clone());
    let seed = seed();
    let mut random = Random(seed);
    for _ in 0..times(200, 20_000) {
        let mut asked = Box::pin(books.check(ask("ada", 60)));
        let after = std::time::Duration::from_micros(random.below(2_000));
        if let Ok(answer) = tokio::time::timeout(after, &mut asked).await {
            drop(answer);
        }
        drop(asked);
    }
    in_time(process.quiet()).await;
    eventually(async || (host.books.open_holds().await.unwrap() == 0).then_some(())).await;
    assert_eq!(used_held(&host.books, "ada", "daily").await, (amount(0), amount(0)));
    assert_eq!(events(&host.books).await, [""; 0]);
}

/// One ends the request while another does so, too: the same settlement and the same release, from
/// two processes that both know the id.
#[tokio::test]
async fn settlements_and_releases_of_one_id_end_it_once() {
    let host = Host::start().await;
    let (one, two) = (Books::new(host.process()), Books::new(host.process()));
    for round in 0..times(50, 2_000) {
        let customer = format!("acct_{round}");
        let permit = one.check(ask(&customer, 10).id("order-1")).await.unwrap();
        let again = two.check(ask(&customer, 10).id("order-1")).await.unwrap_err();
        assert!(again.to_string().contains("could not be decided"), "{again}");
        // The other gave up on its try, which is none of this one's.
        two.backend().quiet().await;
        let (settled, ()) = tokio::join!(permit.settle(total(7)), async {
            drop(two.check(ask(&customer, 10).id("order-1")).await);
        });
        settled.unwrap();
        two.backend().quiet().await;
        assert_eq!(used_held(&host.books, &customer, "daily").await, (amount(7), amount(0)));
    }
    let _ = one.backend().now();
}
