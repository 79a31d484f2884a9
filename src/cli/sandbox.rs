//! `headgate sandbox`: the vendors' documented APIs on this machine, to develop against.

use std::{net::SocketAddr, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, run_on_all_cores};
use crate::vendors::{
    registry::VENDORS,
    sandbox::{self, Fault, SandboxConfig, faults},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Users in each audience.
    #[arg(long, default_value_t = 25)]
    people: u64,
    /// How long an export takes, in seconds.
    #[arg(long, default_value_t = 5.0)]
    processing_secs: f64,
    /// Something that goes wrong, as NAME or NAME=VALUE; may be given several times. See `--list-faults`.
    #[arg(long = "fault", value_name = "FAULT", value_parser = Fault::parse)]
    faults: Vec<Fault>,
    /// Print every fault and end.
    #[arg(long)]
    list_faults: bool,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    run_on_all_cores(serve(arguments))
}

/// Serves until a signal.
async fn serve(args: Arguments) -> anyhow::Result<()> {
    if args.list_faults {
        println!("{}", faults::help());
        return Ok(());
    }
    let config = SandboxConfig {
        people: args.people,
        processing: Duration::from_secs_f64(args.processing_secs.clamp(0.0, 86_400.0)),
        faults: args.faults,
        ..SandboxConfig::default()
    };
    let sandbox = sandbox::start(config, args.listen).await?;
    println!("The sandbox listens on {}", sandbox.base_url());
    for spec in VENDORS {
        let connection = (spec.sandbox_connection)(sandbox.base_url());
        println!("\nPUT /v1/connections/{}\n{:#}", connection.name, connection.body);
        println!("audience: {}", connection.audience);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    sandbox.stop().await;
    Ok(())
}
