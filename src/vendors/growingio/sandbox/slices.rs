//! Hours and days of raw data. Requests name them in Beijing time (UTC+8, no daylight saving), files in UTC.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

const BEIJING_HOURS: i64 = 8;
/// How long raw data is kept.
const RETENTION_DAYS: i64 = 15;
/// After midnight in Beijing, when the documents advise to fetch days.
const DAY_READY: TimeDelta = TimeDelta::hours(6);
/// After which a day is begun.
const DAY_BEGUN: TimeDelta = TimeDelta::hours(2);
const HOUR_READY: TimeDelta = TimeDelta::minutes(40);
/// For the hours from 23:00 to 02:00.
const NIGHT_HOUR_READY: TimeDelta = TimeDelta::minutes(60);
const HOUR_BEGUN: TimeDelta = TimeDelta::minutes(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Granularity {
    Hour,
    Day,
}

impl Granularity {
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }
}

/// An hour, counted from 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hour(pub i64);

impl Hour {
    pub fn of(time: DateTime<Utc>) -> Self {
        Self(time.timestamp().div_euclid(3_600))
    }

    pub fn start(self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0 * 3_600, 0).unwrap_or_default()
    }

    /// Of the clock in Beijing, 0 to 23.
    pub fn in_beijing(self) -> i64 {
        (self.0 + BEIJING_HOURS).rem_euclid(24)
    }

    /// As file names have it: `yyyyMMddHH` in UTC.
    pub fn stamp(self) -> String {
        self.start().format("%Y%m%d%H").to_string()
    }

    pub fn from_stamp(stamp: &str) -> Option<Self> {
        parse_hour(stamp).map(Self)
    }
}

/// One hour or day of Beijing time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    pub granularity: Granularity,
    first: Hour,
}

/// What can be said of a slice's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not begun, not kept any more, or in the future.
    NotExists,
    Running,
    Finished,
}

impl Slice {
    /// Reads `yyyyMMdd`, `yyyyMMddHH` or `yyyyMMddHHmm`; what is finer than the granularity is ignored.
    pub fn parse(granularity: Granularity, date: &str) -> Option<Self> {
        if ![8, 10, 12].contains(&date.len()) {
            return None;
        }
        let first = match granularity {
            Granularity::Day => parse_hour(&format!("{}00", date.get(..8)?))?,
            Granularity::Hour => parse_hour(date.get(..10)?)?,
        };
        Some(Self { granularity, first: Hour(first - BEIJING_HOURS) })
    }

    /// The hour or the day that the time falls into.
    pub fn at(granularity: Granularity, time: DateTime<Utc>) -> Self {
        let hour = Hour::of(time);
        let into_day = if granularity == Granularity::Day { hour.in_beijing() } else { 0 };
        Self { granularity, first: Hour(hour.0 - into_day) }
    }

    /// As answers repeat it.
    pub fn date(self) -> String {
        let beijing = Hour(self.first.0 + BEIJING_HOURS).start();
        let format = if self.granularity == Granularity::Day { "%Y%m%d" } else { "%Y%m%d%H" };
        beijing.format(format).to_string()
    }

    pub fn start(self) -> DateTime<Utc> {
        self.first.start()
    }

    pub fn end(self) -> DateTime<Utc> {
        Hour(self.first.0 + self.length()).start()
    }

    pub fn hours(self) -> impl Iterator<Item = Hour> {
        (self.first.0..self.first.0 + self.length()).map(Hour)
    }

    /// What the server would say at that time.
    pub fn state(self, now: DateTime<Utc>) -> State {
        let today = Self::at(Granularity::Day, now).start();
        let passed = now - self.end();
        let (begun, ready) = match (self.granularity, self.first.in_beijing()) {
            (Granularity::Day, _) => (DAY_BEGUN, DAY_READY),
            (Granularity::Hour, 23 | 0 | 1) => (HOUR_BEGUN, NIGHT_HOUR_READY),
            (Granularity::Hour, _) => (HOUR_BEGUN, HOUR_READY),
        };
        if self.start() < today - TimeDelta::days(RETENTION_DAYS) || passed < begun {
            State::NotExists
        } else if passed < ready {
            State::Running
        } else {
            State::Finished
        }
    }

    fn length(self) -> i64 {
        if self.granularity == Granularity::Day { 24 } else { 1 }
    }
}

/// Hours since 1970 of `yyyyMMddHH`.
fn parse_hour(text: &str) -> Option<i64> {
    if text.len() != 10 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let day = NaiveDate::parse_from_str(&text[..8], "%Y%m%d").ok()?;
    let hour: i64 = text[8..].parse().ok().filter(|hour| *hour < 24)?;
    Some(day.and_hms_opt(0, 0, 0)?.and_utc().timestamp() / 3_600 + hour)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn dates_are_beijing_time_and_finer_digits_are_ignored() {
        let day = Slice::parse(Granularity::Day, "201807010930").unwrap();
        assert_eq!((day.start(), day.end()), (at("2018-06-30T16:00:00Z"), at("2018-07-01T16:00:00Z")));
        assert_eq!((day.date().as_str(), day.hours().count()), ("20180701", 24));
        for date in ["2018070100", "201807010059"] {
            let hour = Slice::parse(Granularity::Hour, date).unwrap();
            assert_eq!((hour.start(), hour.date().as_str()), (at("2018-06-30T16:00:00Z"), "2018070100"));
        }
        assert_eq!(Slice::at(Granularity::Day, at("2018-06-30T15:59:59Z")).date(), "20180630");
        for bad in ["20180701", "2018070124", "2018133100", "201807010", "2018-07-01", "20180701０"] {
            assert_eq!(Slice::parse(Granularity::Hour, bad), None, "{bad}");
        }
    }

    #[test]
    fn an_hour_is_ready_after_forty_minutes_and_at_night_after_sixty() {
        let states = |date: &str, times: &[&str]| {
            let slice = Slice::parse(Granularity::Hour, date).unwrap();
            times.iter().map(|time| slice.state(at(&format!("2018-07-{time}:00Z")))).collect::<Vec<_>>()
        };
        let through = [State::NotExists, State::NotExists, State::Running, State::Finished];
        // 10:00 in Beijing ends at 03:00 UTC, 23:00 at 16:00 UTC.
        assert_eq!(states("2018070110", &["01T02:30", "01T03:09", "01T03:39", "01T03:40"]), through);
        assert_eq!(states("2018070123", &["01T15:30", "01T16:09", "01T16:59", "01T17:00"]), through);
    }

    #[test]
    fn a_day_is_ready_at_six_and_kept_fifteen_days() {
        let day = Slice::parse(Granularity::Day, "20180701").unwrap();
        let states = ["02T01:59", "02T02:00", "02T05:59", "02T06:00", "16T23:59", "17T00:00"]
            .map(|beijing| day.state(at(&format!("2018-07-{beijing}:00+08:00"))));
        let expected =
            [State::NotExists, State::Running, State::Running, State::Finished, State::Finished, State::NotExists];
        assert_eq!(states, expected);
    }
}
