//! Days and points in time as unified rows carry them: in one spelling, and as a number for typed columns.
//! What cannot be read so is not guessed at: [`cells`](super::cells) says what becomes of it.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, SecondsFormat, Timelike, Utc};

/// A point in time of the years 1 to 9999, to the microsecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment<'a> {
    /// RFC 3339 in UTC, as in `2026-03-02T08:00:00.25Z`.
    pub text: Cow<'a, str>,
    /// Microseconds since the beginning of 1970 in UTC.
    pub micros: i64,
}

impl<'a> Moment<'a> {
    /// Reads a time that says how it stands to UTC. Whatever is finer than a microsecond is cut off; a leap second is
    /// the beginning of the next minute. A time without a zone is none.
    pub fn read(text: &'a str) -> Option<Self> {
        if let Some(micros) = canonical(text.as_bytes()) {
            return Some(Self { text: Cow::Borrowed(text), micros });
        }
        let read = DateTime::parse_from_rfc3339(text)
            .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f %z"))
            .ok()?;
        let time = DateTime::<Utc>::from_timestamp_micros(read.timestamp_micros())?;
        (1..=9999).contains(&time.year()).then(|| Self {
            text: Cow::Owned(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            micros: time.timestamp_micros(),
        })
    }
}

/// A time as somebody gave it.
#[derive(Debug, Clone)]
pub enum Time<'a> {
    Text(Cow<'a, str>),
    Known(Moment<'a>),
}

impl<'a, T: Into<Cow<'a, str>>> From<T> for Time<'a> {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

/// A day of the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day<'a> {
    /// `YYYY-MM-DD`
    pub text: &'a str,
    /// Days since 1 January 1970.
    pub days: i32,
}

impl<'a> Day<'a> {
    /// Reads a day, or a time as the day that is written there: a birthday does not move with a time zone.
    pub fn read(text: &'a str) -> Option<Self> {
        let (head, rest) = text.as_bytes().split_first_chunk::<10>()?;
        let days = days(head)?;
        matches!(rest.first(), None | Some(b'T' | b' ')).then(|| Self { text: &text[..10], days })
    }
}

/// Microseconds since 1970 of a time in the one spelling that is passed on as it is.
fn canonical(text: &[u8]) -> Option<i64> {
    let (head, rest) = text.split_first_chunk::<19>()?;
    let [date @ .., b'T', h0, h1, b':', m0, m1, b':', s0, s1] = head else { return None };
    let time = NaiveTime::from_hms_opt(two(*h0, *h1)?, two(*m0, *m1)?, two(*s0, *s1)?)?;
    let fraction = match rest {
        [b'Z'] => 0,
        [b'.', digits @ .., b'Z'] if (1..=6).contains(&digits.len()) => {
            let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
            padded.map(digit).try_fold(0, |sum, digit| Some(sum * 10 + i64::from(digit?)))?
        }
        _ => return None,
    };
    let seconds = i64::from(days(date)?) * 86_400 + i64::from(time.num_seconds_from_midnight());
    Some(seconds * 1_000_000 + fraction)
}

/// Days since 1970 of `YYYY-MM-DD`.
fn days(date: &[u8]) -> Option<i32> {
    const FIRST: i32 = 719_163;
    let [y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = date else { return None };
    let year = two(*y0, *y1)? * 100 + two(*y2, *y3)?;
    let date = NaiveDate::from_ymd_opt(year.cast_signed(), two(*m0, *m1)?, two(*d0, *d1)?)?;
    (year > 0).then(|| date.num_days_from_ce() - FIRST)
}

const fn digit(byte: u8) -> Option<u32> {
    if byte.is_ascii_digit() { Some((byte - b'0') as u32) } else { None }
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    Some(digit(tens)? * 10 + digit(ones)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_one_spelling_and_one_number() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(("1970-01-01T00:00:00Z", 0))),
            ("2026-03-02T08:00:00.250Z", Some(("2026-03-02T08:00:00.250Z", 1_772_438_400_250_000))),
            ("2026-03-02T08:00:00.2Z", Some(("2026-03-02T08:00:00.2Z", 1_772_438_400_200_000))),
            ("2026-03-02T16:00:00+08:00", Some(("2026-03-02T08:00:00Z", 1_772_438_400_000_000))),
            ("2026-03-02 16:00:00 +0800", Some(("2026-03-02T08:00:00Z", 1_772_438_400_000_000))),
            ("2026-03-02t08:00:00z", Some(("2026-03-02T08:00:00Z", 1_772_438_400_000_000))),
            ("2026-03-02T08:00:00.123456789Z", Some(("2026-03-02T08:00:00.123456Z", 1_772_438_400_123_456))),
            ("1969-12-31T23:59:59.9999999Z", Some(("1969-12-31T23:59:59.999999Z", -1))),
            ("2016-12-31T23:59:60Z", Some(("2017-01-01T00:00:00Z", 1_483_228_800_000_000))),
            ("0001-01-01T00:00:00Z", Some(("0001-01-01T00:00:00Z", -62_135_596_800_000_000))),
            ("9999-12-31T23:59:59.999999Z", Some(("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999))),
            ("9999-12-31T23:59:59-01:00", None),
            ("0000-12-31T23:59:59Z", None),
            ("2026-02-29T00:00:00Z", None),
            ("2026-03-02T24:00:00Z", None),
            ("2026-03-02T08:00:00.Z", None),
            ("2026-03-02T08:00:00", None),
            ("2026-03-02", None),
            ("1772438400", None),
            ("yesterday", None),
            ("２026-03-02T08:00:00Z", None),
            ("", None),
        ] {
            let read = Moment::read(text);
            let found = read.as_ref().map(|moment| (moment.text.as_ref(), moment.micros));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_day_is_read_as_it_is_written() {
        for (text, expected) in [
            ("1970-01-01", Some(("1970-01-01", 0))),
            ("1989-01-10T23:30:00-08:00", Some(("1989-01-10", 6_949))),
            ("2000-02-29 00:00:00", Some(("2000-02-29", 11_016))),
            ("0001-01-01", Some(("0001-01-01", -719_162))),
            ("9999-12-31", Some(("9999-12-31", 2_932_896))),
            ("0000-01-01", None),
            ("1900-02-29", None),
            ("1989-1-10", None),
            ("1989-01-100", None),
            ("10.01.1989", None),
            ("1989-01-1é", None),
            ("", None),
        ] {
            let read = Day::read(text);
            assert_eq!(read.as_ref().map(|day| (day.text, day.days)), expected, "{text}");
        }
    }
}
