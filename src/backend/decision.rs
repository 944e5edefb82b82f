use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;
use smallvec::SmallVec;

use super::{Check, Flight};
#[cfg(feature = "client")]
use crate::policy::catalog::Plan;
use crate::policy::catalog::{PlanLine, Shown};
use crate::policy::frame::{Frame, Line};
use crate::policy::{Amount, Balance, CustomerId, Period, Timestamp, Verdict, Window};
use crate::store::Judged;

/// The answer of a check: allowed or not, and the state of every limit and balance looked at.
///
/// Cheap to clone. A handler behind the layer has it from
/// [`Reporter::decision`](crate::Reporter::decision), to show customers what they have left.
#[derive(Clone)]
pub struct Decision(pub(super) Arc<Flight>);

/// What a backend answers to a check.
pub(crate) struct Answer {
    pub(crate) frame: Arc<Frame>,
    /// The definitions it was resolved under.
    pub(crate) epoch: u64,
    pub(crate) at: Timestamp,
    pub(crate) allowed: bool,
    /// What each line of the frame said; none where nothing was looked at.
    pub(crate) judged: Judgements,
    pub(crate) balance: Option<BalanceState>,
}

pub(crate) type Judgements = SmallVec<[Judged; 6]>;

impl Answer {
    /// Of what was decided elsewhere, over all lines of a plan in their order.
    #[cfg(feature = "client")]
    pub(crate) fn told(
        plan: Arc<Plan>,
        at: Timestamp,
        looked: Vec<(Line, Judged)>,
        balance: Option<BalanceState>,
    ) -> Self {
        let mut judged = Judgements::with_capacity(looked.len());
        let lines = (0..).zip(looked).map(|(index, (line, said))| {
            judged.push(said);
            Line { index, ..line }
        });
        let lines = lines.collect();
        let allowed = !judged.iter().any(|judged| judged.verdict.refuses())
            && !balance.as_ref().is_some_and(BalanceState::is_exceeded);
        let frame = Arc::new(Frame::new(plan, lines));
        Self { frame, epoch: 0, at, allowed, judged, balance }
    }

    /// What each line said, to add to it.
    #[cfg(feature = "client")]
    pub(crate) fn judged_mut(&mut self) -> impl Iterator<Item = (&PlanLine, &mut Judged)> {
        let lines = self.frame.lines.iter().zip(&mut self.judged);
        lines.filter_map(|(now, judged)| {
            Some((self.frame.plan.lines.get(usize::from(now.index))?, judged))
        })
    }

    fn limits(&self) -> impl Iterator<Item = LimitState<'_>> {
        self.frame.lines.iter().zip(&self.judged).filter_map(|(now, judged)| {
            let line = self.frame.plan.lines.get(usize::from(now.index))?;
            Some(LimitState { line, now, judged })
        })
    }
}

/// The balance that a check looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct BalanceState {
    pub(crate) name: CompactString,
    pub(crate) balance: Option<Balance>,
    pub(crate) verdict: Verdict,
}

impl BalanceState {
    /// The name asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The balance, with this check's own hold; `None` when the customer has none of that name.
    pub fn balance(&self) -> Option<&Balance> {
        self.balance.as_ref()
    }

    /// Whether it refused this check.
    pub fn is_exceeded(&self) -> bool {
        self.verdict.refuses()
    }
}

impl Decision {
    /// There is one in every decision: [`Check::answered`](super::Check::answered) put it there.
    pub(crate) fn answer(&self) -> &Answer {
        self.0.answer.get().expect("a decision is made of an answer")
    }

    /// Of a check that may not have been answered.
    pub(crate) fn of(flight: &Arc<Flight>) -> Option<Self> {
        flight.answer.get().map(|_| Self(Arc::clone(flight)))
    }

    /// The check that it answers.
    pub(crate) fn check(&self) -> Check {
        Check(Arc::clone(&self.0))
    }

    pub(crate) fn into_flight(self) -> Arc<Flight> {
        self.0
    }

    /// Whether the request may run.
    pub fn is_allowed(&self) -> bool {
        self.answer().allowed
    }

    /// Whom it is about.
    pub fn customer(&self) -> &CustomerId {
        &self.0.ask.customer
    }

    /// Every limit that was looked at, those that refused first.
    pub fn limits(&self) -> impl Iterator<Item = LimitState<'_>> {
        let refusing = self.looked_at().filter(LimitState::is_exceeded);
        refusing.chain(self.looked_at().filter(|limit| !limit.is_exceeded()))
    }

    /// Every limit that was looked at, in the order of the plan.
    pub(crate) fn looked_at(&self) -> impl Iterator<Item = LimitState<'_>> {
        self.answer().limits()
    }

    /// The limits that customers may see, in the order of the plan.
    pub(crate) fn shown(&self) -> impl Iterator<Item = LimitState<'_>> {
        self.looked_at().filter(|limit| limit.shown().is_some())
    }

    /// What is left on that line of the frame, as a limit's [`remaining`](LimitState::remaining).
    #[inline]
    pub(crate) fn remaining(&self, line: usize) -> Amount {
        let Answer { frame, judged, .. } = self.answer();
        let line = frame.lines.get(line).zip(judged.get(line));
        line.map_or(Amount::ZERO, |(line, judged)| judged.remaining(line.cap))
    }

    /// The balance that was looked at.
    pub fn balance(&self) -> Option<&BalanceState> {
        self.answer().balance.as_ref()
    }

    /// When it was decided.
    pub fn at(&self) -> Timestamp {
        self.answer().at
    }

    /// The lines that were looked at.
    pub(crate) fn frame(&self) -> &Arc<Frame> {
        &self.answer().frame
    }

    /// How long to wait until asking again can help: the longest wait among the limits that refused,
    /// in whole seconds, rounded up, at least one.
    ///
    /// `None` when nothing refused, and when waiting does not help: a limit without an end, an ask
    /// above the cap itself, a balance that is empty. One second when only running requests stand in
    /// the way.
    pub fn retry_after(&self) -> Option<Duration> {
        self.wait().map(whole_seconds)
    }

    /// [`retry_after`](Self::retry_after), not rounded.
    pub(crate) fn wait(&self) -> Option<Duration> {
        let mut longest = None;
        if let Some(balance) = self.balance().filter(|balance| balance.is_exceeded()) {
            match balance.verdict {
                Verdict::Held => longest = Some(SOON),
                _ => return None,
            }
        }
        for limit in self.limits().take_while(LimitState::is_exceeded) {
            longest = longest.max(Some(limit.wait(self.at())?));
        }
        longest
    }
}

/// What is asked to wait for requests that are running now.
const SOON: Duration = Duration::from_secs(1);

/// In whole seconds, rounded up, at least one.
pub(crate) fn whole_seconds(wait: Duration) -> Duration {
    let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
    Duration::from_secs(seconds.max(1))
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("allowed", &self.is_allowed())
            .field("limits", &self.limits().collect::<Vec<_>>())
            .field("balance", &self.balance())
            .finish()
    }
}

/// A [`Decision`] that refuses.
///
/// A normal answer for the customer, not an error of ours; it implements [`std::error::Error`] so
/// that `?` can carry it out of a handler.
#[derive(Clone)]
pub struct Denial(Decision);

impl Denial {
    /// The decision as a denial, if it is one.
    pub fn new(decision: Decision) -> Option<Self> {
        Self::of(decision).ok()
    }

    /// The decision as a denial, or as it is when it allows.
    pub(crate) fn of(decision: Decision) -> Result<Self, Decision> {
        if decision.is_allowed() { Err(decision) } else { Ok(Self(decision)) }
    }

    /// The whole decision.
    pub fn decision(&self) -> &Decision {
        &self.0
    }

    /// How long to wait, if waiting helps; see [`Decision::retry_after`].
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after()
    }

    /// What refused, in short. Limits come before the balance, as they are checked first.
    pub fn kind(&self) -> DenialKind {
        match self.0.limits().next().filter(LimitState::is_exceeded) {
            Some(limit) if limit.is_too_large() => DenialKind::TooLarge,
            Some(_) => DenialKind::LimitExceeded,
            None if self.0.balance().is_some_and(|state| state.balance.is_none()) => {
                DenialKind::NoBalance
            }
            None => DenialKind::BalanceShort,
        }
    }
}

/// What refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenialKind {
    /// A limit has no room in this window.
    LimitExceeded,
    /// The request asks for more than the limit itself.
    TooLarge,
    /// The balance does not cover the charge.
    BalanceShort,
    /// The customer has no balance of that name.
    NoBalance,
}

impl DenialKind {
    /// A short name for metrics and machine-readable bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LimitExceeded => "limit_exceeded",
            Self::TooLarge => "too_large",
            Self::BalanceShort => "balance_short",
            Self::NoBalance => "no_balance",
        }
    }
}

impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Denial").field(&self.0).finish()
    }
}

/// One sentence for the customer. It never names a private limit.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.0.limits().find(|limit| limit.is_exceeded() && !limit.is_private());
        match (self.kind(), limit) {
            (_, Some(limit)) if limit.is_too_large() => {
                write!(
                    f,
                    "the request asks for more than the limit {:?} allows at all",
                    limit.name()
                )
            }
            (_, Some(limit)) => {
                write!(
                    f,
                    "the limit {:?} of {} has no room for this request",
                    limit.name(),
                    limit.limit()
                )
            }
            (DenialKind::TooLarge | DenialKind::LimitExceeded, None) => {
                f.write_str("a usage limit has no room for this request")
            }
            (DenialKind::BalanceShort, _) => f.write_str("the prepaid balance is too low"),
            (DenialKind::NoBalance, _) => f.write_str("there is no such prepaid balance"),
        }
    }
}

impl std::error::Error for Denial {}

/// One limit in a [`Decision`].
#[derive(Clone, Copy)]
pub struct LimitState<'a> {
    line: &'a PlanLine,
    /// The line in its window.
    now: &'a Line,
    judged: &'a Judged,
}

impl<'a> LimitState<'a> {
    /// The limit's id, which headers carry.
    pub fn id(&self) -> &'a str {
        self.line.id()
    }

    /// The limit's name, for people.
    pub fn name(&self) -> &'a str {
        self.line.limit.as_ref().map_or("", |limit| limit.name())
    }

    /// The id of the meter it caps.
    pub fn meter(&self) -> &'a str {
        self.line.meter.id()
    }

    /// The dimensions that the limit is narrowed to, by key.
    pub fn dimensions(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let limit = self.line.limit.as_deref();
        limit.into_iter().flat_map(|limit| limit.dimensions().iter())
    }

    /// The unit of the meter, if one was given.
    pub fn unit(&self) -> Option<&'a str> {
        self.line.meter.unit.as_deref()
    }

    /// The period.
    pub fn period(&self) -> Period {
        self.line.period
    }

    /// The cap.
    pub fn limit(&self) -> Amount {
        self.line.cap
    }

    /// What was used in this window: the truth, also above the cap.
    pub fn used(&self) -> Amount {
        self.judged.used
    }

    /// What running requests have set aside, this one's own hold included.
    pub fn held(&self) -> Amount {
        self.judged.held
    }

    /// What is left: `limit - used - held`, never below 0.
    pub fn remaining(&self) -> Amount {
        self.judged.remaining(self.limit())
    }

    /// What header fields say of it; `None` when it is private.
    pub(crate) fn shown(&self) -> Option<&'a Shown> {
        self.line.shown.as_ref()
    }

    /// In the answer of a check: this limit refused it. In a usage read: `used + held >= limit`.
    pub fn is_exceeded(&self) -> bool {
        self.judged.verdict.refuses()
    }

    /// What it said.
    #[cfg(feature = "server")]
    pub(crate) fn verdict(&self) -> Verdict {
        self.judged.verdict
    }

    /// Whether the ask is above the cap itself, so that no window will ever have room.
    pub fn is_too_large(&self) -> bool {
        self.judged.verdict == Verdict::TooLarge
    }

    /// Whether `used` counts every event of this window. It does not for a limit that was added when
    /// older events were no longer kept, until its next window begins.
    pub fn is_complete(&self) -> bool {
        self.now.complete
    }

    /// Whether it is hidden from customers.
    pub fn is_private(&self) -> bool {
        self.line.limit.as_ref().is_some_and(|limit| limit.is_private())
    }

    /// The window that was looked at.
    pub fn window(&self) -> Window {
        self.now.window
    }

    /// When the window ends, in Unix seconds; `None` for `all_time`.
    pub fn reset(&self) -> Option<i64> {
        self.now.window.reset()
    }

    /// Whether it refused only because of what running requests hold.
    pub(crate) fn is_held(&self) -> bool {
        self.judged.verdict == Verdict::Held
    }

    /// How long to wait from `at` until this limit can allow what it refused.
    fn wait(&self, at: Timestamp) -> Option<Duration> {
        match self.judged.verdict {
            Verdict::TooLarge => None,
            _ => self.nanos_until_more(at).map(Duration::from_nanos),
        }
    }

    /// Time from `at` until there may be more: the window's end, or soon when running requests hold
    /// what is missing.
    #[inline]
    pub(crate) fn nanos_until_more(&self, at: Timestamp) -> Option<u64> {
        if self.is_held() {
            return Some(SOON.as_nanos() as u64);
        }
        let window = &self.now.window;
        let left = || window.end().as_nanos().saturating_sub(at.as_nanos());
        (!window.is_all_time()).then(|| u64::try_from(left()).unwrap_or(0))
    }
}

impl fmt::Debug for LimitState<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitState")
            .field("id", &self.id())
            .field("limit", &self.limit())
            .field("used", &self.used())
            .field("held", &self.held())
            .field("exceeded", &self.is_exceeded())
            .field("reset", &self.reset())
            .finish_non_exhaustive()
    }
}
