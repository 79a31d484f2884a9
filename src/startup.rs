//! The only place that builds things: settings in, a running gateway out. Commands and tests start it from here.

use std::{net::SocketAddr, os::unix::fs::DirBuilderExt as _, sync::Arc, time::Duration};

use actix_web::{HttpServer, dev::ServerHandle};
use anyhow::Context;
use secrecy::ExposeSecret;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use crate::{
    api::{
        self, Api,
        auth::{AuthSettings, Authenticator, KeySource},
    },
    config::{Settings, TokenKey},
    embedded::Embedded,
    exports::retry::Spacing,
    operations::{Gateway, OwnGround, connections, destinations, webhooks},
    results::{Limits, storage::Storage},
    store::{self, hub::Hub, reads::Reads},
    vault::Vault,
    vendors::http::Http,
    worker::{Worker, WorkerSettings},
};

/// What one process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub api: bool,
    pub worker: bool,
}

/// A running gateway. Dropping it without [`Running::stop`] ends it rudely.
pub struct Running {
    /// Where the API listens, when it does.
    pub address: Option<SocketAddr>,
    pub gateway: Gateway,
    server: Option<Server>,
    worker: Option<JoinHandle<()>>,
    stopping: CancellationToken,
    listener: JoinHandle<()>,
    grace: Duration,
    // Last: everything above uses the database.
    embedded: Option<Embedded>,
}

/// A database to work on: the configured one, or the private one. The second part keeps the private one running.
pub async fn database(settings: &Settings) -> anyhow::Result<(PgPool, Option<Embedded>)> {
    let (url, embedded) = if let Some(url) = &settings.database_url {
        (url.expose_secret().to_owned(), None)
    } else {
        let (data_dir, pg_bin) = (settings.data_dir.clone(), settings.pg_bin.clone());
        let embedded = tokio::task::spawn_blocking(move || Embedded::start(&data_dir, pg_bin.as_deref())).await??;
        (embedded.url().to_owned(), Some(embedded))
    };
    let pool = PgPoolOptions::new()
        .max_connections(settings.database_max_connections)
        .acquire_timeout(Duration::from_secs(10))
        .connect(&url)
        .await
        .context("the database cannot be reached")?;
    Ok((pool, embedded))
}

/// Builds everything and starts it. The API answers when this returns.
pub async fn start(settings: &Settings, roles: Roles) -> anyhow::Result<Running> {
    let vault = Vault::new(settings.master_keys()?)?;
    let http = Http::new(settings.egress.clone())?;
    let storage = Storage::open(&settings.storage_url)?;
    let (db, embedded) = database(settings).await?;
    store::migrate(&db).await.context("the database's schema cannot be brought up to date")?;
    let hub = Hub::default();
    let listener = tokio::spawn(hub.clone().listen(db.clone()));
    let ground = OwnGround { data_dir: settings.data_dir.clone(), storage_url: settings.storage_url.clone() };
    let (reads, ground, result_ttl) = (Reads::begin(db.clone()), Arc::new(ground), settings.result_ttl);
    let gateway = Gateway { db, reads, vault, http, storage, hub, ground, result_ttl };
    connections::reseal_data_keys(&gateway).await.context("the connections' keys cannot be sealed anew")?;
    destinations::reseal_data_keys(&gateway).await.context("the destinations' keys cannot be sealed anew")?;
    webhooks::reseal_data_keys(&gateway).await.context("the webhook endpoints' keys cannot be sealed anew")?;

    let stopping = CancellationToken::new();
    let worker =
        if roles.worker { Some(tokio::spawn(worker(settings, &gateway)?.run(stopping.clone()))) } else { None };
    let (address, server) = if roles.api {
        let (address, server) = serve(settings, &gateway, &stopping)?;
        (Some(address), Some(server))
    } else {
        (None, None)
    };
    let grace = settings.shutdown_grace;
    Ok(Running { address, gateway, server, worker, stopping, listener, grace, embedded })
}

fn worker(settings: &Settings, gateway: &Gateway) -> anyhow::Result<Worker> {
    let spool_dir = settings.data_dir.join("spool");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool_dir);
    made.with_context(|| format!("cannot make {}", spool_dir.display()))?;
    let settings = WorkerSettings {
        concurrency: settings.worker_concurrency,
        lease: settings.lease,
        spacing: Spacing { min: settings.poll_min, max: settings.poll_max },
        max_running_of_tenant: settings.tenant_concurrency,
        max_running_over_connection: settings.connection_concurrency,
        // Receiving notices earlier, and says more.
        stall: settings.transfer_stall * 2,
        limits: Limits {
            result_file_bytes: settings.result_file_bytes,
            progress_window: settings.transfer_stall,
            ..Limits::default()
        },
        spool_dir,
        callback_base: settings.public_url.clone(),
    };
    Ok(Worker::new(gateway.clone(), settings))
}

type Server = (ServerHandle, JoinHandle<std::io::Result<()>>);

fn serve(settings: &Settings, gateway: &Gateway, stopping: &CancellationToken) -> anyhow::Result<(SocketAddr, Server)> {
    let key = match settings.token_key()? {
        TokenKey::Secret(secret) => KeySource::Secret(secret),
        TokenKey::Jwks(url) => KeySource::Jwks { url },
    };
    let auth = Authenticator::new(AuthSettings {
        key,
        algorithms: settings.jwt_algorithms.clone(),
        issuer: settings.jwt_issuer.clone(),
        audience: settings.jwt_audience.clone().into_iter().collect(),
    })?;
    let auth = Arc::new(auth);
    let (gateway, stopping, public_url) = (gateway.clone(), stopping.clone(), settings.public_url.clone());
    let server = HttpServer::new(move || {
        api::app(Api {
            gateway: gateway.clone(),
            auth: auth.clone(),
            public_url: public_url.clone(),
            stopping: stopping.clone(),
        })
    })
    .disable_signals()
    .shutdown_timeout(settings.shutdown_grace.as_secs())
    .bind(settings.listen)
    .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let address = server.addrs().first().copied().context("the server has no address")?;
    let server = server.run();
    let handle = server.handle();
    info!(address = %address, "the API listens");
    Ok((address, (handle, tokio::spawn(server))))
}

impl Running {
    /// The address to send requests to from this machine.
    pub fn local_url(&self) -> Option<Url> {
        self.address.map(crate::config::local_url)
    }

    /// Ends in order: nothing new is claimed and running steps hand their exports back; open downloads get the grace
    /// period; then the database.
    pub async fn stop(self) {
        self.stopping.cancel();
        let server = async {
            if let Some((handle, task)) = self.server {
                handle.stop(true).await;
                // The server's own error, if any, was logged when it happened.
                drop(task.await);
            }
        };
        let worker = async {
            let Some(worker) = self.worker else { return };
            if tokio::time::timeout(self.grace, worker).await.is_err() {
                warn!("steps were still running after the grace period; their leases will run out");
            }
        };
        tokio::join!(server, worker);
        self.listener.abort();
        self.gateway.db.close().await;
        if let Some(embedded) = self.embedded {
            // Stopping waits for Postgres; that must not hold up the runtime.
            drop(tokio::task::spawn_blocking(move || embedded.stop()).await);
        }
    }
}
