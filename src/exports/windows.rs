//! Windows that are said by what they are on the day, as in "yesterday": resolved in a time zone at the time of a run.

use std::str::FromStr;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde_json::{Value, json};

use super::{parameters::Window, problem::FieldError};

/// The widest window, in each unit.
const MAX_HOURS: u16 = 31 * 24;
const MAX_DAYS: u16 = 366;

/// A window that ends with the last whole hour, day, week or month before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelativeWindow {
    /// `last_hour`, `last_6_hours`
    Hours(u16),
    /// `yesterday`, `last_7_days`
    Days(u16),
    /// `last_week`: Monday to Sunday.
    Week,
    /// `last_month`
    Month,
}

/// What can be said, for people.
const KNOWN: &str = "an object with `from` and `to`, or `last_hour`, `last_<n>_hours` (up to 744), `yesterday`, \
                     `last_<n>_days` (up to 366), `last_week` or `last_month`";

impl FromStr for RelativeWindow {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "last_hour" => return Ok(Self::Hours(1)),
            "yesterday" => return Ok(Self::Days(1)),
            "last_week" => return Ok(Self::Week),
            "last_month" => return Ok(Self::Month),
            _ => {}
        }
        let (count, unit) = text.strip_prefix("last_").and_then(|rest| rest.split_once('_')).ok_or(())?;
        // One spelling for each: no sign, no leading zero.
        if !count.bytes().all(|byte| byte.is_ascii_digit()) || count.starts_with('0') {
            return Err(());
        }
        match (count.parse().map_err(|_| ())?, unit) {
            (hours @ 1..=MAX_HOURS, "hours") => Ok(Self::Hours(hours)),
            (days @ 1..=MAX_DAYS, "days") => Ok(Self::Days(days)),
            _ => Err(()),
        }
    }
}

impl RelativeWindow {
    /// The window as it is at `at`. Hours are hours that pass; days begin at midnight in `zone`, or when the day does where
    /// clocks skip midnight, so that a day can have 23 or 25 hours. `None` only at the ends of the calendar.
    pub fn resolve(self, at: DateTime<Utc>, zone: Tz) -> Option<Window> {
        let local = at.with_timezone(&zone).naive_local();
        let today = local.date();
        let (from, to) = match self {
            Self::Hours(hours) => {
                // Minutes and seconds of the wall clock: offsets are not always whole hours.
                let to = at - (local - truncated(local)?);
                return Some(Window { from: to - TimeDelta::hours(hours.into()), to });
            }
            Self::Days(days) => (today.checked_sub_days(Days::new(days.into()))?, today),
            Self::Week => {
                let monday = today.checked_sub_days(Days::new(today.weekday().num_days_from_monday().into()))?;
                (monday.checked_sub_days(Days::new(7))?, monday)
            }
            Self::Month => {
                let first = today.with_day(1)?;
                (first.checked_sub_months(Months::new(1))?, first)
            }
        };
        Some(Window { from: beginning(from, zone)?, to: beginning(to, zone)? })
    }
}

/// The whole hour.
fn truncated(local: NaiveDateTime) -> Option<NaiveDateTime> {
    use chrono::Timelike;
    local.date().and_hms_opt(local.hour(), 0, 0)
}

/// When a day begins.
fn beginning(day: NaiveDate, zone: Tz) -> Option<DateTime<Utc>> {
    instant(day.and_time(NaiveTime::MIN), zone)
}

/// When a clock in `zone` shows `local`: the first time if it does so twice, and when it jumps over it if it never does.
pub fn instant(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    if let Some(found) = zone.from_local_datetime(&local).earliest() {
        return Some(found.to_utc());
    }
    // The jump lies between a day before and a day after, when the offsets surely hold; halve until the second is found.
    let as_utc = local.and_utc();
    let shows_earlier = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() < local;
    let (mut before, mut after) = (as_utc - TimeDelta::days(2), as_utc + TimeDelta::days(2));
    while after - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if shows_earlier(middle) { before = middle } else { after = middle }
    }
    Some(after)
}

/// The parameters with `window` resolved, and where it ends if it was relative. What has no window stays as it is.
///
/// # Errors
/// A window in words that are not known, with its pointer below the body of the export.
pub fn fill(parameters: &Value, at: DateTime<Utc>, zone: Tz) -> Result<(Value, Option<Window>), FieldError> {
    let Some(words) = parameters.get("window").and_then(Value::as_str) else {
        return Ok((parameters.clone(), None));
    };
    let unknown = || FieldError::new("/parameters/window", "invalid", KNOWN);
    let window = words.parse::<RelativeWindow>().map_err(|()| unknown())?.resolve(at, zone).ok_or_else(unknown)?;
    let mut filled = parameters.clone();
    filled["window"] = json!(window);
    Ok((filled, Some(window)))
}

#[cfg(test)]
mod tests {
    use chrono_tz::{Africa::Cairo, America::New_York, Asia::Kolkata, Asia::Shanghai, Europe::Berlin};
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn resolved(words: &str, at: &str, zone: Tz) -> (String, String) {
        let window = words.parse::<RelativeWindow>().unwrap().resolve(time(at), zone).unwrap();
        let shown = |time: DateTime<Utc>| time.with_timezone(&zone).format("%Y-%m-%dT%H:%M%:z").to_string();
        (shown(window.from), shown(window.to))
    }

    #[test]
    fn a_window_ends_with_the_last_whole_unit_in_the_time_zone() {
        for (words, at, zone, from, to) in [
            ("yesterday", "2026-03-02T16:30:00Z", Shanghai, "2026-03-02T00:00+08:00", "2026-03-03T00:00+08:00"),
            ("last_7_days", "2026-03-02T08:00:00Z", Shanghai, "2026-02-23T00:00+08:00", "2026-03-02T00:00+08:00"),
            ("last_hour", "2026-03-02T08:05:00Z", Shanghai, "2026-03-02T15:00+08:00", "2026-03-02T16:00+08:00"),
            ("last_hour", "2026-03-02T08:00:00Z", Shanghai, "2026-03-02T15:00+08:00", "2026-03-02T16:00+08:00"),
            ("last_2_hours", "2026-03-02T08:05:00Z", Kolkata, "2026-03-02T11:00+05:30", "2026-03-02T13:00+05:30"),
            ("last_week", "2026-03-04T08:00:00Z", Berlin, "2026-02-23T00:00+01:00", "2026-03-02T00:00+01:00"),
            ("last_week", "2026-03-02T08:00:00Z", Berlin, "2026-02-23T00:00+01:00", "2026-03-02T00:00+01:00"),
            ("last_month", "2026-03-31T08:00:00Z", Berlin, "2026-02-01T00:00+01:00", "2026-03-01T00:00+01:00"),
            // A day of 23 hours and one of 25.
            ("yesterday", "2026-03-30T06:00:00Z", Berlin, "2026-03-29T00:00+01:00", "2026-03-30T00:00+02:00"),
            ("yesterday", "2026-10-26T06:00:00Z", Berlin, "2026-10-25T00:00+02:00", "2026-10-26T00:00+01:00"),
            // The repeated hour is two hours.
            ("last_hour", "2026-11-01T06:05:00Z", New_York, "2026-11-01T01:00-04:00", "2026-11-01T01:00-05:00"),
            ("last_hour", "2026-11-01T07:05:00Z", New_York, "2026-11-01T01:00-05:00", "2026-11-01T02:00-05:00"),
            // Clocks go from midnight to one: the day begins at one.
            ("yesterday", "2026-04-25T06:00:00Z", Cairo, "2026-04-24T01:00+03:00", "2026-04-25T00:00+03:00"),
        ] {
            assert_eq!(resolved(words, at, zone), (from.to_owned(), to.to_owned()), "{words} at {at}");
        }
    }

    #[test]
    fn words_have_one_spelling_and_a_limit() {
        assert_eq!("last_1_days".parse(), Ok(RelativeWindow::Days(1)));
        for bad in [
            "last_0_days",
            "last_367_days",
            "last_745_hours",
            "last_+1_days",
            "last_01_days",
            "today",
            "last_",
            "last__days",
            "",
        ] {
            assert_eq!(bad.parse::<RelativeWindow>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn only_a_window_in_words_is_replaced() {
        let at = time("2026-03-02T08:00:00Z");
        let (filled, window) = fill(&json!({"window": "yesterday", "granularity": "day"}), at, Tz::UTC).unwrap();
        assert_eq!(
            filled,
            json!({"window": {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}, "granularity": "day"})
        );
        assert_eq!(window.unwrap().to, time("2026-03-02T00:00:00Z"));
        let absolute = json!({"window": {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}});
        assert_eq!(fill(&absolute, at, Tz::UTC).unwrap(), (absolute, None));
        assert_eq!(fill(&json!({"window": "today"}), at, Tz::UTC).unwrap_err().pointer, "/parameters/window");
    }

    proptest! {
        /// Windows of days in a row leave no gap and do not overlap, whatever the clocks do.
        #[test]
        fn yesterdays_of_successive_days_join(day in 0i64..20_000, zone in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..])) {
            let noon = |day: i64| {
                let date = NaiveDate::from_ymd_opt(1990, 1, 1).unwrap() + TimeDelta::days(day);
                instant(date.and_hms_opt(12, 0, 0).unwrap(), zone).unwrap()
            };
            let window = |day| RelativeWindow::Days(1).resolve(noon(day), zone).unwrap();
            prop_assert_eq!(window(day).to, window(day + 1).from);
            prop_assert!(window(day).from <= window(day).to);
        }

        /// An hour has sixty minutes, ends at a whole one of the wall clock, and the run is in the next.
        #[test]
        fn the_last_hour_ends_at_a_whole_hour(secs in 0i64..2_000_000_000, zone in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..])) {
            use chrono::Timelike;
            let at = DateTime::from_timestamp(secs, 0).unwrap();
            let window = RelativeWindow::Hours(1).resolve(at, zone).unwrap();
            prop_assert_eq!(window.to - window.from, TimeDelta::hours(1));
            prop_assert!(window.to <= at && at < window.to + TimeDelta::hours(1));
            let shown = window.to.with_timezone(&zone);
            // Unless the clock was changed by less than an hour within this one.
            prop_assume!(shown.naive_local() - window.to.naive_utc() == at.with_timezone(&zone).naive_local() - at.naive_utc());
            prop_assert_eq!((shown.minute(), shown.second()), (0, 0));
        }
    }
}
