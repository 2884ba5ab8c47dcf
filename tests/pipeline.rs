//! augment, train, eval and chart on a toy model: that the pieces fit, and what files they leave.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::files_below;
use support::toy_world::ToyWorld;

/// Both arms of the experiment: the output folder and the flags that make it.
const ARMS: [(&str, &[&str]); 2] = [
    ("out/zero_shot", &[]),
    (
        "out/rag1",
        &["--set", "retrieval.examples=1", "--set", "output=out/rag1"],
    ),
];

fn train(world: &ToyWorld, flags: &[&str]) {
    world
        .rag_tune(&[&["train", "run.toml"], flags].concat())
        .ok();
}

#[test]
fn the_whole_experiment_runs_on_a_toy_model() {
    let world = ToyWorld::new();
    for (out, flags) in ARMS {
        train(&world, flags);
        for file in [
            "adapter_config.json",
            "adapter_model.safetensors",
            "rag_tune.toml",
            "retrieval.json",
        ] {
            assert!(world.path(out).join(file).is_file(), "{out} lacks {file}");
        }
        assert_eq!(
            world.json_lines(&format!("{out}/metrics.jsonl")).len(),
            2,
            "two steps"
        );
    }

    let run = world.rag_tune(&["eval", "--adapter", "out"]);
    // One base for all arms, loaded once.
    let shared = "shares the base model, which is loaded already";
    assert_eq!(run.stderr.matches(shared).count(), ARMS.len() - 1);
    let table = run.ok();
    assert!(
        table.contains("validation-zero_shot") && table.contains("validation-rag1"),
        "{table}"
    );
    world
        .rag_tune(&[
            "eval",
            "--adapter",
            "out/zero_shot",
            "--set",
            "retrieval.examples=1",
        ])
        .ok();
    world
        .rag_tune(&["eval", "--config", "run.toml", "--out", "out/base"])
        .ok();

    check_evaluation(&world, "out/zero_shot/eval/validation-zero_shot", 0);
    check_evaluation(&world, "out/rag1/eval/validation-rag1", 1);
    check_evaluation(&world, "out/zero_shot/eval/validation-rag1", 1);
    check_evaluation(&world, "out/base/eval/validation-zero_shot-no_adapter", 0);

    let charts = [
        "chart",
        "out/zero_shot",
        "out/rag1",
        "out/base",
        "--out",
        "charts",
    ];
    for path in world.rag_tune(&charts).ok().lines() {
        assert!(
            std::fs::metadata(world.path(path)).unwrap().len() > 0,
            "{path} is empty"
        );
    }
}

fn check_evaluation(world: &ToyWorld, folder: &str, examples: usize) {
    let scores: Value =
        serde_json::from_str(&world.read(&format!("{folder}/scores.json"))).unwrap();
    assert_eq!(scores["total"], 3);
    assert_eq!(scores["run"]["examples"], examples);
    let predictions = world.json_lines(&format!("{folder}/predictions.jsonl"));
    assert_eq!(predictions.len(), 3);
    for (index, line) in predictions.iter().enumerate() {
        assert_eq!(line["index"], index);
        assert_eq!(line["examples"].as_array().unwrap().len(), examples);
        assert!(
            line["inference_prompt"]
                .as_str()
                .unwrap()
                .ends_with("### Response:")
        );
        assert!(
            line["gold"].is_string()
                && line["prediction"].is_string()
                && line["correct"].is_boolean()
        );
    }
}

#[test]
fn augmented_files_are_reused_until_a_setting_changes() {
    let world = ToyWorld::new();
    let files = world
        .rag_tune(&["augment", "run.toml", "--out", "augmented"])
        .ok();
    assert_eq!(files, "augmented/train.jsonl\naugmented/validation.jsonl\n");
    let again = world.rag_tune(&["augment", "run.toml", "--out", "augmented"]);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    let other = [
        "augment",
        "run.toml",
        "--out",
        "augmented",
        "--set",
        "retrieval.examples=2",
    ];
    assert!(!world.rag_tune(&other).stderr.contains("nothing to do"));
    let row = &world.json_lines("augmented/validation.jsonl")[0];
    assert!(
        row["inference_prompt"]
            .as_str()
            .unwrap()
            .contains("Example 2:"),
        "{row}"
    );
}

#[test]
fn a_finished_run_is_not_overwritten_unasked() {
    let world = ToyWorld::new();
    train(&world, &[]);
    let before = files_below(&world.path("out"));
    let refusal = world.rag_tune(&["train", "run.toml"]).refused();
    assert!(refusal.contains("hint: --force"), "{refusal}");
    assert_eq!(files_below(&world.path("out")), before);
    train(&world, &["--force"]);
}

/// The run is killed, so this also shows that what it had written by then is usable.
#[test]
fn a_killed_run_resumes_to_the_same_adapter() {
    let world = ToyWorld::new();
    let flags = |out| {
        [
            "train",
            "run.toml",
            "--out",
            out,
            "--set",
            "train.max_steps=60",
        ]
    };
    world.rag_tune(&flags("out/whole")).ok();

    let mut child = world.command(&flags("out/killed")).spawn().unwrap();
    // Every step has a checkpoint, so the second step's line says that the first one has.
    let metrics = world.path("out/killed/metrics.jsonl");
    wait_for(|| std::fs::read_to_string(&metrics).is_ok_and(|text| text.lines().count() >= 2));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !world.path("out/killed/adapter_model.safetensors").exists(),
        "it was done already"
    );
    let refusal = world.rag_tune(&flags("out/killed")).refused();
    assert!(refusal.contains("hint: --resume"), "{refusal}");

    world
        .rag_tune(&[&flags("out/killed")[..], &["--resume"]].concat())
        .ok();
    let weights =
        |run: &str| std::fs::read(world.path(run).join("adapter_model.safetensors")).unwrap();
    assert!(
        weights("out/whole") == weights("out/killed"),
        "resuming must change nothing"
    );
    assert_eq!(world.json_lines("out/killed/metrics.jsonl").len(), 60);
}

#[track_caller]
fn wait_for(happened: impl Fn() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "it never happened"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn inspect_shows_which_tokens_carry_loss() {
    let world = ToyWorld::new();
    let text = world.rag_tune(&["inspect", "run.toml"]).ok();
    assert!(text.contains("### Response:\n[S][E][L][E][C][T]"), "{text}");
    assert!(
        text.contains("[</s>]"),
        "the end of the answer is learnt too: {text}"
    );
}

#[test]
fn score_agrees_with_the_databases() {
    let world = ToyWorld::new();
    world.write(
        "predictions.txt",
        "SELECT count(name) FROM trees\nSELECT age FROM trees\nnonsense\n",
    );
    let flags = [
        "score",
        "--task",
        "sql",
        "--data",
        "data/validation.jsonl",
        "--predictions",
        "predictions.txt",
        "--databases",
        "database",
        "--json",
        "--rows",
        "rows.jsonl",
    ];
    let score: Value = serde_json::from_str(&world.rag_tune(&flags).ok()).unwrap();
    let keys: Vec<&str> = score
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        keys[..8],
        [
            "task",
            "metric",
            "correct",
            "total",
            "accuracy",
            "ci95",
            "metrics",
            "intervals"
        ]
    );
    for metric in ["execution", "execution_strict", "exact_set_match"] {
        assert!(score["metrics"][metric].is_f64(), "{score}");
    }
    assert_eq!(
        (&score["correct"], &score["total"]),
        (&Value::from(1), &Value::from(3))
    );
    let rows = world.json_lines("rows.jsonl");
    let correct: Vec<bool> = rows
        .iter()
        .map(|row| row["correct"].as_bool().unwrap())
        .collect();
    assert_eq!(correct, [true, false, false]);
}

#[test]
fn figures_of_synthetic_data_say_so() {
    let world = ToyWorld::new();
    world.write("data/SYNTHETIC", "");
    world.rag_tune(&["eval", "--config", "run.toml"]).ok();
    let scores = world.read("out/zero_shot/eval/validation-zero_shot-no_adapter/scores.json");
    assert!(scores.contains("\"synthetic\": true"), "{scores}");
}

#[test]
fn several_adapters_are_scored_on_one_base() {
    let world = ToyWorld::new();
    for (_, flags) in ARMS {
        train(&world, flags);
    }
    let shared = "shares the base model, which is loaded already";
    let eval = |flags: &[&str]| {
        let both = [
            "eval",
            "--adapter",
            "out/rag1",
            "--adapter",
            "out/zero_shot",
        ];
        world.rag_tune(&[&both[..], flags].concat())
    };
    // The same weights by another name, and another setting of the run, are the same base.
    let config = world.read("out/zero_shot/rag_tune.toml");
    let rewrite = |from: &str, to: &str| {
        assert!(config.contains(from), "{config}");
        world.write("out/zero_shot/rag_tune.toml", &config.replace(from, to));
    };
    rewrite("base = \"model\"", "base = \"./model\"");
    let run = eval(&[]);
    assert_eq!(run.stderr.matches(shared).count(), 1, "{}", run.stderr);
    let table = run.ok();
    let (rag, zero_shot) = (table.find("rag1"), table.find("zero_shot"));
    assert!(
        rag.is_some() && rag < zero_shot,
        "in the order given: {table}"
    );
    // The answers are those of each adapter alone.
    let predictions = "out/zero_shot/eval/validation-zero_shot/predictions.jsonl";
    let together = world.read(predictions);
    world.rag_tune(&["eval", "--adapter", "out/zero_shot"]).ok();
    assert_eq!(world.read(predictions), together);

    // Held otherwise, it is another base.
    rewrite("quantization = \"int8\"", "quantization = \"none\"");
    let run = eval(&[]);
    assert_eq!(run.stderr.matches(shared).count(), 0, "{}", run.stderr);
    run.ok();

    // Named twice is once; two of one name do not write into one folder.
    let twice = ["eval", "--adapter", "out/rag1", "--adapter", "out"];
    let table = world.rag_tune(&twice).ok();
    assert_eq!(table.matches("validation-rag1").count(), 1, "{table}");
    std::fs::create_dir(world.path("other")).unwrap();
    std::fs::rename(world.path("out/zero_shot"), world.path("other/rag1")).unwrap();
    let same = [
        "eval",
        "--adapter",
        "out/rag1",
        "--adapter",
        "other/rag1",
        "--out",
        "scores",
    ];
    let refusal = world.rag_tune(&same).refused();
    assert!(
        refusal.contains("two of the runs are called `rag1`"),
        "{refusal}"
    );
}

/// It was a bare "file not found".
#[test]
fn an_adapter_without_its_records_is_refused_with_a_hint() {
    let world = ToyWorld::new();
    train(&world, &[]);
    for file in ["retrieval.json", "base_model.json", "rag_tune.toml"] {
        let path = world.path("out/zero_shot").join(file);
        let text = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let refusal = world
            .rag_tune(&["eval", "--adapter", "out/zero_shot"])
            .refused();
        assert!(
            refusal.contains(&format!(
                "the adapter in `out/zero_shot` has no {file} beside it"
            )),
            "{refusal}"
        );
        assert!(
            refusal.contains("hint: name a whole run folder"),
            "{refusal}"
        );
        std::fs::write(&path, text).unwrap();
    }
}
