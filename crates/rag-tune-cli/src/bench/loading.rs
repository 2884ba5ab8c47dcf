//! `bench load`: from files to weights that products run on.

use std::time::Instant;

use clap::Args;
use rag_tune_model::config::CacheWeights;
use rag_tune_model::llama::WeightCache;

use super::figures::Column;
use super::subject::{SubjectArgs, setting};
use crate::output::Output;

/// One start of a model.
#[derive(Debug, Args)]
pub struct LoadingArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// As `model.cache_weights` in a config
    #[arg(long, default_value = "auto", value_parser = setting::<CacheWeights>)]
    cache_weights: CacheWeights,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

const COLUMNS: [Column; 6] = [
    Column::new("work", "work", 0),
    Column::new("from", "from", 0),
    Column::new("files GB", "file_bytes", 2).times(1e-9),
    Column::new("s", "load_s", 2),
    Column::new("GB/s", "file_bytes_per_s", 2).times(1e-9),
    Column::new("peak RSS MiB", "peak_rss_mib", 0),
];

/// Times one load; how quick the disk is, and whether its files are in memory already, is part of the figure.
///
/// # Errors
/// When the model cannot be had.
pub fn load(args: &LoadingArgs, out: &mut Output) -> anyhow::Result<()> {
    let subject = args.subject.find()?.caching(args.cache_weights);
    let start = Instant::now();
    let (model, cache) = subject.load_kept(out)?;
    let seconds = start.elapsed().as_secs_f64();
    let from = match cache {
        WeightCache::Mapped(_) => "kept 8-bit weights",
        WeightCache::Written { .. } => "the model's files, and kept",
        WeightCache::NotWritten { .. } | WeightCache::Unused => "the model's files",
    };
    let bytes = subject.file_bytes() as f64;
    subject
        .figures("load", &model, 0, 0)
        .say("from", from)
        .measured("file_bytes", bytes)
        .measured("load_s", seconds)
        .measured("file_bytes_per_s", bytes / seconds)
        .with_memory(model.device())
        .print(args.json, &COLUMNS, out)
}
