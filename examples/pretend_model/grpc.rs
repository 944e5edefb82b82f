//! What `tonic-prost-build` would make of `model.proto`; written by hand, so that nobody needs
//! `protoc` to try the example.

#![allow(dead_code)]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http;
use axum::http::uri::PathAndQuery;
use futures_util::Stream;
use prost::Message;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming, async_trait, client, server};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Prompt {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    #[prost(uint32, tag = "2")]
    pub(crate) max_words: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Answer {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

pub(crate) type Answers = Pin<Box<dyn Stream<Item = Result<Answer, Status>> + Send>>;

#[async_trait]
pub(crate) trait Model: Send + Sync + 'static {
    async fn complete(&self, _: Request<Prompt>) -> Result<Response<Answer>, Status> {
        Err(Status::unimplemented("complete"))
    }

    async fn stream(&self, _: Request<Prompt>) -> Result<Response<Answers>, Status> {
        Err(Status::unimplemented("stream"))
    }

    async fn collect(&self, _: Request<Streaming<Prompt>>) -> Result<Response<Answer>, Status> {
        Err(Status::unimplemented("collect"))
    }

    async fn chat(&self, _: Request<Streaming<Prompt>>) -> Result<Response<Answers>, Status> {
        Err(Status::unimplemented("chat"))
    }
}

pub(crate) struct ModelServer<T>(Arc<T>);

impl<T> ModelServer<T> {
    pub(crate) fn new(model: T) -> Self {
        Self(Arc::new(model))
    }
}

impl<T> Clone for ModelServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> server::NamedService for ModelServer<T> {
    const NAME: &'static str = "pretend.v1.Model";
}

impl<T: Model> Service<http::Request<Body>> for ModelServer<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let model = &self.0;
        let mut grpc = server::Grpc::new(ProstCodec::<Answer, Prompt>::default());
        macro_rules! answer {
            ($kind:ident, $method:ident) => {{
                let model = Arc::clone(model);
                Box::pin(async move {
                    let method = service_fn(move |request| {
                        let model = Arc::clone(&model);
                        async move { model.$method(request).await }
                    });
                    Ok(grpc.$kind(method, request).await)
                })
            }};
        }
        match request.uri().path() {
            COMPLETE => answer!(unary, complete),
            STREAM => answer!(server_streaming, stream),
            COLLECT => answer!(client_streaming, collect),
            CHAT => answer!(streaming, chat),
            path => {
                let status = Status::unimplemented(format!("there is no {path}"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

#[derive(Clone)]
pub(crate) struct ModelClient(client::Grpc<Channel>);

impl ModelClient {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(client::Grpc::new(channel))
    }

    pub(crate) async fn complete(
        &mut self,
        request: Request<Prompt>,
    ) -> Result<Response<Answer>, Status> {
        self.unary(COMPLETE, request).await
    }

    pub(crate) async fn stream(
        &mut self,
        request: Request<Prompt>,
    ) -> Result<Response<Streaming<Answer>>, Status> {
        let codec = self.codec().await?;
        self.0.server_streaming(request, PathAndQuery::from_static(STREAM), codec).await
    }

    pub(crate) async fn collect(
        &mut self,
        request: Request<impl Stream<Item = Prompt> + Send + 'static>,
    ) -> Result<Response<Answer>, Status> {
        let codec = self.codec().await?;
        self.0.client_streaming(request, PathAndQuery::from_static(COLLECT), codec).await
    }

    pub(crate) async fn chat(
        &mut self,
        request: Request<impl Stream<Item = Prompt> + Send + 'static>,
    ) -> Result<Response<Streaming<Answer>>, Status> {
        let codec = self.codec().await?;
        self.0.streaming(request, PathAndQuery::from_static(CHAT), codec).await
    }

    /// Any method with these messages.
    pub(crate) async fn unary(
        &mut self,
        path: &'static str,
        request: Request<Prompt>,
    ) -> Result<Response<Answer>, Status> {
        let codec = self.codec().await?;
        self.0.unary(request, PathAndQuery::from_static(path), codec).await
    }

    async fn codec(&mut self) -> Result<ProstCodec<Prompt, Answer>, Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(ProstCodec::default())
    }
}

pub(crate) const COMPLETE: &str = "/pretend.v1.Model/Complete";
pub(crate) const STREAM: &str = "/pretend.v1.Model/Stream";
pub(crate) const COLLECT: &str = "/pretend.v1.Model/Collect";
pub(crate) const CHAT: &str = "/pretend.v1.Model/Chat";
