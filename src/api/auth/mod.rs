//! Who asks: bearer tokens (JWT) checked against a configured secret or the key set of an identity provider.
//! The configuration fixes the algorithms; a token's own claim about its algorithm only ever gets it refused.

mod jwks;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use glob::Pattern;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use self::jwks::Jwks;
use crate::operations::Caller;

/// How far the clocks of issuer and gateway may differ.
const LEEWAY_SECS: u64 = 60;
/// Longest subject or tenant, in bytes.
const MAX_NAME: usize = 255;

/// Which tokens are accepted.
#[derive(Debug)]
pub struct AuthSettings {
    pub key: KeySource,
    /// Empty means HS256 with a secret; RS256, ES256 and EdDSA with a key set.
    pub algorithms: Vec<Algorithm>,
    /// The exact `iss`, when set.
    pub issuer: Option<String>,
    /// One of these must be in `aud`, when any is set.
    pub audience: Vec<String>,
}

/// Where the keys come from.
#[derive(Debug)]
pub enum KeySource {
    /// A shared secret, for development and tests.
    Secret(SecretString),
    /// The identity provider's JSON Web Key Set.
    Jwks { url: Url },
}

/// The settings can accept no token safely.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAuthSettings {
    #[error("the token secret is empty")]
    EmptySecret,
    #[error("algorithm {0:?} does not fit the kind of key")]
    AlgorithmDoesNotFit(Algorithm),
    #[error("the client for the key set cannot be built")]
    Client(#[from] reqwest::Error),
}

/// Why a token is not accepted. The words are safe to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// There is no bearer token.
    Missing,
    /// There is one, but it does not do.
    Invalid(&'static str),
    /// The identity provider's keys could not be fetched yet; the token may be good.
    KeysUnavailable,
}

/// A checked token.
#[derive(Debug, Clone)]
pub struct Identity {
    pub caller: Caller,
    pub expires_at: DateTime<Utc>,
}

/// Checks tokens.
pub struct Authenticator {
    keys: Keys,
    algorithms: Vec<Algorithm>,
    issuer: Option<String>,
    validation: Validation,
}

enum Keys {
    Secret(Box<DecodingKey>),
    Jwks(Arc<Jwks>),
}

impl Authenticator {
    /// An authenticator for these settings. A key set is fetched when the first token comes.
    ///
    /// # Errors
    /// When no token could be accepted safely.
    pub fn new(settings: AuthSettings) -> Result<Self, InvalidAuthSettings> {
        let (keys, usual, fits): (_, _, fn(Algorithm) -> bool) = match settings.key {
            KeySource::Secret(secret) if secret.expose_secret().is_empty() => {
                return Err(InvalidAuthSettings::EmptySecret);
            }
            KeySource::Secret(secret) => {
                let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
                (Keys::Secret(Box::new(key)), vec![Algorithm::HS256], is_symmetric)
            }
            KeySource::Jwks { url } => {
                let usual = vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];
                (Keys::Jwks(Arc::new(Jwks::new(url)?)), usual, |algorithm| !is_symmetric(algorithm))
            }
        };
        let algorithms = if settings.algorithms.is_empty() { usual } else { settings.algorithms };
        if let Some(algorithm) = algorithms.iter().copied().find(|algorithm| !fits(*algorithm)) {
            return Err(InvalidAuthSettings::AlgorithmDoesNotFit(algorithm));
        }
        let validation = validation(&settings.audience);
        Ok(Self { keys, algorithms, issuer: settings.issuer, validation })
    }

    /// Checks the value of an `Authorization` header.
    ///
    /// # Errors
    /// When it brings no token that is good now.
    pub async fn authenticate(&self, authorization: Option<&str>) -> Result<Identity, Rejected> {
        let token = bearer_token(authorization.ok_or(Rejected::Missing)?)?;
        let header = jsonwebtoken::decode_header(token).map_err(|error| rejected(error.kind()))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(Rejected::Invalid("the token is signed with an algorithm that is not accepted"));
        }
        if header.crit.is_some() {
            return Err(Rejected::Invalid("the token needs an extension that is not supported"));
        }
        let key = match &self.keys {
            Keys::Secret(key) => (**key).clone(),
            Keys::Jwks(jwks) => jwks.key(header.kid.as_deref(), header.alg).await?,
        };
        // One algorithm, the one checked above: the library then refuses a key of another family.
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims =
            jsonwebtoken::decode::<Claims>(token, &key, &validation).map_err(|error| rejected(error.kind()))?.claims;
        self.identity(claims)
    }

    fn identity(&self, claims: Claims) -> Result<Identity, Rejected> {
        // The library would accept a list of issuers that holds the right one.
        if self.issuer.is_some() && claims.iss.as_ref().and_then(|iss| iss.as_str()) != self.issuer.as_deref() {
            return Err(Rejected::Invalid("the token comes from another issuer"));
        }
        let subject = claims.sub.unwrap_or_default();
        let tenant = claims.tenant.unwrap_or_else(|| subject.clone());
        if !is_name(&subject) {
            return Err(Rejected::Invalid("the token names no subject"));
        }
        if !is_name(&tenant) {
            return Err(Rejected::Invalid("the token's tenant is not valid"));
        }
        let connections = claims
            .connections
            .map_or_else(Vec::new, Connections::into_patterns)
            .iter()
            .map(|pattern| Pattern::new(pattern))
            .collect::<Result<_, _>>()
            .map_err(|_| Rejected::Invalid("the token's connections are not valid patterns"))?;
        let scopes = claims.scope.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
        Ok(Identity {
            caller: Caller { subject, tenant, scopes, connections },
            expires_at: expires_at(claims.exp.and_then(|exp| exp.as_f64()).unwrap_or_default()),
        })
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// Required, by the library: it says better that it is missing than a parser does.
    exp: Option<serde_json::Number>,
    iss: Option<serde_json::Value>,
    tenant: Option<String>,
    /// Separated by spaces, as in RFC 8693.
    scope: Option<String>,
    connections: Option<Connections>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Connections {
    One(String),
    Many(Vec<String>),
}

impl Connections {
    fn into_patterns(self) -> Vec<String> {
        match self {
            Self::One(pattern) => vec![pattern],
            Self::Many(patterns) => patterns,
        }
    }
}

fn validation(audience: &[String]) -> Validation {
    // The algorithm is set for each token, after it was found among the accepted ones.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_SECS;
    validation.validate_nbf = true;
    if audience.is_empty() {
        validation.validate_aud = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
    } else {
        validation.set_audience(audience);
        validation.set_required_spec_claims(&["exp", "sub", "aud"]);
    }
    validation
}

fn is_symmetric(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

fn bearer_token(authorization: &str) -> Result<&str, Rejected> {
    let (scheme, token) = authorization.split_once(' ').unwrap_or((authorization, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Rejected::Missing);
    }
    match token.trim() {
        "" => Err(Rejected::Missing),
        token => Ok(token),
    }
}

/// `exp` was checked to be a number of seconds; past the calendar's end is the same as never.
fn expires_at(exp: f64) -> DateTime<Utc> {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and the calendar ends long before")]
    DateTime::from_timestamp(exp as i64, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn rejected(kind: &ErrorKind) -> Rejected {
    Rejected::Invalid(match kind {
        ErrorKind::ExpiredSignature => "the token has expired",
        ErrorKind::ImmatureSignature => "the token is not valid yet",
        ErrorKind::InvalidAudience => "the token is for another audience",
        ErrorKind::InvalidSignature => "the token's signature does not match",
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => {
            "the token is signed with an algorithm that is not accepted"
        }
        ErrorKind::MissingRequiredClaim(claim) if claim == "exp" => "the token has no expiry",
        ErrorKind::MissingRequiredClaim(claim) if claim == "sub" => "the token names no subject",
        ErrorKind::MissingRequiredClaim(_) => "the token lacks a claim",
        _ => "the token cannot be read",
    })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "a secret of at least thirty-two bytes";

    fn settings() -> AuthSettings {
        AuthSettings { key: KeySource::Secret(SECRET.into()), algorithms: vec![], issuer: None, audience: vec![] }
    }

    fn in_secs(secs: i64) -> i64 {
        Utc::now().timestamp() + secs
    }

    fn sign(algorithm: Algorithm, claims: &Value) -> String {
        let token = encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
        format!("Bearer {token}")
    }

    async fn check(settings: AuthSettings, header: &str) -> Result<Identity, Rejected> {
        Authenticator::new(settings).unwrap().authenticate(Some(header)).await
    }

    async fn why_not(settings: AuthSettings, claims: &Value) -> &'static str {
        match check(settings, &sign(Algorithm::HS256, claims)).await {
            Err(Rejected::Invalid(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[actix_web::test]
    async fn a_good_token_says_who_asks_and_what_they_may() {
        let claims = json!({
            "sub": "crm", "exp": in_secs(60), "scope": "exports:read exports:write", "connections": ["growth-*"],
        });
        let caller = check(settings(), &sign(Algorithm::HS256, &claims)).await.unwrap().caller;
        assert_eq!((caller.subject.as_str(), caller.tenant.as_str()), ("crm", "crm"));
        assert!(caller.has_scope("exports:write") && !caller.has_scope("exports"));
        assert!(caller.may_use("growth-braze") && !caller.may_use("finance"));
    }

    #[actix_web::test]
    async fn the_tenant_comes_from_the_token_and_no_connections_means_none() {
        let claims = json!({"sub": "crm", "tenant": "growth", "exp": in_secs(60)});
        let caller = check(settings(), &sign(Algorithm::HS256, &claims)).await.unwrap().caller;
        assert_eq!(caller.tenant, "growth");
        assert!(!caller.may_use("growth-braze") && caller.scopes.is_empty());
    }

    #[actix_web::test]
    async fn tokens_that_do_not_do_are_refused_in_safe_words() {
        let why = |claims| async move { why_not(settings(), &claims).await };
        assert_eq!(why(json!({"sub": "a", "exp": in_secs(-61)})).await, "the token has expired");
        assert_eq!(
            why(json!({"sub": "a", "exp": in_secs(60), "nbf": in_secs(120)})).await,
            "the token is not valid yet"
        );
        assert_eq!(why(json!({"sub": " ", "exp": in_secs(60)})).await, "the token names no subject");
        assert_eq!(why(json!({"exp": in_secs(60)})).await, "the token names no subject");
        assert_eq!(why(json!({"sub": "a"})).await, "the token cannot be read");
        assert_eq!(why(json!({"sub": "a\0b", "exp": in_secs(60)})).await, "the token names no subject");
        assert_eq!(why(json!({"sub": "a", "scope": ["x"], "exp": in_secs(60)})).await, "the token cannot be read");
        assert_eq!(
            why(json!({"sub": "a", "exp": in_secs(60), "connections": ["[["]})).await,
            "the token's connections are not valid patterns"
        );
    }

    #[actix_web::test]
    async fn sixty_seconds_of_clock_difference_are_forgiven() {
        for claims in
            [json!({"sub": "a", "exp": in_secs(-50)}), json!({"sub": "a", "exp": in_secs(60), "nbf": in_secs(50)})]
        {
            assert!(check(settings(), &sign(Algorithm::HS256, &claims)).await.is_ok());
        }
    }

    #[actix_web::test]
    async fn issuer_and_audience_are_exact_when_configured() {
        let settings = || AuthSettings {
            issuer: Some("https://id.example".into()),
            audience: vec!["headgate".into()],
            ..settings()
        };
        let claims = |iss: Value, aud: Value| json!({"sub": "a", "exp": in_secs(60), "iss": iss, "aud": aud});
        let good = claims(json!("https://id.example"), json!(["other", "headgate"]));
        assert!(check(settings(), &sign(Algorithm::HS256, &good)).await.is_ok());
        let wrong = claims(json!("https://id.example/"), json!("headgate"));
        assert_eq!(why_not(settings(), &wrong).await, "the token comes from another issuer");
        let list = claims(json!(["https://id.example"]), json!("headgate"));
        assert_eq!(why_not(settings(), &list).await, "the token comes from another issuer");
        let wrong = claims(json!("https://id.example"), json!("headgate2"));
        assert_eq!(why_not(settings(), &wrong).await, "the token is for another audience");
        let wrong = json!({"sub": "a", "exp": in_secs(60), "iss": "https://id.example"});
        assert_eq!(why_not(settings(), &wrong).await, "the token lacks a claim");
    }

    #[actix_web::test]
    async fn the_token_never_chooses_its_algorithm() {
        let claims = json!({"sub": "a", "exp": in_secs(60)});
        let hs512 = check(settings(), &sign(Algorithm::HS512, &claims)).await.unwrap_err();
        assert_eq!(hs512, Rejected::Invalid("the token is signed with an algorithm that is not accepted"));
        // {"alg":"none"}.{"sub":"a","exp":9999999999}.
        let none = "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        assert!(matches!(check(settings(), none).await, Err(Rejected::Invalid(_))));
    }

    #[actix_web::test]
    async fn a_token_signed_with_another_secret_is_refused() {
        let claims = json!({"sub": "a", "exp": in_secs(60)});
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(b"another")).unwrap();
        let refused = check(settings(), &format!("bearer {token}")).await.unwrap_err();
        assert_eq!(refused, Rejected::Invalid("the token's signature does not match"));
    }

    #[actix_web::test]
    async fn other_schemes_and_no_token_count_as_missing() {
        for header in ["Basic YTpi", "Bearer", "Bearer  ", ""] {
            assert_eq!(check(settings(), header).await.unwrap_err(), Rejected::Missing, "{header}");
        }
        assert!(matches!(check(settings(), "Bearer a.b").await, Err(Rejected::Invalid(_))));
    }

    #[test]
    fn a_secret_takes_no_asymmetric_algorithm_and_is_not_empty() {
        let mixed = AuthSettings { algorithms: vec![Algorithm::HS256, Algorithm::RS256], ..settings() };
        assert!(matches!(Authenticator::new(mixed), Err(InvalidAuthSettings::AlgorithmDoesNotFit(Algorithm::RS256))));
        let empty = AuthSettings { key: KeySource::Secret("".into()), ..settings() };
        assert!(matches!(Authenticator::new(empty), Err(InvalidAuthSettings::EmptySecret)));
    }
}
