//! All SQL: one function per statement, rows to types. Decides nothing. Every write of a worker names the claim it
//! holds; [`Held::Lost`] means that another worker has the export now.

pub mod budgets;
pub mod connections;
pub mod deliveries;
pub mod destinations;
pub mod engine;
pub mod exports;
pub mod files;
pub mod hub;
pub mod parts;
pub mod reads;
pub mod schedules;
pub mod sharing;
pub mod slots;
pub mod tokens;
pub mod webhooks;

use sqlx::{PgPool, postgres::PgQueryResult};

/// Brings the database to this version's schema. Safe to run from many processes at once, also where a newer version has
/// been before: its schema serves this one, too.
pub async fn migrate(db: &PgPool) -> Result<(), sqlx::migrate::MigrateError> {
    let mut migrations = sqlx::migrate!();
    migrations.set_ignore_missing(true);
    migrations.run(db).await
}

/// Whether a worker's write happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost claim must stop the worker"]
pub enum Held {
    Yes,
    /// The claim is gone: nothing was changed, and nothing may be changed any more.
    Lost,
}

impl From<PgQueryResult> for Held {
    fn from(result: PgQueryResult) -> Self {
        if result.rows_affected() == 0 { Self::Lost } else { Self::Yes }
    }
}
