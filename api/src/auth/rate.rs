//! How much work a token may ask for: so many requests at once, and then as they come back, evenly.
//!
//! One number is the whole state: when the requests taken so far would be over if each took its share of
//! the time. It never lies further ahead than the whole time (the "generic cell rate algorithm").

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nobody means more; it keeps a request's share of the time above zero.
const REQUESTS_MOST: u32 = 1_000_000;

/// `10/s` or `30/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    requests: u32,
    per: Duration,
}

impl FromStr for Rate {
    type Err = ();

    fn from_str(text: &str) -> Result<Rate, ()> {
        let (requests, unit) = text.split_once('/').ok_or(())?;
        let requests = requests.parse().ok().filter(|n| (1..=REQUESTS_MOST).contains(n)).ok_or(())?;
        let per = match unit {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            _ => return Err(()),
        };
        Ok(Rate { requests, per })
    }
}

/// What is left of a rate.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    made: Instant,
    /// Nanoseconds since then.
    taken_until: AtomicU64,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Bucket {
        Bucket { rate, made: Instant::now(), taken_until: AtomicU64::new(0) }
    }

    /// Takes one request, or says after how many milliseconds there will be one.
    pub(super) fn take(&self, now: Instant) -> Result<(), u64> {
        let nanos = |length: Duration| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let now = nanos(now.saturating_duration_since(self.made));
        let whole = nanos(self.rate.per);
        let share = whole / u64::from(self.rate.requests);
        let next = |taken: u64| taken.max(now).saturating_add(share);
        let fits = |taken: u64| (next(taken) <= now.saturating_add(whole)).then(|| next(taken));
        // It guards nothing but itself.
        let taken = self.taken_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.map(drop).map_err(|taken| (next(taken) - now - whole).div_ceil(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_at_once_and_then_evenly() {
        let bucket = Bucket::new("4/s".parse().unwrap());
        let at = |ms| bucket.made + Duration::from_millis(ms);
        assert_eq!([0, 0, 0, 0, 0].map(|ms| bucket.take(at(ms))), [Ok(()), Ok(()), Ok(()), Ok(()), Err(250)]);
        // What is told is true, and asking costs nothing.
        assert_eq!([249, 250, 250].map(|ms| bucket.take(at(ms))), [Err(1), Ok(()), Err(250)]);
        // Rest is not saved up beyond the whole.
        let late = (0..6).filter(|_| bucket.take(at(3_600_000)).is_ok()).count();
        assert_eq!(late, 4);
        // A clock that is read out of order takes nothing back.
        assert!(bucket.take(at(0)).is_err());
    }

    #[test]
    fn rates_are_read_whole() {
        let rate = |text: &str| text.parse::<Rate>();
        assert_eq!(rate("30/m"), Ok(Rate { requests: 30, per: Duration::from_secs(60) }));
        for bad in ["", "10", "/s", "0/s", "-1/s", "1.5/s", "10/h", "10/s/s", "99999999/s"] {
            assert_eq!(rate(bad), Err(()), "{bad}");
        }
    }
}
