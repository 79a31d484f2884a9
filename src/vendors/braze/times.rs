//! Times as Braze spells them: one sample object of its documents has three spellings of a time and a fourth of a date.

use std::borrow::Cow;

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

/// A time, or the beginning of a day, as [`spelled`]; what is neither stays as it is.
pub fn unified(text: Cow<'_, str>) -> Cow<'_, str> {
    if is_spelled(&text) {
        return text;
    }
    instant_or_day(&text).map(spelled).map_or(text, Cow::Owned)
}

/// A day, or that of a time as it is written: a birthday does not move with a time zone. Other text stays as it is.
pub fn unified_day(text: Cow<'_, str>) -> Cow<'_, str> {
    let Some((day, rest)) = text.split_at_checked(10) else { return text };
    if rest.is_empty() && is_day(day) {
        return text;
    }
    let Ok(read) = NaiveDate::parse_from_str(day, "%Y-%m-%d") else { return text };
    if rest.is_empty() || rest.starts_with(['T', ' ']) { Cow::Owned(read.to_string()) } else { text }
}

/// Whether a time is spelled as [`spelled`] would: nearly all are, and need no calendar's machinery. It may be so where
/// this says no.
fn is_spelled(text: &str) -> bool {
    let Some((day, time)) = text.split_at_checked(10) else { return false };
    let fraction = match time.as_bytes() {
        [b'T', h @ b'0'..=b'2', hour, b':', b'0'..=b'5', minute, b':', b'0'..=b'5', second, fraction @ .., b'Z']
            if [hour, minute, second].iter().all(|digit| digit.is_ascii_digit()) && (*h < b'2' || *hour < b'4') =>
        {
            fraction
        }
        _ => return false,
    };
    let is_fraction = match fraction {
        [] => true,
        [b'.', millis @ ..] => millis.len() == 3 && millis.iter().all(u8::is_ascii_digit) && millis != b"000",
        _ => false,
    };
    is_fraction && is_day(day)
}

/// Whether it is a day from 1 to 28 of a month, as RFC 3339 has it; the others are left to the calendar.
fn is_day(text: &str) -> bool {
    let [y @ .., b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return false };
    let month = matches!((m1, m2), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'));
    let day = matches!((d1, d2), (b'0', b'1'..=b'9') | (b'1', b'0'..=b'9') | (b'2', b'0'..=b'8'));
    month && day && y.len() == 4 && y.iter().all(u8::is_ascii_digit)
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

    #[test]
    fn what_is_spelled_as_it_should_be_is_known_without_a_calendar() {
        for text in
            ["2021-06-28T17:02:43.032Z", "2021-07-07T20:45:24Z", "2024-02-28T23:59:59.900Z", "0001-01-01T00:00:00Z"]
        {
            assert!(is_spelled(text), "{text}");
            assert_eq!(instant_or_day(text).map(spelled).as_deref(), Some(text));
        }
        for text in [
            "2021-07-07T20:45:24.000Z",
            "2021-07-07T20:45:24.12Z",
            "2021-07-07T24:00:00Z",
            "2021-07-07T20:60:24Z",
            "2021-07-07T20:45:60Z",
            "2021-07-07 20:45:24Z",
            "2021-02-29T20:45:24Z",
            "2021-13-07T20:45:24Z",
            "2021-00-07T20:45:24Z",
            "2021-07-00T20:45:24Z",
            "+021-07-07T20:45:24Z",
            "2021-07-07T20:45:24.1234Z",
            "2021-07-07T20:45:24.123",
            "2021-07-07",
            "2021-07-0é",
            "",
        ] {
            assert!(!is_spelled(text), "{text}");
        }
        assert_eq!(unified("2021-02-29T20:45:24Z".into()), "2021-02-29T20:45:24Z");
        assert_eq!(unified("2024-02-29T20:45:24.000Z".into()), "2024-02-29T20:45:24Z");
        assert_eq!(unified_day("2024-02-29".into()), "2024-02-29");
        assert_eq!(unified_day("2024-02-29 10:00".into()), "2024-02-29");
    }
}
