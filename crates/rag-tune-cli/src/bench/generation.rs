//! `bench generate`: prompts of random ids, and as many new tokens after each as are asked for.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use rag_tune_kernels::Sequences;
use rag_tune_kernels::peak::memory_read_bytes_per_s;
use rag_tune_model::flop::forward_flop;
use rag_tune_model::generate::{GenerationTimes, time_generation};

use super::figures::Column;
use super::subject::{SubjectArgs, random_ids};
use super::timing::{TimingArgs, median};
use crate::output::Output;

/// Prompts of random tokens, answered greedily to the full length.
#[derive(Debug, Args)]
pub struct GenerationArgs {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Prompts at a time
    #[arg(long, value_name = "N", default_value = "1")]
    batch: NonZeroUsize,
    /// Tokens a prompt has
    #[arg(long, value_name = "N", default_value = "128")]
    seq: NonZeroUsize,
    /// Tokens generated after each prompt
    #[arg(long, value_name = "N", default_value = "64")]
    new: NonZeroUsize,
    #[command(flatten)]
    timing: TimingArgs,
}

const COLUMNS: [Column; 7] = [
    Column::new("work", "work", 0),
    Column::new("compute", "compute", 0),
    Column::new("prefill tokens/s", "prefill_tokens_per_s", 1),
    Column::share("% of peak", "share_of_peak"),
    Column::new("decode tokens/s", "decode_tokens_per_s", 1),
    Column::share("% of bandwidth", "share_of_bandwidth"),
    Column::new("peak RSS MiB", "peak_rss_mib", 0),
];

/// Times prefill and decoding apart.
///
/// # Errors
/// When the model cannot be had, or the rows do not fit it.
pub fn generate(args: &GenerationArgs, out: &mut Output) -> anyhow::Result<()> {
    args.timing.set_threads()?;
    let subject = args.subject.find()?;
    let (batch, seq, new) = (args.batch.get(), args.seq.get(), args.new.get());
    subject.check_length("--seq with --new", seq + new)?;
    let model = subject.load(out)?;
    let prompts = random_ids(batch, seq, model.config().vocab_size);
    let (laps, times) = args
        .timing
        .time(|| Ok(time_generation(&model, &prompts, new)?))?;
    let of = |part: fn(&GenerationTimes) -> Duration| -> Vec<f64> {
        times
            .iter()
            .map(|times| part(times).as_secs_f64())
            .collect()
    };
    let (prefills, decodes) = (of(|times| times.prefill), of(|times| times.decode));
    let (prefill_s, decode_s) = (median(prefills.clone()), median(decodes.clone()));
    let figures = subject
        .figures("generate", &model, batch, seq)
        .say("new", new)
        .measured("tokens_per_s", (batch * new) as f64 / laps.step_s())
        .with_laps(&laps)
        .samples("prefill_samples_s", &prefills)
        .samples("decode_samples_s", &decodes)
        .measured("prefill_s", prefill_s)
        .measured("prefill_tokens_per_s", (batch * seq) as f64 / prefill_s)
        .measured("decode_s", decode_s)
        // The prefill makes the first token, which may be all.
        .measured(
            "decode_tokens_per_s",
            (new > 1).then(|| (batch * (new - 1)) as f64 / decode_s),
        )
        // Measuring the ceilings takes memory of its own.
        .with_memory(model.device());
    let sequences = Sequences::from_lengths(&vec![seq; batch])?;
    let flop = forward_flop(model.config(), 0, &sequences, batch);
    let passes = times[0].decode_passes * model.bytes_per_pass();
    let bytes = (passes + times[0].cache_bytes) as f64;
    // Of a GPU's memory no speed is measured.
    let is_known = new > 1 && model.device().is_none();
    figures
        .measured("share_of_peak", flop / prefill_s / model.peak_op_per_s()?)
        .measured("decode_bytes", (new > 1).then_some(bytes))
        .measured(
            "share_of_bandwidth",
            is_known.then(|| bytes / decode_s / memory_read_bytes_per_s()),
        )
        .print(args.timing.json, &COLUMNS, out)
}
