//! The `rag-tune` command line: one file per command under `commands/`.
//!
//! Data goes to stdout, talk to stderr. Exit codes: 0 done, 1 the input is wrong, 2 our fault;
//! 128 and the signal's number where a signal has ended a training early.

mod asked;
mod augmentation;
mod base_model;
mod bench;
mod commands;
mod comparison_page;
mod config;
mod contrasts;
mod demo_data;
mod encoding;
mod error;
mod evaluated;
mod evaluation;
mod files;
mod forecast;
mod leakage;
mod merge_drift;
mod model_card;
mod model_folder;
mod output;
mod probe;
mod public_name;
mod ranks;
mod reproduce;
mod run_folder;
mod run_lock;
mod sample;
mod scoring;
mod stop_signals;
mod synthetic;
mod training_progress;
mod training_record;
mod validation;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::error::Interrupted;
use crate::output::Output;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code when all is well.
const DONE: u8 = 0;
/// Exit code when the user can mend it.
const INPUT_IS_WRONG: u8 = 1;
/// Exit code when only we can.
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
    let work = || {
        // Kernels that run later could only ignore what is wrong with it.
        rag_tune_kernels::processor::level()?;
        cli.command.run(&mut Output::from_terminal())
    };
    ExitCode::from(verdict(panic::catch_unwind(AssertUnwindSafe(work))))
}

/// The exit code of a command that returned or panicked; says what was wrong.
fn verdict(outcome: std::thread::Result<anyhow::Result<()>>) -> u8 {
    match outcome {
        Ok(Ok(())) => DONE,
        Ok(Err(error)) if is_closed_stdout(&error) => DONE,
        Ok(Err(error)) if error.is::<Interrupted>() => {
            output::talk(&error.to_string());
            error
                .downcast_ref::<Interrupted>()
                .map_or(DONE, Interrupted::exit_code)
        }
        Ok(Err(error)) => {
            output::talk(&error::render(&error));
            INPUT_IS_WRONG
        }
        Err(_) => OUR_FAULT, // the panic hook has said what happened
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_whose_fault_it_was() {
        assert_eq!(verdict(Ok(Ok(()))), 0);
        assert_eq!(verdict(Ok(Err(anyhow::anyhow!("no such file")))), 1);
        assert_eq!(
            verdict(panic::catch_unwind(|| panic!("a broken invariant"))),
            2
        );
    }

    #[test]
    fn a_signal_has_the_exit_code_that_shells_give_it() {
        let interrupted = Interrupted::new("stopped by SIGTERM", 143);
        assert_eq!(verdict(Ok(Err(interrupted.into()))), 143);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(verdict(Ok(Err(closed.into()))), 0);
    }
}
