//! orkd: a Kubernetes cluster in one binary.
//!
//! This crate composes: it names the concrete backends, gives every loop its identity, and ends everything in
//! order. What it composes lives in the other crates. Start reading at [`server`].

mod access;
mod accounts;
mod agent;
mod allocator;
mod check;
mod cli;
mod client;
mod config;
mod host;
mod join;
mod node;
mod node_role;
mod progress;
mod reload;
mod roles;
mod secure;
mod server;
mod signals;
mod token;
mod version;

use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command, CommonArgs};

fn main() -> ExitCode {
    let args = match config::with_file(std::env::args_os().collect()) {
        Ok(args) => args,
        Err(error) => return fail(&error.into()),
    };
    let cli = Cli::parse_from(args);
    // The one provider of cryptography; a second installation is not possible and not needed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match cli.command {
        Command::Server(args) => start(&args.common.clone(), server::run(*args)),
        Command::Agent(args) => start(&args.common.clone(), agent::run(*args)),
        Command::ApiServer(args) => start(&args.common.clone(), server::run_api_server(*args)),
        Command::ControllerManager(args) => start(&args.role.common.clone(), roles::controller_manager(*args)),
        Command::Scheduler(args) => start(&args.role.common.clone(), roles::scheduler(*args)),
        Command::Kubelet(args) => start(&args.common.clone(), agent::kubelet(*args)),
        Command::Proxy(args) => start(&args.common.clone(), roles::proxy(*args)),
        Command::Token(args) => runtime().and_then(|rt| rt.block_on(token::run(args))),
        Command::Check(args) => {
            return if check::print(!args.no_agent) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        Command::Version => {
            println!("orkd {}", version::SHORT);
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "orkd", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line: what failed, and why down to the cause.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("orkd: {error:#}");
    ExitCode::FAILURE
}

/// Sets logging up and runs a long-lived command.
fn start(common: &CommonArgs, command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let format = match common.log_format.as_str() {
        "json" => orkd_base::telemetry::Format::Json,
        _ => orkd_base::telemetry::Format::Human,
    };
    orkd_base::telemetry::init(format, &common.log_level).context("cannot set up logging (--log-level)")?;
    runtime()?.block_on(command)
}

/// Two workers suffice for most of what a server does; more follow the machine's cores up to eight.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 8))
        .thread_stack_size(2 << 20)
        .enable_all()
        .build()?)
}
