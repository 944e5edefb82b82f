//! The way to the upstream and back.

use std::error::Error;
use std::io::{self, Write};
use std::iter;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, HOST, TE};
use axum::http::uri::{Authority, Scheme};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyStream, StreamBody};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer, ServiceExt};

use super::app::{CUSTOMER, MOST_READ};
use super::config::Config;
use super::include_usage::include_usage;

#[derive(Clone)]
pub(crate) struct Upstream {
    client: Client<Connector, Body>,
    scheme: Scheme,
    authority: Authority,
    /// The path before what clients ask for, without a slash at its end.
    base: String,
    include_usage: bool,
    answer_timeout: Duration,
}

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

impl Upstream {
    pub(crate) fn new(config: &Config) -> io::Result<Self> {
        let parts = config.upstream.clone().into_parts();
        let scheme = parts.scheme.unwrap_or(Scheme::HTTP);
        let is_plain = scheme == Scheme::HTTP;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http2_only(config.upstream_http2 && is_plain)
            .build(connector(config, is_plain)?);
        Ok(Self {
            client,
            scheme,
            authority: parts.authority.unwrap_or(Authority::from_static("localhost")),
            base: config.upstream.path().trim_end_matches('/').to_owned(),
            include_usage: config.include_usage,
            answer_timeout: config.answer_timeout,
        })
    }

    pub(crate) async fn forward(&self, request: Request) -> Response {
        let (mut head, mut body) = request.into_parts();
        let Some(uri) = self.target(&head.uri) else {
            return failed(StatusCode::BAD_REQUEST, "The request has no path.");
        };
        if self.include_usage && may_stream(&head.method, &head.uri, &head.headers) {
            body = asking_for_usage(&mut head.headers, body).await;
        }
        without_hop_by_hop(&mut head.headers);
        head.headers.remove(HOST);
        head.headers.remove(CUSTOMER);
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut()) = (head.method, uri);
        *request.headers_mut() = head.headers;
        match timeout(self.answer_timeout, self.client.request(request)).await {
            Ok(Ok(mut response)) => {
                without_hop_by_hop(response.headers_mut());
                // That of the connection to the client may be another.
                *response.version_mut() = Version::default();
                response.map(Body::new)
            }
            Ok(Err(error)) => unreachable(&error),
            Err(_) => failed(StatusCode::GATEWAY_TIMEOUT, "The upstream did not answer in time."),
        }
    }

    fn target(&self, asked: &Uri) -> Option<Uri> {
        let path = asked.path_and_query().filter(|path| path.as_str().starts_with('/'))?;
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.base))
            .build()
            .ok()
    }
}

fn connector(config: &Config, is_plain: bool) -> io::Result<Connector> {
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    // For all of it: name, connection and TLS.
    let timeout = TimeoutLayer::new(config.connect_timeout);
    if is_plain {
        return Ok(Connector::new(timeout.layer(http.map_response(MaybeHttpsStream::Http))));
    }
    let builder = HttpsConnectorBuilder::new().with_native_roots()?;
    Ok(Connector::new(
        timeout.layer(builder.https_only().enable_all_versions().wrap_connector(http)),
    ))
}

/// RFC 9110, section 7.6.1: what concerns one connection only.
fn without_hop_by_hop(headers: &mut HeaderMap) {
    let words = |name| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).map(str::trim)
    };
    let takes_trailers = words(TE).any(|word| word.eq_ignore_ascii_case("trailers"));
    let named = words(CONNECTION).filter_map(|name| name.parse::<HeaderName>().ok());
    let proxy = headers.keys().filter(|name| name.as_str().starts_with("proxy-")).cloned();
    let dropped: Vec<HeaderName> = HOP_BY_HOP.into_iter().chain(named).chain(proxy).collect();
    for name in dropped {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

const HOP_BY_HOP: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    TE,
    axum::http::header::TRANSFER_ENCODING,
    axum::http::header::UPGRADE,
];

/// OpenAI's chat completions and completions, wherever an API has them.
fn may_stream(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    method == Method::POST
        && uri.path().ends_with("/completions")
        && !headers.contains_key(CONTENT_ENCODING)
}

async fn asking_for_usage(headers: &mut HeaderMap, body: Body) -> Body {
    let body = match read(body).await {
        Ok(body) => body,
        Err(body) => return body,
    };
    match std::str::from_utf8(&body).ok().and_then(include_usage) {
        Some(asking) => {
            headers.insert(CONTENT_LENGTH, asking.len().into());
            asking.into()
        }
        None => body.into(),
    }
}

/// All of a body, or the same body again where it is too long, fails or has trailers.
async fn read(body: Body) -> Result<Bytes, Body> {
    let mut frames = BodyStream::new(body);
    let mut read = Vec::new();
    let mut whole = Vec::new();
    while let Some(frame) = frames.next().await {
        let data = frame.as_ref().ok().and_then(|frame| frame.data_ref());
        let is_data = data.is_some();
        whole.extend_from_slice(data.map_or(&[], |data| data));
        read.push(frame);
        if !is_data || whole.len() > MOST_READ {
            return Err(Body::new(StreamBody::new(stream::iter(read).chain(frames))));
        }
    }
    Ok(whole.into())
}

fn unreachable(error: &(dyn Error + 'static)) -> Response {
    let causes = || iter::successors(Some(error), |cause| Error::source(*cause));
    let texts: Vec<_> = causes().map(ToString::to_string).collect();
    let _ = writeln!(io::stderr(), "upstream: {}", texts.join(": "));
    if causes().any(|cause| cause.is::<Elapsed>()) {
        failed(StatusCode::GATEWAY_TIMEOUT, "The upstream did not take the connection in time.")
    } else {
        failed(StatusCode::BAD_GATEWAY, "The upstream cannot be reached.")
    }
}

/// What clients of both dialects read.
fn failed(status: StatusCode, message: &str) -> Response {
    let error = json!({ "type": "api_error", "message": message, "param": null, "code": null });
    (status, Json(json!({ "type": "error", "error": error }))).into_response()
}
