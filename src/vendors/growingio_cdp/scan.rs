//! What an answer says of its pages, found while its bytes pass by: a page may be too large to be held.

/// The longest key or literal that is looked at, in bytes.
const LONGEST: usize = 32;

/// Reads one JSON document piece by piece: counts its records and finds `hasNextPage`, which stands beside the records
/// or in `paginationInfo`. Nothing else is checked.
#[derive(Debug)]
pub struct Scan {
    /// The member whose elements are the records.
    records: &'static str,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The last string or literal.
    word: Vec<u8>,
    /// The keys that lead to where we are, of the two outer objects.
    keys: [Vec<u8>; 2],
    begun: bool,
    in_records: bool,
    rows: u64,
    has_next: Option<bool>,
}

impl Scan {
    pub fn new(records: &'static str) -> Self {
        Self {
            records,
            depth: 0,
            in_string: false,
            escaped: false,
            word: Vec::new(),
            keys: [Vec::new(), Vec::new()],
            begun: false,
            in_records: false,
            rows: 0,
            has_next: None,
        }
    }

    /// How many records there were.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether there is a page after this one, if the answer says so.
    pub const fn has_next(&self) -> Option<bool> {
        self.has_next
    }

    /// Whether the document has come to its end.
    pub const fn is_whole(&self) -> bool {
        self.begun && self.depth == 0 && !self.in_string
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if self.in_string {
                let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\')).unwrap_or(bytes.len());
                if plain > 0 && !self.escaped {
                    self.keep(&bytes[..plain]);
                    bytes = &bytes[plain..];
                    continue;
                }
                match (self.escaped, byte) {
                    (false, b'\\') => self.escaped = true,
                    (false, b'"') => self.in_string = false,
                    _ => {
                        self.escaped = false;
                        self.keep(&[*byte]);
                    }
                }
            } else {
                self.structure(*byte);
            }
            bytes = rest;
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                self.word.clear();
            }
            b':' => {
                let word = std::mem::take(&mut self.word);
                if let Some(key) = self.depth.checked_sub(1).and_then(|depth| self.keys.get_mut(depth)) {
                    *key = word;
                }
            }
            b'{' | b'[' => {
                self.begun = true;
                if self.in_records && self.depth == 2 {
                    self.rows += 1;
                }
                self.depth += 1;
                self.in_records |= byte == b'[' && self.depth == 2 && self.keys[0] == self.records.as_bytes();
                self.word.clear();
            }
            b'}' | b']' => {
                self.value_ends();
                self.depth = self.depth.saturating_sub(1);
                self.in_records &= self.depth >= 2;
            }
            b',' => self.value_ends(),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.keep(&[byte]),
        }
    }

    fn value_ends(&mut self) {
        let path = [self.keys[0].as_slice(), self.keys[1].as_slice()];
        let is_flag = match self.depth {
            1 => path[0] == b"hasNextPage",
            2 => path == [b"paginationInfo".as_slice(), b"hasNextPage"],
            _ => false,
        };
        if is_flag {
            match self.word.as_slice() {
                b"true" => self.has_next = Some(true),
                b"false" => self.has_next = Some(false),
                _ => {}
            }
        }
        self.word.clear();
    }

    fn keep(&mut self, bytes: &[u8]) {
        // One more than is looked at, so that a long word is never taken for a short one.
        let room = (LONGEST + 1).saturating_sub(self.word.len());
        self.word.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(records: &'static str, text: &str) -> (u64, Option<bool>, bool) {
        let told = |pieces: &[&[u8]]| {
            let mut scan = Scan::new(records);
            for piece in pieces {
                scan.feed(piece);
            }
            (scan.rows(), scan.has_next(), scan.is_whole())
        };
        let at_once = told(&[text.as_bytes()]);
        assert_eq!(at_once, told(&text.as_bytes().chunks(1).collect::<Vec<_>>()), "{text}");
        at_once
    }

    #[test]
    fn a_page_tells_of_the_next_wherever_it_says_so() {
        for (text, expected) in [
            (r#"{"hasNextPage":true,"values":[{"a":[1,{}]},{}]}"#, (2, Some(true), true)),
            ("{ \"values\" : [ { \"hasNextPage\" : true } ] ,\n \"hasNextPage\" : false }\n", (1, Some(false), true)),
            (r#"{"offset":0.0,"totalCount":1000.0,"values":[]}"#, (0, None, true)),
            (r#"{"values":null,"hasNextPage":"x"}"#, (0, None, true)),
            (r#"{"values":[{"name":"\"hasNextPage\":true,}]"}],"hasNextPage":false}"#, (1, Some(false), true)),
            (r#"{"other":[[1],[2]],"values":[{}],"more":[{}]}"#, (1, None, true)),
        ] {
            assert_eq!(scanned("values", text), expected, "{text}");
        }
        let chart = r#"{"paginationInfo":{"hasNextPage":true,"x":false},"analysisInfo":{"hasNextPage":false},"resultRows":[["a","]"],["b"]]}"#;
        assert_eq!(scanned("resultRows", chart), (2, Some(true), true));
    }

    #[test]
    fn what_breaks_off_is_not_whole() {
        for text in ["", "{", r#"{"values":[{"a":"b"#, r#"{"values":[{}],"hasNextPage":true"#, "null"] {
            assert!(!scanned("values", text).2, "{text}");
        }
    }
}
