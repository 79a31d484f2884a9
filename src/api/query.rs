//! Query strings: read strictly, so that a misspelt filter is refused instead of ignored.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use chrono::{DateTime, Utc};
use serde::{Deserialize, de::value::StrDeserializer};

use super::problem::ApiError;

/// The parameters of a query string, each at most once.
#[derive(Debug)]
pub struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads the query string. `known` are the names it may hold; one that ends in `.` stands for all that begin so.
    ///
    /// # Errors
    /// 400 for an unknown or repeated name, and for text that is not UTF-8.
    pub fn read(request: &HttpRequest, known: &[&str]) -> Result<Self, ApiError> {
        let mut parameters = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            let is_known = known.iter().any(|known| {
                if known.ends_with('.') { name.starts_with(known) && name.len() > known.len() } else { *known == name }
            });
            if !is_known {
                let names = if known.is_empty() { "none".into() } else { known.join(", ") };
                return Err(ApiError::malformed(format!("unknown query parameter; there is {names}")));
            }
            // Decoding puts U+FFFD where the bytes are no UTF-8.
            if [&name, &value].iter().any(|text| text.contains(['\0', '\u{fffd}'])) {
                return Err(ApiError::malformed("a query parameter is not valid text"));
            }
            if parameters.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(ApiError::malformed(format!("the query parameter `{name}` is repeated")));
            }
        }
        Ok(Self(parameters))
    }

    /// The value of `name`; an empty one counts as absent.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `true` or `false`; absent is `false`.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(ApiError::malformed(format!("`{name}` is `true` or `false`"))),
        }
    }

    /// A whole number.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.text(name)
            .map(|text| text.parse().map_err(|_| ApiError::malformed(format!("`{name}` is a whole number"))))
            .transpose()
    }

    /// An RFC 3339 time with any offset. A `+` that was not escaped, and so reads as a space, is understood.
    pub fn time(&self, name: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
        self.text(name)
            .map(|text| {
                DateTime::parse_from_rfc3339(&text.replace(' ', "+"))
                    .map(|time| time.to_utc())
                    .map_err(|_| ApiError::malformed(format!("`{name}` is a time such as 2026-01-31T08:00:00Z")))
            })
            .transpose()
    }

    /// One of the values of `T`.
    pub fn choice<'de, T: Deserialize<'de>>(&'de self, name: &str) -> Result<Option<T>, ApiError> {
        self.text(name)
            .map(|text| {
                T::deserialize(StrDeserializer::<serde::de::value::Error>::new(text))
                    .map_err(|_| ApiError::malformed(format!("`{name}` has no such value")))
            })
            .transpose()
    }

    /// What follows `prefix` in the names that begin with it, and the values.
    pub fn with_prefix(&self, prefix: &str) -> BTreeMap<String, String> {
        self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;
    use crate::exports::state::State;

    fn read(query: &str) -> Result<Query, ApiError> {
        let request = TestRequest::with_uri(&format!("/x?{query}")).to_http_request();
        Query::read(&request, &["state", "after", "flag", "label."])
    }

    #[test]
    fn unknown_repeated_and_unreadable_parameters_are_refused() {
        for bad in ["stat=x", "state=a&state=b", "label.=x", "state=%FF", "label.a=%00"] {
            assert_eq!(read(bad).unwrap_err().problem().status, 400, "{bad}");
        }
        assert!(read("").unwrap().text("state").is_none());
    }

    #[test]
    fn values_are_typed() {
        let query = read("state=queued&label.team=growth&after=2026-01-31T08:00:00+08:00&flag=true").unwrap();
        assert_eq!(query.choice::<State>("state").unwrap(), Some(State::Queued));
        assert_eq!(query.with_prefix("label.")["team"], "growth");
        assert_eq!(query.time("after").unwrap().unwrap().to_rfc3339(), "2026-01-31T00:00:00+00:00");
        assert!(query.flag("flag").unwrap());
        let query = read("state=done&after=yesterday&flag=1").unwrap();
        assert!(query.choice::<State>("state").is_err() && query.time("after").is_err() && query.flag("flag").is_err());
    }
}
