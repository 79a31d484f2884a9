//! What a caller can ask for, each as a short story in one transaction. No status codes and no JSON shapes: refusals
//! are [`Problem`]s, answers are records.

pub mod accounts;
pub mod callbacks;
pub mod catalog;
pub mod connections;
pub mod deliveries;
pub mod destinations;
pub mod exports;
pub mod files;
pub mod health;
pub mod links;
pub mod runs;
pub mod schedules;
pub mod shared;
pub mod vendors;
pub mod webhooks;

use std::{path::PathBuf, sync::Arc, time::Duration};

use glob::Pattern;
use sqlx::PgPool;
use url::Url;

use crate::{
    exports::problem::{Code, Problem},
    results::storage::Storage,
    store::{hub::Hub, reads::Reads},
    vault::Vault,
    vendors::http::Http,
};

pub use crate::store::hub::Watch;

/// What every operation works with; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub db: PgPool,
    /// Single exports, for many callers at once.
    pub reads: Reads,
    pub vault: Vault,
    pub http: Http,
    pub storage: Storage,
    /// Wakes waiting callers and workers when an export changes.
    pub hub: Hub,
    pub ground: Arc<OwnGround>,
    /// How long results are kept.
    pub result_ttl: Duration,
}

/// What is the gateway's own: nothing is delivered there.
#[derive(Debug, Clone)]
pub struct OwnGround {
    pub data_dir: PathBuf,
    pub storage_url: Url,
}

/// Who asks, as their token says.
#[derive(Debug, Clone)]
pub struct Caller {
    pub subject: String,
    pub tenant: String,
    pub scopes: Vec<String>,
    /// Names of connections the token may use.
    pub connections: Vec<Pattern>,
}

impl Caller {
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }

    /// Whether the token may use the connection of that name.
    pub fn may_use(&self, connection: &str) -> bool {
        self.connections.iter().any(|pattern| pattern.matches(connection))
    }
}

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is told.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The caller is told that Headgate failed; the log gets the rest.
    #[error("the database failed")]
    Store(#[from] sqlx::Error),
    #[error("the object store failed")]
    Storage(#[from] object_store::Error),
    #[error("the vault failed")]
    Vault(#[from] crate::vault::Error),
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

/// Another tenant's object and an absent one look the same.
pub(crate) fn not_found(what: &str) -> Error {
    Problem::new(Code::NotFound, format!("there is no such {what}")).into()
}

/// Cuts off what was read beyond the page, and says whether there was any.
fn cut_page<T>(found: &mut Vec<T>, page_size: i64) -> bool {
    let page_size = usize::try_from(page_size).unwrap_or_default();
    let more = found.len() > page_size;
    found.truncate(page_size);
    more
}
