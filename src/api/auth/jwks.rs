//! The identity provider's keys: fetched when needed, kept, renewed in the background. Keys that worked stay in use
//! while the provider cannot be reached.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

use super::Rejected;

/// Largest key set read, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// A fetch that takes longer has failed.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// When keys are fetched again.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// Keys older than this are renewed in the background when a token comes.
    renew_after: Duration,
    /// Keys older than this are renewed before a token is checked against them.
    stale_after: Duration,
    /// Between fetches because of an unknown key id, or after a failure.
    pause: Duration,
    /// Between fetches while there are no keys at all.
    first_pause: Duration,
}

const TIMING: Timing = Timing {
    renew_after: Duration::from_mins(10),
    stale_after: Duration::from_mins(20),
    pause: Duration::from_mins(1),
    first_pause: Duration::from_secs(2),
};

/// The keys at one address.
pub(super) struct Jwks {
    url: Url,
    client: reqwest::Client,
    timing: Timing,
    keys: RwLock<Arc<KeySet>>,
    /// Held while fetching, so that many tokens cause one fetch.
    fetches: Mutex<Fetches>,
}

#[derive(Default)]
struct Fetches {
    last: Option<Instant>,
    last_for_unknown_key: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Age,
    UnknownKey,
}

#[derive(Default)]
struct KeySet {
    keys: Vec<Key>,
    /// `None` before the first fetch that worked.
    fetched_at: Option<Instant>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

impl Jwks {
    pub(super) fn new(url: Url) -> reqwest::Result<Self> {
        let client =
            reqwest::Client::builder().timeout(FETCH_TIMEOUT).redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { url, client, timing: TIMING, keys: RwLock::default(), fetches: Mutex::default() })
    }

    /// The key that signed a token: the one with its key id, or the only fitting one when the token names none.
    pub(super) async fn key(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, Rejected> {
        let mut set = self.current();
        match set.fetched_at.map(|at| at.elapsed()) {
            Some(age) if age < self.timing.renew_after => {}
            Some(age) if age < self.timing.stale_after => {
                let (this, seen) = (Arc::clone(self), set.fetched_at);
                tokio::spawn(async move { this.fetch_unless_newer_than(seen, Reason::Age).await });
            }
            _ => set = self.fetch_unless_newer_than(set.fetched_at, Reason::Age).await,
        }
        if let Some(key) = set.pick(id, algorithm) {
            return Ok(key);
        }
        if set.fetched_at.is_some() && !set.knows(id) {
            set = self.fetch_unless_newer_than(set.fetched_at, Reason::UnknownKey).await;
        }
        if set.fetched_at.is_none() {
            return Err(Rejected::KeysUnavailable);
        }
        set.pick(id, algorithm).ok_or(Rejected::Invalid("the token is signed with a key that is not known"))
    }

    fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Fetches the keys unless somebody has done so since `seen`, or a fetch was tried too recently.
    async fn fetch_unless_newer_than(&self, seen: Option<Instant>, reason: Reason) -> Arc<KeySet> {
        let mut fetches = self.fetches.lock().await;
        let current = self.current();
        if current.fetched_at != seen {
            return current;
        }
        let (last, pause) = match reason {
            Reason::Age if seen.is_none() => (fetches.last, self.timing.first_pause),
            Reason::Age => (fetches.last, self.timing.pause),
            Reason::UnknownKey => (fetches.last_for_unknown_key, self.timing.pause),
        };
        if last.is_some_and(|last| last.elapsed() < pause) {
            return current;
        }
        let now = Instant::now();
        fetches.last = Some(now);
        if reason == Reason::UnknownKey {
            fetches.last_for_unknown_key = Some(now);
        }
        match self.fetch().await {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "token keys fetched");
                let set = Arc::new(KeySet { keys, fetched_at: Some(now) });
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&set);
                set
            }
            Err(error) => {
                tracing::warn!(%error, kept = current.keys.len(), "token keys could not be fetched");
                current
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, FetchError> {
        let answer = self.client.get(self.url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        if !answer.status().is_success() {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let mut body = Vec::new();
        let mut chunks = answer.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(reqwest::Error::without_url)?);
            if body.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
        }
        let set: Value = serde_json::from_slice(&body)?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(FetchError::NoKeys)?;
        // A key of a kind we don't know is no reason to lose the others.
        Ok(keys.iter().filter_map(Key::read).collect())
    }
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("the call failed: {0}")]
    Call(#[from] reqwest::Error),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer is too large")]
    TooLarge,
    #[error("the answer is not JSON")]
    NotJson(#[from] serde_json::Error),
    #[error("the answer has no `keys`")]
    NoKeys,
}

impl KeySet {
    fn pick(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id));
        let first = fitting.next()?;
        fitting.next().is_none().then(|| first.decoding.clone())
    }

    fn knows(&self, id: Option<&str>) -> bool {
        id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id)
    }
}

impl Key {
    /// `None` for a key that signs no tokens, or is of an unknown kind.
    fn read(value: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let for_signatures = jwk.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
            && jwk.common.key_operations.as_ref().is_none_or(|list| list.contains(&KeyOperations::Verify));
        let mut algorithms = algorithms_of(&jwk.algorithm);
        if let Some(only) = value.get("alg").and_then(Value::as_str) {
            algorithms.retain(|algorithm| only.parse() == Ok(*algorithm));
        }
        if !for_signatures || algorithms.is_empty() {
            return None;
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithms, decoding })
    }
}

/// Never a symmetric one: a published key must not verify HMACs.
fn algorithms_of(parameters: &AlgorithmParameters) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match parameters {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![EdDSA],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex as StdMutex,
        atomic::{AtomicUsize, Ordering},
    };

    use actix_web::{App, HttpResponse, HttpServer, web};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::{super::*, *};

    struct Provider {
        keys: StdMutex<Option<Value>>,
        fetches: AtomicUsize,
    }

    fn provider() -> (web::Data<Provider>, Url) {
        let provider = web::Data::new(Provider { keys: StdMutex::default(), fetches: AtomicUsize::new(0) });
        let data = provider.clone();
        let server = HttpServer::new(move || {
            App::new().app_data(data.clone()).default_service(web::to(async |provider: web::Data<Provider>| {
                provider.fetches.fetch_add(1, Ordering::SeqCst);
                match provider.keys.lock().unwrap().clone() {
                    Some(keys) => HttpResponse::Ok().json(keys),
                    None => HttpResponse::ServiceUnavailable().finish(),
                }
            }))
        })
        .workers(1)
        .disable_signals()
        .bind("127.0.0.1:0")
        .unwrap();
        let url = format!("http://{}/keys", server.addrs()[0]).parse().unwrap();
        actix_web::rt::spawn(server.run());
        (provider, url)
    }

    struct Signer(Vec<u8>, Value);

    impl Signer {
        fn new(id: &str) -> Self {
            let document = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
            let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
            let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id, "use": "sig", "alg": "EdDSA"});
            Self(document.as_ref().to_vec(), jwk)
        }

        fn token(&self, id: Option<&str>) -> String {
            let header = Header { kid: id.map(Into::into), ..Header::new(Algorithm::EdDSA) };
            let claims = json!({"sub": "crm", "exp": Utc::now().timestamp() + 60});
            format!("Bearer {}", encode(&header, &claims, &EncodingKey::from_ed_der(&self.0)).unwrap())
        }
    }

    fn authenticator(url: Url, timing: Timing) -> Authenticator {
        let settings = AuthSettings {
            key: KeySource::Jwks { url: url.clone() },
            algorithms: vec![],
            issuer: None,
            audience: vec![],
        };
        let jwks = Jwks { timing, ..Jwks::new(url).unwrap() };
        Authenticator { keys: Keys::Jwks(Arc::new(jwks)), ..Authenticator::new(settings).unwrap() }
    }

    #[actix_web::test]
    async fn a_new_key_is_found_without_a_restart_and_unknown_ids_cause_one_fetch_a_minute() {
        let (provider, url) = provider();
        let (old, new) = (Signer::new("old"), Signer::new("new"));
        let authenticator = authenticator(url, TIMING);
        *provider.keys.lock().unwrap() = Some(json!({"keys": [old.1, {"kty": "alien"}]}));
        let check = async |token: String| authenticator.authenticate(Some(&token)).await;
        assert!(check(old.token(Some("old"))).await.is_ok());
        assert!(check(old.token(None)).await.is_ok());
        *provider.keys.lock().unwrap() = Some(json!({"keys": [new.1, old.1]}));
        assert!(check(new.token(Some("new"))).await.is_ok());
        assert!(check(old.token(Some("old"))).await.is_ok());
        for _ in 0..3 {
            assert!(matches!(check(new.token(Some("who"))).await, Err(Rejected::Invalid(_))));
        }
        assert!(matches!(check(new.token(None)).await, Err(Rejected::Invalid(_))), "two keys fit");
        assert_eq!(provider.fetches.load(Ordering::SeqCst), 2);
    }

    #[actix_web::test]
    async fn keys_that_worked_stay_in_use_while_the_provider_is_down() {
        let (provider, url) = provider();
        let signer = Signer::new("a");
        let always_stale = Timing {
            renew_after: Duration::ZERO,
            stale_after: Duration::ZERO,
            pause: Duration::ZERO,
            first_pause: Duration::ZERO,
        };
        let authenticator = authenticator(url, always_stale);
        let token = signer.token(Some("a"));
        assert_eq!(authenticator.authenticate(Some(&token)).await.unwrap_err(), Rejected::KeysUnavailable);
        *provider.keys.lock().unwrap() = Some(json!({"keys": [signer.1]}));
        assert!(authenticator.authenticate(Some(&token)).await.is_ok());
        *provider.keys.lock().unwrap() = None;
        assert!(authenticator.authenticate(Some(&token)).await.is_ok());
        assert_eq!(provider.fetches.load(Ordering::SeqCst), 3);
    }

    #[actix_web::test]
    async fn many_tokens_at_once_cause_one_fetch() {
        let (provider, url) = provider();
        let signer = Signer::new("a");
        *provider.keys.lock().unwrap() = Some(json!({"keys": [signer.1]}));
        let authenticator = authenticator(url, TIMING);
        let token = signer.token(Some("a"));
        let checks = (0..20).map(|_| authenticator.authenticate(Some(&token)));
        assert!(futures_util::future::join_all(checks).await.iter().all(Result::is_ok));
        assert_eq!(provider.fetches.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn keys_for_encryption_and_shared_secrets_are_left_out() {
        let signer = Signer::new("a");
        assert!(Key::read(&signer.1).is_some());
        let mut encrypts = signer.1.clone();
        encrypts["use"] = "enc".into();
        assert!(Key::read(&encrypts).is_none());
        let mut other = signer.1.clone();
        other["alg"] = "ES256".into();
        assert!(Key::read(&other).is_none());
        assert!(Key::read(&json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"})).is_none());
    }
}
