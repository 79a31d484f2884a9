//! Finds where JSON values end, and so that they are JSON. Nothing is decoded and nothing is allocated; strings, which
//! are most of a record, are passed over 32 bytes at a time.
//!
//! Each function is given the text's bytes and where to begin, and answers where what it is named after has ended: none
//! where there is no such thing. The bytes must be known to be UTF-8.

use wide::u8x32;

/// How deep arrays and objects may be nested: what is deeper is taken for no JSON.
const MAX_DEPTH: u16 = 512;

pub fn value(bytes: &[u8], at: usize) -> Option<usize> {
    nested(bytes, at, MAX_DEPTH)
}

fn nested(bytes: &[u8], at: usize, depth: u16) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => string(bytes, at),
        b'{' => object(bytes, at + 1, depth.checked_sub(1)?),
        b'[' => array(bytes, at + 1, depth.checked_sub(1)?),
        b't' => literal(bytes, at, b"true"),
        b'f' => literal(bytes, at, b"false"),
        b'n' => literal(bytes, at, b"null"),
        _ => number(bytes, at),
    }
}

/// White space, if any.
#[inline]
pub fn space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| *byte <= b' ' && matches!(byte, b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// This one byte.
#[inline]
pub fn byte(bytes: &[u8], at: usize, expected: u8) -> Option<usize> {
    (*bytes.get(at)? == expected).then_some(at + 1)
}

/// A string from its quote to its quote.
#[inline]
pub fn string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = byte(bytes, at, b'"')?;
    loop {
        while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let special = special(block);
            if special != 0 {
                at += special.trailing_zeros() as usize;
                break;
            }
            at += block.len();
        }
        match *bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at = escape(bytes, at + 1)?,
            ..0x20 => return None,
            _ => at += 1,
        }
    }
}

/// A bit for each byte that a string cannot hold as it is: a quote, a backslash, a control character.
#[inline]
fn special(block: &[u8; 32]) -> u32 {
    let block = u8x32::new(*block);
    let control = block.simd_eq(block.min(u8x32::splat(0x1f)));
    (block.simd_eq(u8x32::splat(b'"')) | block.simd_eq(u8x32::splat(b'\\')) | control).to_bitmask()
}

/// What follows a backslash. Half a surrogate pair is allowed, as the grammar of JSON does.
fn escape(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 1),
        b'u' => bytes.get(at + 1..at + 5)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 5),
        _ => None,
    }
}

fn literal(bytes: &[u8], at: usize, expected: &[u8]) -> Option<usize> {
    bytes.get(at..)?.starts_with(expected).then_some(at + expected.len())
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let at = byte(bytes, at, b'-').unwrap_or(at);
    // No zeros lead.
    let mut at = byte(bytes, at, b'0').or_else(|| digits(bytes, at))?;
    if let Some(fraction) = byte(bytes, at, b'.') {
        at = digits(bytes, fraction)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = at + 1;
        at = digits(bytes, byte(bytes, sign, b'+').or_else(|| byte(bytes, sign, b'-')).unwrap_or(sign))?;
    }
    Some(at)
}

/// At least one.
#[inline]
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then_some(at + digits)
}

fn object(bytes: &[u8], at: usize, depth: u16) -> Option<usize> {
    let mut at = space(bytes, at);
    if let Some(end) = byte(bytes, at, b'}') {
        return Some(end);
    }
    loop {
        let colon = space(bytes, string(bytes, at)?);
        let value = space(bytes, byte(bytes, colon, b':')?);
        at = space(bytes, nested(bytes, value, depth)?);
        match bytes.get(at)? {
            b',' => at = space(bytes, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

fn array(bytes: &[u8], at: usize, depth: u16) -> Option<usize> {
    let mut at = space(bytes, at);
    if let Some(end) = byte(bytes, at, b']') {
        return Some(end);
    }
    loop {
        at = space(bytes, nested(bytes, at, depth)?);
        match bytes.get(at)? {
            b',' => at = space(bytes, at + 1),
            b']' => return Some(at + 1),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vendors::object::is_json;

    fn serde_says(text: &str) -> bool {
        serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
    }

    #[test]
    fn the_grammar_is_kept_to_the_letter() {
        for good in [
            "0",
            "-0",
            "10",
            "-1.50",
            "1e5",
            "1E+05",
            "0.0e-0",
            "1e400",
            "true",
            "false",
            "null",
            "\"\"",
            "[]",
            "{}",
            " [ ] ",
            "{ }",
            "[1,\t2\n]",
            "{\"\":[{}]}",
            r#""\"\\\/\b\f\n\r\t\u00e9\uD800""#,
            "\"\u{7f}é\"",
        ] {
            assert!(is_json(good) && serde_says(good), "{good}");
        }
        for bad in [
            "",
            " ",
            "01",
            "-",
            "+1",
            ".5",
            "1.",
            "1.e1",
            "1e",
            "1e+",
            "--1",
            "tru",
            "True",
            "nul",
            "nulll",
            "NaN",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[",
            "]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{1:1}",
            "{\"a\" 1}",
            "{\"a\":1 \"b\":2}",
            "[1}",
            "{\"a\":1]",
            "\"",
            "\"\\\"",
            r#""\x""#,
            r#""\u12g4""#,
            r#""\u123"#,
            "\"\t\"",
            "\"\n\"",
            "\u{a0}1",
            "1\u{b}",
            "'a'",
            "1 2",
            "\u{feff}1",
        ] {
            assert!(!is_json(bad) && !serde_says(bad), "{bad}");
        }
    }

    #[test]
    fn nesting_ends_somewhere() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_json(&nested(usize::from(MAX_DEPTH))));
        assert!(!is_json(&nested(usize::from(MAX_DEPTH) + 1)));
        assert!(!is_json(&"[{\"a\":".repeat(1_000_000)));
    }

    proptest! {
        /// Near-JSON: pieces of it in any order, long enough to cross the blocks that strings are read by.
        #[test]
        fn it_agrees_with_serde_json(pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ":", ",", "\"", "\\", "\"a\"", "\"k\":", "\\u00e9", "\\\"", "x", "é", "☃", "1", "0",
                "-", ".", "e", "true", "null", " ", "\n", "\u{1}", "\"a long string that is no shorter than a block\"",
            ]),
            0..24,
        )) {
            let text = pieces.concat();
            prop_assert_eq!(is_json(&text), serde_says(&text), "{}", text);
        }

        #[test]
        fn a_string_ends_where_it_ends(inner in "[ -~é☃\\\\\"\u{1}]{0,80}", after in 0..40usize) {
            let json = serde_json::to_string(&inner).unwrap();
            let text = format!("{json}{}", "\"".repeat(after));
            prop_assert_eq!(string(text.as_bytes(), 0), Some(json.len()));
        }
    }
}
