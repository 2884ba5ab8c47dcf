//! The driver on a toy data set: files in, files out.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{write_toy_data, write_toy_embedder};
use rag_tune_augment::dataset::{DataError, LeakedRows};
use rag_tune_augment::select::{NoiseDraw, Order};
use rag_tune_augment::{
    AugmentError, AugmentRequest, Augmented, AugmentedRow, DataConfig, Hub, LeakageReport,
    Progress, RetrievalConfig, Selector, Task, augment, is_current, output_path, read_augmented,
};

/// A folder with the toy data and embedder, and the settings to augment it with.
struct Toy {
    root: tempfile::TempDir,
    data: DataConfig,
    retrieval: RetrievalConfig,
    seed: u64,
    epochs: usize,
}

impl Toy {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        write_toy_data(&root.path().join("data"));
        write_toy_embedder(&root.path().join("embedder"));
        let text = |folder: &str| root.path().join(folder).to_str().unwrap().to_owned();
        let data = DataConfig {
            source: text("data"),
            ..DataConfig::default()
        };
        let retrieval = RetrievalConfig {
            embedder: text("embedder"),
            different: vec!["db_id".into()],
            ..RetrievalConfig::default()
        };
        Self {
            root,
            data,
            retrieval,
            seed: 1,
            epochs: 1,
        }
    }

    fn out(&self) -> PathBuf {
        self.root.path().join("out")
    }

    fn source(&self, split: &str) -> PathBuf {
        self.root.path().join(format!("data/{split}.jsonl"))
    }

    fn with_request<T>(&self, splits: &[&str], act: impl Fn(&AugmentRequest<'_>, &Hub) -> T) -> T {
        let request = AugmentRequest {
            task: &Task::sql(),
            data: &self.data,
            retrieval: &self.retrieval,
            splits,
            out: &self.out(),
            seed: self.seed,
            epochs: self.epochs,
            cache: Some(self.root.path().join("cache")),
        };
        // An empty mirror: no test may look elsewhere.
        act(
            &request,
            &Hub::from_env(Some(self.root.path().join("mirror"))),
        )
    }

    fn augment(&self, splits: &[&str]) -> Result<Augmented, AugmentError> {
        self.with_request(splits, |request, hub| augment(request, hub, &()))
    }

    fn rows(&self, split: &str, epoch: usize) -> Vec<AugmentedRow> {
        read_augmented(&output_path(&self.out(), split, epoch)).unwrap()
    }

    fn is_current(&self, splits: &[&str]) -> bool {
        self.with_request(splits, is_current).unwrap()
    }

    /// Augmenting both splits fails, and leaves nothing.
    fn fails(&self) -> AugmentError {
        let error = self.augment(&["train", "validation"]).unwrap_err();
        let left = fs::read_dir(self.out()).map_or(0, |entries| entries.count());
        assert_eq!(left, 0, "half-written output after: {error}");
        error
    }
}

fn append(path: &Path, line: &str) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, text + line + "\n").unwrap();
}

#[test]
fn rows_come_out_in_order_with_fields_prompts_and_examples() {
    let toy = Toy::new();
    let manifest = toy.augment(&["train", "validation"]).unwrap().manifest;
    assert_eq!(manifest.splits["train"].rows, 8);

    let train = read_augmented(&toy.out().join("train.jsonl")).unwrap();
    assert_eq!(train.len(), 8);
    let text = fs::read_to_string(toy.out().join("train.jsonl")).unwrap();
    assert!(text.starts_with(r#"{"db_id":"db0","context":"#), "{text}");
    assert!(
        text.contains(r#""difficulty":1.5,"inference_prompt":"You are"#),
        "{text}"
    );
    for (index, row) in train.iter().enumerate() {
        let [example] = row.examples[..] else {
            panic!("row {index} has {:?}", row.examples)
        };
        let chosen = &train[example.row];
        assert_ne!(chosen.text("db_id"), row.text("db_id"), "row {index}");
        let question = format!("### Input:\n{}\n", chosen.text("question").unwrap());
        assert!(row.inference_prompt.contains(&question), "row {index}");
        let answer = row.text("answer").unwrap();
        assert_eq!(
            row.full_prompt,
            format!("{}\n{answer}", row.inference_prompt)
        );
    }
}

#[test]
fn the_nearest_text_that_is_not_equal_is_chosen() {
    let mut toy = Toy::new();
    toy.retrieval.different.clear();
    // Other space between the words: the vector of train row 2 ("one two"), and another text.
    append(
        &toy.source("validation"),
        r#"{"db_id":"x","context":"c","question":"one   two","answer":"a"}"#,
    );
    toy.augment(&["validation"]).unwrap();
    let rows = read_augmented(&toy.out().join("validation.jsonl")).unwrap();
    assert_eq!(rows[2].examples[0].row, 2);
    assert!((rows[2].examples[0].score - 1.0).abs() < 1e-5);
    assert_ne!(rows[1].examples[0].row, 0, "train row 0 asks the same");
}

#[test]
fn zero_examples_need_no_embedder_and_no_train_split() {
    let mut toy = Toy::new();
    toy.retrieval.examples = 0;
    toy.retrieval.embedder = "no/such-embedder".into();
    fs::remove_file(toy.source("train")).unwrap();
    let manifest = toy.augment(&["validation"]).unwrap().manifest;
    assert_eq!(manifest.settings.embedder_sha256, None);
    assert_eq!(manifest.settings.knowledge_base_sha256, None);
    let rows = read_augmented(&toy.out().join("validation.jsonl")).unwrap();
    assert!(rows[0].examples.is_empty() && !rows[0].inference_prompt.contains("Given the"));
}

#[test]
fn the_random_selector_follows_the_seed() {
    let mut toy = Toy::new();
    toy.retrieval.selector = Selector::Random;
    let mut drawn = |seed: u64| {
        toy.seed = seed;
        toy.augment(&["train"]).unwrap();
        fs::read_to_string(toy.out().join("train.jsonl")).unwrap()
    };
    let first = drawn(1);
    assert_eq!(drawn(1), first);
    assert!((2..6).any(|seed| drawn(seed) != first));
}

#[test]
fn a_second_run_embeds_nothing() {
    /// Counts what is embedded; works may be within each other.
    #[derive(Default)]
    struct Counter(AtomicU64, Mutex<Vec<String>>);
    impl Progress for Counter {
        fn start(&self, what: &str, _: u64) {
            self.1.lock().unwrap().push(what.to_owned());
        }
        fn advance(&self, n: u64) {
            if self.1.lock().unwrap().last().unwrap() == "embed" {
                self.0.fetch_add(n, Ordering::Relaxed);
            }
        }
        fn finish(&self) {
            self.1.lock().unwrap().pop();
        }
    }
    let toy = Toy::new();
    let embedded = || {
        let counter = Counter::default();
        toy.with_request(&["validation"], |request, hub| {
            augment(request, hub, &counter)
        })
        .unwrap();
        counter.0.into_inner()
    };
    assert_eq!(
        embedded(),
        9,
        "8 train texts, and 2 of which one is a train text too"
    );
    assert_eq!(embedded(), 0);
}

#[test]
fn files_are_current_until_something_they_rest_on_changes() {
    let mut toy = Toy::new();
    let both = ["train", "validation"];
    assert!(!toy.is_current(&both), "nothing is there yet");
    toy.augment(&both).unwrap();
    assert!(toy.is_current(&both) && toy.is_current(&["validation"]));

    toy.seed += 1;
    assert!(toy.is_current(&both), "semantic selection draws nothing");
    toy.retrieval.examples = 2;
    assert!(!toy.is_current(&both));
    toy.retrieval.examples = 1;

    append(
        &toy.source("validation"),
        r#"{"db_id":"","context":"","question":"q","answer":"a"}"#,
    );
    assert!(toy.is_current(&["train"]) && !toy.is_current(&both));
    toy.augment(&["validation"]).unwrap();
    assert!(
        toy.is_current(&both),
        "augmenting one split keeps the other"
    );

    append(&toy.out().join("train.jsonl"), "{}");
    assert!(!toy.is_current(&["train"]), "the output was edited");
    append(&toy.root.path().join("embedder/tokenizer.json"), " ");
    assert!(!toy.is_current(&["validation"]), "the embedder changed");
}

#[test]
fn too_many_examples_are_refused_with_the_row() {
    let mut toy = Toy::new();
    toy.retrieval.examples = 7;
    let error = toy.fails();
    assert_eq!(
        error.to_string(),
        "split `train` row 0: only 6 of 8 train rows may be its examples, \
         `retrieval.examples` asks for 7"
    );
    assert!(error.hint().unwrap().contains("at most 6"));
}

#[test]
fn a_bad_line_in_the_second_split_leaves_nothing_of_the_first() {
    let toy = Toy::new();
    append(&toy.source("validation"), r#"{"question":"#);
    let message = toy.fails().to_string();
    assert!(
        message.contains("validation.jsonl` line 3: not a JSON object"),
        "{message}"
    );
}

#[test]
fn a_column_that_must_differ_must_be_there() {
    let mut toy = Toy::new();
    toy.retrieval.different.push("topic".into());
    let message = toy.fails().to_string();
    assert!(
        message.ends_with("train.jsonl` line 1: no field `topic`"),
        "{message}"
    );
}

#[test]
fn augmented_files_are_no_source() {
    let mut toy = Toy::new();
    toy.augment(&["train", "validation"]).unwrap();
    toy.data.source = toy.out().to_str().unwrap().into();
    let error = toy.augment(&["train"]).unwrap_err();
    assert!(
        matches!(
            error,
            AugmentError::Data(DataError::ReservedField { row: 0, .. })
        ),
        "{error}"
    );
}

#[test]
fn an_embedder_of_another_family_is_named() {
    let toy = Toy::new();
    let config = toy.root.path().join("embedder/config.json");
    fs::write(config, r#"{"model_type": "t5"}"#).unwrap();
    let error = toy.fails();
    assert!(
        error.to_string().contains("it is of the family `t5`"),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[test]
fn truncated_embedder_weights_are_an_error() {
    let toy = Toy::new();
    let weights = toy.root.path().join("embedder/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(toy.fails(), AugmentError::Embedder { .. }));
}

/// Row 0 of the toy train split, word for word.
const TRAIN_ROW_0: &str =
    r#"{"db_id":"x","context":"c","question":" one","answer":"SELECT a FROM t0"}"#;

#[test]
fn an_eval_row_that_is_a_train_row_is_refused() {
    let toy = Toy::new();
    append(&toy.source("validation"), TRAIN_ROW_0);
    let error = toy.fails();
    let message = error.to_string();
    assert!(
        message.ends_with(
            "validation.jsonl` row 2 (split `validation`) has question and answer of row 0 of the \
             split `train`, where examples come from"
        ),
        "{message}"
    );
    assert!(error.hint().unwrap().contains("leaked_rows"));
    // Also where only the eval split is augmented.
    assert!(toy.augment(&["validation"]).is_err());
}

#[test]
fn an_excluded_train_row_is_nobodys_example() {
    let mut toy = Toy::new();
    append(&toy.source("validation"), TRAIN_ROW_0);
    toy.data.leaked_rows = LeakedRows::Exclude;
    toy.retrieval.different.clear();
    toy.retrieval.examples = 5;
    let augmented = toy.augment(&["train", "validation"]).unwrap();
    assert_eq!(augmented.excluded, 1);
    for split in ["train", "validation"] {
        for row in toy.rows(split, 0) {
            assert!(row.examples.iter().all(|example| example.row != 0));
        }
    }
}

#[test]
fn the_closest_example_may_stand_last() {
    let mut toy = Toy::new();
    toy.retrieval.examples = 3;
    toy.augment(&["validation"]).unwrap();
    let first = toy.rows("validation", 0);
    toy.retrieval.order = Order::ClosestLast;
    toy.augment(&["validation"]).unwrap();
    for (mut first, last) in first.into_iter().zip(toy.rows("validation", 0)) {
        first.examples.reverse();
        assert_eq!(first.examples, last.examples);
        assert_ne!(first.inference_prompt, last.inference_prompt);
    }
}

#[test]
fn noise_is_for_training_prompts_and_may_change_with_the_epoch() {
    let mut toy = Toy::new();
    toy.retrieval.noise_none = 0.5;
    toy.retrieval.noise_draw = NoiseDraw::EachEpoch;
    toy.epochs = 4;
    toy.augment(&["train", "validation"]).unwrap();
    assert!(
        toy.rows("validation", 0)
            .iter()
            .all(|row| row.examples.len() == 1)
    );
    let counts = |epoch: usize| -> Vec<usize> {
        let rows = toy.rows("train", epoch);
        rows.iter().map(|row| row.examples.len()).collect()
    };
    let epochs: Vec<Vec<usize>> = (0..4).map(counts).collect();
    assert!(epochs.iter().any(|epoch| epoch.contains(&0)));
    assert!(epochs.iter().any(|epoch| epoch.contains(&1)));
    assert!(epochs[1..].iter().any(|epoch| *epoch != epochs[0]));
    assert!(toy.is_current(&["train"]));
    toy.epochs = 5;
    assert!(!toy.is_current(&["train"]), "the fifth epoch is missing");
    toy.epochs = 2;
    assert!(toy.is_current(&["train"]), "two of four are enough");
    toy.seed += 1;
    assert!(!toy.is_current(&["train"]), "noise is drawn by the seed");
}

#[test]
fn random_noise_keeps_the_constraints() {
    let mut toy = Toy::new();
    toy.retrieval.noise_random = 1.0;
    toy.augment(&["train"]).unwrap();
    let rows = toy.rows("train", 0);
    let drawn = |row: &AugmentedRow| row.examples[0].score == 0.0;
    assert!(rows.iter().all(drawn));
    let db_id = |row: &AugmentedRow| row.text("db_id").unwrap().to_owned();
    let differs = |row: &AugmentedRow| db_id(row) != db_id(&rows[row.examples[0].row]);
    assert!(rows.iter().all(differs));
}

#[test]
fn the_report_counts_what_the_splits_share() {
    let mut toy = Toy::new();
    toy.retrieval.different.clear();
    // The question of train row 2 ("one two") in another order and case, with its answer.
    append(
        &toy.source("validation"),
        r#"{"db_id":"db1","context":"c","question":"Two one!","answer":"SELECT a FROM t1"}"#,
    );
    toy.retrieval.different = vec!["db_id".into()];
    toy.augment(&["train", "validation"]).unwrap();
    let report = toy
        .with_request(&["train", "validation"], LeakageReport::measure)
        .unwrap();
    assert_eq!(report.train_rows, 8);
    let validation = &report.splits["validation"];
    // "one" is train row 0's question; "Two one!" has the words of train row 2.
    assert_eq!((validation.rows, validation.equal_questions), (3, 1));
    assert_eq!(validation.near_questions, Some(2));
    assert_eq!(validation.equal_rows, Some(0));
    let [pair] = &validation.near_pairs[..] else {
        panic!("{:?}", validation.near_pairs)
    };
    assert_eq!((pair.row, pair.train_row, pair.likeness), (2, 2, 1.0));
    let db_id = &validation.columns["db_id"];
    assert_eq!(
        (db_id.train_values, db_id.split_values, db_id.shared),
        (4, 3, 1)
    );
    assert_eq!(validation.with_examples, 3);
    assert!(validation.scores.as_ref().unwrap().max <= 1.0 + 1e-5);
    assert_eq!(report.splits["train"].equal_rows, None);
}
