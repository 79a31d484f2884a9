//! `headgate migrate`: brings the database's schema up to date, and nothing else.

use crate::{config::Settings, startup, store};

/// Applies what is missing; safe beside running gateways.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let (db, embedded) = startup::database(settings).await?;
    store::migrate(&db).await?;
    db.close().await;
    drop(embedded);
    println!("the database is up to date");
    Ok(())
}
