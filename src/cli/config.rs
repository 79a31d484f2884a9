//! `headgate config`: the settings in force and where each comes from.

use std::io::{self, Write as _};

use anyhow::Context as _;

use super::Failure;
use crate::config::{Flags, Settings};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    settings: Flags,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.settings)?;
    print(&settings)
        .or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
        .context("printing the settings")?;
    Ok(())
}

fn print(settings: &Settings) -> io::Result<()> {
    let shown = settings.effective();
    let names = shown.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
    let mut out = io::stdout().lock();
    for setting in shown {
        if setting.origin.is_empty() {
            writeln!(out, "{:names$}  {}", setting.name, setting.value)?;
        } else {
            writeln!(out, "{:names$}  {}  ({})", setting.name, setting.value, setting.origin)?;
        }
    }
    for warning in &settings.warnings {
        eprintln!("headgate: warning: {warning}");
    }
    Ok(())
}
