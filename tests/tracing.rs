//! What lies in the span of a request.
#![allow(clippy::unwrap_used)]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_limitry::test_util::{Answer, Scripted};
use tower_limitry::{Books, ErrorKind, FailurePolicy, LimitryLayer};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

#[path = "support/http.rs"]
mod support;

use support::*;

/// Writes down each event of ours behind the span that it lies in.
#[derive(Clone, Default)]
struct Listener(Arc<Heard>);

#[derive(Default)]
struct Heard {
    spans: Mutex<Vec<String>>,
    entered: Mutex<Vec<Id>>,
    events: Mutex<Vec<String>>,
}

/// The fields of these names.
struct Fields(&'static [&'static str], String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.0.contains(&field.name()) {
            write!(self.1, " {value:?}").unwrap();
        }
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "tower_limitry"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let name = span.metadata().name().to_owned();
        let mut fields = Fields(&["customer", "event_type"], name);
        span.record(&mut fields);
        let mut spans = self.0.spans.lock().unwrap();
        spans.push(fields.1);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Fields(&["message"], String::new());
        event.record(&mut message);
        let entered = self.0.entered.lock().unwrap().last().cloned();
        let within = entered.map_or_else(String::new, |span| {
            self.0.spans.lock().unwrap()[span.into_u64() as usize - 1].clone()
        });
        self.0.events.lock().unwrap().push(format!("{within}:{}", message.1));
    }

    fn enter(&self, span: &Id) {
        self.0.entered.lock().unwrap().push(span.clone());
    }

    fn exit(&self, span: &Id) {
        assert_eq!(self.0.entered.lock().unwrap().pop().as_ref(), Some(span));
    }
}

const SPAN: &str = "limitry acct_42 \"chat\"";

/// What is heard of one request.
async fn heard(check: Answer, finish: Answer, estimate: u64) -> Vec<String> {
    let listener = Listener::default();
    let backend = Scripted::over(&books());
    backend.on_check(check);
    backend.on_finish(finish);
    let layer = LimitryLayer::new(Books::new(backend), identify(), |_: &_| None)
        .event_type("chat")
        .estimate(move |_| tokens(estimate))
        .on_failure(FailurePolicy::Closed)
        .check_timeout(Duration::from_secs(1));
    let service = layer.layer(service_fn(|_: Request<Empty<bytes::Bytes>>| async {
        assert_eq!(tracing::Span::current().metadata(), None, "the service is not in our span");
        Ok::<_, std::convert::Infallible>(status(StatusCode::OK))
    }));
    let guard = tracing::subscriber::set_default(listener.clone());
    let response = service.oneshot(request()).await.unwrap();
    frames(response.into_body()).await;
    drop(guard);
    assert_eq!(listener.0.spans.lock().unwrap().len(), 1);
    assert_eq!(*listener.0.entered.lock().unwrap(), []);
    listener.0.events.lock().unwrap().drain(..).collect()
}

#[tokio::test(start_paused = true)]
async fn check_and_settlement_of_a_request_lie_in_its_span() {
    let failed = Answer::Fail(ErrorKind::Unavailable);
    let missing = "usage is missing; the estimate is charged if there is one";
    let allowed = vec![format!("{SPAN}: allowed"), format!("{SPAN}: {missing}")];
    assert_eq!(heard(Answer::Obey, Answer::Obey, 10).await, allowed);
    let denied = [format!("{SPAN}: refused")];
    assert_eq!(heard(Answer::Obey, Answer::Obey, 5_000).await, denied);
    let undecided = [format!("{SPAN}: a check could not be decided"), format!("{SPAN}: refused")];
    for check in [failed, Answer::Hang] {
        assert_eq!(heard(check, Answer::Obey, 10).await, undecided);
    }
    let mut lost = allowed.clone();
    lost.push(format!("{SPAN}: a settlement failed"));
    assert_eq!(heard(Answer::Obey, failed, 10).await, lost);
    let mut late = allowed;
    late.push(format!("{SPAN}: a settlement was not counted as usual"));
    assert_eq!(heard(Answer::Obey, Answer::LoseAnswer, 10).await, late);
}
