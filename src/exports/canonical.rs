//! One text for all ways to write the same JSON value: members sorted, no spaces (after RFC 8785). Its hash tells
//! whether two requests are the same.

use aws_lc_rs::digest;
use serde_json::Value;

/// SHA-256 of the canonical form.
pub fn sha256(value: &Value) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    feed(value, &mut hash);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}

/// Depth is bounded by the parser that read the value.
fn feed(value: &Value, hash: &mut digest::Context) {
    match value {
        Value::Array(items) => {
            hash.update(b"[");
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    hash.update(b",");
                }
                feed(item, hash);
            }
            hash.update(b"]");
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            hash.update(b"{");
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    hash.update(b",");
                }
                hash.update(Value::from(name.as_str()).to_string().as_bytes());
                hash.update(b":");
                feed(member, hash);
            }
            hash.update(b"}");
        }
        plain => hash.update(plain.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> [u8; 32] {
        sha256(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn order_and_spaces_do_not_matter_but_values_do() {
        assert_eq!(hash(r#"{"a":1,"b":{"c":[1,2],"d":null}}"#), hash("{ \"b\": {\"d\":null, \"c\":[1,2]}, \"a\":1 }"));
        assert_ne!(hash(r#"{"a":[1,2]}"#), hash(r#"{"a":[2,1]}"#));
        assert_ne!(hash(r#"{"a":"1"}"#), hash(r#"{"a":1}"#));
        assert_ne!(hash(r#"{"a":1,"b":2}"#), hash(r#"{"a":{"b":2}}"#));
    }

    #[test]
    fn the_hash_is_that_of_the_canonical_text() {
        let text = digest::digest(&digest::SHA256, br#"{"a":"\"","b":[true,null]}"#);
        assert_eq!(hash(r#"{"b":[true,null],"a":"\""}"#), text.as_ref());
    }
}
