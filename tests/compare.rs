//! `rag-tune compare`: from scored rows to tests and flipped rows.

mod support;

use serde_json::{Value, json};
use support::toy_world::ToyWorld;

/// Writes a file of scored rows, `right[i]` saying whether row `i` is right.
fn write_rows(world: &ToyWorld, name: &str, right: &[bool]) {
    let line = |(index, &is_right): (usize, &bool)| {
        let share = if is_right { 1.0 } else { 0.0 };
        let status = if is_right { "correct" } else { "wrong" };
        let row = json!({
            "index": index, "correct": is_right, "status": status,
            "metrics": {"execution": share, "execution_strict": 0.0},
            "prediction": format!("{name} says {index}"), "gold": format!("SELECT {index}"), "examples": [],
        });
        format!("{row}\n")
    };
    world.write(
        name,
        &right.iter().enumerate().map(line).collect::<String>(),
    );
}

/// 60 rows: both right on 20, only the first on 2, only the second on 14.
fn world() -> ToyWorld {
    let world = ToyWorld::new();
    write_rows(
        &world,
        "first.jsonl",
        &(0..60).map(|row| row < 22).collect::<Vec<_>>(),
    );
    let second: Vec<bool> = (0..60)
        .map(|row| row < 20 || (22..36).contains(&row))
        .collect();
    write_rows(&world, "second.jsonl", &second);
    world
}

#[test]
fn two_runs_are_tabled_tested_and_their_flipped_rows_shown() {
    let world = world();
    let text = world
        .rag_tune(&["compare", "first.jsonl", "second.jsonl", "--flips", "1"])
        .ok();
    insta::assert_snapshot!(text);
}

#[test]
fn json_holds_the_test_and_every_flipped_row() {
    let world = world();
    let text = world
        .rag_tune(&["compare", "first.jsonl", "second.jsonl", "--json"])
        .ok();
    let comparison: Value = serde_json::from_str(&text).unwrap();
    let difference = &comparison["differences"][0];
    // scipy.stats.binomtest(2, 16).pvalue
    assert!((difference["p_value"].as_f64().unwrap() - 0.004_180_908_203_125).abs() < 1e-12);
    assert_eq!(difference["within_noise"], false);
    assert_eq!(difference["rows_only_first"], json!([20, 21]));
    assert_eq!(
        difference["rows_only_second"],
        json!((22..36).collect::<Vec<_>>())
    );
    assert_eq!(comparison["sides"][1]["accuracy"], json!(34.0 / 60.0));
}

/// The second seed of each side turns the difference round: together they show none.
#[test]
fn several_seeds_are_pooled_and_not_counted_as_rows() {
    let world = world();
    for (copy, of) in [
        ("first_2.jsonl", "second.jsonl"),
        ("second_2.jsonl", "first.jsonl"),
    ] {
        world.write(copy, &world.read(of));
    }
    let sides = ["first.jsonl,first_2.jsonl", "second.jsonl,second_2.jsonl"];
    let text = world
        .rag_tune(&["compare", sides[0], sides[1], "--json"])
        .ok();
    let comparison: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(comparison["sides"][0]["seeds"], 2);
    assert_eq!(comparison["sides"][0]["rows"], 60);
    let difference = &comparison["differences"][0];
    assert_eq!(
        (&difference["test"], &difference["within_noise"]),
        (&json!("bootstrap"), &json!(true))
    );
    assert_eq!(difference["difference"], 0.0);
}

#[test]
fn three_runs_are_adjusted_for_their_pairs() {
    let world = world();
    world.write("third.jsonl", &world.read("first.jsonl"));
    let text = world
        .rag_tune(&[
            "compare",
            "first.jsonl",
            "second.jsonl",
            "third.jsonl",
            "--json",
        ])
        .ok();
    let comparison: Value = serde_json::from_str(&text).unwrap();
    let differences = comparison["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 3);
    for difference in differences {
        assert!(difference["adjusted_p_value"].as_f64() >= difference["p_value"].as_f64());
    }
    assert_eq!(
        differences[1]["adjusted_p_value"], 1.0,
        "first and third are the same"
    );
}

#[test]
fn a_run_folder_stands_for_its_own_evaluation() {
    let world = ToyWorld::new();
    for (out, examples) in [("out/zero_shot", "0"), ("out/rag1", "1")] {
        let flags = [
            format!("output={out}"),
            format!("retrieval.examples={examples}"),
        ];
        world
            .rag_tune(&["train", "run.toml", "--set", &flags[0], "--set", &flags[1]])
            .ok();
    }
    for examples in ["0", "1"] {
        let flag = format!("retrieval.examples={examples}");
        world
            .rag_tune(&["eval", "--adapter", "out", "--set", &flag])
            .ok();
    }
    let text = world
        .rag_tune(&["compare", "out/zero_shot", "out/rag1"])
        .ok();
    assert!(
        text.contains("zero_shot/validation-zero_shot") && text.contains("rag1/validation-rag1"),
        "{text}"
    );
    world
        .rag_tune(&["eval", "--config", "run.toml", "--out", "out/base"])
        .ok();
    let flag = "retrieval.examples=1";
    world
        .rag_tune(&[
            "eval", "--config", "run.toml", "--out", "out/base", "--set", flag,
        ])
        .ok();
    let refusal = world
        .rag_tune(&["compare", "out/zero_shot", "out/base"])
        .refused();
    assert!(
        refusal.contains("several evaluations") && refusal.contains("-no_adapter"),
        "{refusal}"
    );
}

#[test]
fn other_rows_are_not_compared() {
    let world = world();
    write_rows(&world, "short.jsonl", &[true; 7]);
    let refusal = world
        .rag_tune(&["compare", "first.jsonl", "short.jsonl"])
        .refused();
    assert!(
        refusal.contains("60 rows") && refusal.contains("7"),
        "{refusal}"
    );

    world.write(
        "other.jsonl",
        &world
            .read("first.jsonl")
            .replace("SELECT 7\"", "SELECT 8\""),
    );
    let refusal = world
        .rag_tune(&["compare", "first.jsonl", "other.jsonl"])
        .refused();
    assert!(
        refusal.contains("row 7") && refusal.contains("not the same rows"),
        "{refusal}"
    );

    let refusal = world
        .rag_tune(&["compare", "first.jsonl", "data"])
        .refused();
    assert!(
        refusal.contains("`data` is no evaluation") && refusal.contains("hint: "),
        "{refusal}"
    );

    world.write("broken.jsonl", "{\"index\": 0}\n");
    let refusal = world
        .rag_tune(&["compare", "first.jsonl", "broken.jsonl"])
        .refused();
    assert!(
        refusal.contains("line 1") && refusal.contains("hint: "),
        "{refusal}"
    );
}
