//! Hours and days of Beijing time (UTC+8, no daylight saving), by which raw data is asked for. They are cut by the time
//! at which GrowingIO received an event.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use crate::exports::parameters::{Granularity, RawEvents, Window};

/// Source: `api/originaldata-export-v2/overview.md`.
pub const RETENTION_DAYS: i64 = 15;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// Beijing's clock is ahead of UTC by this many seconds.
const AHEAD: i64 = 8 * HOUR;

/// One hour or day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    granularity: Granularity,
    /// By Beijing's clock, in seconds since 1970 there; a multiple of the length.
    local: i64,
}

impl Slice {
    /// The slice that a time falls into.
    pub fn at(granularity: Granularity, time: DateTime<Utc>) -> Self {
        let local = time.timestamp() + AHEAD;
        Self { granularity, local: local - local.rem_euclid(length(granularity)) }
    }

    /// The last slice of a window: the one that its last moment falls into.
    pub fn last(wanted: &RawEvents) -> Self {
        Self::at(wanted.granularity, wanted.window.to - TimeDelta::nanoseconds(1))
    }

    /// Every slice that has a moment in common with the window, in their order.
    pub fn covering(granularity: Granularity, window: Window) -> impl Iterator<Item = Self> {
        let first = Self::at(granularity, window.from);
        let next = move |slice: &Self| Some(Self { local: slice.local + length(granularity), ..*slice });
        std::iter::successors(Some(first), next).take_while(move |slice| slice.start() < window.to)
    }

    /// Reads what [`Slice::granularity_name`] and [`Slice::date`] wrote.
    pub fn parse(granularity: &str, date: &str) -> Option<Self> {
        let (granularity, digits) = match granularity {
            "hour" => (Granularity::Hour, 10),
            "day" => (Granularity::Day, 8),
            _ => return None,
        };
        if date.len() != digits || !date.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = |from: usize, to: usize| date.get(from..to)?.parse::<u32>().ok();
        let day = NaiveDate::from_ymd_opt(date[..4].parse().ok()?, number(4, 6)?, number(6, 8)?)?;
        let hour = if granularity == Granularity::Hour { number(8, 10)? } else { 0 };
        Some(Self { granularity, local: day.and_hms_opt(hour, 0, 0)?.and_utc().timestamp() })
    }

    pub const fn granularity_name(self) -> &'static str {
        match self.granularity {
            Granularity::Hour => "hour",
            Granularity::Day => "day",
        }
    }

    /// `yyyyMMddHH` or `yyyyMMdd` by Beijing's clock.
    pub fn date(self) -> String {
        let format = match self.granularity {
            Granularity::Hour => "%Y%m%d%H",
            Granularity::Day => "%Y%m%d",
        };
        utc(self.local).format(format).to_string()
    }

    pub fn start(self) -> DateTime<Utc> {
        utc(self.local - AHEAD)
    }

    pub fn end(self) -> DateTime<Utc> {
        utc(self.local - AHEAD + length(self.granularity))
    }

    /// When the files are there as a rule. Source: `api/originaldata-export-v2/overview.md`; days are to be fetched after
    /// 06:00.
    pub fn expected(self) -> DateTime<Utc> {
        let delay = match (self.granularity, self.local.rem_euclid(DAY) / HOUR) {
            (Granularity::Day, _) => TimeDelta::hours(6),
            (Granularity::Hour, 23 | 0 | 1) => TimeDelta::minutes(60),
            (Granularity::Hour, _) => TimeDelta::minutes(40),
        };
        self.end() + delay
    }

    /// From when on files that are not there will never be. GrowingIO is given far longer than it says it needs.
    pub fn overdue(self) -> DateTime<Utc> {
        let grace = match self.granularity {
            Granularity::Hour => TimeDelta::hours(2),
            Granularity::Day => TimeDelta::hours(6),
        };
        self.expected() + grace
    }

    /// How long there is no use in asking, if it is known.
    pub fn pause(self, now: DateTime<Utc>) -> Option<Duration> {
        (self.end() - now).to_std().ok().map(|left| left.min(Duration::from_mins(15)))
    }
}

/// The beginning of the oldest slices that are kept.
pub fn oldest(now: DateTime<Utc>) -> DateTime<Utc> {
    Slice::at(Granularity::Day, now).start() - TimeDelta::days(RETENTION_DAYS)
}

const fn length(granularity: Granularity) -> i64 {
    match granularity {
        Granularity::Hour => HOUR,
        Granularity::Day => DAY,
    }
}

fn utc(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn dates(granularity: Granularity, from: &str, to: &str) -> Vec<String> {
        Slice::covering(granularity, Window { from: at(from), to: at(to) }).map(Slice::date).collect()
    }

    /// Quirk 19: request dates are Beijing's.
    #[test]
    fn hours_are_beijings_across_the_ends_of_days_months_and_years() {
        use Granularity::Hour;
        let day_end = ["2018070123", "2018070200"];
        for (from, to) in [
            ("2018-07-01T15:00:00Z", "2018-07-01T17:00:00Z"),
            ("2018-07-01T23:00:00+08:00", "2018-07-02T01:00:00+08:00"),
            ("2018-07-01T08:00:00-07:00", "2018-07-01T10:00:00-07:00"),
            ("2018-07-01T20:45:00+05:45", "2018-07-01T22:45:00+05:45"),
        ] {
            assert_eq!(dates(Hour, from, to), day_end, "{from}");
        }
        assert_eq!(dates(Hour, "2018-12-31T15:00:00Z", "2018-12-31T17:00:00Z"), ["2018123123", "2019010100"]);
        assert_eq!(dates(Hour, "2020-02-29T15:59:59Z", "2020-02-29T16:00:01Z"), ["2020022923", "2020030100"]);
    }

    #[test]
    fn days_are_beijings_and_any_overlap_counts() {
        use Granularity::Day;
        assert_eq!(dates(Day, "2018-06-30T16:00:00Z", "2018-07-01T16:00:00Z"), ["20180701"]);
        assert_eq!(dates(Day, "2018-06-30T15:59:59.999Z", "2018-07-01T16:00:00.001Z").len(), 3);
        assert_eq!(dates(Day, "2018-12-31T00:00:00Z", "2019-01-01T00:00:00Z"), ["20181231", "20190101"]);
        assert_eq!(dates(Day, "2018-07-01T10:00:00+08:00", "2018-07-01T11:00:00+08:00"), ["20180701"]);
    }

    #[test]
    fn a_slice_is_read_back_from_its_name() {
        for (granularity, date) in [("hour", "2018070100"), ("hour", "2019123123"), ("day", "20200229")] {
            let slice = Slice::parse(granularity, date).unwrap();
            assert_eq!((slice.granularity_name(), slice.date().as_str()), (granularity, date));
        }
        let day = Slice::parse("day", "20180701").unwrap();
        assert_eq!((day.start(), day.end()), (at("2018-06-30T16:00:00Z"), at("2018-07-01T16:00:00Z")));
        for (granularity, date) in [
            ("hour", "2018070124"),
            ("hour", "20180701"),
            ("day", "20180230"),
            ("week", "20180701"),
            ("day", "２０１８"),
        ] {
            assert_eq!(Slice::parse(granularity, date), None, "{granularity} {date}");
        }
    }

    #[test]
    fn night_hours_and_days_take_longer() {
        let expected = |granularity, date| Slice::parse(granularity, date).unwrap().expected();
        assert_eq!(expected("hour", "2018070110"), at("2018-07-01T11:40:00+08:00"));
        assert_eq!(expected("hour", "2018070123"), at("2018-07-02T01:00:00+08:00"));
        assert_eq!(expected("hour", "2018070101"), at("2018-07-01T03:00:00+08:00"));
        assert_eq!(expected("hour", "2018070102"), at("2018-07-01T03:40:00+08:00"));
        assert_eq!(expected("day", "20180701"), at("2018-07-02T06:00:00+08:00"));
    }
}
