//! Training rows for people to look at: one of them token by token, and the lengths of all.

use rag_tune_model::tokenizer::{EncodedRow, Tokenizer};
use rag_tune_train::batch::{DataSummary, TrainSet};
use rag_tune_train::config::{TrainConfig, Truncation};

use crate::encoding::ends;
use crate::output::{Colour, Output};

/// The longest bar of the histogram, in characters.
const BAR: usize = 40;
/// Bars of the histogram, about.
const BUCKETS: usize = 12;

/// The row's text, with the tokens that carry loss set off.
///
/// # Errors
/// When the row has no answer, or the tokenizer fails.
pub fn shown(
    row: &EncodedRow,
    tokenizer: &Tokenizer,
    config: &TrainConfig,
    out: &Output,
) -> anyhow::Result<String> {
    let limit = config.max_length;
    // As training prepares it, whatever its length.
    let config = TrainConfig {
        max_length: usize::MAX,
        ..config.clone()
    };
    let set = TrainSet::new(&[vec![row.clone()]], ends(tokenizer), &config, 0)?;
    let (ids, silent) = set.first();
    let mut text = out.paint(Colour::Dim, &tokenizer.decode(&ids[..silent])?);
    for token in supervised_tokens(ids, silent, tokenizer)? {
        text += &match out.is_coloured() {
            true => out.paint(Colour::Green, &token),
            false => format!("[{token}]"),
        };
    }
    let (tokens, supervised) = (ids.len(), ids.len() - silent);
    let fate = if tokens <= limit {
        String::new()
    } else {
        let fate = match config.truncation {
            Truncation::Drop => "it is left out",
            Truncation::Left if supervised >= limit => {
                "it is left out, since its answer alone is too long"
            }
            Truncation::Left => "its prompt is cut on the left",
            Truncation::Error => "training does not start",
        };
        format!("; longer than {limit}: {fate}")
    };
    let summary = format!("{tokens} tokens, {supervised} of them carry loss{fate}");
    Ok(format!("{text}\n\n{summary}\n"))
}

/// The text that each token adds. Decoded from the row's start, since a token alone may be half a
/// character, or lose the space that it begins with.
fn supervised_tokens(
    ids: &[u32],
    silent: usize,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Vec<String>> {
    let mut tokens = Vec::new();
    let mut before = tokenizer.decode(&ids[..silent])?;
    for end in silent + 1..=ids.len() {
        let all = tokenizer.decode(&ids[..end])?;
        match all.strip_prefix(&before) {
            // Special tokens decode to nothing: show their name.
            Some("") => tokens.push(tokenizer.token(ids[end - 1]).unwrap_or_default()),
            Some(added) => tokens.push(added.to_owned()),
            // The token completed a character that stood half-decoded before it.
            None => tokens.push(
                all.chars()
                    .next_back()
                    .map(String::from)
                    .unwrap_or_default(),
            ),
        }
        before = all;
    }
    Ok(tokens)
}

/// How many tokens the rows have, as bars.
pub fn lengths(set: &TrainSet) -> String {
    let lengths = set.lengths();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let width = (longest / BUCKETS + 1).next_multiple_of(8);
    let mut buckets = vec![0_usize; longest / width + 1];
    for length in &lengths {
        buckets[length / width] += 1;
    }
    let fullest = buckets.iter().copied().max().unwrap_or(1).max(1);
    let mut text = format!("\nlength in tokens of {} rows\n", lengths.len());
    for (index, &count) in buckets.iter().enumerate() {
        let (from, to) = (index * width, (index + 1) * width - 1);
        let bar = "#".repeat((count * BAR).div_ceil(fullest));
        text += format!("{from:>6} to {to:<6} {count:>6} {bar}").trim_end();
        text.push('\n');
    }
    for note in truncations(&set.summary()) {
        text += &format!("{note}\n");
    }
    text
}

/// What became of rows that are too long; nothing where there is none.
pub fn truncations(summary: &DataSummary) -> Vec<String> {
    let limit = summary.max_length;
    let counts = [
        (summary.too_long, "left out"),
        (summary.cut, "with their prompt cut on its left"),
        (
            summary.answer_too_long,
            "left out, since their answer alone is too long",
        ),
    ];
    let counted = counts.iter().filter(|(count, _)| *count > 0);
    counted
        .map(|(count, what)| format!("rows of more than {limit} tokens: {count} {what}"))
        .collect()
}

/// How the rows are packed, in one line.
pub fn in_short(summary: &DataSummary) -> String {
    let epoch = &summary.epoch;
    format!(
        "{} rows of {} tokens, {} of them with loss, in {} micro-batches, {:.1} % full",
        summary.rows,
        epoch.tokens,
        epoch.supervised_tokens,
        epoch.micro_batches,
        100.0 * epoch.fullness()
    )
}

/// How the rows are packed into micro-batches and steps.
pub fn packing(summary: &DataSummary) -> String {
    let epoch = &summary.epoch;
    let (micro_batches, budget) = (epoch.micro_batches, epoch.tokens_per_micro_batch);
    let per_step = |count: usize| count as f64 / epoch.steps as f64;
    format!(
        "\nan epoch  {} steps, {micro_batches} micro-batches of at most {budget} tokens, {:.1} % full\n\
         \x20         {} tokens, {} of them carry loss; nothing is padded\n\
         a step    {:.1} rows, {:.1} micro-batches, {:.0} tokens, {:.0} of them carry loss\n",
        epoch.steps,
        100.0 * epoch.fullness(),
        epoch.tokens,
        epoch.supervised_tokens,
        per_step(summary.rows),
        per_step(micro_batches),
        per_step(epoch.tokens),
        per_step(epoch.supervised_tokens),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_count_every_row() {
        let row = |len: usize| EncodedRow {
            ids: vec![5; len],
            prompt_len: 1,
        };
        let rows = vec![row(3), row(4), row(30), row(99)];
        let config = TrainConfig {
            max_length: 40,
            ..TrainConfig::default()
        };
        let set = TrainSet::new(&[rows], 2, &config, 0).unwrap();
        insta::assert_snapshot!(lengths(&set).trim_start(), @r"
        length in tokens of 3 rows
             0 to 7           2 ########################################
             8 to 15          0
            16 to 23          0
            24 to 31          1 ####################
        rows of more than 40 tokens: 1 left out
        ");
    }
}
