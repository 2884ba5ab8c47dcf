//! Laws that every selector keeps.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::dataset::{BadRows, Reading};
use crate::embed::{Done, Embeddings};

const SELECTORS: [Selector; 7] = [
    Selector::Semantic,
    Selector::Masked,
    Selector::Bm25,
    Selector::Hybrid,
    Selector::Skeleton,
    Selector::Mmr,
    Selector::Random,
];

/// Letters counted: questions of like words lie near each other, and ties abound.
struct LetterCounts;

impl Embedder for LetterCounts {
    fn fingerprint(&self) -> &str {
        "letter-counts"
    }

    fn embed(&self, texts: &[&str], done: &Done<'_>) -> Result<(), AugmentError> {
        let vectors = texts.iter().flat_map(|text| {
            let mut counts = [1.0f32; 8];
            for letter in text.bytes() {
                counts[usize::from(letter) % 8] += 1.0;
            }
            let norm = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
            counts.map(|count| count / norm)
        });
        let positions: Vec<usize> = (0..texts.len()).collect();
        done(&positions, &Embeddings::new(8, vectors.collect()))
    }
}

/// A row: which question, which database, which answer. Few of each, so that every constraint meets
/// cases and scores are often equal.
type Kind = (usize, u8, usize);

const QUESTIONS: [&str; 6] = [
    "How many singers are there?",
    "How many heads are older than 56 ?",
    "Which heads are older than 56?",
    "List the names of all singers",
    "the of a",
    "",
];

const ANSWERS: [&str; 4] = [
    "SELECT count(*) FROM t",
    "SELECT a FROM t WHERE b > 56",
    "SELECT b FROM u WHERE a > 3 ORDER BY a",
    "",
];

struct Case {
    folder: tempfile::TempDir,
    train: Split,
    other: Split,
}

impl Case {
    fn new(train: &[Kind], other: &[Kind]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, kinds: &[Kind]| {
            let path = folder.path().join(name);
            let lines: String = kinds.iter().enumerate().map(line).collect();
            std::fs::write(&path, lines).unwrap();
            let reading = Reading {
                columns: &BTreeMap::new(),
                required: &["question", "answer", "db_id"],
                given: &[],
                filled: &[],
                id: None,
                bad_rows: BadRows::Error,
            };
            Split::open(&[path], &reading).unwrap()
        };
        let drafts: String = other
            .iter()
            .map(|kind| format!("{}\n", ANSWERS[kind.2]))
            .collect();
        std::fs::write(folder.path().join("drafts.txt"), drafts).unwrap();
        Self {
            train: open("train.jsonl", train),
            other: open("other.jsonl", other),
            folder,
        }
    }

    fn drafts(&self) -> PathBuf {
        self.folder.path().join("drafts.txt")
    }

    fn config(&self, selector: Selector) -> RetrievalConfig {
        RetrievalConfig {
            selector,
            different: vec!["db_id".into()],
            near_duplicate: 0.75,
            drafts: self.drafts().to_str().unwrap().into(),
            ..RetrievalConfig::default()
        }
    }

    fn sources<'a>(&'a self, task: &'a Task, retrieval: &'a RetrievalConfig) -> Sources<'a> {
        Sources {
            task,
            retrieval,
            train: &self.train,
            seed: 7,
            embedder: Some(&LetterCounts),
            cache: None,
            progress: &(),
        }
    }
}

/// The same question with more or less space around it.
fn line((index, kind): (usize, &Kind)) -> String {
    let question = format!("{}{}", " ".repeat(index % 2), QUESTIONS[kind.0]);
    let database = format!("db{}", kind.1);
    let fields = json!({
        "question": question, "answer": ANSWERS[kind.2], "db_id": database, "context": "",
    });
    format!("{fields}\n")
}

fn kinds(most: usize) -> impl Strategy<Value = Vec<Kind>> {
    prop::collection::vec((0..QUESTIONS.len(), 0u8..4, 0..ANSWERS.len()), 1..most)
}

/// Examples of the rows from `start` on, as the driver asks for them.
fn select(
    (selector, constraints): (&dyn Select, &Constraints),
    (split, own): (&Split, bool),
    range: std::ops::Range<usize>,
    n: usize,
) -> Vec<Vec<Example>> {
    let rows = split.rows(range.clone()).unwrap();
    let queries = Queries {
        split: "split",
        own,
        start: range.start,
        split_rows: split.len(),
        rows: &rows,
    };
    let allowed = constraints.of_queries(&rows, own.then_some(range.start));
    let allowed = |query, row| allowed.allows(query, row);
    selector.select(&queries, n, &allowed).unwrap()
}

fn words(row: &Row) -> Vec<String> {
    let question = row.text("question").to_lowercase();
    let words = question.split(|c: char| !c.is_alphanumeric());
    let mut words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.sort();
    words.dedup();
    words
}

/// As the config's text says it.
fn may_be_example(query: &Row, row: &Row, own: bool) -> bool {
    let (of_query, of_row) = (words(query), words(row));
    let common = of_query.iter().filter(|word| of_row.contains(word)).count();
    let all = of_query.len() + of_row.len() - common;
    let near_duplicate = all > 0 && common as f32 / all as f32 >= 0.75;
    !(own && row.index == query.index)
        && row.text("question").trim() != query.text("question").trim()
        && row.text("db_id") != query.text("db_id")
        && !near_duplicate
}

fn check_laws(chosen: &[Vec<Example>], train: &[Row], queries: &[Row], n: usize, own: bool) {
    assert_eq!(chosen.len(), queries.len());
    for (query, examples) in queries.iter().zip(chosen) {
        let allowed = train.iter().filter(|row| may_be_example(query, row, own));
        let allowed: Vec<usize> = allowed.map(|row| row.index).collect();
        assert_eq!(examples.len(), n.min(allowed.len()));
        assert!(
            examples
                .iter()
                .all(|example| allowed.contains(&example.row))
        );
        let mut distinct: Vec<_> = examples.iter().map(|example| example.row).collect();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), examples.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_selector_keeps_the_constraints_and_asks_no_row_about_another(
        train in kinds(40), other in kinds(20), n in 0usize..6,
    ) {
        let case = Case::new(&train, &other);
        let task = Task::sql();
        let train_rows = case.train.rows(0..case.train.len()).unwrap();
        for kind in SELECTORS {
            let config = case.config(kind);
            let selector = case.sources(&task, &config).selector().unwrap();
            let mut constraints = Constraints::new(&task, &config, None).unwrap();
            constraints.push(&train_rows);
            let with = (selector.as_ref(), &constraints);
            for (split, own) in [(&case.train, true), (&case.other, false)] {
                let of = |range| select(with, (split, own), range, n);
                let all = of(0..split.len());
                let queries = split.rows(0..split.len()).unwrap();
                check_laws(&all, &train_rows, &queries, n, own);
                let middle = split.len() / 2;
                let parts = [of(0..middle), of(middle..split.len())].concat();
                prop_assert_eq!(&all, &parts, "{:?}", kind);
                let falls = |pair: &[Example]| pair[0].score >= pair[1].score;
                if kind != Selector::Mmr {
                    prop_assert!(all.iter().all(|row| row.windows(2).all(falls)), "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn one_example_by_mmr_is_the_semantic_one(train in kinds(40), other in kinds(20)) {
        let case = Case::new(&train, &other);
        let task = Task::sql();
        let one = |kind| {
            let config = case.config(kind);
            let selector = case.sources(&task, &config).selector().unwrap();
            let mut constraints = Constraints::new(&task, &config, None).unwrap();
            constraints.push(&case.train.rows(0..case.train.len()).unwrap());
            let with = (selector.as_ref(), &constraints);
            let several = select(with, (&case.other, false), 0..case.other.len(), 3);
            let one = select(with, (&case.other, false), 0..case.other.len(), 1);
            (one, several)
        };
        let (semantic, _) = one(Selector::Semantic);
        let (mmr, several) = one(Selector::Mmr);
        prop_assert_eq!(&mmr, &semantic);
        // And of several the first.
        let first: Vec<_> = several.iter().map(|row| row[..row.len().min(1)].to_vec()).collect();
        prop_assert_eq!(&first, &semantic);
    }

    /// No likeness is better than the chosen ones', and of equals none is nearer.
    #[test]
    fn skeleton_takes_the_likest_and_of_those_the_nearest(train in kinds(40), other in kinds(20)) {
        let case = Case::new(&train, &other);
        let task = Task::sql();
        let of = |kind, n| {
            let config = case.config(kind);
            let selector = case.sources(&task, &config).selector().unwrap();
            let mut constraints = Constraints::new(&task, &config, None).unwrap();
            constraints.push(&case.train.rows(0..case.train.len()).unwrap());
            select((selector.as_ref(), &constraints), (&case.other, false), 0..case.other.len(), n)
        };
        let nearest_first = of(Selector::Semantic, train.len());
        for (query, (all, few)) in nearest_first.iter().zip(of(Selector::Skeleton, 3)).enumerate() {
            let mut skeletons = likeness::Skeletons::default();
            let rows = case.train.rows(0..case.train.len()).unwrap();
            rows.iter().for_each(|row| skeletons.push(task.skeleton(&row.text("answer"))));
            let like = skeletons.likeness(&task.skeleton(ANSWERS[other[query].2]));
            let mut expected: Vec<Example> = all.iter().map(|example| Example {
                row: example.row,
                score: like[skeletons.of_row(example.row)],
            }).collect();
            expected.sort_by(|a, b| b.score.total_cmp(&a.score));
            expected.truncate(3);
            prop_assert_eq!(few, expected);
        }
    }
}

fn skeleton_problem(drafts: Option<&str>) -> AugmentError {
    let case = Case::new(&[(0, 0, 0), (1, 1, 1)], &[(2, 2, 1), (3, 3, 2)]);
    let task = Task::sql();
    let mut config = case.config(Selector::Skeleton);
    match drafts {
        Some(drafts) => std::fs::write(case.drafts(), drafts).unwrap(),
        None => config.drafts.clear(),
    }
    let selector = case.sources(&task, &config).selector().unwrap();
    let select = |split: &Split, own| {
        let rows = split.rows(0..split.len()).unwrap();
        let queries = Queries {
            split: "validation",
            own,
            start: 0,
            split_rows: split.len(),
            rows: &rows,
        };
        selector.select(&queries, 1, &|query, row| !own || query != row)
    };
    select(&case.train, true).expect("the train split has its gold answers");
    select(&case.other, false).unwrap_err()
}

#[test]
fn skeleton_says_which_drafts_it_lacks() {
    let error = skeleton_problem(None);
    assert_eq!(
        error.to_string(),
        "selector `skeleton` has no draft answers for split `validation`"
    );
    assert!(error.hint().unwrap().contains("rag-tune eval"));
    for drafts in ["SELECT 1\n", "SELECT 1\n2\n3\n"] {
        let problem = skeleton_problem(Some(drafts)).to_string();
        assert!(
            problem.ends_with(" drafts, and split `validation` has 2 rows"),
            "{problem}"
        );
    }
}
