use std::collections::BTreeSet;

use chrono::{NaiveDate, Timelike};
use proptest::prelude::*;

use super::*;

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn timetable(cron: &str, zone: &str) -> Timetable {
    Timetable::parse(cron, zone).unwrap()
}

/// The runs of some hours, as the clock on the wall shows them.
fn runs(cron: &str, zone: &str, from: &str, hours: i64) -> Vec<String> {
    let table = timetable(cron, zone);
    let from = time(from);
    let all = table.upcoming(from - TimeDelta::seconds(1), 200).into_iter();
    let shown = |run: DateTime<Utc>| run.with_timezone(&table.zone).format("%dT%H:%M%:z").to_string();
    all.take_while(|run| *run < from + TimeDelta::hours(hours)).map(shown).collect()
}

#[test]
fn a_time_that_clocks_jump_over_runs_once_when_they_jump() {
    // Berlin, 29 March 2026: from 02:00 to 03:00.
    let night = |cron| runs(cron, "Europe/Berlin", "2026-03-28T23:00:00Z", 4);
    assert_eq!(night("30 2 * * *"), ["29T03:00+02:00"]);
    assert_eq!(night("0,30 2 * * *"), ["29T03:00+02:00"], "two of them are one");
    assert_eq!(night("0 2,14 * * *"), ["29T03:00+02:00"]);
    assert_eq!(night("0 1-4 * * *"), ["29T01:00+01:00", "29T03:00+02:00", "29T04:00+02:00"]);
    assert_eq!(night("30 * * * *"), ["29T00:30+01:00", "29T01:30+01:00", "29T03:30+02:00", "29T04:30+02:00"]);
    // Cairo, 24 April 2026: from midnight to one.
    assert_eq!(runs("15 0 * * *", "Africa/Cairo", "2026-04-23T21:00:00Z", 5), ["24T01:00+03:00"]);
}

#[test]
fn a_time_that_clocks_show_twice_runs_once_but_every_hour_is_every_hour() {
    // Berlin, 25 October 2026: from 03:00 back to 02:00.
    let night = |cron| runs(cron, "Europe/Berlin", "2026-10-24T23:00:00Z", 4);
    assert_eq!(night("30 2 * * *"), ["25T02:30+02:00"]);
    assert_eq!(night("0,30 2,14 * * *"), ["25T02:00+02:00", "25T02:30+02:00"]);
    assert_eq!(night("30 1-3 * * *"), ["25T01:30+02:00", "25T02:30+02:00", "25T03:30+01:00"]);
    assert_eq!(night("30 * * * *"), ["25T01:30+02:00", "25T02:30+02:00", "25T02:30+01:00", "25T03:30+01:00"]);
}

#[test]
fn lines_have_five_fields_and_zones_are_of_the_iana_database() {
    for good in ["15 6 * * *", "*/5 * * * MON-FRI", "0 0 L * *", "@daily", "0 9 * * 1#1"] {
        assert!(Timetable::parse(good, "UTC").is_ok(), "{good}");
    }
    let pointers = |cron: &str, zone: &str| {
        Timetable::parse(cron, zone).unwrap_err().into_iter().map(|error| error.pointer).collect::<Vec<_>>()
    };
    for bad in ["", "* * * *", "0 * * * * *", "60 * * * *", "0 25 * * *", "soon", &"1,".repeat(200)] {
        assert_eq!(pointers(bad, "UTC"), ["/cron"], "{bad}");
    }
    assert_eq!(pointers("x", "Mars/Olympus"), ["/cron", "/time_zone"]);
}

#[test]
fn a_line_that_never_comes_has_no_run() {
    assert_eq!(timetable("0 0 30 2 *", "UTC").next_after(time("2026-01-01T00:00:00Z")), None);
    assert!(timetable("0 0 29 2 *", "UTC").next_after(time("2026-01-01T00:00:00Z")).is_some());
}

fn at_once(run: DateTime<Utc>) -> DateTime<Utc> {
    run
}

#[test]
fn late_runs_are_skipped_or_caught_up_as_the_policy_says() {
    let table = timetable("0 * * * *", "UTC");
    let (first, now) = (time("2026-03-02T08:00:00Z"), time("2026-03-02T11:05:00Z"));
    let decided = |policy, now| decide(&table, policy, first, now, at_once);
    let hour = |hour: u32| time("2026-03-02T00:00:00Z") + TimeDelta::hours(hour.into());
    let skipped = |first: u32, last: u32| Some(Skipped { first: hour(first), last: hour(last) });
    assert_eq!(
        decided(CatchUp::Last, now),
        Decision { skip: skipped(8, 10), begin: Some(hour(11)), next: Some(hour(12)) }
    );
    assert_eq!(decided(CatchUp::None, now), decided(CatchUp::Last, now), "the last one is in time");
    assert_eq!(
        decided(CatchUp::None, time("2026-03-02T11:11:00Z")),
        Decision { skip: skipped(8, 11), begin: None, next: Some(hour(12)) }
    );
    assert_eq!(decided(CatchUp::All, now), Decision { skip: None, begin: Some(first), next: Some(hour(9)) });
    let early = Decision { skip: None, begin: None, next: Some(first) };
    assert_eq!(decided(CatchUp::All, time("2026-03-02T07:59:59Z")), early);
    assert_eq!(decided(CatchUp::All, first), Decision { skip: None, begin: Some(first), next: Some(hour(9)) });
}

#[test]
fn a_year_away_costs_no_year_of_searching_and_leaves_a_hundred_runs() {
    let table = timetable("* * * * *", "Asia/Shanghai");
    let (first, now) = (time("2025-03-02T08:00:00Z"), time("2026-03-02T08:00:30Z"));
    let decided = decide(&table, CatchUp::All, first, now, at_once);
    let begin = time("2026-03-02T06:21:00Z");
    assert_eq!(decided.begin, Some(begin));
    assert_eq!(decided.next, Some(begin + TimeDelta::minutes(1)));
    assert_eq!(decided.skip, Some(Skipped { first, last: begin - TimeDelta::seconds(1) }));
    let last = decide(&table, CatchUp::Last, first, now, at_once);
    assert_eq!(last.begin, Some(time("2026-03-02T08:00:00Z")));
    assert_eq!(last.skip, Some(Skipped { first, last: time("2026-03-02T07:59:00Z") }));
}

#[test]
fn a_run_that_waits_for_its_data_is_neither_late_nor_early() {
    let table = timetable("5 * * * *", "UTC");
    let due = |run: DateTime<Utc>| run + TimeDelta::minutes(55);
    let first = time("2026-03-02T08:05:00Z");
    for policy in [CatchUp::None, CatchUp::Last, CatchUp::All] {
        let at = |text| decide(&table, policy, first, time(text), due).begin;
        assert_eq!(at("2026-03-02T08:59:00Z"), None);
        assert_eq!(at("2026-03-02T09:04:00Z"), Some(first));
    }
}

/// Lines with hours of their own, and lines for every hour.
fn any_line() -> impl Strategy<Value = (String, bool)> {
    let minutes = prop_oneof![Just("0"), Just("30"), Just("0,45"), Just("*/20"), Just("59"), Just("*")];
    let hours =
        prop_oneof![Just("*"), Just("0"), Just("1-3"), Just("2"), Just("*/2"), Just("0,1,2,3,23"), Just("0-23")];
    (minutes, hours).prop_map(|(minutes, hours)| (format!("{minutes} {hours} * * *"), matches!(hours, "*" | "0-23")))
}

fn any_zone() -> impl Strategy<Value = Tz> {
    proptest::sample::select(&chrono_tz::TZ_VARIANTS[..])
}

/// Days on which clocks are likely to change somewhere, and others.
fn any_day() -> impl Strategy<Value = DateTime<Utc>> {
    (1980_i32..2037, 1_u32..=12, 1_u32..=28, 0_i64..86_400).prop_map(|(year, month, day, secs)| {
        let midnight = NaiveDate::from_ymd_opt(year, month, day).unwrap().and_hms_opt(0, 0, 0).unwrap();
        midnight.and_utc() + TimeDelta::seconds(secs)
    })
}

/// A change of clocks in the zone near a day, if there is one within the year.
fn change_after(day: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
    let offset = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() - at.naive_utc();
    let days = (0..366).map(|days| day + TimeDelta::days(days));
    days.into_iter().find(|at| offset(*at) != offset(*at + TimeDelta::days(1))).unwrap_or(day)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Every time that the line names runs exactly once around a change of clocks, and nothing else runs.
    #[test]
    fn every_named_time_runs_once((line, hourly) in any_line(), zone in any_zone(), day in any_day()) {
        let table = Timetable::parse(&line, zone.name()).unwrap();
        let from = change_after(day, zone) - TimeDelta::hours(12);
        let to = from + TimeDelta::hours(48);
        let found: Vec<_> = std::iter::successors(table.next_after(from), |run| table.next_after(*run)).take_while(|run| *run <= to).collect();
        prop_assert!(found.is_sorted_by(|one, next| one < next), "twice at one time: {found:?}");
        let minutes = |from: DateTime<Utc>, to: DateTime<Utc>| (1..=(to - from).num_minutes()).map(move |minute| from + TimeDelta::minutes(minute));
        let matching = |shown: chrono::NaiveDateTime| table.cron.is_time_matching(&shown).unwrap();
        // To whole minutes of the wall clock; offsets with seconds are history.
        let from = from - TimeDelta::seconds(from.with_timezone(&zone).second().into());
        let expected: BTreeSet<_> = if hourly {
            minutes(from, to).filter(|at| matching(at.with_timezone(&zone).naive_local())).collect()
        } else {
            // Two days more at either end: what is shown here may be named there.
            let wide = minutes(from - TimeDelta::days(2), to + TimeDelta::days(2)).map(|at| at.naive_utc());
            wide.filter(|shown| matching(*shown)).filter_map(|shown| instant(shown, zone)).filter(|run| *run > from && *run <= to).collect()
        };
        prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    /// Where the search begins makes no difference to what it finds.
    #[test]
    fn the_next_run_is_the_same_from_every_moment_before_it((line, _) in any_line(), zone in any_zone(), day in any_day(), secs in 0_i64..7200) {
        let table = Timetable::parse(&line, zone.name()).unwrap();
        let from = change_after(day, zone) + TimeDelta::seconds(secs);
        let next = table.next_after(from).unwrap();
        for part in 1..4 {
            let between = from + (next - from) * part / 4;
            if between < next {
                prop_assert_eq!(table.next_after(between), Some(next));
            }
        }
    }

    /// However long nobody looked, each run is begun, skipped or still to come, exactly once.
    #[test]
    fn decisions_lose_and_double_no_run(
        (line, _) in any_line(), zone in any_zone(), day in any_day(),
        policy in proptest::sample::select(&[CatchUp::None, CatchUp::Last, CatchUp::All][..]),
        looks in proptest::collection::vec(1_i64..3_000, 1..12), lag in 0_i64..90,
    ) {
        let table = Timetable::parse(&line, zone.name()).unwrap();
        let due = |run: DateTime<Utc>| run + TimeDelta::minutes(lag);
        let start = table.next_after(day).unwrap();
        let (mut next, mut now) = (start, day);
        let mut dealt_with = Vec::new();
        for minutes in looks {
            now += TimeDelta::minutes(minutes);
            let decided = decide(&table, policy, next, now, due);
            let all = |first: DateTime<Utc>, last| std::iter::successors(Some(first), |run| table.next_after(*run)).take_while(move |run| *run <= last);
            dealt_with.extend(decided.skip.into_iter().flat_map(|skip| all(skip.first, skip.last)));
            dealt_with.extend(decided.begin);
            if let Some(begin) = decided.begin {
                prop_assert!(due(begin) <= now, "begun before its data was there");
                prop_assert!(policy != CatchUp::None || now - due(begin) <= TimeDelta::minutes(10));
            }
            next = decided.next.unwrap();
        }
        let expected: Vec<_> = std::iter::successors(Some(start), |run| table.next_after(*run)).take_while(|run| *run < next).collect();
        prop_assert_eq!(dealt_with, expected);
        prop_assert!(policy == CatchUp::All || due(next) > now, "something due was left");
    }
}
