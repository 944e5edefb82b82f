use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::backend::{Page, PageRequest};
use crate::wire::PageBody;

/// The query of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListQuery {
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
    pub(super) customer_id: Option<String>,
    pub(super) event_type: Option<String>,
}

impl ListQuery {
    pub(super) fn page(&self) -> PageRequest {
        let page = PageRequest::first().limit(self.limit.unwrap_or(50));
        match &self.cursor {
            Some(cursor) => page.after(cursor),
            None => page,
        }
    }

    /// One page of a whole list that is sorted by `key`.
    pub(super) fn cut<T>(
        &self,
        items: impl Iterator<Item = T>,
        key: impl Fn(&T) -> &str,
    ) -> Result<PageBody<T>, Problem> {
        let length = self.page().length()?;
        let follows = |item: &T| self.cursor.as_deref().is_none_or(|cursor| key(item) > cursor);
        let mut data: Vec<T> = items.filter(follows).take(length + 1).collect();
        let has_more = data.len() > length;
        data.truncate(length);
        let next_cursor = data.last().map(|last| key(last).to_owned()).filter(|_| has_more);
        Ok(PageBody { data, next_cursor, has_more })
    }
}

/// The query, read.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Query(query) = Query::try_from_uri(&parts.uri)
            .map_err(|rejection| Problem::field("query", rejection.body_text()))?;
        Ok(Self(query))
    }
}

pub(super) fn page<T, U>(page: Page<T>, item: impl Fn(T) -> U) -> PageBody<U> {
    PageBody {
        data: page.items.into_iter().map(item).collect(),
        has_more: page.next.is_some(),
        next_cursor: page.next,
    }
}
