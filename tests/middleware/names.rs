//! The layer named in a function's return type, and the service in a field.

use super::*;

fn by_name(books: &Books) -> LimitryLayer {
    LimitryLayer::new(books.clone(), identify(), seven).check_timeout(Duration::from_secs(2))
}

struct Route<S> {
    service: Limitry<S>,
}

#[tokio::test]
async fn the_erased_form_works_as_the_other() {
    let books = builder().open("memory:").unwrap();
    let calls = Counter::default();
    let mut route = Route { service: by_name(&books).layer(hello(&calls)) };
    let response = route.service.ready().await.unwrap().call(request()).await.unwrap();
    assert_eq!(frames(response.into_body()).await, ["hello"]);
    assert_eq!(standing(&books).await, Standing::recorded(7, 1));
    let _: &Limitry<_> = &route.service;
    let mut inner = route.service.into_inner();
    inner.ready().await.unwrap().call(request()).await.unwrap();
    assert_eq!(calls.get(), 2);
}
