//! `headgate sandbox`: the vendors' documented APIs on this machine, to develop against.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, run_on_all_cores};
use crate::vendors::{
    registry::VENDORS,
    sandbox::{self, Fault, SandboxConfig, Scenario, faults},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// File that sets how the sandbox behaves, in TOML; flags beat it. The folder `scenarios` has some
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// How many users there are [default: 25]
    #[arg(long)]
    people: Option<u64>,
    /// How long an export takes, in seconds [default: 5]
    #[arg(long)]
    processing_secs: Option<f64>,
    /// Something that goes wrong, as NAME or NAME=VALUE; may be given several times. See `--list-faults`.
    #[arg(long = "fault", value_name = "FAULT", value_parser = Fault::parse)]
    faults: Vec<Fault>,
    /// Print every fault and end.
    #[arg(long)]
    list_faults: bool,
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.list_faults {
        println!("{}", faults::help());
        return Ok(());
    }
    let listen = arguments.listen;
    run_on_all_cores(serve(config(arguments)?, listen))
}

/// The defaults, then the file, then the flags.
fn config(arguments: Arguments) -> Result<SandboxConfig, Failure> {
    let mut config = SandboxConfig { processing: Duration::from_secs(5), ..SandboxConfig::default() };
    if let Some(path) = &arguments.scenario {
        let read = Scenario::read(path).and_then(|scenario| scenario.apply(&mut config));
        read.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    }
    let flags = Scenario {
        people: arguments.people,
        processing_secs: arguments.processing_secs,
        faults: (!arguments.faults.is_empty()).then_some(arguments.faults),
        ..Scenario::default()
    };
    flags.apply(&mut config).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(config)
}

/// Serves until a signal.
async fn serve(config: SandboxConfig, listen: SocketAddr) -> anyhow::Result<()> {
    let sandbox = sandbox::start(config, listen).await?;
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn resolved(flags: &[&str], file: &str) -> Result<SandboxConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        std::fs::write(&path, file).unwrap();
        let line = ["sandbox", "--scenario", path.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        config(Line::parse_from(line).arguments).map_err(|failure| match failure {
            Failure::Usage(message) => message.replace(folder.path().to_str().unwrap(), ""),
            Failure::Failed(error) => panic!("{error:#}"),
        })
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_defaults() {
        let file = "people = 7\nprocessing_secs = 0.5\nseed = 3\nfaults = [\"braze.segment.busy=2\"]\n";
        let config = resolved(&["--people", "9", "--fault", "braze.file.cut=1"], file).unwrap();
        assert_eq!((config.people, config.seed, config.audiences), (9, 3, 250));
        assert_eq!(config.processing, Duration::from_millis(500));
        assert_eq!(config.faults, [Fault::parse("braze.file.cut=1").unwrap()]);
        let config = resolved(&[], "").unwrap();
        assert_eq!((config.people, config.processing), (25, Duration::from_secs(5)));
    }

    #[test]
    fn what_is_wrong_with_a_file_or_a_flag_is_told_in_one_line() {
        let told = |flags: &[&str], file: &str| resolved(flags, file).unwrap_err();
        assert_eq!(
            told(&[], "peeple = 7"),
            "/mine.toml: unknown field `peeple`; there are people, audiences, seed, \
            processing_secs, link_life_secs, slow_answer_secs, records_per_file, events_per_hour, raw_part_records, \
            job_files, limits, faults, clock"
        );
        assert_eq!(told(&["--processing-secs", "NaN"], ""), "`processing_secs` is a number of seconds, at most 86400");
        let missing = config(Line::parse_from(["sandbox", "--scenario", "/nowhere.toml"]).arguments);
        assert!(matches!(missing, Err(Failure::Usage(message)) if message.starts_with("/nowhere.toml: No such file")));
    }
}
