//! What may be shown of a vendor's error body: a short text without links, addresses of people, tokens or credentials.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// The longest excerpt, in characters.
const MAX_CHARS: usize = 300;
/// Only this much of a body is looked at, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// From this length on, a run of token characters may be a secret.
const TOKEN_CHARS: usize = 20;
const REDACTED: &str = "[redacted]";

/// The part of an error body that is safe to show. Prefers a JSON `message`; of XML only the error code, of HTML nothing.
/// `secrets` are the connection's credentials: a vendor may echo them.
pub fn excerpt(body: &[u8], secrets: &[&SecretString]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(MAX_BODY)]);
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.starts_with('<') {
        return match xml_code(text) {
            Some(code) => clean(code, secrets),
            None if text.starts_with("<?xml") => "XML document".into(),
            None => "HTML page".into(),
        };
    }
    match serde_json::from_str::<Value>(text) {
        Ok(Value::String(message)) => clean(&message, secrets),
        Ok(value) => match value.get("message").and_then(Value::as_str) {
            Some(message) => clean(message, secrets),
            None => clean(&value.to_string(), secrets),
        },
        Err(_) => clean(text, secrets),
    }
}

/// `Code` of an object store's `<Error><Code>AccessDenied</Code>…`.
fn xml_code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    rest.split_once("</Code>").map(|(code, _)| code)
}

/// Takes out of a text what must not be shown, and shortens it.
fn clean(text: &str, secrets: &[&SecretString]) -> String {
    // JSON escapes slashes, which would hide a link.
    let mut text = text.replace("\\/", "/");
    for secret in secrets.iter().map(|secret| secret.expose_secret()).filter(|secret| secret.len() >= 4) {
        text = text.replace(secret, REDACTED);
    }
    let mut shown = String::with_capacity(text.len().min(4 * MAX_CHARS));
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    for word in words {
        if !shown.is_empty() {
            shown.push(' ');
        }
        clean_word(word, &mut shown);
    }
    if shown.chars().count() > MAX_CHARS {
        shown = shown.chars().take(MAX_CHARS - 1).chain(['…']).collect();
    }
    shown
}

/// A word's links and addresses go first: cut at quotes and brackets, since both may follow without a space.
fn clean_word(word: &str, shown: &mut String) {
    for part in word.split_inclusive(|c: char| "\"'`<>()[]{},;".contains(c)) {
        let end = part.char_indices().next_back().filter(|(_, c)| "\"'`<>()[]{},;".contains(*c));
        let (core, mark) = part.split_at(end.map_or(part.len(), |(at, _)| at));
        if core.contains("://") || core.contains('@') || (core.contains('?') && core.contains('=')) {
            shown.push_str(REDACTED);
        } else {
            clean_tokens(core, shown);
        }
        shown.push_str(mark);
    }
}

fn clean_tokens(text: &str, shown: &mut String) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-_+/=%~$".contains(c);
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let inside = is_token(first);
        let end = rest.find(|c| is_token(c) != inside).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        shown.push_str(if inside && looks_random(run) { REDACTED } else { run });
        rest = after;
    }
}

/// Long, and not made of plain lower-case words such as `custom_attributes_to_export`.
fn looks_random(run: &str) -> bool {
    run.len() >= TOKEN_CHARS
        && (run.contains(|c: char| c.is_ascii_digit() || c.is_ascii_uppercase())
            || run.split(|c: char| !c.is_ascii_alphanumeric()).any(|piece| piece.len() >= TOKEN_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(body: &str) -> String {
        excerpt(body.as_bytes(), &[&SecretString::from("sekret-key")])
    }

    #[test]
    fn a_json_message_is_preferred() {
        assert_eq!(shown(r#"{"message":"segment_id must be valid","errors":["x"]}"#), "segment_id must be valid");
        assert_eq!(shown(r#"{"error": {"code": 7}}"#), r#"{"error":{"code":7}}"#);
        assert_eq!(shown("Internal Server Error"), "Internal Server Error");
    }

    #[test]
    fn markup_is_never_shown() {
        assert_eq!(shown("<!doctype html><p>hello</p>"), "HTML page");
        assert_eq!(shown("\u{feff} <HTML>"), "HTML page");
        assert_eq!(
            shown("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><HostId>abc</HostId></Error>"),
            "AccessDenied"
        );
        assert_eq!(shown("<?xml version=\"1.0\"?><a/>"), "XML document");
    }

    #[test]
    fn links_people_tokens_and_credentials_are_taken_out() {
        for (body, expected) in [
            ("see https://files.test/a?sig=1, please", "see [redacted], please"),
            (r#"{"x":"https:\/\/files.test\/a"}"#, r#"{"x":"[redacted]"}"#),
            (r#"broken {"x":"https:\/\/files.test\/a"#, r#"broken {"x":"[redacted]"#),
            ("user jane.doe@example.test unknown", "user [redacted] unknown"),
            ("key sekret-key is bad", "key [redacted] is bad"),
            ("Bearer 4aaa22c7-679f-49be-b97d-073dad5dfc15.", "Bearer [redacted]."),
            ("token=abcdefghijklmnopqrstuvwxyz", "[redacted]"),
            ("bucket/key?X-Amz-Signature=ab", "[redacted]"),
            ("unknown field custom_attributes_to_export", "unknown field custom_attributes_to_export"),
            ("GET /users/export/segment", "GET /users/export/segment"),
        ] {
            assert_eq!(shown(body), expected);
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(shown("a\r\nb\u{0}c\u{1b}[31m\td"), "a b c [31m d");
        assert_eq!(shown(&"word ".repeat(1000)).chars().count(), MAX_CHARS);
        assert_eq!(excerpt(&[0xff, b'a'], &[]), "\u{fffd}a");
        assert_eq!(shown(""), "");
    }
}
