//! `headgate openapi`: prints the OpenAPI document, writes the committed files, or checks that they are up to date.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::api::openapi;

/// Where the documents are committed, relative to the root of the source tree.
const FILES: [(&str, Make); 2] =
    [("openapi/headgate.json", openapi::document), ("openapi/headgate-3.0.json", openapi::document_30)];

type Make = fn() -> Value;

/// Print the OpenAPI document of the API.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which OpenAPI to print.
    #[arg(long, value_enum, default_value_t = Version::V31)]
    version: Version,

    /// Write both documents under openapi/ instead of printing one.
    #[arg(long, conflicts_with_all = ["check", "version"])]
    write: bool,

    /// Fail when the documents under openapi/ are not up to date.
    #[arg(long, conflicts_with = "version")]
    check: bool,
}

/// A version of OpenAPI.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Version {
    #[value(name = "3.1")]
    V31,
    #[value(name = "3.0")]
    V30,
}

/// Runs the command in the current folder.
///
/// # Errors
/// When a file cannot be read or written, or is not up to date.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.write {
        write(Path::new("."))?;
    } else if args.check {
        check(Path::new("."))?;
    } else {
        let document = match args.version {
            Version::V31 => openapi::document(),
            Version::V30 => openapi::document_30(),
        };
        print!("{}", openapi::text(&document));
    }
    Ok(())
}

fn write(root: &Path) -> anyhow::Result<()> {
    for (name, document) in FILES {
        let path = root.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, openapi::text(&document())).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn check(root: &Path) -> anyhow::Result<()> {
    for (name, document) in FILES {
        let path = root.join(name);
        let committed = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if committed != openapi::text(&document()) {
            bail!("{name} is not up to date; run `headgate openapi --write`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_written_document_passes_the_check_and_a_changed_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path()).is_err());
        write(folder.path()).unwrap();
        check(folder.path()).unwrap();
        fs::write(folder.path().join(FILES[1].0), "{}").unwrap();
        assert!(check(folder.path()).unwrap_err().to_string().contains("headgate-3.0.json"));
    }

    #[test]
    fn versions_are_named_as_people_say_them() {
        let parse = |words: &[&str]| Command::try_parse_from([&["openapi"], words].concat());
        assert!(matches!(parse(&["--version", "3.0"]).unwrap().args.version, Version::V30));
        assert!(parse(&["--version", "2.0"]).is_err());
        assert!(parse(&["--check", "--write"]).is_err());
    }
}
