//! `rag-tune demo-data`: the synthetic data set of the quickstart.

use std::path::PathBuf;

use clap::Args;

use crate::demo_data::{Overwrite, generate};
use crate::error::InputError;
use crate::files::write_atomically;
use crate::output::Output;
use crate::synthetic;

/// Write a small synthetic text-to-SQL data set with its databases
///
/// About 1,200 question/SQL pairs over 30 SQLite databases, 24 of them for training and 6 unseen ones for
/// validation. The data is made up; scores on it are marked as synthetic.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rag-tune demo-data --out demo")]
pub struct DemoDataArgs {
    /// Folder to write: train.jsonl, validation.jsonl, database/
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
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
    let summary = generate(&args.out, args.seed, overwrite)?;
    write_atomically(&args.out.join(synthetic::MARKER), synthetic::MARKER_TEXT)?;
    out.note(&format!(
        "{} databases, {} training rows, {} validation rows; all of it synthetic",
        summary.databases, summary.train_rows, summary.validation_rows
    ));
    out.data(&format!("{}\n", args.out.display()))?;
    Ok(())
}
