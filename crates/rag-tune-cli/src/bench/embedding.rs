//! `bench embed`: made-up sentences to vectors.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use rag_tune_augment::{EmbedderCompute, RetrievalConfig, embed as embedders};

use super::figures::{Column, Figures};
use super::subject::setting;
use super::timing::TimingArgs;
use crate::commands::HubArgs;
use crate::files::write_atomically;
use crate::output::Output;

/// Sentences of 6 to 18 words, the same in every run.
#[derive(Debug, Args)]
pub struct EmbeddingArgs {
    /// The embedding model: a hub id or folder
    #[arg(long, value_name = "MODEL", default_value_t = RetrievalConfig::default().embedder)]
    base: String,
    /// As `retrieval.embedder_compute` in a config
    #[arg(long, default_value = "auto", value_parser = setting::<EmbedderCompute>)]
    compute: EmbedderCompute,
    /// Sentences at a time
    #[arg(long, value_name = "N", default_value = "4000")]
    sentences: NonZeroUsize,
    /// Write the sentences, one a line, so that another program can be given the same
    #[arg(long, value_name = "FILE")]
    save_sentences: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    #[command(flatten)]
    timing: TimingArgs,
}

const COLUMNS: [Column; 4] = [
    Column::new("work", "work", 0),
    Column::new("sentences/s", "sentences_per_s", 1),
    Column::new("s/step", "step_s", 3),
    Column::new("peak RSS MiB", "peak_rss_mib", 0),
];

/// Times an embedder, its tokenizer included.
///
/// # Errors
/// When it cannot be had.
pub fn embed(args: &EmbeddingArgs, out: &mut Output) -> anyhow::Result<()> {
    args.timing.set_threads()?;
    let sentences = sentences(args.sentences.get());
    if let Some(path) = &args.save_sentences {
        write_atomically(path, &(sentences.join("\n") + "\n"))?;
    }
    let config = RetrievalConfig {
        embedder: args.base.clone(),
        embedder_compute: args.compute,
        ..Default::default()
    };
    let embedder = embedders::open(&config, &args.hub.hub())
        .with_context(|| format!("cannot open the embedder `{}`", args.base))?;
    let texts: Vec<&str> = sentences.iter().map(String::as_str).collect();
    let (laps, _) = args
        .timing
        .time(|| Ok(embedder.embed(&texts, &|_, _| Ok(()))?))?;
    let figures = Figures::default()
        .say("work", "embed")
        .say("model", &args.base)
        .say("threads", rayon::current_num_threads())
        .say("sentences", texts.len())
        .measured("sentences_per_s", texts.len() as f64 / laps.step_s())
        // An embedder does not tell its tokens or its operations.
        .measured("tokens_per_s", None)
        .with_laps(&laps)
        .measured("share_of_peak", None)
        .with_memory(None);
    figures.print(args.timing.json, &COLUMNS, out)
}

/// Words of one token each in BERT's vocabulary.
const WORDS: &str = "the a of and to in is was for on that with as by at from which how many what who \
    name age city country year number list show find average total student teacher school \
    department employee company salary price product order customer address team player game \
    season score match film actor director song album artist book author library station train \
    airport flight river mountain lake population language president state river capital \
    house street garden window doctor patient hospital test result report event party member \
    group class course grade first last most least more less between before after each every \
    large small old young new high low red blue green white black open closed north south";

/// Sentences of 6 to 18 words.
fn sentences(count: usize) -> Vec<String> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    // A linear congruential generator (Knuth's MMIX); its upper bits are the good ones.
    let mut state = 42_u64;
    let mut below = |limit: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    (0..count)
        .map(|_| {
            let length = 6 + below(13);
            let chosen: Vec<&str> = (0..length).map(|_| words[below(words.len())]).collect();
            chosen.join(" ")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn sentences_have_6_to_18_words_and_are_the_same_every_time() {
        let made = sentences(1000);
        let lengths: BTreeSet<usize> = made.iter().map(|text| text.split(' ').count()).collect();
        assert_eq!(lengths, (6..=18).collect());
        assert_eq!(sentences(10), made[..10]);
        let different: BTreeSet<&String> = made.iter().collect();
        assert!(different.len() > 990, "{}", different.len());
    }
}
