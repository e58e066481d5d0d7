//! `moorctl`: reads the arguments, starts a runtime, runs one verb, turns the outcome into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only when a provider is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // What one host sent is verified while others' is on its way.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(moorctl::parallel::workers()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return moorctl::report_start_failure(&error),
    };
    let code = runtime.block_on(moorctl::run(std::env::args_os()));
    // Somebody who does not read what is written keeps nobody from leaving.
    runtime.shutdown_background();
    ExitCode::from(code)
}
