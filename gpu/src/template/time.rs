//! `strftime` in UTC for templates that print the date.
//!
//! The time is a number that somebody hands in; nothing here reads a clock. A directive that strftime does
//! not have is left as it stands.

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config};
use jiff::tz::TimeZone;

/// `None` where the time is beyond the year 9999.
pub(super) fn strftime(unix_s: u64, format: &str) -> Option<String> {
    let time = Timestamp::from_second(i64::try_from(unix_s).ok()?).ok()?.to_zoned(TimeZone::UTC);
    BrokenDownTime::from(&time).to_string_with_config(&Config::new().lenient(true), format).ok()
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates() {
        let all = "%A %a %d %e %B %b %Y %y %m %H %I:%M:%S %p %% %!";
        let told = "Thursday Thu 01  1 January Jan 1970 70 01 00 12:00:00 AM % %!";
        assert_eq!(strftime(0, all).as_deref(), Some(told));
        assert_eq!(strftime(951_827_696, "%Y-%m-%d %H:%M:%S").as_deref(), Some("2000-02-29 12:34:56"));
        assert_eq!(strftime(1_735_689_599, "%d %b %Y %A").as_deref(), Some("31 Dec 2024 Tuesday"));
        assert_eq!(strftime(u64::MAX, "%Y"), None);
    }
}
