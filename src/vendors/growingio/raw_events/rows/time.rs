//! Epoch milliseconds, as raw data has them, without a calendar's machinery for each row.

const DAY_MILLIS: i64 = 86_400_000;

/// The number in a cell.
pub fn millis(cell: &[u8]) -> Option<i64> {
    let cell = cell.trim_ascii();
    // As every time of our days is: too few digits for an overflow.
    if (1..=18).contains(&cell.len()) && cell.iter().all(u8::is_ascii_digit) {
        return Some(cell.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')));
    }
    str::from_utf8(cell).ok()?.parse().ok()
}

/// Writes the time in a cell to `out` as RFC 3339 in UTC; answers its microseconds since 1970. None when it is none of
/// the years 1 to 9999.
pub fn write(cell: &str, out: &mut String) -> Option<i64> {
    let millis = millis(cell.as_bytes())?;
    let (days, of_day) = (millis.div_euclid(DAY_MILLIS), millis.rem_euclid(DAY_MILLIS));
    let (year, month, day) = civil(days);
    if !(1..=9999).contains(&year) {
        return None;
    }
    // All of them are small and none is negative.
    let [year, month, day, of_day] = [year, month, day, of_day].map(|number| u32::try_from(number).unwrap_or_default());
    let seconds = of_day / 1000;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    two(&mut text, 0, year / 100);
    two(&mut text, 2, year % 100);
    two(&mut text, 5, month);
    two(&mut text, 8, day);
    two(&mut text, 11, seconds / 3600);
    two(&mut text, 14, seconds / 60 % 60);
    two(&mut text, 17, seconds % 60);
    two(&mut text, 20, of_day % 1000 / 10);
    text[22] = digit(of_day);
    out.clear();
    out.push_str(str::from_utf8(&text).unwrap_or_default());
    millis.checked_mul(1000)
}

fn two(text: &mut [u8; 24], at: usize, number: u32) {
    text[at] = digit(number / 10);
    text[at + 1] = digit(number);
}

/// The last digit.
const fn digit(number: u32) -> u8 {
    b'0' + (number % 10) as u8
}

/// Year, month and day of a day counted from 1970, in the proleptic Gregorian calendar: years are taken to begin in
/// March, so that leap days end them, and 400 of them are always as long.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    let from_era = days.saturating_add(719_468);
    let (era, day) = (from_era.div_euclid(ERA), from_era.rem_euclid(ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let is_next_year = month >= 10;
    (year + era * 400 + i64::from(is_next_year), if is_next_year { month - 9 } else { month + 3 }, of_month)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, SecondsFormat};

    use super::*;

    fn written(millis: i64) -> Option<String> {
        let mut out = "before".to_owned();
        (write(&millis.to_string(), &mut out)? == millis * 1000).then_some(out)
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let mut millis = -62_135_596_800_000; // 0001-01-01
        while millis < 253_402_300_800_000 {
            let expected =
                DateTime::from_timestamp_millis(millis).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true);
            assert_eq!(written(millis).as_deref(), Some(expected.as_str()), "{millis}");
            // Not a whole number of anything.
            millis += 7_654_321_987;
        }
        assert_eq!(written(1_530_374_400_123).as_deref(), Some("2018-06-30T16:00:00.123Z"));
        assert_eq!(written(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(written(253_402_300_799_999).as_deref(), Some("9999-12-31T23:59:59.999Z"));
    }

    /// Quirk 20: device clocks may be anywhere.
    #[test]
    fn a_time_beyond_all_years_is_none() {
        for far in [253_402_300_800_000, -62_135_596_800_001, i64::MAX, i64::MIN] {
            assert_eq!(written(far), None, "{far}");
        }
        for text in ["", "null", "2018-07-01", "1530374400123.0", "99999999999999999999"] {
            assert_eq!(write(text, &mut String::new()), None, "{text}");
        }
    }
}
