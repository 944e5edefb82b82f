use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use serde::Deserialize;

use super::answer::{Answered, senseless};
use super::{Call, Client};
use crate::Error;
use crate::backend::{Page, PageRequest};
use crate::store::BoxFuture;

/// The items of a list, fetched page by page as they are asked for. Ends after its last item, and
/// after an error.
///
/// A [`Stream`]; where no crate for streams is at hand, [`next`](Self::next) does.
#[must_use = "nothing is fetched until items are asked for"]
pub struct Pages<T> {
    fetch: Box<Fetch<T>>,
    ready: VecDeque<T>,
    state: State<T>,
}

type Fetch<T> = dyn Fn(Option<String>) -> BoxFuture<'static, Result<Page<T>, Error>> + Send + Sync;

enum State<T> {
    /// Where the next page starts.
    Idle(Option<String>),
    Fetching(Option<String>, BoxFuture<'static, Result<Page<T>, Error>>),
    Ended,
}

impl<T: Send + 'static> Pages<T> {
    /// The list that this call begins.
    pub(super) fn of<B: Answered<Item = T>>(client: &Client, call: Call) -> Self {
        let client = client.clone();
        let fetch = move |cursor: Option<String>| {
            let (client, call) = (client.clone(), call.clone().query("cursor", cursor));
            Box::pin(async move { page::<B>(&client, call).await })
                as BoxFuture<'static, Result<Page<T>, Error>>
        };
        Self { fetch: Box::new(fetch), ready: VecDeque::new(), state: State::Idle(None) }
    }

    /// A list that fails at once.
    pub(super) fn failed(error: Error) -> Self {
        let failed = std::sync::Mutex::new(Some(error));
        let fetch = move |_| {
            let error = failed.lock().ok().and_then(|mut error| error.take());
            let error = error.unwrap_or_else(|| senseless("page", "was asked for twice"));
            Box::pin(std::future::ready(Err(error))) as BoxFuture<'static, Result<Page<T>, Error>>
        };
        Self { fetch: Box::new(fetch), ready: VecDeque::new(), state: State::Idle(None) }
    }

    /// The next item.
    pub async fn next(&mut self) -> Option<Result<T, Error>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// All that are left.
    ///
    /// # Errors
    ///
    /// The first of any page.
    pub async fn all(mut self) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        while let Some(item) = self.next().await {
            all.push(item?);
        }
        Ok(all)
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Error>>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(item)));
            }
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Idle(cursor) => {
                    let cursor = cursor.take();
                    let page = (self.fetch)(cursor.clone());
                    self.state = State::Fetching(cursor, page);
                }
                State::Fetching(cursor, page) => {
                    let page = ready!(page.as_mut().poll(cx));
                    let asked = cursor.take();
                    self.state = State::Ended;
                    let Page { items, next } = match page {
                        Ok(page) => page,
                        Err(error) => return Poll::Ready(Some(Err(error))),
                    };
                    if next.is_some() && next == asked {
                        let error = senseless("nextCursor", "is that of the page itself");
                        return Poll::Ready(Some(Err(error)));
                    }
                    self.ready.extend(items);
                    if next.is_some() {
                        self.state = State::Idle(next);
                    }
                }
            }
        }
    }
}

impl<T: Send + 'static> Unpin for Pages<T> {}

impl<T: Send + 'static> Stream for Pages<T> {
    type Item = Result<T, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_item(cx)
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

/// A page as the API answers it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageAnswer<B> {
    data: Vec<B>,
    next_cursor: Option<String>,
    has_more: Option<bool>,
}

/// One page of the list that this call begins.
pub(super) async fn page<B: Answered>(client: &Client, call: Call) -> Result<Page<B::Item>, Error> {
    let page: PageAnswer<B> = client.http().fetch(call).await?;
    let items = page.data.into_iter().map(B::item).collect::<Result<_, _>>()?;
    Ok(Page { items, next: page.next_cursor.filter(|_| page.has_more != Some(false)) })
}

/// The call with what is asked of its page.
pub(super) fn asked(call: Call, page: &PageRequest) -> Result<Call, Error> {
    page.length()?;
    Ok(call.query("limit", page.limit).query("cursor", page.cursor.as_ref()))
}
