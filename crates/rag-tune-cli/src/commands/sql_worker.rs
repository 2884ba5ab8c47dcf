//! `rag-tune sql-worker`: the process in which model-written SQL runs. `score` and `eval` start it themselves.

use anyhow::Context;
use clap::Args;
use rag_tune_eval::sql::{Sandbox, run_worker};

/// Judge the queries that another rag-tune writes to stdin
#[derive(Debug, Args)]
pub struct SqlWorkerArgs {}

/// Runs the command. Its stdout belongs to the protocol.
pub fn sql_worker(_args: &SqlWorkerArgs) -> anyhow::Result<()> {
    run_worker().context("the SQL worker lost its judge")
}

/// This program as a worker.
pub fn sandbox() -> anyhow::Result<Sandbox> {
    Ok(Sandbox::this_program(&["sql-worker"])?)
}
