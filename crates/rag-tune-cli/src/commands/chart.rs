//! `rag-tune chart`: runs side by side.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::contrasts::noise_notes;
use crate::output::Output;

/// Draw the accuracy and the training loss of several runs
///
/// Reads the scores and metrics below each run folder; writes each chart as SVG and PNG. Whiskers are 95 % intervals.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  rag-tune chart out/sql_zero_shot out/sql_rag1 --out charts")]
pub struct ChartArgs {
    /// Run folders, or single folders that hold a scores.json
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn chart(args: &ChartArgs, out: &mut Output) -> anyhow::Result<()> {
    out.note(&rag_tune_report::accuracy_table(&args.runs).context("cannot draw the charts")?);
    let notes = noise_notes(&args.runs).context("cannot compare the runs")?;
    for note in &notes {
        out.note(note);
    }
    let files =
        rag_tune_report::chart(&args.runs, &notes, &args.out).context("cannot draw the charts")?;
    for file in files.paths() {
        out.data(&format!("{}\n", file.display()))?;
    }
    Ok(())
}
