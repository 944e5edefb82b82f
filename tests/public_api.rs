//! What the types of the crate promise to a stack of services. Prints the sizes of those that a
//! request carries.
#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::fmt::Debug;
use std::mem::size_of;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use tower::Service;
use tower_limitry::backend::{Backend, Erased};
use tower_limitry::request::{HeadOnly, ReadJson, ReadRequest, RequestBody};
use tower_limitry::test_util::Scripted;
use tower_limitry::usage::{Measure, Watch};
use tower_limitry::{
    Books, Check, CheckError, Decision, Denial, Disconnect, Engine, Error, FailurePolicy, Limitry,
    LimitryLayer, MissingCustomer, MissingUsage, Permit, Refusal, Reporter, ResponseBody,
    ResponseFuture, Unmetered, Usage, customer::Identify,
};

type Body = Full<Bytes>;

/// A service with a named future.
#[derive(Clone, Debug)]
struct Inner;

impl<Q> Service<Request<Q>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Q>) -> Self::Future {
        std::future::ready(Ok(Response::new(Body::default())))
    }
}

fn is_send<T: Send>() {}
fn is_shared<T: Send + Sync + 'static>() {}
fn is_cloned<T: Clone>() {}
fn is_debug<T: Debug>() {}
fn is_unpin<T: Unpin>() {}
fn is_error<T: std::error::Error + Send + Sync + 'static>() {}

fn is_a_layer<B: Backend, R: ReadRequest<Empty<Bytes>> + Debug>()
where
    Limitry<Inner, B, R>: Service<Request<Empty<Bytes>>, Error = Infallible>,
{
    is_shared::<LimitryLayer<B, R>>();
    is_cloned::<LimitryLayer<B, R>>();
    is_debug::<LimitryLayer<B, R>>();
    is_shared::<Limitry<Inner, B, R>>();
    is_cloned::<Limitry<Inner, B, R>>();
    is_debug::<Limitry<Inner, B, R>>();
}

fn is_a_backend<B: Backend>() {
    is_a_layer::<B, HeadOnly>();
    is_a_layer::<B, ReadJson>();
    is_shared::<Books<B>>();
    is_cloned::<Books<B>>();
    is_debug::<Books<B>>();
    is_send::<Permit<B>>();
    is_send::<ResponseBody<Body, B>>();
    is_debug::<ResponseBody<Body, B>>();
    is_send::<ResponseFuture<Inner, Empty<Bytes>, B>>();
    is_debug::<ResponseFuture<Inner, Empty<Bytes>, B>>();
}

#[test]
fn layers_services_and_books_are_shared_cloned_and_shown() {
    is_a_backend::<Engine>();
    is_a_backend::<Erased>();
    is_a_backend::<Scripted>();
    #[cfg(feature = "outbox")]
    is_a_backend::<tower_limitry::outbox::Outbox<Erased>>();
}

#[test]
fn futures_and_bodies_can_be_sent_and_moved() {
    is_shared::<ResponseBody<Body, Engine>>();
    is_unpin::<ResponseBody<Body, Engine>>();
    is_unpin::<ResponseBody<Body>>();
    is_unpin::<ResponseFuture<Inner, Empty<Bytes>, Engine>>();
    is_send::<RequestBody<Body>>();
}

#[test]
fn values_are_shared_and_shown() {
    is_shared::<(Decision, Denial, Reporter, Refusal, Unmetered, Usage, Check)>();
    is_cloned::<(Decision, Denial, Reporter, Refusal, Unmetered, Usage, Check)>();
    is_debug::<(Decision, Denial, Reporter, Refusal, Unmetered, Usage, Check)>();
    is_shared::<(MissingCustomer, MissingUsage, Disconnect, FailurePolicy)>();
    is_error::<Error>();
    is_error::<CheckError>();
    is_error::<Denial>();
}

#[test]
fn hooks_can_be_chosen_at_run_time() {
    is_shared::<Box<dyn Identify>>();
    is_shared::<Box<dyn Measure>>();
    is_shared::<Box<dyn Watch>>();
}

/// The defaults that the documentation argues for.
#[test]
fn defaults_are_the_cautious_ones() {
    assert_eq!(MissingCustomer::default(), MissingCustomer::Refuse);
    assert_eq!(MissingUsage::default(), MissingUsage::ChargeEstimate);
    assert_eq!(Disconnect::default(), Disconnect::Settle);
}

#[test]
fn nothing_of_a_request_is_shown_by_its_layer() {
    let books = Engine::builder().build().unwrap();
    let layer = LimitryLayer::new(books, |_: &_| None, |_: &_| None).event_type("chat");
    let shown = format!("{layer:?}");
    assert!(shown.contains("missing_customer: Refuse"), "{shown}");
    assert!(shown.contains("failure: Open"), "{shown}");
}

#[test]
fn sizes() {
    let sizes = [
        ("LimitryLayer", size_of::<LimitryLayer<Engine>>()),
        ("Limitry", size_of::<Limitry<Inner, Engine>>()),
        ("ResponseFuture", size_of::<ResponseFuture<Inner, Empty<Bytes>, Engine>>()),
        ("ResponseBody beyond its inner", size_of::<ResponseBody<(), Engine>>()),
        ("ResponseBody<Full<Bytes>>", size_of::<ResponseBody<Body, Engine>>()),
        ("Reporter", size_of::<Reporter>()),
        ("Decision", size_of::<Decision>()),
        ("Usage", size_of::<Usage>()),
        ("Check", size_of::<Check>()),
    ];
    for (name, size) in sizes {
        println!("{size:>5} bytes  {name}");
    }
}
