//! `rag-tune demo-data`: synthetic data sets, the quickstart's among them.

use std::path::PathBuf;

use clap::Args;

use crate::demo_data::{DemoTask, Overwrite, generate};
use crate::error::InputError;
use crate::output::Output;
use crate::synthetic;

/// Write a small synthetic data set for a task, with databases where it needs them
///
/// sql: about 1,200 question/SQL pairs over 30 SQLite databases. gsm8k: 1,000 word problems with worked steps.
/// functional: 1,000 sentences about games with their meaning. The data is made up; scores on it are marked as synthetic.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rag-tune demo-data --out demo")]
pub struct DemoDataArgs {
    /// Folder to write: train.jsonl, validation.jsonl; for sql also database/
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the data is for
    #[arg(long, value_enum, default_value = "sql")]
    task: DemoTask,
    /// Another seed gives other rows and questions
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Replace what is in the folder
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn demo_data(args: &DemoDataArgs, out: &mut Output) -> anyhow::Result<()> {
    if args.out.exists() && !args.force {
        let message = format!("`{}` exists already", args.out.display());
        return Err(InputError::new(message, "--force replaces it with the data set").into());
    }
    let overwrite = if args.force {
        Overwrite::Replace
    } else {
        Overwrite::Refuse
    };
    let summary = generate(args.task, &args.out, args.seed, overwrite)?;
    synthetic::mark(&args.out)?;
    let databases = match summary.databases {
        0 => String::new(),
        count => format!("{count} databases, "),
    };
    out.note(&format!(
        "{databases}{} training rows, {} validation rows; all of it synthetic",
        summary.train_rows, summary.validation_rows
    ));
    out.data(&format!("{}\n", args.out.display()))?;
    Ok(())
}
