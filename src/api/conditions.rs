//! Conditional, partial and negotiated requests (RFC 9110): entity tags, byte ranges and content codings, as pure rules
//! over header values.

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

/// A way to pack an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    /// The name in `Content-Encoding`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What `Accept-Encoding` says. Weights are above zero where a coding is acceptable; a higher one is liked better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codings {
    /// Anything will do: there is no such header.
    is_silent: bool,
    gzip: u16,
    zstd: u16,
    identity: u16,
}

impl Codings {
    pub fn of(headers: &HeaderMap) -> Self {
        let mut lines = headers.get_all(actix_web::http::header::ACCEPT_ENCODING).peekable();
        if lines.peek().is_none() {
            return Self { is_silent: true, gzip: 0, zstd: 0, identity: 1 };
        }
        let (mut gzip, mut zstd, mut identity, mut others) = (None, None, None, None);
        for item in lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')) {
            let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
            let Some(weight) = weight(parameters) else { continue };
            match name.trim().to_ascii_lowercase().as_str() {
                "gzip" | "x-gzip" => gzip = Some(weight),
                "zstd" => zstd = Some(weight),
                "identity" => identity = Some(weight),
                "*" => others = Some(weight),
                _ => {}
            }
        }
        Self {
            is_silent: false,
            gzip: gzip.or(others).unwrap_or(0),
            zstd: zstd.or(others).unwrap_or(0),
            // Acceptable unless somebody says otherwise, but nobody asked for it.
            identity: identity.or(others).unwrap_or(1),
        }
    }

    /// Whether bytes that are packed so already can be sent as they are.
    pub fn accepts(&self, coding: Coding) -> bool {
        self.is_silent || self.weight(coding) > 0
    }

    pub fn accepts_identity(&self) -> bool {
        self.identity > 0
    }

    /// The coding that is liked better than none, or that must be because none will not do.
    pub fn preferred(&self) -> Option<Coding> {
        // Of two that are liked the same, the one that is lighter work.
        let best = if self.gzip > self.zstd { Coding::Gzip } else { Coding::Zstd };
        (self.weight(best) > self.identity).then_some(best)
    }

    const fn weight(&self, coding: Coding) -> u16 {
        match coding {
            Coding::Gzip => self.gzip,
            Coding::Zstd => self.zstd,
        }
    }
}

/// Twice the thousandths of `q`, so that there is room below the least weight that can be asked for.
fn weight(parameters: &str) -> Option<u16> {
    let Some(q) = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
    }) else {
        return Some(2000);
    };
    let (whole, fraction) = q.split_once('.').unwrap_or((q, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths * 2),
        ("1", 0) => Some(2000),
        _ => None,
    }
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

    fn codings(line: &'static str) -> Codings {
        Codings::of(&headers(&[(actix_web::http::header::ACCEPT_ENCODING, line)]))
    }

    #[test]
    fn what_is_liked_better_than_plain_bytes_is_found_by_weight() {
        for (line, preferred) in [
            ("gzip", Some(Coding::Gzip)),
            ("GZIP;q=0.001", Some(Coding::Gzip)),
            ("x-gzip", Some(Coding::Gzip)),
            ("gzip, zstd", Some(Coding::Zstd)),
            ("gzip;q=1.0, zstd;q=0.9, br", Some(Coding::Gzip)),
            ("gzip;q=0.5, identity", None),
            ("gzip, identity", None),
            ("*", None),
            ("*;q=0.5, identity;q=0.1", Some(Coding::Zstd)),
            ("*, identity;q=0", Some(Coding::Zstd)),
            ("gzip;q=0", None),
            ("gzip; q = 0.5 , identity; q=0.4", Some(Coding::Gzip)),
            ("br, deflate", None),
            ("identity", None),
            ("", None),
            ("gzip;q=2, zstd;q=0.1234, gzip;q=x", None),
        ] {
            assert_eq!(codings(line).preferred(), preferred, "{line}");
            assert_eq!(codings(line).accepts_identity(), !line.ends_with("identity;q=0"), "{line}");
        }
        let silent = Codings::of(&HeaderMap::new());
        assert!(silent.accepts(Coding::Gzip) && silent.accepts_identity() && silent.preferred().is_none());
    }

    #[test]
    fn plain_bytes_can_be_refused_by_name_and_with_all_others() {
        assert!(!codings("identity;q=0").accepts_identity());
        assert!(!codings("gzip, *;q=0").accepts_identity());
        assert!(codings("*;q=0, identity;q=0.1").accepts_identity());
        assert!(codings("gzip;q=0.1, identity").accepts(Coding::Gzip));
        assert!(!codings("zstd").accepts(Coding::Gzip) && !codings("").accepts(Coding::Gzip));
    }

    #[test]
    fn entity_tags_are_found_in_a_list_and_compared_weakly() {
        let current = |list| is_current(&headers(&[(IF_NONE_MATCH, list)]), "\"v1\"");
        assert!(current("\"v0\", \"v1\"") && current("W/\"v1\"") && current("*"));
        assert!(!current("\"v2\"") && !current("v1"));
        assert!(!is_current(&HeaderMap::new(), "\"v1\""));
    }
}
