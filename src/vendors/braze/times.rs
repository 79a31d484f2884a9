//! Times as Braze spells them: one sample object of its documents has three spellings of a time and a fourth of a date.

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};

use crate::exports::parameters::Window;

/// A time with its hour; a plain date is none.
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f %z"))
        .map(|time| time.with_timezone(&Utc))
        .ok()
        .or_else(|| {
            let plain = text.strip_suffix("UTC").unwrap_or(text).trim_end();
            let time = NaiveDateTime::parse_from_str(plain, "%Y-%m-%d %H:%M:%S%.f")
                .or_else(|_| NaiveDateTime::parse_from_str(plain, "%Y-%m-%dT%H:%M:%S%.f"));
            time.ok().map(|time| time.and_utc())
        })
}

/// A time, or the beginning of a day.
pub fn instant_or_day(text: &str) -> Option<DateTime<Utc>> {
    let day = || NaiveDate::parse_from_str(text.strip_suffix("UTC").unwrap_or(text).trim_end(), "%Y-%m-%d").ok();
    instant(text).or_else(|| day()?.and_hms_opt(0, 0, 0).map(|time| time.and_utc()))
}

/// A part that is written as `from/to`.
pub fn window(part: &str) -> Option<Window> {
    let (from, to) = part.split_once('/')?;
    let read = |text| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
    Some(Window { from: read(from)?, to: read(to)? })
}

/// RFC 3339 in UTC, with as many decimals as it has.
pub fn spelled(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// RFC 3339 in UTC, whole seconds: what Braze's parameters take without an encoded plus sign.
pub fn seconds(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quirk 21.
    #[test]
    fn every_spelling_of_a_time_is_read() {
        for (text, expected) in [
            ("2021-06-28T17:02:43.032Z", Some("2021-06-28T17:02:43.032Z")),
            ("2021-07-07T20:45:24.000+00:00", Some("2021-07-07T20:45:24Z")),
            ("2020-07-10 15:00:00.000 UTC", Some("2020-07-10T15:00:00Z")),
            ("2016-08-25 17:45:36 +0200", Some("2016-08-25T15:45:36Z")),
            ("2018-03-14T11:00:00", Some("2018-03-14T11:00:00Z")),
            ("1980-12-21", None),
            ("yesterday", None),
        ] {
            assert_eq!(instant(text).map(spelled).as_deref(), expected, "{text}");
        }
        assert_eq!(instant_or_day("1980-12-21").map(seconds).as_deref(), Some("1980-12-21T00:00:00Z"));
        assert_eq!(instant_or_day("1980-13-21"), None);
    }
}
