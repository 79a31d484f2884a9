//! Writing JSON text straight into a buffer, as serde_json would write it: no tree, no allocation for a value.

/// Appends `text` as a JSON string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = find(rest, is_escaped, escaped_in) {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
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

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', letter]);
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
    let mut words = bytes.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        let found =
            in_word(u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    words.remainder().iter().position(|byte| is_one(*byte)).map(|tail| at + tail)
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
