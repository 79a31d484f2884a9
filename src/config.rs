//! Settings: each one is a flag, an environment variable and a key of a TOML file, in this order of precedence, with
//! a default below them. `--poll-min-ms`, `HEADGATE_POLL_MIN_MS` and `poll_min_ms = …` are the same setting.
//!
//! The file is the one named by `--config` or `HEADGATE_CONFIG`, else `headgate.toml` in the working directory if
//! there is one. An unknown name or an impossible pair stops the start. Where values come from is in [`sources`],
//! the secrets made on first start in [`keys`]; start at [`Settings::load`].

pub mod keys;
pub mod sources;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use jsonwebtoken::Algorithm;
use secrecy::{ExposeSecret as _, SecretString};
use tracing_subscriber::EnvFilter;
use url::Url;

pub use self::sources::{Effective, Flags};
use self::sources::{Given, Layers};
use crate::{egress::EgressPolicy, exports::request::parse_duration, vault};

/// The embedded Postgres has 100 places; a few stay free for its owner and for `psql`.
const MAX_EMBEDDED_CONNECTIONS: u32 = 90;
/// A shorter HS256 secret can be guessed offline from any token. Source: RFC 7518, section 3.2.
const MIN_SECRET_LEN: usize = 32;

/// Why the settings cannot be used: one line that names the setting and where it came from.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Error(pub(crate) String);

/// All settings, checked.
pub struct Settings {
    /// Address of the API.
    pub listen: SocketAddr,
    /// What callers and vendors reach, if the operator said it; see [`Settings::public_url`].
    pub public_url: Option<Url>,
    /// Embedded database, generated keys, local files. Absolute.
    pub data_dir: PathBuf,
    /// `None`: the private Postgres under `data_dir`.
    pub database_url: Option<SecretString>,
    pub database_max_connections: u32,
    /// Folder with the `postgres` and `initdb` to use for the private Postgres.
    pub pg_bin: Option<PathBuf>,
    /// `file:`, `s3:`, `gs:` or `az:`.
    pub storage_url: Url,
    /// What checks tokens, if configured; see [`Settings::token_key`] for the one in force.
    token_key: Option<TokenKey>,
    /// Checked master keys in base64, if configured; see [`Settings::master_keys`].
    master_key: Option<SecretString>,
    pub jwt_issuer: Option<String>,
    pub jwt_audience: Option<String>,
    pub jwt_algorithms: Vec<Algorithm>,
    /// Which addresses may be called.
    pub egress: EgressPolicy,
    /// Spacing of polls of one export: the first, and the widest.
    pub poll_min: Duration,
    pub poll_max: Duration,
    /// How long a claim holds without a heartbeat.
    pub lease: Duration,
    /// A transfer that brings nothing for so long is broken off and tried again.
    pub transfer_stall: Duration,
    /// Steps at once in one process.
    pub worker_concurrency: usize,
    /// Exports of one tenant, and over one connection, that run at once; further ones wait.
    pub tenant_concurrency: u32,
    pub connection_concurrency: u32,
    /// How long results are kept.
    pub result_ttl: Duration,
    /// A result is cut into files of about this many bytes.
    pub result_file_bytes: u64,
    /// How long work in hand may take after a request to stop.
    pub shutdown_grace: Duration,
    /// A filter in `tracing-subscriber`'s syntax; parses.
    pub log: String,
    /// `None`: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// Base URL of an OTLP collector that takes HTTP with protobuf.
    pub otlp_endpoint: Option<Url>,
    /// What is allowed but unwise; to be logged once at the start.
    pub warnings: Vec<String>,
    effective: Vec<Effective>,
}

/// What tokens are checked with.
#[derive(Debug, Clone)]
pub enum TokenKey {
    /// HS256: the text's bytes are the key.
    Secret(SecretString),
    /// RS256, ES256 or EdDSA, with the key set found there.
    Jwks(Url),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

impl FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(()),
        }
    }
}

impl Settings {
    /// Reads flags, this process's environment and the settings file.
    ///
    /// # Errors
    /// One line that names the setting to blame. A database of the operator's own needs their own keys too.
    pub fn load(flags: &Flags) -> Result<Self, Error> {
        let settings = Self::load_without_keys(flags)?;
        settings.require_keys()?;
        Ok(settings)
    }

    /// As [`Settings::load`], for commands that neither open credentials nor check tokens.
    ///
    /// # Errors
    /// As [`Settings::load`], except for keys that are missing.
    pub fn load_without_keys(flags: &Flags) -> Result<Self, Error> {
        Self::resolve(flags, &sources::environment()?, Path::new("headgate.toml"))
    }

    /// The pure part of loading: `env` holds the variables, `default_file` is read if it is there.
    ///
    /// # Errors
    /// As [`Settings::load_without_keys`].
    pub fn resolve(flags: &Flags, env: &BTreeMap<String, String>, default_file: &Path) -> Result<Self, Error> {
        let mut from = Layers::read(flags, env, default_file)?;
        let mut warnings = Vec::new();

        let listen = from.parse("listen", "127.0.0.1:8080", parse_listen)?;
        let public_url = from.parse_optional("public_url", |text| base_url(text, &["http", "https"]))?;
        let data_dir = match from.parse_optional("data_dir", |text| absolute(Path::new(text)))? {
            Some(dir) => dir,
            None => default_data_dir(env, rustix::process::geteuid().is_root())?,
        };
        from.note_default("data_dir", data_dir.display());

        let database_url = from.secret("database_url")?;
        if let Some(given) = &database_url {
            given.check(|text| {
                let url = Url::parse(text).map_err(|_| "is not a URL".to_owned())?;
                one_of(url.scheme(), &["postgres", "postgresql"])
            })?;
        }
        let most = if database_url.is_some() { 10_000 } else { MAX_EMBEDDED_CONNECTIONS };
        let database_max_connections = from.parse("database_max_connections", "16", |text| within(text, 2, most))?;
        let pg_bin = from.parse_optional("pg_bin", |text| absolute(Path::new(text)))?;
        let files = Url::from_file_path(data_dir.join("files"))
            .map_err(|()| Error("HEADGATE_DATA_DIR is not an absolute path".into()))?;
        let storage_url =
            from.parse("storage_url", files.as_str(), |text| base_url(text, &["file", "s3", "gs", "az"]))?;

        let master_key = from.secret("master_key")?;
        if let Some(given) = &master_key {
            given.check(|text| vault::parse_master_keys(text).map(drop).map_err(|error| error.to_string()))?;
        }
        let (token_key, jwt_algorithms) = token_settings(&mut from, &mut warnings)?;
        let jwt_issuer = from.optional("jwt_issuer")?;
        let jwt_audience = from.optional("jwt_audience")?;
        let allowed = |text: &str| EgressPolicy::parse(text).map_err(|error| error.to_string());
        let egress = from.parse("egress_allow", "", allowed)?;

        let poll_min = from.parse("poll_min_ms", "2000", |text| within(text, 1, 3_600_000))?;
        let poll_max = from.parse("poll_max_ms", "60000", |text| within(text, 1, 3_600_000))?;
        if poll_min > poll_max {
            return Err(Error(format!(
                "HEADGATE_POLL_MIN_MS ({poll_min}) must not be more than HEADGATE_POLL_MAX_MS ({poll_max})"
            )));
        }
        let lease = from.parse("lease_secs", "30", |text| within(text, 3, 3600))?;
        let transfer_stall = from.parse("transfer_stall_secs", "60", |text| within(text, 1, 3600))?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let worker_concurrency =
            from.parse("worker_concurrency", &(2 * cores).to_string(), |text| within(text, 1, 1000))?;
        let tenant_concurrency = from.parse("tenant_concurrency", "200", |text| within(text, 1, 1_000_000))?;
        let connection_concurrency = from.parse("connection_concurrency", "200", |text| within(text, 1, 1_000_000))?;
        let result_ttl = from.parse("result_ttl", "P7D", |text| match parse_duration(text) {
            Some(ttl) if !ttl.is_zero() && ttl <= Duration::from_hours(10 * 365 * 24) => Ok(ttl),
            _ => Err("must be an ISO 8601 duration such as P7D or PT12H, above zero and at most ten years".into()),
        })?;
        let result_file_mib = from.parse("result_file_mib", "256", |text| within(text, 1, 65_536))?;
        let shutdown_grace = from.parse("shutdown_grace_secs", "30", |text| within(text, 0, 3600))?;

        let log = from.parse("log", "info", |text| match EnvFilter::try_new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(format!("is not a log filter such as `info` or `info,headgate=debug`: {error}")),
        })?;
        let log_format =
            from.parse_optional("log_format", |text| text.parse().map_err(|()| "must be `json` or `text`".to_owned()))?;
        let otlp_endpoint = from.parse_optional("otlp_endpoint", |text| base_url(text, &["http", "https"]))?;

        Ok(Self {
            listen,
            public_url,
            data_dir,
            database_url: database_url.map(|given| given.secret),
            database_max_connections,
            pg_bin,
            storage_url,
            token_key,
            master_key: master_key.map(|given| given.secret),
            jwt_issuer,
            jwt_audience,
            jwt_algorithms,
            egress,
            poll_min: Duration::from_millis(poll_min),
            poll_max: Duration::from_millis(poll_max),
            lease: Duration::from_secs(lease),
            transfer_stall: Duration::from_secs(transfer_stall),
            worker_concurrency,
            tenant_concurrency,
            connection_concurrency,
            result_ttl,
            result_file_bytes: result_file_mib * 1024 * 1024,
            shutdown_grace: Duration::from_secs(shutdown_grace),
            log,
            log_format,
            otlp_endpoint,
            warnings,
            effective: from.into_effective(),
        })
    }

    /// What callers and vendors reach: as configured, else `http://<listen>`, on the loopback address where the
    /// gateway listens on all.
    pub fn public_url(&self) -> Url {
        self.public_url.clone().unwrap_or_else(|| local_url(self.listen))
    }

    /// Every setting with its value, or `[hidden]` or `[not set]`, and where it came from.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }
}

/// `http://` and an address that reaches a server listening on `listen` from this machine.
pub fn local_url(listen: SocketAddr) -> Url {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    #[expect(clippy::expect_used, reason = "every socket address makes a URL")]
    Url::parse(&format!("http://{}", SocketAddr::new(ip, listen.port()))).expect("a URL")
}

fn token_settings(from: &mut Layers, warnings: &mut Vec<String>) -> Result<(Option<TokenKey>, Vec<Algorithm>), Error> {
    use Algorithm::{ES256, EdDSA, HS256, RS256};

    let secret = from.secret("jwt_secret")?;
    let jwks_url = from.parse_optional("jwks_url", |text| plain_url(text, &["http", "https"]))?;
    if let (Some(secret), Some(_)) = (&secret, &jwks_url) {
        return Err(Error(format!(
            "{} and HEADGATE_JWKS_URL exclude each other: tokens are checked with one or the other",
            secret.name()
        )));
    }
    if let Some(secret) = &secret
        && secret.secret.expose_secret().len() < MIN_SECRET_LEN
    {
        warnings.push(format!("{} is shorter than {MIN_SECRET_LEN} bytes and can be guessed", secret.name()));
    }
    if let Some(url) = &jwks_url
        && url.scheme() != "https"
    {
        warnings.push("HEADGATE_JWKS_URL is not https: whoever is on the way can make tokens".into());
    }
    let (known, default, kind): (&[Algorithm], _, _) = match &jwks_url {
        None => (&[HS256], "HS256", "a secret"),
        Some(_) => (&[RS256, ES256, EdDSA], "RS256,ES256,EdDSA", "HEADGATE_JWKS_URL"),
    };
    let algorithms = from.parse("jwt_algorithms", default, |text| {
        text.split(',')
            .map(|name| {
                Algorithm::from_str(name.trim())
                    .ok()
                    .filter(|algorithm| known.contains(algorithm))
                    .ok_or_else(|| format!("`{}` does not go with {kind}; use {default}", name.trim()))
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    let key = secret.map(|given| TokenKey::Secret(given.secret)).or(jwks_url.map(TokenKey::Jwks));
    Ok((key, algorithms))
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let found: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|_| "must be an address and a port, such as 127.0.0.1:8080 or localhost:8080".to_owned())?
        .collect();
    let v4 = found.iter().find(|address| address.is_ipv4());
    v4.or(found.first()).copied().ok_or_else(|| "names a host without an address".to_owned())
}

/// A URL that others are built on: no query.
fn base_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let url = plain_url(text, schemes)?;
    if url.query().is_some() { Err("must not have a query".into()) } else { Ok(url) }
}

/// A URL without credentials, which would be shown wherever it is.
fn plain_url(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    one_of(url.scheme(), schemes)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry credentials".into());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment".into());
    }
    if url.scheme() != "file" && url.host_str().unwrap_or_default().is_empty() {
        return Err("names no host or bucket".into());
    }
    Ok(url)
}

fn one_of(scheme: &str, schemes: &[&str]) -> Result<(), String> {
    if schemes.contains(&scheme) { Ok(()) } else { Err(format!("must start with {}://", schemes.join(":// or "))) }
}

fn within<N: FromStr + PartialOrd + Display + Copy>(text: &str, least: N, most: N) -> Result<N, String> {
    match text.trim().parse() {
        Ok(number) if least <= number && number <= most => Ok(number),
        _ => Err(format!("must be a whole number from {least} to {most}")),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| error.to_string())
}

fn default_data_dir(env: &BTreeMap<String, String>, root: bool) -> Result<PathBuf, Error> {
    let set = |name: &str| env.get(name).filter(|value| Path::new(value).is_absolute()).map(PathBuf::from);
    match (set("XDG_DATA_HOME"), set("HOME")) {
        (Some(data_home), _) => Ok(data_home.join("headgate")),
        (None, _) if root => Ok("/var/lib/headgate".into()),
        (None, Some(home)) => Ok(home.join(".local/share/headgate")),
        (None, None) => Err(Error("HEADGATE_DATA_DIR is not set, and neither is HOME to choose a default".into())),
    }
}

impl Given {
    fn check(&self, check: impl FnOnce(&str) -> Result<(), String>) -> Result<(), Error> {
        check(self.secret.expose_secret()).map_err(|reason| self.error(&reason))
    }
}
