//! The `naru` binary: reads the command line, builds a runtime, runs the broker or a command, gives the exit code.

use std::process::ExitCode;
use std::time::Duration;

use naru::cli::{self, Invocation, Offline};
use naru::config::Configuration;
use naru::server;
use tokio::runtime::{Builder, Runtime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the process waits for blocking calls that nobody needs any more.
const RUNTIME_GRACE: Duration = Duration::from_millis(100);

/// What commands need of the broker that work on a data directory without one.
const OFFLINE: Offline = Offline {
    state_of: server::state_of,
    salvage: server::salvage,
};

fn main() -> ExitCode {
    // Before anything else: reading the words takes memory, and so does every thread.
    server::start_small();
    let invocation = cli::parse(std::env::args_os());
    let stays_small = match &invocation {
        Invocation::Serve(_) | Invocation::Done(_) => true,
        Invocation::Command(command) => command.is_timed(),
    };
    if !stays_small {
        server::go_on_large();
    }
    let runtime = match Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = format!("cannot start the runtime: {error}");
            return cli::report(&cli::Failure::unexpected(message), None);
        }
    };
    let code = match invocation {
        Invocation::Serve(configuration) => serve(*configuration, &runtime),
        Invocation::Command(command) => command.run(&runtime, OFFLINE),
        Invocation::Done(code) => code,
    };
    runtime.shutdown_timeout(RUNTIME_GRACE);
    code
}

/// Runs the broker to its end.
fn serve(configuration: Configuration, runtime: &Runtime) -> ExitCode {
    match runtime.block_on(server::run(configuration)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

/// Threads that serve connections: all cores but one, which the journal's and the applier's threads have enough work for.
/// A further one would only be woken more often: on two cores it costs a sixth more processor time per record.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.saturating_sub(1).max(1)
}
