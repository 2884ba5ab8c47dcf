//! `rag-tune config`: what a run would use, and why.

use clap::Args;

use super::ConfigArgs;
use crate::config::Docs;
use crate::output::Output;

/// Print every value that a run would use, with its origin
///
/// The output is a valid config again. Each value's comment says where it came from: the file and line, --set,
/// an environment variable, or the default.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  rag-tune config configs/sql_rag1.toml --docs --set train.max_steps=50"
)]
pub struct ConfigCommandArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Explain each key in a comment above it
    #[arg(long)]
    docs: bool,
}

/// Runs the command.
pub fn config(args: &ConfigCommandArgs, out: &mut Output) -> anyhow::Result<()> {
    let config = args.config.load(&[])?;
    out.data(&config.to_toml(if args.docs { Docs::Shown } else { Docs::Hidden }))?;
    Ok(())
}
