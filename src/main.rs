use std::process::ExitCode;

fn main() -> ExitCode {
    headgate::cli::run(std::env::args_os())
}
