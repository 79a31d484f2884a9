//! `headgate migrate`: brings the database's schema up to date, and nothing else.

use super::{Failure, run_on_all_cores};
use crate::{
    config::{Flags, Settings},
    startup, store,
};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Flags,
}

/// Applies what is missing; safe beside running gateways.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = Settings::load_without_keys(&arguments.settings)?;
    run_on_all_cores(async {
        let (db, _embedded) = startup::database(&settings).await?;
        store::migrate(&db).await?;
        db.close().await;
        println!("the database is up to date");
        Ok(())
    })
}
