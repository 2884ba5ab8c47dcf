//! `rag-tune augment` beyond the first experiment: other tasks and files, noise, leakage.

mod support;

use support::toy_world::ToyWorld;

fn set(world: &ToyWorld, arguments: &[&str], values: &[&str]) -> support::Run {
    let flags: Vec<&str> = values.iter().flat_map(|value| ["--set", value]).collect();
    world.rag_tune(&[arguments, &flags].concat())
}

#[test]
fn the_report_shows_what_the_splits_share() {
    let world = ToyWorld::new();
    let text = set(
        &world,
        &["augment", "run.toml", "--report"],
        &["retrieval.examples=1", "retrieval.selector=bm25"],
    )
    .ok();
    insta::assert_snapshot!(text);
    let report: serde_json::Value =
        serde_json::from_str(&world.read("out/zero_shot/augmented/leakage.json")).unwrap();
    assert_eq!(
        report["splits"]["validation"]["columns"]["db_id"]["shared"],
        0
    );
}

#[test]
fn an_eval_row_in_the_training_split_stops_everything() {
    let world = ToyWorld::new();
    let train = world.read("data/train.jsonl");
    let row = train.lines().next().unwrap();
    let validation = world.read("data/validation.jsonl");
    world.write("data/validation.jsonl", &format!("{validation}{row}\n"));
    let with_examples = ["retrieval.examples=1"];
    let text = set(&world, &["augment", "run.toml"], &with_examples).refused();
    assert!(
        text.contains("has question and answer of row 0 of the split `train`")
            && text.contains("hint: remove it from one of the two"),
        "{text}"
    );
    assert!(!world.path("out/zero_shot/augmented").exists());

    let values = ["retrieval.examples=1", "data.leaked_rows=exclude"];
    let run = set(&world, &["augment", "run.toml"], &values);
    assert!(run.stderr.contains("nobody's example: 1"), "{}", run.stderr);
    run.ok();
}

#[test]
fn noise_can_be_drawn_for_each_epoch() {
    let world = ToyWorld::new();
    // 9 rows in batches of 4 are 3 steps an epoch: 7 steps touch three epochs.
    let values = [
        "retrieval.examples=1",
        "retrieval.noise_none=0.5",
        "retrieval.noise_draw=each_epoch",
        "train.max_steps=7",
    ];
    set(&world, &["train", "run.toml"], &values).ok();
    let examples = |file: &str| -> Vec<usize> {
        let rows = world.json_lines(&format!("out/zero_shot/augmented/{file}"));
        rows.iter()
            .map(|row| row["examples"].as_array().unwrap().len())
            .collect()
    };
    let epochs = ["train.jsonl", "train.epoch2.jsonl", "train.epoch3.jsonl"].map(examples);
    assert!(
        epochs[0] != epochs[1] || epochs[1] != epochs[2],
        "{epochs:?}"
    );
    assert!(
        !world
            .path("out/zero_shot/augmented/train.epoch4.jsonl")
            .exists()
    );
    assert!(examples("validation.jsonl").iter().all(|count| *count == 1));
}

/// A task of one's own, over a CSV file with other column names.
#[test]
fn a_task_of_ones_own_over_csv() {
    let world = ToyWorld::new();
    world.write(
        "tickets.toml",
        r#"
name = "tickets"
query_column = "text"
answer_column = "team"
[templates]
instruction = "Name the team that a ticket belongs to."
header = "Like this:"
example = "{{ example.text }} -> {{ example.team }}"
query = "{{ row.text }} ->"
"#,
    );
    world.write(
        "tickets/train.csv",
        "message,team\n\"My card, the blue one, was charged twice\",billing\nThe app shows a blank page,apps\n",
    );
    world.write(
        "tickets/test.csv",
        "message,team\nA blank page again,apps\n",
    );
    let values = [
        "task=tickets.toml",
        "data.source=tickets",
        "data.columns={text = \"message\"}",
        "eval.split=test",
        "retrieval.examples=1",
        "retrieval.selector=bm25",
        "retrieval.different=[]",
    ];
    set(&world, &["augment", "run.toml"], &values).ok();
    let rows = world.json_lines("out/zero_shot/augmented/test.jsonl");
    assert_eq!(
        rows[0]["full_prompt"],
        "Name the team that a ticket belongs to.\n\nLike this:\n\
         The app shows a blank page -> apps\n\nA blank page again ->\napps"
    );
}
