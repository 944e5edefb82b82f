//! For your own tests: a clock moved by hand, a backend that does what it is told, and an assertion
//! that nothing is left open.
//!
//! ```
//! use tower_limitry::test_util::{Answer, Scripted, assert_no_open_holds};
//! use tower_limitry::{Books, Check, CheckError, ErrorKind};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let backend = Scripted::new();
//! let books = Books::new(backend.clone());
//!
//! backend.on_check(Answer::Fail(ErrorKind::Unavailable));
//! assert!(matches!(books.check(Check::of("acct_42")).await, Err(CheckError::Failed(_))));
//!
//! backend.on_check(Answer::Obey);
//! books.check(Check::of("acct_42")).await.unwrap().release().await.unwrap();
//! assert_no_open_holds(&books).await;
//! # });
//! ```

use std::fmt;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::backend::{
    Admin, Admission, Answer as Answered, Backend, Books, Check, Settlement, Ticket,
};
use crate::engine::Engine;
pub use crate::engine::ManualClock;
use crate::policy::catalog::{CounterNumbers, Plans, Rule};
use crate::policy::frame::Frame;
use crate::policy::{Amount, CustomerId, EventId, Limit, Meter, Timestamp, Usage, Verdict, Window};
use crate::store::{BoxFuture, Judged};
use crate::{Error, ErrorKind};

/// A backend that does what it is told. Clones share the script.
///
/// Obeying, it is an engine of its own without limits, or the one given.
#[derive(Clone)]
pub struct Scripted(Arc<Inner>);

struct Inner {
    engine: Engine,
    script: Mutex<Script>,
    resumed: Notify,
}

struct Script {
    check: Answer,
    finish: Answer,
    calls: Vec<Call>,
}

/// What a [`Scripted`] backend does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// What the engine behind it says.
    Obey,
    /// Refuses the check, as a limit that is reached. A settlement is obeyed.
    Deny,
    /// Does nothing, and fails.
    Fail(ErrorKind),
    /// Does nothing until [`Scripted::resume`], then obeys.
    Hang,
    /// Obeys, and answers only after [`Scripted::resume`].
    LateAnswer,
    /// Obeys, and never answers.
    LoseAnswer,
}

/// A call that a [`Scripted`] backend got.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Call {
    /// A check of this customer.
    Check(CustomerId),
    /// A settlement of this usage, with what it charges.
    Settle(Usage, Option<Amount>),
    /// A release.
    Release,
}

impl Default for Scripted {
    fn default() -> Self {
        Self::new()
    }
}

impl Scripted {
    /// A backend that allows everything.
    ///
    /// # Panics
    ///
    /// Never: an engine without definitions can always be built.
    pub fn new() -> Self {
        let books = Engine::builder().build();
        Self::over(&books.expect("an engine without definitions can be built"))
    }

    /// A backend that obeys by this engine.
    pub fn over(books: &Books<Engine>) -> Self {
        let script = Script { check: Answer::Obey, finish: Answer::Obey, calls: Vec::new() };
        Self(Arc::new(Inner {
            engine: books.backend().clone(),
            script: Mutex::new(script),
            resumed: Notify::new(),
        }))
    }

    /// What checks are answered from now on.
    pub fn on_check(&self, answer: Answer) {
        self.script().check = answer;
    }

    /// What settlements and releases are answered from now on.
    pub fn on_finish(&self, answer: Answer) {
        self.script().finish = answer;
    }

    /// Lets everything that hangs go on.
    pub fn resume(&self) {
        self.0.resumed.notify_waiters();
    }

    /// The calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(
        &self,
        work: impl FnOnce(&Engine) -> <Engine as Backend>::Finish + Send + 'static,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let this = self.clone();
        let answer = self.script().finish;
        match answer {
            Answer::Obey | Answer::Deny => Box::pin(work(&self.0.engine)),
            Answer::Fail(kind) => Box::pin(ready(Err(scripted(kind)))),
            Answer::LoseAnswer => {
                drop(work(&self.0.engine));
                Box::pin(pending())
            }
            Answer::LateAnswer => {
                let done = work(&self.0.engine);
                Box::pin(async move {
                    this.0.resumed.notified().await;
                    done.await
                })
            }
            // It is handed over, so it happens whether or not anybody waits.
            Answer::Hang => {
                let done = tokio::spawn(async move {
                    this.0.resumed.notified().await;
                    work(&this.0.engine).await
                });
                Box::pin(async move {
                    done.await.unwrap_or_else(|_| Err(scripted(ErrorKind::TimedOut)))
                })
            }
        }
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = self.script();
        f.debug_struct("Scripted")
            .field("check", &script.check)
            .field("finish", &script.finish)
            .finish_non_exhaustive()
    }
}

impl Backend for Scripted {
    type Check = BoxFuture<'static, Result<Admission, Error>>;
    type Finish = BoxFuture<'static, Result<(), Error>>;

    fn check(&self, check: Check) -> Self::Check {
        let this = self.clone();
        let answer = {
            let mut script = self.script();
            script.calls.push(Call::Check(check.ask().customer.clone()));
            script.check
        };
        match answer {
            Answer::Obey => Box::pin(self.0.engine.check(check)),
            Answer::Deny => Box::pin(ready(Ok(denied(check, self.0.engine.now())))),
            Answer::Fail(kind) => Box::pin(ready(Err(scripted(kind)))),
            Answer::LoseAnswer => {
                let asked = self.0.engine.check(check);
                Box::pin(async move {
                    let _placed = asked.await;
                    pending().await
                })
            }
            Answer::LateAnswer => {
                let asked = self.0.engine.check(check);
                Box::pin(async move {
                    this.0.resumed.notified().await;
                    asked.await
                })
            }
            Answer::Hang => Box::pin(async move {
                this.0.resumed.notified().await;
                this.0.engine.check(check).await
            }),
        }
    }

    fn settle(&self, settlement: Settlement) -> Self::Finish {
        let call = Call::Settle(settlement.usage.clone(), settlement.charge);
        self.script().calls.push(call);
        self.finish(move |engine| engine.settle(settlement))
    }

    fn release(&self, ticket: Ticket) -> Self::Finish {
        self.script().calls.push(Call::Release);
        self.finish(move |engine| engine.release(ticket))
    }

    fn make_id(&self, at: Timestamp) -> EventId {
        self.0.engine.make_id(at)
    }

    fn now(&self) -> Timestamp {
        self.0.engine.now()
    }

    fn admin(&self) -> &dyn Admin {
        self.0.engine.admin()
    }
}

fn scripted(kind: ErrorKind) -> Error {
    Error::new(kind, "the script says so")
}

/// A limit of one call a minute, reached.
fn denied(check: Check, now: Timestamp) -> Admission {
    let meter = Arc::new(Meter::count("scripted"));
    let limit = Limit::per_minute("scripted", "scripted", 1).named("Scripted limit");
    let rule = Rule::new(&meter, limit, &mut CounterNumbers::default());
    let plans = Plans::compile(&[rule], &Default::default());
    let start = now.as_nanos() - now.as_nanos().rem_euclid(60_000_000_000);
    let end = start.saturating_add(60_000_000_000);
    let window = Window::new(Timestamp::from_nanos(start), Timestamp::from_nanos(end));
    let judged = Judged { verdict: Verdict::Exceeded, used: Amount::ONE, held: Amount::ZERO };
    let frame = Arc::new(Frame::of(plans.plan(None), |_| (window, true)));
    let decision = check.answered(|_| Answered {
        frame,
        epoch: 0,
        at: now,
        allowed: false,
        judged: std::iter::once(judged).collect(),
        balance: None,
    });
    Admission { decision, hold: None }
}

/// Asserts that no request holds anything: every hold was settled, released, or has expired.
///
/// # Panics
///
/// When a hold is open, or the backend does not say.
pub async fn assert_no_open_holds<B: Backend>(books: &Books<B>) {
    match books.open_holds().await {
        Ok(0) => {}
        Ok(open) => panic!("{open} holds are still open"),
        Err(error) => panic!("the backend does not say how many holds are open: {error}"),
    }
}
