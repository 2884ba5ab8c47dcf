//! What `rag-tune augment --report` measures.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::CHUNK;
use super::near::NearIndex;
use crate::atomic_file::write_json;
use crate::augment::output_path;
use crate::dataset::{BadRows, Reading, Split};
use crate::fingerprint::hash_of_text;
use crate::run::open_split;
use crate::select::{Example, WordSets, jaccard};
use crate::{AugmentError, AugmentRequest, Hub, Row, Selector};

/// The file's name.
pub const FILE_NAME: &str = "leakage.json";

/// Two questions that share this much of their words (Jaccard index) are called nearly equal.
const NEAR: f32 = 0.8;

/// How many nearly equal pairs are shown.
const SHOWN: usize = 5;

/// What the splits of augmented data have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeakageReport {
    /// `data.source`.
    pub source: String,
    /// The split that examples come from.
    pub train_split: String,
    /// Its rows.
    pub train_rows: usize,
    /// Jaccard index of the words from which on two questions are called nearly equal.
    pub near_threshold: f32,
    /// Each augmented split.
    pub splits: BTreeMap<String, SplitLeakage>,
}

/// What one augmented split shares with the train split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitLeakage {
    /// Rows of the split.
    pub rows: usize,
    /// Rows whose question stands in the train split (in another row, for the train split itself).
    pub equal_questions: usize,
    /// Rows whose question and answer stand in one train row; `None` for the train split itself.
    pub equal_rows: Option<usize>,
    /// Rows whose question is nearly a train row's, the equal ones included; `None` for the train
    /// split itself.
    pub near_questions: Option<usize>,
    /// The likest of those that are not equal.
    pub near_pairs: Vec<NearPair>,
    /// Columns of `retrieval.different` and `retrieval.same`: the values that both splits have.
    pub columns: BTreeMap<String, ColumnOverlap>,
    /// Rows whose prompt has examples.
    pub with_examples: usize,
    /// Of those, rows where an example's answer is the row's own answer.
    pub example_answers_it: usize,
    /// Of those, rows whose first-ranked example has nearly the row's question.
    pub near_examples: usize,
    /// The best example's score over the rows that have one; `None` where nothing is measured.
    pub scores: Option<Distribution>,
}

/// Two questions that nearly are one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NearPair {
    /// Row of the split, from 0.
    pub row: usize,
    /// Row of the train split, from 0.
    pub train_row: usize,
    /// Jaccard index of their words.
    pub likeness: f32,
    /// The row's question.
    pub question: String,
    /// The train row's.
    pub train_question: String,
}

/// How many values of a column two splits share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnOverlap {
    /// Distinct values in the train split.
    pub train_values: usize,
    /// Distinct values in the other split.
    pub split_values: usize,
    /// Values that both have.
    pub shared: usize,
}

/// Quantiles of a figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The smallest.
    pub min: f32,
    /// 5 % are below.
    pub p05: f32,
    /// 25 % are below.
    pub p25: f32,
    /// Half are below.
    pub median: f32,
    /// 75 % are below.
    pub p75: f32,
    /// 95 % are below.
    pub p95: f32,
    /// The largest.
    pub max: f32,
}

impl Distribution {
    fn of(mut values: Vec<f32>) -> Option<Self> {
        values.sort_by(f32::total_cmp);
        let last = values.len().checked_sub(1)?;
        let quantile = |share: f64| values[(share * last as f64).round() as usize];
        Some(Self {
            min: values[0],
            p05: quantile(0.05),
            p25: quantile(0.25),
            median: quantile(0.5),
            p75: quantile(0.75),
            p95: quantile(0.95),
            max: values[last],
        })
    }
}

impl LeakageReport {
    /// Measures the files that [`crate::augment()`] made of `request`.
    ///
    /// # Errors
    /// As [`crate::augment()`]; [`AugmentError::Read`] where its files are missing.
    pub fn measure(request: &AugmentRequest<'_>, hub: &Hub) -> Result<Self, AugmentError> {
        let open = |name: &str| open_split(request, &hub.split_files(request.data, name)?);
        let train_split = open(&request.data.train_split)?;
        let train = Digest::read(request, &train_split)?;
        let mut splits = BTreeMap::new();
        for &name in request.splits {
            let mut measured = if name == request.data.train_split {
                train.against_itself()
            } else {
                let split = open(name)?;
                let digest = Digest::read(request, &split)?;
                let likest = NearIndex::new(&train.words, NEAR).likest(&digest.words);
                let mut measured = digest.against(&train);
                measured.near_questions = Some(likest.iter().flatten().count());
                let pairs = digest.unequal_pairs(&train, &likest).into_iter();
                let with_texts = pairs.map(|pair| near_pair(request, (&split, &train_split), pair));
                measured.near_pairs = with_texts.collect::<Result<_, _>>()?;
                measured
            };
            measured.add_examples(request, name, &train)?;
            splits.insert(name.to_owned(), measured);
        }
        Ok(Self {
            source: request.data.source.clone(),
            train_split: request.data.train_split.clone(),
            train_rows: train.questions.len(),
            near_threshold: NEAR,
            splits,
        })
    }

    /// Writes `leakage.json` into `folder`.
    ///
    /// # Errors
    /// [`AugmentError::Write`].
    pub fn save(&self, folder: &Path) -> Result<(), AugmentError> {
        write_json(&folder.join(FILE_NAME), self)
    }
}

impl SplitLeakage {
    fn of(rows: usize) -> Self {
        Self {
            rows,
            equal_questions: 0,
            equal_rows: None,
            near_questions: None,
            near_pairs: Vec::new(),
            columns: BTreeMap::new(),
            with_examples: 0,
            example_answers_it: 0,
            near_examples: 0,
            scores: None,
        }
    }

    /// Reads which examples the rows got.
    fn add_examples(
        &mut self,
        request: &AugmentRequest<'_>,
        name: &str,
        train: &Digest,
    ) -> Result<(), AugmentError> {
        let path = output_path(request.out, name, 0);
        let reading = Reading {
            columns: &BTreeMap::new(),
            required: &[],
            given: &[],
            filled: &[],
            id: None,
            bad_rows: BadRows::Error,
        };
        let augmented = Split::open(&[path], &reading)?;
        let mut scores = Vec::new();
        for range in augmented.chunks(CHUNK) {
            for row in augmented.rows(range)? {
                let examples = row.fields.get("examples").cloned().unwrap_or_default();
                let examples: Vec<Example> =
                    serde_json::from_value(examples).map_err(|error| AugmentError::BadJson {
                        path: augmented.path().to_owned(),
                        problem: format!("line {}: {error}", row.index + 1),
                    })?;
                let Some(best) = examples.iter().map(|e| e.score).max_by(f32::total_cmp) else {
                    continue;
                };
                scores.push(best);
                self.with_examples += 1;
                let answer = hash(&row.text(&request.task.answer_column));
                let mut own = WordSets::default();
                own.push(&row.text(&request.task.query_column));
                let any = |test: &dyn Fn(usize) -> bool| examples.iter().any(|e| test(e.row));
                self.example_answers_it += usize::from(any(&|row| train.answers[row] == answer));
                self.near_examples += usize::from(any(&|row| {
                    jaccard(train.words.get(row), own.get(0)) >= NEAR
                }));
            }
        }
        if request.retrieval.selector != Selector::Random {
            self.scores = Distribution::of(scores);
        }
        Ok(())
    }
}

/// The texts of a pair that is nearly equal.
fn near_pair(
    request: &AugmentRequest<'_>,
    (split, train): (&Split, &Split),
    (row, train_row, likeness): (usize, usize, f32),
) -> Result<NearPair, AugmentError> {
    let question = |split: &Split, row: usize| {
        let row = split.row(row)?;
        let text = row.text(&request.task.query_column).trim().to_owned();
        Ok::<_, AugmentError>(beginning(&text))
    };
    Ok(NearPair {
        row,
        train_row,
        likeness,
        question: question(split, row)?,
        train_question: question(train, train_row)?,
    })
}

/// As much of a text as a report has room for.
fn beginning(text: &str) -> String {
    const CHARACTERS: usize = 200;
    match text.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn hash(text: &str) -> u64 {
    hash_of_text(text.trim())
}

/// What is compared of a split.
struct Digest {
    /// Hash of each row's question, and of its answer.
    questions: Vec<u64>,
    answers: Vec<u64>,
    /// Word set of each row's question.
    words: WordSets,
    /// Hashes of the distinct values of each compared column.
    columns: BTreeMap<String, HashSet<u64>>,
    /// Hashes of question and answer together.
    pairs: HashSet<(u64, u64)>,
}

impl Digest {
    fn read(request: &AugmentRequest<'_>, split: &Split) -> Result<Self, AugmentError> {
        let retrieval = request.retrieval;
        let compared = retrieval.different.iter().chain(&retrieval.same);
        // Without examples nothing asks for these columns.
        let compared = compared.filter(|_| retrieval.examples > 0);
        let mut digest = Self {
            questions: Vec::new(),
            answers: Vec::new(),
            words: WordSets::default(),
            columns: compared
                .map(|column| (column.clone(), HashSet::new()))
                .collect(),
            pairs: HashSet::new(),
        };
        for range in split.chunks(CHUNK) {
            for row in split.rows(range)? {
                digest.push(request, &row);
            }
        }
        Ok(digest)
    }

    fn push(&mut self, request: &AugmentRequest<'_>, row: &Row) {
        let question = row.text(&request.task.query_column);
        let (of_question, of_answer) = (
            hash(&question),
            hash(&row.text(&request.task.answer_column)),
        );
        self.questions.push(of_question);
        self.answers.push(of_answer);
        self.pairs.insert((of_question, of_answer));
        self.words.push(&question);
        for (column, values) in &mut self.columns {
            values.insert(hash(&row.text(column)));
        }
    }

    fn against_itself(&self) -> SplitLeakage {
        let mut seen = HashSet::new();
        let mut repeated = HashSet::new();
        for question in &self.questions {
            if !seen.insert(question) {
                repeated.insert(question);
            }
        }
        let equal_questions = self.questions.iter().filter(|q| repeated.contains(q));
        SplitLeakage {
            equal_questions: equal_questions.count(),
            ..SplitLeakage::of(self.questions.len())
        }
    }

    fn against(&self, train: &Self) -> SplitLeakage {
        let known: HashSet<u64> = train.questions.iter().copied().collect();
        let columns = self.columns.iter().map(|(column, values)| {
            let of_train = &train.columns[column];
            let overlap = ColumnOverlap {
                train_values: of_train.len(),
                split_values: values.len(),
                shared: values.intersection(of_train).count(),
            };
            (column.clone(), overlap)
        });
        let rows = self.questions.iter().zip(&self.answers);
        let equal_rows = rows.filter(|(q, a)| train.pairs.contains(&(**q, **a)));
        SplitLeakage {
            equal_questions: self.questions.iter().filter(|q| known.contains(q)).count(),
            equal_rows: Some(equal_rows.count()),
            columns: columns.collect(),
            ..SplitLeakage::of(self.questions.len())
        }
    }

    /// The likest pairs that are not equal: row, train row, likeness.
    fn unequal_pairs(
        &self,
        train: &Self,
        likest: &[Option<(usize, f32)>],
    ) -> Vec<(usize, usize, f32)> {
        let found = likest.iter().enumerate();
        let mut pairs: Vec<(usize, usize, f32)> = found
            .filter_map(|(row, found)| {
                found.map(|(train_row, likeness)| (row, train_row, likeness))
            })
            .filter(|(row, train_row, _)| self.questions[*row] != train.questions[*train_row])
            .collect();
        pairs.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
        pairs.truncate(SHOWN);
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_a_hundred_and_one_values_are_the_values() {
        let shuffled: Vec<f32> = (0..101).map(|i| (i * 37 % 101) as f32).collect();
        let distribution = Distribution::of(shuffled).unwrap();
        assert_eq!((distribution.min, distribution.max), (0.0, 100.0));
        assert_eq!((distribution.p05, distribution.median), (5.0, 50.0));
        assert_eq!(
            (distribution.p25, distribution.p75, distribution.p95),
            (25.0, 75.0, 95.0)
        );
        assert_eq!(Distribution::of(Vec::new()), None);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(beginning("é"), "é");
        let cut = beginning(&"é".repeat(300));
        assert_eq!(cut, format!("{}...", "é".repeat(200)));
    }
}
