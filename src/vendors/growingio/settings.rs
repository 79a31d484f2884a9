//! A connection's settings and credentials, checked.

use std::time::Duration;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::{
    exports::{
        problem::FieldError,
        request::{escape_pointer, from_json},
    },
    vendors::{
        Account,
        settings::{base_url, check_mapping},
        shared::{Budget, Pace},
    },
};

/// Where classic GrowingIO is. Source: `developer-manual/api-reference/`.
pub const BASE_URL: &str = "https://www.growingio.com";

/// The documented rate. Source: `api/originaldata-export-v2/overview.md`, `api/statistics-api/overview.md`.
const REQUESTS_PER_SECOND: f64 = 2.0;
/// A budget of spaced calls is for small numbers; a higher rate has a shorter window.
const MAX_SPACED: f64 = 10.0;

/// What a connection is made of.
pub struct Settings {
    pub base: Url,
    /// The project ID, also called account id: in raw-data paths and token requests.
    pub ai: String,
    /// The project UID: in statistics paths and token requests.
    pub project: String,
    pub prefix: Prefix,
    pub requests_per_second: f64,
    pub raw_data: RawData,
    pub credentials: Credentials,
}

/// What stands before the token in `Authorization`: both are documented, on pages of different age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Prefix {
    #[default]
    #[serde(rename = "")]
    Bare,
    #[serde(rename = "Token ")]
    Token,
}

impl Prefix {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "",
            Self::Token => "Token ",
        }
    }

    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Bare => Self::Token,
            Self::Token => Self::Bare,
        }
    }
}

/// Which form of raw data the project has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RawData {
    #[default]
    V2,
    /// Deprecated: all tables mixed in one list of files.
    V1,
}

/// How the account proves who it is.
pub enum Credentials {
    /// A token made by hand in the console.
    Console { token: SecretString, client_id: Option<SecretString> },
    /// Tokens are issued for requests that the private key signs.
    Signed { client_id: SecretString, private_key: SecretString },
}

impl Credentials {
    /// The project's public key, sent wherever it is known.
    pub const fn client_id(&self) -> Option<&SecretString> {
        match self {
            Self::Console { client_id, .. } => client_id.as_ref(),
            Self::Signed { client_id, .. } => Some(client_id),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    base_url: Option<String>,
    ai: String,
    project_uid: String,
    #[serde(default)]
    authorization_prefix: Prefix,
    requests_per_second: Option<f64>,
    #[serde(default)]
    raw_data_version: RawData,
}

pub fn schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["ai", "project_uid"],
        "properties": {
            "base_url": {
                "type": "string",
                "format": "uri",
                "title": "Address",
                "description": "Only for another address than the documented one",
                "default": BASE_URL
            },
            "ai": {
                "type": "string",
                "minLength": 1,
                "title": "Project ID",
                "description": "The long hexadecimal id that SDKs call account id; raw data are found by it",
                "examples": ["2a1b4018cd954ec2bcc69da5138bdb96"]
            },
            "project_uid": {
                "type": "string",
                "minLength": 1,
                "title": "Project UID",
                "description": "The short id in the console's addresses; statistics are found by it",
                "examples": ["nxog09md"]
            },
            "authorization_prefix": {
                "type": "string",
                "enum": ["", "Token "],
                "default": "",
                "title": "Prefix of the token",
                "description": "What stands before the token in `Authorization`; older projects want `Token `"
            },
            "requests_per_second": {
                "type": "number",
                "minimum": 0.01,
                "maximum": 1000,
                "default": REQUESTS_PER_SECOND,
                "title": "Calls a second",
                "description": "Only where GrowingIO has agreed to another rate"
            },
            "raw_data_version": {
                "type": "string",
                "enum": ["v2", "v1"],
                "default": "v2",
                "title": "Version of raw data",
                "description": "`v1` is deprecated: for projects that were never moved to `v2`"
            }
        }
    })
}

impl Settings {
    /// Reads and checks settings, credentials and mapping.
    ///
    /// # Errors
    /// Everything that cannot work, with its pointer.
    pub fn read(account: &Account) -> Result<Self, Vec<FieldError>> {
        let mut errors = check_mapping(&account.mapping);
        let credentials = credentials(account).map_err(|more| errors.extend(more)).ok();
        let body = from_json::<Body>(account.settings.clone(), "/settings").map_err(|error| errors.push(error)).ok();
        let Some(body) = body else { return Err(errors) };
        for (name, id) in [("ai", &body.ai), ("project_uid", &body.project_uid)] {
            if !is_id(id) {
                let detail = "an id of 1 to 64 letters, digits, `-` and `_`";
                errors.push(FieldError::new(format!("/settings/{name}"), "invalid", detail));
            }
        }
        let requests_per_second = body.requests_per_second.unwrap_or(REQUESTS_PER_SECOND);
        if !(0.01..=1000.0).contains(&requests_per_second) {
            let detail = "calls a second, from 0.01 to 1000";
            errors.push(FieldError::new("/settings/requests_per_second", "invalid", detail));
        }
        let base = base_url(body.base_url.as_deref().unwrap_or(BASE_URL)).map_err(|error| errors.push(error)).ok();
        match (base, credentials) {
            (Some(base), Some(credentials)) if errors.is_empty() => Ok(Self {
                base,
                ai: body.ai,
                project: body.project_uid,
                prefix: body.authorization_prefix,
                requests_per_second,
                raw_data: body.raw_data_version,
                credentials,
            }),
            _ => Err(errors),
        }
    }

    /// The address and the project: whoever has the same shares one budget.
    pub fn budget(&self) -> Budget {
        let limit = self.requests_per_second.min(MAX_SPACED).ceil().max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10")]
        let calls = limit as u32;
        Budget {
            account: format!("{} {}", self.base, self.ai).into(),
            name: "api_calls",
            says: "Calls for raw data and statistics",
            limit: calls,
            window: Duration::from_secs_f64(limit / self.requests_per_second),
            pace: Pace::Spaced,
        }
    }
}

/// What may stand in a path and in the text that is signed without being encoded there.
fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Empty when the account brings none because only its settings are checked.
fn credentials(account: &Account) -> Result<Credentials, Vec<FieldError>> {
    let mut errors = Vec::new();
    for (name, secret) in &account.credentials {
        let pointer = format!("/credentials/{}", escape_pointer(name));
        let text = secret.expose_secret();
        match name.as_str() {
            // It is never sent, so it may be any text.
            "private_key" if text.is_empty() => {
                errors.push(FieldError::new(pointer, "invalid", "the private key is empty"));
            }
            "private_key" => {}
            "token" | "client_id" => {
                if text.is_empty() || text.trim() != text || HeaderValue::from_str(text).is_err() {
                    errors.push(FieldError::new(pointer, "invalid", "printable text without spaces around it"));
                }
            }
            _ => {
                let detail = "only `token`, `client_id` and `private_key` are known";
                errors.push(FieldError::new(pointer, "unknown_field", detail));
            }
        }
    }
    let given = |name: &str| account.credentials.get(name).cloned();
    let read = match (given("token"), given("client_id"), given("private_key")) {
        (Some(_), _, Some(_)) => {
            let detail = "a token needs no private key: give one of the two";
            Err(FieldError::new("/credentials/private_key", "not_allowed", detail))
        }
        (Some(token), client_id, None) => Ok(Credentials::Console { token, client_id }),
        (None, Some(client_id), Some(private_key)) => Ok(Credentials::Signed { client_id, private_key }),
        (None, None, Some(_)) => {
            let detail = "the private key goes with the public key";
            Err(FieldError::new("/credentials/client_id", "required", detail))
        }
        (None, None, None) if account.credentials.is_empty() => {
            Ok(Credentials::Console { token: SecretString::default(), client_id: None })
        }
        (None, _, None) => {
            let detail = "a token, or the project's `client_id` and `private_key`";
            Err(FieldError::new("/credentials/token", "required", detail))
        }
    };
    match read {
        Ok(credentials) if errors.is_empty() => Ok(credentials),
        Ok(_) => Err(errors),
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::vendors::scripted::account;

    fn with(settings: Value, credentials: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let mut account = account(settings, ("token", "x"), &[]);
        account.credentials =
            credentials.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
        Settings::read(&account).map_err(|errors| errors.into_iter().map(|error| error.pointer).collect())
    }

    fn good() -> Value {
        json!({"ai": "2a1b4018cd954ec2bcc69da5138bdb96", "project_uid": "nxog09md"})
    }

    fn and(name: &str, value: impl Into<Value>) -> Value {
        let mut settings = good();
        settings[name] = value.into();
        settings
    }

    #[test]
    fn the_documented_address_and_rate_are_the_defaults() {
        let settings = with(good(), &[("token", "t")]).unwrap();
        assert_eq!(settings.base.as_str(), "https://www.growingio.com/");
        assert_eq!((settings.prefix, settings.raw_data), (Prefix::Bare, RawData::V2));
        let budget = settings.budget();
        assert_eq!((budget.limit, budget.window, budget.pace), (2, Duration::from_secs(1), Pace::Spaced));
        assert_eq!(budget.account, "https://www.growingio.com/ 2a1b4018cd954ec2bcc69da5138bdb96");
    }

    #[test]
    fn another_rate_scales_the_budget() {
        for (rate, limit, window) in
            [(0.5, 1, 2000), (1.0, 1, 1000), (2.5, 3, 1200), (10.0, 10, 1000), (100.0, 10, 100)]
        {
            let budget = with(and("requests_per_second", rate), &[("token", "t")]).unwrap().budget();
            assert_eq!((budget.limit, budget.window), (limit, Duration::from_millis(window)), "{rate}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_pointed_at() {
        let refused = |settings| with(settings, &[("token", "t")]).err().unwrap();
        assert_eq!(refused(json!({"project_uid": "x"})), ["/settings/ai"]);
        assert_eq!(refused(json!({"ai": "x"})), ["/settings/project_uid"]);
        assert_eq!(refused(and("ai", "a&b")), ["/settings/ai"]);
        assert_eq!(refused(and("project_uid", "")), ["/settings/project_uid"]);
        assert_eq!(refused(and("authorization_prefix", "Bearer ")), ["/settings/authorization_prefix"]);
        assert_eq!(refused(and("requests_per_second", 0)), ["/settings/requests_per_second"]);
        assert_eq!(refused(and("raw_data_version", "v3")), ["/settings/raw_data_version"]);
        assert_eq!(refused(and("base_url", "www.growingio.com")), ["/settings/base_url"]);
        assert_eq!(refused(and("region", "cn")), ["/settings/region"]);
    }

    #[test]
    fn credentials_are_a_token_or_a_pair_of_keys() {
        for fine in [
            &[][..],
            &[("token", "t")],
            &[("token", "t"), ("client_id", "c")],
            &[("client_id", "c"), ("private_key", "私钥")],
        ] {
            assert!(with(good(), fine).is_ok(), "{fine:?}");
        }
        for (bad, pointers) in [
            (&[("client_id", "c")][..], &["/credentials/token"][..]),
            (&[("private_key", "p")], &["/credentials/client_id"]),
            (&[("token", "t"), ("private_key", "p")], &["/credentials/private_key"]),
            (&[("token", "t"), ("api_key", "x")], &["/credentials/api_key"]),
            (&[("token", " t")], &["/credentials/token"]),
            (&[("client_id", "c\n"), ("private_key", "")], &["/credentials/client_id", "/credentials/private_key"]),
        ] {
            assert_eq!(with(good(), bad).err().unwrap(), pointers, "{bad:?}");
        }
    }
}
