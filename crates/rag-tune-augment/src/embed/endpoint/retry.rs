//! When a request is made again.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

/// How often and after how long a request is made again that a rate limit (429), a server's fault (5xx)
/// or a broken connection stopped.
///
/// Before attempt `n + 1` it waits `first_wait * 2^(n - 1)`, at most `longest_wait`, less a random part
/// of up to a half, so that requests that failed together do not come together again. Where the server
/// names a time (`Retry-After`), it waits at least that long.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Requests at most, the first one included.
    pub attempts: u32,
    /// Requests at most while there is no connection at all: a server that does not run is told soon.
    pub attempts_to_connect: u32,
    /// Before the second attempt.
    pub first_wait: Duration,
    /// Between two attempts.
    pub longest_wait: Duration,
    /// Between the first attempt and the last. A server that asks for more patience gets none.
    pub total_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 8,
            attempts_to_connect: 4,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            total_wait: Duration::from_secs(600),
        }
    }
}

/// Whether a failed request is worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Again {
    /// The answer would be the same.
    No,
    /// Another attempt may succeed, but not before the time that the server named.
    After(Duration),
    /// There was no connection.
    Connecting,
}

impl RetryPolicy {
    /// How long to wait after attempt `made` (from 1); `None` if that was the last.
    pub(super) fn wait(&self, made: u32, waited: Duration, again: Again) -> Option<Duration> {
        let (attempts, least) = match again {
            Again::No => return None,
            Again::After(least) => (self.attempts, least),
            Again::Connecting => (self.attempts.min(self.attempts_to_connect), Duration::ZERO),
        };
        if made >= attempts {
            return None;
        }
        let doubled = 2_u32.saturating_pow(made.saturating_sub(1));
        let backoff = self
            .first_wait
            .saturating_mul(doubled)
            .min(self.longest_wait);
        let wait = backoff.mul_f64(1.0 - 0.5 * random_share()).max(least);
        (waited.saturating_add(wait) <= self.total_wait).then_some(wait)
    }
}

/// From 0 to 1. The standard library seeds each `RandomState` anew.
fn random_share() -> f64 {
    RandomState::new().hash_one(()) as f64 / u64::MAX as f64
}

/// The time that `Retry-After` names, from now: seconds, or an HTTP date (RFC 9110, 10.2.3).
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    // Seconds with a fraction are not in the RFC, but some services send them.
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = http_date(value)?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A date such as `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers may send (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_weekday, date) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = date.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else {
        return None;
    };
    let number = |text: &str, range: std::ops::RangeInclusive<u64>| {
        text.parse().ok().filter(|number| range.contains(number))
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let year = number(year, 1970..=9999)?;
    // Years counted from March, so that the leap day is the last of its year.
    let (year, month) = if month < 2 {
        (year - 1, month + 10)
    } else {
        (year, month - 2)
    };
    let days_before_month = (153 * month + 2) / 5; // of 31, 30, 31, 30, 31, ... days
    let leap_days = year / 4 - year / 100 + year / 400;
    let day = number(day, 1..=31)? - 1;
    let days_from_year_0 = 365 * year + leap_days + days_before_month + day;
    const FROM_YEAR_0_TO_1970: u64 = 719_468;
    let days = days_from_year_0.checked_sub(FROM_YEAR_0_TO_1970)?;
    let seconds = number(hour, 0..=23)? * 3600 + number(minute, 0..=59)? * 60;
    let seconds = days * 86_400 + seconds + number(second, 0..=60)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Checked with `date -d ... +%s`.
    #[test]
    fn http_dates_are_read() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Sun, 28 Feb 2100 12:00:00 GMT", 4_107_499_200),
            ("Mon, 01 Mar 2100 12:00:00 GMT", 4_107_585_600),
        ] {
            let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(http_date(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "soon",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        let seconds = |value| retry_after(value, now).map(|wait| wait.as_secs_f64());
        assert_eq!(seconds("7"), Some(7.0));
        assert_eq!(seconds(" 0.25 "), Some(0.25));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(7.0));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0.0), "past");
        for bad in ["-1", "NaN", "1e300", "later"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn waits_grow_within_their_bounds(made in 1_u32..40, least in 0_u64..100) {
            let policy = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
            let least = Duration::from_secs(least);
            let wait = policy.wait(made, Duration::ZERO, Again::After(least)).unwrap();
            let full = Duration::from_secs_f64((0.5 * 2_f64.powi(made as i32 - 1)).min(60.0));
            prop_assert!(wait >= least && wait >= full.mul_f64(0.499));
            prop_assert!(wait <= full.max(least));
        }
    }

    #[test]
    fn attempts_and_patience_end() {
        let policy = RetryPolicy::default();
        let now = Again::After(Duration::ZERO);
        assert!(policy.wait(7, Duration::ZERO, now).is_some());
        assert_eq!(policy.wait(8, Duration::ZERO, now), None);
        assert!(policy.wait(3, Duration::ZERO, Again::Connecting).is_some());
        assert_eq!(policy.wait(4, Duration::ZERO, Again::Connecting), None);
        assert_eq!(policy.wait(1, Duration::ZERO, Again::No), None);
        let hour = Again::After(Duration::from_secs(3600));
        assert_eq!(policy.wait(1, Duration::ZERO, hour), None);
        assert_eq!(policy.wait(1, Duration::from_secs(600), now), None);
    }
}
