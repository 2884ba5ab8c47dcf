//! Scores of worked answers against lm-evaluation-harness, and on GSM8K itself.

#![allow(clippy::print_stdout)] // says that it skipped

use std::collections::BTreeSet;
use std::path::PathBuf;

use rag_tune_eval::{RowScore, ScoreReport, Scorer, TextScorer};
use serde::Deserialize;

/// What `scripts/golden_gsm8k.py` wrote.
#[derive(Deserialize)]
struct Golden {
    answers: Vec<Verdict>,
    sums: Vec<Sum>,
}

#[derive(Deserialize)]
struct Verdict {
    form: String,
    gold: String,
    prediction: String,
    strict: bool,
    flexible: bool,
}

#[derive(Deserialize)]
struct Sum {
    text: String,
    right: bool,
}

fn golden() -> Golden {
    let text = include_str!("../../../tests/fixtures/golden/gsm8k.json");
    serde_json::from_str(text).unwrap()
}

fn score(gold: Vec<String>, predictions: &[String]) -> Vec<RowScore> {
    TextScorer::gsm8k(gold).score(predictions, &|| ()).unwrap()
}

fn is_right(row: &RowScore, metric: &str) -> bool {
    row.metrics[metric].part == 1.0
}

/// Where the flexible answer is judged otherwise than by lm-eval, and whether it is right for us: the form of the
/// answers, or the text of one. docs/evaluation.md has the reasons.
const DIFFERENCES: [(&str, bool); 32] = [
    // A number is what it says, and not how it is written.
    ("cents", true),
    ("leading zero", true),
    ("fraction", true),
    ("72.0", true),
    ("72.00", true),
    ("72.000", true),
    ("$72.00", true),
    ("072", true),
    ("72/1", true),
    ("144/2", true),
    ("#### 72/1", true),
    ("#### 144/2", true),
    ("71/72", false),
    ("2/72", false),
    ("unicode minus", false),
    ("\u{2212}72", false),
    ("=\u{2212}72", false),
    // A minus that takes away from something is no sign.
    ("range", true),
    ("71-72", true),
    ("0-72", true),
    ("x-72", true),
    ("(5)-72", true),
    // Commas separate groups of three digits; points and dollar signs alone are no number.
    ("list", true),
    ("1,72", true),
    ("7,2", false),
    ("#### 7,2", false),
    ("ellipsis", true),
    ("boxed", true),
    ("#### 72..", true),
    ("so 72 ...", true),
    ("72 ..", true),
    ("72 $$", true),
];

#[test]
fn verdicts_are_those_of_lm_eval_but_for_the_listed_differences() {
    let Golden { answers, .. } = golden();
    let gold = answers.iter().map(|case| case.gold.clone()).collect();
    let predictions: Vec<String> = answers.iter().map(|case| case.prediction.clone()).collect();
    let mut seen = BTreeSet::new();
    for (case, row) in answers.iter().zip(score(gold, &predictions)) {
        let Verdict {
            form, prediction, ..
        } = case;
        let strict = is_right(&row, "lm_eval_strict");
        assert_eq!(strict, case.strict, "{prediction:?}");
        let ours = is_right(&row, "flexible");
        if ours != case.flexible {
            let name = if form == "odd" { prediction } else { form };
            let listed = DIFFERENCES.iter().find(|(text, _)| text == name);
            assert_eq!(listed, Some(&(name.as_str(), ours)), "{prediction:?}");
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), DIFFERENCES.len(), "only these differ: {seen:?}");
}

#[test]
fn sums_are_right_where_exact_fractions_say_so() {
    let sums = golden().sums;
    let texts: Vec<String> = sums.iter().map(|sum| format!("<<{}>>", sum.text)).collect();
    let rows = score(vec!["1".to_owned(); sums.len()], &texts);
    for (sum, row) in sums.iter().zip(&rows) {
        assert_eq!(
            is_right(row, "calculator"),
            sum.right,
            "{}: {:?}",
            sum.text,
            row.detail
        );
    }
}

/// The answers of a split of GSM8K, or nothing where the mirror is missing.
fn answers_of(split: &str) -> Option<Vec<String>> {
    let mirror = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from);
    let file = mirror?.join(format!("datasets/openai/gsm8k/main/{split}.jsonl"));
    let text = std::fs::read_to_string(file).ok()?;
    let answer = |line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["answer"].as_str().unwrap().to_owned()
    };
    Some(text.lines().map(answer).collect())
}

/// Every gold answer is right by its own measure, and so is every calculation in it.
#[test]
fn gold_answers_and_all_their_calculations_are_right() {
    for (split, rows, calculations) in [("train", 7473, 23716.0), ("test", 1319, 4282.0)] {
        let Some(gold) = answers_of(split) else {
            println!("skipped: no GSM8K in RAG_TUNE_MIRROR");
            return;
        };
        let scorer = TextScorer::gsm8k(gold.clone());
        let scored = scorer.score(&gold, &|| ()).unwrap();
        let report = ScoreReport::new(&scorer, &scored, None);
        assert_eq!((report.correct, report.total), (rows, rows));
        let values: Vec<_> = report.metrics.values().collect();
        assert_eq!(values, [&Some(1.0); 4]);
        let checked: f64 = scored
            .iter()
            .map(|row| row.metrics["calculator"].whole)
            .sum();
        assert_eq!(checked, calculations, "{split}");
    }
}
