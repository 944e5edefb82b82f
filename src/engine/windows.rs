use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::{Calendar, Period, Timestamp, Window};

/// A calendar that remembers the newest window of each period.
#[derive(Debug)]
pub(crate) struct Windows {
    calendar: Calendar,
    /// First and last minute of each window, a half each; 0 is none.
    newest: [AtomicU64; Period::ALL.len()],
}

const MINUTE: i64 = 60_000_000_000;

impl Windows {
    pub(crate) fn new(calendar: Calendar) -> Self {
        Self { calendar, newest: Default::default() }
    }

    pub(crate) fn calendar(&self) -> &Calendar {
        &self.calendar
    }

    /// The window of that period in which `at` lies.
    #[inline]
    pub(crate) fn window(&self, period: Period, at: Timestamp) -> Window {
        if period == Period::AllTime {
            return Window::ALL_TIME;
        }
        let newest = self.newest[period.index()].load(Ordering::Relaxed);
        let (first, last) = ((newest >> 32) as u32, newest as u32);
        let (start, end) = (i64::from(first) * MINUTE, i64::from(last) * MINUTE);
        if at.as_nanos() >= start && at.as_nanos() < end {
            return Window::new(Timestamp::from_nanos(start), Timestamp::from_nanos(end));
        }
        self.compute(period, at)
    }

    #[cold]
    fn compute(&self, period: Period, at: Timestamp) -> Window {
        let window = self.calendar.window(period, at);
        let (start, end) = (window.start().as_nanos(), window.end().as_nanos());
        // Zones were not always on whole minutes; such windows are old and not worth remembering.
        if start > 0 && start % MINUTE == 0 && end % MINUTE == 0 {
            let (first, last) = ((start / MINUTE) as u64, (end / MINUTE) as u64);
            self.newest[period.index()].store(first << 32 | last, Ordering::Relaxed);
        }
        window
    }
}
