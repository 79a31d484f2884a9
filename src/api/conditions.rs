//! Conditional and partial requests (RFC 9110): entity tags and byte ranges, as pure rules over header values.

use std::ops::Range;

use actix_web::http::header::{HeaderMap, HeaderName};

/// Whether `If-None-Match` names `etag` (quoted), compared weakly: the caller's copy is current.
pub fn is_current(headers: &HeaderMap, etag: &str) -> bool {
    headers.get_all(actix_web::http::header::IF_NONE_MATCH).filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    })
}

/// What part of a file is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// Never empty, and within the file.
    Bytes(Range<u64>),
    /// Wanted, but there are no such bytes: 416.
    OutOfRange,
}

/// The part that `Range` and `If-Range` ask for. What cannot be understood, several ranges, and a range of a file that
/// is not the one in `If-Range` all mean the whole file, as RFC 9110 wants it.
pub fn part(headers: &HeaderMap, etag: &str, length: u64) -> Part {
    use actix_web::http::header::{IF_RANGE, RANGE};
    let Some(range) = only(headers, RANGE) else { return Part::Whole };
    // There is no Last-Modified, so a date never matches; nor does a weak tag.
    if headers.contains_key(IF_RANGE) && only(headers, IF_RANGE) != Some(etag) {
        return Part::Whole;
    }
    parse_range(range, length).unwrap_or(Part::Whole)
}

fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name);
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.trim())
}

/// `None` when it is no single byte range.
fn parse_range(text: &str, length: u64) -> Option<Part> {
    let (unit, set) = text.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?;
        let range = length.saturating_sub(suffix)..length;
        return Some(if range.is_empty() { Part::OutOfRange } else { Part::Bytes(range) });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    if first >= length {
        return Some(Part::OutOfRange);
    }
    Some(Part::Bytes(first..last.saturating_add(1).min(length)))
}

/// Digits only; more than fit count as the largest number.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderValue, IF_NONE_MATCH, IF_RANGE, RANGE};

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    fn ranged(range: &'static str) -> Part {
        part(&headers(&[(RANGE, range)]), "\"a\"", 100)
    }

    #[test]
    fn one_range_is_cut_to_the_file() {
        assert_eq!(ranged("bytes=0-0"), Part::Bytes(0..1));
        assert_eq!(ranged("bytes=10-"), Part::Bytes(10..100));
        assert_eq!(ranged("bytes=90-1000"), Part::Bytes(90..100));
        assert_eq!(ranged("bytes=-10"), Part::Bytes(90..100));
        assert_eq!(ranged("bytes=-1000"), Part::Bytes(0..100));
        assert_eq!(ranged("BYTES=99-99999999999999999999999"), Part::Bytes(99..100));
    }

    #[test]
    fn a_range_past_the_end_or_of_no_bytes_cannot_be_served() {
        assert_eq!(ranged("bytes=100-"), Part::OutOfRange);
        assert_eq!(ranged("bytes=-0"), Part::OutOfRange);
        assert_eq!(part(&headers(&[(RANGE, "bytes=0-")]), "\"a\"", 0), Part::OutOfRange);
        assert_eq!(part(&headers(&[(RANGE, "bytes=-5")]), "\"a\"", 0), Part::OutOfRange);
    }

    #[test]
    fn what_is_no_single_byte_range_means_the_whole_file() {
        for other in ["lines=1-2", "bytes=2-1", "bytes=0-1,5-6", "bytes=+1-2", "bytes=", "bytes=-", "bytes=a-b"] {
            assert_eq!(ranged(other), Part::Whole, "{other}");
        }
        assert_eq!(part(&headers(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=2-3")]), "\"a\"", 100), Part::Whole);
    }

    #[test]
    fn if_range_must_name_the_very_file() {
        let with = |tag| part(&headers(&[(RANGE, "bytes=0-1"), (IF_RANGE, tag)]), "\"a\"", 100);
        assert_eq!(with("\"a\""), Part::Bytes(0..2));
        for other in ["\"b\"", "W/\"a\"", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(with(other), Part::Whole, "{other}");
        }
    }

    #[test]
    fn entity_tags_are_found_in_a_list_and_compared_weakly() {
        let current = |list| is_current(&headers(&[(IF_NONE_MATCH, list)]), "\"v1\"");
        assert!(current("\"v0\", \"v1\"") && current("W/\"v1\"") && current("*"));
        assert!(!current("\"v2\"") && !current("v1"));
        assert!(!is_current(&HeaderMap::new(), "\"v1\""));
    }
}
