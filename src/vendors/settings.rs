//! What every vendor's `connect` checks of a connection before it is used.

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{Account, Mapping};
use crate::exports::{fields::UserColumn, problem::FieldError, request::escape_pointer};

/// Parses `settings.base_url`: http or https, with a host, perhaps with a path; nothing else.
/// Whether the address may be reached is decided when it is called, since the operator's policy can change.
pub fn base_url(text: &str) -> Result<Url, FieldError> {
    let invalid = |detail: &str| FieldError::new("/settings/base_url", "invalid", detail);
    let url = Url::parse(text.trim()).map_err(|_| invalid("an absolute http or https address"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid("an absolute http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("credentials belong into `credentials`, not into the address"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("no query and no fragment: paths are added to it"));
    }
    Ok(url)
}

/// The only credential a vendor needs. Empty when the account brings none because only its settings are checked.
pub fn only_credential(account: &Account, name: &str) -> Result<SecretString, Vec<FieldError>> {
    let unknown = account.credentials.keys().filter(|key| *key != name);
    let mut errors: Vec<_> = unknown
        .map(|key| {
            let pointer = format!("/credentials/{}", escape_pointer(key));
            FieldError::new(pointer, "unknown_field", format!("only `{name}` is known"))
        })
        .collect();
    let pointer = format!("/credentials/{name}");
    match account.credentials.get(name) {
        None if account.credentials.is_empty() => {}
        None => errors.push(FieldError::new(pointer, "required", format!("`{name}` is missing"))),
        Some(secret) => {
            let text = secret.expose_secret();
            if text.is_empty() || text.trim() != text || HeaderValue::from_str(text).is_err() {
                errors.push(FieldError::new(pointer, "invalid", "printable text without spaces around it"));
            }
        }
    }
    if errors.is_empty() { Ok(account.credentials.get(name).cloned().unwrap_or_default()) } else { Err(errors) }
}

/// Checks that a mapping feeds columns that exist: a text, date or time column, or `attributes.<name>`.
pub fn check_mapping(mapping: &Mapping) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, property) in mapping {
        let pointer = format!("/mapping/{}", escape_pointer(key));
        let known = match key.split_once('.') {
            Some(("attributes", name)) => !name.is_empty(),
            Some(_) => false,
            None => UserColumn::named(key).is_some_and(UserColumn::is_text),
        };
        if !known {
            let detail = "a text, date or time column of user.v1, or `attributes.<name>`";
            errors.push(FieldError::new(pointer, "unknown_field", detail));
        } else if property.trim().is_empty() || property.len() > 255 {
            errors.push(FieldError::new(pointer, "invalid", "a vendor property of 1 to 255 characters"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_have_a_path_and_nothing_else() {
        for good in ["https://rest.iad-01.braze.com", "http://127.0.0.1:9000/braze/", " https://cdp.test/x "] {
            assert!(base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "rest.iad-01.braze.com",
            "ftp://x.test",
            "https://a:b@x.test",
            "https://x.test/?a=1",
            "https://x.test/#a",
        ] {
            assert_eq!(base_url(bad).unwrap_err().pointer, "/settings/base_url", "{bad}");
        }
    }

    #[test]
    fn a_mapping_feeds_columns_that_exist() {
        let mapping = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Mapping>()
        };
        assert_eq!(check_mapping(&mapping(&[("email", "usr_email"), ("attributes.plan", "tag_plan")])), []);
        let errors =
            check_mapping(&mapping(&[("shoe", "x"), ("identities", "x"), ("attributes.", "x"), ("email", "")]));
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/mapping/attributes.", "/mapping/email", "/mapping/identities", "/mapping/shoe"]);
    }
}
