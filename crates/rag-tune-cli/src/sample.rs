//! Training rows for people to look at: one of them token by token, and the lengths of all.

use rag_tune_model::tokenizer::{EncodedRow, Tokenizer};
use rag_tune_train::batch::TrainSet;
use rag_tune_train::config::TrainConfig;

use crate::encoding::end_of_sequence;
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
    // As training prepares it, whatever its length.
    let config = TrainConfig {
        max_length: usize::MAX,
        ..config.clone()
    };
    let set = TrainSet::new(&[vec![row.clone()]], end_of_sequence(tokenizer), &config, 0)?;
    let (ids, silent) = set.first();
    let mut text = out.paint(Colour::Dim, &tokenizer.decode(&ids[..silent])?);
    for token in supervised_tokens(ids, silent, tokenizer)? {
        text += &match out.is_coloured() {
            true => out.paint(Colour::Green, &token),
            false => format!("[{token}]"),
        };
    }
    let summary = format!(
        "{} tokens, {} of them carry loss",
        ids.len(),
        ids.len() - silent
    );
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
pub fn lengths(set: &TrainSet, max_length: usize) -> String {
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
    if set.too_long() > 0 {
        text += &format!(
            "left out as longer than {max_length} tokens: {}\n",
            set.too_long()
        );
    }
    text
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
        insta::assert_snapshot!(lengths(&set, 40).trim_start(), @r"
        length in tokens of 3 rows
             0 to 7           2 ########################################
             8 to 15          0
            16 to 23          0
            24 to 31          1 ####################
        left out as longer than 40 tokens: 1
        ");
    }
}
