//! When, how often and as what entries are delivered.

use http::{Request, Response, response};
use http_body_util::{Empty, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::backend::Erased;
use tower_limitry::policy::Event;
use tower_limitry::test_util::Answer as Script;
use tower_limitry::{Engine, Limit, LimitryLayer, Meter, NewBalance, Usage, customer};

use super::*;

#[tokio::test]
async fn what_is_settled_is_delivered_with_all_it_says() {
    let (folder, target) = (Folder::new(), target());
    let said = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let heard = said.clone();
    target.answer(move |delivery| {
        let event: Event = delivery.event();
        heard.lock().unwrap().push((
            delivery.event_type().to_owned(),
            delivery.usage().clone(),
            delivery.charge().map(|(balance, amount)| (balance.to_owned(), amount)),
            delivery.at(),
            format!("{event:?}"),
        ));
        Answer::Take
    });
    let outbox = open(soon(&target), &folder.file()).await;
    let check = Check::of("acct_42")
        .id("use \"1\"")
        .event_type("llm.completion")
        .dimension("model", "größer-2")
        .estimate("total_tokens", 500);
    let permit = Books::new(outbox.clone()).check(check).await.unwrap();
    let usage = Usage::of("total_tokens", "480.000001").and("seconds", -3);
    permit.settle(usage.clone()).await.unwrap();
    outbox.flush(STUCK).await.unwrap();
    let said = said.lock().unwrap();
    let [(event_type, kept, charge, at, event)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(event_type, "llm.completion");
    assert_eq!(kept.values().iter().collect::<Vec<_>>(), usage.values().iter().collect::<Vec<_>>());
    assert_eq!(kept.dimensions().get("model"), Some("größer-2"));
    assert_eq!(*charge, None);
    assert_eq!(*at, time(NOON));
    assert!(event.contains("use \"1\"") && event.contains("480.000001"), "{event}");
    assert_eq!(target.taken(), pairs(&[("acct_42", "use \"1\"")]));
}

/// Through a backend that knows nothing of queues: its holds end, its books and balances are right.
#[tokio::test]
async fn any_backend_is_settled_one_by_one() {
    let folder = Folder::new();
    let books = Engine::builder()
        .meter(Meter::sum("tokens", "total_tokens"))
        .limit(Limit::per_day("daily", "tokens", 1_000))
        .default_balance(NewBalance::new("credits").initial(100))
        .build()
        .unwrap();
    let backend = Scripted::over(&books);
    let outbox = open(soon(&backend).delivery_timeout(MILLISECOND), &folder.file()).await;
    let through = Books::new(outbox.clone());
    for answer in [Script::LoseAnswer, Script::Fail(ErrorKind::Unavailable), Script::Obey] {
        let ask = Check::of("acct").estimate("total_tokens", 50);
        let ask = ask.charge("credits", |usage| usage.value("total_tokens"));
        let permit = through.check(ask).await.unwrap();
        backend.on_finish(answer);
        let calls = backend.calls().len();
        permit.settle(total(10)).await.unwrap();
        until(|| backend.calls().len() > calls).await;
        backend.on_finish(Script::Obey);
        outbox.flush(STUCK).await.unwrap();
    }
    let books = books.erased();
    assert_eq!(used_held(&books, "acct", "daily").await, (amount(30), amount(0)));
    assert_eq!(current(&books, "acct", "credits").await, amount(70));
    assert_eq!(books.events(Default::default()).await.unwrap().items.len(), 3);
}

#[tokio::test]
async fn the_hold_stays_until_it_is_delivered() {
    let folder = Folder::new();
    let books = hundred_a_day(&noon()).build().unwrap();
    let backend = Scripted::over(&books);
    backend.on_finish(Script::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&Erased::new(backend.clone())), &folder.file()).await;
    let through = Books::new(outbox.clone());
    through.check(ask("acct", 60)).await.unwrap().settle(total(50)).await.unwrap();
    assert_eq!(used_held(&books.erased(), "acct", "daily").await, (amount(0), amount(60)));
    denied(&through.erased(), ask("acct", 41)).await;
    backend.on_finish(Script::Obey);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(used_held(&books.erased(), "acct", "daily").await, (amount(50), amount(0)));
}

#[tokio::test]
async fn an_entry_keeps_its_id_and_sequence_until_it_is_taken() {
    let (folder, target) = (Folder::new(), target());
    let mut failures = 5;
    target.answer(move |_| {
        failures -= 1;
        match failures {
            4 | 1 => Answer::TakeSilently,
            0 => Answer::Take,
            _ => Answer::Fail(ErrorKind::TimedOut),
        }
    });
    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    until(|| outbox.stats().depth == 0).await;
    let seen = target.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|attempt| *attempt == seen[0] && attempt.id == "a"), "{seen:?}");
    assert_eq!(target.taken(), pairs(&[("acct", "a")]));
}

#[tokio::test]
async fn sequences_grow_over_reopening_and_the_producer_stays() {
    let (folder, target) = (Folder::new(), target());
    for id in ["a", "b", "c"] {
        let outbox = open(soon(&target), &folder.file()).await;
        settle(&outbox, "acct", id).await;
        outbox.flush(STUCK).await.unwrap();
    }
    let seen = target.seen();
    assert!(seen.is_sorted_by(|a, b| a.sequence < b.sequence), "{seen:?}");
    assert!(seen.iter().all(|entry| entry.producer == seen[0].producer), "{seen:?}");
    assert_eq!(target.taken_of("acct"), ["a", "b", "c"]);

    let other = Folder::new();
    let outbox = open(soon(&target), &other.file()).await;
    settle(&outbox, "acct", "d").await;
    outbox.flush(STUCK).await.unwrap();
    assert_ne!(target.seen()[3].producer, seen[0].producer);
}

/// An older copy of the file that is put back, on purpose, or a power cut that took the last commits
/// of a relaxed file, must not number new entries like old ones: the target would take them for
/// repeats.
#[tokio::test]
async fn a_file_that_has_forgotten_its_last_entries_does_not_reuse_their_sequences() {
    let folder = Folder::new();
    let clock = noon();
    let target = Target::new(Scripted::over(&tokens(&clock).build().unwrap()));
    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    outbox.flush(STUCK).await.unwrap();
    drop(outbox);
    drop(open(soon(&target), &folder.file()).await);
    let log = folder.0.join("usage.outbox-wal");
    until(|| !log.exists()).await;
    let backup = folder.0.join("backup");
    let closed = open(soon(&target), &folder.file()).await;
    std::fs::copy(folder.file(), &backup).unwrap();
    settle(&closed, "acct", "b").await;
    closed.flush(STUCK).await.unwrap();
    drop(closed);
    drop(open(soon(&target), &folder.file()).await);
    until(|| !log.exists()).await;
    std::fs::copy(&backup, folder.file()).unwrap();
    clock.advance(SECOND);
    let error = soon(&target).open(folder.file()).await.unwrap_err();
    assert_names(&error, &["an older copy", "remove the file of its lock (-lock) to go on"]);
    std::fs::remove_file(folder.0.join("usage.outbox-lock")).unwrap();

    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "c").await;
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken_of("acct"), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn retries_wait_twice_as_long_each_time_up_to_a_bound() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let builder = Outbox::builder(target.clone()).backoff(800 * MILLISECOND, 4 * SECOND);
    let outbox = in_no_time(open(builder, &folder.file())).await;
    in_no_time(settle(&outbox, "acct", "a")).await;
    until(|| target.seen().len() == 1).await;
    for (attempt, longest) in [800, 1_600, 3_200, 4_000, 4_000].into_iter().enumerate() {
        let (longest, begun) = (longest * MILLISECOND, tokio::time::Instant::now());
        while target.seen().len() == attempt + 1 {
            tokio::time::advance(10 * MILLISECOND).await;
            for _ in 0..20 {
                yield_now().await;
            }
            // What the file was asked before is written by now.
            in_no_time(outbox.set_aside(0, 1)).await.unwrap();
        }
        let waited = begun.elapsed();
        let most = longest + longest / 8 + 100 * MILLISECOND;
        assert!((longest / 2..=most).contains(&waited), "{waited:?} of {longest:?}");
    }
    target.always(Answer::Take);
    in_no_time(outbox.flush(STUCK)).await.unwrap();
    assert_eq!(target.taken(), pairs(&[("acct", "a")]));
}

#[tokio::test]
async fn what_waits_goes_in_batches() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let slow = Outbox::builder(target.clone()).batch(7).backoff(HOUR, HOUR);
    let outbox = open(slow, &folder.file()).await;
    settle(&outbox, "acct", "first").await;
    until(|| target.batches().len() == 1).await;
    for at in 0..20 {
        settle(&outbox, "acct", &at.to_string()).await;
    }
    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.batches(), [1, 7, 7, 7]);
}

/// One customer's answer never comes; with the others, all of them would be away for ever.
#[tokio::test]
async fn a_batch_that_hangs_holds_back_nobody_else() {
    let folder = Folder::new();
    let books = tokens(&noon()).build().unwrap();
    let backend = Scripted::over(&books);
    let outbox = open(soon(&backend).delivery_timeout(SECOND), &folder.file()).await;
    backend.on_finish(Script::LoseAnswer);
    settle(&outbox, "poison", "p").await;
    until(|| !backend.calls().is_empty() && outbox.stats().depth == 1).await;
    until(|| backend.calls().len() == 2).await;
    backend.on_finish(Script::Obey);
    settle(&outbox, "others", "o").await;
    until(|| outbox.stats().depth == 1).await;
    outbox.flush(STUCK).await.unwrap();
}

/// A target that panics is a target that does not answer.
#[tokio::test]
async fn a_panic_of_the_backend_is_an_unknown_outcome() {
    let (folder, target) = (Folder::new(), target());
    let mut panics = 6;
    target.answer(move |_| {
        panics -= 1;
        assert!(panics < 0, "as told");
        Answer::Take
    });
    let outbox = open(soon(&target), &folder.file()).await;
    settle(&outbox, "acct", "a").await;
    until(|| outbox.stats().depth == 0).await;
}

#[tokio::test]
async fn a_response_is_recorded_while_the_backend_is_away() {
    let (folder, target) = (Folder::new(), target());
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&target), &folder.file()).await;
    let measure = |_: &response::Parts| Some(total(7));
    let layer =
        LimitryLayer::new(Books::new(outbox.clone()), customer::trusted_header("x-id"), measure);
    let service = layer.layer(service_fn(async |_: Request<Empty<bytes::Bytes>>| {
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(bytes::Bytes::from("done"))))
    }));
    let request = Request::get("/").header("x-id", "acct").body(Empty::new()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    http_body_util::BodyExt::collect(response.into_body()).await.unwrap();
    until(|| outbox.stats().depth == 1).await;
    assert_eq!(target.taken(), []);
    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!(target.taken().len(), 1);
}

#[tokio::test]
async fn depth_and_age_of_the_oldest_are_told() {
    let folder = Folder::new();
    let clock = noon();
    let target = Target::new(Scripted::over(&tokens(&clock).build().unwrap()));
    target.always(Answer::Fail(ErrorKind::Unavailable));
    let outbox = open(soon(&target), &folder.file()).await;
    assert_eq!((outbox.stats().depth, outbox.stats().oldest), (0, None));
    settle(&outbox, "acct", "a").await;
    clock.advance(MINUTE);
    settle(&outbox, "acct", "b").await;
    clock.advance(SECOND);
    let stats = outbox.stats();
    assert_eq!((stats.depth, stats.oldest), (2, Some(MINUTE + SECOND)));
    drop(outbox);
    let outbox = open(soon(&target), &folder.file()).await;
    assert_eq!(outbox.stats().oldest, Some(MINUTE + SECOND), "also after reopening");
    target.always(Answer::Take);
    outbox.flush(STUCK).await.unwrap();
    assert_eq!((outbox.stats().depth, outbox.stats().oldest), (0, None));
}

/// Gauges and counters by their names.
#[cfg(feature = "metrics")]
mod metrics_told {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Told(Arc<Mutex<HashMap<String, f64>>>);

    struct One(Told, String);

    impl One {
        fn change(&self, change: impl FnOnce(&mut f64)) {
            change(self.0.0.lock().unwrap().entry(self.1.clone()).or_default());
        }
    }

    impl CounterFn for One {
        fn increment(&self, by: u64) {
            self.change(|value| *value += by as f64);
        }

        fn absolute(&self, to: u64) {
            self.change(|value| *value = to as f64);
        }
    }

    impl GaugeFn for One {
        fn increment(&self, by: f64) {
            self.change(|value| *value += by);
        }

        fn decrement(&self, by: f64) {
            self.change(|value| *value -= by);
        }

        fn set(&self, to: f64) {
            self.change(|value| *value = to);
        }
    }

    impl Recorder for Told {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(One(self.clone(), key.name().to_owned())))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(One(self.clone(), key.name().to_owned())))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    impl Told {
        fn value(&self, name: &str) -> f64 {
            self.0.lock().unwrap().get(name).copied().unwrap_or(-1.0)
        }
    }

    #[test]
    fn depth_age_refusals_and_losses() {
        let told = Told::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        metrics::with_local_recorder(&told, || runtime.block_on(steps(&told)));
    }

    async fn steps(told: &Told) {
        let folder = Folder::new();
        let clock = noon();
        let target = Target::new(Scripted::over(&tokens(&clock).build().unwrap()));
        target.always(Answer::Fail(ErrorKind::Unavailable));
        let builder = soon(&target).capacity(1, 1 << 20);
        let builder = builder.when_full(tower_limitry::outbox::WhenFull::Open);
        let outbox = open(builder, &folder.file()).await;
        settle(&outbox, "acct", "a").await;
        clock.advance(MINUTE);
        until(|| told.value("limitry.outbox_oldest_age_seconds") == 60.0).await;
        assert_eq!(told.value("limitry.outbox_depth"), 1.0);
        permit(&outbox, "acct", "b").await.settle(total(1)).await.unwrap_err();
        assert_eq!(told.value("limitry.outbox_dropped"), 1.0);
        target.always(Answer::Fail(ErrorKind::Invalid));
        until(|| told.value("limitry.outbox_depth") == 0.0).await;
        until(|| told.value("limitry.outbox_set_aside") == 1.0).await;
        assert_eq!(told.value("limitry.outbox_oldest_age_seconds"), 0.0);
    }
}

mod flushing {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn does_not_wait_for_the_next_retry() {
        let (folder, target) = (Folder::new(), target());
        target.always(Answer::Fail(ErrorKind::Unavailable));
        let outbox = open(soon(&target).backoff(HOUR, HOUR), &folder.file()).await;
        settle(&outbox, "acct", "a").await;
        until(|| target.seen().len() == 1).await;
        target.always(Answer::Take);
        outbox.flush(STUCK).await.unwrap();
        assert_eq!(target.taken(), pairs(&[("acct", "a")]));
    }

    #[tokio::test]
    async fn tells_at_its_deadline_what_is_left() {
        let (folder, target) = (Folder::new(), target());
        target.always(Answer::Fail(ErrorKind::Unavailable));
        let outbox = open(soon(&target), &folder.file()).await;
        settle(&outbox, "acct", "a").await;
        settle(&outbox, "acct", "b").await;
        let error = outbox.flush(20 * MILLISECOND).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_names(&error, &["2 settlements"]);
        assert_eq!(outbox.stats().depth, 2);
    }

    #[tokio::test]
    async fn shutdown_waits_for_requests_and_delivers_what_they_settle() {
        let (folder, target) = (Folder::new(), target());
        let outbox = open(soon(&target), &folder.file()).await;
        let books = Books::new(outbox.clone());
        let running = permit(&outbox, "acct", "a").await;
        let mut ending = pin!(books.shutdown(STUCK));
        let mut context = Context::from_waker(Waker::noop());
        assert!(ending.as_mut().poll(&mut context).is_pending());
        unavailable(&outbox).await;
        running.settle(total(1)).await.unwrap();
        // The engine behind waits for its own holds, which a target with marks leaves alone.
        let ended = tokio::time::timeout(100 * MILLISECOND, ending).await;
        assert_eq!(target.taken(), pairs(&[("acct", "a")]), "{ended:?}");
    }

    /// Another thread may look just before the settlement is in the queue.
    #[tokio::test]
    async fn shutdown_waits_for_a_request_until_what_it_settles_is_there() {
        let (folder, target) = (Folder::new(), target());
        let outbox = open(soon(&target), &folder.file()).await;
        target.always(Answer::Fail(ErrorKind::Unavailable));
        let running = permit(&outbox, "acct", "a").await;
        let ending = Arc::new(Mutex::new(Box::pin({
            let outbox = outbox.clone();
            async move { outbox.shutdown(100 * MILLISECOND).await }
        })));
        let meanwhile = Arc::clone(&ending);
        target.before_queued(move || {
            let mut context = Context::from_waker(Waker::noop());
            assert!(meanwhile.lock().unwrap().as_mut().poll(&mut context).is_pending());
        });
        running.settle(total(1)).await.unwrap();
        let ended = std::future::poll_fn(|cx| ending.lock().unwrap().as_mut().poll(cx)).await;
        assert_names(&ended.unwrap_err(), &["1 settlements are not delivered yet"]);
    }

    /// A check that was asked before shutting down may still be allowed after it.
    #[tokio::test]
    async fn shutdown_waits_for_checks_that_are_not_answered() {
        let (folder, target) = (Folder::new(), target());
        let outbox = open(soon(&target), &folder.file()).await;
        target.script.on_check(Script::Hang);
        let books = Books::new(outbox.clone());
        let mut asked = pin!(books.check(Check::of("acct").id("a")));
        assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let error = outbox.shutdown(MILLISECOND).await.unwrap_err();
        assert_names(&error, &["1 requests still run"]);
        target.script.resume();
        asked.await.unwrap().settle(total(1)).await.unwrap();
        until(|| target.taken().len() == 1).await;
    }

    #[tokio::test]
    async fn shutdown_tells_of_requests_that_still_run() {
        let (folder, target) = (Folder::new(), target());
        let outbox = open(soon(&target), &folder.file()).await;
        let running = permit(&outbox, "acct", "a").await;
        let error = outbox.shutdown(MILLISECOND).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_names(&error, &["1 requests still run"]);
        running.settle(total(1)).await.unwrap();
        until(|| target.taken().len() == 1).await;
    }

    #[tokio::test]
    async fn shutdown_under_load_leaves_nothing_behind() {
        let folder = Folder::new();
        let backend = Scripted::over(&hundred_a_day(&noon()).build().unwrap());
        let outbox = open(soon(&backend), &folder.file()).await;
        let mut tasks = Vec::new();
        for task in 0..8 {
            let outbox = outbox.clone();
            tasks.push(tokio::spawn(async move {
                let mut settled = 0;
                loop {
                    let check = Check::of(format!("acct-{task}"));
                    match Books::new(outbox.clone()).check(check).await {
                        Ok(permit) => permit.settle(total(0)).await.unwrap(),
                        Err(_) => return settled,
                    }
                    settled += 1;
                }
            }));
        }
        until(|| backend.calls().len() > 100).await;
        Books::new(outbox.clone()).shutdown(STUCK).await.unwrap();
        let mut settled = 0;
        for task in tasks {
            settled += task.await.unwrap();
        }
        let is_settle = |call: &&_| matches!(call, tower_limitry::test_util::Call::Settle(..));
        assert_eq!(backend.calls().iter().filter(is_settle).count(), settled);
        assert_eq!(outbox.stats().depth, 0);
    }
}
