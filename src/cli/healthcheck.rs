//! `headgate healthcheck`: for container images, which have no other HTTP client in them.

use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::{Failure, block_on};
use crate::config::{Flags, Settings, local_url};

/// Below the usual limit of a container engine, so that the answer is ours.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Flags,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = Settings::load_without_keys(&arguments.settings)?;
    let mut url = local_url(settings.listen);
    url.set_path("/readyz");
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().context("making an HTTP client")?;
    let answer = block_on(client.get(url.clone()).send())?.with_context(|| format!("{url} does not answer"))?;
    if answer.status().is_success() { Ok(()) } else { Err(anyhow!("{url} answers {}", answer.status()).into()) }
}
