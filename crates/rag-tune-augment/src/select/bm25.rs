//! Examples by the words that two questions share.
//!
//! Okapi BM25 (Robertson et al. 1994, TREC-3) in the form that cannot turn negative (Lucene's):
//!
//! `score(q, d) = sum over words t of q: idf(t) * tf (k1 + 1) / (tf + k1 (1 - b + b |d| / mean |d|))`,
//! `idf(t) = ln(1 + (N - n(t) + 0.5) / (n(t) + 0.5))`, `k1 = 1.2`, `b = 0.75`,
//!
//! where `tf` counts `t` in train row `d`, and `n(t)` the rows of the `N` that have it. A word that
//! the query repeats counts as often.
//!
//! Words are what the crate `bm25` makes of an English text: accents dropped, lower case, split at
//! Unicode word boundaries, stop words (NLTK's list) left out, stems by Snowball. The weights are
//! that crate's too. Its scorer is not used: it looks at every word of every row that shares any word
//! with the query (of GSM8K, nearly all), and hands equal scores over in the order of a hash map. Here
//! lists of rows per word are added up, and lower rows come first: with GSM8K's 7,473 train rows, 0.06 ms of
//! a core's time a query instead of 6.7 ms.

use std::collections::HashMap;

use bm25::{DefaultTokenizer, Embedder, EmbedderBuilder, Language, Tokenizer};
use rayon::prelude::*;

use super::best::Best;
use super::{Allowed, Example, Queries, Select, Sources, for_each_chunk};
use crate::{AugmentError, Row};

/// A word's hash: among 64-bit ones, two words of a vocabulary do not meet.
type Word = u64;

const K1: f32 = 1.2;
const B: f32 = 0.75;

/// Highest BM25 score of the question's words.
pub struct Bm25Selector {
    query_column: String,
    words: Embedder<Word, DefaultTokenizer>,
    postings: HashMap<Word, Postings>,
    rows: usize,
}

/// The train rows that have a word, ascending, with its weight in each: 8 bytes a distinct word of a row.
#[derive(Default)]
struct Postings {
    idf: f32,
    rows: Vec<(u32, f32)>,
}

impl Bm25Selector {
    /// Indexes the train rows' questions.
    ///
    /// # Errors
    /// What reading the rows reports.
    ///
    /// # Panics
    /// With more than 2^32 train rows.
    pub fn new(sources: &Sources<'_>) -> Result<Self, AugmentError> {
        let column = &sources.task.query_column;
        let rows = sources.train.len();
        assert!(u32::try_from(rows).is_ok(), "rows are counted in 32 bits");
        let tokenizer = tokenizer();
        let mut words = 0;
        for_each_chunk(sources.train, |rows| {
            let counts = rows
                .par_iter()
                .map(|row| tokenizer.tokenize(&row.text(column)).len());
            words += counts.sum::<usize>();
            Ok(())
        })?;
        let mut index = Self {
            query_column: column.clone(),
            words: EmbedderBuilder::with_avgdl((words as f64 / rows as f64) as f32)
                .tokenizer(tokenizer)
                .k1(K1)
                .b(B)
                .build(),
            postings: HashMap::new(),
            rows,
        };
        for_each_chunk(sources.train, |rows| {
            index.push(rows);
            Ok(())
        })?;
        for word in index.postings.values_mut() {
            let having = word.rows.len() as f32;
            word.idf = (1.0 + (rows as f32 - having + 0.5) / (having + 0.5)).ln();
        }
        Ok(index)
    }

    fn push(&mut self, rows: &[Row]) {
        let weights = rows
            .par_iter()
            .map(|row| self.words.embed(&row.text(&self.query_column)));
        for (row, weights) in rows.iter().zip(weights.collect::<Vec<_>>()) {
            let row = row.index as u32;
            for word in weights.0 {
                let of_word = &mut self.postings.entry(word.index).or_default().rows;
                // A word that a row repeats comes as often, always with the weight of the whole.
                if of_word.last().is_none_or(|(last, _)| *last != row) {
                    of_word.push((row, word.value));
                }
            }
        }
    }

    /// Adds up the score of every train row; `scores` is `[rows]`.
    fn score(&self, question: &str, scores: &mut [f32]) {
        scores.fill(0.0);
        for word in self.words.embed(question).indices() {
            if let Some(postings) = self.postings.get(word) {
                for (row, weight) in &postings.rows {
                    scores[*row as usize] += postings.idf * weight;
                }
            }
        }
    }
}

impl Select for Bm25Selector {
    fn select(
        &self,
        queries: &Queries<'_>,
        n: usize,
        allowed: &Allowed<'_>,
    ) -> Result<Vec<Vec<Example>>, AugmentError> {
        let select = |scores: &mut Vec<f32>, (query, row): (usize, &Row)| {
            self.score(&row.text(&self.query_column), scores);
            let mut best = Best::of(n);
            for (row, &score) in scores.iter().enumerate() {
                if best.admits(score) && allowed(query, row) {
                    best.insert(row, score);
                }
            }
            best.into_examples()
        };
        let rows = queries.rows.par_iter().enumerate();
        Ok(rows.map_init(|| vec![0.0; self.rows], select).collect())
    }
}

fn tokenizer() -> DefaultTokenizer {
    DefaultTokenizer::builder()
        .language_mode(Language::English)
        .normalization(true)
        .stopwords(true)
        .stemming(true)
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::dataset::{BadRows, Reading, Split};
    use crate::{RetrievalConfig, Task};

    /// `tests/fixtures/golden_bm25.json`, by `scripts/golden_bm25.py`.
    #[derive(Deserialize)]
    struct Golden {
        documents: Vec<String>,
        queries: Vec<String>,
        /// `[query, document]`.
        scores: Vec<Vec<f32>>,
    }

    fn selector(questions: &[String]) -> Bm25Selector {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.jsonl");
        let lines = questions
            .iter()
            .map(|question| format!("{}\n", json!({"question": question})));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let reading = Reading {
            columns: &BTreeMap::new(),
            required: &["question"],
            given: &[],
            filled: &[],
            id: None,
            bad_rows: BadRows::Error,
        };
        let sources = Sources {
            task: &Task::sql(),
            retrieval: &RetrievalConfig::default(),
            train: &Split::open(&[path], &reading).unwrap(),
            seed: 0,
            embedder: None,
            cache: None,
            progress: &(),
        };
        Bm25Selector::new(&sources).unwrap()
    }

    fn select(selector: &Bm25Selector, question: &str, n: usize) -> Vec<Example> {
        let fields = json!({"question": question});
        let rows = [Row {
            index: 0,
            fields: fields.as_object().unwrap().clone(),
        }];
        let queries = Queries {
            split: "test",
            own: false,
            start: 0,
            split_rows: 1,
            rows: &rows,
        };
        let mut chosen = selector.select(&queries, n, &|_, _| true).unwrap();
        chosen.pop().unwrap()
    }

    #[test]
    fn scores_equal_those_of_bm25s() {
        let golden = include_str!("../../tests/fixtures/golden_bm25.json");
        let golden: Golden = serde_json::from_str(golden).unwrap();
        let selector = selector(&golden.documents);
        for (query, expected) in golden.queries.iter().zip(&golden.scores) {
            for example in select(&selector, query, golden.documents.len()) {
                let difference = (example.score - expected[example.row]).abs();
                assert!(difference < 1e-5, "{query}: {example:?} {expected:?}");
            }
        }
    }

    #[test]
    fn words_are_stemmed_without_case_accents_and_stop_words() {
        let tokens = tokenizer().tokenize("How many of the SINGERS' cafés are older than 56?");
        assert_eq!(tokens, ["mani", "singer", "cafe", "older", "56"]);
    }

    #[test]
    fn of_equal_scores_the_lower_row_comes_first_also_of_none() {
        let questions = ["x", "singer", "y", "singers", "z"].map(str::to_owned);
        let chosen = select(&selector(&questions), "a singer", 4);
        let rows: Vec<usize> = chosen.iter().map(|example| example.row).collect();
        assert_eq!(rows, [1, 3, 0, 2]);
        assert_eq!(chosen[0].score, chosen[1].score);
        assert_eq!(chosen[2].score, 0.0);
    }
}
