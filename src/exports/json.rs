//! Writing JSON text straight into a buffer, as serde_json would write it: no tree, no allocation for a value.

/// What JSON text can be appended to.
pub trait Sink {
    fn text(&mut self, text: &str);
}

impl Sink for Vec<u8> {
    #[inline]
    fn text(&mut self, text: &str) {
        self.extend_from_slice(text.as_bytes());
    }
}

impl Sink for String {
    #[inline]
    fn text(&mut self, text: &str) {
        self.push_str(text);
    }
}

/// Appends `text` as a JSON string.
pub fn string(out: &mut impl Sink, text: &str) {
    out.text("\"");
    rest_of_string(out, text);
}

/// Appends `text` as a JSON string whose first quote is there already.
pub fn rest_of_string(out: &mut impl Sink, text: &str) {
    let mut rest = text;
    while let Some(at) = find(rest.as_bytes(), is_escaped, escaped_in) {
        out.text(&rest[..at]);
        escape(out, rest.as_bytes()[at]);
        // Whatever is escaped is one byte.
        rest = &rest[at + 1..];
    }
    out.text(rest);
    out.text("\"");
}

/// Appends JSON text that was read from somewhere, without its line ends: outside of strings they mean nothing, and
/// inside of strings JSON has none.
pub fn one_line(out: &mut Vec<u8>, json: &str) {
    let mut rest = json.as_bytes();
    while let Some(at) = find(rest, |byte| byte < 0x20, below_space_in) {
        let is_line_end = matches!(rest[at], b'\n' | b'\r');
        out.extend_from_slice(&rest[..at + usize::from(!is_line_end)]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn escape(out: &mut impl Sink, byte: u8) {
    const HEX: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"];
    let text = match byte {
        b'"' => "\\\"",
        b'\\' => "\\\\",
        0x08 => "\\b",
        b'\t' => "\\t",
        b'\n' => "\\n",
        0x0c => "\\f",
        b'\r' => "\\r",
        _ => {
            out.text("\\u00");
            out.text(HEX[usize::from(byte >> 4)]);
            HEX[usize::from(byte & 15)]
        }
    };
    out.text(text);
}

const fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

const fn escaped_in(word: u64) -> u64 {
    below_space_in(word) | byte_in(word, b'"') | byte_in(word, b'\\')
}

/// Where the first byte is that `is_one` knows. `in_word` says it of eight bytes at once: the lowest bit it sets is the
/// highest bit of the first of them.
#[inline]
pub(crate) fn find(bytes: &[u8], is_one: impl Fn(u8) -> bool, in_word: impl Fn(u64) -> u64) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let found = in_word(u64::from_le_bytes(*word));
        if found != 0 {
            return Some(number * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    // The last word of a text, with what was searched already: cheaper than up to seven single bytes.
    if let Some(last) = bytes.last_chunk::<8>() {
        let found = in_word(u64::from_le_bytes(*last));
        return (found != 0).then(|| bytes.len() - 8 + found.trailing_zeros() as usize / 8);
    }
    rest.iter().position(|byte| is_one(*byte))
}

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// Marks the bytes that are below a space.
#[inline]
pub(crate) const fn below_space_in(word: u64) -> u64 {
    word.wrapping_sub(ONES * 0x20) & !word & HIGHS
}

/// Marks the bytes that are `byte`.
#[inline]
pub(crate) const fn byte_in(word: u64, byte: u8) -> u64 {
    let same = word ^ u64::from_ne_bytes([byte; 8]);
    same.wrapping_sub(ONES) & !same & HIGHS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_string_is_written_as_serde_json_writes_it(text in "\\PC{0,20}|[\\x00-\\x7f]{0,40}|(?s:.{0,40})") {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn every_byte_is_escaped_at_every_place() {
        for code in 0..=0xff_u8 {
            for before in 0..20 {
                let text = format!("{}{}{}", "x".repeat(before), char::from(code), "yz".repeat(9));
                let mut out = Vec::new();
                string(&mut out, &text);
                assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
            }
        }
    }

    #[test]
    fn a_value_of_many_lines_becomes_one() {
        let mut out = Vec::new();
        one_line(&mut out, "{\r\n\t\"a\\n\" :\n [1,\n2] , \"b\": 1e400 }");
        assert_eq!(out, b"{\t\"a\\n\" : [1,2] , \"b\": 1e400 }");
    }
}
