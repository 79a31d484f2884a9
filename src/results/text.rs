//! Text as vendors write it, made into what the rest can read: UTF-16 into UTF-8, and delimited text whose way of
//! escaping quotes is not documented into text with doubled quotes. Both are streamed.

use std::io::{self, Read};

use super::{Error, archive::Place};

/// Bytes read ahead. Small, so that a record's length stays known well enough while it is read.
const AHEAD: usize = 8 * 1024;

/// Little-endian UTF-16 without its mark, as UTF-8.
pub struct Utf16<R> {
    inner: R,
    place: Place,
    /// Read and not yet decoded: less than a character.
    rest: Vec<u8>,
    /// Decoded and not yet handed over.
    out: Vec<u8>,
    given: usize,
}

impl<R: Read> Utf16<R> {
    pub const fn new(inner: R, place: Place) -> Self {
        Self { inner, place, rest: Vec::new(), out: Vec::new(), given: 0 }
    }

    /// Decodes the next bytes; answers whether there were any.
    fn refill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; AHEAD];
        let read = self.inner.read(&mut bytes)?;
        if read == 0 {
            return if self.rest.is_empty() { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        self.rest.extend_from_slice(&bytes[..read]);
        let mut units: Vec<_> = self.rest.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        if units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)) {
            units.pop();
        }
        self.rest.drain(..2 * units.len());
        self.out.clear();
        self.given = 0;
        let mut utf8 = [0; 4];
        for decoded in char::decode_utf16(units) {
            let Ok(character) = decoded else {
                return Err(
                    Error::damaged(format!("{}: it is not the UTF-16 that its mark says", self.place)).into_io()
                );
            };
            self.out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        }
        Ok(true)
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.out.len() {
            if buffer.is_empty() || !self.refill()? {
                return Ok(0);
            }
        }
        let bytes = buffer.len().min(self.out.len() - self.given);
        buffer[..bytes].copy_from_slice(&self.out[self.given..self.given + bytes]);
        self.given += bytes;
        Ok(bytes)
    }
}

/// Delimited text in which a quote within quotes is `""` or `\"`, nobody knows which, as text in which it is `""`.
///
/// What a backslash means is told by what follows. Before a quote that cannot end its cell it escapes; before one that
/// can, it does where the file has shown that it escapes. Any other backslash is one.
pub struct EitherQuote<R> {
    inner: R,
    input: Vec<u8>,
    at: usize,
    ended: bool,
    out: Vec<u8>,
    given: usize,
    quoted: bool,
    /// A cell begins here.
    fresh: bool,
    /// A backslash has escaped something for certain.
    escapes: bool,
}

impl<R: Read> EitherQuote<R> {
    pub const fn new(inner: R) -> Self {
        Self {
            inner,
            input: Vec::new(),
            at: 0,
            ended: false,
            out: Vec::new(),
            given: 0,
            quoted: false,
            fresh: true,
            escapes: false,
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.input.get(self.at + ahead).copied()
    }

    fn refill(&mut self) -> io::Result<()> {
        self.input.drain(..self.at);
        self.at = 0;
        let mut bytes = [0; AHEAD];
        let read = self.inner.read(&mut bytes)?;
        self.ended = read == 0;
        self.input.extend_from_slice(&bytes[..read]);
        Ok(())
    }

    /// Rewrites what is there, as far as the three bytes after it are known too.
    fn rewrite(&mut self) {
        self.out.clear();
        self.given = 0;
        while let Some(byte) = self.peek(0) {
            if !self.ended && self.at + 3 >= self.input.len() {
                return;
            }
            if !self.quoted {
                self.quoted = byte == b'"' && self.fresh;
                self.fresh = matches!(byte, b',' | b'\t' | b'\n' | b'\r');
                self.out.push(byte);
                self.at += 1;
                continue;
            }
            match (byte, self.peek(1)) {
                (b'"', Some(b'"')) => self.take(b"\"\"", 2),
                (b'"', _) => {
                    self.quoted = false;
                    self.take(b"\"", 1);
                }
                (b'\\', Some(b'"')) if self.escapes_quote() => self.take(b"\"\"", 2),
                (b'\\', Some(b'\\')) if self.escapes => self.take(b"\\", 2),
                (b'\\', Some(b'\\')) => self.take(b"\\\\", 2),
                _ => self.take(&[byte], 1),
            }
        }
    }

    fn take(&mut self, written: &[u8], bytes: usize) {
        self.out.extend_from_slice(written);
        self.at += bytes;
    }

    /// Whether the backslash before a quote, both here, escapes it.
    fn escapes_quote(&mut self) -> bool {
        let ends_row = |byte: Option<u8>| matches!(byte, None | Some(b'\r' | b'\n'));
        match (self.peek(2), self.peek(3)) {
            // `\"",`: an escaped quote and the cell's end. Else a backslash and a doubled quote.
            (Some(b'"'), after) => self.escapes || ends_row(after) || matches!(after, Some(b',' | b'\t')),
            (Some(b',' | b'\t'), after) => {
                self.escapes || !(ends_row(after) || matches!(after, Some(b'"' | b',' | b'\t')))
            }
            (after, _) if ends_row(after) => self.escapes,
            _ => {
                self.escapes = true;
                true
            }
        }
    }
}

impl<R: Read> Read for EitherQuote<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.out.len() {
            if buffer.is_empty() {
                return Ok(0);
            }
            self.rewrite();
            if self.out.is_empty() {
                if self.ended {
                    return Ok(0);
                }
                self.refill()?;
            }
        }
        let bytes = buffer.len().min(self.out.len() - self.given);
        buffer[..bytes].copy_from_slice(&self.out[self.given..self.given + bytes]);
        self.given += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands over one byte at a time, so that every boundary is met.
    struct Drops<'a>(&'a [u8]);

    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    fn doubled(text: &str) -> String {
        let mut out = String::new();
        EitherQuote::new(Drops(text.as_bytes())).read_to_string(&mut out).unwrap();
        let mut at_once = String::new();
        EitherQuote::new(text.as_bytes()).read_to_string(&mut at_once).unwrap();
        assert_eq!(out, at_once);
        out
    }

    #[test]
    fn utf_16_is_decoded_across_every_boundary() {
        let text = "\"gio_id\",\"用户\"\n\"1\",\"𝄞 é\"\n";
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for reader in [&mut Drops(&bytes) as &mut dyn Read, &mut &bytes[..]] {
            let mut out = String::new();
            Utf16::new(reader, Place::file(1, false)).read_to_string(&mut out).unwrap();
            assert_eq!(out, text);
        }
    }

    #[test]
    fn broken_utf_16_is_an_error() {
        let read = |bytes: &[u8]| {
            let mut out = Vec::new();
            Utf16::new(bytes, Place::file(1, false)).read_to_end(&mut out).unwrap_err().kind()
        };
        assert_eq!(read(&[b'a', 0, b'b']), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[0x34, 0xd8]), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[0x34, 0xd8, b'a', 0]), io::ErrorKind::Other);
    }

    #[test]
    fn both_ways_of_escaping_become_doubled_quotes() {
        for (written, expected) in [
            // Doubled quotes and lone backslashes stay.
            (r#""a ""b"",c","C:\dir""#, r#""a ""b"",c","C:\dir""#),
            (r#""C:\","x""#, r#""C:\","x""#),
            ("\"C:\\\"\n\"x\"", "\"C:\\\"\n\"x\""),
            (r#""C:\",,"x""#, r#""C:\",,"x""#),
            (r#""a\""b","x""#, r#""a\""b","x""#),
            // Backslashes escape.
            (r#""a \"b\" c","x""#, r#""a ""b"" c","x""#),
            (r#""say \"hi\"","x""#, r#""say ""hi""","x""#),
            (r#""say \"hi\", you","x""#, r#""say ""hi"", you","x""#),
            (r#""\"x\" C:\\","y""#, r#""""x"" C:\","y""#),
            // Outside of quotes nothing is special.
            (r#"a\"b,x"y,"z""#, r#"a\"b,x"y,"z""#),
        ] {
            assert_eq!(doubled(written), expected, "{written}");
        }
    }
}
