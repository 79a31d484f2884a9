//! Which tokens are let in: a shared secret, and the key set of an identity provider.

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::Utc;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::support::{Answer, JWT_SECRET, Setup, TestGateway};

/// A quiet place that any good token may read.
const PATH: &str = "/v1/connections";

fn in_secs(secs: i64) -> i64 {
    Utc::now().timestamp() + secs
}

fn claims() -> Value {
    json!({"sub": "crm", "scope": "exports:read", "exp": in_secs(60)})
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn hs256(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(JWT_SECRET.as_bytes())).unwrap()
}

/// A token whose three parts are as given, whatever the header says.
fn crafted(header: &Value, claims: &Value, sign: impl FnOnce(&str) -> Vec<u8>) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(sign(&signed));
    format!("{signed}.{signature}")
}

fn hmac_with(key: &[u8]) -> impl FnOnce(&str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    move |text| hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

async fn status(gateway: &TestGateway, token: &str) -> StatusCode {
    gateway.ask(token, Method::GET, PATH).await.status
}

#[track_caller]
fn refused(answer: &Answer) -> String {
    let problem = answer.problem(401, "unauthenticated");
    assert!(answer.header("www-authenticate").starts_with("Bearer realm=\"headgate\""), "{answer:?}");
    problem["detail"].as_str().unwrap().to_owned()
}

async fn refuse_all(gateway: &TestGateway, tokens: Vec<(String, &str)>) {
    for (token, why) in tokens {
        let detail = refused(&gateway.ask(&token, Method::GET, PATH).await);
        assert!(detail.contains(why), "expected `{why}`, got `{detail}`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_good_token_is_let_in() {
    let gateway = Setup::default().without_worker().start().await;
    assert_eq!(status(&gateway, &hs256(&claims())).await, StatusCode::OK);
    assert_eq!(status(&gateway, &hs256(&with("exp", in_secs(-30)))).await, StatusCode::OK, "clocks may differ");
    let mut endless = claims();
    endless.as_object_mut().unwrap().remove("exp");
    let other_key = EncodingKey::from_secret(b"another-secret-of-at-least-32-bytes");
    let hs384 = encode(&Header::new(Algorithm::HS384), &claims(), &EncodingKey::from_secret(JWT_SECRET.as_bytes()));
    let unsigned = |name: &str| crafted(&json!({"typ": "JWT", "alg": name}), &claims(), |_| Vec::new());
    let (head, rest) = hs256(&claims()).split_once('.').map(|(head, rest)| (head.to_owned(), rest.to_owned())).unwrap();
    let forged = BASE64_URL_SAFE_NO_PAD.encode(with("scope", "connections:admin").to_string());
    let swapped = format!("{head}.{forged}.{}", rest.split_once('.').unwrap().1);
    refuse_all(
        &gateway,
        vec![
            ("garbage".into(), "cannot be read"),
            ("a.b.c".into(), "cannot be read"),
            (hs256(&with("exp", in_secs(-120))), "expired"),
            (hs256(&with("exp", "soon")), ""),
            (hs256(&endless), "no expiry"),
            (hs256(&with("nbf", in_secs(120))), "not valid yet"),
            (hs256(&with("sub", "")), "no subject"),
            (hs256(&with("sub", Value::Null)), ""),
            (hs256(&with("tenant", "a\u{1}b")), "tenant"),
            (hs256(&with("connections", "[")), "patterns"),
            (encode(&Header::default(), &claims(), &other_key).unwrap(), "signature"),
            (swapped, "signature"),
            (unsigned("none"), ""),
            (unsigned("HS256"), "signature"),
            (hs384.unwrap(), "algorithm"),
            (crafted(&json!({"alg": "RS256"}), &claims(), hmac_with(JWT_SECRET.as_bytes())), "algorithm"),
            (crafted(&json!({"alg": "EdDSA"}), &claims(), hmac_with(JWT_SECRET.as_bytes())), "algorithm"),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_in_one_authorization_header() {
    let gateway = Setup::default().without_worker().start().await;
    let token = hs256(&claims());
    let ask = || gateway.anonymous(Method::GET, PATH);
    refused(&Answer::of(ask()).await);
    refused(&Answer::of(ask().header("authorization", "Bearer")).await);
    refused(&Answer::of(ask().header("authorization", format!("Basic {token}"))).await);
    refused(&Answer::of(ask().header("authorization", &token)).await);
    refused(&Answer::of(ask().bearer_auth(&token).bearer_auth(&token)).await);
    refused(&Answer::of(gateway.anonymous(Method::GET, &format!("{PATH}?access_token={token}"))).await);
    let lower = Answer::of(ask().header("authorization", format!("bearer {token}"))).await;
    assert_eq!(lower.status, StatusCode::OK, "the scheme's case does not matter");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_before_their_body_is_read() {
    let gateway = Setup::default().without_worker().start().await;
    let request = gateway.anonymous(Method::POST, "/v1/exports").header("content-type", "text/plain").body("{");
    refused(&Answer::of(request).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_and_audience_must_be_the_configured_ones() {
    let change = |flags: &mut headgate::config::Flags| {
        flags.jwt_issuer = Some("https://id.example".into());
        flags.jwt_audience = Some("headgate".into());
    };
    let gateway = Setup::default().without_worker().flags(change).start().await;
    let token = |issuer: Value, audience: Value| {
        let mut claims = with("iss", issuer);
        claims["aud"] = audience;
        hs256(&claims)
    };
    let issuer = || json!("https://id.example");
    assert_eq!(status(&gateway, &gateway.token()).await, StatusCode::OK);
    assert_eq!(status(&gateway, &token(issuer(), json!("headgate"))).await, StatusCode::OK);
    assert_eq!(status(&gateway, &token(issuer(), json!(["x", "headgate"]))).await, StatusCode::OK);
    refuse_all(
        &gateway,
        vec![
            (token(json!("https://id.example.evil"), json!("headgate")), "issuer"),
            (token(json!(["https://id.example"]), json!("headgate")), "issuer"),
            (token(Value::Null, json!("headgate")), "issuer"),
            (token(issuer(), json!("other")), "audience"),
            (token(issuer(), Value::Null), ""),
            (hs256(&claims()), ""),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_is_the_subject_unless_the_token_names_one() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let mut claims = with("scope", "exports:read exports:write");
    claims["connections"] = json!("*");
    let request = gateway.anonymous(Method::POST, "/v1/exports").bearer_auth(hs256(&claims)).json(&body);
    let export = Answer::of(request).await.json();
    let path = format!("/v1/exports/{}", export["id"].as_str().unwrap());
    claims["sub"] = json!("colleague");
    gateway.ask(&hs256(&claims), Method::GET, &path).await.problem(404, "not_found");
    claims["tenant"] = json!("crm");
    assert_eq!(gateway.ask(&hs256(&claims), Method::GET, &path).await.status, StatusCode::OK);
}

/// Signs tokens with one key.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    jwk: Value,
    sign: Box<dyn Fn(&[u8]) -> Vec<u8>>,
}

impl Signer {
    fn rs256(id: &'static str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        // RSAPublicKey of RFC 8017 in DER: nine bytes, the modulus, and an exponent of 65537.
        let public = pair.public_key().as_ref();
        assert_eq!(public[265..], [2, 3, 1, 0, 1]);
        let n = BASE64_URL_SAFE_NO_PAD.encode(&public[9..265]);
        let jwk = json!({"kty": "RSA", "n": n, "e": "AQAB", "kid": id, "use": "sig", "alg": "RS256"});
        let sign = move |text: &[u8]| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).unwrap();
            signature
        };
        Self { id, algorithm: Algorithm::RS256, jwk, sign: Box::new(sign) }
    }

    fn es256(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        // Uncompressed: 4, x, y.
        let point = pair.public_key().as_ref().to_vec();
        let part = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({"kty": "EC", "crv": "P-256", "x": part(&point[1..33]), "y": part(&point[33..]), "kid": id});
        let sign = move |text: &[u8]| pair.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec();
        Self { id, algorithm: Algorithm::ES256, jwk, sign: Box::new(sign) }
    }

    fn eddsa(id: &'static str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": id, "use": "sig"});
        let sign = move |text: &[u8]| pair.sign(text).as_ref().to_vec();
        Self { id, algorithm: Algorithm::EdDSA, jwk, sign: Box::new(sign) }
    }

    fn token(&self) -> String {
        self.token_saying(&json!({"alg": self.algorithm, "kid": self.id}))
    }

    fn token_saying(&self, header: &Value) -> String {
        crafted(header, &claims(), |text| (self.sign)(text.as_bytes()))
    }
}

/// An identity provider: publishes keys and counts who asks.
struct Provider {
    url: Url,
    published: Arc<Published>,
    server: ServerHandle,
}

struct Published {
    keys: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
}

impl Provider {
    fn start(signers: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/keys", listener.local_addr().unwrap())).unwrap();
        let published = Arc::new(Published { keys: Mutex::default(), fetches: AtomicUsize::new(0) });
        let data = web::Data::from(Arc::clone(&published));
        let answer = async |published: web::Data<Published>| {
            published.fetches.fetch_add(1, Ordering::SeqCst);
            HttpResponse::Ok().json(json!({"keys": *published.keys.lock().unwrap()}))
        };
        let server = HttpServer::new(move || App::new().app_data(data.clone()).route("/keys", web::get().to(answer)))
            .workers(1)
            .disable_signals()
            .listen(listener)
            .unwrap()
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        let provider = Self { url, published, server: handle };
        provider.publish(signers);
        provider
    }

    fn publish(&self, signers: &[&Signer]) {
        *self.published.keys.lock().unwrap() = signers.iter().map(|signer| signer.jwk.clone()).collect();
    }

    fn fetches(&self) -> usize {
        self.published.fetches.load(Ordering::SeqCst)
    }

    async fn gateway(&self) -> TestGateway {
        let url = self.url.to_string();
        Setup::default().without_worker().flags(|flags| flags.jwks_url = Some(url)).start().await
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_each_kind_of_published_key_are_let_in() {
    let signers = [Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("o")];
    let provider = Provider::start(&signers.each_ref());
    let gateway = provider.gateway().await;
    for signer in &signers {
        assert_eq!(status(&gateway, &signer.token()).await, StatusCode::OK, "{:?}", signer.algorithm);
        let nameless = signer.token_saying(&json!({"alg": signer.algorithm}));
        assert_eq!(status(&gateway, &nameless).await, StatusCode::OK, "the only key that fits");
    }
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_key_is_no_shared_secret() {
    let signer = Signer::rs256("r");
    let provider = Provider::start(&[&signer]);
    let gateway = provider.gateway().await;
    let modulus = BASE64_URL_SAFE_NO_PAD.decode(signer.jwk["n"].as_str().unwrap()).unwrap();
    let header = |algorithm: &str| json!({"alg": algorithm, "kid": "r"});
    refuse_all(
        &gateway,
        vec![
            (crafted(&header("HS256"), &claims(), hmac_with(&modulus)), "algorithm"),
            (crafted(&header("HS256"), &claims(), hmac_with(signer.jwk.to_string().as_bytes())), "algorithm"),
            (hs256(&claims()), "algorithm"),
            (crafted(&header("none"), &claims(), |_| Vec::new()), ""),
            (signer.token_saying(&header("ES256")), "not known"),
            (signer.token_saying(&header("PS256")), "algorithm"),
            (crafted(&header("RS256"), &claims(), |_| vec![0; 256]), "signature"),
        ],
    )
    .await;
    assert_eq!(status(&gateway, &signer.token()).await, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_roll_over_without_a_restart_and_unknown_ones_cause_one_fetch_a_minute() {
    let (old, new) = (Signer::eddsa("old"), Signer::es256("new"));
    let provider = Provider::start(&[&old]);
    let gateway = provider.gateway().await;
    assert_eq!(status(&gateway, &old.token()).await, StatusCode::OK);
    provider.publish(&[&new]);
    assert_eq!(status(&gateway, &new.token()).await, StatusCode::OK, "the new key is looked for at once");
    assert_eq!(provider.fetches(), 2);
    assert!(refused(&gateway.ask(&old.token(), Method::GET, PATH).await).contains("not known"));
    let unknown = Signer::eddsa("unknown");
    for _ in 0..10 {
        assert_eq!(status(&gateway, &unknown.token()).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(provider.fetches(), 2, "strangers do not make us ask the provider again");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_no_key_can_be_had_nobody_is_judged() {
    let signer = Signer::eddsa("a");
    let provider = Provider::start(&[&signer]);
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nowhere}/keys");
    let gateway = Setup::default().without_worker().flags(|flags| flags.jwks_url = Some(url)).start().await;
    let answer = gateway.ask(&signer.token(), Method::GET, PATH).await;
    answer.problem(503, "service_unavailable");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    assert_eq!(status(&gateway, &hs256(&claims())).await, StatusCode::UNAUTHORIZED, "bad whatever the keys are");
    assert_eq!(provider.fetches(), 0);
}
