//! `strftime` in UTC for templates that print the date.
//!
//! The time is a number that somebody hands in; nothing here reads a clock. The directives are those that
//! chat templates use; any other is left as it stands.

const SECONDS_OF_DAY: u64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// 1 January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Year, month 1–12 and day 1–31 of a day counted from 1970; after Howard Hinnant's `civil_from_days`.
fn date(days: u64) -> (u64, usize, u64) {
    let shifted = days + 719_468; // days since 1 March of the year 0
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month as usize, day)
}

pub(super) fn strftime(unix_s: u64, format: &str) -> String {
    // Nine thousand years are enough; more would only find the end of the arithmetic.
    let unix_s = unix_s.min(9_999 * 366 * SECONDS_OF_DAY);
    let days = unix_s / SECONDS_OF_DAY;
    let (year, month, day) = date(days);
    let of_day = unix_s % SECONDS_OF_DAY;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    let month_name = MONTHS.get(month - 1).copied().unwrap_or_default();
    let weekday = WEEKDAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let short = |name: &str| name.chars().take(3).collect::<String>();

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year % 100),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('e') => out += &format!("{day:2}"),
            Some('B') => out += month_name,
            Some('b') => out += &short(month_name),
            Some('A') => out += weekday,
            Some('a') => out += &short(weekday),
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => out += &format!("{minute:02}"),
            Some('S') => out += &format!("{second:02}"),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('%') | None => out.push('%'),
            Some(other) => out.extend(['%', other]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates() {
        let all = "%A %a %d %e %B %b %Y %y %m %H %I:%M:%S %p %% %Q";
        assert_eq!(strftime(0, all), "Thursday Thu 01  1 January Jan 1970 70 01 00 12:00:00 AM % %Q");
        assert_eq!(strftime(951_827_696, "%Y-%m-%d %H:%M:%S"), "2000-02-29 12:34:56");
        assert_eq!(strftime(1_735_689_599, "%d %b %Y %A"), "31 Dec 2024 Tuesday");
        assert!(strftime(u64::MAX, "%Y%").ends_with('%'));
    }
}
