use std::future::poll_fn;
use std::pin::pin;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::guard::WasRead;
use super::problem::Problem;
use super::replay::Once;
use super::{App, Shared};
use crate::policy::{CustomerId, Usage};
use crate::wire::{Number, Numbers, Texts};

/// The body, read; an empty one is an empty object.
pub(super) struct Json<T>(pub(super) T);

/// The body of a call that is done once for each idempotency key.
pub(super) struct Posted<T> {
    pub(super) body: T,
    pub(super) once: Option<Once>,
    pub(super) sent: Sent,
}

/// What was sent where.
pub(super) struct Sent {
    path: String,
    body: Bytes,
}

impl Sent {
    /// The call under this key.
    pub(super) fn under(&self, key: String) -> Once {
        Once { key, path: self.path.clone(), print: Sha256::digest(&self.body).into() }
    }
}

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        read(&bytes(request, app).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<Shared> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, Problem> {
        let mut keys = request.headers().get_all("idempotency-key").iter();
        let key = match (keys.next(), keys.next()) {
            (None, _) => None,
            (Some(key), None) => {
                let text = key.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
                let problem =
                    || Problem::field("Idempotency-Key", "give 1 to 255 ASCII characters");
                Some(text.ok_or_else(problem)?.to_owned())
            }
            _ => return Err(Problem::field("Idempotency-Key", "is given twice; give one")),
        };
        let path = request.uri().path().to_owned();
        let body = bytes(request, app).await?;
        let sent = Sent { path, body };
        Ok(Self { body: read(&sent.body)?, once: key.map(|key| sent.under(key)), sent })
    }
}

async fn bytes(request: Request, app: &App) -> Result<Bytes, Problem> {
    let too_long = || {
        let message = format!("the body is longer than {} bytes", app.most_body);
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    };
    let (head, body) = request.into_parts();
    if body.size_hint().lower() > app.most_body as u64 {
        return Err(too_long());
    }
    let read = tokio::time::timeout(app.timeout, collect(body, app.most_body, &app.room));
    match read.await {
        Ok(Ok(bytes)) => {
            if let Some(read) = head.extensions.get::<WasRead>() {
                read.set();
            }
            Ok(bytes)
        }
        Ok(Err(Unread::TooLong)) => Err(too_long()),
        Ok(Err(Unread::Cut)) => Err(Problem::request("the body was cut off")),
        Ok(Err(Unread::NoRoom)) => {
            let message = "too many requests arrive at once; nothing was done, ask again";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message))
        }
        Err(_) => Err(Problem::timeout(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// Why there is no body.
enum Unread {
    TooLong,
    Cut,
    NoRoom,
}

/// The whole body. What of it has arrived takes room until it is whole.
async fn collect(body: Body, most: usize, room: &Semaphore) -> Result<Bytes, Unread> {
    let mut body = pin!(body);
    let mut all = BytesMut::new();
    let mut taken: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame.map_err(|_| Unread::Cut)?.into_data() else { continue };
        if data.len() > most.saturating_sub(all.len()) {
            return Err(Unread::TooLong);
        }
        let bytes = u32::try_from(data.len()).map_err(|_| Unread::TooLong)?;
        let more = room.try_acquire_many(bytes).map_err(|_| Unread::NoRoom)?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        all.extend_from_slice(&data);
    }
    Ok(all.freeze())
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // None at all is an empty object; white space is no JSON.
    let text = if bytes.is_empty() { b"{}" } else { bytes.trim_ascii() };
    // Serde would read the members of a form from an array, by their places.
    if !text.starts_with(b"{") {
        return Err(Problem::request("the body is no JSON object"));
    }
    serde_json::from_slice(text).map_err(|error| {
        let message = error.to_string();
        match error.classify() {
            Category::Data if message.starts_with("missing field") => Problem::missing(message),
            Category::Data => Problem::field("body", message),
            _ => Problem::request(format!("the body is no JSON: {message}")),
        }
    })
}

/// The id in the path.
pub(super) struct Id(pub(super) String);

impl FromRequestParts<Shared> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|rejection| Problem::field("id", rejection.body_text()))?;
        Ok(Self(id))
    }
}

/// How many values or dimensions an event or a check may have.
const MOST_ENTRIES: usize = 100;

/// Values and dimensions, within bounds.
pub(super) fn usage(values: &Numbers, dimensions: &Texts) -> Result<Usage, Problem> {
    bounded("values", values.len(), values.keys())?;
    bounded("dimensions", dimensions.len(), dimensions.keys())?;
    let mut usage = Usage::new();
    for (name, Number(amount)) in values {
        usage = usage.and(name, *amount);
    }
    for (key, text) in dimensions {
        usage = usage.dimension(key, text);
    }
    Ok(usage)
}

fn bounded<'a>(
    field: &str,
    length: usize,
    mut names: impl Iterator<Item = &'a String>,
) -> Result<(), Problem> {
    if length > MOST_ENTRIES {
        return Err(Problem::field(field, format!("are {length}; give at most {MOST_ENTRIES}")));
    }
    match names.find(|name| !(1..=256).contains(&name.len())) {
        Some(_) => {
            Err(Problem::field(field, "has a name that is empty or too long; give 1 to 256 bytes"))
        }
        None => Ok(()),
    }
}

pub(super) fn customer(id: &str) -> Result<CustomerId, Problem> {
    CustomerId::new(id).map_err(|error| Problem::field("customerId", error))
}

/// A text that must say something.
pub(super) fn named(field: &str, text: &str) -> Result<(), Problem> {
    match (1..=256).contains(&text.len()) {
        true => Ok(()),
        false => Err(Problem::field(field, "is empty or too long; give 1 to 256 bytes")),
    }
}
