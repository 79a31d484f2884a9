use std::process::ExitCode;

/// Buffers wander from thread to thread here, and glibc gives each one back to the system on the way.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    headgate::cli::run(std::env::args_os())
}
