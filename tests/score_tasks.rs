//! `rag-tune score` on answers that are no SQL: made-up ones, the demo data's, and those of the real data sets.

#![allow(clippy::print_stdout)] // says that it skipped

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::rag_tune;

/// A folder with rows and predictions.
fn world(rows: &[Value], predictions: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(folder.path().join("data.jsonl"), lines).unwrap();
    std::fs::write(folder.path().join("predictions"), predictions).unwrap();
    folder
}

fn arguments<'a>(task: &'a str, further: &[&'a str]) -> Vec<&'a str> {
    let files = ["--data", "data.jsonl", "--predictions", "predictions"];
    [&["score", "--task", task], &files[..], further].concat()
}

fn score(task: &str, folder: &Path) -> Value {
    let report = rag_tune(
        folder,
        &arguments(task, &["--json", "--rows", "rows.jsonl"]),
    )
    .ok();
    serde_json::from_str(&report).unwrap()
}

fn rows_of(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("rows.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Gold answers in the form of predictions.
fn predicted(data: &Path, column: &str) -> String {
    let text = std::fs::read_to_string(data).unwrap();
    let line = |line| {
        let row: Value = serde_json::from_str(line).unwrap();
        format!("{}\n", json!({"prediction": row[column]}))
    };
    text.lines().map(line).collect()
}

/// The hint used to get lost: a task that does not load is no error of augmentation.
#[test]
fn an_unknown_task_is_refused_with_those_that_there_are() {
    let folder = world(&[], "");
    let refusal = rag_tune(folder.path(), &arguments("gms8k", &[])).refused();
    assert!(
        refusal.contains("`gms8k`") && refusal.contains("hint: ") && refusal.contains("gsm8k"),
        "{refusal}"
    );
}

#[test]
fn word_problems_have_four_figures_and_a_reason_a_row() {
    let gold = json!({"question": "?", "answer": "48+24 = <<48+24=72>>72\n#### 72"});
    let predictions = [
        "48+24 = <<48+24=73>>73\n#### 72",
        "It is <<48+24=72>>72.",
        "I do not know.",
    ];
    let predictions = predictions
        .map(|text| json!({"prediction": text}).to_string())
        .join("\n");
    let folder = world(&[gold.clone(), gold.clone(), gold], &predictions);
    let report = score("gsm8k", folder.path());
    assert_eq!(
        (&report["task"], &report["metric"]),
        (&json!("gsm8k"), &json!("strict"))
    );
    let metrics = json!({
        "strict": 1.0 / 3.0, "flexible": 2.0 / 3.0, "calculator": 0.5, "lm_eval_strict": 1.0 / 3.0
    });
    assert_eq!(report["metrics"], metrics);
    assert_eq!(
        (&report["correct"], &report["prediction_errors"]),
        (&json!(1), &json!(1))
    );
    let details: Vec<Value> = rows_of(folder.path())
        .into_iter()
        .map(|mut row| row["detail"].take())
        .collect();
    assert_eq!(
        details,
        [
            "<<48+24=73>> is 72",
            "no line \"#### number\"; the last number is 72, expected 72",
            "no number"
        ]
    );
}

#[test]
fn meanings_have_seven_figures_and_a_place_of_the_fault() {
    let gold = json!({"target": "?", "meaning_representation": "inform(name[Tin Harbor], genres[puzzle, sport])"});
    let predictions =
        "inform(genres[sport, puzzle], name[Tin Harbor])\ninform(name[Tin Harbor], genres[puzzle\n";
    let folder = world(&[gold.clone(), gold], predictions);
    let report = score("functional", folder.path());
    assert_eq!(report["metric"], "exact_order_free");
    let metrics = &report["metrics"];
    for (name, expected) in [
        ("exact_order_free", 0.5),
        ("exact_line", 0.0),
        ("function", 1.0),
        ("attribute_precision", 1.0),
        ("attribute_recall", 4.0 / 6.0),
        ("attribute_f1", 8.0 / 10.0),
    ] {
        assert_eq!(metrics[name], expected, "{name}");
    }
    // 11 of 48 characters and 38 of 48, line ends included.
    let expected = (11.0 / 48.0 + 38.0 / 48.0) / 2.0;
    assert!((metrics["character"].as_f64().unwrap() - expected).abs() < 1e-12);
    assert_eq!(
        rows_of(folder.path())[1]["detail"],
        "position 39: expected `]`, found the end"
    );
}

#[test]
fn lines_that_are_no_predictions_are_refused_with_a_hint() {
    let gold = json!({"question": "?", "answer": "#### 72"});
    let folder = world(&[gold], "48+24 = 72\n#### 72\n");
    let refusal = rag_tune(folder.path(), &arguments("gsm8k", &[])).refused();
    assert!(
        refusal.contains("there are 2 predictions for 1 rows"),
        "{refusal}"
    );
    assert!(
        refusal.contains("several lines must be JSON lines"),
        "{refusal}"
    );
}

/// A generator whose own answers score wrong would teach a model nonsense.
#[test]
fn demo_answers_are_right_by_every_metric_and_marked_as_synthetic() {
    for (task, column) in [
        ("gsm8k", "answer"),
        ("functional", "meaning_representation"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        rag_tune(
            folder.path(),
            &["demo-data", "--task", task, "--out", "demo"],
        )
        .ok();
        for split in ["train", "validation"] {
            let data = folder.path().join(format!("demo/{split}.jsonl"));
            std::fs::write(
                folder.path().join("demo/gold.jsonl"),
                predicted(&data, column),
            )
            .unwrap();
            let data = data.to_str().unwrap();
            let files = ["--data", data, "--predictions", "demo/gold.jsonl"];
            let report = rag_tune(
                folder.path(),
                &[&["score", "--task", task, "--json"], &files[..]].concat(),
            )
            .ok();
            let report: Value = serde_json::from_str(&report).unwrap();
            assert_eq!(report["synthetic"], true);
            for (name, value) in report["metrics"].as_object().unwrap() {
                assert_eq!(value, 1.0, "{task} {split} {name}");
            }
        }
    }
}

/// Gold answers against themselves, with the binary, on the real files.
#[test]
fn real_gold_answers_are_right_by_every_metric() {
    let Some(mirror) = std::env::var_os("RAG_TUNE_MIRROR").map(PathBuf::from) else {
        println!("skipped: no RAG_TUNE_MIRROR");
        return;
    };
    for (task, file, column, rows) in [
        ("gsm8k", "openai/gsm8k/main/test.jsonl", "answer", 1319),
        (
            "functional",
            "GEM/viggo/train.jsonl",
            "meaning_representation",
            5103,
        ),
        (
            "functional",
            "GEM/viggo/validation.jsonl",
            "meaning_representation",
            714,
        ),
        (
            "functional",
            "GEM/viggo/test.jsonl",
            "meaning_representation",
            1083,
        ),
    ] {
        let data = mirror.join("datasets").join(file);
        if !data.is_file() {
            println!("skipped: no {file} in the mirror");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gold.jsonl"), predicted(&data, column)).unwrap();
        let files = [
            "--data",
            data.to_str().unwrap(),
            "--predictions",
            "gold.jsonl",
        ];
        let report = rag_tune(
            folder.path(),
            &[&["score", "--task", task, "--json"], &files[..]].concat(),
        )
        .ok();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["total"], rows, "{file}");
        for (name, value) in report["metrics"].as_object().unwrap() {
            assert_eq!(value, 1.0, "{file} {name}");
        }
    }
}
