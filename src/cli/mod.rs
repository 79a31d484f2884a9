//! Commands: arguments in, exit code out. One file for each, and one line in `Command` and in `Command::run`.
//!
//! Exit codes: 0 for success, 1 when the work failed, 2 when arguments or settings are wrong.

mod config;
mod convert;
mod demo;
mod healthcheck;
mod migrate;
mod openapi;
mod sandbox;
mod serve;
pub mod token;

use std::{ffi::OsString, future::Future, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio::runtime;

use crate::config as settings;

/// One REST gateway for export jobs over Braze and GrowingIO.
#[derive(Parser)]
#[command(name = "headgate", version, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(after_help = "Every command that needs settings takes them as flags, as HEADGATE_… variables or from \
                        headgate.toml; see `headgate config --help`.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway: the API and, unless told otherwise, a worker
    Serve(serve::ServeArguments),
    /// Run a worker without the API
    Worker(serve::WorkerArguments),
    /// Bring the database's schema up to date
    Migrate(migrate::Arguments),
    /// Export from both vendors' sandboxes through a gateway of its own, step by step
    Demo(demo::Arguments),
    /// Serve the vendors' documented APIs on this machine, to develop against
    Sandbox(sandbox::Arguments),
    /// Convert a vendor's files on this machine, as an export would
    Convert(Box<convert::Arguments>),
    /// Print the OpenAPI document of the API
    Openapi(openapi::Args),
    /// Print a signed token for the API
    Token(token::Arguments),
    /// Check the settings and print them, without secrets
    Config(config::Arguments),
    /// Ask a running gateway on this machine whether it is ready
    #[command(hide = true)]
    Healthcheck(healthcheck::Arguments),
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Serve(arguments) => serve::serve(&arguments),
            Self::Worker(arguments) => serve::worker(&arguments),
            Self::Migrate(arguments) => migrate::run(&arguments),
            Self::Demo(arguments) => demo::run(&arguments),
            Self::Sandbox(arguments) => sandbox::run(arguments),
            Self::Convert(arguments) => convert::run(&arguments),
            Self::Openapi(arguments) => Ok(openapi::run(&arguments)?),
            Self::Token(arguments) => token::run(&arguments),
            Self::Config(arguments) => config::run(&arguments),
            Self::Healthcheck(arguments) => healthcheck::run(&arguments),
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// Arguments or settings are wrong; nothing was done.
    Usage(String),
    /// The work failed.
    Failed(anyhow::Error),
}

impl From<settings::Error> for Failure {
    fn from(error: settings::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the command that `arguments` name; a failure is told in one line on standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command.run(),
        Err(refused) if refused.use_stderr() && refused.kind() != DISPLAY_HELP => {
            Err(Failure::Usage(in_one_line(&refused)))
        }
        Err(shown) => {
            // `--help`, `--version` or nothing at all. A closed pipe is no failure.
            drop(shown.print());
            return if shown.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match parsed {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("headgate: {message}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            eprintln!("headgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const DISPLAY_HELP: clap::error::ErrorKind = clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// Runs the asynchronous part of a command that serves, on all cores.
fn run_on_all_cores(work: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build().map_err(anyhow::Error::from)?;
    Ok(runtime.block_on(work)?)
}

/// Runs the asynchronous part of a small command.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from)?;
    Ok(runtime.block_on(work))
}

/// The part of clap's message before its tips and its usage.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
    let message = lines.collect::<Vec<_>>().join(" ");
    format!("{}; see --help", message.trim_start_matches("error: "))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_argument_is_told_in_one_line() {
        let told = |arguments: &[&str]| in_one_line(&Cli::try_parse_from(arguments).err().unwrap());
        assert_eq!(told(&["headgate", "config", "--lisen", "x"]), "unexpected argument '--lisen' found; see --help");
        assert_eq!(
            told(&["headgate", "token"]),
            "the following required arguments were not provided: --sub <TEXT> --scope <SCOPES>; see --help"
        );
    }

    #[test]
    fn wrong_usage_and_wrong_settings_exit_with_2() {
        let exit = |arguments: &[&str]| format!("{:?}", run(arguments.iter().map(OsString::from)));
        let two = format!("{:?}", ExitCode::from(2));
        assert_eq!(exit(&["headgate", "nonsense"]), two);
        assert_eq!(exit(&["headgate", "config", "--lease-secs", "1"]), two);
    }
}
