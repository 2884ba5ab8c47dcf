//! The `rag-tune` command line: one file per command under `commands/`.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the input is wrong, 2 our fault.

mod augmentation;
mod base_model;
mod commands;
mod config;
mod demo_data;
mod encoding;
mod error;
mod evaluation;
mod files;
mod forecast;
mod output;
mod run_folder;
mod sample;
mod synthetic;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::output::Output;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the input did wrong.
const INPUT_IS_WRONG: u8 = 1;
/// What we did wrong.
const OUR_FAULT: u8 = 2;

/// Retrieval-augmented fine-tuning: find helpful examples, train a LoRA adapter with them, score it.
///
/// One TOML file describes a run. `rag-tune train` augments the data when needed and trains;
/// `rag-tune eval` scores the result; `rag-tune chart` draws several runs side by side.
#[derive(Debug, Parser)]
#[command(
    name = "rag-tune",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    quieten_candle_pool();
    panic::set_hook(Box::new(|panic| {
        output::talk(&format!(
            "error: internal error, this is a bug in rag-tune\n  caused by: {panic}"
        ));
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match panic::catch_unwind(AssertUnwindSafe(|| {
        cli.command.run(&mut Output::from_terminal())
    })) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if is_closed_stdout(&error) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            output::talk(&error::render(&error));
            ExitCode::from(INPUT_IS_WRONG)
        }
        Err(_) => ExitCode::from(OUR_FAULT), // the hook has said what happened
    }
}

/// Without this candle's worker pool spins between operations and takes a core from everything else.
fn quieten_candle_pool() {
    const SPIN_LIMIT: &str = "CANDLE_BARRIER_POOL_SPIN_LIMIT";
    if std::env::var_os(SPIN_LIMIT).is_none() {
        // SAFETY: first statement of `main`, so no other thread can be reading the environment.
        unsafe { std::env::set_var(SPIN_LIMIT, "0") };
    }
}

/// Prints help, version or a usage error. clap's own exit code for a wrong argument is 2; ours is 1.
fn usage(error: &clap::Error) -> ExitCode {
    match error.print() {
        Ok(()) if error.use_stderr() => ExitCode::from(INPUT_IS_WRONG),
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::SUCCESS, // the reader of the help closed the pipe
    }
}

/// `rag-tune ... | head` is no mistake. Only `Output` returns a bare `io::Error`.
fn is_closed_stdout(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
