//! From what the API answers to what callers are handed. Members that are not known are passed over,
//! and those that not every server sends may be absent.

use serde::de::DeserializeOwned;

use super::retry::Safety;
use super::{Call, Client};
use crate::policy::{CustomerId, Dimensions, IdError, Timestamp};
use crate::wire::Texts;
use crate::{Error, ErrorKind};

/// The form of an answer.
pub(super) trait Answered: DeserializeOwned + Send + 'static {
    /// What callers are handed.
    type Item: Send + 'static;

    fn item(self) -> Result<Self::Item, Error>;
}

impl Client {
    pub(super) async fn ask<B: Answered>(&self, call: Call) -> Result<B::Item, Error> {
        let only_reads = call.safety == Safety::Safe;
        let item = self.http().fetch::<B>(call).await?.item();
        item.map_err(|error| if only_reads { error } else { unknown(error) })
    }
}

/// What the API keeps under an id: a limit or a meter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Defined<T> {
    /// The definition, under the id that the API gave it.
    pub item: T,
    /// The project it belongs to; `None` for what belongs to all.
    pub project: Option<String>,
    /// When it was made, if the API tells.
    pub created_at: Option<Timestamp>,
    /// When it last changed, if the API tells.
    pub updated_at: Option<Timestamp>,
}

/// An answer that makes no sense.
pub(super) fn senseless(field: &str, problem: impl std::fmt::Display) -> Error {
    let message = format!("the answer of the API cannot be read: {field}: {problem}");
    Error::new(ErrorKind::Unavailable, message)
}

/// The answer to a call that writes makes no sense: it may have been done.
pub(super) fn unknown(error: Error) -> Error {
    Error::new(ErrorKind::TimedOut, format!("{error}; whether it was done is not known"))
}

pub(super) fn dimensions(texts: Option<Texts>) -> Dimensions {
    let mut dimensions = Dimensions::new();
    for (key, text) in texts.unwrap_or_default() {
        dimensions.set(&key, &text);
    }
    dimensions
}

pub(super) fn texts(dimensions: &Dimensions) -> Texts {
    dimensions.iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect()
}

/// A customer's id that the API answered.
pub(super) fn answered_customer(id: &str) -> Result<CustomerId, Error> {
    CustomerId::new(id).map_err(|error| senseless("customerId", error))
}

/// A customer's id that a caller gave.
pub(super) fn customer<C>(id: C) -> Result<CustomerId, Error>
where
    C: TryInto<CustomerId>,
    C::Error: Into<IdError>,
{
    id.try_into().map_err(|error| Error::invalid("customer", error.into()))
}

/// One that was given to a query.
pub(super) fn given(id: Option<Result<CustomerId, IdError>>) -> Result<Option<String>, Error> {
    let id = id.transpose().map_err(|error| Error::invalid("customer", error))?;
    Ok(id.map(|id| id.to_string()))
}
