//! `headgate token`: a token signed with the secret that the gateway checks tokens with.

use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::Failure;
use crate::{
    config::{Flags, Settings, TokenKey},
    exports::request::parse_duration,
};

/// A token outlives no key rotation worth the name.
const MAX_TTL: Duration = Duration::from_hours(366 * 24);

#[derive(clap::Args)]
pub struct Arguments {
    /// Who the token is for
    #[arg(long, value_name = "TEXT")]
    sub: String,
    /// Who owns the exports made with it [default: the same as --sub]
    #[arg(long, value_name = "TEXT")]
    tenant: Option<String>,
    /// What it may do, separated by spaces, such as "exports:read exports:write exports:download", "schedules:read
    /// schedules:write" or "webhooks:read webhooks:write"; for the platform team also "connections:admin" and
    /// "destinations:admin"
    #[arg(long, value_name = "SCOPES")]
    scope: String,
    /// Which connections it may use, as glob patterns; comma-separated or given several times
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    connections: Vec<String>,
    /// How long it is valid, as an ISO 8601 duration
    #[arg(long, value_name = "DURATION", default_value = "PT1H")]
    ttl: String,
    #[command(flatten)]
    settings: Flags,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    tenant: &'a str,
    scope: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    connections: Vec<&'a str>,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = Settings::load_without_keys(&arguments.settings)?;
    println!("{}", sign(arguments, &settings, Utc::now().timestamp())?);
    Ok(())
}

/// The token, valid from `now` in seconds of the Unix epoch.
fn sign(arguments: &Arguments, settings: &Settings, now: i64) -> Result<String, Failure> {
    let ttl = parse_duration(&arguments.ttl).filter(|ttl| ttl.as_secs() > 0 && *ttl <= MAX_TTL).ok_or_else(|| {
        Failure::Usage("--ttl must be an ISO 8601 duration such as PT1H, from a second to a year".into())
    })?;
    for (name, value) in [("--sub", &arguments.sub), ("--tenant", arguments.tenant.as_ref().unwrap_or(&arguments.sub))]
    {
        if value.trim().is_empty() {
            return Err(Failure::Usage(format!("{name} must not be empty")));
        }
    }
    for pattern in &arguments.connections {
        glob::Pattern::new(pattern)
            .map_err(|error| Failure::Usage(format!("--connections: `{pattern}` is not a pattern: {error}")))?;
    }
    let grant = Grant {
        sub: &arguments.sub,
        tenant: arguments.tenant.as_deref().unwrap_or(&arguments.sub),
        scope: &arguments.scope,
        connections: arguments.connections.iter().map(String::as_str).filter(|pattern| !pattern.is_empty()).collect(),
    };
    mint(settings, &grant, now, ttl)
}

/// What a token grants, and to whom.
pub struct Grant<'a> {
    pub sub: &'a str,
    pub tenant: &'a str,
    /// Separated by white space.
    pub scope: &'a str,
    /// Glob patterns.
    pub connections: Vec<&'a str>,
}

/// A token for `grant`, valid for `ttl` from `now` in seconds of the Unix epoch.
pub fn mint(settings: &Settings, grant: &Grant<'_>, now: i64, ttl: Duration) -> Result<String, Failure> {
    let TokenKey::Secret(secret) = settings.token_key()? else {
        return Err(Failure::Usage(
            "tokens are checked with HEADGATE_JWKS_URL: only whoever holds those keys can sign one".into(),
        ));
    };
    let claims = Claims {
        sub: grant.sub,
        tenant: grant.tenant,
        scope: grant.scope.split_whitespace().collect::<Vec<_>>().join(" "),
        connections: grant.connections.clone(),
        iat: now,
        exp: now.saturating_add_unsigned(ttl.as_secs()),
        iss: settings.jwt_issuer.as_deref(),
        aud: settings.jwt_audience.as_deref(),
    };
    let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
    Ok(encode(&Header::new(Algorithm::HS256), &claims, &key).context("signing the token")?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jsonwebtoken::{DecodingKey, Validation, decode};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes";

    fn arguments() -> Arguments {
        Arguments {
            sub: "crm".into(),
            tenant: None,
            scope: " exports:read  exports:write ".into(),
            connections: vec!["growth-*".into()],
            ttl: "PT1H".into(),
            settings: Flags::default(),
        }
    }

    fn settings(flags: &Flags) -> Settings {
        let env = [("XDG_DATA_HOME".to_owned(), "/data".to_owned())].into();
        Settings::resolve(flags, &env, Path::new("/nowhere")).ok().unwrap()
    }

    fn usage(signed: Result<String, Failure>) -> String {
        match signed {
            Err(Failure::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_carries_what_was_asked_and_checks_with_the_gateways_secret() {
        let settings = settings(&Flags {
            jwt_secret: Some(SECRET.into()),
            jwt_issuer: Some("headgate".into()),
            jwt_audience: Some("exports".into()),
            ..Flags::default()
        });
        let now = Utc::now().timestamp();
        let token = sign(&arguments(), &settings, now).unwrap();
        let mut checks = Validation::new(Algorithm::HS256);
        checks.set_audience(&["exports"]);
        checks.set_issuer(&["headgate"]);
        let decoded = decode::<Value>(&token, &DecodingKey::from_secret(SECRET.as_bytes()), &checks).unwrap();
        assert_eq!(
            decoded.claims,
            json!({
                "sub": "crm", "tenant": "crm", "scope": "exports:read exports:write", "connections": ["growth-*"],
                "iat": now, "exp": now + 3600, "iss": "headgate", "aud": "exports",
            })
        );
    }

    #[test]
    fn without_patterns_the_claim_is_absent() {
        let settings = settings(&Flags { jwt_secret: Some(SECRET.into()), ..Flags::default() });
        let token = sign(&Arguments { connections: vec![], ..arguments() }, &settings, Utc::now().timestamp()).unwrap();
        let key = DecodingKey::from_secret(SECRET.as_bytes());
        let decoded = decode::<Value>(&token, &key, &Validation::new(Algorithm::HS256)).unwrap();
        assert_eq!(decoded.claims.get("connections"), None);
    }

    #[test]
    fn with_a_key_set_no_token_can_be_signed() {
        let settings = settings(&Flags { jwks_url: Some("https://id.example/keys".into()), ..Flags::default() });
        assert!(usage(sign(&arguments(), &settings, 0)).contains("HEADGATE_JWKS_URL"));
    }

    #[test]
    fn a_lifetime_that_is_none_is_refused() {
        let settings = settings(&Flags { jwt_secret: Some(SECRET.into()), ..Flags::default() });
        for ttl in ["PT0S", "1h", "P1M", "P400D", ""] {
            assert!(usage(sign(&Arguments { ttl: ttl.into(), ..arguments() }, &settings, 0)).starts_with("--ttl"));
        }
    }
}
